"""A job's process: `python -m geoclass.service.worker`, with the job as a line of JSON on standard input.

It writes events on standard output, a JSON object a line: {"stage", "done", "total"}, {"say"}, and at the end
{"files", "run"} or {"error", "remedy"}, the latter with "files" where only storing them in the database failed. It ends at once when standard input does: then the service was killed, and the next one starts the
job again, which goes on from its journal.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import filelock

from ..database.loading import load_result, require_database
from ..errors import GeoclassError, ServiceError
from .examiner import describe
from .kinds import SCENES, kind_of, plain
from .places import allowed_path, allowed_url, is_url, require_inside
from .refusal import Refusal, refused
from .settings import Limits

RESULTS = {
    "gpkg": ".gpkg",
    "cog": ".tif",
    "geojson": ".geojson",
    "map": ".html",
    "summary": ".json",
    "preview": ".preview.tif",
}
"""The kinds of results, and how their files end."""

TELL_EVERY_S = 0.5
PIECE = 1 << 20
AS_IT_IS = {"accept-encoding": "identity"}
"""What is fetched is kept byte by byte, so it must not be compressed on the way."""

Tell = Callable[..., None]


@dataclass(frozen=True)
class Task:
    """What one job is: `sources` are uploaded files' names in the folder `in`, or paths and URLs to check once more. With
    `to_database` the result is stored in `database` too."""

    folder: Path
    sources: list[str]
    uploaded: bool
    model: str
    name: str
    options: Mapping[str, Any]
    roots: list[str]
    urls: list[str]
    device: str
    runtime: str
    limits: Limits
    to_database: bool = False
    database: str | None = None


def task_of(line: str) -> Task:
    """The task in a line of JSON."""
    values = json.loads(line)
    return Task(**{**values, "folder": Path(values["folder"]), "limits": Limits(**values["limits"])})


def finished(task: Task) -> dict[str, str] | None:
    """The results, relative to the job's folder, where an earlier process wrote all of them; else None."""
    out = task.folder / "out"
    if (out / f".{task.name}.journal").exists():
        return None
    files = {kind: f"out/{task.name}{suffix}" for kind, suffix in RESULTS.items()}
    return files if all((task.folder / path).is_file() for path in files.values()) else None


def carry_out(task: Task, tell: Tell) -> dict[str, str]:
    """Classify the sources, in the job's folder as the working one. Raises GeoclassError of every kind they call for."""
    with filelock.FileLock(task.folder / "lock", timeout=60):  # a killed service's worker may be just about to end
        done = finished(task)
        if done is None:
            if task.to_database:  # found out now, not after hours of classifying
                require_database(_address(task))
            scenes = [_scene(task, number, source, tell) for number, source in enumerate(task.sources)]
            _classify(task, scenes, tell)
            done = finished(task)
        if done is None:
            raise GeoclassError(f"results of {task.name} are missing; run the job again")
        return done


def store(task: Task, files: Mapping[str, str], tell: Tell) -> str | None:
    """Load the result into the database, where that was asked for, in one transaction; the run's id there.

    The same result again replaces itself, so a job may be resumed after this failed. Raises DatabaseError.
    """
    if not task.to_database:
        return None
    tell(stage="storing", done=0, total=0)
    loaded = load_result(task.folder / files["gpkg"], _address(task))
    tell(say=f"{loaded.tiles:,} tiles in the database: view {loaded.run_view}, {loaded.written:,} rows written")
    for note in loaded.notes:
        tell(say=note)
    return loaded.run


def _address(task: Task) -> str:
    if task.database is None:
        raise ServiceError("no database is set; start geoclass serve with --database, and resume the job")
    return task.database


def _scene(task: Task, number: int, source: str, tell: Tell) -> Path:
    """The local file of one source, once its kind and header are fit."""
    if task.uploaded:
        path = Path("in") / source
    elif is_url(source):
        path = _fetched(task, number, allowed_url(source, task.urls), tell)
    else:
        path = allowed_path(source, [Path(root) for root in task.roots])
    kind = kind_of(path, path.name, SCENES)
    found = describe(str(path), path.name, kind.driver, task.limits.scene_pixels, task.limits.block_bytes)
    if not task.uploaded and not is_url(source):
        require_inside(found["files"], path.name, [Path(root) for root in task.roots])
    return path


def _fetched(task: Task, number: int, url: str, tell: Tell) -> Path:
    """The file at a URL, kept in the job's folder. Redirects are not followed: they could lead anywhere."""
    stem = f"{plain(Path(urlsplit(url).path).stem)}-{number + 1}"
    for kind in SCENES:
        if (there := Path("in") / f"{stem}{kind.suffix}").is_file():
            return there
    Path("in").mkdir(exist_ok=True)
    part = Path("in") / f"{stem}.part"
    tell(say=f"fetching source {number + 1}")
    _fetch(url, part, f"source {number + 1}", task.limits.upload_bytes)
    return part.rename(part.with_suffix(kind_of(part, f"source {number + 1}", SCENES).suffix))


def _fetch(url: str, part: Path, name: str, most: int) -> None:
    # The URL may hold a secret (a signature): it is in no message.
    import httpx

    got = 0
    try:
        with (
            httpx.stream("GET", url, headers=AS_IT_IS, follow_redirects=False, timeout=60) as response,
            part.open("wb") as stream,
        ):
            if response.status_code != 200:
                raise Refusal(422, f"{name} was answered with {response.status_code}", "check the URL")
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                raise Refusal(422, f"{name} comes compressed by its server", "send the file itself")
            for piece in response.iter_raw(PIECE):
                got += stream.write(piece)
                if got > most:
                    raise Refusal(413, f"{name} is larger than {most:,} bytes", "cut it into parts")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Refusal(422, f"{name} cannot be fetched ({type(error).__name__})", "check the URL") from error


def _classify(task: Task, scenes: list[Path], tell: Tell) -> None:
    from ..classify import classify

    last: tuple[str, float] = ("", 0.0)

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal last
        if stage != last[0] or done == total or monotonic() - last[1] >= TELL_EVERY_S:
            last = (stage, monotonic())
            tell(stage=stage, done=done, total=total)

    options = dict(task.options)
    result = classify(
        scenes,
        task.model,
        out="out",
        name=task.name,
        formats=("geojson",),
        device=task.device,
        runtime=task.runtime,
        progress=progress,
        say=lambda line: tell(say=line),
        **options,
    )
    tell(say=f"{len(result.labels):,} tiles, {result.labels.info['below_min_valid']:,} left out for lack of data")
    if result.labels.info["note"]:
        tell(say=str(result.labels.info["note"]))


def main() -> None:
    """Carry out the job on standard input."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no event
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)
    logging.getLogger("pyogrio").setLevel(logging.CRITICAL)
    lock = threading.Lock()

    def tell(**event: Any) -> None:
        with lock, suppress(BrokenPipeError):
            events.write(json.dumps(event) + "\n")
            events.flush()

    task = task_of(sys.stdin.readline())
    os.chdir(task.folder)  # so that results and messages say in/scene.tif, and not where the service keeps its data
    threading.Thread(target=_end_with_the_service, daemon=True).start()
    with suppress(OSError, AttributeError):  # Windows has no nice
        os.nice(5)  # callers who wait for one answer come before maps
    files: dict[str, str] = {}
    try:
        files = carry_out(task, tell)
        tell(files=files, run=store(task, files, tell))
    except Exception as error:  # all that can happen becomes the job's error
        found = error if isinstance(error, Refusal) else refused(as_seen(error, task))
        tell(error=found.what, remedy=found.remedy, files=files)


def as_seen(error: Exception, task: Task) -> GeoclassError:
    """The error without the places where the service keeps its files."""
    known = isinstance(error, GeoclassError)
    text = str(error) if known else f"unexpected failure ({type(error).__name__}: {error}); please report it"
    return GeoclassError(text.replace(f"{task.folder}/", "").replace("in/", ""))


def _end_with_the_service() -> None:
    sys.stdin.read()
    os._exit(3)


if __name__ == "__main__":
    main()
