"""Workers: processes of this machine, started for a run and ended with it, or those of a scheduler that is there."""

from __future__ import annotations

import logging
import multiprocessing
import re
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ClusterError, GeoclassError
from .worker import differences, has_cuda, software

if TYPE_CHECKING:
    from distributed import Client

Say = Callable[[str], None]
"""Called with one line that a user should read."""

log = logging.getLogger(__name__)

CONNECT_SECONDS = 6.0
STARTING_TRIES = 4
SELF_WATCH = {
    "distributed.worker.profile.interval": "100ms",
    "distributed.admin.tick.interval": "200ms",
    "distributed.admin.system-monitor.interval": "2s",
}
"""How often workers and scheduler look at themselves. As Dask comes, that takes 4 % of a core of each, which the network
needs: a block lasts seconds. Given when workers and a scheduler are started."""
HOW_TO_START = "start one with: dask scheduler, and on each machine: dask worker tcp://HOST:8786 --nthreads 1"


@dataclass(frozen=True)
class Spread:
    """Where a run is spread: `workers` new processes of this machine, or `cluster`: the address of a Dask scheduler, the
    path of its scheduler file, or a cluster or client object of Dask. `say` is told what a user should read."""

    workers: int | None = None
    cluster: Any = None
    say: Say = log.info

    def __bool__(self) -> bool:
        return self.workers is not None or self.cluster is not None


def require_cluster(spread: Spread) -> None:
    """Raise, before anything is planned, where a run cannot be spread: GeoclassError for a wrong number of workers or
    both options, ClusterError where Dask is not installed, no scheduler answers, or it has other versions."""
    workers, cluster = spread.workers, spread.cluster
    if workers is not None and workers < 1:
        raise GeoclassError(f"--workers is {workers}; give 1 or more, or leave it out to classify in this process")
    if workers is not None and cluster is not None:
        raise GeoclassError("--workers starts a cluster and --cluster names one; give one of them")
    if not spread:
        return
    _distributed()
    if cluster is not None:
        with _quiet(), _connected(cluster) as client:
            _require_same_software(client)


def cluster_device(cluster: Any) -> str:
    """cuda where all workers of a cluster have it, else cpu. Raises ClusterError where no scheduler answers."""
    with _quiet(), _connected(cluster) as client:
        answers = client.run(has_cuda, on_error="return").values()
    return "cuda" if answers and all(answer is True for answer in answers) else "cpu"


@contextmanager
def crew(spread: Spread) -> Iterator[Client]:
    """A Dask client of these workers. What was started here ends with it. Raises ClusterError."""
    import dask

    # A job holds a bundle of some tens of megabytes, once; Dask would warn of it.
    # A busy machine may take long to restart a worker.
    settings = {
        **SELF_WATCH,
        "distributed.admin.large-graph-warning-threshold": "16GB",
        "distributed.deploy.lost-worker-timeout": "5m",
    }
    with _quiet(), dask.config.set(settings):
        if spread.workers is not None:
            with _started(spread.workers) as local, _connected(local) as client:
                spread.say(f"{spread.workers} workers on this machine{_dashboard(client)}")
                yield client
            return
        with _connected(spread.cluster) as client:
            # What was checked before planning may have changed since.
            _require_same_software(client)
            spread.say(f"{len(client.nthreads())} workers at {client.scheduler.address}{_dashboard(client)}")
            yield client


def _dashboard(client: Client) -> str:
    """Where the run can be watched; empty where the scheduler has no dashboard."""
    there = "dashboard" in client.scheduler_info().get("services", {})
    return f"; dashboard: {client.dashboard_link}" if there else ""


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise ClusterError(
            f"--workers and --cluster need Dask, which is not installed ({error}); pip install 'geoclass[cluster]'"
        ) from error
    return distributed


@contextmanager
def _started(workers: int) -> Iterator[Any]:
    """A cluster of single-thread processes of this machine, which speak through TLS: another user of the machine must
    not be able to send them work."""
    distributed = _distributed()
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # A worker that imports its parent's script, which starts workers as it is imported.
        raise ClusterError("a worker may not start workers; call geoclass under: if __name__ == '__main__':")
    for attempt in range(1, STARTING_TRIES + 1):
        try:
            local = _local_cluster(distributed, workers)
            break
        except (OSError, RuntimeError, ImportError) as error:
            if attempt == STARTING_TRIES:
                raise ClusterError(
                    f"{workers} workers could not be started ({_line(error)}); give fewer --workers, and in a script of "
                    "your own call geoclass under: if __name__ == '__main__':"
                ) from error
    try:
        yield local
    finally:
        with suppress(Exception):  # of a cluster that is going away, whatever it meets on its way
            local.close(timeout=5)


def _local_cluster(distributed: Any, workers: int) -> Any:
    with warnings.catch_warnings(), _interrupts_held():
        warnings.filterwarnings("ignore", message="Port 8787 is already in use")
        return distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:8787",
            # A worker near Dask's limit is halted, and a run that needs its memory would then wait for ever.
            memory_limit=None,
            security=distributed.Security.temporary(),
            silence_logs=_level(),
        )


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Threads and processes begun in here are not told of Ctrl-C: a terminal sends it to workers as well, which the
    driver ends itself. It reaches the driver afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # which, begun by a thread, would open that thread to interrupts again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def mend(client: Client, workers: int) -> None:
    """Have workers of this machine started anew that ended for good: Dask restarts one that dies, but not always one
    that dies while it starts."""
    local: Any = client.cluster
    for name, worker in list(local.workers.items()):
        if worker.status.name in ("closed", "failed"):
            local.workers.pop(name, None)
    local.scale(workers)


@contextmanager
def _connected(cluster: Any) -> Iterator[Client]:
    distributed = _distributed()
    if isinstance(cluster, distributed.Client):
        yield cluster
        return
    client = _client(distributed, cluster)
    try:
        yield client
    finally:
        with suppress(Exception):  # the scheduler may be gone
            client.close(timeout=2)


def _client(distributed: Any, cluster: Any) -> Client:
    where: dict[str, Any] = {"address": cluster}
    if isinstance(cluster, str | Path):
        if str(cluster).endswith(".json"):
            if not Path(cluster).is_file():
                raise ClusterError(f"no such scheduler file: {cluster}; {HOW_TO_START}")
            where = {"scheduler_file": str(cluster)}
        elif not re.match(r"(tcp|tls|ws|wss|ucx)://[^/]+", str(cluster)):
            raise ClusterError(
                f"--cluster {str(cluster)!r} is no address of a Dask scheduler; give it as tcp://HOST:8786, or give the "
                "path of its scheduler file (.json)"
            )
    try:
        client: Client = distributed.Client(**where, timeout=CONNECT_SECONDS, set_as_default=False, name="geoclass")
    except (OSError, ValueError, TypeError) as error:
        raise ClusterError(f"no Dask scheduler answers at {cluster} ({_line(error)}); {HOW_TO_START}") from error
    return client


def _require_same_software(client: Client) -> None:
    """Raise ClusterError unless scheduler and workers have our versions. Workers that join later are checked by the job."""
    ours = software()
    found: dict[str, Any] = {
        f"the worker at {at}": answer for at, answer in client.run(software, on_error="return").items()
    }
    try:
        found["the scheduler"] = client.run_on_scheduler(software)
    except Exception as error:  # Dask passes on what the import raised, in its own type or as a plain Exception
        found["the scheduler"] = error
    for where, answer in sorted(found.items()):
        if isinstance(answer, OSError):
            continue  # it went away while it was asked
        if not isinstance(answer, dict):
            raise ClusterError(
                f"{where} has no geoclass {ours['geoclass']} ({_line(answer)}); install the same geoclass there: "
                f"pip install 'geoclass[cluster]=={ours['geoclass']}'"
            )
        if differing := differences(ours, answer):
            raise ClusterError(f"{where} has {differing}; install the same versions on driver, scheduler and workers")


def _level() -> int:
    """How loud Dask may be: what it logs of lost workers and schedulers is told by us in one line."""
    debugging = logging.getLogger().isEnabledFor(logging.DEBUG)
    return logging.INFO if debugging else logging.CRITICAL + 1


@contextmanager
def _quiet() -> Iterator[None]:
    _distributed()
    names = [
        name for name in logging.root.manager.loggerDict if name.split(".")[0] in ("distributed", "bokeh", "tornado")
    ]
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(_level())
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
