"""Measures of how right a classification is, how sure it may be of itself, and how far chance explains a figure.

Pure functions of arrays: `truth` (N,) class positions from 0, `probabilities` (N, K) whose rows sum to 1, `confusion`
(K, K) with a row for each class of the truth. What cannot be known (the recall of a class without a tile) is NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import sklearn.metrics
from scipy.optimize import minimize_scalar
from scipy.sparse import coo_array
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest, chi2

Ints = npt.NDArray[np.integer[Any]]
Doubles = npt.NDArray[np.float64]
Truths = npt.NDArray[np.bool_]

BINS = 15
"""Bins of confidence, as Guo et al. (2017) have them."""
REPEATS = 1000
"""Resamples of a bootstrap: enough for 95 % percentiles (Efron & Tibshirani 1993, section 14.2)."""
FEW_DISCORDANT = 25
"""Below this many tiles on which two models differ, McNemar's test counts exactly."""
LOG_TEMPERATURE = 5.0
"""Temperatures are sought from e^-5 to e^5."""
CHUNK = 100
HASH_SEED = 20170806


# ---- counts and rates


def confusion_matrix(truth: Ints, predicted: Ints, count: int) -> Ints:
    """(K, K) numbers of tiles of `count` = K classes; rows are the truth, columns the prediction."""
    return np.asarray(sklearn.metrics.confusion_matrix(truth, predicted, labels=np.arange(count)))


@dataclass(frozen=True)
class Rates:
    """Rates of one confusion matrix, or of a stack of them (…): each 0 to 1 (kappa −1 to 1), NaN where undefined.

    overall, balanced, kappa, macro_f1: (…); recall, precision, f1: (…, K).
    """

    overall: Doubles
    balanced: Doubles
    kappa: Doubles
    macro_f1: Doubles
    recall: Doubles
    precision: Doubles
    f1: Doubles


def rates(confusion: npt.NDArray[Any]) -> Rates:
    """The rates of `confusion` (…, K, K).

    Recall is the producer's accuracy, precision the user's (Congalton 1991, Remote Sensing of Environment 37:35–46);
    balanced accuracy the mean recall of the classes that occur in the truth (Brodersen et al. 2010, ICPR); kappa is
    Cohen's (1960, Educational and Psychological Measurement 20:37–46); macro F1 the mean over the classes that occur
    in truth or prediction. Equal to scikit-learn's for every single matrix.
    """
    table = np.asarray(confusion, np.float64)
    right = np.diagonal(table, axis1=-2, axis2=-1)
    true, said, total = table.sum(axis=-1), table.sum(axis=-2), table.sum(axis=(-2, -1))
    with np.errstate(divide="ignore", invalid="ignore"):
        recall, precision, f1 = right / true, right / said, 2 * right / (true + said)
        overall = right.sum(axis=-1) / total
        chance = (true * said).sum(axis=-1) / total**2
        kappa = np.where(chance < 1, (overall - chance) / (1 - chance), np.nan)
    return Rates(overall, _mean_known(recall), kappa, _mean_known(f1), recall, precision, f1)


def _mean_known(values: Doubles) -> Doubles:
    """Mean over the last axis of what is not NaN; NaN where nothing is."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        mean: Doubles = np.where(known, values, 0).sum(axis=-1) / known.sum(axis=-1)
    return mean


# ---- ranking: one class against the rest


@dataclass(frozen=True)
class Curve:
    """Points (x, y), each (P,), and the `area` under them; no points and NaN where the curve is undefined."""

    x: Doubles
    y: Doubles
    area: float


NO_CURVE = Curve(np.empty(0), np.empty(0), np.nan)


def roc_curve(positive: Truths, score: Doubles) -> Curve:
    """Receiver operating characteristic of `score` (N,) for `positive` (N,): false positive rate, true positive rate.

    Undefined where all or none are positive. Fawcett (2006), Pattern Recognition Letters 27:861–874.
    """
    if positive.all() or not positive.any():
        return NO_CURVE
    false, true, _ = sklearn.metrics.roc_curve(positive, score)
    return Curve(false, true, float(sklearn.metrics.roc_auc_score(positive, score)))


def precision_recall_curve(positive: Truths, score: Doubles) -> Curve:
    """Recall (ascending) and precision of every threshold on `score` (N,), to be read as steps; area is the average
    precision, not interpolated. Undefined where none are positive. Davis & Goadrich (2006), ICML."""
    if not positive.any():
        return NO_CURVE
    precision, recall, _ = sklearn.metrics.precision_recall_curve(positive, score)
    return Curve(recall[::-1], precision[::-1], float(sklearn.metrics.average_precision_score(positive, score)))


# ---- probabilities and calibration


def log_loss(truth: Ints, probabilities: Doubles) -> float:
    """Mean −ln of the probability given to the true class (Good 1952, JRSS B 14:107–114)."""
    return float(sklearn.metrics.log_loss(truth, probabilities, labels=np.arange(probabilities.shape[1])))


def brier_score(truth: Ints, probabilities: Doubles) -> float:
    """Mean over tiles of the squared differences summed over classes, 0 to 2 (Brier 1950, Monthly Weather Review 78)."""
    wanted = np.eye(probabilities.shape[1])[truth]
    return float(((probabilities - wanted) ** 2).sum(axis=1).mean())


@dataclass(frozen=True)
class Reliability:
    """Tiles in bins of confidence ]lower, upper]: how many, their mean confidence and their accuracy, each (bins,),
    NaN where a bin is empty; `ece` is the expected calibration error, 0 to 1."""

    lower: Doubles
    upper: Doubles
    tiles: Ints
    confidence: Doubles
    accuracy: Doubles
    ece: float


def reliability(truth: Ints, probabilities: Doubles, bins: int = BINS) -> Reliability:
    """Confidence against accuracy in `bins` of equal width. The expected calibration error is the mean over tiles of
    |accuracy − confidence| of their bin: Guo, Pleiss, Sun & Weinberger (2017), On calibration of modern neural
    networks, ICML."""
    edges = np.linspace(0, 1, bins + 1)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    tiles = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(place, confidence, bins) / tiles
        accuracy = np.bincount(place, right, bins) / tiles
    ece = float(np.nansum(tiles * np.abs(accuracy - mean)) / len(truth))
    return Reliability(edges[:-1], edges[1:], tiles, mean, accuracy, ece)


def expected_calibration_error(truth: Ints, probabilities: Doubles, bins: int = BINS) -> float:
    """The `ece` of `reliability`, 0 to 1."""
    return reliability(truth, probabilities, bins).ece


def fit_temperature(logits: Doubles, truth: Ints) -> float:
    """The T for which softmax(logits / T) has the least log loss, from e^-5 to e^5 (Guo et al. 2017, section 4.2).

    logits: (N, K), or log probabilities, which differ from them by a constant a row. Above 1 the model was too sure.
    Fit it on tiles that neither training nor the test has seen.
    """
    values, rows = np.asarray(logits, np.float64), np.arange(len(truth))

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(values * np.exp(-log_temperature), axis=1)[rows, truth].mean())

    # The loss is convex in 1/T, hence has one valley in log T.
    found = minimize_scalar(loss, bounds=(-LOG_TEMPERATURE, LOG_TEMPERATURE), method="bounded", options={"xatol": 1e-7})
    return float(np.exp(found.x))


def apply_temperature(probabilities: npt.NDArray[Any], temperature: float) -> Doubles:
    """(N, K) softmax(ln p / T): `probabilities` at another temperature. 1 / T undoes it; the classes stay as ranked."""
    values = np.asarray(probabilities, np.float64)
    scaled: Doubles = softmax(np.log(np.clip(values, np.finfo(np.float64).tiny, None)) / temperature, axis=1)
    return scaled


# ---- chance


Statistic = Callable[[Doubles], Doubles]


def block_bootstrap(
    statistic: Statistic, cells: Ints, blocks: Ints, count: int, *, repeats: int = REPEATS, seed: int = 0
) -> tuple[Doubles, Doubles]:
    """95 % percentile interval (low, high) of a statistic of counts, by resampling whole blocks with replacement.

    cells: (N,) which of `count` = M cells each tile counts in (for a confusion matrix truth × K + predicted);
    blocks: (N,) the block of ground of each tile; statistic: counts (R, M) → values (R, S). Returns two (S,), NaN with
    fewer than two blocks. Values that are NaN in a resample are left out of it. Tiles of one block resemble each other,
    so it is blocks that are drawn: Efron & Tibshirani (1993), An introduction to the bootstrap, chapters 8 and 13;
    Lahiri (2003), Resampling methods for dependent data.
    """
    tables, weights = _distinct_blocks(cells, blocks, count)
    total = int(weights.sum())
    rng = np.random.default_rng(seed)
    drawn = []
    for start in range(0, repeats, CHUNK):
        often = rng.multinomial(total, weights / total, size=min(CHUNK, repeats - start)).astype(np.float64)
        drawn.append(statistic((tables.T @ often.T).T))
    values = np.concatenate(drawn)
    if total < 2:
        return np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    ends = np.full((2, values.shape[1]), np.nan)
    some = np.isfinite(values).any(axis=0)
    ends[:, some] = np.nanpercentile(values[:, some], (2.5, 97.5), axis=0)
    return ends[0], ends[1]


def _distinct_blocks(cells: Ints, blocks: Ints, count: int) -> tuple[coo_array, Ints]:
    """(U, M) the counts of the distinct kinds of block, and how many blocks (U,) are of each kind.

    Blocks with the same counts are interchangeable, so drawing kinds by how common they are is the same resampling; with
    one tile a block there are no more kinds than cells, however many tiles. Each cell has a random 64-bit number and a
    block the sum of its tiles': two kinds share a sum with a probability of 2^-64.
    """
    number = np.random.default_rng(HASH_SEED).integers(0, 2**64, size=count, dtype=np.uint64)
    _, block = np.unique(blocks, return_inverse=True)
    order = np.argsort(block, kind="stable")
    starts = np.flatnonzero(np.diff(block[order], prepend=-1))
    sums = np.add.reduceat(number[cells[order]], starts)
    _, first, weights = np.unique(sums, return_index=True, return_counts=True)
    place = np.full(len(starts), -1)
    place[first] = np.arange(len(first))
    kind = place[block]
    kept = kind >= 0
    ones = np.ones(int(kept.sum()))
    return coo_array((ones, (kind[kept], cells[kept])), shape=(len(first), count)).tocsr(), weights


def bootstrap_rates(
    truth: Ints, predicted: Ints, blocks: Ints, count: int, *, repeats: int = REPEATS, seed: int = 0
) -> tuple[Rates, Rates]:
    """Lower and upper ends of the 95 % block bootstrap intervals of `rates`, of `count` = K classes."""

    def statistic(counts: Doubles) -> Doubles:
        found = rates(counts.reshape(-1, count, count))
        single = np.stack([found.overall, found.balanced, found.kappa, found.macro_f1], axis=1)
        return np.concatenate([single, found.recall, found.precision, found.f1], axis=1)

    cells = np.asarray(truth) * count + np.asarray(predicted)
    ends = block_bootstrap(statistic, cells, blocks, count * count, repeats=repeats, seed=seed)
    low, high = (Rates(*(np.asarray(end[k]) for k in range(4)), *end[4:].reshape(3, count)) for end in ends)
    return low, high


# ---- two models


@dataclass(frozen=True)
class McNemar:
    """How many tiles only the first and only the second model got right, and the two-sided p of that by chance.

    `exact` says whether p is binomial; else it comes from `statistic`, chi-square with one degree of freedom.
    """

    only_first: int
    only_second: int
    statistic: float
    p: float
    exact: bool


def mcnemar(first_right: Truths, second_right: Truths) -> McNemar:
    """McNemar's test of two models on the same tiles (N,): McNemar (1947), Psychometrika 12:153–157.

    With fewer than 25 discordant tiles the exact binomial test, else chi-square with Edwards' (1948) continuity
    correction. It takes tiles as independent, so where they are neighbours it is too keen to see a difference.
    """
    first = int(np.count_nonzero(first_right & ~second_right))
    second = int(np.count_nonzero(second_right & ~first_right))
    differ = first + second
    if differ < FEW_DISCORDANT:
        p = float(binomtest(first, differ, 0.5).pvalue) if differ else 1.0
        return McNemar(first, second, float("nan"), p, True)
    statistic = max(0, abs(first - second) - 1) ** 2 / differ
    return McNemar(first, second, statistic, float(chi2.sf(statistic, 1)), False)


def holm(p: Doubles) -> Doubles:
    """p values (M,) adjusted for there being M of them: Holm (1979), Scandinavian Journal of Statistics 6:65–70."""
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    raised = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)).clip(max=1)
    adjusted = np.empty_like(values)
    adjusted[order] = raised
    return adjusted


# ---- coarser classes


def merge_classes(truth: Ints, probabilities: Doubles, parent: Ints, count: int) -> tuple[Ints, Doubles]:
    """`truth` (N,) and `probabilities` (N, K) in `count` coarser classes: class k goes to `parent` (K,)[k], and the
    probabilities of its members are added."""
    merged = np.zeros((len(probabilities), count))
    np.add.at(merged.T, parent, probabilities.T)
    return np.asarray(parent)[truth], merged
