"""The parts of a run, put into their places as they come: one array a quantity, no part is kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .grid import IntArray, TileRange, bounding_range
from .journal import Part
from .labels import ByteArray, FloatArray


@dataclass(frozen=True)
class Gathered:
    """The M classified of N tiles, from the north-west line by line: columns, rows (M,), probabilities (M, K),
    valid_fraction (M,), thumbnails (M, k, k, 3). best_valid: the largest valid fraction of all N; left_out: N - M;
    read_seconds, network_seconds: spent on all parts."""

    columns: IntArray
    rows: IntArray
    probabilities: FloatArray
    valid_fraction: FloatArray
    thumbnails: ByteArray
    best_valid: float
    left_out: int
    read_seconds: float
    network_seconds: float


def gather(columns: IntArray, rows: IntArray, parts: Iterable[Part]) -> Gathered:
    """Gather the parts (at least one) of the tiles at `columns`, `rows` (N,), which come in any order."""
    tiles = bounding_range(columns, rows)
    columns, rows, keys = _in_order(columns, rows, tiles)
    count = len(keys)
    kept = np.zeros(count, bool)
    valid = np.zeros(count, np.float32)
    probabilities = thumbnails = None
    seconds = np.zeros(2)
    for part in parts:
        if probabilities is None or thumbnails is None:
            probabilities = np.empty((count, *part.probabilities.shape[1:]), np.float32)
            thumbnails = np.empty((count, *part.thumbnails.shape[1:]), np.uint8)
        at = np.searchsorted(keys, _keys(part.columns, part.rows, tiles))
        kept[at], valid[at] = part.classified, part.valid_fraction
        probabilities[at[part.classified]] = part.probabilities
        thumbnails[at[part.classified]] = part.thumbnails
        seconds += part.read_seconds, part.network_seconds
    assert probabilities is not None and thumbnails is not None  # there is a part
    del keys
    best, left_out = float(valid.max(initial=0)), count - int(np.count_nonzero(kept))
    if left_out:
        columns, rows, probabilities = columns[kept], rows[kept], probabilities[kept]
        valid, thumbnails = valid[kept], thumbnails[kept]
    return Gathered(columns, rows, probabilities, valid, thumbnails, best, left_out, *seconds.tolist())


def _in_order(columns: IntArray, rows: IntArray, tiles: TileRange) -> tuple[IntArray, IntArray, IntArray]:
    """The tiles from the north-west line by line, as most plans have them, and a number of each that rises with it."""
    keys = _keys(columns, rows, tiles)
    if (np.diff(keys) > 0).all():
        return columns, rows, keys
    keys, first = np.unique(keys, return_index=True)
    return columns[first], rows[first], keys


def _keys(columns: IntArray, rows: IntArray, tiles: TileRange) -> IntArray:
    return np.asarray((tiles.top - 1 - rows) * tiles.columns + (columns - tiles.left), np.int64)
