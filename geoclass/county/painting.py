"""How the made-up countryside looks from an aeroplane: ground in, pictures out.

Each pixel gets a material (a row of a palette), a brightness, a warmth (green to brown) and a height. Heights cast
shadows to the north-west and light the slopes that face the sun in the south-east. Two dates differ in what grows
where, in a drier palette, and in the sensor's response.
"""

from __future__ import annotations

import numpy as np

from .landscape import (
    BARREN,
    CULTIVATED,
    DEVELOPED,
    FOREST,
    HERBACEOUS,
    WATER,
    Bytes,
    Flags,
    Ground,
    Parcels,
    Singles,
    World,
    survey,
)
from .materials import BLOCK_PX, HALO_PX, NUMBER, PALETTES, SHADE_TINT, WARMTH, Canvas
from .streets import draw_towns

# Odds of the crops at each date, from early summer to autumn, and how plainly their rows show.
CROPS = ("corn", "beans", "wheat", "hay", "ploughed", "loam", "stubble", "sprouts", "orchard")
ODDS = np.array([[20, 18, 13, 12, 9, 8, 6, 8, 0], [17, 11, 7, 12, 14, 10, 18, 5, 0]], np.float64)
ROWS = np.array([0.06, 0.04, 0.05, 0.03, 0.06, 0.04, 0.07, 0.08, 0.02], np.float32)
ORCHARD = len(CROPS) - 1

# The sensor's response at each date: gain, gamma, and a cast of red, green and blue.
RESPONSES = ((1.0, 1.0, (1.0, 1.0, 1.0)), (0.95, 0.87, (1.045, 0.985, 0.92)))


def paint(world: World, x: int, y: int, width_px: int, height_px: int, date: int) -> Bytes:
    """The picture (3, height_px, width_px) of any window at date 0 or 1; no value is 0."""
    whole = np.empty((3, height_px, width_px), np.uint8)
    for top in range(0, height_px, BLOCK_PX):
        for left in range(0, width_px, BLOCK_PX):
            part = whole[:, top : top + BLOCK_PX, left : left + BLOCK_PX]
            part[:] = picture(survey_around(world, x + left, y + top, part.shape[2], part.shape[1]), date)
    return whole


def survey_around(world: World, x: int, y: int, width_px: int, height_px: int) -> Ground:
    """The ground that `picture` needs for a window of at most 512 px: HALO_PX more on every side."""
    return survey(world, x - HALO_PX, y - HALO_PX, width_px + 2 * HALO_PX, height_px + 2 * HALO_PX)


def picture(ground: Ground, date: int) -> Bytes:
    """The picture (3, h, w) of a surveyed window at a date, less a rim of HALO_PX that only casts shadows into it."""
    return exposed(drawn(ground, date))


def drawn(ground: Ground, date: int) -> Canvas:
    """A canvas with everything on it that the ground bears at a date."""
    canvas = Canvas(ground, date)
    present = np.bincount(canvas.classes.ravel(), minlength=6)
    for land, draw in (
        (HERBACEOUS, _meadows),
        (CULTIVATED, _fields),
        (FOREST, _forest),
        (BARREN, _quarries),
        (WATER, _water),
        (DEVELOPED, _built),
    ):
        if present[land]:
            draw(canvas, canvas.classes == land)
    return canvas


def _meadows(canvas: Canvas, where: Flags) -> None:
    """Grass, from mown in stripes to half grown over with bushes, by parcel."""
    ground, parcels, texture, at = canvas.ground, canvas.ground.parcels, canvas.texture, canvas.ground.parcel
    bright = 1 + 0.05 * texture.cloudy + 0.035 * texture.patchy + 0.03 * texture.grain
    level = (0.92 + 0.16 * parcels.chance(65)).astype(np.float32)
    warmth = (20 * (parcels.chance(66) - 0.5)).astype(np.float32)
    mown = parcels.chance(68) < 0.2
    stripe = np.abs(ground.along / 9 - np.floor(ground.along / 9) - 0.5) - 0.25
    bright += (0.22 * mown).astype(np.float32)[at] * stripe
    canvas.put(
        where, "grass", level[at] * bright, warmth[at] + 6 * texture.patchy + 4 * texture.cloudy - 8 * ground.damp
    )
    bushes = np.where(mown, 0, 0.015 + 0.5 * parcels.chance(67) ** 4).astype(np.float32)
    grown = texture.tone < bushes[at] * (1 + ground.damp)
    canvas.plant(where & (grown | _hedge(canvas)) & (texture.crown > 2.5), 0.6)


def _hedge(canvas: Canvas) -> Flags:
    """Rows of trees along the borders of some parcels."""
    ground = canvas.ground
    lined = np.where(ground.parcels.chance(81) < 0.4, 5.0, 1.2).astype(np.float32)
    return np.asarray(ground.edge < lined[ground.parcel])


def _forest(canvas: Canvas, where: Flags) -> None:
    """Full-grown trees, but for young plantations and a margin of low trees around natural woods."""
    canvas.plant(where, 1.0)
    ground, parcels = canvas.ground, canvas.ground.parcels
    age = np.where(parcels.chance(69) < 0.16, 0.55, 0.85 + 0.3 * parcels.chance(63)).astype(np.float32)[ground.parcel]
    np.copyto(canvas.height, canvas.height * age, where=where)
    np.copyto(canvas.bright, canvas.bright * (1.25 - 0.25 * age), where=where)
    low = where & (ground.woods > 0) & (ground.woods < 0.04)
    np.copyto(canvas.height, canvas.height * (0.3 + 17 * ground.woods), where=low)


def _quarries(canvas: Canvas, where: Flags) -> None:
    """Benches, each 4 m lower than the last towards the middle."""
    texture, pit = canvas.texture, canvas.ground.pit
    turns = (pit + 5 * texture.patchy) / 30
    bench = np.floor(turns)
    wall = np.minimum((turns - bench) * 6, 1)
    bright = 0.95 + 0.04 * texture.cloudy + 0.03 * texture.patchy + 0.03 * texture.grain + 0.03 * np.sin(2.4 * bench)
    canvas.put(where, "sand", bright, 4 * texture.patchy + 2 * texture.cloudy - 5, -4.0 * (bench + wall))
    rock = texture.patchy + 0.4 * texture.cloudy + 1.3 * np.sin(1.7 * bench) > 1.0
    canvas.put(where & rock, "rock", bright, 3 * texture.cloudy, -4.0 * (bench + wall))
    # Lorries keep to the middle of each bench.
    np.copyto(canvas.bright, bright * 1.1, where=where & (np.abs(turns - bench - 0.62) < 0.11))


def _water(canvas: Canvas, where: Flags) -> None:
    texture, wet = canvas.texture, canvas.ground.wet
    shoal = np.clip(1 - wet / 26 - 0.12 * texture.patchy, 0, 1) ** 2
    ripple = 0.012 * texture.grain + 0.02 * texture.cloudy
    canvas.put(where, "deep", 1 + ripple + 0.12 * canvas.ground.damp + 0.6 * shoal, 10 * shoal)
    # Ponds lie deep in their quarries and hold no weed.
    pond = where & (wet <= 0)
    canvas.put(where & (wet < 2.5 + texture.cloudy), "shallow", 1.05 + 0.05 * texture.cloudy, 9)
    canvas.put(pond, "shallow", 1.05 + 0.3 * ripple, -6, -60.0)


def _fields(canvas: Canvas, where: Flags) -> None:
    """Crops in rows: a crop, a direction and a spacing to each parcel, headlands across, circles under pivots."""
    ground, parcels, texture, at = canvas.ground, canvas.ground.parcels, canvas.texture, canvas.ground.parcel
    crop = crops(parcels, canvas.date)
    spacing = (5 + 6 * parcels.chance(86)).astype(np.float32)
    headland = ground.edge < 11
    row = np.where((parcels.chance(85) < 0.5)[at] ^ headland, ground.along, ground.across)
    if parcels.pivot.any():
        np.copyto(row, ground.arm, where=parcels.pivot[at])
    turns = row / spacing[at]
    stripe = np.abs(turns - np.floor(turns) - 0.5) * 4 - 1
    tracks = turns / 4 - np.floor(turns / 4) < 0.07
    level = (0.92 + 0.16 * parcels.chance(87 + canvas.date)).astype(np.float32)
    uneven = (0.012 + 0.035 * parcels.chance(84)).astype(np.float32)[at] * texture.patchy
    bright = ROWS[crop][at] * stripe + 0.028 * texture.cloudy + uneven + 0.02 * texture.grain - 0.06 * tracks
    warmth = (12 * (parcels.chance(89 + canvas.date) - 0.5)).astype(np.float32)
    np.copyto(canvas.material, np.array([NUMBER[name] for name in CROPS], np.uint8)[crop][at], where=where)
    np.copyto(canvas.bright, level[at] * (1 + bright), where=where)
    np.copyto(canvas.warm, warmth[at] + 90 * uneven, where=where)
    if (crop == ORCHARD).any():
        _orchards(canvas, where & (crop == ORCHARD)[at] & ~headland)
    canvas.put(where & (ground.edge < 2.2), "grass", 0.97 + 0.05 * texture.cloudy, 6)
    canvas.plant(where & _hedge(canvas) & (texture.crown > 2.5), 0.7)


def crops(parcels: Parcels, date: int) -> Bytes:
    """(P,) what grows on each parcel at a date. Orchards stay; the rest is sown anew."""
    odds = np.cumsum(ODDS[date]) / ODDS[date].sum()
    crop = np.searchsorted(odds, parcels.chance(82 + date), side="right")
    crop = np.where(parcels.pivot & (crop > 2), 0, crop)
    return np.where(~parcels.pivot & (parcels.chance(80) < 0.06), ORCHARD, crop).astype(np.uint8)


def _orchards(canvas: Canvas, where: Flags) -> None:
    """Trees in a lattice of 8 by 7 px."""
    a, b = canvas.ground.across, canvas.ground.along
    a, b = a - np.floor(a / 8) * 8 - 4, b - np.floor(b / 7) * 7 - 3.5
    crown = 4.2 - 0.5 * (a * a + b * b) + 0.7 * canvas.texture.cloudy
    canvas.put(where & (crown > 0), "leaf", 0.95 + 0.1 * canvas.texture.tone, 0, crown)


def _built(canvas: Canvas, where: Flags) -> None:
    draw_towns(canvas, where)
    _roads(canvas, where & (canvas.ground.road > -5))


def _roads(canvas: Canvas, where: Flags) -> None:
    """The roads between the sections: verges, carriageway, a line along the middle of main roads, bridges."""
    if not where.any():
        return
    ground, texture = canvas.ground, canvas.texture
    paved, main = where & (ground.road > 0), ground.lane == 2
    town = ground.parcels.developed(canvas.date)[ground.parcel]
    canvas.put(where, "grass", 1.0 + 0.05 * texture.cloudy, 4)
    canvas.put(paved, "old asphalt", 1 + 0.02 * texture.cloudy)
    canvas.put(paved & main, "asphalt", 1 + 0.02 * texture.cloudy)
    canvas.put(paved & (ground.lane == 0) & ~town, "dirt", 1 + 0.04 * texture.cloudy)
    canvas.put(paved & main & (np.abs(ground.road - 6.6) < 0.45), "concrete", 1.02, 8)
    bridge = where & (ground.wet > 0)
    canvas.put(bridge & (ground.road < 1.6), "concrete", 1.05)
    np.copyto(canvas.height, 4, where=bridge)


def exposed(canvas: Canvas) -> Bytes:
    """The picture (3, h, w) of a canvas, less its rim: light, shadows, colour, the lens's blur, the sensor's response.

    Uses the canvas up.
    """
    height, light = canvas.height, canvas.bright
    slope = height[:-2, :-2] - height[2:, 2:]
    light[1:-1, 1:-1] *= np.clip(1 + 0.045 * slope, 0.74, 1.22)
    light += 0.012 * canvas.texture.grain
    shaded = np.zeros(height.shape, np.bool_)
    for reach in (1, 2, 4, 6, 8, 11):
        shaded[:-reach, :-reach] |= height[reach:, reach:] > height[:-reach, :-reach] + np.float32(1.25 * reach)
    material = canvas.material.astype(np.intp)
    gain, gamma, cast = RESPONSES[canvas.date]
    rim = slice(HALO_PX, -HALO_PX)
    bands = []
    for band in range(3):
        colour = PALETTES[canvas.date][:, band][material]
        colour += WARMTH[band] * canvas.warm
        colour *= light
        np.multiply(colour, SHADE_TINT[band], out=colour, where=shaded)
        seen = 255 * gain * cast[band] * (np.arange(256) / 255) ** gamma
        response = np.clip(np.rint(seen), 1, 255).astype(np.uint8)
        bands.append(response[np.clip(_blurred(colour)[rim, rim], 0, 255).astype(np.uint8)])
    return np.stack(bands)


def _blurred(colour: Singles) -> Singles:
    """Weights 1, 3, 1 each way: edges as soft as a camera's."""
    tall, wide = colour.copy(), colour.copy()
    tall[1:-1] = (colour[:-2] + 3 * colour[1:-1] + colour[2:]) * 0.2
    wide[:, 1:-1] = (tall[:, :-2] + 3 * tall[:, 1:-1] + tall[:, 2:]) * 0.2
    return wide
