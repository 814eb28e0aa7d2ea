"""What a worker does with a block of tiles: it reads and classifies it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..blocks import TileBlock, read_block
from ..errors import ClusterError, SceneError
from ..grid import IntArray, TileGrid
from ..journal import encode_part
from ..mosaic import Mosaic, MosaicReader
from ..runtimes.kept import Stored
from ..runtimes.wanted import Choice
from ..tones import Tone
from .worker import Job, here, ready_for, with_bundle

if TYPE_CHECKING:
    import torch

    from ..bundle import Bundle
    from ..predict import Predictor

OPENING_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class BlockJob(Job):
    """All that a worker must know to classify blocks: what to read, by absolute paths, and what to make of it.

    `sizes` are the bytes of each local file as the driver sees it, `network` the int8 network of a `choice` of int8.
    """

    mosaic: Mosaic
    grid: TileGrid
    bands: tuple[str, ...]
    min_valid: float
    choice: Choice
    network: Stored | None = field(repr=False)
    tone: Tone | None
    sizes: Mapping[str, int]
    batch_size: int
    thumbnail_px: int


@dataclass
class _Ready:
    predictor: Predictor
    reader: MosaicReader | None = None

    def close(self) -> None:
        if self.reader is not None:
            self.reader.close()


def classify_block(job: BlockJob, number: int, columns: IntArray, rows: IntArray) -> bytes:
    """Read and classify one block; its part as Arrow (see `journal.encode_part`).

    Raises SceneError where the block cannot be read, ClusterError where this worker is not fit for the job.
    """
    ready = ready_for(job, lambda: _prepared(job))
    from ..parts import part_of  # only now: what it stands on may be missing here, and that is told by the line above

    reader = ready.reader = ready.reader or _opened(job)
    try:
        pixels = read_block(reader, job.grid, TileBlock(number, columns, rows))
    except SceneError:
        ready.reader = None  # a handle that failed may go on failing where the file no longer does
        reader.close()
        raise
    return encode_part(part_of(pixels, ready.predictor, job.min_valid))


def _prepared(job: BlockJob) -> _Ready:
    _require_files(job)
    return _Ready(with_bundle(job, lambda bundle, device: _predictor(job, bundle, device)))


def _predictor(job: BlockJob, bundle: Bundle, device: torch.device) -> Predictor:
    from ..predict import Predictor
    from ..runtimes.settling import open_runner

    return Predictor(
        bundle,
        job.mosaic.sensor,
        device=device,
        batch_size=job.batch_size,
        thumbnail_px=job.thumbnail_px,
        tone=job.tone,
        runner=open_runner(bundle, job.choice, device, network=job.network, threads=1),
    )


def _require_files(job: BlockJob) -> None:
    """Raise ClusterError unless this worker sees the very files that the driver does."""
    for name, size in job.sizes.items():
        path = Path(name)
        try:
            there = path.stat().st_size
        except OSError as error:
            raise ClusterError(
                f"{here()} does not see {name} ({error.strerror}); put the imagery on a disk that all machines mount "
                "at the same path, or name it by URL"
            ) from error
        if not os.access(path, os.R_OK):
            raise ClusterError(f"{here()} may not read {name}; let its user read the file, or run workers as your own")
        if there != size:
            raise ClusterError(
                f"{here()} sees another {name} ({there:,} bytes, the driver {size:,}); give all machines the same file, "
                "and run again if it changed during the run"
            )


def _opened(job: BlockJob) -> MosaicReader:
    """Handles on the imagery. A source that answers one worker late is asked again before the run is given up."""
    for attempt in range(1, OPENING_TRIES + 1):
        try:
            return job.mosaic.reader(job.grid, job.bands)
        except SceneError as error:
            if attempt == OPENING_TRIES:
                raise ClusterError(
                    f"{here()} cannot open what the driver could: {error}; check its network, mounts and credentials"
                ) from error
            time.sleep(attempt)
    raise AssertionError("unreachable")
