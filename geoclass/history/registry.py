"""Names for bundles: versions and stages in MLflow's model registry, and the way from a name to a file."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import BundleError, GeoclassError
from . import tracking
from .record import read_record, record_path

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from ..bundle import Bundle

PREFIX = "models:/"
STAGES = ("production", "staging", "archived")
ALIASES = STAGES[:2]
"""Stages that one version at a time holds, as an alias of MLflow's; its own stages are deprecated."""

STAGE_TAG = "geoclass.stage"
Stage = Literal["production", "staging", "archived"]
ACCURACIES = ("test_accuracy", "accuracy", "validation_accuracy", "cross_validated_accuracy")
"""Where a training record says how good the bundle is, the most honest first."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Registered:
    """One version of a registered bundle."""

    name: str
    version: int
    stage: str
    scheme: str
    backbone: str
    accuracy: float | None
    digest: str
    created_ms: int


@dataclass(frozen=True)
class BundleFacts:
    """One bundle in a folder."""

    path: Path
    scheme: str
    classes: int
    backbone: str
    accuracy: float | None
    digest: str


def resolve(name_or_path: str | Path, uri: str | None = None) -> Path:
    """The bundle's file: a path as it is; `models:/NAME@production`, `…@latest` or `models:/NAME/3` from the registry.

    A registered bundle is fetched once into the user's cache. Raises GeoclassError for a name, version or stage that
    the registry lacks, or where there is no registry; BundleError where what is registered is no single bundle file.
    """
    text = str(name_or_path)
    if not text.startswith(PREFIX):
        return Path(name_or_path)
    name, wanted = _parse(text)
    if not tracking.has_store(uri) and tracking.installed():
        raise GeoclassError(
            f"{text}: there is no registry here ({tracking.DATABASE}); go to its folder, or set MLFLOW_TRACKING_URI"
        )
    client, store = tracking.connect(uri)
    with _said_plainly(store, name, wanted):
        version = _version(client, name, wanted)
    return _fetched(client, store, version)


def _parse(text: str) -> tuple[str, str]:
    """(name, version or stage) of `models:/name/3` and `models:/name@stage`."""
    found = re.fullmatch(r"models:/+([^/@]+)[/@]([^/@]+)", text)
    if not found:
        raise GeoclassError(f"{text!r} names no registered bundle; write models:/NAME@production or models:/NAME/3")
    return found[1], found[2].lower()


@contextmanager
def _said_plainly(uri: str, name: str, wanted: str) -> Iterator[None]:
    """Say what is missing in geoclass's words."""
    try:
        with tracking.mlflow_errors(uri):
            yield
    except GeoclassError as error:
        code = getattr(error.__cause__, "error_code", "")
        missing = code == "RESOURCE_DOES_NOT_EXIST" or "not found" in str(error)
        if isinstance(error, BundleError) or not missing:
            raise
        raise GeoclassError(
            f"the registry at {tracking.without_password(uri)} has no {name!r} with version or stage {wanted!r}; "
            "geoclass models list shows what it has"
        ) from error


def _version(client: MlflowClient, name: str, wanted: str) -> Any:
    if wanted.isdecimal():
        return client.get_model_version(name, wanted)
    if wanted == "latest":
        versions = _versions(client, name)
        if not versions:
            raise GeoclassError(f"no version of {name!r} is registered: not found")
        return max(versions, key=lambda version: int(version.version))
    return client.get_model_version_by_alias(name, wanted)


def _versions(client: MlflowClient, name: str | None = None) -> list[Any]:
    query = f"name = '{_checked(name)}'" if name else None
    pages: list[Any] = []
    token = None
    while True:
        page = client.search_model_versions(query, page_token=token)
        pages += list(page)
        token = page.token
        if not token:
            return pages


def _checked(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][\w .-]{0,99}", name):
        raise GeoclassError(f"{name!r} cannot be the name of a model; use letters, digits, -, _, . and spaces")
    return name


def cache_folder() -> Path:
    """Where fetched bundles are kept; it may be emptied at any time."""
    if sys.platform == "win32":
        root = os.environ.get("LOCALAPPDATA")
        return (Path(root) if root else Path.home()) / "geoclass" / "models"
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "geoclass" / "models"


def _fetched(client: MlflowClient, uri: str, version: Any) -> Path:
    """The version's bundle as a file of the cache, fetched where it is not there yet."""
    import mlflow.artifacts

    source = str(version.source)
    # A registry can be emptied and filled again: its address, name and number alone do not say which bundle it is.
    identity = f"{uri} {version.name} {version.version} {version.creation_timestamp} {source}"
    key = hashlib.blake2b(identity.encode(), digest_size=6).hexdigest()
    path = cache_folder() / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', version.name)}-{version.version}-{key}.pt"
    if path.is_file():
        return path
    try:
        with tracking.mlflow_errors(uri):
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                place = client.get_model_version_download_uri(version.name, str(version.version))
                got = Path(mlflow.artifacts.download_artifacts(artifact_uri=place, dst_path=folder, tracking_uri=uri))
                _the_bundle(got, version).replace(path)
    except BundleError:
        raise
    except GeoclassError as error:
        raise GeoclassError(
            f"version {version.version} of {version.name!r} cannot be fetched ({str(error.__cause__)[:120]}); "
            f"check that its artifacts are still there, and that {path.parent} can be written"
        ) from error
    return path


def _the_bundle(got: Path, version: Any) -> Path:
    files = [got] if got.is_file() else sorted(item for item in got.rglob("*.pt") if item.is_file())
    if len(files) != 1 or files[0].suffix != ".pt":
        raise BundleError(
            f"version {version.version} of {version.name!r} holds {len(files)} .pt files, not one bundle; "
            "register one with geoclass models push"
        )
    return files[0]


def push(path: str | Path, name: str, uri: str | None = None) -> tuple[int, bool]:
    """Register the bundle at `path` under `name`: (its version, whether it is new).

    A bundle that is registered under this name already keeps its version. Belongs to the bundle's run where MLflow has
    it, else to a run made for it. Raises BundleError for what is no bundle.
    """
    from ..bundle import load_bundle

    _checked(name)
    bundle = load_bundle(path)
    client, store = tracking.connect(uri)
    with tracking.mlflow_errors(store):
        known = [item for item in _versions(client, name) if item.tags.get("geoclass.digest") == bundle.digest]
        if known:
            return int(known[0].version), False
        run_id = _run_of(client, store, Path(path), bundle)
        if not client.search_registered_models(f"name = '{name}'", max_results=1):
            client.create_registered_model(name, description="A geoclass model bundle")
        source = f"{client.get_run(run_id).info.artifact_uri}/{tracking.BUNDLE_FOLDER}"
        made = client.create_model_version(name, source=source, run_id=run_id, tags=_tags(bundle))
        return int(made.version), True


def _run_of(client: MlflowClient, uri: str, path: Path, bundle: Bundle) -> str:
    """The MLflow run that holds this very bundle as its one artifact of the kind."""
    record = None
    if record_path(path).is_file():
        try:
            record = read_record(record_path(path))
        except GeoclassError as error:
            log.warning("%s", error)
    tracked = record.tracked if record else None
    if tracked and tracked.uri == tracking.without_password(uri):
        found = client.search_runs(
            [client.get_run(tracked.run_id).info.experiment_id],
            filter_string=f"attributes.run_id = '{tracked.run_id}' AND tags.\"geoclass.digest\" = '{bundle.digest}'",
        )
        if found and client.list_artifacts(tracked.run_id, tracking.BUNDLE_FOLDER):
            return tracked.run_id
    tags = {"geoclass.bundle": path.name, "geoclass.digest": bundle.digest}
    tracker = tracking.Tracker(uri, tracking.EXPERIMENT, f"push {path.stem}", parameters={}, tags=tags, dataset={})
    tracker.artifact(path, tracking.BUNDLE_FOLDER)
    tracker.end("finished")
    return tracker.run_id


def _tags(bundle: Bundle) -> dict[str, str]:
    meta = bundle.meta
    accuracy = accuracy_of(meta.training)
    tags = {"digest": bundle.digest, "scheme": meta.scheme.name, "backbone": meta.backbone}
    if accuracy is not None:
        tags["accuracy"] = f"{accuracy:g}"
    return {f"geoclass.{key}": value for key, value in tags.items()}


def accuracy_of(training: dict[str, Any]) -> float | None:
    """The accuracy that a training record states, the most honest it has."""
    found = (training.get(name) for name in ACCURACIES)
    return next((float(value) for value in found if isinstance(value, int | float)), None)


def promote(name: str, version: str | int, stage: Stage, uri: str | None = None) -> tuple[int, int | None]:
    """Give a version (a number or "latest") a stage: (the version, the one that held the stage before).

    A stage is held by one version at a time, and a version has one stage. Archiving takes a version's stage away.
    """
    if stage not in STAGES:
        raise GeoclassError(f"there is no stage {stage!r}; choose one of {', '.join(STAGES)}")
    wanted = str(version).lower()
    if not wanted.isdecimal() and wanted not in ("latest", *ALIASES):
        raise GeoclassError(f"{version!r} is no version of {name!r}; give a number, or latest")
    client, store = tracking.connect(uri)
    with _said_plainly(store, _checked(name), wanted):
        number = int(_version(client, name, wanted).version)
        held = {alias: int(owner) for alias, owner in client.get_registered_model(name).aliases.items()}
        before = held.get(stage)
        for alias in ALIASES:
            if held.get(alias) == number and alias != stage:
                client.delete_registered_model_alias(name, alias)
        if stage in ALIASES:
            client.set_registered_model_alias(name, stage, str(number))
            client.delete_model_version_tag(name, str(number), STAGE_TAG)
        else:
            client.set_model_version_tag(name, str(number), STAGE_TAG, stage)
        return number, before if before != number else None


def registered(uri: str | None = None) -> list[Registered]:
    """Every version in the registry, by name, the newest first."""
    client, store = tracking.connect(uri)
    with tracking.mlflow_errors(store):
        versions = _versions(client)
        names = sorted({item.name for item in versions})
        aliases = {name: client.get_registered_model(name).aliases for name in names}
    found = [_registered(item, aliases[item.name]) for item in versions]
    return sorted(found, key=lambda item: (item.name, -item.version))


def _registered(item: Any, aliases: dict[str, Any]) -> Registered:
    held = [alias for alias, owner in aliases.items() if int(owner) == int(item.version)]
    accuracy = item.tags.get("geoclass.accuracy")
    return Registered(
        name=item.name,
        version=int(item.version),
        stage=", ".join(held) or item.tags.get(STAGE_TAG, ""),
        scheme=item.tags.get("geoclass.scheme", ""),
        backbone=item.tags.get("geoclass.backbone", ""),
        accuracy=float(accuracy) if accuracy else None,
        digest=item.tags.get("geoclass.digest", ""),
        created_ms=int(item.creation_timestamp),
    )


def bundles_in(folder: str | Path) -> list[BundleFacts]:
    """The bundles in a folder, by name; .pt files that are none are logged as warnings."""
    from ..bundle import load_bundle

    if not Path(folder).is_dir():
        raise GeoclassError(f"no such folder: {folder}; name one that holds bundles")
    found = []
    for path in sorted(Path(folder).glob("*.pt")):
        try:
            bundle = load_bundle(path)
        except BundleError as error:
            log.warning("left out: %s", error)
            continue
        meta = bundle.meta
        accuracy = accuracy_of(meta.training)
        found.append(BundleFacts(path, meta.scheme.name, len(meta.scheme), meta.backbone, accuracy, bundle.digest))
    return found
