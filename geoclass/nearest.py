"""Files made from an image on the lattice by taking nearest pixels, and how their pixels are put back.

gdalwarp and rasterio resample by nearest neighbours unless told otherwise: each pixel of the new file is, unchanged, the
one of the old image in which its centre falls. Resampled a second time such a file is blurred, or loses lines again. Where
the old image lay on the lattice that is asked for, each pixel can go back to where it was taken from, bit for bit;
what remains are those that were never taken. Where a centre falls is asked as GDAL did (see `scanlines`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyproj
import rasterio
import rasterio.errors
import rasterio.windows

from .lattice import Lattice, LatticeWindow, Mask, Pixels
from .remote.virtual import source_window
from .scanlines import EXACT, Doubles, Parts, Project, places, possible_parts

SAMPLE_PX = 128
"""The side of the nine windows, spread over a file, that tell what it is."""

LEAST_PAIRS = 100
"""Fewer pairs of pixels of one kind tell nothing."""

LEAST_EQUAL = 0.3
"""Of two neighbours with one origin this share at least is equal in a copy: not all, where the warper saw them elsewhere.
In other files it is the share of any two neighbours, mostly below 0.1."""

ALL_EQUAL = 0.999
"""From this share on it is clear that the file is a copy, and how it was warped."""

UNSURE_PX = 0.02
"""Closer to the side of a lattice pixel a centre's origin is not sure until it is known how a file was warped."""

MOST_EQUAL = 0.5
"""Where more of all neighbours are equal than this (water, drawings, enlarged pixels), a file tells nothing."""

AROUND = ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))
"""The neighbours (down, across) of a pixel, those straight across from each other first."""

LEAST_AROUND = 4
"""From so many neighbours on a pixel lies among those of the file, and not just outside it."""

LEAST_JUMP = 1.1
"""In a copy, neighbours whose origins lie further apart differ at least so many times more: 1.12 to 1.3 on NAIP and
RSSCN7. It is 0.92 to 1.06 in a file that was resampled by another kernel, or from another lattice."""


class NearestCopy:
    """Layers `indexes` of a file in the CRS `own`, whose pixels are put back on those of the lattice in which their centres
    fall. `has_data` tells which pixels (layers, height, width) of the file have data, None where all have."""

    def __init__(
        self,
        dataset: rasterio.DatasetReader,
        indexes: Sequence[int],
        own: pyproj.CRS,
        lattice: Lattice,
        has_data: Callable[[Pixels], Mask | None],
    ) -> None:
        self._dataset, self._indexes, self._own, self._lattice = dataset, list(indexes), own, lattice
        self._has_data = has_data
        self._move = pyproj.Transformer.from_crs(own, lattice.crs, always_xy=True)
        self._parts = EXACT

    def read(self, window: LatticeWindow, out: Pixels) -> Mask | None:
        """Fill the first layers of `out` (layers, height, width) with `window`. Returns which pixels have data, None where all have.

        A pixel that was never taken becomes the mean of those on two opposite sides of it, else of all that touch it.
        Those outside the file are 0.
        """
        # One pixel more on each side, so that what is filled in does not depend on the window.
        wide = LatticeWindow(window.column - 1, window.line - 1, window.width + 2, window.height + 2)
        target = rasterio.windows.Window(0, 0, wide.width, wide.height)
        transform = self._lattice.transform(wide.column, wide.line)
        place = source_window(self._dataset, self._lattice.crs, self._own, transform, target)
        source = self._dataset.read(self._indexes, window=place)
        columns, lines = np.floor(places(self._project, self._parts, place)).astype(np.int64)
        columns -= wide.column
        lines -= wide.line
        within = (columns >= 0) & (columns < wide.width) & (lines >= 0) & (lines < wide.height)
        at = (lines[within], columns[within])
        pixels = np.zeros((len(source), wide.height, wide.width), source.dtype)
        pixels[:, *at] = source[:, within]
        taken, valid = np.zeros((2, wide.height, wide.width), bool)
        taken[at] = True
        found = self._has_data(source)
        valid[at] = True if found is None else found[within]
        _fill(pixels, taken, valid)
        rows, across = window.slices_in(wide)
        out[: len(pixels)] = pixels[:, rows, across]
        return None if valid[rows, across].all() else valid[rows, across]

    def is_one(self) -> bool:
        """Whether the file is a copy by nearest neighbours of an image on the lattice. If so, it is found out how it was
        warped, which `read` then follows.

        If it is, neighbours with one origin are equal: all of them, once it is known how it was warped. Where that cannot be
        found out, neighbours whose origins have no side in common differ more than others, as what lies further apart
        does. No other file knows where the lattice's pixels end.
        """
        samples = list(self._samples())
        told = _told(samples, self._project, EXACT, UNSURE_PX)
        if not told.may_be_copy:
            return False
        shares: dict[Parts, float] = {}
        for parts in possible_parts(self._dataset.width, self._dataset.block_shapes[0][1]):
            shares[parts] = _told(samples, self._project, parts).share_equal
            if shares[parts] >= ALL_EQUAL:
                break
        self._parts = max(shares, key=lambda parts: shares[parts])
        return shares[self._parts] >= ALL_EQUAL or told.jump >= LEAST_JUMP

    def _samples(self) -> Iterator[_Sample]:
        wide, high = min(SAMPLE_PX, self._dataset.width), min(SAMPLE_PX, self._dataset.height)
        for down in (0.1, 0.5, 0.9):
            for across in (0.1, 0.5, 0.9):
                left, top = (self._dataset.width - wide) * across, (self._dataset.height - high) * down
                window = rasterio.windows.Window(int(left), int(top), wide, high)
                try:
                    pixels = self._dataset.read(self._indexes, window=window)
                except rasterio.errors.RasterioError:
                    continue  # told where these pixels are wanted
                valid, finite = self._has_data(pixels), np.isfinite(pixels).all(axis=0)
                yield _Sample(window, pixels, finite if valid is None else valid & finite)

    def _project(self, columns: Doubles, rows: Doubles) -> Doubles:
        """Where on the lattice, in its pixels, the centres of pixels of the file lie, see `scanlines.Project`."""
        i, j = np.broadcast_arrays(columns + 0.5, rows + 0.5)
        t = self._dataset.transform
        x, y = self._move.transform(t.a * i + t.b * j + t.c, t.d * i + t.e * j + t.f)
        # What has no place in the lattice's CRS is far from any window of it.
        far = np.iinfo(np.int32).min
        return np.nan_to_num(np.stack([x, np.negative(y)]) / self._lattice.res, nan=far, posinf=far, neginf=far)


@dataclass(frozen=True)
class _Sample:
    """A window of a file, its pixels (layers, height, width), and which of them have data."""

    window: rasterio.windows.Window
    pixels: Pixels
    usable: Mask


@dataclass(frozen=True)
class _Told:
    """What pairs of neighbours (2 axes, 3 kinds: one origin, origins side by side, origins further apart) say: their
    number, how many of them are equal, and the sum of their differences."""

    pairs: Doubles
    equal: Doubles
    difference: Doubles

    @property
    def share_equal(self) -> float:
        """Of pairs with one origin, the share that is equal; 0 where too few of them are there to tell."""
        alone = self.pairs[:, 0].sum()
        return float(self.equal[:, 0].sum() / alone) if alone >= LEAST_PAIRS else 0.0

    @property
    def may_be_copy(self) -> bool:
        alone, beside = self.pairs[:, 0].sum(), self.pairs[:, 1].sum()
        if beside < LEAST_PAIRS or self.equal[:, 1].sum() > MOST_EQUAL * beside:
            return False
        return bool(alone < LEAST_PAIRS or self.share_equal >= LEAST_EQUAL)

    @property
    def jump(self) -> float:
        """How many times more neighbours differ whose origins lie further apart; 0 where too few of them are there to tell."""
        enough = (self.pairs[:, 2] >= LEAST_PAIRS) & (self.difference[:, 1] > 0)
        if not enough.any():
            return 0.0
        jumps = self.difference[enough, 2] / self.pairs[enough, 2] * self.pairs[enough, 1] / self.difference[enough, 1]
        return float(np.average(jumps, weights=self.pairs[enough, 2]))


def _told(samples: Sequence[_Sample], project: Project, parts: Parts, unsure_px: float = 0.0) -> _Told:
    """What samples say if the file was warped in these parts; pairs with one origin count where both centres are further
    from the side of a lattice pixel than `unsure_px`."""
    pairs, equal, difference = np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 3))
    for sample in samples:
        at = places(project, parts, sample.window)
        origins = np.floor(at)
        sure: Mask = np.all(np.abs(at - origins - 0.5) <= 0.5 - unsure_px, axis=0)
        for axis in (0, 1):
            steps = np.minimum(np.abs(np.diff(origins, axis=axis + 1)).sum(axis=0).astype(int), 2)
            apart = np.abs(np.diff(sample.pixels.astype(np.float64), axis=axis + 1)).sum(axis=0)
            both = _pairs(sample.usable, axis) & ((steps > 0) | _pairs(sure, axis))
            pairs[axis] += np.bincount(steps[both], minlength=3)
            equal[axis] += np.bincount(steps[both & (apart == 0)], minlength=3)
            difference[axis] += np.bincount(steps[both], apart[both], minlength=3)
    return _Told(pairs, equal, difference)


def _pairs(mask: Mask, axis: int) -> Mask:
    """Where a pixel and the next one along `axis` are both in `mask`."""
    return mask[1:] & mask[:-1] if axis == 0 else mask[:, 1:] & mask[:, :-1]


def _fill(pixels: Pixels, taken: Mask, valid: Mask) -> None:
    """Give pixels (layers, height, width) that were not `taken` the mean of `valid` ones around them, and mark these so.

    Both in place; the outermost pixels stay as they are.
    """
    rows, columns = (at + 1 for at in np.nonzero(~taken[1:-1, 1:-1]))
    known = np.stack([valid[rows + down, columns + across] for down, across in AROUND])
    # A pair straight across says more of a line that is missing than the corners do, which lie further away.
    pairs = np.repeat(known[:4].reshape(2, 2, -1).all(axis=1), 2, axis=0)
    across_only = pairs.any(axis=0)
    used = np.where(across_only, np.concatenate([pairs, np.zeros_like(pairs)]), known)
    count = used.sum(axis=0)
    enough = across_only | (count >= LEAST_AROUND)
    rows, columns, used, count = rows[enough], columns[enough], used[:, enough], count[enough]
    for layer in pixels:
        whole = layer.dtype.kind in "iu"
        total = np.zeros(len(rows), np.int64 if whole else np.float64)
        for (down, across), use in zip(AROUND, used, strict=True):
            total += np.where(use, layer[rows + down, columns + across], 0).astype(total.dtype)
        layer[rows, columns] = (2 * total + count) // (2 * count) if whole else total / count
    valid[rows, columns] = True
