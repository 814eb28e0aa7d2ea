"""Blocks of remote files, held in memory so that each is fetched once.

Tiles do not end where a file's blocks end. A block on the seam of two reads would be fetched by both, and the tiles that
the doctor looks at would be fetched again by the run: on a network that costs more than anything else. All threads share
what is held here, and one that needs a block which another is fetching waits for it.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.windows

from .opening import READ_ERRORS

Pixels = npt.NDArray[Any]
Place = tuple[int, int]
"""Block row and block column."""

Key = tuple[str, str, tuple[int, ...], int, int]
"""Opening and name of the file, band numbers, block row and block column."""

Fetch = Callable[[rasterio.windows.Window], Pixels]
Failed = Callable[[int, BaseException], None]

BUDGET_BYTES = 128 << 20
LARGEST_BLOCK_BYTES = 32 << 20
"""A file of larger blocks (most of the file in one) is read as it comes."""


@dataclass(frozen=True)
class Source:
    """One file, as some of its bands are asked of it: how to `fetch` a window, and what to do where that `failed`.

    `failed` gets the number of failures before and the error; what it does not raise is tried again in two halves, so
    that on a poor network most of a large read need not be fetched twice.
    """

    opening: str
    name: str
    bands: tuple[int, ...]
    block_shape: tuple[int, int]
    height: int
    width: int
    dtype: np.dtype[Any]
    fetch: Fetch
    failed: Failed

    @property
    def block_bytes(self) -> int:
        return self.block_shape[0] * self.block_shape[1] * len(self.bands) * self.dtype.itemsize

    def key(self, place: Place) -> Key:
        return (self.opening, self.name, self.bands, *place)

    def window(self, part: Rectangle) -> rasterio.windows.Window:
        """The pixels of some blocks; the file's last ones are cut off at its edge."""
        down, across = self.block_shape
        return rasterio.windows.Window.from_slices(
            (part.top * down, min(part.bottom * down, self.height)),
            (part.left * across, min(part.right * across, self.width)),
        )

    def read(self, part: Rectangle, failures: int = 0) -> Iterator[tuple[Rectangle, Pixels]]:
        """Yield the blocks of `part`, in one piece or in several where the network fails in between."""
        try:
            pixels = self.fetch(self.window(part))
        except READ_ERRORS as error:
            self.failed(failures, error)
            for half in part.halves():
                yield from self.read(half, failures + 1)
            return
        yield part, pixels


@dataclass(frozen=True)
class Rectangle:
    """Blocks read by one request: half-open ranges of block rows and block columns."""

    top: int
    bottom: int
    left: int
    right: int

    def halves(self) -> tuple[Rectangle, ...]:
        """The upper and the lower part, the left and the right one of a single row, a single block as it is."""
        if self.bottom - self.top > 1:
            middle = (self.top + self.bottom) // 2
            return Rectangle(self.top, middle, self.left, self.right), Rectangle(
                middle, self.bottom, self.left, self.right
            )
        if self.right - self.left > 1:
            middle = (self.left + self.right) // 2
            return Rectangle(self.top, self.bottom, self.left, middle), Rectangle(
                self.top, self.bottom, middle, self.right
            )
        return (self,)


class HeldBlocks:
    """At most `budget` bytes of blocks. Those that a read used up are dropped first, then those unused for longest."""

    def __init__(self, budget: int = BUDGET_BYTES) -> None:
        self.budget = budget
        self._lock = threading.RLock()  # an owner may go, and its blocks with it, while this thread holds the lock
        self._blocks: OrderedDict[Key, Pixels] = OrderedDict()
        self._coming: dict[Key, Future[Pixels]] = {}
        self._watched: dict[str, weakref.finalize[[str], object]] = {}
        self._bytes = 0

    def keep_while(self, owner: object, opening: str) -> None:
        """Drop what is held of an opening once `owner` is gone: nobody can ask for it any more."""
        with self._lock:
            if opening not in self._watched:
                self._watched[opening] = weakref.finalize(owner, self._forget, opening)

    def _forget(self, opening: str) -> None:
        with self._lock:
            self._watched.pop(opening, None)
            for key in [key for key in self._blocks if key[0] == opening]:
                self._bytes -= self._blocks.pop(key).nbytes

    def read(self, source: Source, window: rasterio.windows.Window) -> Pixels:
        """(bands, height, width) of `window`, which must lie inside the source. Raises what `source.failed` raises."""
        down, across = source.block_shape
        top, left = int(window.row_off), int(window.col_off)
        bottom, right = top + int(window.height), left + int(window.width)
        pixels = np.empty((len(source.bands), bottom - top, right - left), source.dtype)
        rows, columns = range(top // down, -(-bottom // down)), range(left // across, -(-right // across))
        for (row, column), block in self._found(source, [(row, column) for row in rows for column in columns]):
            first, start = row * down, column * across
            a, b = max(first, top), min(first + block.shape[1], bottom)
            c, d = max(start, left), min(start + block.shape[2], right)
            pixels[:, a - top : b - top, c - left : d - left] = block[:, a - first : b - first, c - start : d - start]
            if block[0].size == (b - a) * (d - c):
                self._used_up(source.key((row, column)))
        return pixels

    def _found(self, source: Source, places: Sequence[Place]) -> Iterator[tuple[Place, Pixels]]:
        """Yield each block as it is there: those held, those fetched here, those that other threads are fetching."""
        waiting = list(places)
        while waiting:
            there: dict[Place, Pixels] = {}
            others: dict[Place, Future[Pixels]] = {}
            mine: dict[Place, Future[Pixels]] = {}
            with self._lock:
                for place in waiting:
                    key = source.key(place)
                    if key in self._blocks:
                        self._blocks.move_to_end(key)
                        there[place] = self._blocks[key]
                    elif key in self._coming:
                        others[place] = self._coming[key]
                    else:
                        mine[place] = self._coming[key] = Future()
            try:
                yield from there.items()
                yield from self._fetched(source, mine)
            finally:
                self._give_up(source, mine)
            waiting = []
            for place, coming in others.items():
                try:
                    yield place, coming.result()
                except InterruptedError:  # the other thread tells its own failure; this one tries for itself
                    waiting.append(place)

    def _fetched(self, source: Source, mine: dict[Place, Future[Pixels]]) -> Iterator[tuple[Place, Pixels]]:
        down, across = source.block_shape
        for wanted in rectangles(sorted(mine)):
            for part, pixels in source.read(wanted):
                for row in range(part.top, part.bottom):
                    for column in range(part.left, part.right):
                        y, x = (row - part.top) * down, (column - part.left) * across
                        block = pixels[:, y : y + down, x : x + across].copy()
                        self._keep(source.key((row, column)), block)
                        mine[row, column].set_result(block)
                        yield (row, column), block

    def _give_up(self, source: Source, mine: dict[Place, Future[Pixels]]) -> None:
        """Nobody is to wait for what is not coming."""
        with self._lock:
            for place in mine:
                self._coming.pop(source.key(place), None)
        for future in mine.values():
            if not future.done():
                future.set_exception(InterruptedError())

    def _keep(self, key: Key, block: Pixels) -> None:
        with self._lock:
            self._blocks[key] = block
            self._bytes += block.nbytes
            while self._bytes > self.budget:
                _, dropped = self._blocks.popitem(last=False)
                self._bytes -= dropped.nbytes

    def _used_up(self, key: Key) -> None:
        with self._lock:
            if key in self._blocks:
                self._blocks.move_to_end(key, last=False)


def rectangles(places: Sequence[Place]) -> list[Rectangle]:
    """Sorted places as few rectangles: runs of a row, joined with equal runs of the row above."""
    runs: list[Rectangle] = []
    for row, column in places:
        last = runs[-1] if runs else None
        if last and last.top == row and last.right == column:
            runs[-1] = Rectangle(row, row + 1, last.left, column + 1)
        else:
            runs.append(Rectangle(row, row + 1, column, column + 1))
    joined: dict[tuple[int, int, int], Rectangle] = {}
    for run in runs:
        above = joined.pop((run.top, run.left, run.right), None)
        joined[run.bottom, run.left, run.right] = Rectangle(
            above.top if above else run.top, run.bottom, run.left, run.right
        )
    return sorted(joined.values(), key=lambda part: (part.top, part.left))


held = HeldBlocks()
"""What this process holds."""


def read_shared(
    dataset: rasterio.DatasetReader,
    file: tuple[str, str],
    indexes: Sequence[int],
    window: rasterio.windows.Window,
    fetch: Fetch,
    failed: Failed,
) -> Pixels:
    """(bands, height, width) of a window of `dataset`, from what is held and what `fetch` and `failed` (see `Source`) get.

    `file` tells one opening of one file from others.
    """
    source = Source(
        *file,
        tuple(indexes),
        dataset.block_shapes[0],
        dataset.height,
        dataset.width,
        np.dtype(dataset.dtypes[indexes[0] - 1]),
        fetch,
        failed,
    )
    if source.block_bytes <= LARGEST_BLOCK_BYTES:
        return held.read(source, window)
    failures = 0
    while True:
        try:
            return fetch(window)
        except READ_ERRORS as error:
            failed(failures, error)
            failures += 1
