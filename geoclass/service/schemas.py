"""What goes in and out as JSON, with examples: the parts of the OpenAPI document."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, get_args

import pydantic

from ..configs import config_names
from ..database.browsing import Overview
from ..database.run import RunInfo
from ..grid import crs_text
from .jobs import Job, State
from .networks import Served
from .runs import RunKind
from .worker import RESULTS

JOB_EXAMPLE: dict[str, pydantic.JsonValue] = {
    "id": "9f2c51d0a7e3b846",
    "name": "county",
    "model": "m",
    "state": "running",
    "stage": "classifying",
    "done": 1280,
    "total": 67200,
    "progress": 0.019,
    "eta_s": 1520.5,
    "attempts": 1,
    "created": "2024-05-01T09:30:00Z",
    "started": "2024-05-01T09:30:01Z",
    "finished": None,
    "error": None,
    "remedy": None,
    "results": {},
    "run": None,
}
RUN_EXAMPLE: dict[str, pydantic.JsonValue] = {
    "id": "5d0e6c1f2b7a9384",
    "name": "county",
    "date": "2021-07-14",
    "scheme": "nlcd6",
    "tiles": 67200,
    "model": "m.pt",
    "view": "run_county_2021_07_14",
    "loaded": "2024-05-01T09:55:00Z",
    "links": {
        "self": "/v1/runs/5d0e6c1f2b7a9384",
        "tiles": "/v1/runs/5d0e6c1f2b7a9384/tiles",
        "gpkg": "/v1/runs/5d0e6c1f2b7a9384/results/gpkg",
    },
}


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Problem(Model):
    """Every answer that is not what was asked for."""

    error: str
    remedy: str

    model_config = pydantic.ConfigDict(
        json_schema_extra={"examples": [{"error": "there is no job of this id", "remedy": "see GET /v1/jobs"}]}
    )


class Answer(Model):
    """One picture: its most probable class, and the probabilities of all."""

    name: str = pydantic.Field(description="The file name it was sent under.", examples=["tile.jpg"])
    label: str = pydantic.Field(alias="class", examples=["Forest"])
    confidence: float = pydantic.Field(ge=0, le=1, examples=[0.93])
    probabilities: dict[str, float] = pydantic.Field(examples=[{"Forest": 0.93, "Grass": 0.05, "Field": 0.02}])


class Predicted(Model):
    """Answers in the order of the pictures."""

    model: str = pydantic.Field(examples=["m"])
    answers: list[Answer]


class ModelFacts(Model):
    """One model of the service."""

    name: str = pydantic.Field(examples=["m"])
    default: bool
    scheme: str = pydantic.Field(examples=["rsscn7"])
    classes: list[str] = pydantic.Field(examples=[["Forest", "Grass", "Field"]])
    colours: list[str] = pydantic.Field(examples=[["#228b22", "#9acd32", "#f0e68c"]])
    backbone: str = pydantic.Field(examples=["efficientnet_lite0"])
    sensor: str = pydantic.Field(description="The imagery it was trained on.", examples=["naip"])
    bands: list[str] = pydantic.Field(examples=[["red", "green", "blue"]])
    size_px: int = pydantic.Field(examples=[224])
    gsd_m: float | None = pydantic.Field(examples=[1.0])
    accuracy: float | None = pydantic.Field(description="As its training measured it.", examples=[0.91])
    runtime: str = pydantic.Field(examples=["openvino fp32"])
    digest: str = pydantic.Field(examples=["4ad0c5bb8a0d2d43"])
    created: str = pydantic.Field(examples=["2024-05-01T09:30:00+00:00"])


class ModelList(Model):
    models: list[ModelFacts]


Word = Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Smoothing = Literal["plurality", "potts"]


class Options(Model):
    """How a scene is classified; as the options of geoclass classify."""

    model: str | None = pydantic.Field(
        default=None, max_length=100, description="A name of GET /v1/models; the first if none."
    )
    name: Word | None = pydantic.Field(default=None, description="What the results are called.", examples=["county"])
    sensor: str | None = pydantic.Field(
        default=None, json_schema_extra={"enum": [*config_names("sensors"), None]}, examples=["naip"]
    )
    gsd_m: float | None = pydantic.Field(default=None, ge=0.01, le=1000)
    crs: str | None = pydantic.Field(default=None, pattern=r"^EPSG:[0-9]{4,6}$", examples=["EPSG:26919"])
    min_valid: float | None = pydantic.Field(default=None, ge=0, le=1)
    date: str | None = pydantic.Field(
        default=None, pattern=r"^[0-9]{4}(-[0-9]{2}(-[0-9]{2})?)?$", examples=["2019-07-14"]
    )
    smooth: Smoothing | None = None
    force: bool = pydantic.Field(default=False, description="Classify even where the doctor finds the scene unfit.")
    to_database: bool = pydantic.Field(default=False, description="Store the result in the service's database too.")

    @pydantic.field_validator("sensor")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None and value not in config_names("sensors"):  # a path would be read from the service's disk
            raise ValueError(f"choose from {', '.join(config_names('sensors'))}")
        return value


class ClassifyRequest(Options):
    """Scenes that the service can read itself: paths under its allowed folders, or URLs on its list."""

    sources: list[Annotated[str, pydantic.Field(min_length=1, max_length=1000)]] = pydantic.Field(
        min_length=1, max_length=100, examples=[["naip/county.tif"]]
    )


class JobFacts(Model):
    """One job. `results` has a link for each kind of result once it is done, or once only storing it in the database failed;
    `run` is the id of the result there (see /v1/runs)."""

    id: str
    name: str
    model: str
    state: State
    stage: str
    done: int = pydantic.Field(description="Tiles done.")
    total: int
    progress: float = pydantic.Field(ge=0, le=1)
    eta_s: float | None = pydantic.Field(description="Seconds that classifying still takes, where that is known.")
    attempts: int
    created: datetime
    started: datetime | None
    finished: datetime | None
    error: str | None
    remedy: str | None
    results: dict[str, str]
    run: str | None

    model_config = pydantic.ConfigDict(json_schema_extra={"examples": [JOB_EXAMPLE]})


class LogLine(Model):
    at: datetime
    line: str


class JobWithLog(JobFacts):
    """One job and what it said, the oldest line first."""

    log: list[LogLine]

    model_config = pydantic.ConfigDict(
        json_schema_extra={"examples": [{**JOB_EXAMPLE, "log": [{"at": "2024-05-01T09:30:00Z", "line": "accepted"}]}]}
    )


class JobList(Model):
    jobs: list[JobFacts]


class RunFacts(Model):
    """One result in the database."""

    id: str
    name: str | None
    date: str | None
    scheme: str
    tiles: int
    model: str | None
    view: str = pydantic.Field(description="The view in the database that shows its tiles.")
    loaded: datetime
    links: dict[str, str]

    model_config = pydantic.ConfigDict(json_schema_extra={"examples": [RUN_EXAMPLE]})


class RunList(Model):
    runs: list[RunFacts]


class RunClass(Model):
    """One class of a result."""

    id: int = pydantic.Field(examples=[41])
    name: str = pydantic.Field(examples=["Forest"])
    colour: str = pydantic.Field(examples=["#1c5f2c"])
    tiles: int = pydantic.Field(examples=[12400])
    area_ha: float = pydantic.Field(description="Mapped, less the part without data; no estimate.", examples=[62218.2])


class RunOverview(RunFacts):
    """One result in the database, its classes, and where its tiles are."""

    crs: str
    tile_side_m: float
    bounds: tuple[float, float, float, float] | None = pydantic.Field(
        description="Degrees: west, south, east, north.", examples=[[-70.2, 43.1, -69.8, 43.5]]
    )
    classes: list[RunClass]

    model_config = pydantic.ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    **RUN_EXAMPLE,
                    "crs": "EPSG:26919",
                    "tile_side_m": 224.0,
                    "bounds": [-70.2, 43.1, -69.8, 43.5],
                    "classes": [{"id": 41, "name": "Forest", "colour": "#1c5f2c", "tiles": 12400, "area_ha": 62218.2}],
                }
            ]
        }
    )


class Health(Model):
    status: Literal["ok"]
    version: str = pydantic.Field(examples=["0.1.0"])


class Index(Model):
    """Where to find what."""

    service: Literal["geoclass"]
    version: str
    openapi: str
    links: dict[str, str]


def job_facts(job: Job) -> dict[str, Any]:
    """A job as JobFacts."""
    return {
        "id": job.id,
        "name": job.name,
        "model": job.model,
        "state": job.state,
        "stage": job.stage,
        "done": job.done,
        "total": job.total,
        "progress": 1.0 if job.state == "done" else min(1.0, job.done / job.total) if job.total else 0.0,
        "eta_s": job.eta_s,
        "attempts": job.attempts,
        "created": _time(job.created),
        "started": _time(job.started),
        "finished": _time(job.finished),
        "error": job.error,
        "remedy": job.remedy,
        "results": {kind: f"/v1/jobs/{job.id}/results/{kind}" for kind in RESULTS if kind in job.files},
        "run": job.run,
    }


def run_facts(run: RunInfo) -> dict[str, Any]:
    """A result in the database as RunFacts."""
    own = f"/v1/runs/{run.id}"
    kinds = {kind: f"{own}/results/{kind}" for kind in get_args(RunKind)}
    return {**asdict(run), "links": {"self": own, "tiles": f"{own}/tiles", **kinds}}


def run_overview(found: Overview) -> dict[str, Any]:
    """What a result in the database holds as RunOverview."""
    return {
        **run_facts(found.run),
        "crs": crs_text(found.grid.crs),
        "tile_side_m": found.grid.side_m,
        "bounds": found.bounds,
        "classes": [asdict(item) for item in found.classes],
    }


def model_facts(served: Served, default: bool) -> ModelFacts:
    """A model as /v1/models shows it."""
    meta = served.bundle.meta
    return ModelFacts(
        name=served.name,
        default=default,
        scheme=meta.scheme.name,
        classes=list(meta.scheme.names),
        colours=[item.colour for item in meta.scheme.classes],
        backbone=meta.backbone,
        sensor=meta.sensor.name,
        bands=list(meta.bands),
        size_px=meta.size_px,
        gsd_m=meta.gsd_m,
        accuracy=served.accuracy,
        runtime=served.runtime,
        digest=served.bundle.digest,
        created=meta.created,
    )


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
