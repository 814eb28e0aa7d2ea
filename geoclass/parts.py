"""A block's pixels to a block's part of the result: the same in this process and in a cluster's worker."""

from __future__ import annotations

from .blocks import BlockPixels
from .journal import Part
from .predict import Predictor


def part_of(pixels: BlockPixels, predictor: Predictor, min_valid: float) -> Part:
    """Classify the tiles of a block whose valid fraction is above 0 and at least `min_valid`."""
    keep = (pixels.valid_fraction >= min_valid) & (pixels.valid_fraction > 0)
    prediction = predictor([tile for tile, wanted in zip(pixels.tiles, keep, strict=True) if wanted])
    return Part(
        pixels.block.columns,
        pixels.block.rows,
        pixels.valid_fraction,
        keep,
        prediction.probabilities,
        prediction.thumbnails,
        pixels.seconds,
        prediction.seconds,
    )
