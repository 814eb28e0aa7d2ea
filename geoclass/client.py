"""Speak to a geoclass service from Python.

    from geoclass.client import Client

    with Client("http://127.0.0.1:8000", token) as client:
        for answer in client.predict(["a.jpg", "b.jpg"]):
            print(answer.name, answer.label, answer.confidence)
        job = client.classify("county.tif", wait=True)
        client.download(job.id, "gpkg", "county.gpkg")

Needs `pip install "geoclass[serve]"`, and neither torch nor GDAL.
"""

from __future__ import annotations

import mimetypes
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

from .database.run import RunInfo as RunInfo  # a public name of this module too
from .errors import ServiceError
from .files import replacing

try:
    import httpx
except ImportError as missing:  # an extra
    raise ServiceError(
        "geoclass.client needs httpx, which is not installed; pip install 'geoclass[serve]'"
    ) from missing

Kind = Literal["gpkg", "cog", "geojson", "map", "summary", "preview"]
Progress = Callable[[str, int, int], None]
"""Called with (stage, tiles done, tiles in all)."""

TIMEOUT_S = 120.0
ASK_EVERY_S = 0.5
TRIES = 5
"""How often a request that found the service busy (429) is sent again."""
LONGEST_WAIT_S = 30.0


@dataclass(frozen=True)
class Answer:
    """One picture: its most probable class (`label`), how probable that is, and the probabilities of all classes."""

    name: str
    label: str
    confidence: float
    probabilities: Mapping[str, float]


@dataclass(frozen=True)
class JobInfo:
    """One job: `done` of `total` tiles, `eta_s` the seconds that it still takes where that is known, `error` and `remedy`
    where it failed, `results` the kinds that can be downloaded, `run` the id of the result in the service's database where it
    was stored there. Times are in ISO 8601."""

    id: str
    name: str
    model: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    stage: str
    done: int
    total: int
    progress: float
    eta_s: float | None
    created: str
    started: str | None
    finished: str | None
    error: str | None
    remedy: str | None
    results: Mapping[str, str]
    run: str | None = None
    log: tuple[str, ...] = ()

    @property
    def over(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self.state not in ("queued", "running")


T = TypeVar("T", JobInfo, RunInfo)


class Client:
    """A service at `url`, spoken to with `token`. A context manager; may be shared by threads.

    Every method raises ServiceError, in one line with the remedy, where the service cannot be reached or refuses.
    """

    def __init__(self, url: str, token: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        try:
            self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s)
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise ServiceError(f"{url!r} or its token cannot be used ({error}); write http://host:port") from error
        self.url = url

    def predict(self, pictures: str | Path | Sequence[str | Path], model: str | None = None) -> list[Answer]:
        """Classes of picture files, in their order; at most as many as the service takes in one request (64)."""
        with ExitStack() as stack:
            files = _opened(stack, pictures)
            answer = self._send("POST", "/v1/predict", params=_given(model=model), files=files)
        return [Answer(a["name"], a["class"], a["confidence"], a["probabilities"]) for a in answer.json()["answers"]]

    def classify(
        self,
        scenes: str | Path | Sequence[str | Path],
        *,
        upload: bool = True,
        wait: bool = False,
        progress: Progress | None = None,
        **options: Any,
    ) -> JobInfo:
        """Start a job on scenes: sent from here, or with upload=False named as paths and URLs that the service may read.

        options: model, name, sensor, gsd_m, crs, min_valid, date, smooth, force, to_database. With `wait` see `wait`.
        """
        named = [scenes] if isinstance(scenes, str | Path) else list(scenes)
        chosen = _given(**options)
        if upload:
            with ExitStack() as stack:
                files = _opened(stack, named)
                data = {
                    key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in chosen.items()
                }
                answer = self._send("POST", "/v1/classify", files=files, data=data)
        else:
            answer = self._send("POST", "/v1/classify", json={"sources": [str(item) for item in named], **chosen})
        job = _job(answer.json())
        return self.wait(job.id, progress=progress) if wait else job

    def wait(self, job: str, *, progress: Progress | None = None, timeout_s: float | None = None) -> JobInfo:
        """The job once it is done. Raises ServiceError where it fails, is cancelled, or takes longer than `timeout_s`."""
        ends = None if timeout_s is None else time.monotonic() + timeout_s
        while not (found := self.job(job)).over:
            if progress and found.total:
                progress(found.stage, found.done, found.total)
            if ends is not None and time.monotonic() > ends:
                raise ServiceError(f"job {job} is not done after {timeout_s:g} s; it goes on, ask for it later")
            time.sleep(ASK_EVERY_S)
        if found.state == "done":
            return found
        what = f"failed: {found.error}" if found.error else f"was {found.state}"
        raise ServiceError(f"job {job} {what}; {found.remedy or 'resume it, or start another'}")

    def job(self, job: str) -> JobInfo:
        """One job with its log."""
        return _job(self._send("GET", f"/v1/jobs/{_part(job)}").json())

    def jobs(self, state: str | None = None, limit: int = 100, offset: int = 0) -> list[JobInfo]:
        """Jobs, the newest first, without their logs."""
        answer = self._send("GET", "/v1/jobs", params=_given(state=state, limit=limit, offset=offset))
        return [_job(item) for item in answer.json()["jobs"]]

    def cancel(self, job: str) -> JobInfo:
        """End a job that waits or runs; `resume` goes on with it."""
        return _job(self._send("POST", f"/v1/jobs/{_part(job)}/cancel").json())

    def resume(self, job: str) -> JobInfo:
        """Go on with a cancelled or failed job."""
        return _job(self._send("POST", f"/v1/jobs/{_part(job)}/resume").json())

    def delete(self, job: str) -> None:
        """Remove a job that does not run, with its results."""
        self._send("DELETE", f"/v1/jobs/{_part(job)}")

    def download(self, job: str, kind: Kind, path: str | Path, overwrite: bool = False) -> Path:
        """Save a result of a job that is done. Raises OutputError where `path` exists or cannot be written."""
        return self._save(f"/v1/jobs/{_part(job)}/results/{kind}", Path(path), overwrite)

    def runs(self, limit: int = 100, offset: int = 0) -> list[RunInfo]:
        """Results in the service's database, the last loaded first."""
        answer = self._send("GET", "/v1/runs", params={"limit": limit, "offset": offset})
        return [_known(RunInfo, item) for item in answer.json()["runs"]]

    def run(self, run: str) -> dict[str, Any]:
        """What a result in the database holds: its classes with tiles and areas, `bounds` in degrees. `run`: id or view."""
        found: dict[str, Any] = self._send("GET", f"/v1/runs/{_run(run)}").json()
        return found

    def tiles(
        self, run: str, bbox: tuple[float, float, float, float] | None = None, page: int = 1000
    ) -> Iterator[dict[str, Any]]:
        """The tiles of a result in the database as GeoJSON features, fetched `page` at a time.

        bbox: west, south, east, north in degrees; tiles that touch it.
        """
        box = None if bbox is None else ",".join(f"{edge:.10f}" for edge in bbox)
        after: str | None = ""
        while after is not None:
            asked = _given(bbox=box, limit=page, after=after)
            found = self._send("GET", f"/v1/runs/{_run(run)}/tiles", params=asked).json()
            yield from found["features"]
            after = found["next"]

    def download_run(
        self, run: str, kind: Literal["gpkg", "geojson", "summary"], path: str | Path, overwrite: bool = False
    ) -> Path:
        """Save a result that is in the database. Raises OutputError where `path` exists or cannot be written."""
        return self._save(f"/v1/runs/{_run(run)}/results/{kind}", Path(path), overwrite)

    def _save(self, what: str, target: Path, overwrite: bool) -> Path:
        with (
            replacing(target, overwrite) as temporary,
            self._reached(),
            self._http.stream("GET", what) as answer,
        ):
            if answer.status_code != 200:
                answer.read()
                raise _refused(answer)
            with temporary.open("wb") as stream:
                for piece in answer.iter_bytes(1 << 20):
                    stream.write(piece)
        return target

    def models(self) -> list[dict[str, Any]]:
        """The service's models with their classes, the default first."""
        found: list[dict[str, Any]] = self._send("GET", "/v1/models").json()["models"]
        return found

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, method: str, path: str, **parts: Any) -> httpx.Response:
        """The answer, asked for again where the service is busy."""
        for again in range(TRIES, -1, -1):
            for _, (_, stream, _) in parts.get("files", ()):
                stream.seek(0)
            with self._reached():
                answer = self._http.request(method, path, **parts)
            if answer.status_code != 429 or not again:
                break
            time.sleep(min(LONGEST_WAIT_S, float(answer.headers.get("retry-after", "1"))))
        if answer.is_success:
            return answer
        raise _refused(answer)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason = " ".join(f"{type(error).__name__} {error}".split())[:120]
            raise ServiceError(
                f"{self.url} does not answer ({reason}); check that geoclass serve runs there"
            ) from error


def _refused(answer: httpx.Response) -> ServiceError:
    try:
        body = answer.json()
        return ServiceError(f"{body['error']}; {body['remedy']}")
    except (ValueError, KeyError, TypeError):
        return ServiceError(f"{answer.url} answered {answer.status_code}; check that geoclass serve runs there")


def _opened(stack: ExitStack, files: str | Path | Sequence[str | Path]) -> list[tuple[str, tuple[str, Any, str]]]:
    """Files as the parts of a form."""
    parts = []
    for path in [files] if isinstance(files, str | Path) else files:
        try:
            stream = stack.enter_context(Path(path).open("rb"))  # noqa: SIM115  (the stack closes it)
        except OSError as error:
            raise ServiceError(f"{path} cannot be read ({error.strerror}); check the path") from error
        kind = mimetypes.guess_type(str(path))[0] or "application/octet-stream"
        parts.append(("file", (Path(path).name, stream, kind)))
    if not parts:
        raise ServiceError("no file named; name one or more")
    return parts


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _part(job: str) -> str:
    """A job's id as a part of a path."""
    if not job.isalnum() or not job.isascii():
        raise ServiceError(f"{job!r} is no id of a job; see jobs()")
    return job


def _run(run: str) -> str:
    """A run's id or view as a part of a path."""
    if not re.fullmatch(r"[A-Za-z0-9_]+", run):
        raise ServiceError(f"{run!r} is no id or view of a run; see runs()")
    return run


def _job(values: Mapping[str, Any]) -> JobInfo:
    log = tuple(f"{line['at']} {line['line']}" for line in values.get("log", ()))
    return _known(JobInfo, {**values, "log": log})


def _known(kind: type[T], values: Mapping[str, Any]) -> T:
    """The fields that this version knows, of a service that may be newer."""
    names = {item.name for item in fields(kind)}
    return kind(**{key: value for key, value in values.items() if key in names})
