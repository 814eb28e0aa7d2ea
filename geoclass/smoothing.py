"""Smoothing of one date's labels: a lone tile that differs from its neighbours is more often a mistake than a place.

Both ways keep the model's own probabilities beside the smoothed ones (`Labels.raw`). The change model wants those: it
weighs the evidence of all dates itself, and neighbours' evidence mixed in would count twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .errors import GeoclassError
from .grid import IntArray
from .labels import SMOOTHING_KEY, FloatArray, Labels

OWN_WEIGHT = 2.0
STRENGTH = 0.5
"""Of the Potts prior: a tile alone among another class stays where its own probability is 0.97 or more."""
SWEEPS = 100
TOLERANCE = 1e-3
"""Mean field has settled when no probability moves by more."""

# (columns east, rows north) to the four tiles that share an edge, then to the four that share a corner.
EDGES = ((0, 1), (-1, 0), (1, 0), (0, -1))
CORNERS = ((-1, 1), (1, 1), (-1, -1), (1, -1))
CORNER_WEIGHT = 2**-0.5
"""A corner neighbour counts by the nearness of its centre."""


def smooth(labels: Labels, method: str) -> Labels:
    """The labels smoothed by one of METHODS with its defaults. Raises GeoclassError for an unknown one."""
    require_method(method)
    return METHODS[method](labels)


def require_method(method: str) -> None:
    """Raise GeoclassError where `method` is none of METHODS."""
    if method not in METHODS:
        raise GeoclassError(f"unknown smoothing {method!r}; choose --smooth from {', '.join(METHODS)}")


def plurality(labels: Labels, own_weight: float = OWN_WEIGHT) -> Labels:
    """The 3×3 plurality filter (majority filter; Lillesand & Kiefer, Remote Sensing and Image Interpretation,
    post-classification smoothing): each tile takes the class with most votes among its own label, which has
    `own_weight` votes, and those of its eight neighbours, which have one each.

    A neighbour that is not there does not vote. Probabilities become shares of the votes; a tile where two classes come
    first together keeps its own label and its own probabilities. Raises GeoclassError for a weight below 1.
    """
    if not (np.isfinite(own_weight) and own_weight >= 1):
        raise GeoclassError(f"the weight of a tile's own label is {own_weight}; give 1 or more")
    labels = labels.unsmoothed()
    own = np.zeros((len(labels) + 1, len(labels.scheme)), np.float32)  # the last line is the tile that is not there
    own[np.arange(len(labels)), labels.class_index] = 1
    votes = own[:-1] * np.float32(own_weight)
    for neighbour in _neighbours(labels.columns, labels.rows, EDGES + CORNERS):
        votes += own[neighbour]
    votes /= votes.sum(axis=1, keepdims=True)
    tied = (votes == votes.max(axis=1, keepdims=True)).sum(axis=1) > 1
    votes[tied] = labels.probabilities[tied]
    words = (
        f"3 × 3 plurality filter, a tile's own label counting {own_weight:g} votes; probabilities are shares of votes"
    )
    return _smoothed(labels, votes, words)


def potts(labels: Labels, strength: float = STRENGTH, sweeps: int = SWEEPS) -> Labels:
    """Class probabilities given the tile and its neighbours, under a Potts prior: neighbours tend to be alike.

    The prior's energy is -strength for each pair of neighbours of one class (Geman & Geman 1984, IEEE PAMI 6:721–741),
    times CORNER_WEIGHT across a corner; the model's probabilities are the evidence. The posterior is approximated by
    mean field (Zhang 1992, IEEE Trans. Signal Processing 40:2570–2583), which keeps probabilities where ICM (Besag 1986,
    J. R. Stat. Soc. B 48:259–302) keeps only labels:

        q(i, k) ∝ p(i, k) · exp(strength · Σ_j w(i, j) q(j, k))

    Tiles are taken in four groups with no neighbours inside a group, so that each update lowers the free energy and
    the sweeps settle; at most `sweeps` of them are made. Raises GeoclassError for a strength below 0 or no sweep.
    """
    if not (np.isfinite(strength) and strength >= 0):
        raise GeoclassError(f"the strength of the Potts prior is {strength}; give 0 or more")
    if sweeps < 1:
        raise GeoclassError(f"{sweeps} sweeps were asked for; give 1 or more")
    labels = labels.unsmoothed()
    near = _near(labels)
    groups = [np.flatnonzero((labels.columns % 2 + 2 * (labels.rows % 2)) == group) for group in range(4)]
    mean = np.concatenate([labels.probabilities, np.zeros((1, len(labels.scheme)), np.float32)])
    for _ in range(sweeps):
        moved = [_update(mean, labels.probabilities, near, group, strength) for group in groups if len(group)]
        if max(moved, default=0) < TOLERANCE:
            break
    words = f"Potts prior of strength {strength:g} on the class probabilities of eight neighbours, by mean field"
    return _smoothed(labels, mean[:-1], words)


METHODS: dict[str, Callable[[Labels], Labels]] = {"plurality": plurality, "potts": potts}


def _update(
    mean: FloatArray,
    evidence: FloatArray,
    near: npt.NDArray[np.int32],
    group: npt.NDArray[np.intp],
    strength: float,
) -> float:
    """Renew the lines `group` of `mean` in place; return how far the farthest probability moved."""
    field = np.zeros((len(group), mean.shape[1]), np.float32)
    for place in range(len(EDGES)):
        field += mean[near[place, group]]
    corners = np.zeros_like(field)
    for place in range(len(EDGES), len(near)):
        corners += mean[near[place, group]]
    field += np.float32(CORNER_WEIGHT) * corners
    field *= np.float32(strength)
    field -= field.max(axis=1, keepdims=True)
    np.exp(field, out=field)
    field *= evidence[group]
    # A tile sure of one class while all around it are another: what is left may be too small for a float.
    total = field.sum(axis=1, keepdims=True)
    field = np.where(total > 0, field / np.where(total > 0, total, 1), evidence[group])
    moved = float(np.abs(field - mean[group]).max())
    mean[group] = field
    return moved


def _near(labels: Labels) -> npt.NDArray[np.int32]:
    """(8, N) line of each neighbour, edges first; N where there is none."""
    return np.stack(list(_neighbours(labels.columns, labels.rows, EDGES + CORNERS)))


def _neighbours(
    columns: IntArray, rows: IntArray, steps: tuple[tuple[int, int], ...]
) -> Iterator[npt.NDArray[np.int32]]:
    """For each of `steps`: (N,) line of the tile that lies there, or N where there is none.

    Found by sorted keys, not in an image: a few tiles may lie far apart.
    """
    if not len(columns):
        yield from (np.zeros(0, np.int32) for _ in steps)
        return
    # A column's key is never that of the next row's first: one key is left free at either end of a row.
    stride = int(columns.max() - columns.min()) + 3
    keys = (rows - rows.min()) * stride + (columns - columns.min() + 1)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    for east, north in steps:
        wanted = keys + north * stride + east
        at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
        yield np.where(ordered[at] == wanted, order[at], len(columns)).astype(np.int32)


def _smoothed(labels: Labels, probabilities: FloatArray, words: str) -> Labels:
    info = {**labels.info, SMOOTHING_KEY: words}
    return replace(labels, probabilities=probabilities, raw=labels.probabilities, info=info)
