"""Every benchmark starts: its imports are there, and it tells its options."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "benchmarks"
# All in one process, which loads torch once.
START = """
import contextlib, io, runpy, sys, traceback
for script in sys.argv[1:]:
    sys.argv, said = [script, "--help"], io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if end.code == 0 and "usage:" in said.getvalue():
            continue
        print(script, "ends with", end.code)
    except BaseException:
        traceback.print_exc(file=sys.stdout)
    else:
        print(script, "does not end with its help")
"""


def test_every_benchmark_tells_its_options() -> None:
    scripts = sorted(str(path) for path in FOLDER.glob("*.py") if "__main__" in path.read_text())
    assert scripts
    command = [sys.executable, "-c", START, *scripts]
    told = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=300)
    assert (told.returncode, told.stdout) == (0, ""), told.stdout + told.stderr
