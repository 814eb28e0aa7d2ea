"""Everything a running service holds, opened in one place and closed in the reverse order."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import filelock
from fastapi import Request

from ..errors import ServiceError
from ..files import require_writable
from .crew import Crew, child_environment
from .decoding import Decoder
from .examining import Examiner
from .jobs import Jobs
from .metrics import Metrics
from .networks import Served, open_models
from .refusal import Refusal, one_line
from .settings import Settings


@dataclass(frozen=True)
class Service:
    """An open service. `incoming` is where bodies of requests are written."""

    settings: Settings
    metrics: Metrics
    models: dict[str, Served]
    jobs: Jobs
    crew: Crew
    examiner: Examiner
    decoder: Decoder
    incoming: Path
    lock: filelock.BaseFileLock

    def model(self, name: str | None) -> Served:
        """A model by its name, the first where none is named. Raises Refusal (404)."""
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise Refusal(404, f"there is no model {one_line(name)[:80]!r}", f"choose from {', '.join(self.models)}")
        return self.models[name]

    def figures(self) -> dict[str, dict[str, float]]:
        """What /metrics shows beside the counters."""
        return {
            "geoclass_jobs": {state: float(many) for state, many in self.jobs.counts().items()},
            "geoclass_waiting_tiles": {name: float(each.batcher.waiting) for name, each in self.models.items()},
        }

    async def close(self) -> None:
        """End everything; jobs that run wait for the next start."""
        self.crew.stop()
        await self.examiner.close()
        self.decoder.close()
        for each in self.models.values():
            each.batcher.close()
        self.jobs.close()
        self.lock.release()


def open_service(settings: Settings) -> Service:
    """Lock the data folder, load the models, open the jobs. Raises GeoclassError, as where another service has the folder."""
    data = settings.data.resolve()
    require_writable(data)
    data.chmod(0o700)  # uploads and results are nobody else's
    lock = filelock.FileLock(data / "lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise ServiceError(
            f"another service uses {settings.data}; stop it, or give another folder with --data"
        ) from error
    try:
        incoming = data / "incoming"
        shutil.rmtree(incoming, ignore_errors=True)  # what a killed service was still receiving
        incoming.mkdir()
        metrics = Metrics()
        jobs = Jobs(data / "jobs.sqlite")
        examiner = Examiner(settings.limits, child_environment())
        service = Service(
            settings,
            metrics,
            open_models(settings, metrics.batch),
            jobs,
            Crew(jobs, data / "jobs", settings),
            examiner,
            Decoder(examiner, settings.limits.picture_pixels),
            incoming,
            lock,
        )
    except BaseException:
        lock.release()
        raise
    metrics.gauges = service.figures
    return service


def service_of(request: Request) -> Service:
    """The service that a request came to; a dependency of every route."""
    return cast(Service, request.app.state.service)
