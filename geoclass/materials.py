"""What the made-up countryside is painted with: materials and their colours, textures, and the canvas."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .landscape import Bytes, Flags, Ground, Singles

HALO_PX = 14  # the longest shadow, and the blur
PERIOD_PX = 1024
BLOCK_PX = 512  # the largest window drawn at once

# What a camera sees of each material at the first and at the second date: red, green, blue from 0 to 255.
MATERIALS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "deep": ((34, 54, 62), (36, 56, 60)),
    "shallow": ((70, 90, 82), (76, 92, 82)),
    "leaf": ((66, 92, 50), (84, 94, 50)),
    "needle": ((42, 66, 46), (42, 62, 44)),
    "grass": ((120, 138, 84), (132, 138, 86)),
    "lawn": ((106, 136, 76), (116, 134, 78)),
    "corn": ((80, 116, 56), (118, 126, 70)),
    "beans": ((116, 144, 78), (136, 140, 76)),
    "wheat": ((188, 170, 114), (186, 166, 112)),
    "hay": ((132, 152, 86), (134, 146, 86)),
    "ploughed": ((142, 114, 88), (138, 112, 88)),
    "loam": ((108, 88, 72), (106, 88, 74)),
    "stubble": ((174, 154, 112), (172, 150, 108)),
    "sprouts": ((140, 134, 90), (140, 132, 88)),
    "orchard": ((128, 132, 88), (134, 130, 86)),
    "asphalt": ((112, 112, 112), (112, 112, 112)),
    "old asphalt": ((134, 132, 128), (134, 132, 128)),
    "concrete": ((182, 180, 172), (182, 180, 172)),
    "dirt": ((168, 146, 114), (168, 146, 114)),
    "sand": ((208, 192, 158), (206, 190, 156)),
    "rock": ((170, 160, 148), (170, 160, 148)),
    "pool": ((92, 178, 196), (92, 174, 190)),
    "roof 0": ((96, 94, 94), (96, 94, 94)),
    "roof 1": ((126, 118, 112), (126, 118, 112)),
    "roof 2": ((134, 98, 82), (134, 98, 82)),
    "roof 3": ((156, 134, 114), (156, 134, 114)),
    "roof 4": ((76, 76, 82), (76, 76, 82)),
    "roof 5": ((176, 172, 168), (176, 172, 168)),
    "roof 6": ((118, 74, 66), (118, 74, 66)),
    "hall 0": ((220, 220, 216), (220, 220, 216)),
    "hall 1": ((190, 192, 194), (190, 192, 194)),
    "hall 2": ((148, 150, 154), (148, 150, 154)),
    "hall 3": ((204, 196, 182), (204, 196, 182)),
    "car 0": ((232, 232, 232), (232, 232, 232)),
    "car 1": ((46, 48, 54), (46, 48, 54)),
    "car 2": ((138, 48, 44), (138, 48, 44)),
    "car 3": ((70, 92, 128), (70, 92, 128)),
}
NUMBER = {name: number for number, name in enumerate(MATERIALS)}
PALETTES = np.array([[colours[date] for colours in MATERIALS.values()] for date in (0, 1)], np.float32)
WARMTH = np.array([1.0, 0.3, -0.35], np.float32)  # how red, green and blue shift for one step from green to brown
SHADE_TINT = np.array([0.5, 0.55, 0.66], np.float32)  # what skylight leaves of a colour in a shadow

# Odds of the crops at each date, from early summer to autumn; every one is seen at both.
CROPS = ("corn", "beans", "wheat", "hay", "ploughed", "loam", "stubble", "sprouts", "orchard")
CROP_ODDS = np.array([[20, 18, 13, 12, 9, 8, 6, 8, 6], [17, 11, 7, 12, 14, 10, 18, 5, 6]], np.float64)

# The sensor's response: gain, gamma, and a cast of red, green and blue.
RESPONSES = ((1.0, 1.0, (1.0, 1.0, 1.0)), (0.95, 0.9, (1.04, 0.98, 0.93)))


class Textures(NamedTuple):
    """Pictures that repeat every PERIOD_PX: crowns of trees, their tone, fine grain, cloudy patches, broad patches."""

    crown: Singles
    tone: Singles
    grain: Singles
    cloudy: Singles
    patchy: Singles


@cache
def textures() -> Textures:
    """Made once: crowns by distance to jittered points, the others by filtering white noise."""
    random = np.random.default_rng(224)
    crown, tone = _crowns(random, 7)
    small, small_tone = _crowns(random, 4)
    smaller = small * 0.62 > crown
    return Textures(
        *(
            np.pad(picture, (0, BLOCK_PX + 2 * HALO_PX), mode="wrap")
            for picture in (
                np.where(smaller, small * 0.62, crown),
                np.where(smaller, small_tone, tone),
                _filtered(random, 0.0, 0.9),
                _filtered(random, 1.1, 1.5),
                _filtered(random, 1.7, 8.0),
            )
        )
    )


def _crowns(random: np.random.Generator, spacing_px: int) -> tuple[Singles, Singles]:
    """Heights in px of round crowns about `spacing_px` apart, and a random number in [0, 1) for each crown."""
    cells = PERIOD_PX // spacing_px
    shift = random.random((3, cells, cells), dtype=np.float32)
    luck = random.random((cells, cells), dtype=np.float32)
    size = np.float32(PERIOD_PX / cells)
    at = (np.arange(PERIOD_PX, dtype=np.float32) + 0.5) / size
    cell = at.astype(np.intp)
    height, tone = np.zeros((PERIOD_PX, PERIOD_PX), np.float32), np.zeros((PERIOD_PX, PERIOD_PX), np.float32)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            here = np.ix_((cell + down) % cells, (cell + right) % cells)
            dy = (at - cell - down)[:, None] - shift[0][here]
            dx = (at - cell - right)[None, :] - shift[1][here]
            radius = 0.55 + 0.5 * shift[2][here]
            dome = (radius * radius - dx * dx - dy * dy) / radius * size * 1.7 + 2.2 * shift[2][here]
            np.copyto(tone, luck[here], where=dome > height)
            np.maximum(height, dome, out=height)
    return height, tone


def _filtered(random: np.random.Generator, slope: float, blur_px: float) -> Singles:
    """Periodic noise of mean 0 and deviation 1 whose amplitude falls as frequency to the power -slope."""
    spectrum = np.fft.rfft2(random.standard_normal((PERIOD_PX, PERIOD_PX)))
    frequency = np.hypot(np.fft.fftfreq(PERIOD_PX)[:, None], np.fft.rfftfreq(PERIOD_PX)[None, :])
    # Nothing slower than a sixteenth of the period: it would show where the pattern repeats.
    kept = (frequency * PERIOD_PX > 16) * np.exp(-((frequency * blur_px) ** 2) * 4)
    noise = np.fft.irfft2(spectrum * kept / np.maximum(frequency, 1 / PERIOD_PX) ** slope, s=(PERIOD_PX, PERIOD_PX))
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


class Canvas:
    """The picture of one window while it is being made; all arrays are (h, w)."""

    def __init__(self, ground: Ground, date: int) -> None:
        self.ground, self.date = ground, date
        self.classes = ground.classes(date)
        shape = self.classes.shape
        self.material = np.full(shape, NUMBER["grass"], np.uint8)
        self.height = np.zeros(shape, np.float32)
        self.bright = np.ones(shape, np.float32)
        self.warm = np.zeros(shape, np.float32)
        top, left = ground.y % PERIOD_PX, ground.x % PERIOD_PX
        window = (slice(top, top + shape[0]), slice(left, left + shape[1]))
        self.texture = Textures(*(picture[window] for picture in textures()))

    def put(self, where: Flags, name: str, bright: Any = None, warm: Any = None) -> None:
        """Cover the pixels of `where` with a material; brightness and warmth are arrays of (h, w), or numbers."""
        np.copyto(self.material, np.uint8(NUMBER[name]), where=where)
        np.copyto(self.bright, 1.0 if bright is None else bright, where=where)
        np.copyto(self.warm, 0.0 if warm is None else warm, where=where)

    def plant(self, where: Flags, scale: float) -> None:
        """Stand trees on the pixels of `where`: crowns of `scale` times the forest's height."""
        tone = self.texture.tone
        needle = tone * 2.2 + self.ground.damp > 1.75
        np.copyto(self.material, np.uint8(NUMBER["leaf"]), where=where)
        np.copyto(self.material, np.uint8(NUMBER["needle"]), where=where & needle)
        np.copyto(self.height, self.texture.crown * np.float32(scale), where=where)
        np.copyto(self.bright, 0.84 + 0.34 * tone, where=where)
        autumn = 30.0 if self.date else 12.0
        np.copyto(self.warm, np.where(needle, 0.0, (tone * 7 % 1 - 0.55) * autumn), where=where)
