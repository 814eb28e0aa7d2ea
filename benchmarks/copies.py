"""The same ground in another file: labels of a county against those of recompressed and resampled copies of it.

    python ../shared/tools/make_county.py county/
    geoclass train county/train -o county/m.pt
    python benchmarks/copies.py county/ [more/ …]

For each county (county_A.tif and m.pt) and each copy: the share of fully covered tiles whose label is that of the county
as it is, in fp32. Copies in another CRS are made by rasterio's `reproject` with its defaults, a band at a time. For those made
by nearest neighbours the last columns tell the share of pixels read as they are in the county, and whether geoclass
took them for such a copy.
"""

import argparse
import logging
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyproj
import rasterio
from rasterio.enums import Resampling
from rasterio.shutil import copy as rio_copy
from rasterio.warp import calculate_default_transform, reproject

import geoclass
from geoclass.filereader import FileReader
from geoclass.lattice import Lattice
from geoclass.reader import SceneReader
from geoclass.scene import open_scene
from geoclass.sensors import load_sensor

CRS = "EPSG:26919"
WARPED = {"UTM": "EPSG:26918", "degrees": "EPSG:4326", "Mercator": "EPSG:3857"}
HOW = {"cubic": Resampling.cubic, "bilinear": Resampling.bilinear, "nearest": Resampling.nearest}


def compressed(source: Path, target: Path, quality: int) -> None:
    rio_copy(source, target, driver="COG", compress="JPEG", quality=quality, overviews="NONE")


def warped(source: Path, target: Path, crs: str, how: Resampling) -> None:
    with rasterio.open(source) as src:
        transform, width, height = calculate_default_transform(src.crs, crs, src.width, src.height, *src.bounds)
        profile = {**src.profile, "crs": crs, "transform": transform, "width": width, "height": height}
        with rasterio.open(target, "w", **profile) as dst:
            for band in src.indexes:
                reproject(rasterio.band(src, band), rasterio.band(dst, band), resampling=how)


def labels(path: Path, model: Path) -> dict[tuple[int, int], int]:
    """(column, row) → class of every fully covered tile."""
    found = geoclass.classify(
        path, model, crs=CRS, runtime="openvino", precision="fp32", force=True, min_valid=0.999
    ).labels
    return dict(zip(zip(found.columns, found.rows, strict=True), found.class_index, strict=True))


def pixels_alike(source: Path, copy: Path) -> tuple[float, bool]:
    """The share of the county's pixels that a copy gives back, and whether it was taken for one by nearest neighbours."""
    lattice, sensor, bands = Lattice(pyproj.CRS(CRS), 1.0), load_sensor("rgb8"), ["red", "green", "blue"]
    with (
        SceneReader(open_scene(source, sensor), bands, lattice) as ours,
        SceneReader(open_scene(copy, sensor), bands, lattice) as theirs,
    ):
        window = ours.window.intersection(theirs.window)
        (pixels, valid), (again, _) = ours.read(window), theirs.read(window)
        there = slice(None) if valid is None else valid
        alike = float((pixels == again).all(axis=0)[there].mean())
        file = theirs._files[0]
        return alike, isinstance(file, FileReader) and file._copy is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counties", type=Path, nargs="+")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    ways: dict[str, Callable[[Path, Path], None]] = {
        f"JPEG {quality}": partial(compressed, quality=quality) for quality in (95, 90, 85, 75)
    }
    for place, crs in WARPED.items():
        for how, resampling in HOW.items():
            ways[f"{place}, {how}"] = partial(warped, crs=crs, how=resampling)
    print(f"{'county':<16}{'copy':<20}{'tiles':>7}{'alike':>9}{'pixels':>9}  taken for a copy")
    with tempfile.TemporaryDirectory() as folder:
        for county in options.counties:
            source, model = county / "county_A.tif", county / "m.pt"
            as_it_is = labels(source, model)
            for name, make in ways.items():
                target = Path(folder) / "copy.tif"
                make(source, target)
                found = labels(target, model)
                both = [place for place in as_it_is if place in found]
                alike = np.mean([as_it_is[place] == found[place] for place in both])
                told = ""
                if name.endswith("nearest"):
                    share, taken = pixels_alike(source, target)
                    told = f"{share:>9.1%}  {'yes' if taken else 'no'}"
                print(f"{county.name:<16}{name:<20}{len(both):>7}{alike:>9.2%}{told}", flush=True)
                target.unlink()


if __name__ == "__main__":
    main()
