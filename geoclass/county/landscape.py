"""A made-up countryside: what lies where, as a function of a seed and of the place alone.

Places are whole pixels (x eastwards, y southwards) of about one metre. Every value below is computed for each pixel
by itself from its own place, in the same operations whatever window is asked for, so that any two windows agree to
the bit where they overlap and a county of any size can be drawn block by block without seams.

Land is parted thrice: *sections* (squares of 840 m in a turned and bent frame, with roads along many of their
edges), *strips* within a section, and *parcels* within a strip. A parcel is what a farmer ploughs or a builder
buys. Lakes, rivers, woods and quarries have outlines of their own and cut through the parcels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

WATER, DEVELOPED, BARREN, FOREST, HERBACEOUS, CULTIVATED = range(6)
CLASS_NAMES = ("Water", "Developed", "Barren", "Forest", "Herbaceous", "Cultivated")
"""Classes of the scheme nlcd6, in the order of the six numbers above."""

SECTION_PX = 840
NODE_PX = 8  # smooth fields are computed at every eighth pixel and drawn out linearly between
TABLE = 256  # side of the table of random numbers; a field repeats after 256 of its wavelengths
TURN = math.radians(13)  # the sections' frame against north
HOMESTEAD_PX = (72.0, 64.0)

STYLES = OPEN_SPACE, SUBURB, TOWN, WORKS, HOMESTEAD = range(5)
"""How a developed parcel is built up; the first four are NLCD's 21 to 24."""

Floats = npt.NDArray[np.floating[Any]]
Singles = npt.NDArray[np.float32]
Ints = npt.NDArray[np.intp]
Bytes = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class World:
    """An endless countryside. Worlds of another `seed` or `place` have nothing in common.

    `growth` is how far building has spread by the second date: parcels whose pull of the towns is above 0 are
    developed at date 0, those above `-growth` at date 1.
    """

    seed: int
    place: int = 0
    growth: float = 0.0

    @cached_property
    def table(self) -> Singles:
        """(256, 256) random numbers in [0, 1), from which all else follows."""
        return np.random.default_rng([self.seed, self.place]).random((TABLE, TABLE), dtype=np.float32)

    def chance(self, i: Any, j: Any, salt: int) -> Singles:
        """The random number in [0, 1) of cell (i, j) for the purpose `salt`."""
        found: Singles = self.table[(j + 89 * salt) & (TABLE - 1), (i + 157 * salt) & (TABLE - 1)]
        return found

    def noise(self, x: Floats, y: Floats, wavelength_px: float, salt: int) -> Floats:
        """Smooth noise in [-1, 1] (value noise: random numbers on a lattice, eased between; Perlin 1985's cubic)."""
        i, j = np.floor(x / wavelength_px), np.floor(y / wavelength_px)
        s, t = x / wavelength_px - i, y / wavelength_px - j
        s, t = s * s * (3 - 2 * s), t * t * (3 - 2 * t)
        column, row = i.astype(np.intp), j.astype(np.intp)
        north = self.chance(column, row, salt) * (1 - s) + self.chance(column + 1, row, salt) * s
        south = self.chance(column, row + 1, salt) * (1 - s) + self.chance(column + 1, row + 1, salt) * s
        return np.asarray(2 * (north * (1 - t) + south * t) - 1)

    def blobs(self, x: Floats, y: Floats, kind: Blobs) -> Floats:
        """Distance in px to the nearest rim of scattered round shapes, positive inside, never below -far_px."""
        best = np.full(np.broadcast(x, y).shape, -kind.far_px)
        reach = kind.largest_px * 1.7 + kind.far_px
        wobble = None
        for i in range(
            math.floor((x.min() - reach) / kind.pitch_px), math.floor((x.max() + reach) / kind.pitch_px) + 1
        ):
            for j in range(
                math.floor((y.min() - reach) / kind.pitch_px), math.floor((y.max() + reach) / kind.pitch_px) + 1
            ):
                if self.chance(i, j, kind.salt) >= kind.share:
                    continue
                if wobble is None:
                    wobble = 1 + 0.5 * self.noise(x, y, kind.largest_px * 0.7, kind.salt + 1)
                    wobble = wobble + 0.2 * self.noise(x, y, kind.largest_px * 0.24, kind.salt + 2)
                centre_x = (i + 0.2 + 0.6 * float(self.chance(i, j, kind.salt + 3))) * kind.pitch_px
                centre_y = (j + 0.2 + 0.6 * float(self.chance(i, j, kind.salt + 4))) * kind.pitch_px
                spread = float(self.chance(i, j, kind.salt + 5)) ** 1.4
                radius = kind.smallest_px + (kind.largest_px - kind.smallest_px) * spread
                best = np.maximum(best, radius * wobble - np.hypot(x - centre_x, y - centre_y))
        return best


@dataclass(frozen=True)
class Blobs:
    """Round shapes: one to a lattice cell of `pitch_px`, in a `share` of the cells, radius within the two sizes.

    Distances are cut off at `far_px`, which keeps the search for the nearest local.
    """

    salt: int
    pitch_px: float
    smallest_px: float
    largest_px: float
    share: float
    far_px: float = 200.0


LAKES = Blobs(salt=20, pitch_px=2300, smallest_px=190, largest_px=470, share=0.8)
PITS = Blobs(salt=30, pitch_px=1900, smallest_px=170, largest_px=330, share=0.75)
TOWNS = Blobs(salt=40, pitch_px=3000, smallest_px=620, largest_px=1130, share=0.85, far_px=1600)
RIVER_PITCH_PX = 6200.0


def river(world: World, x: Floats, y: Floats) -> Floats:
    """Distance in px to the bank of the nearest river, positive in the water. x: (1, n) and y: (m, 1) px."""

    def bend(k: int, at: Floats) -> Floats:
        own = np.full_like(at, k * 5000.0)
        return 900 * world.noise(own, at, 3100, 50) + 230 * world.noise(own, at, 840, 51)

    best = np.full(np.broadcast(x, y).shape, -LAKES.far_px)
    for k in range(math.floor(x.min() / RIVER_PITCH_PX) - 1, math.floor(x.max() / RIVER_PITCH_PX) + 2):
        middle = (k + 0.5) * RIVER_PITCH_PX + bend(k, y)
        slope = (bend(k, y + 8) - bend(k, y - 8)) / 16
        half_width = 34 + 14 * world.noise(np.full_like(y, k * 5000.0), y, 900, 52)
        best = np.maximum(best, half_width - np.abs(x - middle) / np.sqrt(1 + slope * slope))
    return best


@dataclass(frozen=True)
class Parcels:
    """The P parcels around a window, one row each; `i` and `j` number them for `chance`.

    wide, deep: sides in px; pull: of the nearest town, above 0 where developed at date 0; use: class of open land;
    pivot: whether it is watered by a circling arm; homestead: whether a farm stands in its corner.
    """

    world: World
    i: Ints
    j: Ints
    wide: Singles
    deep: Singles
    pull: Singles
    use: Bytes
    pivot: Flags
    homestead: Flags

    def chance(self, salt: int) -> Singles:
        """(P,) a random number in [0, 1) for each parcel."""
        return self.world.chance(self.i, self.j, salt)

    def developed(self, date: int) -> Flags:
        """(P,) which parcels are built up at date 0 or 1."""
        return self.pull > (-self.world.growth if date else 0.0)

    @cached_property
    def style(self) -> Bytes:
        """(P,) how the parcel is, or would be, built up."""
        lot = self.chance(61)
        style = np.where(self.pull > 0.42, TOWN, np.where(lot < 0.3, OPEN_SPACE, SUBURB))
        style = np.where((lot > 0.86) | ((self.pull > 0.62) & (lot > 0.6)), WORKS, style)
        return style.astype(np.uint8)


@dataclass(frozen=True)
class Ground:
    """What lies in a window: (h, w) arrays whose [0, 0] is the pixel (x, y), at every `step`-th pixel.

    wet, woods, pit, road: above 0 inside lakes and rivers, natural woods, quarries, carriageways (px to the rim,
    but for `woods`); parcel: row in `parcels`; across, along: px from the parcel's first corner; edge: px to its
    nearest border; damp: smooth noise in [-1, 1]; lane: 2 main road, 1 lane, 0 track, where `road` is near.
    """

    x: int
    y: int
    step: int
    wet: Singles
    woods: Singles
    pit: Singles
    damp: Singles
    road: Singles
    lane: Bytes
    parcel: Ints
    across: Singles
    along: Singles
    edge: Singles
    parcels: Parcels

    @cached_property
    def arm(self) -> Singles:
        """px to the rim of the circle that a pivot waters, positive inside; large where the parcel has none."""
        wide, deep = self.parcels.wide[self.parcel], self.parcels.deep[self.parcel]
        radius = np.where(self.parcels.pivot, 0.49 * np.minimum(self.parcels.wide, self.parcels.deep), 1e4)
        a, b = self.across - 0.5 * wide, self.along - 0.5 * deep
        return np.asarray(radius.astype(np.float32)[self.parcel] - np.sqrt(a * a + b * b), np.float32)

    @cached_property
    def farmyard(self) -> Flags:
        """Where farms stand amid their fields."""
        yard = (self.across < HOMESTEAD_PX[0]) & (self.along < HOMESTEAD_PX[1])
        return yard & self.parcels.homestead[self.parcel]

    def classes(self, date: int) -> Bytes:
        """(h, w) class of each pixel at date 0 or 1, as WATER to CULTIVATED."""
        found: Bytes = self.parcels.use[self.parcel]
        if self.parcels.pivot.any():
            found[(self.arm < 0) & (found == CULTIVATED)] = HERBACEOUS
        found[self.woods > 0] = FOREST
        # Nobody builds on the bank itself, where trees stand.
        found[(self.parcels.developed(date)[self.parcel] | self.farmyard) & (self.wet < -16)] = DEVELOPED
        found[self.road > -5] = DEVELOPED
        found[self.pit > 0] = BARREN
        # A road crosses rivers on a bridge; in a lake it ends as a jetty, and quarries swallow it.
        found[(self.wet > 0) & ((self.road <= 0) | (self.wet > 60))] = WATER
        found[self.pit + 130 * self.damp > 170] = WATER  # the pond on a deep quarry's floor
        return found


def survey(world: World, x: int, y: int, width_px: int, height_px: int, step: int = 1) -> Ground:
    """What lies in the window of the pixels x to x + width_px and y to y + height_px.

    With a `step` above 1 only every step-th pixel is looked at: the same land at a fraction of the cost, save that
    outlines are followed to the pixel there and in straight lines of eight pixels here.
    """
    columns, rows, draw = _lattice(x, y, width_px, height_px, step)
    u, v = _frame(world, columns, rows)
    wet = np.maximum(world.blobs(columns, rows, LAKES), river(world, columns, rows))
    woods = _woods(world, columns, rows) + 0.75 * np.clip(1 + wet / 55, 0, 1)
    damp = 0.7 * world.noise(columns, rows, 700, 5) + 0.3 * world.noise(columns, rows, 160, 6)
    return Ground(
        x, y, step, draw(wet), draw(woods), draw(world.blobs(columns, rows, PITS)), draw(damp),
        **_cadastre(world, draw(u), draw(v)),
    )  # fmt: skip


def _lattice(
    x: int, y: int, width_px: int, height_px: int, step: int
) -> tuple[Floats, Floats, Callable[[Floats], Singles]]:
    """(1, n) and (m, 1) places at which smooth fields are computed, and what draws such a field out to pixels."""
    if step > 1:
        columns = np.arange(x, x + width_px, step, dtype=np.float64)[None, :]
        rows = np.arange(y, y + height_px, step, dtype=np.float64)[:, None]
        return columns, rows, lambda field: np.ascontiguousarray(field, np.float32)
    left, top = x // NODE_PX, y // NODE_PX
    right, bottom = -(-(x + width_px) // NODE_PX), -(-(y + height_px) // NODE_PX)
    columns = np.arange(left, right + 1, dtype=np.float64)[None, :] * NODE_PX
    rows = np.arange(top, bottom + 1, dtype=np.float64)[:, None] * NODE_PX
    part = (np.arange(NODE_PX, dtype=np.float32) / NODE_PX)[None, :, None]

    def stretched(field: Singles) -> Singles:
        first = field[:-1, None, :]
        return np.asarray(first + (field[1:, None, :] - first) * part, np.float32).reshape(-1, field.shape[1])

    def draw(field: Floats) -> Singles:
        tall = stretched(field.astype(np.float32))[y - top * NODE_PX :][:height_px]
        return np.ascontiguousarray(stretched(np.ascontiguousarray(tall.T))[x - left * NODE_PX :][:width_px].T)

    return columns, rows, draw


def _frame(world: World, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Places in the sections' frame, which is turned against north and gently bent."""
    u = x * math.cos(TURN) + y * math.sin(TURN) + 130 * world.noise(x, y, 2100, 1) + 22 * world.noise(x, y, 520, 2)
    v = y * math.cos(TURN) - x * math.sin(TURN) + 130 * world.noise(x, y, 2100, 3) + 22 * world.noise(x, y, 520, 4)
    return u, v


def _woods(world: World, x: Floats, y: Floats) -> Floats:
    octaves = ((1500, 0.62, 10), (560, 0.34, 11), (190, 0.2, 12), (60, 0.1, 13), (24, 0.06, 14))
    total = sum(weight * world.noise(x, y, wavelength_px, salt) for wavelength_px, weight, salt in octaves)
    return np.asarray(total) - 0.2


def _cadastre(world: World, u: Singles, v: Singles) -> dict[str, Any]:
    """Roads and parcels of places given in the sections' frame, as the fields of Ground."""
    size = np.float32(SECTION_PX)
    i, j = np.floor(u / size), np.floor(v / size)
    s, t = u - i * size, v - j * size
    west, north = int(i.min()), int(j.min())
    rows = int(j.max()) - north + 1
    i, j = (i - west).astype(np.intp), (j - north).astype(np.intp)
    section = i * rows + j
    columns = int(i.max()) + 1
    road, lane = _roads(world, s, t, section, (west, north, columns, rows))
    numbers = np.repeat(np.arange(columns) + west, rows), np.tile(np.arange(rows) + north, columns)
    cuts, parcels = _parcels(world, *numbers)
    turned, a1, a2, b1, b2, a_first, b_first = cuts
    flip = turned[section]
    a, b = np.where(flip, t, s), np.where(flip, s, t)
    strip = 3 * section + (a > a1[section]) + (a > a2[section])
    parcel = 3 * strip + (b > b1[strip]) + (b > b2[strip])
    across, along = a - a_first[strip], b - b_first[parcel]
    edge = np.minimum(
        np.minimum(across, parcels.wide[parcel] - across), np.minimum(along, parcels.deep[parcel] - along)
    )
    return {
        "road": road, "lane": lane, "parcel": parcel, "across": across, "along": along, "edge": edge,
        "parcels": parcels,
    }  # fmt: skip


def _roads(
    world: World, s: Singles, t: Singles, section: Ints, extent: tuple[int, int, int, int]
) -> tuple[Singles, Bytes]:
    """Distance into the nearest carriageway along the sections' edges, and its rank."""
    west, north, columns, rows = extent
    best = np.full(s.shape, -SECTION_PX, np.float32)
    rank = np.zeros(s.shape, np.uint8)
    half_width = np.array([3.0, 4.2, 7.0], np.float32)
    for offset, salt, steps in ((s, 15, (1, 0)), (t, 16, (0, 1))):
        i, j = np.meshgrid(np.arange(columns + 1) + west, np.arange(rows + 1) + north, indexing="ij")
        line = i if steps[0] else j
        luck = world.chance(i, j, salt)
        ranks = np.where(line % 3 == 0, 2, np.where(luck < 0.5, 1, 0)).astype(np.uint8)
        widths = np.where((luck < 0.72) | (line % 3 == 0), half_width[ranks], -SECTION_PX).astype(np.float32)
        # Near its far edge a pixel looks at the next section's first edge.
        beyond = offset > SECTION_PX / 2
        here = (slice(0, columns), slice(0, rows))
        there = (slice(steps[0], steps[0] + columns), slice(steps[1], steps[1] + rows))
        lookup = np.concatenate([widths[here].ravel(), widths[there].ravel()])
        lookup_rank = np.concatenate([ranks[here].ravel(), ranks[there].ravel()])
        which = section + beyond * (columns * rows)
        distance = lookup[which] - np.minimum(offset, SECTION_PX - offset)
        nearer = distance > best
        np.copyto(rank, lookup_rank[which], where=nearer)
        np.maximum(best, distance, out=best)
    return best, rank


def _parcels(world: World, i: Ints, j: Ints) -> tuple[tuple[npt.NDArray[Any], ...], Parcels]:
    """Cut the sections (i, j) into strips and parcels. Cuts that do not exist lie at infinity."""
    size, none = float(SECTION_PX), math.inf
    turned, three = world.chance(i, j, 17) < 0.5, world.chance(i, j, 18) < 0.5
    luck = world.chance(i, j, 19)
    a1 = size * np.where(three, 0.29 + 0.09 * luck, 0.42 + 0.16 * luck)
    a2 = np.where(three, size * (0.62 + 0.09 * world.chance(i, j, 70)), none)
    strip_i, strip_j = (3 * i[:, None] + np.arange(3)).ravel(), np.repeat(j, 3)
    pieces, luck = world.chance(strip_i, strip_j, 71), world.chance(strip_i, strip_j, 72)
    b1 = np.where(pieces < 0.15, none, size * np.where(pieces < 0.7, 0.4 + 0.2 * luck, 0.28 + 0.1 * luck))
    b2 = np.where(pieces < 0.7, none, size * (0.62 + 0.1 * world.chance(strip_i, strip_j, 73)))
    a = np.minimum(np.stack([np.zeros_like(a1), a1, a2, np.full_like(a1, size)], axis=1), size)
    b = np.minimum(np.stack([np.zeros_like(b1), b1, b2, np.full_like(b1, size)], axis=1), size)
    wide, deep = np.repeat(np.diff(a).ravel(), 3), np.diff(b).ravel()
    middle_a, middle_b = np.repeat((a[:, :-1] + a[:, 1:]).ravel() / 2, 3), (b[:, :-1] + b[:, 1:]).ravel() / 2
    flip = np.repeat(turned, 9)
    u = np.repeat(i, 9) * size + np.where(flip, middle_b, middle_a)
    v = np.repeat(j, 9) * size + np.where(flip, middle_a, middle_b)
    number_i, number_j = np.repeat(strip_i, 3), (3 * strip_j[:, None] + np.arange(3)).ravel()
    parcels = _describe(world, number_i, number_j, wide, deep, u, v)
    cuts = (turned, *(c.astype(np.float32) for c in (a1, a2, b1, b2, a[:, :-1].ravel(), b[:, :-1].ravel())))
    return cuts, parcels


def _describe(world: World, i: Ints, j: Ints, wide: Floats, deep: Floats, u: Floats, v: Floats) -> Parcels:
    """What the parcels with centres (u, v) are used for."""
    pull = world.blobs(u, v, TOWNS) / 700 + 0.25 * world.noise(u, v, 640, 7) + 0.12 * (world.chance(i, j, 74) - 0.5)
    farm = 0.75 * world.noise(u, v, 1700, 8) + 0.35 * world.noise(u, v, 620, 9) + 0.7 * (world.chance(i, j, 75) - 0.5)
    use = np.where(farm > 0.0, CULTIVATED, HERBACEOUS)
    use = np.where(world.chance(i, j, 76) < 0.07, FOREST, use)
    square = (np.minimum(wide, deep) > 240) & (np.maximum(wide, deep) < 1.35 * np.minimum(wide, deep))
    crop = use == CULTIVATED
    corner = (i % 3 == 0) & (j % 3 == 0)
    return Parcels(
        world, i, j, wide.astype(np.float32), deep.astype(np.float32), pull.astype(np.float32), use.astype(np.uint8),
        pivot=crop & square & (world.chance(i, j, 77) < 0.4),
        homestead=(use != FOREST) & corner & (world.chance(i, j, 78) < 0.4),
    )  # fmt: skip
