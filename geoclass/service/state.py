"""Everything a running service holds, opened in one place and closed in the reverse order."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from fastapi import Request

from .crew import Crew, child_environment
from .decoding import Decoder
from .examining import Examiner
from .folder import TABLE
from .jobs import Jobs
from .metrics import Metrics
from .networks import Served, open_models
from .refusal import Refusal, one_line
from .runs import Runs
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
    runs: Runs
    incoming: Path

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
        self.runs.close()
        for each in self.models.values():
            each.batcher.close()
        self.jobs.close()


def open_service(settings: Settings) -> Service:
    """Load the models and open the jobs, in a data folder that is claimed. Raises GeoclassError."""
    data = settings.data.resolve()
    metrics = Metrics()
    models = open_models(settings, metrics.batch)
    jobs = Jobs(data / TABLE)  # before all else in there: it tells that the folder is a service's
    incoming = data / "incoming"
    shutil.rmtree(incoming, ignore_errors=True)  # what a killed service was still receiving
    incoming.mkdir()
    examiner = Examiner(settings.limits, child_environment())
    decoder = Decoder(examiner, settings.limits.picture_pixels)
    crew = Crew(jobs, data / "jobs", settings)
    runs = Runs(settings.database, settings.limits, incoming)
    service = Service(settings, metrics, models, jobs, crew, examiner, decoder, runs, incoming)
    metrics.gauges = service.figures
    return service


def service_of(request: Request) -> Service:
    """The service that a request came to; a dependency of every route."""
    return cast(Service, request.app.state.service)
