"""The permanent grid: squares of ground anchored at the origin of a CRS. Pure geometry, no files.

A worked example along one axis, with tiles of side 224 m:

    x (m)      0      224     448     672
    column     |   0   |   1   |   2   |        column = floor(x / 224); a tile is [224·column, 224·(column + 1))
    pixel      0 … 223 | 224 … 447 | …          the pixel lattice is anchored at the same origin

Columns count eastwards and rows northwards, both from the CRS origin, so the same ground has the same tile in
every year, whatever a file's extent. Arrays run southwards as images do: `TileGrid.pixel_window` turns rows into
lattice lines that count southwards from the origin.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyproj
import shapely

from .errors import GridError

Bounds = tuple[float, float, float, float]
"""(left, bottom, right, top) in CRS units."""

AoiRule = Literal["touches", "center", "within"]
IntArray = npt.NDArray[np.int64]

MAX_SIZE_PX = 65_536
"""Longest side of a tile."""

BATCH_TILES = 16_384
"""Tiles handled together where each costs an object or a copy: few enough that several batches fit in any memory, enough
that what a batch costs by itself does not count."""


def require_tile(size_px: int | None, gsd_m: float | None) -> None:
    """Raise GridError where no tile can have that side or that ground sampling distance; None is not looked at."""
    if size_px is not None and not 1 <= size_px <= MAX_SIZE_PX:
        raise GridError(f"the tile size is {size_px} px; give --size from 1 to {MAX_SIZE_PX}")
    if gsd_m is not None and not (math.isfinite(gsd_m) and gsd_m > 0):
        raise GridError(f"the ground sampling distance is {gsd_m} m; give --gsd above 0")


@dataclass(frozen=True)
class TileRange:
    """Tiles with `left <= column < right` and `bottom <= row < top`."""

    left: int
    bottom: int
    right: int
    top: int

    @property
    def columns(self) -> int:
        return max(0, self.right - self.left)

    @property
    def rows(self) -> int:
        return max(0, self.top - self.bottom)

    def __len__(self) -> int:
        return self.columns * self.rows


@dataclass(frozen=True)
class TileGrid:
    """Squares of `size_px` pixels of `gsd_m` metres, anchored at the origin of `crs`.

    `crs` must be projected, and may be given as text (`EPSG:26919`); its axis unit need not be the metre (US survey feet work). Lengths with `_m` are
    metres, all other coordinates are CRS units.
    """

    crs: pyproj.CRS
    size_px: int = 224
    gsd_m: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.crs, pyproj.CRS):
            object.__setattr__(self, "crs", parse_crs(str(self.crs)))
        if not self.crs.is_projected:
            raise GridError(
                f"the grid needs a projected CRS, not {self.crs.name!r}; give one with --crs, as in --crs EPSG:26919"
            )
        require_tile(self.size_px, self.gsd_m)

    @cached_property
    def metres_per_unit(self) -> float:
        """Length of one CRS unit in metres (1 for UTM, 0.3048006 for US survey feet)."""
        return float(self.crs.axis_info[0].unit_conversion_factor)

    @property
    def side_m(self) -> float:
        """Side of a tile in metres, free of binary noise (134.4, not 134.39999999999998)."""
        return float(f"{self.size_px * self.gsd_m:.12g}")

    @property
    def side(self) -> float:
        """Side of a tile in CRS units."""
        return self.side_m / self.metres_per_unit

    @property
    def res(self) -> float:
        """Side of a pixel in CRS units."""
        return self.side / self.size_px

    @property
    def tile_area_m2(self) -> float:
        return self.side_m**2

    @cached_property
    def crs_label(self) -> str:
        """The EPSG code, or `x` and eight hex digits of the WKT's hash for a CRS that has none."""
        code = self.crs.to_epsg(min_confidence=90)
        if code is not None:
            return str(code)
        return "x" + hashlib.blake2b(self.crs.to_wkt("WKT2_2019").encode(), digest_size=4).hexdigest()

    @cached_property
    def prefix(self) -> str:
        """What every tile id of this grid begins with: `<epsg>_<side in m>`."""
        return f"{self.crs_label}_{self.side_m:.10g}"

    def tile_id(self, column: int, row: int) -> str:
        """The permanent id `<epsg>_<side in m>_<column>_<row>`."""
        return f"{self.prefix}_{column}_{row}"

    def tile_ids(self, columns: IntArray, rows: IntArray) -> list[str]:
        """Ids of many tiles."""
        return [f"{self.prefix}_{column}_{row}" for column, row in zip(columns.tolist(), rows.tolist(), strict=True)]

    def parse_id(self, tile_id: str) -> tuple[int, int]:
        """(column, row) of an id of this grid. Raises GridError for an id of another one."""
        found = re.fullmatch(re.escape(self.prefix) + r"_(-?\d+)_(-?\d+)", tile_id)
        if not found:
            raise GridError(f"tile id {tile_id!r} is not of the grid {self.prefix}; compare results of one grid only")
        return int(found[1]), int(found[2])

    def parse_ids(self, tile_ids: Sequence[str]) -> tuple[IntArray, IntArray]:
        """Columns and rows of ids of this grid. Raises GridError for one of another."""
        found = np.array([self.parse_id(tile_id) for tile_id in tile_ids], np.int64).reshape(-1, 2)
        return found[:, 0], found[:, 1]

    def bounds(self, column: int, row: int) -> Bounds:
        """Bounds of one tile, in CRS units."""
        return column * self.side, row * self.side, (column + 1) * self.side, (row + 1) * self.side

    def tile_at(self, x: float, y: float) -> tuple[int, int]:
        """(column, row) of the tile that holds the point; left and bottom edges belong to a tile."""
        return math.floor(x / self.side), math.floor(y / self.side)

    def range_over(self, bounds: Bounds) -> TileRange:
        """The tiles that share area with `bounds` (edges that differ by less than 1e-6 of a pixel count as equal)."""
        left, bottom, right, top = bounds
        slack = 1e-6 / self.size_px
        return TileRange(
            math.floor(left / self.side + slack),
            math.floor(bottom / self.side + slack),
            math.ceil(right / self.side - slack),
            math.ceil(top / self.side - slack),
        )

    def polygons(self, columns: IntArray, rows: IntArray) -> npt.NDArray[np.object_]:
        """One square a tile. Shared edges have identical coordinates."""
        side = self.side
        squares: npt.NDArray[np.object_] = shapely.box(
            columns * side, rows * side, (columns + 1) * side, (rows + 1) * side
        )
        return squares

    def pixel_window(self, tiles: TileRange) -> tuple[int, int, int, int]:
        """(column, line, width, height) of `tiles` on the pixel lattice; lines count southwards from the origin."""
        return (
            tiles.left * self.size_px,
            -tiles.top * self.size_px,
            tiles.columns * self.size_px,
            tiles.rows * self.size_px,
        )

    def select(self, area: shapely.Geometry, rule: AoiRule, columns: IntArray, rows: IntArray) -> npt.NDArray[np.bool_]:
        """Which of these tiles `area` (in the grid's CRS) selects.

        `touches`: they share some area; `center`: the tile's centre lies in it; `within`: the whole tile does.
        """
        shapely.prepare(area)
        if rule == "center":
            side = self.side
            return np.asarray(shapely.intersects_xy(area, (columns + 0.5) * side, (rows + 0.5) * side))
        keep = np.empty(len(columns), bool)
        for part in slices(len(columns)):
            squares = self.polygons(columns[part], rows[part])
            if rule == "within":
                keep[part] = shapely.covers(area, squares)
            else:
                keep[part] = shapely.intersects(area, squares) & ~shapely.touches(area, squares)
        return keep

    def to_dict(self) -> dict[str, object]:
        """Plain values from which `from_dict` makes the same grid."""
        return {"crs": crs_text(self.crs), "size_px": self.size_px, "gsd_m": self.gsd_m}

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> TileGrid:
        return cls(parse_crs(str(values["crs"])), int(str(values["size_px"])), float(str(values["gsd_m"])))


def parse_crs(text: str) -> pyproj.CRS:
    """A CRS from `EPSG:26919`, WKT or a PROJ string. Raises GridError."""
    try:
        return pyproj.CRS.from_user_input(int(text) if text.isdigit() else text)
    except pyproj.exceptions.CRSError as error:
        raise GridError(f"unknown CRS {text[:80]!r}; give one as EPSG:26919, or as WKT") from error


def crs_text(crs: pyproj.CRS) -> str:
    """The shortest exact spelling of a CRS: `EPSG:26919` where it is that, WKT otherwise."""
    code = crs.to_epsg(min_confidence=90)
    return f"EPSG:{code}" if code is not None else str(crs.to_wkt())


def utm_crs(longitude: float, latitude: float) -> pyproj.CRS:
    """The WGS 84 UTM zone of a point in degrees. Raises GridError outside 80° S to 84° N, where UTM ends."""
    if not (-180 <= longitude <= 180 and -80 <= latitude <= 84):
        raise GridError(
            f"no UTM zone holds longitude {longitude:.4f}, latitude {latitude:.4f}; give a projected CRS with --crs"
        )
    zone = min(60, int((longitude + 180) // 6) + 1)
    return pyproj.CRS.from_epsg((32600 if latitude >= 0 else 32700) + zone)


def needs_utm(crs: pyproj.CRS) -> bool:
    """Whether tiles in this CRS would not be squares of ground: degrees, or Web Mercator's stretched metres."""
    return bool(not crs.is_projected or crs.to_epsg() in (3857, 3395, 900913))


COMMON_GSDS_M = (
    0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8,
    10, 12.5, 15, 20, 25, 30, 50, 60, 75, 90, 100, 120, 150, 200, 250, 300, 500, 1000,
)  # fmt: skip


def nominal_gsd_m(measured_m: float, tolerance: float) -> float:
    """The common GSD nearest to `measured_m` if it is within `tolerance` (a share of it), else three digits of it.

    A scene in degrees has no exact pixel size in metres; the same ground must still get the same tiles.
    """
    nearest = min(COMMON_GSDS_M, key=lambda gsd: abs(math.log(gsd / measured_m)))
    if abs(nearest / measured_m - 1) <= tolerance:
        return float(nearest)
    return float(f"{measured_m:.3g}")


def cells(tiles: TileRange) -> tuple[IntArray, IntArray]:
    """Columns and rows of every tile of a range, from the north-west, line by line."""
    columns = np.arange(tiles.left, tiles.right, dtype=np.int64)
    rows = np.arange(tiles.top - 1, tiles.bottom - 1, -1, dtype=np.int64)
    return np.tile(columns, len(rows)), np.repeat(rows, len(columns))


def slices(count: int, size: int = BATCH_TILES) -> Iterator[slice]:
    """The places from 0 to `count` in pieces of at most `size`."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def positions(
    columns: IntArray, rows: IntArray, wanted_columns: IntArray, wanted_rows: IntArray
) -> npt.NDArray[np.intp]:
    """Where each wanted tile stands among tiles sorted from the north-west, line by line; -1 where it is none of them."""
    tiles = bounding_range(np.concatenate([columns, wanted_columns]), np.concatenate([rows, wanted_rows]))
    keys = (tiles.top - rows) * tiles.columns + columns - tiles.left
    wanted = (tiles.top - wanted_rows) * tiles.columns + wanted_columns - tiles.left
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, at, -1)


def bounding_range(columns: Sequence[int] | IntArray, rows: Sequence[int] | IntArray) -> TileRange:
    """The smallest range that holds these tiles (at least one)."""
    column, row = np.asarray(columns), np.asarray(rows)
    return TileRange(int(column.min()), int(row.min()), int(column.max()) + 1, int(row.max()) + 1)
