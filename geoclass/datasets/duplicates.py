"""Tiles that show the same picture: copies, recompressed copies, and cuts of the same ground a pixel or two apart.

A pair is alike when the difference hashes of its pictures are near AND so are their thumbnails: pictures with little in
them, such as water, can hash alike without being alike. How the limits were measured stands in the design notes.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import imagehash
import numpy as np
import numpy.typing as npt
import scipy.sparse
import scipy.sparse.csgraph
from PIL import Image

from ..errors import DatasetError

HASH_SIDE = 16
HASH_BITS = HASH_SIDE * HASH_SIDE
THUMBNAIL_PX = 16
MAX_DISTANCE = 72
"""Bits that the hashes of two alike pictures may differ by, of 256, where thumbnails confirm."""
MAX_LEAK_DISTANCE = 40
"""The same for one picture stored twice, where merely overlapping ground does not count."""
CONTRAST_SHARE = 0.6
"""Thumbnails are alike if they differ, on average, by no more than this share of their contrast …"""
LEAST_DIFFERENCE = 2.0
"""… or by no more than this many grey levels, which recompression of a flat picture makes."""
PRINT_PX = 4
HASH_BYTES = HASH_BITS // 8

Hashes = npt.NDArray[np.uint64]
Picture = npt.NDArray[np.uint8]
Pairs = npt.NDArray[np.int64]
_CHUNK = 1024


def dhash(picture: Picture) -> Hashes:
    """(4,) the 256-bit difference hash of a picture (H, W, 3), by imagehash: does each cell get brighter eastwards?"""
    bits = imagehash.dhash(Image.fromarray(picture), HASH_SIDE).hash
    return np.packbits(bits.ravel()).view(">u8").astype(np.uint64)


def dhashes(pictures: Iterable[Picture]) -> Hashes:
    """(N, 4) hashes of pictures (H, W, 3) uint8, taken one at a time."""
    return np.array([dhash(picture) for picture in pictures], dtype=np.uint64).reshape(-1, 4)


def thumbnail(picture: Picture) -> Picture:
    """(16, 16, 3) averages of a picture (H, W, 3), to confirm by."""
    small = Image.fromarray(picture).resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
    return np.asarray(small, np.uint8)


def alike_pairs(hashes: Hashes, thumbnails: Picture, max_distance: int = MAX_DISTANCE) -> Pairs:
    """(M, 2) positions of the alike pairs among N tiles, smaller position first, sorted.

    hashes (N, 4), thumbnails (N, 16, 16, 3). Complete within the limits: tiles are sorted by brightness, and only those
    whose mean brightness could be near enough are compared. Memory grows with N, not with N².
    """
    flat = _flat(thumbnails)
    brightness, contrast = flat.mean(axis=1), _contrast(thumbnails)
    order = np.argsort(brightness, kind="stable")
    bits, level = _signs(hashes[order]), brightness[order]
    # |mean(a) − mean(b)| ≤ mean|a − b|, which may be as large as the limit of the pair; the block's largest is used.
    limit = _limit(contrast[order])
    found = []
    for start in range(0, len(order), _CHUNK):
        end = min(start + _CHUNK, len(order))
        stop = int(np.searchsorted(level, float((level[start:end] + limit[start:end]).max()), side="right"))
        first, second = _near(bits[start:end], bits[start:stop], max_distance)
        ahead = second > first
        first, second = order[start + first[ahead]], order[start + second[ahead]]
        found.append(_confirmed(first, second, flat, flat, contrast, contrast))
    return _sorted_pairs(found, ordered=True)


def look_alikes(hashes: Hashes, thumbnails: Picture, max_distance: int = MAX_DISTANCE) -> npt.NDArray[np.int64]:
    """(N,) group number of each tile: tiles joined by a chain of alike pairs share one; groups count by first tile."""
    pairs = alike_pairs(hashes, thumbnails, max_distance)
    links = scipy.sparse.coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(hashes), len(hashes)))
    _, labels = scipy.sparse.csgraph.connected_components(links, directed=False)
    _, first, group = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[group.ravel()].astype(np.int64)


def drop_look_alikes(groups: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """(N,) which tiles to keep: the first of each group."""
    keep = np.zeros(len(groups), bool)
    keep[np.unique(groups, return_index=True)[1]] = True
    return keep


@dataclass(frozen=True)
class Prints:
    """What is kept of N tiles to know them again: hashes (N, 4) and small thumbnails (N, 4, 4, 3), 80 bytes a tile."""

    hashes: Hashes
    thumbnails: Picture

    def __len__(self) -> int:
        return len(self.hashes)

    def packed(self) -> str:
        """As base64 text, 107 characters a tile; "" for none."""
        parts = [np.ascontiguousarray(self.hashes, dtype=">u8").view(np.uint8).reshape(len(self), HASH_BYTES)]
        parts.append(self.thumbnails.reshape(len(self), PRINT_PX * PRINT_PX * 3))
        return base64.b64encode(np.hstack(parts).tobytes()).decode("ascii")

    @classmethod
    def unpacked(cls, text: str) -> Prints:
        """What `packed` made. Raises DatasetError for anything else."""
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise DatasetError("the record of training tiles is damaged; train the model again") from error
        size = HASH_BYTES + PRINT_PX * PRINT_PX * 3
        if len(data) % size:
            raise DatasetError("the record of training tiles is cut short; train the model again")
        rows = np.frombuffer(data, np.uint8).reshape(-1, size)
        hashes = np.ascontiguousarray(rows[:, :HASH_BYTES]).view(">u8").astype(np.uint64).reshape(-1, 4)
        return cls(hashes, rows[:, HASH_BYTES:].reshape(-1, PRINT_PX, PRINT_PX, 3))


def prints_of(pictures: Iterable[Picture]) -> Prints:
    """The prints of pictures (H, W, 3) uint8, taken one at a time."""
    hashes, small = [], []
    for picture in pictures:
        hashes.append(dhash(picture))
        shrunk = Image.fromarray(picture).resize((PRINT_PX, PRINT_PX), Image.Resampling.BOX)
        small.append(np.asarray(shrunk, np.uint8))
    return Prints(
        np.array(hashes, np.uint64).reshape(-1, 4), np.array(small, np.uint8).reshape(-1, PRINT_PX, PRINT_PX, 3)
    )


def leaks(train: Prints, test: Prints, max_distance: int = MAX_LEAK_DISTANCE) -> Pairs:
    """(M, 2) (training position, test position) of tiles that are the same picture, sorted.

    Copies, recompressed ones among them, and cuts a pixel apart; not merely pictures that overlap, as `alike_pairs`.
    """
    train_bits, test_bits = _signs(train.hashes), _signs(test.hashes)
    contrast = _contrast(test.thumbnails)
    found = []
    for start, first, second in _near_by_chunks(train_bits, test_bits, max_distance):
        here = train.thumbnails[start : start + _CHUNK]
        pairs = _confirmed(first, second, _flat(here), _flat(test.thumbnails), _contrast(here), contrast)
        found.append(pairs + np.array([start, 0]))
    return _sorted_pairs(found, ordered=False)


def _signs(hashes: Hashes) -> npt.NDArray[np.int8]:
    """(N, 256) bits as 1 and -1; two rows' product is 256 − 2 × their distance."""
    data = np.ascontiguousarray(hashes, dtype=">u8").view(np.uint8).reshape(len(hashes), HASH_BYTES)
    return (np.unpackbits(data, axis=1).astype(np.int8) * 2 - 1).astype(np.int8)


def _near(a: npt.NDArray[np.int8], b: npt.NDArray[np.int8], most: int) -> tuple[Pairs, Pairs]:
    """Positions of the rows of `a` and `b` that differ in at most `most` bits; by matrix product, a piece at a time."""
    left = a.astype(np.float32)
    found = []
    for start in range(0, len(b), 4 * _CHUNK):
        product = left @ b[start : start + 4 * _CHUNK].astype(np.float32).T
        first, second = np.nonzero(product >= HASH_BITS - 2 * most)
        found.append((first, second + start))
    firsts = np.concatenate([item[0] for item in found]) if found else np.empty(0, np.int64)
    seconds = np.concatenate([item[1] for item in found]) if found else np.empty(0, np.int64)
    return firsts, seconds


def _near_by_chunks(a: npt.NDArray[np.int8], b: npt.NDArray[np.int8], most: int) -> Iterator[tuple[int, Pairs, Pairs]]:
    for start in range(0, len(a), _CHUNK):
        yield start, *_near(a[start : start + _CHUNK], b, most)


def _flat(thumbnails: Picture) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(thumbnails, dtype=np.uint8).reshape(len(thumbnails), int(np.prod(thumbnails.shape[1:])))


def _contrast(thumbnails: Picture) -> npt.NDArray[np.float32]:
    """(N,) standard deviation of a thumbnail about its own mean colour, in grey levels."""
    parts = [
        thumbnails[n : n + _CHUNK].std(axis=(1, 2), dtype=np.float32).mean(axis=1)
        for n in range(0, len(thumbnails), _CHUNK)
    ]
    return np.concatenate([np.empty(0, np.float32), *parts])


def _limit(contrast: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(np.maximum(LEAST_DIFFERENCE, CONTRAST_SHARE * contrast), np.float32)


def _confirmed(
    first: Pairs, second: Pairs, a: Picture, b: Picture,
    contrast_a: npt.NDArray[np.float32], contrast_b: npt.NDArray[np.float32],
) -> Pairs:  # fmt: skip
    """The pairs whose thumbnails (lines of `a` and `b`) agree: judged by the flatter of the two."""
    keep = np.zeros(len(first), bool)
    for start in range(0, len(first), 4 * _CHUNK):
        one, other = first[start : start + 4 * _CHUNK], second[start : start + 4 * _CHUNK]
        difference = np.abs(a[one].astype(np.int16) - b[other]).mean(axis=1)
        keep[start : start + len(one)] = difference <= _limit(np.minimum(contrast_a[one], contrast_b[other]))
    return np.stack([first[keep], second[keep]], axis=1)


def _sorted_pairs(found: list[Pairs], ordered: bool) -> Pairs:
    pairs = np.concatenate([np.empty((0, 2), np.int64), *found]).astype(np.int64)
    if ordered:
        pairs.sort(axis=1)
    return np.asarray(pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))])
