"""Where a synthetic county lies on the grid, how fast it grows, and which tiles to train on. No files here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..errors import GridError
from ..grid import TileGrid, TileRange
from .landscape import CLASS_NAMES, DEVELOPED, Bytes, Ground, World, survey

Counts = npt.NDArray[np.int64]

MIN_PURITY = 0.6  # of training tiles
MOST_STRETCHES = 1000  # of ground that are searched for training tiles
LEAST_PX = 32  # a smaller tile might hold no label pixel's centre
COARSE_PX = 16  # every 16th pixel is looked at where a survey of the whole county is wanted
WEST_M, NORTH_M = 313_600, 4_681_600  # about where EPSG:26919 has Maine
OFFSET = (0.22, 0.25)  # of a tile: where in its first tile the county begins


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

    def count(self, totals: Counts, classes: Bytes, x: int, y: int) -> None:
        """Add the pixels of each class in each tile to `totals`, (rows + 1, columns + 1, 6).

        `classes` begins at the world's pixel (x, y).
        """
        size = self.grid.size_px
        across = (np.arange(classes.shape[1]) + x + self.shift[0]) // size
        down = (np.arange(classes.shape[0]) + y + self.shift[1]) // size
        part = totals[down[0] : down[-1] + 1, across[0] : across[-1] + 1]
        key = ((down - down[0])[:, None] * part.shape[1] + (across - across[0])[None, :]) * 6 + classes
        part += np.bincount(key.ravel(), minlength=part.size).reshape(part.shape)


def place(grid: TileGrid, rows: int, columns: int) -> Site:
    """Where a county of this size lies. Raises GridError where it cannot be."""
    if rows < 1 or columns < 1 or grid.size_px < LEAST_PX:
        raise GridError(
            f"a county of {rows} x {columns} tiles of {grid.size_px} px cannot be drawn;"
            f" ask for at least 1 x 1 tiles of {LEAST_PX} px"
        )
    shift = (round(OFFSET[0] * grid.size_px), round(OFFSET[1] * grid.size_px))
    return Site(grid, rows, columns, round(WEST_M / grid.side_m), round(NORTH_M / grid.side_m), shift)


def growth_for(world: World, site: Site, changed: float) -> float:
    """The growth at which about a share `changed` of the county's tiles turn to developed.

    Every 16th pixel of the county is asked once at what growth its parcel is built up; from that follows, for each
    of 1200 steps of growth at once, which tiles would be mostly developed.
    """
    if changed == 0:
        return 0.0
    levels = np.linspace(0, 3, 1201)
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


def choose(world: World, size: int, tiles_per_class: int) -> Iterator[tuple[int, int, int]]:
    """(class, x, y) of tiles of which at least 0.6 is one class, `tiles_per_class` of each, over a wide area.

    Raises GridError where there are not so many, as for tiles larger than any lake.
    """
    missing = np.full(6, tiles_per_class)
    random = np.random.default_rng([world.seed, world.place, tiles_per_class])
    # At most a few from each stretch of ground, so that they do not all show one lake.
    few = max(2, tiles_per_class // 8)
    stretch = 12
    for number in range(MOST_STRETCHES):
        if not missing.any():
            return
        x, y = (number % 64) * stretch * size, (number // 64) * stretch * size
        ground = survey(world, x, y, stretch * size, stretch * size, COARSE_PX)
        for land, i, j in _pure(ground, size, stretch, random, np.minimum(missing, few)):
            missing[land] -= 1
            yield land, x + i * size, y + j * size
    if missing.any():
        scarce = CLASS_NAMES[int(missing.argmax())]
        raise GridError(
            f"the country has too few tiles of {size} px that are mostly {scarce}; ask for smaller or fewer"
        )


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
