"""Score a model's answers against the truth: every number that an accuracy report holds, as plain values."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import numpy as np

from ..errors import EvaluationError
from ..schemes import ClassScheme
from . import metrics
from .metrics import Doubles, Ints, Rates, Truths
from .scored import SPLITS, groupings_of, regroup, take
from .scored import Scored as Scored

PURE = 0.9
"""Share of a tile that its class covers from which the tile counts as pure."""
FEW_TILES = 30
"""A class with fewer test tiles than this has figures that say little."""
FEW_BLOCKS = 20
CURVE_POINTS = 200


# ---- values of the report


@dataclass(frozen=True)
class Resampling:
    """How often blocks are drawn anew for an interval, and with which seed."""

    repeats: int = metrics.REPEATS
    seed: int = 0


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval; the ends are NaN where resampling cannot tell."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class ClassScores:
    """One class: `tiles` in the truth, `predicted` by the model, and its rates (recall: producer's accuracy)."""

    name: str
    colour: str
    tiles: int
    predicted: int
    recall: Estimate
    precision: Estimate
    f1: Estimate
    auc: float
    average_precision: float


@dataclass(frozen=True)
class Scores:
    """Scores of `tiles` tiles in `blocks` blocks of ground (None: not known), in the classes of one scheme; `commonest`
    is the share of the commonest true class; confusion has a row for each class of the truth."""

    scheme: str
    title: str
    tiles: int
    blocks: int | None
    overall: Estimate
    balanced: Estimate
    kappa: Estimate
    macro_f1: Estimate
    macro_auc: float
    commonest: float
    classes: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Curves:
    """ROC (x: false positive rate) and precision–recall (x: recall) points of each class, thinned for drawing."""

    roc: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]
    precision_recall: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]


@dataclass(frozen=True)
class Calibration:
    """How far confidence may be trusted, at softmax `temperature` (NaN: not known). Bins: see metrics.Reliability."""

    temperature: float
    log_loss: float
    brier: float
    ece: float
    tiles: tuple[int, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]


@dataclass(frozen=True)
class Gap:
    """Overall accuracy on randomly drawn tiles, and by how much it is above the one reported (negative: below)."""

    random: Estimate
    gap: float


@dataclass(frozen=True)
class Evaluation:
    """All that the report says of one model. `uncalibrated`: the same answers before temperature scaling."""

    scored: Scored = field(repr=False)
    headline: str
    chosen: str
    caveats: tuple[str, ...]
    scores: Scores
    curves: Curves
    calibration: Calibration
    uncalibrated: Calibration | None
    grouped: tuple[Scores, ...]
    pure: Scores | None
    mixed: Scores | None
    gap: Gap | None
    train_distance_m: float
    repeats: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Every number as dict, list, str, int, float and None (for NaN); the tiles themselves are left out."""
        scored = self.scored
        about = {"model": scored.model, "bundle": scored.bundle, "split": scored.split, "crs": scored.crs}
        rest = {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "scored"}
        return {**about, "notes": list(scored.notes), **{name: plain_values(value) for name, value in rest.items()}}

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False, indent=1)


def plain_values(value: Any) -> Any:
    """`value`, of dataclasses and tuples, as dict, list and None (for numbers that are not finite)."""
    if dataclasses.is_dataclass(value):
        return {item.name: plain_values(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [plain_values(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---- scoring


def evaluate(
    scored: Scored,
    *,
    groupings: Sequence[ClassScheme] | None = None,
    random: Scored | float | None = None,
    temperature: float | None = None,
    applied: bool = True,
    repeats: int = metrics.REPEATS,
    seed: int = 0,
) -> Evaluation:
    """Score `scored` in every way the report shows.

    groupings: coarser schemes to score under as well, by default those of `groupings_of`; random: the model of the same
    recipe scored on a random split, or the accuracy that training recorded for it; temperature: of the bundle, and
    whether it is `applied` in `scored.probabilities` already; calibration is then shown before and after. Intervals
    come from `repeats` resamples of blocks drawn with `seed`. Raises EvaluationError where a grouping does not fit.
    """
    options = Resampling(repeats, seed)
    found = groupings_of(scored.scheme) if groupings is None else tuple(groupings)
    scores = _scores(scored, options)
    before, after = _calibrations(scored, temperature, applied)
    pure = None if scored.purity is None else np.asarray(scored.purity) >= PURE
    return Evaluation(
        scored=scored,
        headline=_headline(scores),
        chosen=SPLITS.get(scored.split, scored.split),
        caveats=_caveats(scored, scores),
        scores=scores,
        curves=_curves(scored),
        calibration=after,
        uncalibrated=before,
        grouped=tuple(_scores(regroup(scored, coarse), options) for coarse in found),
        pure=None if pure is None else _scores_where(scored, pure, options),
        mixed=None if pure is None else _scores_where(scored, ~pure, options),
        gap=_gap(scored, scores, random, options),
        train_distance_m=scored.train_distance_m,
        repeats=repeats,
        seed=seed,
    )


def estimate(value: Any, low: Any, high: Any) -> Estimate:
    """An interval without width is none: it says that the resamples agree, as for a class that was always right."""
    known = np.isfinite(value) and high > low
    return Estimate(float(value), float(low) if known else math.nan, float(high) if known else math.nan)


def _scores(scored: Scored, options: Resampling) -> Scores:
    count, predicted, blocks = len(scored.scheme), scored.predicted, scored.block_numbers
    confusion = metrics.confusion_matrix(scored.truth, predicted, count)
    low, high = metrics.bootstrap_rates(
        scored.truth, predicted, blocks, count, repeats=options.repeats, seed=options.seed
    )
    middle, ends = metrics.rates(confusion), (low, high)

    def single(name: str) -> Estimate:
        return estimate(getattr(middle, name), *(getattr(end, name) for end in ends))

    classes = tuple(_class_scores(scored, k, confusion, middle, *ends) for k in range(count))
    areas = np.array([item.auc for item in classes])
    return Scores(
        scheme=scored.scheme.name,
        title=scored.scheme.title or scored.scheme.name,
        tiles=len(scored),
        blocks=None if scored.blocks is None else len(np.unique(blocks)),
        overall=single("overall"),
        balanced=single("balanced"),
        kappa=single("kappa"),
        macro_f1=single("macro_f1"),
        macro_auc=float(np.nanmean(areas)) if np.isfinite(areas).any() else math.nan,
        commonest=float(confusion.sum(axis=1).max() / len(scored)),
        classes=classes,
        confusion=tuple(tuple(int(value) for value in row) for row in confusion),
    )


def _class_scores(scored: Scored, k: int, confusion: Ints, middle: Rates, low: Rates, high: Rates) -> ClassScores:
    def of_class(name: str) -> Estimate:
        return estimate(*(getattr(part, name)[k] for part in (middle, low, high)))

    item, positive, score = scored.scheme.classes[k], scored.truth == k, scored.probabilities[:, k]
    return ClassScores(
        name=item.name,
        colour=item.colour,
        tiles=int(confusion[k].sum()),
        predicted=int(confusion[:, k].sum()),
        recall=of_class("recall"),
        precision=of_class("precision"),
        f1=of_class("f1"),
        auc=metrics.roc_curve(positive, score).area,
        average_precision=metrics.precision_recall_curve(positive, score).area,
    )


def _scores_where(scored: Scored, chosen: Truths, options: Resampling) -> Scores | None:
    return _scores(take(scored, chosen), options) if chosen.any() else None


def _curves(scored: Scored) -> Curves:
    pairs = [(scored.truth == k, scored.probabilities[:, k]) for k in range(len(scored.scheme))]
    return Curves(
        tuple(_thinned(metrics.roc_curve(*pair)) for pair in pairs),
        tuple(_thinned(metrics.precision_recall_curve(*pair)) for pair in pairs),
    )


def _thinned(curve: metrics.Curve) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """At most CURVE_POINTS points, evenly spaced along the curve, both ends among them."""
    if len(curve.x) > CURVE_POINTS:
        along = np.concatenate([[0], np.cumsum(np.abs(np.diff(curve.x)) + np.abs(np.diff(curve.y)))])
        places = np.unique(np.searchsorted(along, np.linspace(0, along[-1], CURVE_POINTS)))
        curve = metrics.Curve(curve.x[places], curve.y[places], curve.area)
    return tuple(np.round(curve.x, 5).tolist()), tuple(np.round(curve.y, 5).tolist())


def _calibrations(scored: Scored, temperature: float | None, applied: bool) -> tuple[Calibration | None, Calibration]:
    """Calibration before (None where no temperature is known) and after."""
    given = np.asarray(scored.probabilities)
    if temperature is None:
        return None, _calibration(scored.truth, given, math.nan)
    if not math.isfinite(temperature) or temperature <= 0:
        raise EvaluationError(f"{scored.model} has temperature {temperature}; it must be above 0, so train it again")
    other = metrics.apply_temperature(given, 1 / temperature if applied else temperature)
    raw, scaled = (other, given) if applied else (given, other)
    return _calibration(scored.truth, raw, 1.0), _calibration(scored.truth, scaled, temperature)


def _calibration(truth: Ints, probabilities: Doubles, temperature: float) -> Calibration:
    bins = metrics.reliability(truth, probabilities)
    return Calibration(
        temperature,
        metrics.log_loss(truth, probabilities),
        metrics.brier_score(truth, probabilities),
        bins.ece,
        *(tuple(values.tolist()) for values in (bins.tiles, bins.confidence, bins.accuracy)),
    )


def _gap(scored: Scored, scores: Scores, random: Scored | float | None, options: Resampling) -> Gap | None:
    if random is None:
        return None
    if isinstance(random, Scored):
        if random.scheme.names != scored.scheme.names:
            raise EvaluationError(
                f"the random split is scored in scheme {random.scheme.name!r} and {scored.model} in "
                f"{scored.scheme.name!r}; score both in one scheme"
            )
        found = _scores(random, options).overall
    else:
        found = Estimate(float(random))
    return Gap(found, found.value - scores.overall.value)


def _headline(scores: Scores) -> str:
    """The overall accuracy as a planner would say it."""
    overall, tiles = scores.overall, f"{scores.tiles:,} test {'tile' if scores.tiles == 1 else 'tiles'}"
    words = f"Of {tiles}, {_percent(overall.value)}\u00a0% got the right class"
    if math.isnan(overall.low):
        return f"{words}. These tiles are too alike, or too few, to tell how far chance explains the figure."
    return (
        f"{words}. On other tiles of the same kind, expect between {_percent(overall.low)}\u00a0% and "
        f"{_percent(overall.high)}\u00a0% (95\u00a0% interval)."
    )


def _percent(share: float) -> str:
    """With one decimal, ties upwards: as the page rounds the same figure."""
    return str(Decimal(100 * share).quantize(Decimal("0.1"), ROUND_HALF_UP))


def _caveats(scored: Scored, scores: Scores) -> tuple[str, ...]:
    found = []
    if scored.blocks is None:
        found.append(
            "The tiles’ blocks of ground are not known, so the intervals take every tile as independent. Where tiles are "
            "neighbours, the true intervals are wider."
        )
    elif scores.blocks is not None and scores.blocks < FEW_BLOCKS:
        found.append(f"The tiles lie in only {scores.blocks} blocks of ground, so the intervals are rough.")
    absent = [item.name for item in scores.classes if not item.tiles]
    few = [item.name for item in scores.classes if 0 < item.tiles < FEW_TILES]
    if absent:
        found.append(f"No test tile is {_listed(absent)}, so nothing is known of how well that is found.")
    if few:
        found.append(f"Fewer than {FEW_TILES} test tiles are {_listed(few)}: read those figures with care.")
    return (*found, *scored.notes)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
