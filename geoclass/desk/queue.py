"""Which tile to ask for next: pure functions of probabilities, labels and features; the desk and its benchmark share
them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

Probabilities = npt.NDArray[np.floating[Any]]
Order = npt.NDArray[np.intp]
OrderName = Literal["uncertain", "disagreement", "design"]
ORDERS: tuple[OrderName, ...] = get_args(OrderName)

UNKNOWN = -1
"""The label of a tile that has none."""


def margins(probabilities: Probabilities) -> npt.NDArray[np.float64]:
    """(N,) how far the most probable class of each row (N, K) leads the second; 0 is the least certain."""
    top = np.partition(np.asarray(probabilities, np.float64), -2, axis=1)[:, -2:]
    return np.asarray(top[:, 1] - top[:, 0], np.float64)


def least_certain_first(probabilities: Probabilities) -> Order:
    """The N tiles by growing margin between their two most probable classes; equals keep their order.

    Uncertainty sampling is Lewis & Gale (1994), "A sequential algorithm for training text classifiers", SIGIR, 3-12;
    with more than two classes the margin (Scheffer, Decomain & Wrobel 2001, IDA) asks for what parts the likely ones,
    where the entropy is swayed by classes that are out of the question (Settles 2009, "Active learning literature
    survey", University of Wisconsin-Madison, TR 1648, section 3.1).
    """
    return np.argsort(margins(probabilities), kind="stable")


def disagreement_first(probabilities: Probabilities, labels: npt.NDArray[np.integer[Any]]) -> Order:
    """The N tiles whose label (N,) another class contradicts, the most probable such class first; then the others,
    least certain first. A tile whose label is UNKNOWN is contradicted by nothing.

    The probabilities of a labelled tile are to come from a head that has not learned from it. It is the order of
    `datasets.corrections.suspects` without its threshold: here a person looks, and stops where it no longer pays.
    """
    wrong = (labels != UNKNOWN) & (probabilities.argmax(axis=1) != labels)
    order = least_certain_first(probabilities)
    confident = np.flatnonzero(wrong)[np.argsort(-probabilities.max(axis=1)[wrong], kind="stable")]
    return np.concatenate([confident, order[~wrong[order]]]).astype(np.intp)


def spread_first(features: npt.NDArray[np.floating[Any]], count: int, seed: int = 0) -> Order:
    """All N tiles, the first `count` spread over the features (N, F), the others in random order: for a start without
    labels.

    One tile of each of `count` clusters, that nearest to its centre, the largest cluster first: what is common is asked
    for before what is odd, when few labels are known (Hacohen, Dekel & Weinshall 2022, "Active learning on a budget:
    opposite strategies suit high and low budgets", ICML).
    """
    from sklearn.cluster import MiniBatchKMeans

    points = np.asarray(features, np.float32)
    found: Sequence[int] = []
    if len(points) > count > 0:
        groups = MiniBatchKMeans(count, random_state=seed, n_init=3, batch_size=1024).fit(points)
        apart = np.linalg.norm(points - groups.cluster_centers_[groups.labels_], axis=1)
        nearest = np.lexsort((apart, groups.labels_))
        _, first = np.unique(groups.labels_[nearest], return_index=True)
        sizes = np.bincount(groups.labels_, minlength=count)[groups.labels_[nearest[first]]]
        found = nearest[first][np.argsort(-sizes, kind="stable")].tolist()
    rest = np.setdiff1d(np.arange(len(points)), found)
    return np.concatenate([found, np.random.default_rng(seed).permutation(rest)]).astype(np.intp)
