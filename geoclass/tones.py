"""Tones: the colours of one date brought to those of another, so that a model meets what it was trained on.

Relative radiometric normalisation by matching histograms over common ground (Yang & Lo 2000, International Journal of
Remote Sensing 21:1911–1930, compares such methods): each band's brightness is mapped by a monotone curve so that its
cumulative distribution becomes the reference's.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .blocks import plan_blocks, read_ahead
from .errors import SceneError
from .grid import IntArray, TileGrid
from .mosaic import Mosaic

LEVELS = 256
"""Steps of brightness, 0–255, that a curve is given at; in between it is linear."""

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tone:
    """curves: (C, 256) the brightness, 0–255, that each level of each of `bands` is changed to; `reference` names what
    it was matched to, `tiles` how many common tiles it was measured on."""

    bands: tuple[str, ...]
    curves: npt.NDArray[np.float32]
    reference: str
    tiles: int

    @property
    def digest(self) -> str:
        """32 hex digits that differ where the curves do."""
        return hashlib.blake2b(self.curves.tobytes(), digest_size=16).hexdigest()

    @property
    def shifts(self) -> dict[str, float]:
        """Mean change of each band's brightness over the levels, −255 to 255."""
        change = self.curves.astype(np.float64) - np.arange(LEVELS)
        return dict(zip(self.bands, change.mean(axis=1).round(2).tolist(), strict=True))


def match(own: Counts, reference: Counts) -> npt.NDArray[np.float32]:
    """(C, 256) curves that give pixels counted in `own` (C, 256) the distribution of `reference` (C, 256).

    Beyond the levels that `own` has, a curve goes on in parallel to the identity.
    """
    levels = np.arange(LEVELS)
    curves = np.empty(own.shape, np.float32)
    for band, (have, want) in enumerate(zip(own, reference, strict=True)):
        # The middle of each step: the share of pixels darker, and half of those as dark.
        share = (have.cumsum() - have / 2) / have.sum()
        wanted = (want.cumsum() - want / 2) / want.sum()
        known = np.flatnonzero(want)
        curve = np.interp(share, wanted[known], known)
        first, last = np.flatnonzero(have)[[0, -1]]
        curve[:first] = curve[first] + levels[:first] - first
        curve[last + 1 :] = curve[last] + levels[last + 1 :] - last
        curves[band] = curve.clip(0, LEVELS - 1)
    return curves


def histograms(mosaic: Mosaic, grid: TileGrid, bands: tuple[str, ...], columns: IntArray, rows: IntArray) -> Counts:
    """(C, 256) how many pixels of these tiles have each level of brightness; tiles partly without data do not count.

    Raises SceneError where none is whole.
    """
    scale, offset = mosaic.sensor.scale.affine()
    counts = np.zeros((len(bands), LEVELS), np.int64)
    blocks = plan_blocks(mosaic, grid, len(bands), columns, rows)
    for read in read_ahead(mosaic, grid, bands, blocks, 1, overlap=False):
        for pixels, share in zip(read.tiles, read.valid_fraction, strict=True):
            if share == 1:
                levels = (pixels.astype(np.float32) * scale + offset).clip(0, LEVELS - 1).round().astype(np.uint8)
                counts += [np.bincount(band.ravel(), minlength=LEVELS) for band in levels]
    if not counts.sum():
        raise SceneError(f"no tile of {mosaic.name} that both dates share is whole; colours cannot be matched there")
    return counts
