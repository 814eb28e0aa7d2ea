"""Results in a database a part at a time: what a run holds in all, and its tiles in a rectangle, page by page.

`reading` fetches a whole run; this is for who looks at some of it, as a map in a browser does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyproj

from ..errors import DatabaseError, GridError
from ..grid import Bounds, TileGrid, TileRange
from ..schemes import ClassScheme
from ..tiletable import corners
from .address import Address, parse_address, psycopg_or_refuse
from .connecting import connected
from .reading import described, find_run
from .run import RunInfo
from .tables import postgis_schema

if TYPE_CHECKING:
    import psycopg

M2_PER_HA = 10_000
DECIMALS = 7
"""Of a degree: about a centimetre."""
BEYOND_DEGREES = 3.0
"""How far past the area that a CRS was made for its coordinates are still trusted, as those of a UTM zone are."""
WGS84 = pyproj.CRS.from_epsg(4326)

_COUNTS = """
SELECT class_id, count(*), sum(valid_fraction::float8), min(tile_column), min(tile_row), max(tile_column) + 1, max(tile_row) + 1
FROM {tiles} WHERE run = %s GROUP BY class_id
"""
# By tile id, whose index leads with the run: a page begins where the last one ended, however far that is.
_PAGE = """
SELECT tile_id, tile_column, tile_row, class, class_id, confidence, valid_fraction, date, probabilities FROM {tiles}
WHERE run = %(run)s AND tile_id > %(after)s {inside} ORDER BY tile_id LIMIT %(limit)s
"""
_INSIDE = (
    "AND geom OPERATOR({postgis}.&&) {postgis}.ST_MakeEnvelope(%(left)s, %(bottom)s, %(right)s, %(top)s, %(srid)s)"
)


@dataclass(frozen=True)
class ClassCount:
    """Tiles of one class, and their hectares less the part of each without data."""

    id: int
    name: str
    colour: str
    tiles: int
    area_ha: float


@dataclass(frozen=True)
class Overview:
    """What a run holds. `bounds`: longitudes and latitudes in degrees (left, bottom, right, top), None without tiles."""

    run: RunInfo
    scheme: ClassScheme
    grid: TileGrid
    classes: tuple[ClassCount, ...]
    bounds: Bounds | None


def overview(address: str | Address, run: str) -> Overview:
    """Classes with their tiles and areas, and where the tiles are. Raises NoSuchRun and other DatabaseErrors."""
    at = parse_address(address)
    sql = psycopg_or_refuse().sql
    with connected(at, reading=True) as connection:
        found = find_run(connection, at, run)
        scheme, grid, _ = described(connection, at, found)
        tiles, _ = _table(connection, at, found)
        rows = connection.execute(
            sql.SQL(_COUNTS).format(tiles=sql.Identifier(at.schema, tiles)), (found.id,)
        ).fetchall()
    counts = {row[0]: row[1:3] for row in rows}
    classes = tuple(
        ClassCount(item.id, item.name, item.colour, many, round(whole * grid.tile_area_m2 / M2_PER_HA, 4))
        for item in scheme.classes
        for many, whole in [counts.get(item.id, (0, 0.0))]
    )
    return Overview(found, scheme, grid, classes, _degrees(grid, rows))


def tiles_page(
    address: str | Address, run: str, *, bbox: Bounds | None = None, limit: int = 1000, after: str = ""
) -> dict[str, Any]:
    """A GeoJSON FeatureCollection (RFC 7946) of at most `limit` tiles, those whose ids come after the tile id `after`.

    bbox: degrees (left, bottom, right, top); tiles that touch it. `next` is the id to go on after, None at the end.
    Raises NoSuchRun and other DatabaseErrors, and GridError for a rectangle that cannot be put into the grid's CRS.
    """
    at = parse_address(address)
    sql = psycopg_or_refuse().sql
    with connected(at, reading=True) as connection:
        found = find_run(connection, at, run)
        scheme, grid, _ = described(connection, at, found)
        tiles, srid = _table(connection, at, found)
        box = None if bbox is None else _in_crs(grid, bbox)
        if bbox is not None and box is None:
            return _collection([], scheme, grid, limit)
        postgis = sql.Identifier(postgis_schema(connection) or "public")
        inside = sql.SQL("" if box is None else _INSIDE).format(postgis=postgis)
        query = sql.SQL(_PAGE).format(tiles=sql.Identifier(at.schema, tiles), inside=inside)
        edges = dict(zip(("left", "bottom", "right", "top"), box or (), strict=False))
        rows = connection.execute(
            query, {"run": found.id, "after": after, "limit": limit + 1, "srid": srid, **edges}
        ).fetchall()
    return _collection(rows, scheme, grid, limit)


def _table(connection: psycopg.Connection[Any], at: Address, run: RunInfo) -> tuple[str, int]:
    """The table of a run's tiles, and the SRID there."""
    sql = psycopg_or_refuse().sql
    query = sql.SQL("SELECT tile_table, srid FROM {} WHERE id = %s").format(sql.Identifier(at.schema, "runs"))
    row = connection.execute(query, (run.id,)).fetchone()
    if row is None:
        raise DatabaseError(f"run {run.id} in {at.shown} was deleted meanwhile; ask for another")
    return str(row[0]), int(row[1])


def _degrees(grid: TileGrid, rows: Sequence[Sequence[Any]]) -> Bounds | None:
    """Where the tiles are, from the lines of _COUNTS."""
    if not rows:
        return None
    edges = np.array([row[3:] for row in rows])
    tiles = TileRange(*(int(edge) for edge in (*edges[:, :2].min(axis=0), *edges[:, 2:].max(axis=0))))
    to_wgs84 = pyproj.Transformer.from_crs(grid.crs, WGS84, always_xy=True)
    side = grid.side
    bounds = to_wgs84.transform_bounds(tiles.left * side, tiles.bottom * side, tiles.right * side, tiles.top * side)
    left, bottom, right, top = (round(edge, DECIMALS) for edge in bounds)
    return (left, bottom, right, top) if all(map(math.isfinite, bounds)) else None


def _in_crs(grid: TileGrid, bbox: Bounds) -> Bounds | None:
    """A rectangle in degrees as one of the grid's CRS that holds it; None where no tile of the grid can be in it.

    It is cut to where the CRS is of use: far from there a projection gives nonsense or nothing (GridError).
    """
    left, bottom, right, top = bbox
    use = grid.crs.area_of_use
    if use is not None and use.west <= use.east:
        left, right = max(left, use.west - BEYOND_DEGREES), min(right, use.east + BEYOND_DEGREES)
    if use is not None:
        bottom, top = max(bottom, use.south - BEYOND_DEGREES, -90), min(top, use.north + BEYOND_DEGREES, 90)
    if left > right or bottom > top:
        return None
    moved = pyproj.Transformer.from_crs(WGS84, grid.crs, always_xy=True).transform_bounds(left, bottom, right, top)
    if not all(map(math.isfinite, moved)):
        raise GridError(f"the rectangle is beyond {grid.crs.name}; give a smaller one, nearer to the tiles")
    return moved


def _collection(rows: list[tuple[Any, ...]], scheme: ClassScheme, grid: TileGrid, limit: int) -> dict[str, Any]:
    """The GeoJSON of lines of _PAGE, of which there is one more than `limit` where another page follows."""
    shown = rows[:limit]
    places = np.array([row[1:3] for row in shown], np.int64).reshape(-1, 2)
    ring = corners(grid, places[:, 0], places[:, 1])
    to_wgs84 = pyproj.Transformer.from_crs(grid.crs, WGS84, always_xy=True)
    x, y = to_wgs84.transform(ring[..., 0], ring[..., 1])
    rings = np.stack([x, y], axis=-1).round(DECIMALS).tolist()
    return {
        "type": "FeatureCollection",
        "next": shown[-1][0] if len(rows) > limit else None,
        "features": [_feature(row, ring, scheme) for row, ring in zip(shown, rings, strict=True)],
    }


def _feature(row: tuple[Any, ...], ring: list[Any], scheme: ClassScheme) -> dict[str, Any]:
    tile_id, _, _, name, number, confidence, valid, date, probabilities = row
    values = [None if value is None else round(float(value), 6) for value in probabilities]
    return {
        "type": "Feature",
        "id": tile_id,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "class": name,
            "class_id": number,
            "confidence": round(float(confidence), 6),
            "valid_fraction": round(float(valid), 6),
            "date": date,
            "probabilities": dict(zip(scheme.names, values, strict=False)),
        },
    }
