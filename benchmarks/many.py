"""Many tiles: peak memory of classify against their number, and seconds, size and memory of every writer.

    python benchmarks/many.py memory [--tiles 768 65536 1000000] [--size 224]
    python benchmarks/many.py writers [--tiles 67000 1000000] [--formats gpkg html ...]

`memory` runs `classify`, all of it, with a null model: the default network is built and loaded, and answers drawn by chance
stand for its own. The imagery is a sparse GeoTIFF, as large as it says and almost empty on disk, so that reading costs
nothing but moving zeros. Each number of tiles has a process of its own; "of these libraries" is what the process held before
the run.

`writers` makes a result (patches of classes, answers of a noisy classifier), then each output of it in a process of its own:
processor seconds, MB of the file, and MB beyond the result itself; beside it geopandas' `to_file` of the same table.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from made import make_bundle
from rasterio.transform import from_origin

from geoclass.grid import TileGrid, TileRange, cells, parse_crs
from geoclass.labels import Labels
from geoclass.outputs import preview, raster, summary, vector, webmap
from geoclass.schemes import load_scheme

if TYPE_CHECKING:
    import torch

    from geoclass.runtimes.answers import Pending

FOREIGN = {"geopandas gpkg": "gpkg", "geopandas fgb": "fgb", "geopandas parquet": "parquet"}
WRITERS = [
    "gpkg",
    "geopandas gpkg",
    "parquet",
    "geopandas parquet",
    "fgb",
    "geopandas fgb",
    "csv",
    "tif",
    "preview.tif",
    "html",
    "json",
]
PATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    memory = commands.add_parser("memory")
    memory.add_argument("--tiles", type=int, nargs="+", default=[768, 65_536, 1_000_000])
    memory.add_argument("--size", type=int, default=224, help="side of a tile, pixels")
    writers = commands.add_parser("writers")
    writers.add_argument("--tiles", type=int, nargs="+", default=[67_000, 1_000_000])
    writers.add_argument("--formats", nargs="+", default=WRITERS, choices=[*WRITERS, "geojson", "pmtiles"])
    writers.add_argument("--keep", type=Path, help="folder in which the files stay")
    for name in ("one-memory", "one-writer"):
        one = commands.add_parser(name)
        one.add_argument("what")
        one.add_argument("tiles", type=int)
        one.add_argument("folder", type=Path)
    options = parser.parse_args()
    if options.command == "one-memory":
        print(json.dumps(one_run(options.folder, options.what)))
    elif options.command == "one-writer":
        print(json.dumps(one_writer(options.what, options.tiles, options.folder)))
    elif options.command == "memory":
        tell_memory(options.tiles, options.size)
    else:
        tell_writers(options.tiles, options.formats, options.keep)


def apart(*arguments: str) -> dict[str, float]:
    """Run this script in a process of its own; what it prints last."""
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def held_mb() -> float:
    """What this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def peak_mb() -> float:
    """The most this process has held, since `forget_peak` or its start."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")  # see proc(5)


# ---- (f) memory against tiles


def tell_memory(counts: list[int], size_px: int) -> None:
    print(f"{'tiles':>10}{'peak MB':>9}{'against first':>15}{'of these libraries':>20}{'processor s':>13}")
    first = None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for tiles in counts:
            make_sparse_scene(folder / "scene.tif", tiles, size_px)
            make_bundle(folder / "m.pt", size_px=size_px)
            found = apart("one-memory", f"n{tiles}", str(tiles), str(folder))
            first = first or found["peak"]
            print(
                f"{tiles:>10,}{found['peak']:>9,.0f}{found['peak'] / first:>15.3f}{found['before']:>20,.0f}{found['seconds']:>13.1f}",
                flush=True,
            )
            (folder / "scene.tif").unlink()


def make_sparse_scene(path: Path, tiles: int, size_px: int) -> None:
    """A GeoTIFF of about `tiles` tiles, as nearly square as may be, none of whose blocks is on disk."""
    rows = round(tiles**0.5)
    profile = {
        "driver": "GTiff",
        "count": 3,
        "dtype": "uint8",
        "crs": "EPSG:26919",
        "compress": "deflate",
        "tiled": True,
    }
    size = {"width": round(tiles / rows) * size_px, "height": rows * size_px, "blockxsize": 512, "blockysize": 512}
    place = from_origin(1400 * size_px, 20900 * size_px, 1, 1)
    with rasterio.open(path, "w", transform=place, **profile, **size, sparse_ok=True, bigtiff="yes"):
        pass


def one_run(folder: Path, name: str) -> dict[str, float]:
    """`classify` in this process, its network replaced."""
    import torch

    import geoclass
    from geoclass import predict

    random = np.random.default_rng(0)

    asked = 0

    def begin(predictor: predict.Predictor, tiles: list[torch.Tensor]) -> tuple[Pending, torch.Tensor]:
        nonlocal asked
        asked += len(tiles)
        values = random.standard_gamma(0.3, (len(tiles), predictor.classes)).astype(np.float32) + np.float32(1e-6)
        answers = torch.from_numpy(values / values.sum(axis=1, keepdims=True))
        pictures = random.integers(60, 190, (len(tiles), predictor.thumbnail_px, predictor.thumbnail_px, 3), np.uint8)
        return (lambda: answers), torch.from_numpy(pictures)

    predict.Predictor._begin = begin  # type: ignore[assignment, method-assign]  # the null model
    before, start = held_mb(), time.process_time()
    scene, bundle, out = folder / "scene.tif", folder / "m.pt", folder / "out"
    geoclass.classify(scene, bundle, out=out, name=name, runtime="torch", precision="fp32", force=True)
    if not asked:
        raise RuntimeError("the null model was not asked: what it stands in for is called elsewhere now")
    return {"peak": peak_mb(), "before": before, "seconds": time.process_time() - start}


# ---- (h) writers


def tell_writers(counts: list[int], formats: list[str], keep: Path | None) -> None:
    print(f"{'tiles':>10}  {'output':<18}{'processor s':>12}{'file MB':>10}{'MB held beyond':>16}")
    with tempfile.TemporaryDirectory() as name:
        for tiles in counts:
            for what in formats:
                folder = keep or Path(name)
                found = apart("one-writer", what, str(tiles), str(folder))
                print(
                    f"{tiles:>10,}  {what:<18}{found['seconds']:>12.2f}{found['mb']:>10.2f}{found['beyond']:>16.0f}",
                    flush=True,
                )
                if keep is None:
                    for path in folder.iterdir():
                        path.unlink()


def made(tiles: int, seed: int = 0) -> Labels:
    """A result of about `tiles` tiles: square patches of classes, each tile's answer noisy."""
    random, scheme = np.random.default_rng(seed), load_scheme("rsscn7")
    side = round(tiles**0.5)
    patches = random.integers(0, len(scheme), (side // PATCH + 1, side // PATCH + 1))
    truth = patches.repeat(PATCH, 0).repeat(PATCH, 1)[:side, :side].ravel()
    values = random.normal(0, 1.6, (len(truth), len(scheme))).astype(np.float32)
    values[np.arange(len(truth)), truth] += 4
    np.exp(values, out=values)
    values /= values.sum(axis=1, keepdims=True)
    columns, rows = cells(TileRange(1400, 20_000, 1400 + side, 20_000 + side))
    px = max(1, 2048 // side)
    pictures = np.empty((len(truth), px, px, 3), np.uint8)
    pictures[:] = random.integers(60, 190, (len(truth), 1, 1, 3), np.uint8)
    info = {
        "name": "many",
        "date": "2016",
        "inputs": ["many.tif"],
        "sensor": "rgb8",
        "bundle": "none",
        "min_valid": 0.5,
    }
    return Labels(
        TileGrid(parse_crs("EPSG:26919")),
        scheme,
        columns,
        rows,
        values,
        np.ones(len(truth), np.float32),
        pictures,
        info,
    )


def one_writer(what: str, tiles: int, folder: Path) -> dict[str, float]:
    """One output in this process."""
    labels = made(tiles)
    suffix = FOREIGN.get(what, what)
    path = folder / f"{what.split()[0] if what in FOREIGN else 'many'}_{tiles}.{suffix}"
    before = held_mb()
    forget_peak()
    start = time.process_time()
    writer(what, labels)(path)
    seconds = time.process_time() - start
    return {"seconds": seconds, "beyond": peak_mb() - before, "mb": path.stat().st_size / 1e6}


def writer(what: str, labels: Labels) -> Callable[[Path], object]:
    if what in FOREIGN:
        if FOREIGN[what] == "parquet":
            return lambda path: labels.to_gdf().to_parquet(path)
        return lambda path: labels.to_gdf().to_file(path, layer="landcover")
    ours: dict[str, Callable[[Path], object]] = {
        "gpkg": lambda path: vector.write_gpkg(labels, path),
        "tif": lambda path: raster.write_raster(labels, path),
        "preview.tif": lambda path: preview.write_preview(labels, path),
        "html": lambda path: webmap.write_map(path, labels, preview=preview.picture(labels)),
        "json": lambda path: summary.write_summary(path, labels, {}),
    }
    return ours.get(what) or (lambda path: vector.write_vector(labels, path, what))


if __name__ == "__main__":
    main()
