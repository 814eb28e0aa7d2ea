"""The accuracy report: one HTML page that needs no network, all its numbers as JSON, and every tile as CSV."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from .. import __version__
from ..errors import EvaluationError, OutputError
from ..evaluation.comparison import compare, in_order_of
from ..evaluation.scored import Scored
from ..evaluation.scores import Evaluation
from ..files import replacing, require_absent
from ..schemes import ClassScheme
from .colours import reader_colours
from .page import asset, whole_page
from .style import to_json

Pictures = Callable[[Sequence[str]], Sequence[npt.NDArray[np.uint8] | None] | None]

GALLERY = 12
"""Pictures in a gallery."""
PICTURE_PX = 224
SHOWN_CLASSES = 3


def report_files(path: Path) -> tuple[Path, Path, Path]:
    """The page, its numbers and its tiles: NAME.html, NAME.json, NAME.csv. Raises OutputError for another suffix."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise OutputError(f"the report is a web page, but {path} does not end in .html; name it {path.stem}.html")
    return path, path.with_suffix(".json"), path.with_suffix(".csv")


def write_report(
    path: Path,
    evaluations: Sequence[Evaluation],
    *,
    pictures: Pictures | None = None,
    title: str | None = None,
    overwrite: bool = False,
) -> tuple[Path, Path, Path]:
    """Write the report of one model, or of several on the same tiles, as `report_files(path)`; return these.

    pictures: gives for tile keys an RGB picture (h, w, 3) uint8 each, None for a tile without, or None for all; asked
    once a model, for the tiles of its galleries. The page makes no request. The JSON holds what the page shows; the CSV
    has one row a tile and model: key, truth, predicted, confidence, correct, p_<class>, then what is known of place,
    block and purity. The three are moved into place together once all are written.

    Raises EvaluationError where models were scored on different tiles, classes or truths, OutputError where files exist
    (unless `overwrite`) or cannot be written.
    """
    if not evaluations:
        raise EvaluationError("there is no model to report on; give at least one --model")
    files = report_files(path)
    require_absent(list(files), overwrite)
    models = _with_own_names(evaluations)
    numbers = _numbers(models, title)
    galleries = [_galleries(model.scored, pictures) for model in models]
    contents = {**numbers, "tiles": _tiles(models), "galleries": galleries}
    scripts = ["report_charts.js", "report.js"]
    page = whole_page(str(numbers["title"]), asset("report.html"), ["report.css"], scripts, contents)
    texts = (page, to_json(numbers, indent=1) + "\n", _table(models).to_csv(index=False))
    with ExitStack() as stack:
        for file, text in zip(files, texts, strict=True):
            stack.enter_context(replacing(file, overwrite)).write_bytes(text.encode("utf-8", "replace"))
    return files


def _with_own_names(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """The evaluations with their tiles in the first one's order, and a number after a name that was there before."""
    seen: Counter[str] = Counter()
    models = []
    for item in evaluations:
        name = item.scored.model
        seen[name] += 1
        scored = replace(item.scored, model=name if seen[name] == 1 else f"{name} ({seen[name]})")
        models.append(replace(item, scored=in_order_of(scored, evaluations[0].scored)))
    return models


def _numbers(models: Sequence[Evaluation], title: str | None) -> dict[str, Any]:
    """All that JSON and page hold alike."""
    names = [model.scored.model for model in models]
    scheme = models[0].scored.scheme
    first = models[0]
    return {
        "title": title or (f"Accuracy of {names[0]}" if len(names) == 1 else f"Accuracy of {len(names)} models"),
        "geoclass": __version__,
        "scheme": {"name": scheme.name, "title": scheme.title, "source": scheme.source, "classes": _classes(scheme)},
        "models": [model.to_dict() for model in models],
        "pairs": [
            pair.to_dict()
            for pair in compare([model.scored for model in models], repeats=first.repeats, seed=first.seed)
        ],
    }


def _classes(scheme: ClassScheme) -> list[dict[str, str]]:
    return [
        {"name": item.name, "colour": item.colour, "safe": safe}
        for item, safe in zip(scheme.classes, reader_colours(scheme), strict=True)
    ]


# ---- tiles


def _table(models: Sequence[Evaluation]) -> pd.DataFrame:
    return pd.concat([_rows(model.scored) for model in models], ignore_index=True)


def _rows(scored: Scored) -> pd.DataFrame:
    names = np.asarray(scored.scheme.names, dtype=object)
    frame = pd.DataFrame(
        {
            "key": scored.keys,
            "model": scored.model,
            "truth": names[scored.truth],
            "predicted": names[scored.predicted],
            "confidence": scored.confidence.round(6),
            "correct": scored.right.astype(np.int8),
            **{f"p_{name}": scored.probabilities[:, k].round(6) for k, name in enumerate(names)},
        }
    )
    for name in ("x_m", "y_m", "blocks", "purity"):
        if (values := getattr(scored, name)) is not None:
            frame[{"blocks": "block"}.get(name, name)] = values
    return frame


def _tiles(models: Sequence[Evaluation]) -> dict[str, Any] | None:
    """What the map of errors draws, where tiles have places."""
    first = models[0].scored
    if first.x_m is None or first.y_m is None:
        return None
    train = first.train_positions
    return {
        "keys": first.keys,
        "truth": first.truth,
        "x": np.round(first.x_m, 1),
        "y": np.round(first.y_m, 1),
        "train": None if train is None else np.round(train, 1),
        "answers": [
            {"predicted": model.scored.predicted, "confidence": model.scored.confidence.round(4)} for model in models
        ],
    }


# ---- galleries


def _galleries(scored: Scored, pictures: Pictures | None) -> dict[str, list[dict[str, Any]]]:
    """Cards of the most confident mistakes and of the least certain hits, GALLERY each at most."""
    order = np.argsort(-scored.confidence, kind="stable")
    right = scored.right[order]
    mistakes, hits = order[~right][:GALLERY], order[right][::-1][:GALLERY]
    chosen = [scored.keys[k] for k in (*mistakes, *hits)]
    found = pictures(chosen) if pictures is not None and chosen else None
    shown = dict(zip(chosen, found, strict=True)) if found is not None else {}
    return {
        "mistakes": [_card(scored, int(k), shown.get(scored.keys[k])) for k in mistakes],
        "hits": [_card(scored, int(k), shown.get(scored.keys[k])) for k in hits],
    }


def _card(scored: Scored, tile: int, picture: npt.NDArray[np.uint8] | None) -> dict[str, Any]:
    """One tile with the probabilities of its likeliest classes and of the true one."""
    probabilities, truth = scored.probabilities[tile], int(scored.truth[tile])
    shown = np.argsort(-probabilities, kind="stable")[:SHOWN_CLASSES].tolist()
    if truth not in shown:
        shown[-1] = truth
    return {
        "key": scored.keys[tile],
        "truth": truth,
        "predicted": int(scored.predicted[tile]),
        "probabilities": [[k, round(float(probabilities[k]), 4)] for k in shown],
        "picture": "" if picture is None else _jpeg(picture),
    }


def _jpeg(picture: npt.NDArray[np.uint8]) -> str:
    image = Image.fromarray(np.ascontiguousarray(picture[..., :3], np.uint8))
    image.thumbnail((PICTURE_PX, PICTURE_PX))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
