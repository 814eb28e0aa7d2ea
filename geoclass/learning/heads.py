"""Heads on frozen features: logistic regression and linear SVM, folded into a linear layer, and a random forest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.svm import LinearSVC

from .. import forest as forests
from ..errors import DatasetError
from ..views import COPIED, TURNS, VIEWS

Features = npt.NDArray[np.float32]
_Fold = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]

PENALTIES = (0.3, 0.1, 0.03)  # from the strongest, where the fit is quickest to find
GIVEN_FOR_STEADINESS = 0.02
"""Mean recall of the classes that a stronger penalty may cost: labels then change less when a file is stored anew."""
FEW_TILES = 10
"""A class of fewer tiles is easily drowned by a strong penalty, and its recall tells too little to notice it."""
COSTS = (1e-4, 3e-4, 1e-3)
RIDGE = 0.1
"""The share of the mean nuisance variance that is added to all: the less, the more the worst directions are damped."""
FOLDS = 3
DRAWS = 10
TREES = 300
COMPONENTS = 64
NEVER = -1e4  # the logit of a class of the scheme that has no tiles


@dataclass(frozen=True)
class Labelled:
    """What heads are fitted to: features (N, V, F) of V views a tile, classes (N,) of `count`, and what weighs them.

    groups: (N,) tiles that must stay together in cross-validation (spatial blocks, look-alikes), or None;
    class_weights: (count,) or None; fractions: (N, count) soft labels in place of `classes`, or None.
    """

    features: Features
    classes: npt.NDArray[np.int64]
    count: int
    groups: npt.NDArray[np.int64] | None = None
    class_weights: npt.NDArray[np.float64] | None = None
    fractions: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Head:
    """A fitted head. `weight` (K, F) and `bias` (K,) make the layer; a forest reads its (P = K) outputs instead.

    `strength` is the penalty or cost chosen, `held_out` (M,) the positions of the tiles that were held out in turn, and
    `logits` (M, count) the answers to each by a head fitted without it; only a class's single tile is never held out.
    `blocked` says whether neighbours (groups) stayed together.
    """

    kind: str
    weight: Features
    bias: Features
    strength: float
    held_out: npt.NDArray[np.intp]
    logits: Features
    accuracy: float
    folds: int
    blocked: bool = False
    forest: RandomForestClassifier | None = None
    averaged: bool = False


def fit_head(
    kind: str, tiles: Labelled, *, averaged: bool = False, rescale: bool = True, steady: bool = True, seed: int = 0
) -> Head:
    """Fit `logistic`, `svm` or `forest`. With `averaged` tiles are judged by the mean of their turned views.

    With `rescale` features are first rescaled so that directions in which a tile's copies differ from it count for less:
    each feature is brought to unit deviation, and with S the mean outer product of what a copy changes (see `changes`; of
    heads that look at one view, of how far each view is off the mean of all), features are multiplied by
    (S + RIDGE tr(S)/F I)^-1/2, after within-class covariance normalisation (Hatch, Kajarekar & Stolcke 2006, Interspeech).
    It knows no labels and is taken from all tiles at once. Without it they are to be of mean 0 and mean variance 1.

    The strength of regularisation is chosen by cross-validation on folds that keep classes in proportion and groups
    together, on one view a tile or on the mean of the turned views: the one of least log loss (for the SVM and the forest
    the one of most hits), or with `steady`, where no class has few tiles, the strongest whose mean recall is not more than
    GIVEN_FOR_STEADINESS below the best.
    """
    width = tiles.features.shape[2]
    scaled, matrix, centre = tiles.features, np.eye(width), np.zeros(width)
    if rescale:
        scaled, matrix, centre = rescaled(tiles.features, _nuisance(tiles.features, averaged))
    fit, strengths = _FITS[kind]
    folds, blocked = _folds(tiles, seed)
    judged = np.sort(np.concatenate([test for _, test in folds]))
    held_out = [logits[judged] for logits in _held_out(fit, scaled, tiles, folds, strengths, averaged, seed)]
    counts = np.bincount(tiles.classes)
    best = _best(kind, held_out, tiles.classes[judged], steady and counts[counts > 0].min() >= FEW_TILES)
    answer = fit(scaled, tiles, strengths[best : best + 1], seed)[0]
    weight = answer.weight.astype(np.float64) @ matrix.T
    return Head(
        kind,
        weight.astype(np.float32),
        (answer.bias - weight @ centre).astype(np.float32),
        strengths[best],
        judged,
        held_out[best],
        float((held_out[best].argmax(axis=1) == tiles.classes[judged]).mean()),
        len(folds),
        blocked,
        answer.forest,
        averaged,
    )


def random_accuracy(tiles: Labelled, head: Head, *, seed: int = 0) -> float:
    """The accuracy of a head of the same kind and strength, rescaled, in cross-validation that lets neighbours straddle folds.

    It is what a random split would have promised, to be shown beside the figure of blocks.
    """
    loose = replace(tiles, groups=None)
    scaled = rescaled(tiles.features, _nuisance(tiles.features, head.averaged))[0]
    fit = _FITS[head.kind][0]
    folds, _ = _folds(loose, seed)
    logits = _held_out(fit, scaled, loose, folds, (head.strength,), head.averaged, seed)[0]
    return float((logits.argmax(axis=1) == tiles.classes)[head.held_out].mean())


def _held_out(
    fit: _Fit, scaled: Features, tiles: Labelled, folds: Sequence[_Fold], strengths: Sequence[float], averaged: bool,
    seed: int,
) -> list[Features]:  # fmt: skip
    """For each strength the logits (N, count) of every tile by a head that was fitted without it."""
    judged = scaled[:, :TURNS].mean(axis=1) if averaged else scaled[:, 0]
    found = [np.zeros((len(scaled), tiles.count), np.float32) for _ in strengths]
    for train, test in folds:
        for k, answer in enumerate(fit(scaled[train], _part(tiles, train), strengths, seed)):
            found[k][test] = answer.logits(judged[test])
    return found


def rescaled(
    features: Features, nuisance: Features
) -> tuple[Features, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(N, V, F) `features` as (features − centre) @ matrix, with that matrix (F, F) and centre (F,).

    Directions in which `nuisance` (N, C, F) is large count for less: see `fit_head`. It is overwritten.
    """
    pictures, views, width = features.shape
    centre = features.mean(axis=(0, 1), dtype=np.float64)
    deviation = features.std(axis=(0, 1), dtype=np.float64)
    unit = 1 / np.maximum(deviation, 1e-3 * max(float(deviation.mean()), 1e-12))
    nuisance *= unit.astype(np.float32)
    apart = nuisance.reshape(-1, width)
    values, vectors = np.linalg.eigh((apart.T @ apart).astype(np.float64) / len(apart))
    del nuisance, apart  # as large as the features
    values = values.clip(min=0)
    matrix = unit[:, None] * ((vectors * (values + RIDGE * max(float(values.mean()), 1e-12)) ** -0.5) @ vectors.T)
    flat = (features - centre.astype(np.float32)).reshape(-1, width) @ matrix.astype(np.float32)
    spread = float(np.sqrt(flat.var(axis=0).mean())) or 1.0
    return (flat / np.float32(spread)).reshape(pictures, views, width), matrix / spread, centre


def deviations(features: Features) -> Features:
    """How far each view of a tile (N, V, F) is off the mean of all."""
    return np.asarray(features - features.mean(axis=1, keepdims=True))


def changes(features: Features) -> Features:
    """What copies change, (N, C, F): in the features of all `views_of` a tile, by how much each copy is off its turn.

    How turns differ does not belong to it: it is for answers that are averaged over them. Of any other number of views it
    is their `deviations`.
    """
    if features.shape[1] != VIEWS:
        return deviations(features)
    return features[:, TURNS:] - features[:, COPIED]


def _nuisance(features: Features, averaged: bool) -> Features:
    """What a head is not to heed; see `fit_head`."""
    return changes(features) if averaged else deviations(features)


def start_layer(
    features: Features, classes: npt.NDArray[np.int64], count: int, *, penalty: float = 0.1
) -> tuple[Features, Features]:
    """(weight (count, F), bias (count,)) of a logistic regression on features (N, F), to begin a fine-tuning with."""
    centre, spread = features.mean(axis=0), features.std(axis=0) + 1e-3
    scaled = (features - centre) / spread
    answer = _fit_logistic(scaled[:, None], Labelled(scaled[:, None], classes, count), (penalty,), 0)[0]
    weight = answer.weight / spread
    # A class without tiles is unlikely at first, not impossible: its loss under label smoothing must stay small.
    bias = np.maximum(answer.bias, -10) - weight @ centre
    return weight.astype(np.float32), bias.astype(np.float32)


@dataclass(frozen=True)
class _Answer:
    weight: Features
    bias: Features
    count: int
    forest: RandomForestClassifier | None = None

    def logits(self, points: Features) -> Features:
        found = points @ self.weight.T + self.bias
        if self.forest is not None:
            found = np.log(forests.probabilities(self.forest, found, self.count))
        return np.asarray(found, np.float32)


def _part(tiles: Labelled, chosen: npt.NDArray[np.intp]) -> Labelled:
    fractions = None if tiles.fractions is None else tiles.fractions[chosen]
    return Labelled(tiles.features[chosen], tiles.classes[chosen], tiles.count, None, tiles.class_weights, fractions)


def _folds(tiles: Labelled, seed: int) -> tuple[list[_Fold], bool]:
    """(training, held-out) positions, every class in every training part, and whether groups stay together.

    They do not where a class lies in one group only, or so unluckily that no draw of ten parts it. A class with a single
    tile is never held out: without it no head could know the class. Raises DatasetError where no class has two tiles.
    """
    counts = np.bincount(tiles.classes)
    single = np.flatnonzero(counts[tiles.classes] == 1)
    several = np.flatnonzero(counts[tiles.classes] > 1)
    if not len(several):
        raise DatasetError("no class has two training tiles; a head needs some to learn from and some to be judged on")
    classes = tiles.classes[several]
    folds = min(FOLDS, int(counts[counts > 1].min()))

    def placed(found: Iterable[_Fold]) -> list[_Fold]:
        return [(np.concatenate([several[train], single]), several[test]) for train, test in found]

    if tiles.groups is not None:
        groups, whole = tiles.groups[several], set(np.unique(classes))
        for attempt in range(DRAWS if len(np.unique(groups)) >= folds else 0):
            grouped = StratifiedGroupKFold(folds, shuffle=True, random_state=(seed + attempt) % 2**32)
            found = list(grouped.split(several, classes, groups))
            if all(len(test) and set(classes[train]) == whole for train, test in found):
                return placed(found), True
    loose = StratifiedKFold(folds, shuffle=True, random_state=seed).split(several, classes)
    return placed(loose), False


def _best(kind: str, held_out: Sequence[Features], classes: npt.NDArray[np.int64], steady: bool) -> int:
    """Which strength to take: see `fit_head`."""
    if kind != "logistic":
        return int(np.argmax([(logits.argmax(axis=1) == classes).sum() for logits in held_out]))
    if steady:
        recalls = [_mean_recall(logits.argmax(axis=1), classes) for logits in held_out]
        return next(k for k, recall in enumerate(recalls) if recall >= max(recalls) - GIVEN_FOR_STEADINESS)
    at = np.arange(len(classes))
    return int(np.argmin([(logsumexp(logits, axis=1) - logits[at, classes]).sum() for logits in held_out]))


def _mean_recall(said: npt.NDArray[np.intp], classes: npt.NDArray[np.int64]) -> float:
    return float(np.mean([(said[classes == k] == k).mean() for k in np.unique(classes)]))


def _rows(scaled: Features, tiles: Labelled) -> tuple[Features, npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """(rows (M, F), class of each, weight of each): every view of a tile, and of each class it holds where labels are soft."""
    views = scaled.shape[1]
    weights = np.ones(tiles.count) if tiles.class_weights is None else tiles.class_weights
    if tiles.fractions is None:
        classes = np.repeat(tiles.classes, views)
        return scaled.reshape(len(classes), -1), classes, weights[classes]
    shares = tiles.fractions / tiles.fractions.sum(axis=1, keepdims=True).clip(1e-6)
    tile, held = np.nonzero(shares > 0.05)
    classes = np.repeat(held, views)
    return scaled[tile].reshape(len(classes), -1), classes, np.repeat(shares[tile, held], views) * weights[classes]


def _placed(
    coefficients: npt.NDArray[np.float64], intercepts: npt.NDArray[np.float64], seen: npt.NDArray[np.int64], count: int
) -> _Answer:
    """The answer for all classes of the scheme from the ones seen in training."""
    if len(seen) == 2:
        # With two classes scikit-learn keeps one row; a softmax needs both.
        coefficients = np.vstack([-coefficients, coefficients]) / 2
        intercepts = np.hstack([-intercepts, intercepts]) / 2
    weight = np.zeros((count, coefficients.shape[1]), np.float32)
    bias = np.full(count, NEVER, np.float32)
    weight[seen], bias[seen] = coefficients, intercepts
    return _Answer(weight, bias, count)


def _fit_logistic(scaled: Features, tiles: Labelled, penalties: Sequence[float], seed: int) -> list[_Answer]:
    """Multinomial logistic regression with penalty λ/2 |W|² beside the mean log loss, each fit starting from the last."""
    rows, targets, weights = _rows(scaled, tiles)
    model = LogisticRegression(max_iter=300, tol=1e-4, warm_start=True)
    found = []
    for penalty in penalties:
        model.set_params(C=1 / (penalty * float(weights.sum()))).fit(rows, targets, sample_weight=weights)
        found.append(_placed(model.coef_, model.intercept_, model.classes_, tiles.count))
    return found


def _fit_svm(scaled: Features, tiles: Labelled, costs: Sequence[float], seed: int) -> list[_Answer]:
    """One-against-rest linear SVM with squared hinge loss (Fan et al. 2008, LIBLINEAR)."""
    rows, targets, weights = _rows(scaled, tiles)
    found = []
    for cost in costs:
        model = LinearSVC(C=cost, dual="auto", max_iter=3000, random_state=seed).fit(rows, targets, weights)
        found.append(_placed(model.coef_, model.intercept_, model.classes_, tiles.count))
    return found


def _fit_forest(scaled: Features, tiles: Labelled, trees: Sequence[float], seed: int) -> list[_Answer]:
    """A random forest (Breiman 2001) on what a tree can cut: components of the features, not single ones.

    These are the first principal components of the tiles' mean features, and the directions of a logistic regression,
    which tell classes apart where the components tell tiles apart. Views count as two means, of the turned and of the
    other ones: single views would only teach the trees what differs between them.
    """
    means = scaled.mean(axis=1)
    centre = means.mean(axis=0)
    _, _, axes = np.linalg.svd(means - centre, full_matrices=False)
    told = _fit_logistic(scaled, tiles, PENALTIES[:1], seed)[0].weight
    told = told[np.abs(told).max(axis=1) > 0]
    told /= np.linalg.norm(told, axis=1, keepdims=True)
    weight = np.vstack([axes[: min(COMPONENTS, len(axes))], told]).astype(np.float32)
    bias = np.asarray(-weight @ centre, np.float32)
    parts = [scaled[:, :TURNS], scaled[:, TURNS:]] if scaled.shape[1] > TURNS else [scaled]
    rows, targets, weights = _rows(np.stack([part.mean(axis=1) for part in parts], axis=1), tiles)
    found = []
    for count in trees:
        model = RandomForestClassifier(int(count), min_samples_leaf=2, n_jobs=-1, random_state=seed)
        model.fit(rows @ weight.T + bias, targets, weights)
        found.append(_Answer(weight, bias, tiles.count, model))
    return found


_Fit = Callable[[Features, Labelled, Sequence[float], int], list[_Answer]]
_FITS: dict[str, tuple[_Fit, tuple[float, ...]]] = {
    "logistic": (_fit_logistic, PENALTIES),
    "svm": (_fit_svm, COSTS),
    "forest": (_fit_forest, (TREES,)),
}
KINDS = tuple(_FITS)
