"""Towns and farmsteads as seen from above: streets, lots, houses, yards, parking."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .landscape import (
    HOMESTEAD,
    HOMESTEAD_PX,
    TOWN,
    WORKS,
    Flags,
    Ints,
    Parcels,
    Singles,
    World,
)
from .materials import NUMBER, Canvas


class Style(NamedTuple):
    """Lots and houses of a way of building: sizes in px, the share of a lot's trees that stand."""

    lot_wide: float
    lot_deep: float
    street: float
    half_deep: tuple[float, float]
    half_wide: tuple[float, float]
    roof: float
    trees: float
    cross_street: float


# In the order of landscape's styles: open space, suburb, town, works, homestead.
STYLES = (
    Style(36, 50, 8, (5.0, 7.5), (7.0, 11.0), 5.5, 0.36, 230),
    Style(23, 36, 8, (4.5, 6.5), (6.0, 8.5), 5.5, 0.2, 230),
    Style(18, 28, 9, (5.0, 8.5), (5.5, 8.0), 8.0, 0.1, 200),
    Style(92, 84, 11, (17.0, 29.0), (20.0, 37.0), 9.0, 0.02, 330),
    Style(31, 34, 4, (5.0, 9.0), (5.0, 10.0), 6.0, 0.22, 230),
)


def _column(style: npt.NDArray[np.uint8], name: str) -> npt.NDArray[np.float32]:
    """The value `name` of each parcel's style: (P,), or (P, 2) for a pair."""
    return np.array([getattr(item, name) for item in STYLES], np.float32)[style]


class Layout(NamedTuple):
    """Streets and lots of each parcel, (P,) arrays or (P, 2) for ranges; lengths in px.

    block: from one street to the next; stretch: from one cross street to the next; lots: lots in a stretch.
    """

    block: Singles
    stretch: Singles
    lots: Singles
    street: Singles
    half_deep: Singles
    half_wide: Singles
    roof: Singles
    trees: Singles
    works: Flags
    dense: Flags


def lay_out(parcels: Parcels, date: int) -> Layout:
    """Streets and lots for every parcel; one that is not developed at `date` gets those of its farmstead."""
    style = np.where(parcels.developed(date), parcels.style, HOMESTEAD).astype(np.uint8)
    farm, works = style == HOMESTEAD, style == WORKS
    wide = np.where(farm, HOMESTEAD_PX[0], parcels.wide)
    deep = np.where(farm, HOMESTEAD_PX[1], parcels.deep)
    street = _column(style, "street")
    # Streets are spread evenly: the number of them that comes nearest to the style's own depth of lots.
    block = wide / np.maximum(1, np.rint(wide / (2 * _column(style, "lot_deep") + street)))
    stretch = deep / np.maximum(1, np.rint(deep / _column(style, "cross_street")))
    lots = np.maximum(1, np.rint((stretch - street) / _column(style, "lot_wide")))
    # Trees are young where building is new; older places differ in how many there are.
    trees = _column(style, "trees") * (0.5 + 1.4 * parcels.chance(62)) * np.where(parcels.developed(0) | farm, 1.0, 0.3)
    return Layout(
        block.astype(np.float32), stretch.astype(np.float32), lots.astype(np.float32), street,
        _column(style, "half_deep"), _column(style, "half_wide"), _column(style, "roof"), trees.astype(np.float32),
        works, works | (style == TOWN),
    )  # fmt: skip


class Lots(NamedTuple):
    """Where n pixels lie in their lots, (n,) arrays in px.

    (i, j) numbers the lot; street: into the street, negative off it; depth: from the street; aside: from the
    house's middle line; inside: into the house, negative off it; full_depth, half_wide, setback: of lot and house.
    """

    world: World
    i: Ints
    j: Ints
    street: Singles
    depth: Singles
    full_depth: Singles
    aside: Singles
    inside: Singles
    half_wide: Singles
    setback: Singles

    def luck(self, salt: int) -> Singles:
        """(n,) the random number in [0, 1) of each pixel's lot for the purpose `salt`."""
        return self.world.chance(self.i, self.j, 100 + salt)


def divide(layout: Layout, parcels: Parcels, parcel: Ints, across: Singles, along: Singles) -> Lots:
    """The lots of n pixels at (across, along) px in their parcels. Streets run along, lots stand back to back."""
    world = parcels.world
    block, stretch, half_street = layout.block[parcel], layout.stretch[parcel], 0.5 * layout.street[parcel]
    row, column = np.floor(across / block), np.floor(along / stretch)
    c, f = across - row * block, along - column * stretch
    far = c > 0.5 * block
    depth = np.where(far, block - c, c) - half_street
    street = np.maximum(-depth, half_street - np.minimum(f, stretch - f))
    size = (stretch - 2 * half_street) / layout.lots[parcel]
    number = np.floor((f - half_street) / size)
    i = (2 * row + far).astype(np.intp) + parcels.i[parcel] * 29
    j = (column * layout.lots[parcel] + number).astype(np.intp) + parcels.j[parcel] * 41

    def between(limits: Singles, salt: int) -> Singles:
        low, high = limits[:, 0][parcel], limits[:, 1][parcel]
        return np.asarray(low + (high - low) * world.chance(i, j, salt), np.float32)

    half_deep = between(layout.half_deep, 91)
    half_wide = np.minimum(between(layout.half_wide, 92), 0.5 * size - 1.5)
    full = 0.5 * block - half_street
    setback = np.minimum(6 + 5 * world.chance(i, j, 93), np.maximum(full - 2 * half_deep - 2, 1))
    shift = (world.chance(i, j, 94) - 0.5) * np.maximum(size - 2 * half_wide - 3, 0) * 0.7
    aside = f - half_street - (number + 0.5) * size - shift
    e = np.abs(depth - setback - half_deep)
    inside = np.minimum(half_wide - np.abs(aside), half_deep - e)
    luck = world.chance(i, j, 95)
    # Some houses have a wing to the street, some lots stand empty.
    wing = np.minimum(0.42 * half_wide - np.abs(aside + 0.5 * half_wide), half_deep + 3.5 - e)
    inside = np.where(luck < 0.45, np.maximum(inside, wing), np.where(luck > 0.94, -9.0, inside))
    return Lots(world, i, j, street, depth, full, aside, inside.astype(np.float32), half_wide, setback)


class Sketch:
    """The developed pixels of a canvas as flat arrays of n, to be put back when done."""

    def __init__(self, at: Ints) -> None:
        self.at = at
        self.material = np.full(len(at), NUMBER["lawn"], np.uint8)
        self.bright, self.warm, self.height = (np.full(len(at), value, np.float32) for value in (1, 0, 0))

    def put(self, where: Flags, number: Any, bright: Any, height: Any = 0.0) -> None:
        """Cover the pixels of `where` with the material `number`; values are arrays of n, or numbers."""
        np.copyto(self.material, number, where=where, casting="unsafe")
        np.copyto(self.bright, bright, where=where)
        np.copyto(self.warm, 0, where=where)
        np.copyto(self.height, height, where=where)

    def hand_over(self, canvas: Canvas) -> None:
        for name in ("material", "bright", "warm", "height"):
            getattr(canvas, name).ravel()[self.at] = getattr(self, name)


def draw_towns(canvas: Canvas, where: Flags) -> None:
    """Draw what stands on the developed pixels `where`, between the roads."""
    ground, parcels = canvas.ground, canvas.ground.parcels
    sketch = Sketch(np.flatnonzero(where & (ground.road <= -5)))
    at = sketch.at
    if not at.size:
        return
    crown, tone, grain, cloudy, _ = (np.ascontiguousarray(picture).ravel()[at] for picture in canvas.texture)
    parcel = ground.parcel.ravel()[at]
    layout = lay_out(parcels, canvas.date)
    lot = divide(layout, parcels, parcel, ground.across.ravel()[at], ground.along.ravel()[at])
    works, off = layout.works[parcel], lot.street <= 0
    sketch.bright[:] = 1 + 0.05 * cloudy + 0.03 * grain + 0.12 * (lot.luck(1) - 0.5)
    sketch.warm[:] = 22 * (lot.luck(2) - 0.5) + 4 * cloudy
    sketch.put(works, NUMBER["old asphalt"], 0.99 + 0.015 * cloudy + 0.03 * lot.luck(1))
    tree = off & (tone < layout.trees[parcel] * (0.4 + 1.2 * lot.luck(3))) & (crown > 2.2)
    sketch.put(tree, np.where(tone < 0.05, NUMBER["needle"], NUMBER["leaf"]), 0.95 + 0.7 * tone, 0.7 * crown)
    _yards(sketch, lot, works, cloudy)
    _buildings(sketch, lot, works, layout.roof[parcel], (crown > 6) & (tone > 0.965), cloudy)
    street = NUMBER["old asphalt"] + (NUMBER["asphalt"] - NUMBER["old asphalt"]) * layout.dense[parcel].astype(np.int8)
    sketch.put(~off, street, 0.98 + 0.02 * cloudy)
    sketch.put(off & (lot.street > -1.4) & layout.dense[parcel], NUMBER["concrete"], 0.95)
    sketch.hand_over(canvas)


def _yards(sketch: Sketch, lot: Lots, works: Flags, cloudy: Singles) -> None:
    """Drives with cars, pools, and the parking of works: rows of bays, some of them taken."""
    home = ~works
    drive = home & (np.abs(lot.aside - 0.72 * lot.half_wide) < 1.7) & (lot.depth < lot.setback)
    sketch.put(drive, NUMBER["concrete"], 0.92 + 0.03 * cloudy)
    parked = drive & (lot.depth > 2) & (lot.depth < 6.5) & (lot.luck(7) < 0.4)
    sketch.put(parked, NUMBER["car 0"] + 4 * lot.luck(8), 1.0, 1.5)
    pool_x, pool_y = lot.aside + 0.3 * lot.half_wide, lot.depth - 0.86 * lot.full_depth
    sketch.put(home & (np.abs(pool_x) < 3.2) & (np.abs(pool_y) < 2) & (lot.luck(9) < 0.08), NUMBER["pool"], 1.0)
    if not works.any():
        return
    bay, row = np.floor(lot.aside / 2.8), np.floor(lot.depth / 17)
    x, y = lot.aside / 2.8 - bay, lot.depth / 17 - row
    parking = works & (lot.inside < -5) & (lot.depth > 3) & (y < 0.6)
    sketch.put(parking & (np.abs(x - 0.5) > 0.42), NUMBER["concrete"], 0.9)
    luck = lot.world.chance(bay.astype(np.intp) + 7 * lot.i, row.astype(np.intp) + 5 * lot.j, 97)
    taken = parking & (np.abs(x - 0.5) < 0.32) & (np.abs(y - 0.3) < 0.13) & (luck < 0.5 * lot.luck(10))
    sketch.put(taken, NUMBER["car 0"] + 8 * luck, 1.0, 1.4)


def _buildings(sketch: Sketch, lot: Lots, works: Flags, roof: Singles, unit: Flags, cloudy: Singles) -> None:
    """Houses with gables, which fall from the ridge to both eaves, and flat halls with a few units on top."""
    house = lot.inside > 0
    slope = np.where(works, 0, 0.45 * lot.inside)
    numbers = np.where(works, NUMBER["hall 0"] + 4 * lot.luck(4), NUMBER["roof 0"] + 7 * lot.luck(4))
    height = roof * (0.8 + 0.4 * lot.luck(6)) + slope
    sketch.put(house, numbers, 0.94 + 0.14 * lot.luck(5) + 0.012 * cloudy, height)
    sketch.put(house & works & unit & (lot.inside > 4), NUMBER["old asphalt"], 0.9, height + 2)
