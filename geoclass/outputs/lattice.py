"""Where tiles lie on a Web Mercator screen.

Tiles are squares in the grid's CRS, web maps are Web Mercator. A lattice of points, projected here with PROJ, carries
one to the other: the page paints its pictures patch by patch through it and answers clicks by inverting it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyproj

from ..errors import OutputError
from ..grid import TileGrid, TileRange

LATTICE_ERROR = 0.002
"""Share of a tile's side by which a tile may be painted beside its place."""
MAX_STEPS = 128
MERCATOR_LATITUDE = 85.05

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Lattice:
    """(steps + 1)² points over a range of tiles, line by line from the north-west, on the Web Mercator square.

    points: (steps + 1, steps + 1, 2) x eastwards and y southwards; the world is 0–1, and x may leave it where a
    range crosses the 180th meridian.
    """

    steps: int
    points: Doubles

    @classmethod
    def over(cls, grid: TileGrid, tiles: TileRange) -> Lattice:
        """The coarsest lattice that keeps patches drawn as parallelograms within LATTICE_ERROR of their place.

        Raises OutputError where the ground is beyond Web Mercator's reach.
        """
        steps = 1
        while True:
            fine = _mercator(grid, tiles, 2 * steps)
            side = np.hypot(*(fine[0, -1] - fine[0, 0])) / tiles.columns
            if steps == MAX_STEPS or _affine_error(fine) <= LATTICE_ERROR * side:
                return cls(steps, fine[::2, ::2])
            steps *= 2


def _mercator(grid: TileGrid, tiles: TileRange, steps: int) -> Doubles:
    x, y = np.meshgrid(
        np.linspace(tiles.left, tiles.right, steps + 1) * grid.side,
        np.linspace(tiles.top, tiles.bottom, steps + 1) * grid.side,
    )
    transformer = pyproj.Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    longitude, latitude = transformer.transform(x, y)
    return _world(longitude, latitude, float(longitude[steps // 2, steps // 2]))


def _world(longitude: Doubles, latitude: Doubles, middle: float) -> Doubles:
    """Degrees to the Web Mercator square (EPSG:3857 scaled to 0–1), unbroken around the meridian `middle`."""
    if not np.isfinite([longitude, latitude]).all() or np.abs(latitude).max() > MERCATOR_LATITUDE:
        raise OutputError(
            f"the map cannot show ground beyond {MERCATOR_LATITUDE}° of latitude; leave it out with --aoi"
        )
    x = (longitude - 360 * np.round((longitude - middle) / 360)) / 360 + 0.5
    y = 0.5 - np.arctanh(np.sin(np.radians(latitude))) / (2 * np.pi)
    return np.stack([x, y], axis=-1)


def _affine_error(fine: Doubles) -> float:
    """Largest distance between points of a lattice of twice the steps and the parallelograms drawn for its patches."""
    p, q, r, s = fine[:-2:2, :-2:2], fine[:-2:2, 2::2], fine[2::2, :-2:2], fine[2::2, 2::2]
    middle, across, down = (p + q + r + s) / 4, (q - p + s - r) / 2, (r - p + s - q) / 2
    worst = 0.0
    for j in range(3):
        for i in range(3):
            rows, columns = slice(j, fine.shape[0] - 2 + j, 2), slice(i, fine.shape[1] - 2 + i, 2)
            drawn = middle + across * (i - 1) / 2 + down * (j - 1) / 2
            worst = max(worst, float(np.hypot(*np.moveaxis(fine[rows, columns] - drawn, -1, 0)).max()))
    return worst
