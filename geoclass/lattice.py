"""The pixel lattice of a grid, and windows of it. Pure geometry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
from affine import Affine

Pixels = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Lattice:
    """Pixels of side `res` (CRS units) anchored at the origin of `crs`; columns count east, lines south."""

    crs: pyproj.CRS
    res: float

    def transform(self, column: int, line: int) -> Affine:
        """The geotransform of an image whose upper left pixel is (column, line)."""
        return Affine(self.res, 0, column * self.res, 0, -self.res, -line * self.res)


@dataclass(frozen=True)
class LatticeWindow:
    """A half-open window of lattice pixels."""

    column: int
    line: int
    width: int
    height: int

    def intersection(self, other: LatticeWindow) -> LatticeWindow:
        """The shared window; its width or height is 0 where there is none."""
        column, line = max(self.column, other.column), max(self.line, other.line)
        right = min(self.column + self.width, other.column + other.width)
        bottom = min(self.line + self.height, other.line + other.height)
        return LatticeWindow(column, line, max(0, right - column), max(0, bottom - line))

    @property
    def empty(self) -> bool:
        return self.width <= 0 or self.height <= 0

    def slices_in(self, outer: LatticeWindow) -> tuple[slice, slice]:
        """(rows, columns) of this window inside an array that covers `outer`."""
        top, left = self.line - outer.line, self.column - outer.column
        return slice(top, top + self.height), slice(left, left + self.width)


def where_true(mask: Mask, window: LatticeWindow) -> LatticeWindow:
    """The smallest part of `window` that holds every true pixel of `mask`, which covers it."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return LatticeWindow(window.column, window.line, 0, 0)
    return LatticeWindow(
        window.column + int(columns[0]),
        window.line + int(rows[0]),
        int(columns[-1] - columns[0]) + 1,
        int(rows[-1] - rows[0]) + 1,
    )
