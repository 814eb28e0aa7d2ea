"""The routes for scenes: accept a job, follow it, fetch its results."""

from __future__ import annotations

import asyncio
import re
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import FileResponse

from ..database.reading import list_runs
from .jobs import Job, State, new_id
from .kinds import SCENES, kind_of, plain
from .places import allowed_path, allowed_url, is_url, require_inside
from .problems import declared, invalid
from .receiving import Received, received
from .refusal import Refusal
from .routes import READ
from .schemas import ClassifyRequest, JobFacts, JobList, JobWithLog, Options, job_facts
from .state import Service, service_of

router = APIRouter(tags=["jobs"])
With = Annotated[Service, Depends(service_of)]
Kind = Literal["gpkg", "cog", "geojson", "map", "summary", "preview"]
MOST_FILES = 100
MEDIA = {
    "gpkg": "application/geopackage+sqlite3",
    "cog": "image/tiff; application=geotiff; profile=cloud-optimized",
    "geojson": "application/geo+json",
    "map": "text/html; charset=utf-8",
    "summary": "application/json",
    "preview": "image/tiff",
}
# The map is a page of its own with scripts inside; in a sandbox it cannot act for who looks at it.
MAP_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "font-src data:; connect-src data:"
)


def _classify_body() -> dict[str, Any]:
    options = Options.model_json_schema()
    file = {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
    form = {"type": "object", "required": ["file"], "properties": {"file": file, **options["properties"]}}
    content = {
        "application/json": {"schema": ClassifyRequest.model_json_schema()},
        "multipart/form-data": {"schema": {**form, "additionalProperties": False}},
    }
    return {"requestBody": {"required": True, "content": content}, "security": [{"token": []}]}


WRITE: dict[str, Any] = {"security": [{"token": []}]}


@router.post(
    "/v1/classify",
    status_code=202,
    summary="A map of a scene, as a job",
    responses=declared(404, 408, 415, 503, 507),
    openapi_extra=_classify_body(),
)
async def classify(request: Request, response: Response, service: With) -> JobFacts:
    """Send a scene (GeoTIFF, JPEG 2000) as form data under `file`, several files for a mosaic; or JSON with `sources`.

    Answers with the job, which then waits for its turn, and survives restarts of the service. With `to_database` the
    result is stored in the service's database too, all of it or nothing: see `run` of the job that is done.
    """
    _require_room(service)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
        job = await _named(service, await _json(request))
    else:
        job = await _uploaded(request, service)
    response.headers["location"] = f"/v1/jobs/{job.id}"
    return JobFacts.model_validate(job_facts(job))


def _require_room(service: Service) -> None:
    waiting = service.jobs.counts()["queued"]
    if waiting >= service.settings.limits.waiting_jobs:
        raise Refusal(429, f"{waiting} jobs wait already", "try again later", {"retry-after": "60"})


async def _json(request: Request) -> ClassifyRequest:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > 1 << 20:
            raise Refusal(413, "the JSON is longer than 1 MiB", "name fewer sources")
    try:
        with _validated():
            return ClassifyRequest.model_validate_json(bytes(body))
    except RecursionError as error:
        raise Refusal(422, "the JSON is nested too deeply", "see /openapi.json for what is taken") from error


@contextmanager
def _validated() -> Iterator[None]:
    try:
        yield
    except pydantic.ValidationError as error:
        raise invalid(error.errors(include_url=False, include_input=False, include_context=False)) from error


async def _require_database(service: Service, options: Options) -> None:
    """Refuse what could not be stored, before anything of it is examined."""
    if options.to_database and service.runs.address is None:
        raise Refusal(422, "to_database: no database is set", "start geoclass serve with --database")
    if options.to_database:
        await service.runs.ask(list_runs)


async def _named(service: Service, wanted: ClassifyRequest) -> Job:
    """A job of scenes that the service reads itself."""
    settings = service.settings
    await _require_database(service, wanted)
    for source in wanted.sources:
        if is_url(source):
            allowed_url(source, settings.urls)
            continue
        path = allowed_path(source, settings.roots)
        found = await service.examiner.scene(path, path.name, kind_of(path, path.name, SCENES))
        require_inside(found["files"], path.name, settings.roots)
    stem = wanted.sources[0].partition("?")[0].rstrip("/").rpartition("/")[2]
    return _accept(service, wanted, wanted.sources, None, stem)


async def _uploaded(request: Request, service: Service) -> Job:
    """A job of scenes that were sent."""
    async with received(request, service.incoming, MOST_FILES) as form:
        with _validated():
            options = Options.model_validate(form.fields)
        service.model(options.model)
        await _require_database(service, options)
        if not form.files:
            raise Refusal(422, "no scene was sent", "send it as a file: curl -F file=@county.tif")
        for item in form.files:
            await service.examiner.scene(item.path, item.name, kind_of(item.path, item.name, SCENES))
        return await asyncio.to_thread(_accept, service, options, [], form.files, form.files[0].name)


def _accept(
    service: Service, options: Options, sources: Sequence[str], files: Sequence[Received] | None, stem: str
) -> Job:
    """Put files in the job's folder, then the job in the table: from then on it will be carried out, come what may."""
    served = service.model(options.model)
    job, settings = new_id(), service.settings
    folder = service.crew.folder / job
    (folder / "in").mkdir(parents=True)
    names = list(sources)
    for item in files or ():
        kind = kind_of(item.path, item.name, SCENES)
        name = _unique(plain(Path(item.name).stem), kind.suffix, names)
        item.path.rename(folder / "in" / name)
        names.append(name)
    name = options.name or plain(Path(stem).stem)
    chosen = options.model_dump(include={"sensor", "gsd_m", "crs", "min_valid", "date", "smooth", "force"})
    spec = {
        "sources": names,
        "uploaded": files is not None,
        "model": str(served.path),
        "name": name,
        "options": chosen,
        "roots": [str(root.resolve()) for root in settings.roots],
        "urls": list(settings.urls),
        "device": settings.device,
        "runtime": settings.runtime,
        "to_database": options.to_database,
    }
    try:
        found = service.jobs.add(name, served.name, spec, job)
    except sqlite3.Error:  # of a full disk, most likely: what was sent is in nobody's way
        shutil.rmtree(folder, ignore_errors=True)
        raise
    service.crew.wake()
    return found


def _unique(stem: str, suffix: str, taken: Sequence[str]) -> str:
    names = (f"{stem}{'' if number == 1 else f'_{number}'}{suffix}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)


def found_job(service: Service, job: str) -> Job:
    """The job of this id. Raises Refusal (404)."""
    found = service.jobs.get(job) if re.fullmatch(r"[0-9a-f]{16}", job) else None
    if found is None:
        raise Refusal(404, "there is no job of this id", "see GET /v1/jobs")
    return found


def result_of(service: Service, job: str, kind: str) -> tuple[Job, Path]:
    """A job that is done, and the file of one of its results. Raises Refusal (404, 409)."""
    found = found_job(service, job)
    if kind not in found.files:
        raise Refusal(409, f"the job is {found.state} and has no results yet", "wait until it is done")
    path = service.crew.folder / found.id / found.files[kind]
    if not path.is_file():
        raise Refusal(404, "the result is gone from the service's disk", "classify the scene again")
    return found, path


@router.get("/v1/jobs", summary="All jobs", responses=declared(), openapi_extra=READ)
async def jobs(
    service: With,
    state: Annotated[State | None, Query(description="Only those in this state.")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    offset: Annotated[int, Query(ge=0, le=1_000_000_000)] = 0,
) -> JobList:
    """Jobs, the newest first."""
    return JobList.model_validate({"jobs": [job_facts(job) for job in service.jobs.page(state, limit, offset)]})


@router.get("/v1/jobs/{job}", summary="One job and its log", responses=declared(404), openapi_extra=READ)
async def job(service: With, job: str) -> JobWithLog:
    """How far it is, how long it still takes, and what it said."""
    found = found_job(service, job)
    lines = [{"at": at, "line": line} for at, line in service.jobs.log(found.id)]
    return JobWithLog.model_validate({**job_facts(found), "log": lines})


@router.post("/v1/jobs/{job}/cancel", summary="Cancel a job", responses=declared(404, 409), openapi_extra=WRITE)
async def cancel(service: With, job: str) -> JobFacts:
    """End a job that waits or runs. What it has done is kept, and `resume` goes on from there."""
    found = found_job(service, job)
    if not await asyncio.to_thread(service.crew.cancel, found.id):
        raise Refusal(409, f"the job is {found_job(service, job).state}", "only jobs that wait or run can be cancelled")
    return JobFacts.model_validate(job_facts(found_job(service, job)))


@router.post("/v1/jobs/{job}/resume", summary="Go on with a job", responses=declared(404, 409), openapi_extra=WRITE)
async def resume(service: With, job: str) -> JobFacts:
    """Queue a cancelled or failed job again; it goes on where it stopped."""
    found = found_job(service, job)
    if not service.jobs.resume(found.id):
        raise Refusal(409, f"the job is {found.state}", "only cancelled and failed jobs can be resumed")
    service.crew.wake()
    return JobFacts.model_validate(job_facts(found_job(service, job)))


@router.delete(
    "/v1/jobs/{job}", status_code=204, summary="Forget a job", responses=declared(404, 409), openapi_extra=WRITE
)
async def delete(service: With, job: str) -> Response:
    """Remove a job with its upload and its results. One that runs is kept: cancel it first."""
    found = found_job(service, job)
    if not service.jobs.delete(found.id):
        raise Refusal(409, "the job is running", f"cancel it first: POST /v1/jobs/{found.id}/cancel")
    await asyncio.to_thread(shutil.rmtree, service.crew.folder / found.id, ignore_errors=True)
    return Response(status_code=204)


@router.get(
    "/v1/jobs/{job}/results/{kind}",
    summary="A result",
    response_class=FileResponse,
    responses={
        **declared(404, 409, 416),
        200: {"description": "The file.", "content": {media.partition(";")[0]: {} for media in MEDIA.values()}},
        206: {"description": "The range of the file that was asked for."},
    },
    openapi_extra=READ,
)
async def result(service: With, job: str, kind: Kind) -> FileResponse:
    """GeoPackage, class raster (COG), GeoJSON, map (HTML), summary (JSON) or preview picture (GeoTIFF) of a job that is done.

    Ranges are answered, so that GDAL and QGIS can read the raster in place.
    """
    _, path = result_of(service, job, kind)
    headers = {"content-security-policy": MAP_POLICY} if kind == "map" else {}
    shown = "inline" if kind in ("map", "summary") else "attachment"
    return FileResponse(
        path, media_type=MEDIA[kind], filename=path.name, content_disposition_type=shown, headers=headers
    )
