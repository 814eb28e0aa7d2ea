"""A block's pixels to a block's part of the result: the same in this process and in a cluster's worker, on one device
and on several."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from time import perf_counter

import numpy as np
import numpy.typing as npt
import torch

from .blocks import BlockPixels
from .journal import Part
from .predict import Begun, Predictor
from .runtimes.lanes import as_tensor


@dataclass(frozen=True)
class _Under:
    """A block that a device is at work on, without its pixels, which the device has by now."""

    pixels: BlockPixels
    keep: npt.NDArray[np.bool_]
    predictor: Predictor
    begun: Begun
    seconds_sending: float


def part_of(pixels: BlockPixels, predictor: Predictor, min_valid: float) -> Part:
    """Classify the tiles of a block whose valid fraction is above 0 and at least `min_valid`."""
    return _finished(_begun(pixels, predictor, min_valid))


def parts_of(
    blocks: Iterable[BlockPixels], predictors: Sequence[Predictor], min_valid: float, ahead: int | None = None
) -> Iterator[tuple[int, Part]]:
    """Yield (block number, part) in the order of `blocks`, which go to the predictors by turns.

    `ahead` blocks are begun before the first is waited for: one for each GPU or runtime with threads of its own, so that
    the next one is made ready while each computes, and none where a block is done when it has been begun. A GPU's memory
    holds ahead + 1 blocks.
    """
    if ahead is None:
        ahead = sum(predictor.works_ahead for predictor in predictors)
    under: deque[_Under] = deque()
    turns = cycle(predictors)
    for pixels in blocks:
        under.append(_begun(pixels, next(turns), min_valid))
        del pixels  # the next ones are read into that memory
        if len(under) > ahead:
            yield _numbered(under.popleft())
    while under:
        yield _numbered(under.popleft())


def _begun(pixels: BlockPixels, predictor: Predictor, min_valid: float) -> _Under:
    keep = (pixels.valid_fraction >= min_valid) & (pixels.valid_fraction > 0)
    start = perf_counter()
    tiles = _tiles(pixels, keep, predictor) if keep.any() else []
    sent = perf_counter() - start
    return _Under(replace(pixels, tiles=(), whole=None), keep, predictor, predictor.begin(tiles), sent)


def _tiles(pixels: BlockPixels, keep: npt.NDArray[np.bool_], predictor: Predictor) -> list[torch.Tensor]:
    """The tiles to classify, (bands, size, size) each, as windows of the block, which goes to the device once."""
    if pixels.whole is None:
        return [as_tensor(tile) for tile, wanted in zip(pixels.tiles, keep, strict=True) if wanted]
    there = predictor.lane.send(pixels.whole)
    tiles = pixels.block.range
    size = pixels.whole.shape[1] // tiles.rows
    down, across = tiles.top - 1 - pixels.block.rows[keep], pixels.block.columns[keep] - tiles.left
    squares = there.unfold(1, size, size).unfold(2, size, size).permute(1, 2, 0, 3, 4)
    lines = [line.unbind() for line in squares.unbind()]
    return [lines[r][c] for r, c in zip(down.tolist(), across.tolist(), strict=True)]


def _numbered(under: _Under) -> tuple[int, Part]:
    return under.pixels.block.number, _finished(under)


def _finished(under: _Under) -> Part:
    prediction = under.predictor.finish(under.begun)
    pixels = under.pixels
    return Part(
        pixels.block.columns,
        pixels.block.rows,
        pixels.valid_fraction,
        under.keep,
        prediction.probabilities,
        prediction.thumbnails,
        pixels.seconds,
        under.seconds_sending + prediction.seconds,
    )
