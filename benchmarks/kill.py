"""kill -9 at random moments of one run until it ends by itself, then compare with an uninterrupted run, row by row.

python benchmarks/kill.py [--kills 20] [--tiles 1200] [--seed 0]
"""

import argparse
import random
import signal
import subprocess
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import pyogrio
import rasterio
from made import classify_command, make_bundle, make_scene


def command(name: str) -> list[str]:
    return classify_command("--format", "csv", "-o", name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--tiles", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    side = round(options.tiles**0.5)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        make_scene(here / "scene.tif", side, side)
        make_bundle(here / "m.pt")
        start = perf_counter()
        subprocess.run(command("whole"), cwd=here, check=True)
        whole_seconds = perf_counter() - start
        kills = 0
        while kills < options.kills:
            run = subprocess.Popen(command("killed"), cwd=here)
            try:
                run.wait(timeout=rng.uniform(0.2, whole_seconds))
            except subprocess.TimeoutExpired:
                run.send_signal(signal.SIGKILL)
                run.wait()
                kills += 1
                parts = len(list((here / "killed" / ".scene.journal").glob("part-*")))
                print(f"kill {kills:>2}: {parts} blocks in the journal")
                continue
            # It ended before the kill: begin again, so that every kill meets a run at work.
            print(f"ended by itself with {run.returncode} after {kills} kills")
            compare(here)
            for path in sorted((here / "killed").rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
        subprocess.run(command("killed"), cwd=here, check=True)
        compare(here)


def compare(here: Path) -> None:
    whole, killed = (
        pyogrio.read_dataframe(here / name / "scene.gpkg", layer="landcover") for name in ("whole", "killed")
    )
    assert whole.equals(killed), "GeoPackages differ"
    assert (here / "whole/scene.csv").read_bytes() == (here / "killed/scene.csv").read_bytes(), "CSV files differ"
    for name in ("scene.tif", "scene.preview.tif"):
        with rasterio.open(here / "whole" / name) as a, rasterio.open(here / "killed" / name) as b:
            assert np.array_equal(a.read(), b.read()), f"{name} differs"
    left = [path.name for path in (here / "killed").iterdir() if path.name.startswith(".")]
    assert not left, f"left behind: {left}"
    print(f"{len(whole)} rows, rasters and CSV equal to the uninterrupted run's; nothing left behind")


if __name__ == "__main__":
    main()
