"""The data folder: one service at a time has it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from ..errors import ServiceError
from ..files import require_writable


@contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Make the folder and hold its lock, which the system frees where the service is killed.

    Raises ServiceError where another service has it, OutputError where it cannot be written.
    """
    require_writable(folder)
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
