"""Where a warper saw the centres of the pixels that it made.

GDAL projects the ends and the middle of a line only, and goes straight between these as long as the middle is off by
no more than an eighth of a pixel, else each half by itself (GDALApproxTransform in alg/gdaltransformer.cpp). A line is as
long as the part of the file that was warped at once: GDAL halves the longer side until a part fits its memory, on
borders of the file's own blocks (GDALWarpOperation::CollectChunkList). Followed step by step, that tells for each pixel
of a file made by nearest neighbours which one it was taken from; exact places are wrong for one in twenty.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import rasterio.windows

Doubles = npt.NDArray[np.float64]
Project = Callable[[Doubles, Doubles], Doubles]
"""Columns and rows of a file, which broadcast to (…) → where their centres lie (2, …), across and down, in pixels of what the
file was made from."""

TOLERANCE_PX = 0.125
"""What gdalwarp and rasterio allow unless told otherwise."""

SHORT = 5
"""Of so many pixels and fewer GDAL projects each."""

MOST_PARTS = 16
"""Into more parts than this, side by side, no file is taken to have been cut: their lines are all but exact."""

NODE_PX = 32
"""Exact places are projected every so many pixels of a file and lie on straight lines between: 0.00002 pixels off at most."""

Parts = tuple[tuple[int, int], ...]
"""First column and width of each part of a file that was warped at once; none of a file whose every pixel was projected."""

EXACT: Parts = ()


def possible_parts(width: int, block_px: int) -> list[Parts]:
    """The ways in which a file of `width` columns, in blocks `block_px` wide, may have been warped, the likeliest first.

    It may have been stored in other blocks when it was made: 256 and 512 pixels are what is common.
    """
    found: list[Parts] = [((0, width),), EXACT]
    count = 2
    while count <= MOST_PARTS:
        for step in (block_px, 1, 256, 512):
            found.append(_halved(width, step, count))
        count *= 2
    return list(dict.fromkeys(found))


def _halved(width: int, step: int, count: int) -> Parts:
    parts: Parts = ((0, width),)
    while len(parts) < count:
        parts = tuple(half for part in parts for half in _halves(*part, step))
    return parts


def _halves(first: int, width: int, step: int) -> Parts:
    left = width // 2
    if left > step:
        left = left // step * step
    return (first, left), (first + left, width - left)


def places(project: Project, parts: Parts, window: rasterio.windows.Window) -> Doubles:
    """Where GDAL saw the centres of a window's pixels: (2, height, width)."""
    if parts == EXACT:
        return _exact(project, window)
    found = np.empty((2, window.height, window.width))
    for first, width in parts:
        _follow(project, first, width, np.arange(window.height), window, found)
    return found


def _exact(project: Project, window: rasterio.windows.Window) -> Doubles:
    columns, across = _nodes(window.col_off, window.width)
    rows, down = _nodes(window.row_off, window.height)
    found: Doubles = down @ project(columns[None, :] - 0.5, rows[:, None] - 0.5) @ across.T
    return found


def _nodes(start: int, count: int) -> tuple[Doubles, Doubles]:
    """Places (n,) along one axis that hold `count` pixels from `start` on, the same for every window, and the weights
    (count, n) that make the pixels' centres of them."""
    first, last = start // NODE_PX, -(-(start + count) // NODE_PX)
    at = (np.arange(start, start + count) + 0.5) / NODE_PX - first
    before = np.floor(at).astype(int)
    weights = np.zeros((count, last - first + 1))
    weights[np.arange(count), before] = 1 - (at - before)
    weights[np.arange(count), before + 1] = at - before
    return NODE_PX * np.arange(first, last + 1, dtype=np.float64), weights


def _follow(
    project: Project,
    first: int,
    width: int,
    lines: npt.NDArray[np.int64],
    window: rasterio.windows.Window,
    found: Doubles,
) -> None:
    """Fill in the run of `width` pixels from column `first` on, in these lines of the window, as far as it lies in there."""
    left, right = max(first, window.col_off), min(first + width, window.col_off + window.width)
    if left >= right or not len(lines):
        return
    columns, rows = np.arange(left, right), (lines + window.row_off)[:, None]
    run = np.s_[left - window.col_off : right - window.col_off]
    if width <= SHORT:
        found[:, lines, run] = project(columns[None, :].astype(float), rows.astype(float))
        return
    middle = (width - 1) // 2
    start, between, end = np.moveaxis(
        project(np.array([[first, first + middle, first + width - 1.0]]), rows.astype(float)), -1, 0
    )
    step = (end - start) / (width - 1)
    straight = np.abs(start + step * middle - between).sum(axis=0) <= TOLERANCE_PX
    found[:, lines[straight], run] = start[:, straight, None] + step[:, straight, None] * (columns - first)
    bent = lines[~straight]
    _follow(project, first, middle, bent, window, found)
    _follow(project, first + middle, width - middle, bent, window, found)
