"""The desk's head: features once, then a logistic regression on the labels so far, fitted in a second or two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from ..errors import DatasetError
from ..learning.heads import Head, Labelled, deviations, fit_head, rescaled
from ..train import calibrated
from ..views import TURNS

Features = npt.NDArray[np.float32]
Classes = npt.NDArray[np.int64]

WIDTH = 512
"""Directions of the features that are kept; the others hardly differ from tile to tile."""
HEAD = "logistic"


def space_of(features: Features, width: int = WIDTH) -> Features:
    """(N, V, D) points of all tiles of a dataset, labelled or not, from their features (N, V, F).

    Rescaled so that what differs between the views of a tile counts for less, turns as well as copies, which a few
    labelled tiles do not tell from land cover (see `learning.heads.rescaled`); then turned onto the D = `width` principal
    directions of the tiles (Pearson 1901, Philosophical Magazine 2:559-572), of mean variance 1. Both need no labels, so
    they are taken from all tiles once, which is more than a few labelled ones tell, and a head fits several times as fast.
    """
    scaled = rescaled(features, deviations(features))[0]
    means = scaled.mean(axis=1)
    means -= means.mean(axis=0)
    _, vectors = np.linalg.eigh((means.T @ means).astype(np.float64))
    kept = vectors[:, ::-1][:, : min(width, len(features), scaled.shape[2])].astype(np.float32)
    points = scaled @ kept
    points /= np.sqrt(points.reshape(-1, points.shape[2]).var(axis=0).mean()) or 1
    return points


@dataclass(frozen=True)
class Fitted:
    """A head on points. at, classes: (n,) the tiles it learned from, as positions, and their classes; accuracy: in
    cross-validation on these; temperature: that its logits are divided by."""

    head: Head
    at: npt.NDArray[np.intp]
    classes: Classes
    temperature: float

    @property
    def accuracy(self) -> float:
        return self.head.accuracy

    def probabilities(self, points: Features) -> npt.NDArray[np.float64]:
        """(N, K) for all points (N, V, D) the head was fitted among; a tile it learned from is judged by one that did
        not."""
        logits = points[:, :TURNS].mean(axis=1) @ self.head.weight.T + self.head.bias
        logits[self.at[self.head.held_out]] = self.head.logits
        return np.asarray(softmax(logits.astype(np.float64) / self.temperature, axis=1))


def fit(
    points: Features, at: npt.NDArray[np.intp], classes: npt.NDArray[np.integer[Any]], count: int, seed: int = 0
) -> Fitted:
    """A head of `count` classes on the points (N, V, D) at positions `at` (n,), of `classes` (n,).

    It is to be right on these tiles, not steady on other files as the head of a bundle is. Points are not rescaled once
    more: what differs between the views of a few labelled tiles is mostly chance.
    Raises DatasetError where fewer than two classes, or of no class two tiles, are labelled.
    """
    labels = np.asarray(classes, np.int64)
    if len(np.unique(labels)) < 2:
        raise DatasetError("a head needs labels of two classes or more; label some tiles of another class")
    labelled = Labelled(points[at], labels, count)
    head = fit_head(HEAD, labelled, averaged=True, rescale=False, steady=False, seed=seed)
    temperature, _ = calibrated(head.logits, labels[head.held_out])
    return Fitted(head, np.asarray(at, np.intp), labels, temperature)
