"""What every worker does, whatever the job: it makes itself ready once for a run, and says what it lacks.

Importing this costs little: a scheduler must know it too, and has no use for torch.
"""

from __future__ import annotations

import os
import platform
import socket
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .. import __version__
from ..errors import ClusterError, GeoclassError

if TYPE_CHECKING:
    import torch

    from ..bundle import Bundle

R = TypeVar("R", bound="Ready")
T = TypeVar("T")

SAME_VERSION = ("dask", "distributed", "rasterio", "torch")
"""Packages that driver and workers must have alike: what speaks between them, and what decides pixels and answers."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker must know of any run.

    `bundle` is a bundle file's content, so that no worker needs to see the model; `software` the driver's (see
    `software`); `token` tells runs apart.
    """

    token: str
    bundle: bytes = field(repr=False)
    device: str
    software: Mapping[str, str]


class Ready(Protocol):
    """What a thread of a worker holds for a run."""

    def close(self) -> None: ...


_ready: dict[int, tuple[str, Any]] = {}
"""What each thread of this worker has made ready, and for which run: handles and networks are never shared between threads."""


def held(job: Job) -> Job:
    """The job as a task of its own: Dask keeps it beside the tasks that need it, and makes it again where it is lost."""
    return job


def ready_for(job: Job, prepare: Callable[[], R]) -> R:
    """What this thread prepared for the job: once. Raises ClusterError where this worker is not fit for it."""
    thread = threading.get_ident()
    token, ready = _ready.get(thread, ("", None))
    if token != job.token:
        if ready is not None:
            _ready.pop(thread, None)
            ready.close()  # this thread's own: others may be reading with theirs
        if differing := differences(job.software, software()):
            raise ClusterError(f"{here()} has {differing}; install the same versions on driver, scheduler and workers")
        ready = prepare()
        _ready[thread] = job.token, ready
    found: R = ready
    return found


def forget(token: str) -> None:
    """Let go of what this worker holds for a run. A thread may be reading with it: what nobody holds any more is closed."""
    for thread, (of, _) in list(_ready.items()):
        if of == token:
            _ready.pop(thread, None)


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


def here() -> str:
    """This worker's name for errors."""
    return f"the worker on {socket.gethostname()} (process {os.getpid()})"


def with_bundle(job: Job, make: Callable[[Bundle, torch.device], T]) -> T:
    """What `make` makes of the job's bundle and device. Raises ClusterError where that cannot be done on this worker."""
    try:
        import torch

        from ..bundle import load_bundle
        from ..predict import choose_device

        # One thread a task: Dask counts on it, and answers then do not depend on a machine's cores.
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory(prefix="geoclass-") as folder:
            path = Path(folder) / "bundle.pt"
            path.write_bytes(job.bundle)
            bundle = load_bundle(path)
        return make(bundle, choose_device(job.device))
    except (GeoclassError, ImportError, OSError) as error:
        raise ClusterError(
            f"{here()} cannot make the model ready: {error}; install on the workers what this machine has "
            "(geoclass --show-versions tells), or choose another --device"
        ) from error
