"""How much of each tile an area covers, exactly: the area is halved along the grid's lines until a piece is one tile.

Cutting the whole outline with every tile would take tiles × vertices steps; halving takes about (tiles on the outline +
vertices) × log(tiles), and what lies inside whole is never cut at all.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import shapely

from ..grid import TileGrid, TileRange

Overlaps = npt.NDArray[np.float64]
WHOLE = 1 - 1e-12
"""A piece of this share of its box is the box."""


def overlaps(area: shapely.Geometry, grid: TileGrid, tiles: TileRange, check: Callable[[], None]) -> Overlaps:
    """(rows, columns) shares from 0 to 1 of each of `tiles`, north up, that lie in `area` (valid, in the grid's CRS).

    check: called at each step; what it raises ends the work.
    """
    found = np.zeros((tiles.rows, tiles.columns))
    waiting = [(tiles, shapely.intersection(area, _box(grid, tiles)))]
    while waiting:
        check()
        part, piece = waiting.pop()
        share = shapely.area(piece) / (len(part) * grid.side**2)
        if share >= WHOLE or len(part) == 1:
            found[tiles.top - part.top : tiles.top - part.bottom, part.left - tiles.left : part.right - tiles.left] = (
                share
            )
        elif share > 0:
            waiting += [(half, shapely.intersection(piece, _box(grid, half))) for half in _halves(part)]
    return np.clip(found, 0, 1)


def _halves(tiles: TileRange) -> tuple[TileRange, TileRange]:
    if tiles.columns >= tiles.rows:
        middle = (tiles.left + tiles.right) // 2
        return (
            TileRange(tiles.left, tiles.bottom, middle, tiles.top),
            TileRange(middle, tiles.bottom, tiles.right, tiles.top),
        )
    middle = (tiles.bottom + tiles.top) // 2
    return (
        TileRange(tiles.left, tiles.bottom, tiles.right, middle),
        TileRange(tiles.left, middle, tiles.right, tiles.top),
    )


def _box(grid: TileGrid, tiles: TileRange) -> shapely.Geometry:
    side = grid.side
    return shapely.box(tiles.left * side, tiles.bottom * side, tiles.right * side, tiles.top * side)
