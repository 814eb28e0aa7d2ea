"""Runs on MLflow, where it is installed and asked for: a local SQLite file and folder, or any tracking server.

MLflow is imported inside functions, never for a user who did not ask, and its telemetry is switched off before.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from ..errors import GeoclassError

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "geoclass"
DATABASE, ARTIFACTS = "mlruns.db", "mlartifacts"
BUNDLE_FOLDER = "bundle"
"""Where a run's artifacts hold its bundle."""

PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "60", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
FIRST_CONTACT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
"""MLflow itself would try a server that does not answer for minutes. A user's own settings stand."""

STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "running": "RUNNING"}


@dataclass(frozen=True)
class TrackedRun:
    """A run as MLflow tells it. Times are in milliseconds since 1970; parameters are text there."""

    run_id: str
    name: str
    status: str
    started_ms: int
    finished_ms: int | None
    parameters: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]


def tracking_uri(given: str | None = None) -> str:
    """The tracking store: `given`, else MLFLOW_TRACKING_URI, else `mlruns.db` in the current folder.

    A path that ends in .db is taken as an SQLite file.
    """
    uri = given or os.environ.get("MLFLOW_TRACKING_URI") or DATABASE
    if "://" not in uri and uri.endswith(".db"):
        return f"sqlite:///{Path(uri).resolve().as_posix()}"
    return uri


def has_store(given: str | None = None) -> bool:
    """Whether a tracking store was named, or there is one in the current folder."""
    return bool(given or os.environ.get("MLFLOW_TRACKING_URI") or Path(DATABASE).is_file())


def installed() -> bool:
    """Whether MLflow can be imported here, without importing it."""
    from importlib.util import find_spec

    return find_spec("mlflow") is not None


def without_password(text: str) -> str:
    """`text` with the user and password of every address in it left out."""
    return re.sub(r"://[^/\s@]+@", "://***@", text)


def connect(given: str | None = None) -> tuple[MlflowClient, str]:
    """A client of the tracking store, and the store's URI.

    Raises GeoclassError where MLflow is missing, or where no server answers within some seconds.
    """
    # MLflow sends usage counts to its makers as soon as it is imported, unless told not to. geoclass tells nobody.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise GeoclassError(
            "run tracking and the model registry need MLflow; install it: pip install 'geoclass[mlflow]'"
        ) from error
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    uri = tracking_uri(given)
    with mlflow_errors(uri), _patience():
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    return client, uri


@contextmanager
def _patience() -> Iterator[None]:
    """FIRST_CONTACT inside, PATIENCE from then on."""
    free = [name for name in PATIENCE if os.environ.get(name) in (None, PATIENCE[name])]
    os.environ.update({name: FIRST_CONTACT[name] for name in free})
    try:
        yield
    finally:
        os.environ.update({name: PATIENCE[name] for name in free})


@contextmanager
def mlflow_errors(uri: str) -> Iterator[None]:
    """Turn the failures of MLflow and of what it stands on into one-line GeoclassErrors."""
    try:
        yield
    except GeoclassError:
        raise
    except Exception as error:
        library = type(error).__module__.split(".")[0]
        if library not in {"mlflow", "sqlalchemy", "requests", "urllib3", "alembic", "sqlite3"} and not isinstance(
            error, OSError
        ):
            raise
        text = " ".join(without_password(str(error)).split())
        shown = without_password(uri)
        if re.search(r"Max retries|Connection (refused|aborted)|timed out|NewConnectionError|NameResolution", text):
            raise GeoclassError(
                f"no MLflow server answers at {shown}; start it, or name another with --tracking-uri"
            ) from error
        raise GeoclassError(f"MLflow at {shown} refuses: {text[:200]}; check --tracking-uri") from error


def experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    """The experiment called `name`, made where there is none. A local database keeps artifacts in a folder beside it."""
    with mlflow_errors(uri):
        found = client.get_experiment_by_name(name)
        if found is None:
            location = None
            if uri.startswith("sqlite:///"):
                database = Path(unquote(uri.removeprefix("sqlite:///").split("?")[0])).resolve()
                location = (database.parent / ARTIFACTS).as_uri()
            return str(client.create_experiment(name, artifact_location=location))
        if found.lifecycle_stage == "deleted":
            raise GeoclassError(f"the MLflow experiment {name!r} was deleted; restore it there, or use another name")
        return str(found.experiment_id)


class Tracker:
    """One run being written to MLflow. Raises GeoclassError where the store cannot be reached or written."""

    def __init__(
        self,
        uri: str | None,
        experiment: str,
        name: str,
        *,
        parameters: Mapping[str, Any],
        tags: Mapping[str, Any],
        dataset: Mapping[str, Any],
        run_id: str | None = None,
    ) -> None:
        self.client, self.uri = connect(uri)
        with mlflow_errors(self.uri):
            if run_id is not None:
                self.client.update_run(run_id, status="RUNNING")
                self.run_id = run_id
                return
            folder = experiment_id(self.client, self.uri, experiment)
            texts = {_key(key): str(value)[:5000] for key, value in tags.items()}
            run = self.client.create_run(folder, run_name=name, tags={**texts, "mlflow.source.name": "geoclass"})
            self.run_id = str(run.info.run_id)
            for key, value in parameters.items():
                self.client.log_param(self.run_id, _key(key), str(value)[:5000])
            self._dataset(dataset)

    def _dataset(self, dataset: Mapping[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        if not dataset.get("name") or not dataset.get("fingerprint"):
            return
        described = Dataset(str(dataset["name"]), str(dataset["fingerprint"])[:36], "local", str(dataset["name"]))
        self.client.log_inputs(self.run_id, [DatasetInput(described, [InputTag("mlflow.data.context", "training")])])

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers of one epoch."""
        with mlflow_errors(self.uri):
            for key, value in values.items():
                self.client.log_metric(self.run_id, _key(key), float(value), step=step)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a copy of a file with the run."""
        with mlflow_errors(self.uri):
            self.client.log_artifact(self.run_id, str(path), folder)

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags of the run."""
        with mlflow_errors(self.uri):
            for key, value in values.items():
                self.client.set_tag(self.run_id, _key(key), str(value)[:5000])

    def end(self, status: str) -> None:
        """Close the run as finished, failed or interrupted."""
        with mlflow_errors(self.uri):
            self.client.set_terminated(self.run_id, STATUS[status])


def read_runs(given: str | None = None, experiment: str = EXPERIMENT) -> list[TrackedRun]:
    """The runs of an experiment, newest first; none where there is no such experiment."""
    client, uri = connect(given)
    with mlflow_errors(uri):
        found = client.get_experiment_by_name(experiment)
        if found is None:
            return []
        pages, token = [], None
        while True:
            page = client.search_runs([found.experiment_id], order_by=["attributes.start_time DESC"], page_token=token)
            pages += list(page)
            token = page.token
            if not token:
                return [_tracked(run) for run in pages]


def read_history(run_id: str, names: list[str], given: str | None = None) -> list[dict[str, float]]:
    """These metrics of a run step by step, as [{"epoch": …, name: value}]."""
    client, uri = connect(given)
    rows: dict[int, dict[str, float]] = {}
    with mlflow_errors(uri):
        for name in names:
            for point in client.get_metric_history(run_id, name):
                rows.setdefault(int(point.step), {"epoch": int(point.step)})[name] = float(point.value)
    return [rows[step] for step in sorted(rows)]


def _tracked(run: Any) -> TrackedRun:
    back = {value: key for key, value in STATUS.items()}
    return TrackedRun(
        run_id=str(run.info.run_id),
        name=str(run.info.run_name),
        status=back.get(str(run.info.status), "running"),
        started_ms=int(run.info.start_time),
        finished_ms=int(run.info.end_time) if run.info.end_time else None,
        parameters=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags=dict(run.data.tags),
    )


def _key(name: str) -> str:
    """A name that every MLflow store takes."""
    return re.sub(r"[^\w.\-/ ]", "_", name)[:250]


def page_address(uri: str) -> str:
    """How to see the runs of a store in a browser."""
    if urlsplit(uri).scheme in ("http", "https"):
        return without_password(uri)
    return f"mlflow ui --backend-store-uri {uri}"
