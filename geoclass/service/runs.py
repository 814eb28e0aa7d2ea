"""Results in the service's database: asked for by threads of their own, a few at a time and with little patience, so that a
database that is slow or down keeps nobody else waiting."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Concatenate, Literal, ParamSpec, TypeVar

from ..database.address import Address, parse_address
from ..database.reading import NoSuchRun, list_runs, read_run
from ..errors import DatabaseError, OutputError
from ..outputs.summary import write_summary
from ..outputs.vector import write_gpkg, write_vector
from .receiving import full_disk
from .refusal import Refusal, refused
from .settings import Limits

RunKind = Literal["gpkg", "geojson", "summary"]
"""What a result in the database is sent as."""

THREADS = 4
CONNECT_S = 5
RETRY_S = 10

P = ParamSpec("P")
T = TypeVar("T")


class Runs:
    """The way into the database at `address`, where there is one. `folder`: for files that are being sent."""

    def __init__(self, address: str | None, limits: Limits, folder: Path) -> None:
        self.address = None if address is None else _impatient(parse_address(address), limits)
        self.limits = limits
        self.folder = folder
        self._waiting = 0
        self._threads = ThreadPoolExecutor(THREADS, "database")

    async def ask(self, question: Callable[Concatenate[Address, P], T], *values: P.args, **named: P.kwargs) -> T:
        """`question(address, …)`, in a thread. Raises Refusal: 404 where there is no database or not that run, 429 where too
        much waits for it, 503 where it fails."""
        address = self.address
        if address is None:
            raise Refusal(404, "no database is set", "start geoclass serve with --database")
        if self._waiting >= self.limits.waiting_questions:
            raise Refusal(429, "too many wait for the database", "try again later", {"retry-after": str(RETRY_S)})
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, lambda: question(address, *values, **named)
            )
        except NoSuchRun as error:
            raise refused(error, 404) from error
        except DatabaseError as error:
            found = refused(error, 503)
            raise Refusal(503, found.what, found.remedy, {"retry-after": str(RETRY_S)}) from error
        finally:
            self._waiting -= 1

    async def file(self, run: str, kind: RunKind) -> tuple[Path, str]:
        """(a file with the result, which whoever asked removes; the name it is sent under)."""
        return await self.ask(_written, run, kind, self.folder / secrets.token_hex(12), self.limits.run_tiles)

    def close(self) -> None:
        """Take no more questions. Those that are being answered are left to their limits of time."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _impatient(address: Address, limits: Limits) -> Address:
    milliseconds = f"{limits.database_s * 1000:.0f}ms"
    return replace(
        address,
        parameters={"connect_timeout": str(CONNECT_S), **address.parameters},
        limits={"statement_timeout": milliseconds, "lock_timeout": milliseconds},
    )


def _written(address: Address, run: str, kind: RunKind, target: Path, most: int) -> tuple[Path, str]:
    """Write a run to `target` with the kind's suffix. Raises Refusal (413) for one of more than `most` tiles."""
    found = next((each for each in list_runs(address) if run in (each.id, each.view)), None)
    if found is not None and found.tiles > most:
        raise Refusal(413, f"the run has {found.tiles:,} tiles, more than {most:,}", "read it from the database itself")
    labels = read_run(address, run)
    if not len(labels):
        raise Refusal(404, "the run has no tiles any more", "load the result again with geoclass load")
    path = target.with_suffix({"gpkg": ".gpkg", "geojson": ".geojson", "summary": ".json"}[kind])
    try:
        if kind == "gpkg":
            write_gpkg(labels, path)
        elif kind == "geojson":
            write_vector(labels, path, "geojson")
        else:
            write_summary(path, labels, {})
    except OutputError as error:
        path.unlink(missing_ok=True)
        raise full_disk() from error
    return path, f"{found.view if found else run}{path.suffix}"
