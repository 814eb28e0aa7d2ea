"""Requests of many callers through one network, together.

A thread of its own takes whatever waits, up to a batch, whenever the network is free. Nobody waits for a batch to fill:
while the network works on one, the next gathers by itself, the larger the busier the service is.
"""

from __future__ import annotations

import asyncio
import math
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from ..datasets.pictures import Picture
from ..labels import FloatArray
from .refusal import Refusal

Network = Callable[[Sequence[Picture]], FloatArray]
"""N tiles (bands, size, size) → probabilities (N, K)."""


@dataclass(frozen=True)
class Waiting:
    """The tiles of one request, and where its answer goes."""

    tiles: list[Picture]
    answer: asyncio.Future[FloatArray]


class Batcher:
    """Awaitable: a request's tiles → their probabilities (N, K). Raises Refusal (429) where too many wait already."""

    def __init__(self, network: Network, batch: int, most: int, observe: Callable[[int, float], None]) -> None:
        self.network = network
        self.batch = batch
        self.most = most
        self.observe = observe
        self.waiting = 0
        self._seconds = 0.05  # a tile, until it is known
        self._queue: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="network", daemon=True)
        self._thread.start()

    async def __call__(self, tiles: list[Picture]) -> FloatArray:
        if self.waiting and self.waiting + len(tiles) > self.most:
            seconds = max(1, math.ceil(self.waiting * self._seconds))
            raise Refusal(
                429, f"{self.waiting} pictures wait already", "try again later", {"retry-after": str(seconds)}
            )
        item = Waiting(tiles, asyncio.get_running_loop().create_future())
        self.waiting += len(tiles)
        self._queue.put(item)
        try:
            return await item.answer
        finally:
            self.waiting -= len(tiles)

    def close(self) -> None:
        """End the thread after what it is working on."""
        self._queue.put(None)
        self._thread.join(timeout=30)

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            batch, ends = self._gathered(item)
            self._classify([each for each in batch if not each.answer.cancelled()])
            if ends:
                return

    def _gathered(self, first: Waiting) -> tuple[list[Waiting], bool]:
        """What waits, up to a batch, and whether the end is among it."""
        batch, tiles = [first], len(first.tiles)
        while tiles < self.batch:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if item is None:
                return batch, True
            batch.append(item)
            tiles += len(item.tiles)
        return batch, False

    def _classify(self, batch: list[Waiting]) -> None:
        tiles = [tile for item in batch for tile in item.tiles]
        if not tiles:
            return
        start = perf_counter()
        try:
            found = self.network(tiles)
        except Exception as error:  # every caller must hear of it, whatever it is
            for item in batch:
                _tell(item.answer, error)
            return
        seconds = perf_counter() - start
        self._seconds = 0.8 * self._seconds + 0.2 * seconds / len(tiles)
        self.observe(len(tiles), seconds)
        for item, part in zip(batch, np.split(found, np.cumsum([len(item.tiles) for item in batch])[:-1]), strict=True):
            _tell(item.answer, part)


def _tell(answer: asyncio.Future[FloatArray], what: FloatArray | Exception) -> None:
    def settle() -> None:
        if answer.done():
            return
        if isinstance(what, Exception):
            answer.set_exception(what)
        else:
            answer.set_result(what)

    loop = answer.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(settle)
