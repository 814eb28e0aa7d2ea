"""Reading over a network: bytes fetched against the bytes of the blocks needed, and threads against waiting.

python benchmarks/remote.py [--rows 24] [--latency 0.05]

A server of files on localhost (tests/rangeserver.py) counts what it sends and waits before each answer. What is read is what
`classify` reads: the preparation of the plan, the doctor's sample, all blocks of tiles. No network is run on the tiles.
"""

import argparse
import secrets
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import rasterio
from made import make_bundle
from rasterio.transform import from_origin

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from rangeserver import RangeServer, serving

from geoclass.blocks import read_ahead
from geoclass.doctor import take_sample
from geoclass.plan import Plan, make_plan

CRS, LEFT, TOP, TILE_PX = "EPSG:26919", 1400 * 224, 20900 * 224, 224


def write(path: Path, side_px: int, gsd_m: float) -> Path:
    """A COG of four bands in blocks of 512, of patches with noise."""
    rng = np.random.default_rng(0)
    profile = {"driver": "COG", "width": side_px, "height": side_px, "count": 4, "dtype": "uint8", "crs": CRS}
    place = {"transform": from_origin(LEFT, TOP, gsd_m, gsd_m), "compress": "deflate", "blocksize": 512}
    patches = rng.integers(30, 220, (4, -(-side_px // 32), -(-side_px // 32)), np.uint8).repeat(32, 1).repeat(32, 2)
    pixels = patches[:, :side_px, :side_px] + rng.integers(0, 24, (4, side_px, side_px), np.uint8)
    with rasterio.open(path, "w", **profile, **place) as dataset:
        dataset.write(pixels)
    return path


def block_bytes(path: Path, plan: Plan) -> int:
    """Bytes of the compressed blocks that the tiles of a plan lie on."""
    needed = set()
    with rasterio.open(path) as dataset:
        down, across = dataset.block_shapes[0]
        for column, row in zip(plan.columns.tolist(), plan.rows.tolist(), strict=True):
            left, bottom, right, top = plan.grid.bounds(column, row)
            window = dataset.window(left, bottom, right, top).round_offsets().round_lengths()
            (top_px, bottom_px), (left_px, right_px) = window.toranges()
            rows = range(max(0, top_px) // down, -(-min(bottom_px, dataset.height) // down))
            columns = range(max(0, left_px) // across, -(-min(right_px, dataset.width) // across))
            needed |= {(r, c) for r in rows for c in columns}
        return sum(int(dataset.get_tag_item(f"BLOCK_SIZE_{c}_{r}", "TIFF", bidx=1)) for r, c in needed)


def aoi_of(folder: Path, tiles: int) -> Path:
    """A square of `tiles` x `tiles` tiles, two tiles from the corner."""
    near, far = 2 * TILE_PX + 9, (2 + tiles) * TILE_PX - 9
    ring = [[LEFT + x, TOP - y] for x, y in ((near, near), (far, near), (far, far), (near, far), (near, near))]
    path = folder / f"aoi{tiles}.geojson"
    crs = '"crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::26919"}}'
    path.write_text(f'{{"type": "FeatureCollection", {crs}, "features": [{{"type": "Feature", "properties": {{}}, '
                    f'"geometry": {{"type": "Polygon", "coordinates": [{ring}]}}}}]}}')  # fmt: skip
    return path


def anew(server: RangeServer, name: str) -> str:
    """An address that GDAL has not met before: it keeps some of what it was sent."""
    return f"{server.url}/{name}?{secrets.token_hex(4)}"


def fetched(server: RangeServer, name: str, bundle: Path, aoi: Path | None) -> tuple[Plan, int]:
    """The plan of a run, and the bytes it is sent."""
    server.forget()
    plan = make_plan([anew(server, name)], bundle, sensor="rgb8", gsd_m=1.0, aoi=aoi)
    take_sample(plan)
    for _ in read_ahead(plan.mosaic, plan.grid, plan.bands, plan.blocks(), 8):
        pass
    return plan, server.traffic.body_bytes


def waited(server: RangeServer, name: str, bundle: Path, threads: int) -> tuple[float, int, int]:
    """Seconds of reading all blocks, most requests at once, and how often all threads waited for one request."""
    plan = make_plan([anew(server, name)], bundle, sensor="rgb8", gsd_m=1.0)
    server.forget()
    start = perf_counter()
    for _ in read_ahead(plan.mosaic, plan.grid, plan.bands, plan.blocks(), threads):
        pass
    traffic = server.traffic
    return perf_counter() - start, traffic.most_at_once, traffic.rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=24, help="rows and columns of tiles")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds before each answer")
    options = parser.parse_args()
    side_px = options.rows * TILE_PX
    with tempfile.TemporaryDirectory() as name, serving(Path(name)) as server:
        folder = Path(name)
        bundle = make_bundle(folder / "m.pt")
        files = {"as it is (1 m)": write(folder / "a.tif", side_px, 1.0)}
        files["warped (0.6 m to 1 m)"] = write(folder / "w.tif", round(side_px / 0.6), 0.6)
        print(f"{'file':<24}{'tiles':>8}{'needed MB':>11}{'fetched MB':>12}{'ratio':>8}")
        for title, path in files.items():
            for aoi in (None, aoi_of(folder, 3), aoi_of(folder, 8)):
                plan, sent = fetched(server, path.name, bundle, aoi)
                needed = block_bytes(path, plan)
                print(f"{title:<24}{len(plan):>8,}{needed / 1e6:>11.1f}{sent / 1e6:>12.1f}{sent / needed:>8.3f}")
        server.slow(options.latency)
        print(f"\n{'readers':>8}{'seconds':>9}{'at once':>9}{'waits':>7}")
        for threads in (1, 8):
            seconds, at_once, rounds = waited(server, "a.tif", bundle, threads)
            print(f"{threads:>8}{seconds:>9.1f}{at_once:>9}{rounds:>7}")


if __name__ == "__main__":
    main()
