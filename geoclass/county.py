"""A synthetic county on disk: scenes of two dates, label rasters, training tiles, and the truth for every tile.

Nothing here is a real place, and every file says so. The land itself is drawn by `landscape` and `painting`; this
module places it on the ground, cuts it into blocks, and counts what is in each tile.
"""

from __future__ import annotations

import re
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

from .errors import ConfigError, GridError
from .files import replacing, require_writable
from .grid import IntArray, TileGrid, TileRange, cells, parse_crs
from .landscape import CLASS_NAMES, DEVELOPED, Bytes, Ground, World, survey
from .materials import BLOCK_PX, HALO_PX
from .painting import CROPS, crops, paint, picture, survey_around
from .schemes import load_scheme

Progress = Callable[[str, int, int], None]
Counts = npt.NDArray[np.int64]

SYNTHETIC = "SYNTHETIC: drawn by geoclass from a seed; no real place, no real imagery"
SCHEME = "nlcd6"
MARGIN_PX = 72  # no data around the county; no multiple of a tile
NODATA = 0
MIN_VALID = 0.5
MIN_PURITY = 0.6  # of training tiles
LABEL_PX = 30  # NLCD's pixels are 30 m
CACHE_BYTES = 128 << 20  # else GDAL keeps blocks in up to a twentieth of the memory
COARSE_PX = 16  # every 16th pixel is looked at where a survey of the whole county is wanted
WEST_M, NORTH_M = 313_600, 4_681_600  # about where EPSG:26919 has Maine
OFFSET = (0.22, 0.25)  # of a tile: where in its first tile the county begins
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


@dataclass(frozen=True)
class Site:
    """Where a county of `rows` × `columns` tiles lies.

    It begins inside the tile (column, row), `shift` = (east, south) px from that tile's north-west corner, so that
    its outermost tiles are partly covered. The world's pixel (0, 0) is the county's north-western one.
    """

    grid: TileGrid
    rows: int
    columns: int
    column: int
    row: int
    shift: tuple[int, int]

    @property
    def width_px(self) -> int:
        return self.columns * self.grid.size_px

    @property
    def height_px(self) -> int:
        return self.rows * self.grid.size_px

    @property
    def tiles(self) -> TileRange:
        """Every tile that the county touches."""
        return TileRange(self.column, self.row - self.rows, self.column + self.columns + 1, self.row + 1)

    @property
    def lattice(self) -> tuple[int, int]:
        """(column, line) of the county's first pixel on the grid's pixel lattice; lines count southwards."""
        size = self.grid.size_px
        return self.column * size + self.shift[0], -(self.row + 1) * size + self.shift[1]

    def count(self, classes: Bytes, x: int, y: int, step: int = 1) -> Counts:
        """(rows + 1, columns + 1, 6) pixels of each class in each tile; `classes` begins at the world's (x, y)."""
        size = self.grid.size_px
        across = (np.arange(classes.shape[1]) * step + x + self.shift[0]) // size
        down = (np.arange(classes.shape[0]) * step + y + self.shift[1]) // size
        key = (down[:, None] * (self.columns + 1) + across[None, :]) * 6 + classes
        shape = (self.rows + 1, self.columns + 1, 6)
        return np.bincount(key.ravel(), minlength=int(np.prod(shape))).reshape(shape)


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
    claims. Memory does not grow with the county, but for 100 bytes a tile. Existing files are replaced.

    Raises GridError for an impossible size or CRS, ConfigError for a date that is none, OutputError where `out`
    cannot be written.
    """
    site = place(TileGrid(parse_crs(crs), size_px, gsd_m), rows, columns)
    dates = _checked_dates(date_a, date_b)
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


def place(grid: TileGrid, rows: int, columns: int) -> Site:
    """Where a county of this size lies. Raises GridError where it cannot be."""
    if rows < 1 or columns < 1 or grid.size_px < COARSE_PX:
        raise GridError(
            f"a county of {rows} x {columns} tiles of {grid.size_px} px cannot be drawn;"
            f" ask for at least 1 x 1 tiles of {COARSE_PX} px"
        )
    shift = (round(OFFSET[0] * grid.size_px), round(OFFSET[1] * grid.size_px))
    return Site(grid, rows, columns, round(WEST_M / grid.side_m), round(NORTH_M / grid.side_m), shift)


def _checked_dates(date_a: str, date_b: str) -> tuple[str, str]:
    for date in (date_a, date_b):
        if not re.fullmatch(r"\d{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?)?", date):
            raise ConfigError(f"{date!r} is no date for a county; write it as 2016, 2016-07 or 2016-07-14")
    if date_a >= date_b:
        raise ConfigError(f"the county's second date, {date_b}, must be later than its first, {date_a}")
    return date_a, date_b


def growth_for(world: World, site: Site, changed: float) -> float:
    """The growth at which about a share `changed` of the county's tiles turn to developed.

    Every 16th pixel of the county is asked once at what growth its parcel is built up; from that follows, for each
    of 400 steps of growth at once, which tiles would be mostly developed.
    """
    if not 0 <= changed <= 1:
        raise ConfigError(f"a share of {changed} of the tiles cannot change; give a number from 0 to 1")
    if changed == 0:
        return 0.0
    levels = np.linspace(0, 1, 401)
    turned_tiles = np.zeros(len(levels), np.int64)
    # Bands of one row of tiles keep the survey small.
    size = site.grid.size_px
    for band in range(site.rows):
        for left in range(0, site.columns, 32):
            wide = min(32, site.columns - left)
            turned_tiles += _turning(world, left * size, band * size, wide, size, levels)
    wanted = changed * site.rows * site.columns
    return float(levels[np.abs(turned_tiles - wanted).argmin()])


def _turning(world: World, x: int, y: int, wide: int, size: int, levels: npt.NDArray[np.float64]) -> Counts:
    """How many of `wide` tiles from (x, y) eastwards turn to mostly developed, for each level of growth."""
    ground = survey(replace(world, growth=np.inf), x, y, wide * size, size, COARSE_PX)
    now, then = ground.classes(0), ground.classes(1)
    tile = np.broadcast_to(np.arange(now.shape[1]) * COARSE_PX // size, now.shape)
    free = (now != DEVELOPED) & (then == DEVELOPED)
    level = np.searchsorted(levels, -ground.parcels.pull[ground.parcel][free], side="right")
    shape = (wide, 6, len(levels) + 1)
    key = (tile[free] * 6 + now[free]) * shape[2] + level
    taken = np.bincount(key, minlength=int(np.prod(shape))).reshape(shape).cumsum(axis=2)[:, :, :-1]
    before = np.bincount((tile * 6 + now).ravel(), minlength=wide * 6).reshape(wide, 6)
    after = before[:, :, None] - taken
    after[:, DEVELOPED] = before[:, DEVELOPED, None] + taken.sum(axis=1)
    newly = (after.argmax(axis=1) == DEVELOPED) & (before.argmax(axis=1) != DEVELOPED)[:, None]
    return np.asarray(newly.sum(axis=0), np.int64)


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
                scene.write(picture(ground, number), window=window)
                if compress == "jpeg":
                    scene.write_mask(np.full((window.height, window.width), 255, np.uint8), window=window)
                counts[date] += site.count(ground.classes(number)[rim, rim], x, y)
                labels.sample(codes[date], ground, number)
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
    year, month, day = [*date.split("-"), "07", "01"][:3] if "-" not in date[5:] else date.split("-")
    return {
        "SYNTHETIC": "YES",
        "TIFFTAG_IMAGEDESCRIPTION": SYNTHETIC,
        "TIFFTAG_DATETIME": f"{year}:{month}:{day} 12:00:00",
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

    def sample(self, codes: Bytes, ground: Ground, date: int) -> None:
        """Fill in those of `codes` whose centres lie in `ground`, less its halo."""
        x, y = self.x - ground.x, self.y - ground.y
        height, width = ground.wet.shape
        columns = np.flatnonzero((x >= HALO_PX) & (x < width - HALO_PX))
        rows = np.flatnonzero((y >= HALO_PX) & (y < height - HALO_PX))
        at = np.ix_(y[rows], x[columns])
        codes[np.ix_(rows, columns)] = nlcd(ground, ground.classes(date)[at], at, date)

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


def nlcd(ground: Ground, classes: Bytes, at: Any, date: int) -> Bytes:
    """NLCD codes of the pixels `at` of a ground, whose classes are `classes`."""
    parcels, parcel, damp = ground.parcels, ground.parcel[at], ground.damp[at]
    built = NLCD_BUILT[np.where(parcels.developed(date) & (parcels.style < 4), parcels.style, 4)][parcel]
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
    chosen = list(_choose(world, size, tiles_per_class))
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


def _choose(world: World, size: int, tiles_per_class: int) -> Iterator[tuple[int, int, int]]:
    """(class, x, y) of tiles of which at least 0.6 is one class, `tiles_per_class` of each, over a wide area."""
    missing = np.full(6, tiles_per_class)
    random = np.random.default_rng([world.seed, world.place, tiles_per_class])
    # At most a few from each stretch of ground, so that they do not all show one lake.
    few = max(2, tiles_per_class // 8)
    stretch = 12
    for number in range(4000):
        if not missing.any():
            return
        x, y = (number % 64) * stretch * size, (number // 64) * stretch * size
        ground = survey(world, x, y, stretch * size, stretch * size, COARSE_PX)
        for land, i, j in _pure(ground, size, stretch, random, np.minimum(missing, few)):
            missing[land] -= 1
            yield land, x + i * size, y + j * size


def _pure(
    ground: Ground, size: int, stretch: int, random: np.random.Generator, most: Counts
) -> Iterator[tuple[int, int, int]]:
    """(class, column, row) of pure enough tiles of a coarse survey, at most `most` of each class."""
    classes = ground.classes(0)
    tile = np.arange(classes.shape[0]) * COARSE_PX // size
    key = (tile[:, None] * stretch + tile[None, :]) * 6 + classes
    counts = np.bincount(key.ravel(), minlength=stretch * stretch * 6).reshape(-1, 6)
    # A little above the limit, since only every 16th pixel was looked at.
    pure = counts.max(axis=1) >= (MIN_PURITY + 0.05) * counts.sum(axis=1)
    order = random.permutation(len(counts))
    for land in range(6):
        for number in order[pure[order] & (counts.argmax(axis=1)[order] == land)][: most[land]].tolist():
            yield land, number % stretch, number // stretch
