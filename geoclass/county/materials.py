"""What the made-up countryside is painted with: materials and their colours, textures, and the canvas."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .landscape import Flags, Ground, Singles

HALO_PX = 14  # the longest shadow, and the blur
PERIOD_PX = 1024
BLOCK_PX = 512  # the largest window drawn at once

# What a camera sees of each material at the first and at the second date: red, green, blue from 0 to 255.
MATERIALS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "deep": ((42, 60, 68), (44, 62, 66)),
    "shallow": ((80, 98, 90), (84, 100, 90)),
    "leaf": ((82, 104, 70), (98, 106, 68)),
    "needle": ((60, 82, 66), (60, 78, 64)),
    "grass": ((128, 140, 98), (138, 140, 100)),
    "lawn": ((116, 138, 92), (124, 136, 92)),
    "corn": ((92, 120, 72), (126, 128, 86)),
    "beans": ((122, 144, 92), (140, 140, 90)),
    "wheat": ((190, 174, 128), (188, 170, 126)),
    "hay": ((138, 152, 102), (140, 146, 102)),
    "ploughed": ((148, 124, 104), (144, 122, 104)),
    "loam": ((116, 100, 88), (114, 100, 88)),
    "stubble": ((176, 160, 124), (174, 156, 120)),
    "sprouts": ((146, 140, 104), (146, 138, 102)),
    "orchard": ((134, 138, 100), (140, 136, 98)),
    "asphalt": ((112, 112, 112), (112, 112, 112)),
    "old asphalt": ((136, 134, 130), (136, 134, 130)),
    "concrete": ((184, 182, 174), (184, 182, 174)),
    "dirt": ((168, 150, 124), (168, 150, 124)),
    "sand": ((206, 192, 164), (204, 190, 162)),
    "rock": ((176, 168, 158), (176, 168, 158)),
    "pool": ((100, 178, 194), (100, 174, 190)),
    "roof 0": ((98, 96, 96), (98, 96, 96)),
    "roof 1": ((128, 120, 114), (128, 120, 114)),
    "roof 2": ((134, 104, 90), (134, 104, 90)),
    "roof 3": ((156, 136, 118), (156, 136, 118)),
    "roof 4": ((80, 80, 86), (80, 80, 86)),
    "roof 5": ((178, 174, 170), (178, 174, 170)),
    "roof 6": ((118, 82, 74), (118, 82, 74)),
    "hall 0": ((220, 220, 216), (220, 220, 216)),
    "hall 1": ((190, 192, 194), (190, 192, 194)),
    "hall 2": ((148, 150, 154), (148, 150, 154)),
    "hall 3": ((204, 196, 182), (204, 196, 182)),
    "car 0": ((232, 232, 232), (232, 232, 232)),
    "car 1": ((50, 52, 58), (50, 52, 58)),
    "car 2": ((138, 56, 52), (138, 56, 52)),
    "car 3": ((76, 96, 128), (76, 96, 128)),
}
NUMBER = {name: number for number, name in enumerate(MATERIALS)}
PALETTES = np.array([[colours[date] for colours in MATERIALS.values()] for date in (0, 1)], np.float32)
WARMTH = np.array([1.0, 0.3, -0.35], np.float32)  # how red, green and blue shift for one step from green to brown
SHADE_TINT = np.array([0.52, 0.57, 0.67], np.float32)  # what skylight leaves of a colour in a shadow


class Textures(NamedTuple):
    """Pictures that repeat every PERIOD_PX: crowns of trees (heights in px), their tone in [0, 1), and three noises
    of mean 0 and deviation 1 from fine to broad."""

    crown: Singles
    tone: Singles
    grain: Singles
    cloudy: Singles
    patchy: Singles


@cache
def textures() -> Textures:
    """All of them, made once. They are the same in every world, which moves about on them."""
    random = np.random.default_rng(224)
    crown, tone = _crowns(random, 7)
    small, small_tone = _crowns(random, 4)
    low = small * 0.62 > crown
    pictures = (
        np.where(low, small * 0.62, crown),
        np.where(low, small_tone, tone),
        _filtered(random, slope=0.0, blur_px=0.9),
        _filtered(random, slope=1.1, blur_px=1.5),
        _filtered(random, slope=1.7, blur_px=8.0),
    )
    # The first rows and columns come again at the end, so that any window is a plain slice.
    return Textures(*(np.pad(picture, (0, BLOCK_PX + 2 * HALO_PX), mode="wrap") for picture in pictures))


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


def _filtered(random: np.random.Generator, *, slope: float, blur_px: float) -> Singles:
    """Periodic noise of mean 0 and deviation 1 whose amplitude falls as frequency to the power -slope."""
    spectrum = np.fft.rfft2(random.standard_normal((PERIOD_PX, PERIOD_PX)))
    frequency = np.hypot(np.fft.fftfreq(PERIOD_PX)[:, None], np.fft.rfftfreq(PERIOD_PX)[None, :])
    # Nothing slower than a sixteenth of the period: it would show where the pattern repeats.
    kept = (frequency * PERIOD_PX > 16) * np.exp(-((frequency * blur_px) ** 2) * 4)
    noise = np.fft.irfft2(spectrum * kept / np.maximum(frequency, 1 / PERIOD_PX) ** slope, s=(PERIOD_PX, PERIOD_PX))
    return np.asarray((noise - noise.mean()) / noise.std(), np.float32)


class Canvas:
    """The picture of one window at one date (0 or 1) while it is being made; all arrays are (h, w).

    material: row of the palette; height: px above the ground; bright: factor on the colour; warm: green to brown.
    """

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

    def put(self, where: Flags, name: str, bright: Any = 1.0, warm: Any = 0.0, height: Any = 0.0) -> None:
        """Cover the pixels of `where` with a material; the other values are arrays (h, w) or numbers."""
        np.copyto(self.material, np.uint8(NUMBER[name]), where=where)
        np.copyto(self.bright, bright, where=where)
        np.copyto(self.warm, warm, where=where)
        np.copyto(self.height, height, where=where)

    def plant(self, where: Flags, scale: float) -> None:
        """Stand trees on the pixels of `where`, `scale` times as high as in a forest."""
        at = np.flatnonzero(where)
        tone, crown, damp = (
            np.ascontiguousarray(picture).ravel()[at]
            for picture in (self.texture.tone, self.texture.crown, self.ground.damp)
        )
        needle = tone * 1.6 + damp > 1.2
        self.material.ravel()[at] = np.where(needle, NUMBER["needle"], NUMBER["leaf"])
        self.height.ravel()[at] = crown * np.float32(scale)
        self.bright.ravel()[at] = 0.88 + 0.3 * tone - 0.1 * damp
        autumn = np.float32(26.0 if self.date else 12.0)
        shade = tone * 7
        self.warm.ravel()[at] = np.where(needle, 0, (shade - np.floor(shade) - 0.6) * autumn)
