"""Mend a dataset's labels: read corrections from a CSV, and find the labels that a model has reason to doubt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..errors import DatasetError
from ..files import replacing
from ..schemes import ClassScheme, class_position
from .store import Dataset, read_dataset, update_dataset

SUSPECTS = "suspects.csv"
REMOVE = "remove"
REMOVED = "removed by hand"


@dataclass(frozen=True)
class Corrected:
    """A dataset after corrections: how many tiles got another label, and how many were removed."""

    dataset: Dataset
    relabelled: int
    removed: int


def apply_corrections(folder: str | Path, csv: str | Path) -> Corrected:
    """Give tiles the labels that a CSV with columns `key` and `label` says; an empty label or `remove` drops a tile.

    The table is replaced whole, then pictures of removed tiles are deleted, and mended tiles leave the suspects.
    Raises DatasetError for a file that is no such CSV, a key or a class that is not in the dataset, a key with two
    labels, and where a class would keep fewer than two tiles; nothing is changed then.
    """
    data = read_dataset(folder)
    wanted = _read_corrections(Path(csv), data)
    table = data.table.copy()
    labels = pd.Series(table["key"].map(wanted).to_numpy(), index=table.index, dtype=object)
    drop = labels == REMOVE
    change = labels.notna() & ~drop & (labels != table["label"])
    ids = dict(zip(data.meta.scheme.names, data.meta.scheme.ids, strict=True))
    table.loc[change, "label"] = labels[change]
    table.loc[change, "class_id"] = labels[change].map(ids).astype(np.int64)
    kept = table[~drop].reset_index(drop=True)
    _require_two_each(data, kept)
    gone = [data.folder / name for name in table.loc[drop, "image"]]
    relabelled, removed = int(change.sum()), int(drop.sum())
    left_out = dict(data.meta.left_out)
    if removed:
        left_out[REMOVED] = left_out.get(REMOVED, 0) + removed
    meta = data.meta.model_copy(update={"left_out": left_out, "corrected": data.meta.corrected + relabelled})
    mended = update_dataset(replace(data, meta=meta, table=kept))
    for path in gone:
        path.unlink(missing_ok=True)
    _forget_suspects(data.folder, set(wanted))
    return Corrected(mended, relabelled, removed)


def _read_corrections(path: Path, data: Dataset) -> dict[str, str]:
    """Key → class of the scheme, or REMOVE."""
    rows = _read_csv(path, ("key", "label"), "a table with columns key,label")
    known, scheme = set(data.table["key"]), data.meta.scheme
    wanted: dict[str, str] = {}
    for key, label in zip(rows["key"].str.strip(), rows["label"].str.strip(), strict=True):
        if key not in known:
            raise DatasetError(
                f"{path} names tile {key!r}, which {data.folder} has not; take keys as the contact sheet shows them"
            )
        chosen = REMOVE if label.lower() in ("", REMOVE) and class_position(scheme, label) is None else label
        if chosen != REMOVE:
            position = class_position(scheme, label)
            if position is None:
                raise DatasetError(
                    f"{path} gives tile {key} the class {label!r}, which scheme {scheme.name!r} has not; "
                    f"use one of {', '.join(scheme.names)}, or {REMOVE}"
                )
            chosen = scheme.names[position]
        if wanted.setdefault(key, chosen) != chosen:
            raise DatasetError(f"{path} gives tile {key} two labels, {wanted[key]} and {chosen}; keep one of the rows")
    return wanted


def _read_csv(path: Path, columns: Sequence[str], what: str) -> pd.DataFrame:
    if not path.is_file():
        raise DatasetError(f"no such file: {path}; give {what}")
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, OSError) as error:  # pandas' parser errors and broken text are ValueErrors
        raise DatasetError(f"{path} cannot be read as CSV; give {what}") from error
    rows.columns = rows.columns.str.strip().str.lower()
    missing = [name for name in columns if name not in rows.columns]
    if missing:
        raise DatasetError(f"{path} has no column {missing[0]!r}; give {what}")
    return rows


def _require_two_each(data: Dataset, kept: pd.DataFrame) -> None:
    before, after = data.table["label"].value_counts(), kept["label"].value_counts()
    for name in before.index:
        if int(after.get(name, 0)) < 2:
            raise DatasetError(
                f"these corrections would leave class {name} of {data.folder} with {int(after.get(name, 0))} tiles; "
                "keep two or more, or make the dataset again without the class"
            )


# ---- suspects


@dataclass(frozen=True)
class Suspect:
    """A tile whose label a model doubts: the class it suggests and that class's probability."""

    key: str
    label: str
    suggested: str
    probability: float


def suspects(
    keys: Sequence[str], classes: npt.NDArray[np.int64], probabilities: npt.NDArray[Any], scheme: ClassScheme
) -> tuple[Suspect, ...]:
    """The tiles whose label is confidently contradicted, the most confident first.

    classes: (N,) labels as positions in `scheme`; probabilities: (N, K), which must come from a model that has not
    learned from the tile itself (cross-validated, or of a split it has not seen), or it will agree with every slip.

    A class is confidently predicted where its probability is at least the mean that tiles labelled so reach (the mean
    self-confidence of that class); a tile is suspected where the most probable such class, which is also the model's
    answer, is not its label. Source: Northcutt, Jiang & Chuang 2021, "Confident Learning: Estimating Uncertainty in
    Dataset Labels", JAIR 70:1373-1411, equations 1 and 2.
    """
    count = probabilities.shape[1]
    own = np.array([probabilities[classes == k, k].mean() if np.any(classes == k) else np.inf for k in range(count)])
    confident = np.where(probabilities >= own, probabilities, -1.0)
    suggested, predicted = confident.argmax(axis=1), probabilities.argmax(axis=1)
    sure = confident.max(axis=1)
    found = np.flatnonzero((sure >= 0) & (suggested != classes) & (suggested == predicted))
    order = found[np.argsort(-sure[found], kind="stable")]
    return tuple(Suspect(keys[k], scheme.names[classes[k]], scheme.names[suggested[k]], float(sure[k])) for k in order)


def write_suspects(folder: str | Path, found: Sequence[Suspect]) -> Path:
    """Write `suspects.csv` (key, label, suggested, probability) into a dataset folder. Raises OutputError."""
    path = Path(folder) / SUSPECTS
    frame = pd.DataFrame([vars(item) for item in found], columns=["key", "label", "suggested", "probability"])
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n", float_format="%.6g")
    return path


def read_suspects(folder: str | Path) -> tuple[Suspect, ...] | None:
    """The suspects of a dataset folder, or None where nobody has looked for any. Raises DatasetError."""
    path = Path(folder) / SUSPECTS
    if not path.is_file():
        return None
    rows = _read_csv(path, ("key", "label", "suggested", "probability"), "what geoclass wrote there, or remove it")
    try:
        shares = rows["probability"].astype(float)
    except ValueError as error:
        raise DatasetError(
            f"{path} holds a probability that is no number; remove the file, and evaluate again"
        ) from error
    parts = zip(rows["key"], rows["label"], rows["suggested"], shares, strict=True)
    return tuple(Suspect(*part) for part in parts)


def _forget_suspects(folder: Path, mended: set[str]) -> None:
    found = read_suspects(folder)
    if found is not None:
        write_suspects(folder, [item for item in found if item.key not in mended])
