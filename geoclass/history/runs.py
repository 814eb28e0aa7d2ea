"""The history of trainings: how a run is recorded while it goes, found again, and compared with another."""

from __future__ import annotations

import datetime
import logging
import os
import secrets
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from ..errors import GeoclassError
from ..files import replacing
from . import tracking
from .record import (
    SUFFIX,
    BundleFile,
    Plain,
    RunRecord,
    Status,
    Tracked,
    environment,
    find_runs,
    flat,
    number,
    plain,
    read_record,
    record_path,
)

__all__ = [
    "Comparison",
    "Run",
    "RunRecord",
    "compare",
    "find_run",
    "find_runs",
    "record_path",
    "start_run",
    "tracked_runs",
]

SECTIONS = ("parameters", "dataset", "metrics", "environment")

log = logging.getLogger(__name__)


class Run:
    """A training as it goes. Its record is written at the start, after every epoch and at the end.

    Once the training has begun, no trouble with the record or with MLflow stops it: that is logged as a warning.
    """

    def __init__(self, record: RunRecord, file: Path, tracker: tracking.Tracker | None) -> None:
        self.record, self.file, self.tracker = record, file, tracker
        self._before_s = record.seconds or 0.0
        self._start = datetime.datetime.now(datetime.UTC)

    def log_metrics(self, values: Mapping[str, float], epoch: int) -> None:
        """Note numbers of an epoch; a second call for the same epoch adds to the first."""
        row = next((row for row in self.record.history if row["epoch"] == epoch), None)
        if row is None:
            row = {"epoch": epoch}
            self.record.history.append(row)
        row.update({name: number(value) for name, value in values.items()})
        self._track("metrics", values, epoch)
        self.save()

    def log_plot(self, path: str | Path) -> None:
        """Note a picture that was written."""
        try:
            name = Path(os.path.relpath(path, self.file.parent)).as_posix()
        except ValueError:  # on another drive
            name = str(path)
        if name not in self.record.plots:
            self.record.plots.append(name)
        self._track("artifact", Path(path), "plots")
        self.save()

    def note(self, text: str) -> None:
        """Note a remark: what was skipped, halved, dropped."""
        self.record.notes.append(text)
        self.save()

    def finish(self, bundle: str | Path, digest: str, metrics: Mapping[str, float]) -> None:
        """Note the bundle that came of it, and its final numbers."""
        self.record.bundle = BundleFile(path=Path(bundle).name, digest=digest)
        self.record.metrics = {name: number(value) for name, value in metrics.items()}
        last = max((int(row["epoch"] or 0) for row in self.record.history), default=0)
        self._track("metrics", metrics, last)
        self._track("tags", {"geoclass.bundle": Path(bundle).name, "geoclass.digest": digest})
        self._track("artifact", Path(bundle), tracking.BUNDLE_FOLDER)
        self._close("finished")

    def _close(self, status: Status, reason: str = "") -> None:
        now = datetime.datetime.now(datetime.UTC)
        self.record.status, self.record.reason = status, reason
        self.record.finished = now.isoformat(timespec="seconds")
        self.record.seconds = round(self._before_s + (now - self._start).total_seconds(), 2)
        if reason:
            self._track("tags", {"geoclass.reason": reason})
        self._track("end", status)
        self.save()

    def save(self, strict: bool = False) -> None:
        """Write the record, whole or not at all; failure is a warning unless `strict`."""
        try:
            with replacing(self.file) as temporary:
                temporary.write_text(self.record.model_dump_json(indent=1) + "\n", encoding="utf-8")
        except GeoclassError as error:
            if strict:
                raise
            log.warning("the run's record is not up to date: %s", error)

    def _track(self, what: str, *values: Any) -> None:
        if self.tracker is None:
            return
        try:
            getattr(self.tracker, what)(*values)
        except GeoclassError as error:
            log.warning("this run is no longer tracked, training goes on: %s", error)
            self.record.notes.append(f"tracking stopped: {error}")
            self.tracker = None

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            if self.record.status == "running":
                self._close("finished")
        elif isinstance(error, GeoclassError):
            self._close("failed", str(error))
        elif isinstance(error, Exception):
            self._close("failed", " ".join(f"{type(error).__name__}: {error}".split())[:300])
        else:
            self._close("interrupted")


def start_run(
    out: str | Path,
    parameters: Mapping[str, Any],
    dataset: Mapping[str, Any],
    tracking_uri: str | None = None,
    experiment: str = tracking.EXPERIMENT,
    *,
    track: bool = False,
    device: str | None = None,
    resume: bool = False,
) -> Run:
    """Begin the record of a run that will write the bundle `out`; use it in a `with` statement.

    An interrupt or an exception inside closes the record as interrupted or failed, with its reason, and goes on.
    The record of an earlier run of the same bundle is kept as m.ID.run.json; with `resume` an unfinished one is
    continued. `track`, or a `tracking_uri`, writes the run to MLflow besides. Raises OutputError where the record
    cannot be written, and GeoclassError where tracking was asked for and cannot be had.
    """
    file = record_path(out)
    earlier = _earlier(file)
    process = (os.getpid(), psutil.Process().create_time())
    if resume and earlier is not None and earlier.status != "finished":
        record = earlier.model_copy(update={"status": "running", "finished": None, "reason": "", "process": process})
    else:
        now = datetime.datetime.now(datetime.UTC)
        record = RunRecord(
            id=f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}",
            started=now.isoformat(timespec="milliseconds"),
            command=_command(),
            parameters=flat(parameters),
            dataset=plain(dataset),
            environment=environment(device),
            process=process,
        )
        if earlier is not None:
            file.rename(file.with_name(f"{file.name.removesuffix(SUFFIX)}.{earlier.id}{SUFFIX}"))
    tracker = _tracker(record, Path(out), tracking_uri, experiment) if track or tracking_uri else None
    run = Run(record, file, tracker)
    run.save(strict=True)
    return run


def _earlier(file: Path) -> RunRecord | None:
    try:
        return read_record(file) if file.is_file() else None
    except GeoclassError as error:
        log.warning("%s", error)
        return None


def _command() -> str:
    """What was typed, without passwords; "" where it was no geoclass command."""
    name = Path(sys.argv[0]).stem if sys.argv else ""
    text = shlex.join(["geoclass", *sys.argv[1:]]) if name in ("geoclass", "__main__") else ""
    return tracking.without_password(text)


def _tracker(record: RunRecord, out: Path, uri: str | None, experiment: str) -> tracking.Tracker:
    tags = {
        "geoclass.run": record.id,
        "geoclass.command": record.command,
        **{f"geoclass.dataset.{key}": value for key, value in flat(record.dataset).items()},
        **{f"geoclass.environment.{key}": value for key, value in record.environment.items()},
    }
    known = record.tracked.run_id if record.tracked else None
    tracker = tracking.Tracker(
        uri, experiment, f"{out.stem} {record.id}", parameters=record.parameters, tags=tags, dataset=record.dataset,
        run_id=known,
    )  # fmt: skip
    record.tracked = Tracked(uri=tracking.without_password(tracker.uri), run_id=tracker.run_id)
    return tracker


def tracked_runs(uri: str | None = None, experiment: str = tracking.EXPERIMENT) -> list[RunRecord]:
    """The runs that MLflow has, newest first. Parameters are text there; epochs are fetched by `find_run` only."""
    return [_record_of(run, uri) for run in tracking.read_runs(uri, experiment)]


def _record_of(run: tracking.TrackedRun, uri: str | None) -> RunRecord:
    def tagged(prefix: str) -> dict[str, Any]:
        start = f"geoclass.{prefix}."
        return {key.removeprefix(start): value for key, value in run.tags.items() if key.startswith(start)}

    def moment(stamp_ms: int) -> str:
        return datetime.datetime.fromtimestamp(stamp_ms / 1000, datetime.UTC).isoformat(timespec="seconds")

    digest, done = run.tags.get("geoclass.digest"), run.finished_ms
    return RunRecord(
        id=run.tags.get("geoclass.run", run.run_id),
        started=moment(run.started_ms),
        finished=moment(done) if done else None,
        status=run.status,
        reason=run.tags.get("geoclass.reason", ""),
        command=run.tags.get("geoclass.command", ""),
        parameters=dict(run.parameters),
        metrics={name: number(value) for name, value in run.metrics.items()},
        dataset=tagged("dataset"),
        bundle=BundleFile(path=run.tags.get("geoclass.bundle", ""), digest=digest) if digest else None,
        environment=tagged("environment"),
        seconds=(done - run.started_ms) / 1000 if done else None,
        tracked=Tracked(uri=tracking.without_password(tracking.tracking_uri(uri)), run_id=run.run_id),
    )


def find_run(reference: str | Path, folder: str | Path = ".", uri: str | None = None) -> RunRecord:
    """The run that `reference` means: a record, a bundle whose record is beside it, or the start of a run's id.

    Ids are looked for under `folder`, then, where `uri` or MLFLOW_TRACKING_URI names a store or the current folder holds
    one, on MLflow. Raises GeoclassError where there is none, or more than one.
    """
    path = Path(reference)
    if path.suffix == ".json" and not path.is_dir():
        return read_record(path)
    if path.is_file():
        return _record_of_bundle(path)
    if path.suffix == ".pt" or path.is_dir():
        raise GeoclassError(f"there is no bundle {path}; give a bundle, a {SUFFIX} file or a run's id")
    found = _matching(find_runs(folder), str(reference))
    if not found and tracking.has_store(uri) and (uri or tracking.installed()):
        found = [_with_history(run, uri) for run in _matching(tracked_runs(uri), str(reference))]
    if not found:
        raise GeoclassError(f"no run {str(reference)!r} under {folder}; geoclass runs list shows those there are")
    if len(found) > 1:
        ids = ", ".join(record.id for record in found[:5])
        raise GeoclassError(f"{str(reference)!r} is the start of {len(found)} runs' ids ({ids}); give more of it")
    return found[0]


def _matching(records: list[RunRecord], start: str) -> list[RunRecord]:
    def ids(record: RunRecord) -> tuple[str, ...]:
        return (record.id, record.tracked.run_id) if record.tracked else (record.id,)

    exact = [record for record in records if start in ids(record)]
    return exact or [record for record in records if any(known.startswith(start) for known in ids(record))]


def _record_of_bundle(bundle: Path) -> RunRecord:
    """The newest record of a run that made this file: an interrupted one may have left its record in the first place."""
    own = record_path(bundle)
    if not own.is_file():
        raise GeoclassError(f"{bundle} has no run record beside it ({own.name}); only geoclass train writes one")
    others = [path for path in own.parent.glob(f"{bundle.stem}.*{SUFFIX}") if not path.name.startswith(".")]
    records = sorted((read_record(path) for path in [own, *others]), key=lambda record: record.started, reverse=True)
    made = [record for record in records if record.bundle and record.bundle.path == bundle.name]
    return made[0] if made else records[0]


def _with_history(record: RunRecord, uri: str | None) -> RunRecord:
    assert record.tracked is not None  # it came from MLflow
    rows = tracking.read_history(record.tracked.run_id, list(record.metrics), uri)
    history = [{name: number(value) for name, value in row.items()} for row in rows]
    return record.model_copy(update={"history": history})


@dataclass(frozen=True)
class Difference:
    """One thing in which two runs differ; None where a run lacks it. `delta` is b − a where both are numbers."""

    section: str
    name: str
    a: Plain
    b: Plain
    delta: float | None = None


@dataclass(frozen=True)
class Comparison:
    """What differs between two runs, and how many things are the same."""

    a: RunRecord
    b: RunRecord
    differences: tuple[Difference, ...]
    same: int


def compare(a: RunRecord, b: RunRecord) -> Comparison:
    """Parameters, dataset, metrics and environment of two runs, and how long they took, side by side.

    Numbers that a store keeps as text count as those numbers.
    """
    pairs = list(_pairs(a, b))
    differences = tuple(_difference(*pair) for pair in pairs if not _equal(pair[2], pair[3]))
    return Comparison(a, b, differences, len(pairs) - len(differences))


def _pairs(a: RunRecord, b: RunRecord) -> Iterator[tuple[str, str, Plain, Plain]]:
    for section in SECTIONS:
        left, right = flat(getattr(a, section)), flat(getattr(b, section))
        for name in dict.fromkeys([*left, *right]):
            yield section, name, left.get(name), right.get(name)
    yield "run", "status", a.shown_status, b.shown_status
    yield "run", "seconds", a.seconds, b.seconds
    yield "run", "bundle", a.bundle.digest if a.bundle else None, b.bundle.digest if b.bundle else None


def _difference(section: str, name: str, a: Plain, b: Plain) -> Difference:
    numbers = [value for value in (a, b) if isinstance(value, int | float) and not isinstance(value, bool)]
    return Difference(section, name, a, b, numbers[1] - numbers[0] if len(numbers) == 2 else None)


def _equal(a: Plain, b: Plain) -> bool:
    return a == b or (a is not None and b is not None and str(a) == str(b))
