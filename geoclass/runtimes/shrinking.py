"""Tiles at the side that a network sees them at."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

HALVED_AT_ONCE = 2
"""Tiles that are halved together: little enough to stay in a core's cache."""


def resampled(tiles: torch.Tensor, side_px: int) -> torch.Tensor:
    """Tiles (N, C, H, W) of float32, or of uint8 on a CPU, as (N, C, side, side) of float32, averaged where they shrink.

    Tiles of uint8 that are halved may lie anywhere; others become float32 first. The answer to either is the same but for
    the last bit of the outermost pixels.
    """
    halves = tiles.device.type == "cpu" and tiles.shape[-1] == tiles.shape[-2] == 2 * side_px >= 4
    if tiles.dtype == torch.uint8:
        if halves:
            return halved_levels(tiles)
        tiles = tiles.float()
    if tiles.shape[-1] == side_px and tiles.shape[-2] == side_px:
        return tiles
    if halves:
        return torch.cat([halved(some) for some in torch.split(tiles, HALVED_AT_ONCE)])
    return nn.functional.interpolate(tiles, size=(side_px, side_px), mode="bilinear", antialias=True)


def halved(tiles: torch.Tensor) -> torch.Tensor:
    """Tiles (N, C, H, W) of even sides, 4 and more, at half their size.

    As by torch's antialiased bilinear interpolation, whose weights are 1 : 3 : 3 : 1 then, but by whole lines and columns, in
    two fifths of the time on a CPU.
    """
    lines = _joined(tiles[:, :, 0::2], tiles[:, :, 1::2], 2)
    return _joined(lines[..., 0::2].contiguous(), lines[..., 1::2].contiguous(), 3)


def _joined(first: torch.Tensor, second: torch.Tensor, dim: int) -> torch.Tensor:
    """The first and the second of every two lines as one line, to which the nearest of both neighbours are added."""
    found = (first + second).mul_(0.375)
    last = first.shape[dim] - 1
    found.narrow(dim, 1, last).add_(second.narrow(dim, 0, last), alpha=0.125)
    found.narrow(dim, 0, last).add_(first.narrow(dim, 1, last), alpha=0.125)
    for edge in (0, last):
        found.select(dim, edge).mul_(8 / 7)  # one of the four would lie outside
    return found


def halved_levels(tiles: torch.Tensor) -> torch.Tensor:
    """`halved` of tiles (N, C, H, W) of uint8, as float32: in whole numbers of 16 bit, which hold 64 × 255, tile by tile and in
    the caller's thread, so that it waits for no core that is at work for the network."""
    count, bands, high, wide = tiles.shape
    found = np.empty((count, bands, high // 2, wide // 2), np.float32)
    for tile, small in zip(tiles.numpy(), found, strict=True):
        _halve(np.ascontiguousarray(tile), small)
    return torch.from_numpy(found)


def _halve(tile: npt.NDArray[np.uint8], small: npt.NDArray[np.float32]) -> None:
    pairs = tile.view("<u2")  # of neighbours in a line
    first, second = pairs & 0xFF, pairs >> 8
    columns = first + second
    columns *= 3
    edges = columns[..., 0] + first[..., 1], columns[..., -1] + second[..., -2]
    # Lines end to end: a third of the time of adding line by line. What runs over their ends is put right after.
    flat = columns.reshape(-1)
    flat[1:] += second.reshape(-1)[:-1]
    flat[:-1] += first.reshape(-1)[1:]
    columns[..., 0], columns[..., -1] = edges
    above, below = columns[:, 0::2], columns[:, 1::2]
    both = above + below
    both *= 3
    both[:, 1:] += below[:, :-1]
    both[:, :-1] += above[:, 1:]
    small[:] = both
    small *= np.float32(1 / 64)
    for edge in (small[:, 0], small[:, -1], small[..., 0], small[..., -1]):
        edge *= np.float32(8 / 7)  # one of the four would lie outside
