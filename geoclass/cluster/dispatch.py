"""The driver's side: blocks go out a few at a time, parts come back, and what fails three times is told at the end."""

from __future__ import annotations

import queue
import secrets
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..blocks import TileBlock
from ..bundle import Bundle, save_bundle
from ..errors import ClusterError, SceneError
from ..grid import crs_text
from ..journal import Part, decode_part
from ..mosaic import Mosaic
from ..plan import Plan
from ..remote.names import is_remote
from ..runtimes.settling import Settled, Workload
from .crew import Say, crew, mend
from .job import Job, classify_block, forget, held, software

if TYPE_CHECKING:
    from distributed import Client, Future

TRIES = 3
SENT_A_THREAD = 3
"""Blocks sent for each thread of a worker: the one in work, and some for it to find when that is done."""
FEWEST_SENT = 4
NAMED = 5
LOOK_SECONDS = 2.0
PATIENCE_SECONDS = 60.0


def job_of(plan: Plan, workload: Workload, settled: Settled, thumbnail_px: int) -> Job:
    """What workers must know of a plan, and of what the network runs on."""
    mosaic = _absolute(plan.mosaic)
    return Job(
        token=secrets.token_hex(4),
        mosaic=mosaic,
        grid=plan.grid,
        bands=plan.bands,
        bundle=_as_file(plan.bundle),
        min_valid=plan.min_valid,
        device=str(workload.device),
        choice=settled.choice,
        network=settled.network,
        tone=plan.tone,
        sizes={name: Path(name).stat().st_size for name in mosaic.files if Path(name).is_file()},
        software=software(),
        batch_size=workload.batch_size,
        thumbnail_px=thumbnail_px,
    )


def classified(
    plan: Plan, blocks: Sequence[TileBlock], job: Job, workers: int | None, cluster: Any, say: Say
) -> Iterator[tuple[int, Part]]:
    """Yield (block number, part) as blocks are finished, in no order, by new `workers` or those of `cluster`.

    A block that fails is sent again after the others. Once all others are yielded, raises SceneError with what failed
    3 times; raises ClusterError at once where a worker is not fit for the job or the scheduler is lost.
    """
    with crew(workers, cluster, say) as client:
        run = _Run(client, plan, job, blocks, workers or 0, say)
        there = cluster is not None  # processes that were started for this run end with it, and need no tidying
        try:
            yield from run.parts()
        except ClusterError:
            there = False  # nobody is there to tidy up
            raise
        finally:
            run.sent.clear()
            if there:
                with suppress(Exception):  # what cannot be told to forget forgets at its next job
                    client.run(forget, job.token, on_error="ignore")


class _Run:
    """Blocks of one run: those waiting, those sent, and those that failed for good."""

    def __init__(
        self, client: Client, plan: Plan, job: Job, blocks: Sequence[TileBlock], own_workers: int, say: Say
    ) -> None:
        self.client, self.plan, self.job, self.own_workers, self.say = client, plan, job, own_workers, say
        self.waiting = deque(blocks)
        self.sent: dict[str, tuple[Future, TileBlock]] = {}
        self.tries: Counter[int] = Counter()
        self.failed: dict[int, str] = {}
        self._done: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._threads, self._looked, self._heard = 0, 0.0, monotonic()
        # A reference to the job for as long as the run lasts: Dask forgets what nobody holds.
        self._job = client.submit(held, job, key=f"job-{job.token}")

    def parts(self) -> Iterator[tuple[int, Part]]:
        self._send()
        while self.sent:
            future, block = self.sent.pop(self._next())
            part = self._part_of(future, block)
            if part is not None:
                yield block.number, part
            self._send()
        self._tell_failures()

    def _send(self) -> None:
        self._look()
        while self.waiting and len(self.sent) < max(FEWEST_SENT, SENT_A_THREAD * self._threads):
            block = self.waiting.popleft()
            key = f"classify_block-{self.job.token}-{block.number}-{self.tries[block.number]}"
            future = self.client.submit(classify_block, self._job, block.number, block.columns, block.rows, key=key)
            self.sent[key] = future, block
            future.add_done_callback(lambda done: self._done.put(str(done.key)))

    def _next(self) -> str:
        """The key of the next task that is done, well or not. Raises ClusterError where the scheduler is lost."""
        while True:
            with suppress(queue.Empty):
                key = self._done.get(timeout=LOOK_SECONDS)
                self._heard = monotonic()
                return key
            self._look()

    def _look(self) -> None:
        """Every few seconds: is the scheduler there, how many threads are there, do any work?"""
        if monotonic() - self._looked < LOOK_SECONDS:
            return
        try:
            self._threads = sum(self.client.nthreads().values())
        except Exception as error:  # Dask tells a lost scheduler by OSError, CancelledError, RuntimeError and others
            raise self._lost() from error
        if self._threads < self.own_workers:
            mend(self.client, self.own_workers)
        self._looked = monotonic()
        if not self._threads and monotonic() - self._heard > PATIENCE_SECONDS:
            self._heard = monotonic()
            self.say("no workers yet; on each machine: dask worker tcp://HOST:8786 --nthreads 1")

    def _part_of(self, future: Future, block: TileBlock) -> Part | None:
        """The part of a task that is done, or None where it failed. Raises ClusterError."""
        try:
            content: bytes = future.result()
        except ClusterError:
            raise
        except Exception as error:  # whatever a block makes a worker raise must not end the others
            if future.status != "error":  # but cancelled, as Dask does with all tasks of a scheduler that is gone
                raise self._lost() from error
            if isinstance(error, ImportError) or self._job.status == "error":
                raise ClusterError(
                    f"a worker cannot take the job ({type(error).__name__}: {error}); install the same geoclass, "
                    "with the same extras, on all workers"
                ) from error
            self._failed(block, error)
            return None
        return decode_part(pa.BufferReader(content))

    def _failed(self, block: TileBlock, error: Exception) -> None:
        self.tries[block.number] += 1
        if self.tries[block.number] < TRIES:
            self.waiting.append(block)
            return
        self.failed[block.number] = told(self.plan, block, error)

    def _tell_failures(self) -> None:
        if not self.failed:
            return
        reasons = list(self.failed.values())
        more = f" | and {len(reasons) - NAMED} more" if len(reasons) > NAMED else ""
        raise SceneError(
            f"{len(reasons)} of the blocks of tiles failed {TRIES} times, all others are done: {' | '.join(reasons[:NAMED])}{more}. "
            "Run the same command again to try only these; where a file is replaced by a whole one, with --overwrite"
        )

    def _lost(self) -> ClusterError:
        return ClusterError(
            "the Dask scheduler was lost; start it and its workers again, then run the same command: it goes on where it stopped"
        )


def told(plan: Plan, block: TileBlock, error: Exception) -> str:
    """Why a block failed, with file and window."""
    from distributed.scheduler import KilledWorker

    if isinstance(error, SceneError):
        return str(error)
    if isinstance(error, KilledWorker):
        why = "its workers were lost each time; where memory ran out, lower --batch-size or give workers more"
    else:
        why = f"{type(error).__name__}: {error}"
    grid, tiles = plan.grid, block.range
    bounds = (*grid.bounds(tiles.left, tiles.bottom)[:2], *grid.bounds(tiles.right - 1, tiles.top - 1)[2:])
    files = [scene.files[0] for scene in plan.mosaic.scenes if _touch(scene.outline_in(grid.crs).bounds, bounds)]
    where = f"{' '.join(f'{value:.0f}' for value in bounds)} ({crs_text(grid.crs)[:60]})"
    return f"{', '.join(files[:3])} could not be classified at window {where}: {why}"


def _touch(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _as_file(bundle: Bundle) -> bytes:
    """A bundle's file as bytes, wherever it came from."""
    with tempfile.TemporaryDirectory(prefix="geoclass-") as folder:
        path = Path(folder) / "bundle.pt"
        save_bundle(path, bundle.meta, bundle.state, forest=bundle.forest)
        return path.read_bytes()


def _absolute(mosaic: Mosaic) -> Mosaic:
    """The mosaic with absolute paths of local files: a worker has a working folder of its own."""
    return Mosaic(
        tuple(
            replace(
                scene,
                bands=tuple(replace(band, path=_absolute_name(band.path)) for band in scene.bands),
                files=tuple(_absolute_name(name) for name in scene.files),
                quality=scene.quality and replace(scene.quality, path=_absolute_name(scene.quality.path)),
            )
            for scene in mosaic.scenes
        )
    )


def _absolute_name(name: str) -> str:
    # Names of GDAL's subdatasets and drivers (NETCDF:x.nc:v) are no paths, and stay.
    return name if is_remote(name) or not Path(name).exists() else str(Path(name).absolute())
