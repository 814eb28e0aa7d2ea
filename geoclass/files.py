"""Files on disk: fingerprints of inputs, and outputs written to a temporary name and moved into place."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError

WHOLE_BYTES = 1 << 30
"""Bytes of a file that are digested all; of a larger one 256 samples are."""
PIECE_BYTES = 16 << 20
SAMPLE_BYTES = 1 << 20
BUFFER_BYTES = 1 << 18
DIGESTS_AT_ONCE = 4
"""Pieces or samples of which a digest is made at the same time."""
LEAST_FREE_BYTES = 1 << 17
"""A disk with less is full: a GeoPackage's first pages do not fit."""
CACHE_VARIABLE = "GEOCLASS_CACHE"


def cache_folder() -> Path:
    """Where what can be made again is kept: $GEOCLASS_CACHE, else the user's cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "geoclass"


def fingerprint(path: Path) -> str:
    """A digest of a file's content: all of it up to 1 GiB, above that its size and 256 pieces spread over it."""
    return fingerprints([path])[0]


def fingerprints(paths: Sequence[Path]) -> list[str]:
    """The `fingerprint` of each file, some pieces of them at a time."""
    sizes = [path.stat().st_size for path in paths]
    pieces = [(number, piece) for number, size in enumerate(sizes) for piece in _pieces(size)]
    digests = [hashlib.blake2b(str(size).encode(), digest_size=16) for size in sizes]
    with ThreadPoolExecutor(min(DIGESTS_AT_ONCE, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda piece: _digest_of_piece(paths[piece[0]], piece[1]), pieces)
        for (number, _), digest in zip(pieces, found, strict=True):
            digests[number].update(digest)
    return [digest.hexdigest() for digest in digests]


def _pieces(size: int) -> list[slice]:
    """The bytes of a file of that size that are digested."""
    if size <= WHOLE_BYTES:
        return [slice(at, min(size, at + PIECE_BYTES)) for at in range(0, size, PIECE_BYTES)]
    starts = [(size - SAMPLE_BYTES) * part // 255 for part in range(256)]
    return [slice(start, start + SAMPLE_BYTES) for start in starts]


def _digest_of_piece(path: Path, piece: slice) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    buffer = memoryview(bytearray(BUFFER_BYTES))
    with path.open("rb", buffering=0) as stream:
        stream.seek(piece.start)
        left = piece.stop - piece.start
        while left and (got := stream.readinto(buffer[:left])):
            digest.update(buffer[:got])
            left -= got
    return digest.digest()


LONGEST_NAME = 200
"""Bytes that the name of outputs may have."""

Stamp = tuple[int, int]
"""Size in bytes and time of the last change in nanoseconds."""


def stamp(name: str | Path) -> Stamp | None:
    """What tells a local file from a changed one at no cost; None where there is no such file."""
    try:
        found = Path(name).stat()
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns


def require_absent(paths: list[Path], overwrite: bool) -> None:
    """Raise OutputError if one of `paths` exists and `overwrite` was not asked for."""
    there = [path for path in paths if path.exists()]
    if there and not overwrite:
        raise OutputError(f"{there[0]} exists and is kept; give --overwrite to replace it, or another -o or --name")


def spare_inputs(outputs: Iterable[Path], inputs: Iterable[str | Path | None]) -> None:
    """Raise OutputError where writing one of `outputs` would replace an input, whatever --overwrite says."""
    read = {Path(name).resolve() for name in inputs if name is not None}
    for path in outputs:
        if path.resolve() in read:
            raise OutputError(f"{path} is an input of this run and would be replaced; give another -o")


def require_plain_name(name: str) -> None:
    """Raise OutputError where `name` cannot be the start of file names.

    `;` and `!` mean something in a path to pyogrio; a file system's limit for a name, mostly 255 bytes, must leave
    room for what is added: a journal's or a temporary file's name.
    """
    if re.search(r'[/\\:*?"<>|;!\x00-\x1f]', name) or name.startswith("."):
        raise OutputError(f"{name!r} cannot be the name of files; give a plain --name")
    length = len(os.fsencode(name))
    if length > LONGEST_NAME:
        raise OutputError(
            f"{name[:40]!r}… ({length} bytes) is too long for a name of files; give one of up to {LONGEST_NAME} with --name"
        )


def require_plain_folder(folder: Path) -> None:
    """Raise OutputError where pyogrio could not write into `folder`: it reads `!` as the end of an archive's name, and
    leaves out line breaks and tabs."""
    if re.search(r"[!\t\r\n]", str(folder)):
        raise OutputError(
            f"{str(folder)!r} cannot be the folder of outputs (a '!', tab or line break); give another -o"
        )


def require_writable(folder: Path, option: str = "-o") -> None:
    """Make `folder`, which `option` names, and check that a file can be written in it. Raises OutputError."""
    probe = folder / f".geoclass-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"cannot write in {folder}: {error.strerror}; choose another folder with {option}") from error


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's and GDAL's failures while writing `path` into one-line OutputErrors."""
    try:
        yield
    except OSError as error:
        raise _output_error(path, error.errno, str(error)) from error
    except Exception as error:
        # pyogrio, rasterio and sqlite report a full disk through their own exception types and texts.
        if type(error).__module__.split(".")[0] in {"pyogrio", "rasterio", "sqlite3", "pyarrow", "fiona", "torch"}:
            raise _output_error(path, None, str(error)) from error
        if isinstance(error, RuntimeError) and re.search(r"write|PytorchStreamWriter", str(error)):
            raise _output_error(path, None, str(error)) from error
        raise


def _output_error(path: Path, code: int | None, text: str) -> OutputError:
    if code == errno.ENOSPC or re.search(r"no space|disk (is )?full", text, re.IGNORECASE) or _full(path, code):
        return OutputError(f"the disk is full while writing {path}; free some space and run the same command again")
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"may not write {path}; choose another folder with -o")
    return OutputError(
        f"cannot write {path}: {text or 'unknown failure'}; check the disk, then run the same command again"
    )


def _full(path: Path, code: int | None) -> bool:
    """Whether a library's failure, which tells no cause, was met on a full disk: SQLite's tables are then "missing"."""
    try:
        return code is None and shutil.disk_usage(path.parent).free < LEAST_FREE_BYTES
    except OSError:
        return False


@contextmanager
def replacing(path: Path, overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success move it into place, on failure remove it.

    Raises OutputError where `path` exists and `overwrite` is false, or where writing fails.
    """
    require_absent([path], overwrite)
    require_writable(path.parent)
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    try:
        with write_errors(path):
            yield temporary
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
