"""A county's worth of tiles through the whole of `classify`, against eager PyTorch on tensors already in memory.

    python ../shared/tools/make_county.py county/
    geoclass train county/train -o county/m.pt
    python benchmarks/county.py county/ [--side 256] [--quads 4] [--ways fp32 auto]

Needs gdalbuildvrt (gdal-bin). county/county_A.tif (real labelled tiles, known truth) is repeated, each time moved on by some tiles, to side × side tiles of
224 px, and stored as quads × quads JPEG COGs (YCbCr, quality 90) under one VRT: what a county of NAIP quads looks like.
Each way is a process of its own, from the VRT to all outputs, the map included. The same network as PyTorch builds it
classifies float32 tiles that are in memory, by turns with it, since the machine's speed changes from second to second: once
blocks of tiles come, the process is stopped every 20 seconds, which do not count, while 128 tiles are classified so. Peak
memory is the process's own; accuracy is against the truth of every tile, agreement against the fp32 way.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
import pyogrio
import rasterio
import torch
from rasterio.shutil import copy as rio_copy
from rasterio.transform import from_origin
from runtimes import eager

from geoclass import read_result
from geoclass.bundle import load_bundle

PX = 224
MARGIN = 80
TURN_SECONDS = 20
TURN_TILES = 128
WAYS = {
    "fp32": ["--runtime", "openvino", "--precision", "fp32"],
    "torch": ["--runtime", "torch", "--precision", "fp32"],
    "bf16": ["--runtime", "openvino", "--precision", "bf16"],
    "int8": ["--precision", "int8"],
    "auto": [],
}


def source(county: Path) -> tuple[np.ndarray, np.ndarray]:
    """The county's tiles (rows, columns, PX, PX, 3) and the class name of each (rows, columns)."""
    truth = pyogrio.read_dataframe(county / "truth.gpkg", read_geometry=False)
    rows, columns = truth["row"].max() + 1, truth["col"].max() + 1
    with rasterio.open(county / "county_A.tif") as dataset:
        pixels = dataset.read()[:, MARGIN : MARGIN + rows * PX, MARGIN : MARGIN + columns * PX]
    names = np.empty((rows, columns), object)
    names[truth["row"], truth["col"]] = truth["class_A"]
    return pixels.reshape(3, rows, PX, columns, PX).transpose(1, 3, 2, 4, 0), names


def placed(shape: tuple[int, ...], side: int) -> tuple[np.ndarray, np.ndarray]:
    """Which tile of the source stands at each place (side, side): moved on by 5 tiles at each repetition downwards."""
    rows, columns = np.mgrid[:side, :side]
    return rows % shape[0], (columns + rows // shape[0] * 5) % shape[1]


def make_quads(folder: Path, tiles: np.ndarray, at: tuple[np.ndarray, np.ndarray], quads: int) -> Path:
    """quads × quads COGs of the tiles at these places, and a VRT over them."""
    side = len(at[0])
    each = side // quads
    paths = []
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "crs": "EPSG:26919", "tiled": True}
    for row in range(quads):
        for column in range(quads):
            part = np.s_[row * each : (row + 1) * each, column * each : (column + 1) * each]
            origin = from_origin(1400 * PX + column * each * PX, 20900 * PX - row * each * PX, 1, 1)
            raw, path = folder / "raw.tif", folder / f"quad_{row}_{column}.tif"
            with rasterio.open(raw, "w", width=each * PX, height=each * PX, transform=origin, **profile) as dataset:
                for line, (r, c) in enumerate(zip(at[0][part], at[1][part], strict=True)):
                    strip = tiles[r, c].transpose(3, 1, 0, 2).reshape(3, PX, each * PX)
                    dataset.write(strip, window=rasterio.windows.Window(0, line * PX, each * PX, PX))
            rio_copy(raw, path, driver="COG", compress="JPEG", quality=90, overviews="NONE", num_threads="ALL_CPUS")
            raw.unlink()
            paths.append(path)
    subprocess.run(["gdalbuildvrt", "-q", str(folder / "county.vrt"), *map(str, paths)], check=True)
    return folder / "county.vrt"


def seconds_of(run: Callable[[torch.Tensor], torch.Tensor], brightness: torch.Tensor, batch: int = 32) -> float:
    """What the eager network takes for what is in memory."""
    start = perf_counter()
    for at in range(0, len(brightness), batch):
        run(brightness[at : at + batch].clone())
    return perf_counter() - start


def by_turns(
    command: Sequence[str], environment: Mapping[str, str], journal: Path, turn: Callable[[], float]
) -> tuple[float, list[float]]:
    """The seconds that a command takes, and those of each turn, during which it is stopped.

    Not before its journal holds blocks: it measures, too, which runtime to take.
    """
    start = perf_counter()
    stopped, turns = 0.0, []
    with subprocess.Popen(command, env=environment) as process:
        while True:
            try:
                process.wait(TURN_SECONDS)
                break
            except subprocess.TimeoutExpired:
                if any(journal.glob("part-*")):
                    began = perf_counter()
                    process.send_signal(signal.SIGSTOP)
                    try:
                        turns.append(turn())
                    finally:  # a stopped process never ends, and would be waited for
                        process.send_signal(signal.SIGCONT)
                    stopped += perf_counter() - began
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return perf_counter() - start - stopped, turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("county", type=Path)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--quads", type=int, default=4)
    parser.add_argument("--ways", nargs="+", default=["fp32", "auto"], choices=list(WAYS))
    options = parser.parse_args()
    tiles, names = source(options.county)
    at = placed(names.shape, options.side)
    run = eager(load_bundle(options.county / "m.pt"))
    some = torch.from_numpy(tiles.reshape(-1, PX, PX, 3)[:TURN_TILES].transpose(0, 3, 1, 2).astype(np.float32))
    results = {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        vrt = make_quads(folder, tiles, at, options.quads)
        size = sum(path.stat().st_size for path in folder.glob("quad_*.tif")) / 1e6
        print(
            f"{options.side**2} tiles, {options.quads**2} JPEG COGs of {size:.0f} MB, {torch.get_num_threads()} threads"
        )
        print(
            f"{'way':<8}{'eager/s':>9}{'tiles/s':>9}{'ratio':>7}{'seconds':>9}{'peak MB':>9}{'right':>8}{'as first':>10}"
        )
        for way in options.ways:
            model = options.county / "m.pt"
            command = [sys.executable, "-m", "geoclass", "-q", "classify", vrt, "--model", model, "-o", folder / way]
            environment = {**os.environ, "GEOCLASS_CACHE": str(folder / "cache")}
            run(some[:32].clone())
            seconds, turns = by_turns(
                [*map(str, command), *WAYS[way]],
                environment,
                folder / way / ".county.journal",
                lambda: seconds_of(run, some),
            )
            turns = turns or [seconds_of(run, some)]  # too short a run to have turns
            reference = len(turns) * len(some) / sum(turns)
            labels = read_result(folder / way / "county.gpkg")
            rows, columns = labels.rows.max() - labels.rows, labels.columns - labels.columns.min()
            given = np.array(labels.scheme.names)[labels.probabilities.argmax(axis=1)]
            right = float((given == names[at[0][rows, columns], at[1][rows, columns]]).mean())
            results[way] = given
            alike = float((given == next(iter(results.values()))).mean())
            peak = json.loads((folder / way / "county.json").read_text())["timings"]["peak_memory_mb"]
            rate = len(labels) / seconds
            print(
                f"{way:<8}{reference:>9.1f}{rate:>9.1f}{rate / reference:>7.2f}{seconds:>9.1f}{peak:>9.0f}{right:>8.3f}{alike:>10.4f}"
                f"   {labels.info['runtime']} {labels.info['precision']} from {labels.info['quick_views'] or 'all'} sides {labels.info['runtime_note']}"
            )


if __name__ == "__main__":
    main()
