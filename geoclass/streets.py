"""Towns and farmsteads as seen from above: streets, lots, houses, yards, parking."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .landscape import HOMESTEAD, OPEN_SPACE, SUBURB, TOWN, WORKS, Flags, Floats, Ints, Parcels, Singles, World
from .materials import NUMBER, Canvas


class Style(NamedTuple):
    """Size of lots and houses of a style of building, in px; `trees`: how many of a lot's trees stand."""

    lot_wide: float
    lot_deep: float
    street: float
    half_deep: tuple[float, float]
    half_wide: tuple[float, float]
    roof: float
    trees: float


STYLES = {
    OPEN_SPACE: Style(36, 50, 8, (5.0, 7.5), (7.0, 11.0), 5.5, 0.36),
    SUBURB: Style(23, 36, 8, (4.5, 6.5), (6.0, 8.5), 5.5, 0.2),
    TOWN: Style(18, 28, 9, (5.0, 8.5), (5.5, 8.0), 8.0, 0.1),
    WORKS: Style(92, 84, 11, (17.0, 29.0), (20.0, 37.0), 9.0, 0.02),
    HOMESTEAD: Style(31, 34, 4, (5.0, 9.0), (5.0, 10.0), 6.0, 0.22),
}


def _towns(canvas: Canvas, where: Flags) -> None:
    """Streets, lots, houses, yards: worked out for the developed pixels alone, as flat arrays of n."""
    at = np.flatnonzero(where)
    ground, texture = canvas.ground, canvas.texture
    parcel = ground.parcel.ravel()[at]
    layout = _layout(ground.parcels, canvas.date)
    lot = _lots(layout, parcel, ground.across.ravel()[at], ground.along.ravel()[at])
    pick = lambda picture: np.ascontiguousarray(picture).ravel()[at]  # noqa: E731 - a name for three uses below
    cloudy, grain, tone = pick(texture.cloudy), pick(texture.grain), pick(texture.tone)
    works = layout.works[parcel]
    material = np.where(works, NUMBER["old asphalt"], NUMBER["lawn"]).astype(np.uint8)
    bright = 1 + 0.05 * cloudy + 0.03 * grain + 0.12 * (lot.luck(1) - 0.5)
    warm = np.where(works, 0, 26 * (lot.luck(2) - 0.5) + 4 * cloudy)
    height = np.zeros(len(at), np.float32)

    def put(which: Flags, number: Any, light: Any, tall: Any = 0.0) -> None:
        for array, value in ((material, number), (bright, light), (warm, 0), (height, tall)):
            np.copyto(array, value, where=which, casting="unsafe")

    crown = pick(texture.crown)
    tree = (tone < layout.trees[parcel] * (0.4 + 1.2 * lot.luck(3))) & (crown > 2.2) & ~works
    put(tree, np.where(tone < 0.05, NUMBER["needle"], NUMBER["leaf"]), 0.9 + tone, 0.7 * crown)
    _yards(put, lot, works, cloudy)
    house = lot.inside > 0
    # Gables: the roof falls from its ridge to both eaves; halls are flat.
    slope = np.where(works, 0, 0.45 * np.minimum(lot.inside, lot.eaves))
    roofs = np.where(works, NUMBER["hall 0"] + 4 * lot.luck(4), NUMBER["roof 0"] + 7 * lot.luck(4)).astype(np.uint8)
    put(house, roofs, 0.94 + 0.14 * lot.luck(5) + 0.012 * cloudy, layout.roof[parcel] * (0.8 + 0.4 * lot.luck(6)) + slope)
    unit = house & works & (tone > 0.965) & (crown > 6) & (lot.inside > 4)
    put(unit, NUMBER["old asphalt"], 0.9, layout.roof[parcel] * (0.8 + 0.4 * lot.luck(6)) + 2)
    street = lot.street > 0
    put(street, np.where(layout.dense[parcel], NUMBER["asphalt"], NUMBER["old asphalt"]), 0.98 + 0.02 * cloudy)
    put((lot.street <= 0) & (lot.street > -1.4) & layout.dense[parcel], NUMBER["concrete"], 0.98)
    for array, values in (
        (canvas.material, material), (canvas.bright, bright), (canvas.warm, warm), (canvas.height, height),
    ):  # fmt: skip
        array.ravel()[at] = values


def _yards(put: Any, lot: Lots, works: Flags, cloudy: Singles) -> None:
    """Drives, pools, fences, parked cars."""
    drive = (np.abs(lot.aside - 0.72 * lot.half_wide) < 1.7) & (lot.depth < lot.setback) & ~works
    put(drive, NUMBER["concrete"], 0.92 + 0.03 * cloudy)
    put(drive & (lot.depth > 2) & (lot.depth < 6.5) & (lot.luck(7) < 0.4), NUMBER["car 0"] + 4 * lot.luck(8), 1.0, 1.5)
    pool_x, pool_y = lot.aside + 0.3 * lot.half_wide, lot.depth - 0.86 * lot.full_depth
    put((np.abs(pool_x) < 3.2) & (np.abs(pool_y) < 2.0) & (lot.luck(9) < 0.09) & ~works, NUMBER["pool"], 1.0)
    parking = works & (lot.inside < -5) & (lot.depth > 3)
    stall_x, stall_y = lot.aside + 500, lot.depth + 0.0
    bay = (stall_y - np.floor(stall_y / 17) * 17) < 10
    cell_x, cell_y = np.floor(stall_x / 2.8), np.floor(stall_y / 17)
    car = parking & bay & (np.abs(stall_x / 2.8 - cell_x - 0.5) < 0.32) & (np.abs(stall_y / 17 - cell_y - 0.3) < 0.13)
    luck = lot.world.chance(cell_x.astype(np.intp) + lot.i, cell_y.astype(np.intp) + lot.j, 97)
    put(parking & bay & (np.abs(stall_x / 2.8 - cell_x - 0.5) > 0.42), NUMBER["concrete"], 1.0)
    put(car & (luck < 0.5 * lot.luck(10)), NUMBER["car 0"] + 8 * luck, 1.0, 1.4)


class Layout(NamedTuple):
    """Streets and lots of each parcel, (P,) arrays; lengths in px. A block lies between two parallel streets."""

    parcels: Parcels
    block: Singles
    across_block: Singles
    lots: Singles
    street: Singles
    half_deep: tuple[Singles, Singles]
    half_wide: tuple[Singles, Singles]
    roof: Singles
    trees: Singles
    works: Flags
    dense: Flags


def _layout(parcels: Parcels, date: int) -> Layout:
    style = np.where(parcels.developed(date), parcels.style, HOMESTEAD)
    farm = style == HOMESTEAD
    column = {name: np.array([getattr(STYLES[k], name) for k in range(5)], np.float32)[style] for name in Style._fields if not name.startswith("half")}
    low_deep, high_deep, low_wide, high_wide = (np.array([STYLES[k][3 + n // 2][n % 2] for k in range(5)], np.float32)[style] for n in range(4))
    wide = np.where(farm, 72, parcels.wide).astype(np.float32)
    deep = np.where(farm, 64, parcels.deep).astype(np.float32)
    block = wide / np.maximum(1, np.rint(wide / (2 * column["lot_deep"] + column["street"])))
    across = deep / np.maximum(1, np.rint(deep / np.where(style == WORKS, 330, 230)))
    lots = np.maximum(1, np.rint((across - column["street"]) / column["lot_wide"])).astype(np.float32)
    return Layout(
        parcels, block, across, lots, column["street"], (low_deep, high_deep), (low_wide, high_wide), column["roof"],
        column["trees"], style == WORKS, (style == WORKS) | (style == TOWN),
    )  # fmt: skip


class Lots(NamedTuple):
    """Where n pixels lie in their lots, (n,) arrays in px.

    street: into the street, negative off it; depth: from the street; aside: from the lot's middle line; inside:
    into the house, negative off it; eaves: half the house's shorter side; (i, j) numbers the lot.
    """

    world: World
    i: Ints
    j: Ints
    street: Singles
    depth: Singles
    full_depth: Singles
    aside: Singles
    inside: Singles
    eaves: Singles
    half_wide: Singles
    setback: Singles

    def luck(self, salt: int) -> Singles:
        """(n,) a random number in [0, 1) for each pixel's lot."""
        return self.world.chance(self.i, self.j, 100 + salt)


def _lots(layout: Layout, parcel: Ints, across: Singles, along: Singles) -> Lots:
    block, width = layout.block[parcel], layout.across_block[parcel]
    half_street = 0.5 * layout.street[parcel]
    row, column = np.floor(across / block), np.floor(along / width)
    c, f = across - row * block, along - column * width
    far = c > 0.5 * block
    depth = np.where(far, block - c, c) - half_street
    street = np.maximum(-depth, half_street - np.minimum(f, width - f))
    size = (width - 2 * half_street) / layout.lots[parcel]
    number = np.floor((f - half_street) / size)
    world, parcels = layout.parcels.world, layout.parcels
    i = (2 * row + far).astype(np.intp) + (parcels.i[parcel] * 29)
    j = (column * layout.lots[parcel] + number).astype(np.intp) + (parcels.j[parcel] * 41)

    def between(limits: tuple[Singles, Singles], salt: int) -> Floats:
        low, high = limits[0][parcel], limits[1][parcel]
        return low + (high - low) * world.chance(i, j, salt)

    half_deep = between(layout.half_deep, 91)
    half_wide = np.minimum(between(layout.half_wide, 92), 0.5 * size - 1.5)
    full = 0.5 * block - half_street
    setback = np.minimum(6 + 5 * world.chance(i, j, 93), np.maximum(full - 2 * half_deep - 2, 1))
    aside = f - half_street - (number + 0.5) * size
    shift = (world.chance(i, j, 94) - 0.5) * np.maximum(size - 2 * half_wide - 3, 0) * 0.7
    g, e = np.abs(aside - shift), np.abs(depth - setback - half_deep)
    inside = np.minimum(half_wide - g, half_deep - e)
    # Some houses have a wing to the street.
    wing = np.minimum(0.42 * half_wide - np.abs(aside - shift + 0.5 * half_wide), half_deep + 3.5 - e)
    inside = np.where(world.chance(i, j, 95) < 0.45, np.maximum(inside, wing), inside)
    inside = np.where(world.chance(i, j, 96) < 0.06, -9.0, inside)
    return Lots(
        world, i, j, street, depth, full, aside - shift, inside.astype(np.float32), np.minimum(half_deep, half_wide),
        half_wide, setback,
    )  # fmt: skip
