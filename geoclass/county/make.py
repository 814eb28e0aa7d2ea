"""A synthetic county on disk: scenes of two dates, label rasters, training tiles, and the truth for every tile.

Nothing here is a real place, and every file says so. The land itself is drawn by `landscape` and `painting`; this
module cuts it into blocks, writes them, and counts what is in each tile.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pyogrio
import rasterio
from PIL import Image
from rasterio.transform import from_origin
from rasterio.windows import Window

from ..errors import ConfigError
from ..files import replacing, require_writable
from ..grid import IntArray, TileGrid, cells, parse_crs
from ..schemes import load_scheme
from .landscape import CLASS_NAMES, HOMESTEAD, Bytes, World
from .materials import BLOCK_PX, HALO_PX, Canvas
from .painting import CROPS, crops, drawn, exposed, paint, survey_around
from .site import Counts, Site, choose, growth_for, place

Progress = Callable[[str, int, int], None]

SYNTHETIC = "SYNTHETIC: drawn by geoclass from a seed; no real place, no real imagery"
SCHEME = "nlcd6"
MARGIN_PX = 72  # no data around the county; no multiple of a tile
NODATA = 0
MIN_VALID = 0.5
LABEL_PX = 30  # NLCD's pixels are 30 m
CACHE_BYTES = 128 << 20  # else GDAL keeps blocks in up to a twentieth of the memory
NLCD_BUILT = np.array([21, 22, 23, 24, 21], np.uint8)  # of landscape's styles


@dataclass(frozen=True)
class County:
    """What `make_county` left in `folder`.

    scenes and labels: date → GeoTIFF of imagery, and of NLCD codes at 30 m; truth: GeoPackage with the layer
    `truth`; training: a folder of class folders; dates: the two dates, earlier first.
    """

    folder: Path
    scenes: dict[str, Path]
    labels: dict[str, Path]
    truth: Path
    training: Path
    grid: TileGrid
    dates: tuple[str, str]


def make_county(
    out: Path,
    *,
    rows: int = 24,
    columns: int = 32,
    seed: int = 0,
    tiles_per_class: int = 60,
    changed: float = 0.04,
    size_px: int = 224,
    gsd_m: float = 1.0,
    crs: str = "EPSG:26919",
    date_a: str = "2016",
    date_b: str = "2022",
    compress: Literal["deflate", "jpeg"] = "deflate",
    progress: Progress | None = None,
) -> County:
    """Draw a county of `rows` × `columns` tiles in the folder `out`; the same arguments give the same pixels.

    Between the dates (YYYY, YYYY-MM or YYYY-MM-DD) about `changed` of the tiles turn from open land to developed;
    crops, season and the sensor's response change everywhere. One pixel is drawn as one metre, whatever `gsd_m`
    claims. Memory does not grow with the county, but for some 300 bytes a tile. Existing files are replaced.

    Raises GridError for an impossible size or CRS, ConfigError for a date that is none or an impossible share,
    OutputError where `out` cannot be written.
    """
    site = place(TileGrid(parse_crs(crs), size_px, gsd_m), rows, columns)
    dates = _checked_dates(date_a, date_b)
    if not 0 <= changed <= 1:
        raise ConfigError(f"a share of {changed} of the tiles cannot change; give a number from 0 to 1")
    require_writable(out)
    world = World(seed)
    world = replace(world, growth=growth_for(world, site, changed))
    county = County(
        out,
        {date: out / f"county_{date}.tif" for date in dates},
        {date: out / f"nlcd_{date}.tif" for date in dates},
        out / "truth.gpkg",
        out / "training",
        site.grid,
        dates,
    )
    _write_truth(county, site, _write_rasters(county, site, world, compress, progress))
    _write_training(county.training, replace(world, place=1), site.grid.size_px, tiles_per_class, progress)
    return county


def _checked_dates(date_a: str, date_b: str) -> tuple[str, str]:
    for date in (date_a, date_b):
        try:
            datetime.date.fromisoformat(_full_date(date))
        except ValueError as error:
            raise ConfigError(f"{date!r} is no date; write it as 2016, 2016-07 or 2016-07-14") from error
    if _full_date(date_a) >= _full_date(date_b):
        raise ConfigError(f"the second date, {date_b}, is not later than the first, {date_a}; give two dates in order")
    return date_a, date_b


def _full_date(date: str) -> str:
    """`date` as YYYY-MM-DD; the first of July where it does not say."""
    return date + "-07-01"[3 * date.count("-") :]


def _blocks(site: Site) -> Iterator[tuple[Window, int, int]]:
    """Blocks of the scenes' files that hold data: (the data's window in the file, the world's x and y of it)."""
    for top in range(0, site.height_px + MARGIN_PX, BLOCK_PX):
        for left in range(0, site.width_px + MARGIN_PX, BLOCK_PX):
            x, y = max(left - MARGIN_PX, 0), max(top - MARGIN_PX, 0)
            width = min(left + BLOCK_PX - MARGIN_PX, site.width_px) - x
            height = min(top + BLOCK_PX - MARGIN_PX, site.height_px) - y
            if width > 0 and height > 0:
                yield Window(x + MARGIN_PX, y + MARGIN_PX, width, height), x, y


def _write_rasters(
    county: County, site: Site, world: World, compress: str, progress: Progress | None
) -> dict[str, Counts]:
    """Write the scenes and label rasters of both dates in one pass; pixels of each class a tile, for each date."""
    labels = LabelRaster(site)
    counts = {date: np.zeros((site.rows + 1, site.columns + 1, 6), np.int64) for date in county.dates}
    codes = {date: np.zeros(labels.shape, np.uint8) for date in county.dates}
    blocks = list(_blocks(site))
    rim = slice(HALO_PX, -HALO_PX)
    with ExitStack() as stack:
        stack.enter_context(rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True, GDAL_CACHEMAX=CACHE_BYTES))
        scenes = [_new_scene(stack, county.scenes[date], site, date, compress) for date in county.dates]
        for done, (window, x, y) in enumerate(blocks, start=1):
            ground = survey_around(world, x, y, window.width, window.height)
            for number, (date, scene) in enumerate(zip(county.dates, scenes, strict=True)):
                canvas = drawn(ground, number)
                scene.write(exposed(canvas), window=window)
                if compress == "jpeg":
                    scene.write_mask(np.full((window.height, window.width), 255, np.uint8), window=window)
                site.count(counts[date], canvas.classes[rim, rim], x, y)
                labels.sample(codes[date], canvas)
            if progress:
                progress("county", done, len(blocks))
    for date in county.dates:
        labels.write(county.labels[date], codes[date], date)
    return counts


def _new_scene(stack: ExitStack, path: Path, site: Site, date: str, compress: str) -> Any:
    """Open an empty scene for writing; it is moved into place when `stack` closes without an error."""
    column, line = site.lattice
    res = site.grid.res
    profile: dict[str, Any] = {
        "driver": "GTiff", "count": 3, "dtype": "uint8", "crs": site.grid.crs, "tiled": True,
        "blockxsize": BLOCK_PX, "blockysize": BLOCK_PX, "compress": compress, "bigtiff": "if_safer",
        "width": site.width_px + 2 * MARGIN_PX, "height": site.height_px + 2 * MARGIN_PX,
        "transform": from_origin((column - MARGIN_PX) * res, -(line - MARGIN_PX) * res, res, res),
    }  # fmt: skip
    if compress == "jpeg":
        # JPEG smears zeros, so the margin is told by a mask there.
        profile |= {"photometric": "ycbcr", "jpeg_quality": 90}
    else:
        profile |= {"photometric": "rgb", "nodata": NODATA, "predictor": 2, "zlevel": 1}
    scene = stack.enter_context(rasterio.open(stack.enter_context(replacing(path)), "w", **profile))
    scene.update_tags(**_tags(date))
    return scene


def _tags(date: str) -> dict[str, str]:
    return {
        "SYNTHETIC": "YES",
        "TIFFTAG_IMAGEDESCRIPTION": SYNTHETIC,
        "TIFFTAG_DATETIME": f"{_full_date(date).replace('-', ':')} 12:00:00",
        "ACQUISITION_DATE": date,
    }


class LabelRaster:
    """NLCD codes in pixels of 30 px, on a lattice of their own: each takes the code at its centre, as drawn."""

    def __init__(self, site: Site) -> None:
        self.site = site
        column, line = site.lattice
        half = LABEL_PX // 2
        self.left, self.top = -((half - column) // LABEL_PX), -((half - line) // LABEL_PX)
        right = -((half - column - site.width_px) // LABEL_PX)
        bottom = -((half - line - site.height_px) // LABEL_PX)
        self.shape = (bottom - self.top, right - self.left)
        self.x = (np.arange(self.left, right) * LABEL_PX + half - column).astype(np.int64)
        self.y = (np.arange(self.top, bottom) * LABEL_PX + half - line).astype(np.int64)

    def sample(self, codes: Bytes, canvas: Canvas) -> None:
        """Fill in those of `codes` whose centres lie on the canvas, less its rim."""
        x, y = self.x - canvas.ground.x, self.y - canvas.ground.y
        height, width = canvas.classes.shape
        columns = np.flatnonzero((x >= HALO_PX) & (x < width - HALO_PX))
        rows = np.flatnonzero((y >= HALO_PX) & (y < height - HALO_PX))
        at = np.ix_(y[rows], x[columns])
        codes[np.ix_(rows, columns)] = nlcd(canvas, at)

    def write(self, path: Path, codes: Bytes, date: str) -> None:
        """Write the raster with NLCD's colours; 0 is no data."""
        res = self.site.grid.res * LABEL_PX
        colours = {code: (*item.rgb, 255) for item in load_scheme("nlcd16").classes for code in item.codes}
        profile = {
            "driver": "GTiff", "count": 1, "dtype": "uint8", "crs": self.site.grid.crs, "nodata": NODATA,
            "width": self.shape[1], "height": self.shape[0], "compress": "deflate", "tiled": True,
            "blockxsize": 256, "blockysize": 256, "transform": from_origin(self.left * res, -self.top * res, res, res),
        }  # fmt: skip
        with replacing(path) as temporary, rasterio.open(temporary, "w", **profile) as raster:
            raster.write(codes, 1)
            raster.write_colormap(1, {NODATA: (0, 0, 0, 0), **colours})
            raster.update_tags(**_tags(date))


def nlcd(canvas: Canvas, at: Any) -> Bytes:
    """NLCD codes of the pixels `at` of a canvas."""
    ground, date = canvas.ground, canvas.date
    parcels, parcel, damp, classes = ground.parcels, ground.parcel[at], ground.damp[at], canvas.classes[at]
    built = NLCD_BUILT[np.where(parcels.developed(date), parcels.style, HOMESTEAD)][parcel]
    built = np.where(ground.road[at] > -5, 21, built)
    wood = np.where(damp > 0.45, 42, np.where(damp > 0, 43, 41))
    crop = np.where((crops(parcels, date) == CROPS.index("hay"))[parcel], 81, 82)
    found = np.select([classes == k for k in range(6)], [11, built, 31, wood, 71, crop])
    return np.asarray(found, np.uint8)


def _write_truth(county: County, site: Site, counts: dict[str, Counts]) -> None:
    """One row a tile with at least half of it in the county: class and purity at both dates, what changed."""
    columns, rows = cells(site.tiles)
    names = np.array(CLASS_NAMES, object)
    built = load_scheme(SCHEME).groups["built"]
    first, second = (counts[date].reshape(-1, 6) for date in county.dates)
    valid = first.sum(axis=1) / site.grid.size_px**2
    kept = valid >= MIN_VALID
    a, b = names[first.argmax(axis=1)], names[second.argmax(axis=1)]
    frame = {"tile_id": np.array(site.grid.tile_ids(columns, rows), object), "column": columns, "row": rows}
    for date, pixels, majority in zip(county.dates, (first, second), (a, b), strict=True):
        frame[f"class_{date}"] = majority
        frame[f"purity_{date}"] = pixels.max(axis=1) / np.maximum(pixels.sum(axis=1), 1)
    frame |= {"changed": a != b, "new_built": np.isin(b, built) & ~np.isin(a, built), "valid_fraction": valid}
    _write_layer(county.truth, {name: values[kept] for name, values in frame.items()}, site.grid, columns, rows, kept)


def _write_layer(
    path: Path, frame: dict[str, Any], grid: TileGrid, columns: IntArray, rows: IntArray, kept: npt.NDArray[np.bool_]
) -> None:
    table = gpd.GeoDataFrame(frame, geometry=grid.polygons(columns[kept], rows[kept]), crs=grid.crs)
    with replacing(path) as temporary:
        pyogrio.write_dataframe(
            table, temporary, layer="truth", driver="GPKG", layer_metadata={"DESCRIPTION": SYNTHETIC},
            geometry_type="Polygon",
        )  # fmt: skip


def _write_training(folder: Path, world: World, size: int, tiles_per_class: int, progress: Progress | None) -> None:
    """Class folders of pictures of tiles of another world at the first date, as many of each class."""
    chosen = list(choose(world, size, tiles_per_class))
    for name in CLASS_NAMES:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for old in (folder / name).glob("tile_*.png"):
            old.unlink()
    for done, (land, x, y) in enumerate(chosen, start=1):
        path = folder / CLASS_NAMES[land] / f"tile_{x // size}_{y // size}.png"
        tile = Image.fromarray(paint(world, x, y, size, size, 0).transpose(1, 2, 0))
        with replacing(path) as temporary:
            tile.save(temporary, compress_level=1)
        if progress:
            progress("training", done, len(chosen))
