"""What a worker does: it makes itself ready once for a run, then classifies blocks one by one.

Importing this costs little: a scheduler must know it too, and has no use for torch.
"""

from __future__ import annotations

import os
import platform
import socket
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..blocks import TileBlock, read_block
from ..errors import ClusterError, GeoclassError, SceneError
from ..grid import IntArray, TileGrid
from ..journal import encode_part
from ..mosaic import Mosaic, MosaicReader
from ..runtimes.kept import Stored
from ..runtimes.wanted import Choice
from ..tones import Tone

if TYPE_CHECKING:
    from ..predict import Predictor

SAME_VERSION = ("dask", "distributed", "rasterio", "torch")
"""Packages that driver and workers must have alike: what speaks between them, and what decides pixels and answers."""

OPENING_TRIES = 3


@dataclass(frozen=True)
class Job:
    """All that a worker must know of a run: what to read, by absolute paths, and what to make of it.

    `bundle` is a bundle file's content, so that no worker needs to see the model; `sizes` are the bytes of each local
    file as the driver sees it, `software` the driver's (see `software`), `network` the int8 network of a `choice` of int8.
    """

    token: str
    mosaic: Mosaic
    grid: TileGrid
    bands: tuple[str, ...]
    bundle: bytes = field(repr=False)
    min_valid: float
    device: str
    choice: Choice
    network: Stored | None = field(repr=False)
    tone: Tone | None
    sizes: Mapping[str, int]
    software: Mapping[str, str]
    batch_size: int
    thumbnail_px: int


@dataclass
class _Ready:
    token: str
    predictor: Predictor
    reader: MosaicReader | None = None


_ready: dict[int, _Ready] = {}
"""What each thread of this worker has made ready: handles and networks are never shared between threads."""


def held(job: Job) -> Job:
    """The job as a task of its own: Dask keeps it beside the blocks that need it, and makes it again where it is lost."""
    return job


def classify_block(job: Job, number: int, columns: IntArray, rows: IntArray) -> bytes:
    """Read and classify one block; its part as Arrow (see `journal.encode_part`).

    Raises SceneError where the block cannot be read, ClusterError where this worker is not fit for the job.
    """
    ready = _made_ready(job)
    from ..parts import part_of  # only now: what it stands on may be missing here, and that is told by the line above

    reader = ready.reader = ready.reader or _opened(job)
    try:
        pixels = read_block(reader, job.grid, TileBlock(number, columns, rows))
    except SceneError:
        ready.reader = None  # a handle that failed may go on failing where the file no longer does
        reader.close()
        raise
    return encode_part(part_of(pixels, ready.predictor, job.min_valid))


def forget(token: str) -> None:
    """Close what this worker holds for a run."""
    for thread, ready in list(_ready.items()):
        if ready.token == token:
            _ready.pop(thread, None)
            if ready.reader is not None:
                ready.reader.close()


def software() -> dict[str, str]:
    """Name → version of what driver and workers must have alike."""
    python = ".".join(platform.python_version_tuple()[:2])
    found = {"geoclass": __version__, "python": python}
    for name in SAME_VERSION:
        try:
            found[name] = version(name).split("+")[0]  # a build for CUDA counts as the same torch
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def has_cuda() -> bool:
    """Whether this machine can classify on a GPU."""
    import torch

    return torch.cuda.is_available()


def differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """What differs between two answers of `software`, in words; empty where nothing does."""
    return ", ".join(
        f"{name} {theirs.get(name, 'not installed')} (here {wanted})"
        for name, wanted in ours.items()
        if theirs.get(name) != wanted
    )


def _made_ready(job: Job) -> _Ready:
    thread = threading.get_ident()
    ready = _ready.get(thread)
    if ready is None or ready.token != job.token:
        if ready is not None:
            forget(ready.token)
        if differing := differences(job.software, software()):
            raise ClusterError(f"{_here()} has {differing}; install the same versions on driver, scheduler and workers")
        _require_files(job)
        ready = _ready[thread] = _Ready(job.token, _predictor(job))
    return ready


def _here() -> str:
    return f"the worker on {socket.gethostname()} (process {os.getpid()})"


def _require_files(job: Job) -> None:
    """Raise ClusterError unless this worker sees the very files that the driver does."""
    for name, size in job.sizes.items():
        path = Path(name)
        try:
            there = path.stat().st_size
        except OSError as error:
            raise ClusterError(
                f"{_here()} does not see {name} ({error.strerror}); put the imagery on a disk that all machines mount "
                "at the same path, or name it by URL"
            ) from error
        if not os.access(path, os.R_OK):
            raise ClusterError(f"{_here()} may not read {name}; let its user read the file, or run workers as your own")
        if there != size:
            raise ClusterError(
                f"{_here()} sees another {name} ({there:,} bytes, the driver {size:,}); give all machines the same file, "
                "and run again if it changed during the run"
            )


def _predictor(job: Job) -> Predictor:
    try:
        import torch

        from ..bundle import load_bundle
        from ..predict import Predictor, choose_device
        from ..runtimes.settling import open_runner

        # One thread a task: Dask counts on it, and answers then do not depend on a machine's cores.
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory(prefix="geoclass-") as folder:
            path = Path(folder) / "bundle.pt"
            path.write_bytes(job.bundle)
            bundle = load_bundle(path)
        device = choose_device(job.device)
        return Predictor(
            bundle,
            job.mosaic.sensor,
            device=device,
            batch_size=job.batch_size,
            thumbnail_px=job.thumbnail_px,
            tone=job.tone,
            runner=open_runner(bundle, job.choice, device, network=job.network, threads=1),
        )
    except (GeoclassError, ImportError, OSError) as error:
        raise ClusterError(
            f"{_here()} cannot make the model ready: {error}; install on the workers what this machine has "
            "(geoclass --show-versions tells), or choose another --device"
        ) from error


def _opened(job: Job) -> MosaicReader:
    """Handles on the imagery. A source that answers one worker late is asked again before the run is given up."""
    for attempt in range(1, OPENING_TRIES + 1):
        try:
            return job.mosaic.reader(job.grid, job.bands)
        except SceneError as error:
            if attempt == OPENING_TRIES:
                raise ClusterError(
                    f"{_here()} cannot open what the driver could: {error}; check its network, mounts and credentials"
                ) from error
            time.sleep(attempt)
    raise AssertionError("unreachable")
