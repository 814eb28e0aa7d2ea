"""Decoded blocks of files that several windows of a run need, so that each block is decoded once.

Tiles and a file's compressed blocks have different sides, so blocks lie across the borders of the windows that are read
together. Who reads such a block first gives it to the others:

    windows            |         0         |         1         |
    blocks of a file      |  a  |  b  |  c  |  d  |  e  |  f  |     c is decoded for window 0, and kept for window 1

A block is kept until the last window that it reaches into was read. Where two threads want it at once, one decodes it and
the other waits.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from .lattice import LatticeWindow, Pixels

KEPT_BYTES = 40 << 20
"""The most that is kept; what would not fit is decoded again by whoever needs it."""

LARGE_BLOCK_BYTES = 2 << 20
KEPT_BYTES_OF_LARGE = 56 << 20
"""The most that is kept of files with large blocks, as JPEG 2000 has: fewer fit, and each costs more to decode again."""

Key = Hashable


@dataclass
class _Kept:
    waiting: set[int]
    pixels: Future[Pixels | None] = field(default_factory=Future)
    nbytes: int = 0


@dataclass(frozen=True)
class Claim:
    """A block that other windows need too: `pixels` will hold it (or None where its reader failed); `mine` says that the
    holder of this claim is to decode it, and must call `Desk.give` or `Desk.fail`."""

    key: Key
    pixels: Future[Pixels | None]
    mine: bool


def most_kept(block_bytes: int) -> int:
    """The bytes to keep of a file whose blocks hold so many."""
    return KEPT_BYTES_OF_LARGE if block_bytes >= LARGE_BLOCK_BYTES else KEPT_BYTES


class SharedBlocks:
    """What the readers of one run share. windows: all that will be read, each once."""

    def __init__(self, windows: Sequence[LatticeWindow], limit: int = KEPT_BYTES) -> None:
        corners = [(w.column, w.line, w.column + w.width, w.line + w.height) for w in windows]
        self._corners = np.array(corners, np.int64).reshape(-1, 4)
        self._open = np.ones(len(windows), bool)
        self._numbers = {window: number for number, window in enumerate(windows)}
        self._kept: dict[Key, _Kept] = {}
        self._keys: defaultdict[int, list[Key]] = defaultdict(list)
        self._lock = threading.Lock()
        self._limit = limit
        self.nbytes = 0

    def desk(self) -> Desk:
        """A reader's access to what is shared."""
        return Desk(self)

    def number(self, window: LatticeWindow) -> int | None:
        """The window's place among those that will be read, None for one that was not announced."""
        return self._numbers.get(window)

    def near(self, area: LatticeWindow, besides: int) -> list[tuple[int, tuple[int, int, int, int]]]:
        """Windows other than `besides` that are still to be read and reach into `area`: (number, corners)."""
        c = self._corners
        right, bottom = area.column + area.width, area.line + area.height
        touch = self._open & (c[:, 0] < right) & (c[:, 2] > area.column) & (c[:, 1] < bottom) & (c[:, 3] > area.line)
        return [(int(n), tuple(c[n].tolist())) for n in np.flatnonzero(touch) if n != besides]

    def claim(self, key: Key, waiting: set[int]) -> Claim | None:
        """Claim a block for which the windows `waiting` wait; None where nobody has it and nobody waits."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                return Claim(key, kept.pixels, False)
            # Read meanwhile: a window that is done needs nothing any more.
            waiting = {number for number in waiting if self._open[number]}
            if not waiting:
                return None
            kept = self._kept[key] = _Kept(waiting)
            for number in waiting:
                self._keys[number].append(key)
            return Claim(key, kept.pixels, True)

    def give(self, claim: Claim, pixels: Pixels) -> None:
        """Keep a block that was claimed; who waits for it gets it in any case. Where there is no room for all, those go that
        will be needed last (Belady 1966, "A study of replacement algorithms for a virtual-storage computer", IBM Systems
        Journal 5, 78-101)."""
        with self._lock:
            kept = self._kept.get(claim.key)
            if kept is not None:
                kept.nbytes = pixels.nbytes
                self.nbytes += kept.nbytes
            while self.nbytes > self._limit:
                self._forget(max(self._held(), key=lambda key: min(self._kept[key].waiting)))
        claim.pixels.set_result(pixels)

    def fail(self, claim: Claim) -> None:
        """Tell those who wait that they must read the block themselves."""
        with self._lock:
            self._kept.pop(claim.key, None)
        claim.pixels.set_result(None)

    def close(self, number: int) -> None:
        """Window `number` was read: forget what no other waits for."""
        with self._lock:
            self._open[number] = False
            for key in self._keys.pop(number, ()):
                kept = self._kept.get(key)
                if kept is None:
                    continue
                kept.waiting.discard(number)
                if not kept.waiting:
                    self._forget(key)

    def _held(self) -> list[Key]:
        """The blocks whose pixels are here."""
        return [key for key, kept in self._kept.items() if kept.nbytes]

    def _forget(self, key: Key) -> None:
        self.nbytes -= self._kept.pop(key).nbytes


class Desk:
    """One reader's access to `SharedBlocks`: it knows which window is being read, and shares nothing outside of one."""

    def __init__(self, shared: SharedBlocks) -> None:
        self.shared = shared
        self._number: int | None = None

    def begin(self, window: LatticeWindow) -> None:
        """From now on, blocks are read for `window`."""
        self._number = self.shared.number(window)

    def end(self, done: bool) -> None:
        """The window was read, or reading it failed."""
        if self._number is not None and done:
            self.shared.close(self._number)
        self._number = None

    def near(self, area: LatticeWindow) -> list[tuple[int, tuple[int, int, int, int]]]:
        """See `SharedBlocks.near`."""
        return [] if self._number is None else self.shared.near(area, self._number)
