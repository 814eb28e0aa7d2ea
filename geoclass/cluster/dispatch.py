"""The driver's side of any job: tasks go out a few at a time, answers come back, and what fails three times is told."""

from __future__ import annotations

import queue
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..errors import ClusterError
from .crew import Spread, crew, mend
from .worker import Job, forget, held

if TYPE_CHECKING:
    from distributed import Client, Future

TRIES = 3
SENT_A_THREAD = 3
"""Tasks sent for each thread of a worker: the one in work, and some for it to find when that is done."""
FEWEST_SENT = 4
LOOK_SECONDS = 2.0
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Task:
    """One call of a job's function, numbered within a run."""

    number: int
    arguments: tuple[Any, ...]


def dispatched(
    spread: Spread,
    job: Job,
    function: Callable[..., bytes],
    tasks: Iterable[Task],
    failed: Callable[[dict[int, Exception]], Exception],
) -> Iterator[tuple[int, bytes]]:
    """Yield (number, function(job, *arguments)) as tasks are finished, in no order, by the workers of `spread`.

    A task that fails is sent again after the others. Once all others are yielded, raises what `failed` makes of the
    numbers that failed 3 times and their errors; raises ClusterError at once where a worker is not fit for the job or the scheduler is lost.
    """
    with crew(spread) as client:
        run = _Run(client, spread, job, function, tasks)
        there = spread.cluster is not None  # processes that were started for this run end with it, and need no tidying
        try:
            yield from run.answers()
        except ClusterError:
            there = False  # nobody is there to tidy up
            raise
        finally:
            run.sent.clear()
            if there:
                with suppress(Exception):  # what cannot be told to forget forgets at its next job
                    client.run(forget, job.token, on_error="ignore")
        if run.failed:
            raise failed(run.failed)


class _Run:
    """Tasks of one run: those waiting, those sent, and those that failed for good."""

    def __init__(
        self, client: Client, spread: Spread, job: Job, function: Callable[..., bytes], tasks: Iterable[Task]
    ) -> None:
        self.client, self.spread, self.job, self.function = client, spread, job, function
        self.waiting = iter(tasks)
        self.again: deque[Task] = deque()
        self.sent: dict[str, tuple[Future, Task]] = {}
        self.tries: Counter[int] = Counter()
        self.failed: dict[int, Exception] = {}
        self._done: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._threads, self._looked, self._heard = 0, 0.0, monotonic()
        # A reference to the job for as long as the run lasts: Dask forgets what nobody holds.
        self._job = client.submit(held, job, key=f"job-{job.token}")

    def answers(self) -> Iterator[tuple[int, bytes]]:
        self._send()
        while self.sent:
            future, task = self.sent.pop(self._next())
            answer = self._answer_of(future, task)
            if answer is not None:
                yield task.number, answer
            self._send()

    def _send(self) -> None:
        self._look()
        while len(self.sent) < max(FEWEST_SENT, SENT_A_THREAD * self._threads):
            task = next(self.waiting, None) or (self.again.popleft() if self.again else None)
            if task is None:
                return
            key = f"{self.function.__name__}-{self.job.token}-{task.number}-{self.tries[task.number]}"
            future = self.client.submit(self.function, self._job, *task.arguments, key=key)
            self.sent[key] = future, task
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
        if self._threads < (self.spread.workers or 0):
            mend(self.client, self.spread.workers or 0)
        self._looked = monotonic()
        if not self._threads and monotonic() - self._heard > PATIENCE_SECONDS:
            self._heard = monotonic()
            self.spread.say("no workers yet; on each machine: dask worker tcp://HOST:8786 --nthreads 1")

    def _answer_of(self, future: Future, task: Task) -> bytes | None:
        """What a task that is done gave, or None where it failed. Raises ClusterError."""
        try:
            answer: bytes = future.result()
        except ClusterError:
            raise
        except Exception as error:  # whatever a task makes a worker raise must not end the others
            if future.status != "error":  # but cancelled, as Dask does with all tasks of a scheduler that is gone
                raise self._lost() from error
            if isinstance(error, ImportError) or self._job.status == "error":
                raise ClusterError(
                    f"a worker cannot take the job ({type(error).__name__}: {error}); install the same geoclass, "
                    "with the same extras, on all workers"
                ) from error
            self._failed(task, error)
            return None
        return answer

    def _failed(self, task: Task, error: Exception) -> None:
        self.tries[task.number] += 1
        if self.tries[task.number] < TRIES:
            self.again.append(task)
        else:
            self.failed[task.number] = error

    def _lost(self) -> ClusterError:
        return ClusterError(
            "the Dask scheduler was lost; start it and its workers again, then run the same command: it goes on where it stopped"
        )
