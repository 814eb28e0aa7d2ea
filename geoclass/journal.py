"""The journal: finished blocks of a run, kept beside its outputs so that the same command continues where it stopped.

    OUT/.NAME.journal/
        manifest.json         what the run is of: fingerprints of inputs, model and options
        part-000012.arrow     the labels of block 12
        publishing            there once outputs are being moved into place
        lock

A part is written to a temporary name and renamed, so that it is whole or absent. A run with another manifest is
refused; it would mix two maps.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc

from .errors import OutputError
from .files import require_writable, write_errors
from .labels import ByteArray, FloatArray

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """One finished block: positions (N,), valid_fraction (N,), probabilities (M, K) and thumbnails (M, k, k, 3) of
    the M tiles with `classified` (N,) true, and the seconds spent on it."""

    columns: IntArray
    rows: IntArray
    valid_fraction: FloatArray
    classified: npt.NDArray[np.bool_]
    probabilities: FloatArray
    thumbnails: ByteArray
    read_seconds: float
    network_seconds: float


def encode_part(part: Part) -> bytes:
    """A part as two Arrow streams: positions and valid fractions, then what was classified."""
    schema_meta = {
        "k": str(part.thumbnails.shape[1]),
        "read": repr(part.read_seconds),
        "network": repr(part.network_seconds),
    }
    classes, pixels = part.probabilities.shape[1], int(np.prod(part.thumbnails.shape[1:]))
    batch = pa.table(
        {"column": part.columns, "row": part.rows, "valid": part.valid_fraction, "classified": part.classified},
    ).replace_schema_metadata(schema_meta)
    values = pa.table(
        {
            "p": pa.FixedSizeListArray.from_arrays(pa.array(part.probabilities.ravel()), classes),
            "picture": pa.FixedSizeListArray.from_arrays(pa.array(part.thumbnails.ravel()), pixels),
        }
    )
    sink = pa.BufferOutputStream()
    for table in (batch, values):
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def decode_part(source: pa.NativeFile) -> Part:
    """The part in an open Arrow source. Raises what Arrow raises, KeyError or ValueError where it is none."""
    batch = pa.ipc.open_stream(source).read_all()
    values = pa.ipc.open_stream(source).read_all()
    meta = {k.decode(): v.decode() for k, v in batch.schema.metadata.items()}
    k = int(meta["k"])
    probabilities = values["p"].combine_chunks()
    pictures = values["picture"].combine_chunks()
    return Part(
        batch["column"].to_numpy().copy(),
        batch["row"].to_numpy().copy(),
        batch["valid"].to_numpy().copy(),
        batch["classified"].to_numpy().copy(),
        _flat(probabilities, np.float32).reshape(-1, probabilities.type.list_size),
        _flat(pictures, np.uint8).reshape(-1, k, k, 3),
        float(meta["read"]),
        float(meta["network"]),
    )


class Journal:
    """An open, locked journal. A context manager; leaving it keeps the journal, `discard` removes it."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any], *, restart: bool = False) -> None:
        """Open or begin the journal in `folder`.

        Raises OutputError where it belongs to another run (unless `restart`), or another process has it open.
        """
        require_writable(folder.parent)
        self.folder = folder
        self._clear_leftovers()
        with write_errors(folder):
            folder.mkdir(exist_ok=True)
        self._lock = filelock.FileLock(folder / "lock", timeout=0)
        try:
            self._lock.acquire()
        except filelock.Timeout as error:
            raise OutputError(
                f"another geoclass run is writing {folder.parent}; wait for it, or choose another -o or --name"
            ) from error
        try:
            self._begin(json.loads(json.dumps(dict(manifest))), restart)
        except BaseException:
            self._lock.release()
            raise

    def _begin(self, manifest: dict[str, Any], restart: bool) -> None:
        there = read_manifest(self.folder)
        if there is not None and there != manifest:
            if not restart:
                changed = ", ".join(sorted(k for k in {*there, *manifest} if there.get(k) != manifest.get(k)))
                raise OutputError(
                    f"{self.folder} holds an interrupted run with other {changed or 'settings'}; repeat that command to finish it, "
                    "or give --overwrite to start anew"
                )
            there = None
        if there is None:
            for path in self.folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != "lock":
                    path.unlink()
            with write_errors(self.folder):
                _write_whole(self.folder / "manifest.json", json.dumps(manifest, indent=1).encode())
        self.done = {int(path.stem.removeprefix("part-")) for path in self.folder.glob("part-*.arrow")}

    def write(self, number: int, part: Part) -> None:
        """Keep a finished block. Raises OutputError where the disk is full."""
        path = self.folder / f"part-{number:06d}.arrow"
        with write_errors(path):
            _write_whole(path, encode_part(part))
        self.done.add(number)

    def read(self, number: int) -> Part:
        """A finished block. Raises OutputError where its file is damaged."""
        path = self.folder / f"part-{number:06d}.arrow"
        try:
            with pa.memory_map(str(path)) as source:
                return decode_part(source)
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            raise OutputError(f"{path} is damaged; remove {self.folder} and run the command again") from error

    def stage(self) -> Path:
        """An empty folder for outputs in the making, on the same disk as their place."""
        folder = self.folder / "stage"
        shutil.rmtree(folder, ignore_errors=True)
        with write_errors(folder):
            folder.mkdir()
        return folder

    def publish(self, staged: Sequence[Path], folder: Path) -> list[Path]:
        """Move finished files into `folder` under their own names; return where they are now."""
        with write_errors(self.folder):
            _write_whole(self.folder / "publishing", b"")
        final = [folder / path.name for path in staged]
        for temporary, place in zip(staged, final, strict=True):
            with write_errors(place):
                temporary.replace(place)
        return final

    def discard(self) -> None:
        """Remove the journal; the run is finished."""
        if os.name == "nt":  # where a folder with an open file cannot be renamed
            self._lock.release()
        # One rename makes it disappear at once; what a kill leaves of the removal is cleared by the next run.
        gone = self.folder.with_name(f"{self.folder.name}.done-{os.getpid()}")
        with suppress(OSError):
            self.folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
        self._lock.release()

    def _clear_leftovers(self) -> None:
        for path in self.folder.parent.glob(f"{self.folder.name}.done-*"):
            shutil.rmtree(path, ignore_errors=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What the run of the journal in `folder` is of; None where there is no whole manifest."""
    with suppress(OSError, ValueError):
        loaded = json.loads((folder / "manifest.json").read_text())
        return loaded if isinstance(loaded, dict) else None
    return None


def began_publishing(folder: Path) -> bool:
    """Whether the run of the journal in `folder` had begun to move its outputs into place: those there are its own."""
    return (folder / "publishing").exists()


def _flat(column: Any, dtype: type) -> npt.NDArray[Any]:
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in chunks]
    return np.concatenate(parts).astype(dtype, copy=True) if parts else np.empty(0, dtype)


def _write_whole(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"tmp-{path.name}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
