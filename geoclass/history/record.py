"""The record of one training: what it says, and how it is read and found. Plain values in JSON beside every bundle."""

from __future__ import annotations

import json
import logging
import math
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import psutil
import pydantic

from .. import __version__
from ..configs import validate
from ..errors import ConfigError, GeoclassError

SUFFIX = ".run.json"
LIBRARIES = ("torch", "torchvision", "timm", "numpy", "scikit-learn", "rasterio")

Plain = str | int | float | bool | None
Status = Literal["running", "finished", "failed", "interrupted"]

log = logging.getLogger(__name__)


class BundleFile(pydantic.BaseModel, extra="forbid"):
    """The bundle a run made: its file name and its digest."""

    path: str
    digest: str


class Tracked(pydantic.BaseModel, extra="forbid"):
    """Where MLflow has the run."""

    uri: str
    run_id: str


class RunRecord(pydantic.BaseModel, extra="forbid"):
    """One training. Times are UTC in ISO 8601; numbers that are not finite are null.

    `metrics` are the final ones; `history` has a row {"epoch": n, name: value, …} for each epoch; `dataset` holds name,
    fingerprint, tiles, classes and splits; `plots` are file names beside the record. `process` tells whether a run that
    says it is running still is. `file` is where the record was read from, and is not written.
    """

    format: Literal["geoclass-run"] = "geoclass-run"
    version: Literal[1] = 1
    id: str = pydantic.Field(min_length=1)
    started: str
    finished: str | None = None
    status: Status = "running"
    reason: str = ""
    command: str = ""
    parameters: dict[str, Plain] = {}
    metrics: dict[str, float | None] = {}
    history: list[dict[str, float | None]] = []
    dataset: dict[str, Any] = {}
    bundle: BundleFile | None = None
    environment: dict[str, Plain] = {}
    seconds: float | None = None
    plots: list[str] = []
    notes: list[str] = []
    tracked: Tracked | None = None
    process: tuple[int, float] | None = None
    file: Path | None = pydantic.Field(default=None, exclude=True)

    @property
    def shown_status(self) -> str:
        """The status, or "killed" for a run of this machine that says it is running and whose process is gone."""
        if self.status == "running" and self.process and self.environment.get("host") == platform.node():
            pid, created = self.process
            try:
                alive = abs(psutil.Process(pid).create_time() - created) < 2
            except psutil.Error:
                alive = False
            return "running" if alive else "killed"
        return self.status


def record_path(bundle: str | Path) -> Path:
    """Where the record of the run that makes `bundle` stands: m.run.json for m.pt."""
    bundle = Path(bundle)
    return bundle.with_name(bundle.stem + SUFFIX)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Plain]:
    """Nested `values` in one level, names joined by dots; what JSON does not know becomes text, NaN and infinity null."""
    found: dict[str, Plain] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            item = plain(value)
            text = isinstance(item, list | dict)
            found[f"{prefix}{key}"] = json.dumps(item, ensure_ascii=False) if text else item
    return found


def plain(value: Any) -> Any:
    """`value` as JSON can hold it."""
    if hasattr(value, "tolist"):  # NumPy's arrays and numbers
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)


def environment(device: str | None = None) -> dict[str, Plain]:
    """What a run ran on: versions, platform, host, cores, and the device where it is told."""
    found: dict[str, Plain] = {"geoclass": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    cores = psutil.cpu_count() or 1
    return {**found, "platform": platform.platform(), "host": platform.node(), "cores": cores, "device": device}


def number(value: Any) -> float | None:
    """`value` as a float; None where it is NaN or infinite, which JSON cannot hold."""
    value = float(value)
    return value if math.isfinite(value) else None


def read_record(path: str | Path) -> RunRecord:
    """Read one record. Raises GeoclassError where there is none, or where it is damaged."""
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GeoclassError(f"cannot read the run record {path}: {error.strerror}; check the path") from error
    except ValueError as error:
        raise GeoclassError(f"{path} is no run record: it is not JSON; remove it, or train again") from error
    try:
        record = validate(RunRecord, values, str(path))
    except ConfigError as error:
        raise GeoclassError(f"{error}; this is no run record, or one of another geoclass: remove it") from error
    return record.model_copy(update={"file": path})


def find_runs(folder: str | Path = ".") -> list[RunRecord]:
    """Every run recorded under `folder`, newest first; records that cannot be read are logged as warnings."""
    folder = Path(folder)
    if not folder.is_dir():
        raise GeoclassError(f"no such folder: {folder}; name one that holds bundles and their {SUFFIX} files")
    found: dict[str, RunRecord] = {}
    for path in sorted(folder.rglob(f"*{SUFFIX}")):
        if path.name.startswith("."):
            continue  # half written
        try:
            record = read_record(path)
        except GeoclassError as error:
            log.warning("left out: %s", error)
            continue
        found.setdefault(record.id, record)
    return sorted(found.values(), key=lambda record: (record.started, record.id), reverse=True)
