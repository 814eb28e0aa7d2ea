"""How the made-up countryside looks from an aeroplane: ground in, pictures out.

Each pixel gets a material (a row of a palette), a brightness, a warmth (green to brown) and a height. Heights cast
shadows to the north-west and light the slopes that face the sun in the south-east. Two dates differ in what grows
where, in a drier palette, and in the sensor's response. Fine texture comes from pictures that repeat every
kilometre, made once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .landscape import BARREN, CULTIVATED, DEVELOPED, FOREST, HERBACEOUS, WATER, Bytes, Flags, Ground, Singles, World, survey
from .materials import HALO_PX, NUMBER, PALETTES, RESPONSES, SHADE_TINT, WARMTH, Canvas
from .streets import draw_towns

# Odds of the crops at each date, from early summer to autumn; every one is seen at both.
CROPS = ("corn", "beans", "wheat", "hay", "ploughed", "loam", "stubble", "sprouts", "orchard")
CROP_ODDS = np.array([[20, 18, 13, 12, 9, 8, 6, 8, 6], [17, 11, 7, 12, 14, 10, 18, 5, 6]], np.float64)


def paint(world: World, x: int, y: int, width_px: int, height_px: int, dates: tuple[int, ...] = (0, 1)) -> list[Bytes]:
    """Pictures (3, height_px, width_px) of a window of at most 512 px, one a date (0 or 1); no value is 0."""
    ground = survey(world, x - HALO_PX, y - HALO_PX, width_px + 2 * HALO_PX, height_px + 2 * HALO_PX)
    return [picture(ground, date) for date in dates]


def picture(ground: Ground, date: int) -> Bytes:
    """The picture (3, h, w) of a surveyed window at a date, less a rim of HALO_PX whose shadows would lack casters."""
    canvas = Canvas(ground, date)
    present = np.bincount(canvas.classes.ravel(), minlength=6)
    for land, draw in (
        (HERBACEOUS, _meadows),
        (CULTIVATED, _fields),
        (FOREST, _forest),
        (BARREN, _quarries),
        (WATER, _water),
        (DEVELOPED, _towns),
    ):
        if present[land]:
            draw(canvas, canvas.classes == land)
    _roads(canvas)
    return _developed_film(canvas)


def _meadows(canvas: Canvas, where: Flags) -> None:
    texture, ground = canvas.texture, canvas.ground
    bright = 1 + 0.055 * texture.cloudy + 0.035 * texture.patchy + 0.03 * texture.grain
    canvas.put(where, "grass", bright, 7 * texture.patchy + 4 * texture.cloudy - 14 * ground.damp + 4)
    lone = texture.tone < 0.02 + 0.1 * np.maximum(ground.damp - 0.1, 0)
    hedge = _hedge(canvas)
    canvas.plant(where & (lone | hedge) & (texture.crown > 2.5), 0.6)


def _hedge(canvas: Canvas) -> Flags:
    """Rows of trees along the borders of some parcels."""
    ground = canvas.ground
    lined = np.where(ground.parcels.chance(81) < 0.4, 5.0, 1.2).astype(np.float32)
    return ground.edge < lined[ground.parcel]


def _forest(canvas: Canvas, where: Flags) -> None:
    canvas.plant(where, 1.0)


def _quarries(canvas: Canvas, where: Flags) -> None:
    texture, pit = canvas.texture, canvas.ground.pit
    bench = np.floor((pit + 6 * texture.cloudy) / 26)
    step = (pit + 6 * texture.cloudy) / 26 - bench
    bright = 0.9 + 0.05 * texture.cloudy + 0.05 * texture.patchy + 0.035 * texture.grain + 0.07 * (bench % 2)
    # The wall below each bench is dark on the side away from the sun and bright on the other.
    canvas.put(where, "sand", bright, 5 * texture.patchy)
    canvas.put(where & (texture.patchy + 0.5 * texture.cloudy > 0.5), "rock", bright, 2 * texture.cloudy)
    np.copyto(canvas.height, -3.2 * bench - np.where(step < 0.2, 16 * step, 3.2), where=where)
    puddle = (pit > 62) & (texture.patchy + 0.3 * texture.cloudy < -1.5)
    canvas.put(where & puddle, "shallow", 1.2)
    np.copyto(canvas.bright, canvas.bright * 1.1, where=where & (np.abs(step - 0.55) < 0.11) & ~puddle)


def _water(canvas: Canvas, where: Flags) -> None:
    texture, wet = canvas.texture, canvas.ground.wet
    depth = np.clip(wet / 26 + 0.15 * texture.patchy, 0, 1)
    ripple = 0.012 * texture.grain + 0.022 * texture.cloudy
    canvas.put(where, "deep", 1 + ripple + 0.12 * canvas.ground.damp + 0.75 * (1 - depth) ** 2, 12 * (1 - depth) ** 2)
    canvas.put(where & (wet < 2.5 + texture.cloudy), "shallow", 1.05 + 0.05 * texture.cloudy, 9)


def _fields(canvas: Canvas, where: Flags) -> None:
    """Crops in rows: a crop, a direction and a spacing to each parcel, headlands across, circles under pivots."""
    ground, parcels, texture, date = canvas.ground, canvas.ground.parcels, canvas.texture, canvas.date
    odds = np.cumsum(CROP_ODDS[date]) / CROP_ODDS[date].sum()
    luck = parcels.chance(82 + date)
    # Orchards stay; other parcels change their crop from one date to the next.
    crop = np.where(parcels.chance(84) < 0.06, len(CROPS) - 1, np.searchsorted(odds[:-1], luck * odds[-2]))
    crop = np.where(parcels.pivot & (crop > 2), 0, crop)
    lengthwise = parcels.chance(85) < 0.5
    spacing = (5 + 6 * parcels.chance(86)).astype(np.float32)
    strength = np.array([0.06, 0.05, 0.05, 0.07, 0.06, 0.05, 0.08, 0.09, 0.02], np.float32)[crop]
    level = (0.9 + 0.2 * parcels.chance(87 + date)).astype(np.float32)
    warmth = (18 * (parcels.chance(89 + date) - 0.5)).astype(np.float32)
    at = ground.parcel
    headland = ground.edge < 11
    row = np.where(lengthwise[at] ^ headland, ground.along, ground.across)
    if parcels.pivot.any():
        np.copyto(row, ground.arm, where=parcels.pivot[at])
    turns = row / spacing[at]
    stripe = np.abs(turns - np.floor(turns) - 0.5) * 4 - 1
    tram = turns / 4 - np.floor(turns / 4) < 0.07
    bright = level[at] * (
        1 + strength[at] * stripe + 0.03 * texture.cloudy + 0.045 * texture.patchy + 0.02 * texture.grain - 0.06 * tram
    )
    numbers = np.array([NUMBER[name] for name in CROPS], np.uint8)[crop]
    np.copyto(canvas.material, numbers[at], where=where)
    np.copyto(canvas.bright, bright, where=where)
    np.copyto(canvas.warm, warmth[at] + 5 * texture.patchy, where=where)
    _orchards(canvas, where & (crop == len(CROPS) - 1)[at] & ~headland)
    canvas.put(where & (ground.edge < 2.2), "grass", 0.97 + 0.05 * texture.cloudy, 6)
    canvas.plant(where & _hedge(canvas) & (texture.crown > 2.5), 0.7)


def _orchards(canvas: Canvas, where: Flags) -> None:
    if not where.any():
        return
    a, b = canvas.ground.across, canvas.ground.along
    a, b = a - np.floor(a / 8) * 8 - 4, b - np.floor(b / 7) * 7 - 3.5
    crown = 4.2 - 0.5 * (a * a + b * b) + 0.7 * canvas.texture.cloudy
    tree = where & (crown > 0)
    canvas.put(tree, "leaf", 0.95 + 0.1 * canvas.texture.tone)
    np.copyto(canvas.height, crown, where=tree)


def _roads(canvas: Canvas) -> None:
    """The roads between the sections: verges, carriageway, a line along the middle of main roads."""
    ground, texture = canvas.ground, canvas.texture
    near = (ground.road > -5) & (canvas.classes == DEVELOPED)
    if not near.any():
        return
    verge = near & (ground.road <= 0)
    canvas.put(verge, "grass", 1.03 + 0.05 * texture.cloudy, 8)
    paved = near & (ground.road > 0)
    np.copyto(canvas.height, 0, where=near)
    canvas.put(paved, "old asphalt", 1 + 0.025 * texture.cloudy + 0.02 * texture.grain)
    canvas.put(paved & (ground.lane == 2), "asphalt", 1 + 0.025 * texture.cloudy)
    canvas.put(paved & (ground.lane == 0), "dirt", 1 + 0.04 * texture.cloudy)
    canvas.put(paved & (ground.lane == 2) & (np.abs(ground.road - 6.6) < 0.45), "concrete", 1.02, 8)
    bridge = (ground.wet > 0) & near
    canvas.put(bridge & (ground.road < 1.6), "concrete", 1.05)
    np.copyto(canvas.height, 4, where=bridge)


def _developed_film(canvas: Canvas) -> Bytes:
    """Light, shadows, colour, the lens's blur and the sensor's response."""
    height = canvas.height
    light = canvas.bright
    slope = height[:-2, :-2] - height[2:, 2:]
    light[1:-1, 1:-1] *= np.clip(1 + 0.05 * slope, 0.72, 1.25)
    shaded = np.zeros(height.shape, np.bool_)
    for reach in (1, 2, 4, 6, 8, 11):
        shaded[:-reach, :-reach] |= height[reach:, reach:] > height[:-reach, :-reach] + np.float32(1.25 * reach)
    material = canvas.material.astype(np.intp)
    light += 0.012 * canvas.texture.grain
    gain, gamma, cast = RESPONSES[canvas.date]
    rim = slice(HALO_PX, -HALO_PX)
    bands = []
    for band in range(3):
        colour = PALETTES[canvas.date][:, band][material]
        colour += WARMTH[band] * canvas.warm
        colour *= light
        np.multiply(colour, SHADE_TINT[band], out=colour, where=shaded)
        response = 255 * gain * cast[band] * (np.arange(256) / 255) ** gamma
        table = np.clip(np.rint(response), 1, 255).astype(np.uint8)
        bands.append(table[np.clip(_blurred(colour)[rim, rim], 0, 255).astype(np.uint8)])
    return np.stack(bands)


def _blurred(colour: Singles) -> Singles:
    """Weights 1, 3, 1 each way: edges as soft as a camera's."""
    tall = colour.copy()
    tall[1:-1] = (colour[:-2] + 3 * colour[1:-1] + colour[2:]) * 0.2
    wide = tall.copy()
    wide[:, 1:-1] = (tall[:, :-2] + 3 * tall[:, 1:-1] + tall[:, 2:]) * 0.2
    return wide
