"""`geoclass demo` as its user runs it."""

import re
import subprocess
import sys
from pathlib import Path

import pyogrio

ROWS, COLUMNS = 6, 8


def demonstrated(folder: Path) -> subprocess.CompletedProcess[str]:
    size = ["--rows", str(ROWS), "--columns", str(COLUMNS)]
    command = [sys.executable, "-m", "geoclass", "demo", "-o", "county", *size]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_a_small_county_end_to_end_and_no_second_one_over_it(tmp_path: Path) -> None:
    first = demonstrated(tmp_path)
    assert first.returncode == 0, first.stderr
    scores = re.findall(r"^ *(\d{4}) +(\d+) +([\d.]+)% +([\d.]+)%", first.stdout, re.MULTILINE)
    assert len(scores) == 2, first.stdout
    county = tmp_path / "county"
    for date, tiles, accuracy, of_pure_tiles in scores:
        assert 0 < int(tiles) <= ROWS * COLUMNS
        assert float(accuracy) >= 70 and float(of_pure_tiles) >= 85, first.stdout
        labels = pyogrio.read_dataframe(county / "results" / f"county_{date}.gpkg", layer="landcover")
        assert len(labels) == int(tiles)
        assert "geoclassStart" in (county / "results" / f"county_{date}.html").read_text()
    assert {path.name for path in (county / "trend").iterdir()} >= {"report.html", "change.html", "change.gpkg"}
    made = {path: path.stat().st_mtime_ns for path in county.rglob("*")}
    second = demonstrated(tmp_path)
    assert second.returncode == 2
    assert "--overwrite" in second.stderr and second.stderr.strip().count("\n") == 0, second.stderr
    assert {path: path.stat().st_mtime_ns for path in county.rglob("*")} == made
