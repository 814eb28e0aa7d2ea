"""One connection to a service: closed where nothing is asked on it, and at once where there are too many.

uvicorn has a limit of time between requests, and none before the first: whoever opens connections and is silent would use
up the process's files, and no token is asked for before a request is there.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST = 512
"""Connections at once."""
SPARE_FILES = 100
"""Files that a process needs for other things than connections."""
HEADER_S = 30.0
"""Seconds for the whole header of a request, from the connection or, for later ones, from their first byte."""


class Connection(H11Protocol):
    """uvicorn's own, with a limit of time for headers and one of number."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._most = most_connections()
        self._header: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Wait for a header, or close where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self._most:
            transport.abort()
        else:
            self._wait()

    def data_received(self, data: bytes) -> None:
        """Go on with a request, or go on waiting for one."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._wait()
        else:  # a request is being answered; how long its body may take is the gate's to say
            self._wait_no_more()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._wait_no_more()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._header is None:
            self._header = self.loop.call_later(HEADER_S, self.transport.abort)

    def _wait_no_more(self) -> None:
        if self._header is not None:
            self._header.cancel()
            self._header = None


def most_connections() -> int:
    """How many connections there may be at once: fewer where the process may have few files open."""
    if sys.platform == "win32":
        return MOST
    import resource

    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST if files == resource.RLIM_INFINITY else max(1, min(MOST, files - SPARE_FILES))
