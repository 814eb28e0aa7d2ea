"""Seconds, peak memory and sizes of `geoclass change` for a county of several dates.

    python benchmarks/change.py --tiles 67080 --dates 3

The results are made here: patches of land that grow a little, answers of a noisy classifier, a preview of up to 8 px a tile. The
command runs as a process of its own; its seconds are wall clock, its memory the most it held.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from geoclass.grid import TileGrid, TileRange, cells, parse_crs
from geoclass.labels import Labels
from geoclass.outputs.preview import write_preview
from geoclass.outputs.vector import write_gpkg
from geoclass.schemes import load_scheme

PREVIEW_PX, MOST_PREVIEW_PX = 8, 2048
"""Pixels a tile, and of the whole side: as `classify` has them."""
FIRST_YEAR, STEP_YEARS = 2010, 6


def made(folder: Path, tiles: int, dates: int, seed: int = 0) -> list[Path]:
    """GeoPackages, with previews, of a square county of about `tiles` tiles on `dates` dates."""
    random, scheme = np.random.default_rng(seed), load_scheme("rsscn7")
    side = round(tiles**0.5)
    px = max(1, min(PREVIEW_PX, MOST_PREVIEW_PX // side))
    grid, columns, rows = TileGrid(parse_crs("EPSG:26919")), *cells(TileRange(1400, 20900, 1400 + side, 20900 + side))
    truth = (
        random.integers(0, len(scheme), (side // 8 + 1, side // 8 + 1)).repeat(8, 0).repeat(8, 1)[:side, :side].ravel()
    )
    built = scheme.index("Resident")
    paths = []
    for date in range(dates):
        if date:
            truth = np.where(random.random(len(truth)) < 0.02, built, truth)
        logits = random.normal(0, 1.6, (len(truth), len(scheme)))
        logits[np.arange(len(truth)), truth] += 4
        values = np.exp(logits - logits.max(axis=1, keepdims=True))
        year = FIRST_YEAR + STEP_YEARS * date
        labels = Labels(
            grid, scheme, columns, rows, (values / values.sum(axis=1, keepdims=True)).astype(np.float32),
            np.ones(len(truth), np.float32), random.integers(60, 190, (len(truth), px, px, 3), np.uint8),
            {"name": f"county_{year}", "date": str(year), "inputs": [], "sensor": "rgb8", "bundle": "none"},
        )  # fmt: skip
        path = folder / f"county_{year}.gpkg"
        write_gpkg(labels, path)
        write_preview(labels, path.with_suffix(".preview.tif"))
        paths.append(path)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=67_080)
    parser.add_argument("--dates", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = made(folder, options.tiles, options.dates)
        start = time.perf_counter()
        command = [sys.executable, "-m", "geoclass", "change", *map(str, paths), "-o", str(folder / "trend")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        sizes = {path.name: path.stat().st_size / 1e6 for path in sorted((folder / "trend").iterdir())}
        previews = sum(path.with_suffix(".preview.tif").stat().st_size for path in paths) / 1e6
    print(f"{options.tiles:,} tiles, {options.dates} dates: {seconds:.1f} s, peak {peak_mb:,.0f} MiB")
    print(f"previews {previews:.1f} MB; " + ", ".join(f"{name} {size:.2f} MB" for name, size in sizes.items()))


if __name__ == "__main__":
    main()
