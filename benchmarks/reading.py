"""Reading, format by format: how fast a file can be decoded at all, geoclass's reader, and `classify` with a null model.

    python benchmarks/reading.py [--tiles 80] [--rounds 3] [--threads 2] [--only jp2 vrt] [--touch] [--folder FOLDER]

Each file shows the same picture of 80 × 80 tiles of 224 px (real pixels where GEOCLASS_TEST_DATA names some, else a drawn
county), its corner on no corner of a tile. In every round each way has its turn with the same number of threads, a handle
each, in the same process; the quickest round counts, in processor and in wall time. The ways:

    decode     every compressed block, a mask's too, decoded once by plain rasterio, into a buffer that is used again and again: the
               pixels are thrown away
    array      the same into one array in memory, as gdal_translate would
    window     one window a tile, as is usual, by plain rasterio from as many threads
    reader     geoclass's blocks, read ahead and cut into tiles with their valid fractions
    null       `classify` down to its result in memory, the picture of the map included, with a model that says the same of
               each tile without looking at it
    shown      the same with a network that says the same of each tile: it is shown tiles, and thumbnails are made
"""

import argparse
import importlib
import math
import os
import queue
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import rasterio
import torch
from formats import FORMATS, SIDE, make, sources
from rasterio.enums import MaskFlags
from rasterio.windows import Window

from geoclass.blocks import read_ahead
from geoclass.bundle import Bundle, BundleMeta
from geoclass.plan import Plan, make_plan
from geoclass.predict import Predictor
from geoclass.runtimes.answers import Pending
from geoclass.runtimes.settling import Settled, Workload
from geoclass.runtimes.wanted import Choice
from geoclass.schemes import load_scheme
from geoclass.sensors import load_sensor

road: Any = importlib.import_module("geoclass.classify")  # the module: the package gives the function by this name
CHUNK_BYTES = 6 << 20


class NullRunner:
    """A network that answers every tile alike."""

    runtime, precision = "torch", "fp32"

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def __call__(self, brightness: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(brightness), self.classes)


class NullPredictor(Predictor):
    """A model that answers every tile alike, unseen."""

    def _begin(self, tiles: Sequence[torch.Tensor]) -> tuple[Pending, torch.Tensor]:
        side = self.thumbnail_px
        answers = torch.full((len(tiles), self.classes), 1 / self.classes)
        return (lambda: answers), torch.zeros((), dtype=torch.uint8).expand(len(tiles), side, side, 3)


class NullWorkload(Workload):
    def predictor(self, runner: Any, thumbnail_px: int = 8) -> Predictor:
        return NullPredictor(
            self.bundle, self.sensor, device=self.device, thumbnail_px=thumbnail_px, tone=self.tone, runner=runner
        )


def chunks(path: Path) -> list[tuple[Path, Window]]:
    """Windows of whole blocks, some megabytes each, that cover the files of `path`."""
    found = []
    for file in sources(path):
        with rasterio.open(file) as dataset:
            high, wide = dataset.block_shapes[0]
            most = max(1, CHUNK_BYTES // (dataset.count * np.dtype(dataset.dtypes[0]).itemsize * high * wide))
            across = min(-(-dataset.width // wide), math.isqrt(most))
            down = high * (most // across)
            for top in range(0, dataset.height, down):
                for left in range(0, dataset.width, across * wide):
                    size = min(across * wide, dataset.width - left), min(down, dataset.height - top)
                    found.append((file, Window(left, top, *size)))
    return found


def tile_windows(plan: Plan) -> list[tuple[Path, Window]]:
    """A window a tile, cut off at the file's edges."""
    path = Path(plan.mosaic.scenes[0].files[0])
    with rasterio.open(path) as dataset:
        left, top = dataset.transform.c, dataset.transform.f
        whole = Window(0, 0, dataset.width, dataset.height)
    places = zip(plan.columns.tolist(), plan.rows.tolist(), strict=True)
    return [(path, Window(c * SIDE - left, top - (r + 1) * SIDE, SIDE, SIDE).intersection(whole)) for c, r in places]


def read_all(work: list[tuple[Path, Window]], threads: int, into: dict[Path, np.ndarray] | None = None) -> None:
    """Read windows from several threads, each with its own handles, into a buffer of its own or arrays of whole files."""
    todo: queue.SimpleQueue[tuple[Path, Window]] = queue.SimpleQueue()
    for item in work:
        todo.put(item)

    def run(_: int) -> None:
        handles: dict[Path, Any] = {}
        buffer = np.empty(0, np.uint8)
        while True:
            try:
                path, window = todo.get_nowait()
            except queue.Empty:
                break
            if path not in handles:
                handles[path] = rasterio.open(path)
            dataset = handles[path]
            if MaskFlags.per_dataset in dataset.mask_flag_enums[0]:
                dataset.read_masks(1, window=window)
            if into is not None:
                rows, columns = window.toslices()
                dataset.read(window=window, out=into[path][:, rows, columns])
                continue
            shape = (dataset.count, int(window.height), int(window.width))
            dtype = np.dtype(dataset.dtypes[0])
            if buffer.dtype != dtype or buffer.size < np.prod(shape):
                buffer = np.empty(int(np.prod(shape)), dtype)
            dataset.read(window=window, out=buffer[: np.prod(shape)].reshape(shape))
        for dataset in handles.values():
            dataset.close()

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, range(threads)))


def touch(path: Path) -> None:
    """Have as much memory as the pixels of `path` take, and give it back: a virtual machine then has it at hand."""
    for file in sources(path):
        with rasterio.open(file) as dataset:
            np.ones((dataset.count, *dataset.shape), dataset.dtypes[0])


def read_to_arrays(work: list[tuple[Path, Window]], threads: int) -> None:
    arrays = {}
    for path in {path for path, _ in work}:
        with rasterio.open(path) as dataset:
            arrays[path] = np.empty((dataset.count, *dataset.shape), dataset.dtypes[0])
    read_all(work, threads, arrays)


def read_by_geoclass(plan: Plan, threads: int) -> None:
    for _ in read_ahead(plan.mosaic, plan.grid, plan.bands, plan.blocks(), threads, overlap=False):
        pass


def classify_by_null(plan: Plan, threads: int, shown: bool) -> None:
    """`classify` without settling for a runtime, which costs the same whatever the tiles are."""
    honest = road.workload_of, road.settle
    runner = NullRunner(len(plan.bundle.meta.scheme))
    road.settle = lambda *_: Settled(Choice(runtime="torch", precision="fp32"), runner)
    if not shown:
        road.workload_of = lambda *given, **more: NullWorkload(**vars(honest[0](*given, **more)))
    try:
        road.run(plan, road.Settings(device="cpu", readers=threads, force=True))
    finally:
        road.workload_of, road.settle = honest


def plan_of(path: Path, bands: int) -> Plan:
    sensor = load_sensor("rgb8" if bands == 3 else "naip")
    meta = BundleMeta(
        backbone="efficientnet_lite0", scheme=load_scheme("rsscn7"), sensor=sensor, bands=sensor.band_names[:bands],
        size_px=SIDE, gsd_m=1.0, mean=(0,) * bands, std=(1,) * bands, brightness=None,
        created="2020-01-01T00:00:00+00:00", geoclass_version="0.1.0",
    )  # fmt: skip
    return make_plan([path], Bundle(meta, {}, "null"), sensor=sensor)


def timed(
    ways: dict[str, Callable[[], None]], rounds: int, before: Callable[[], None]
) -> dict[str, tuple[float, float]]:
    """For each way the least (processor, wall) seconds, `before` not counted."""
    found = dict.fromkeys(ways, (np.inf, np.inf))
    for _ in range(rounds):
        for name, way in ways.items():
            before()
            cpu, wall = process_time(), perf_counter()
            way()
            cpu, wall = process_time() - cpu, perf_counter() - wall
            found[name] = min(found[name][0], cpu), min(found[name][1], wall)
    return found


def measure(folder: Path, name: str, side_tiles: int, rounds: int, threads: int, touched: bool) -> None:
    path = make(folder, name, side_tiles)
    plan = plan_of(path, FORMATS[name].bands)
    work, windows = chunks(path), tile_windows(plan)
    ways = {
        "decode": lambda: read_all(work, threads),
        "array": lambda: read_to_arrays(work, threads),
        "window": lambda: read_all(windows, threads),
        "reader": lambda: read_by_geoclass(plan, threads),
        "null": lambda: classify_by_null(plan, threads, shown=False),
        "shown": lambda: classify_by_null(plan, threads, shown=True),
    }
    found = timed(ways, rounds, (lambda: touch(path)) if touched else (lambda: None))
    scene = plan.mosaic.scenes[0]
    tiles = scene.width * scene.height / SIDE**2
    figures = "".join(f"{1000 * found[way][1] / tiles:>8.3f}" for way in ways)
    pairs = [("null", "array", 0), ("null", "array", 1), ("null", "decode", 1), ("window", "decode", 1)]
    ratios = "".join(f"{found[other][kind] / found[way][kind]:>9.2f}" for way, other, kind in pairs)
    print(f"{name:<28}{tiles:>6.0f}{figures} |{ratios}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=80, help="side of the picture in tiles")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=min(4, os.cpu_count() or 1), help="that read")
    parser.add_argument("--only", nargs="+", default=[], help="formats with one of these texts in their names")
    parser.add_argument("--touch", action="store_true", help="have memory at hand before each way")
    parser.add_argument("--folder", type=Path, help="where files are made, and kept for the next time")
    options = parser.parse_args()
    names = [n for n in FORMATS if not options.only or any(text.lower() in n.lower() for text in options.only)]
    print(
        f"{options.threads} threads; wall ms a tile | speed of null against array (processor time, wall time) and decode, of "
        "window against decode"
    )
    heads = [f"{way:>8}" for way in ("decode", "array", "window", "reader", "null", "shown")]
    heads += [" |", *(f"{pair:>9}" for pair in ("n/a cpu", "n/a", "n/d", "w/d"))]
    print(f"{'':<28}{'tiles':>6}" + "".join(heads))
    with tempfile.TemporaryDirectory() as own:
        for name in names:
            measure(options.folder or Path(own), name, options.tiles, options.rounds, options.threads, options.touch)


if __name__ == "__main__":
    main()
