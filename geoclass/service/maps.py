"""What maps of finished jobs are answered from: the tables of the jobs looked at last, and threads of their own.

Drawing and reading must not wait for each other's turn with the network or with files that are sent, so they have a few
threads that nothing else uses.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import TypeVar, cast

from fastapi import Request

from ..labels import Labels
from ..results import read_result
from .refusal import Refusal

T = TypeVar("T")
THREADS = 3
KEPT_TILES = 2_000_000
"""Tiles of all kept tables together; the one looked at last is kept whatever its size."""


class Maps:
    """Tables by their file. Close it to end its threads."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._tables: OrderedDict[tuple[Path, int], Labels] = OrderedDict()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(THREADS, "maps")

    async def run(self, task: Callable[[], T]) -> T:
        """What `task` returns, carried out by a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, task)

    def table(self, path: Path) -> Labels:
        """The tiles of a GeoPackage that a job wrote, read once. Call it from a thread. Raises OutputError."""
        key = (path, path.stat().st_mtime_ns)
        with self._lock:  # two who ask for the same wait for one reading
            if key not in self._tables:
                self._tables[key] = read_result(path)
            self._tables.move_to_end(key)
            while len(self._tables) > 1 and sum(map(len, self._tables.values())) > KEPT_TILES:
                self._tables.popitem(last=False)
            return self._tables[key]

    def deadline(self) -> Callable[[], None]:
        """A check that raises Refusal (422) once the time that one request has is over."""
        ends = monotonic() + self.seconds

        def check() -> None:
            if monotonic() > ends:
                raise Refusal(422, f"this took longer than {self.seconds:g} s", "draw a simpler or smaller area")

        return check

    def close(self) -> None:
        """End the threads after what they are working on."""
        self._threads.shutdown(cancel_futures=True)


def maps_of(request: Request) -> Maps:
    """The maps of the service that a request came to; a dependency of routes."""
    return cast(Maps, request.app.state.maps)
