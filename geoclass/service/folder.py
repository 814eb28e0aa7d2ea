"""The data folder: one service at a time has it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from ..errors import ServiceError
from ..files import require_writable

TABLE = "jobs.sqlite"
"""The table of jobs, the first thing that a service makes in its folder: one without it is no service's yet."""


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Make the folder and hold its lock, which the system frees where the service is killed.

    Raises ServiceError where another service has it or it holds other files, OutputError where it cannot be written.
    """
    _require_own(folder)
    require_writable(folder, "--data")
    folder.chmod(0o700)  # uploads and results are nobody else's
    lock = filelock.FileLock(folder / "lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise ServiceError(f"another service uses {folder}; stop it, or give another folder with --data") from error
    try:
        yield
    finally:
        lock.release()


def _require_own(folder: Path) -> None:
    """Refuse a folder with files that no service put there: what a service finds in its own is removed or made private."""
    try:
        names = {each.name for each in folder.iterdir()}
    except OSError:  # no folder, or one that may not be read: told when it is written in
        return
    # A start that was killed leaves the lock and the probe for writing; a fresh disk has lost+found.
    others = set() if TABLE in names else names - {"lock", "lost+found"}
    if any(not each.startswith(".geoclass-") for each in others):
        raise ServiceError(f"{folder} holds files that are not the service's; give an empty or new folder with --data")
