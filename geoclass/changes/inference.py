"""From a series to a change: the prior is estimated from the series itself, then every tile's dates are joined.

The model of a tile is a hidden Markov chain. Its hidden class starts with the shares of the first date, and moves from
date to date by a transition matrix that mostly stays; what is seen on a date is the classifier's answer p(class | image),
which stands for the likelihood p(image | class) up to a factor of the tile, because models are trained on balanced
classes. Start and transitions are found by expectation-maximisation (Baum et al. 1970, Annals of Mathematical Statistics
41:164–171) from a Dirichlet prior worth STRENGTH tiles a class in which CHANGE of them change, to any other class alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..labels import FloatArray
from .posterior import THRESHOLD, Change, Doubles, Prior
from .series import Series

CHANGE = 0.05
STRENGTH = 20.0
ROUNDS = 100
SETTLED = 1e-5
"""Largest step of any transition probability at which the estimate has settled."""
FITTED_TILES = 50_000
JOINED_TILES = 32_768
FLOOR = 1e-4
"""The least evidence for a class: no classifier is surer than that of what it does not see."""


def infer(series: Series, *, prior: Prior | None = None, threshold: float = THRESHOLD, seed: int = 0) -> Change:
    """The probability of every class on every date given all dates, and of change, for each tile of `series`.

    Without `prior` it is estimated from the series, from FITTED_TILES tiles drawn with `seed` where there are more.
    """
    found = prior or estimate_prior(series.probabilities, seed=seed)
    open_, built = series.members(series.open), series.members(series.built)
    posterior = np.empty(series.probabilities.shape, np.float32)
    p_change, p_new_built = np.empty(len(series), np.float32), np.empty(len(series), np.float32)
    # Between evidence and answer lie some ten numbers of double precision for each of either: a part of the tiles at a time.
    for start in range(0, len(series), JOINED_TILES):
        part = slice(start, start + JOINED_TILES)
        joined = _Joined.of(_evidence(series.probabilities[part]), found)
        stayed = sum(joined.from_to(k, k) for k in np.eye(len(series.scheme), dtype=bool))
        posterior[part] = joined.posterior()
        p_change[part] = np.clip(1 - stayed, 0, 1)
        p_new_built[part] = np.clip(joined.from_to(open_, built), 0, 1)
    return Change(series, found, posterior, p_change=p_change, p_new_built=p_new_built, threshold=threshold)


def estimate_prior(probabilities: FloatArray | Doubles, *, seed: int = 0) -> Prior:
    """The prior under which the classifier's answers (N, T, K) are most probable, drawn towards little change."""
    count, dates, classes = probabilities.shape
    if count > FITTED_TILES:
        chosen = np.sort(np.random.default_rng(seed).choice(count, FITTED_TILES, replace=False))
        probabilities, count = probabilities[chosen], FITTED_TILES
    evidence = _evidence(probabilities)
    expected = np.full((classes, classes), CHANGE / max(1, classes - 1))
    np.fill_diagonal(expected, 1 - CHANGE)
    prior = Prior(np.full(classes, 1 / classes), np.repeat(expected[None], dates - 1, axis=0))
    for _ in range(ROUNDS):
        joined = _Joined.of(evidence, prior)
        moved = joined.expected_moves() + STRENGTH * expected
        start = joined.posterior()[:, 0].sum(axis=0) + 1
        new = Prior(start / start.sum(), moved / moved.sum(axis=2, keepdims=True))
        step = np.abs(new.transitions - prior.transitions).max()
        prior = new
        if step < SETTLED:
            break
    return prior


def _evidence(probabilities: FloatArray | Doubles) -> Doubles:
    return np.maximum(probabilities.astype(np.float64), FLOOR)


@dataclass(frozen=True)
class _Joined:
    """The messages of the forward–backward algorithm, each scaled to sum to 1 over the classes: (T, N, K)."""

    evidence: Doubles
    prior: Prior
    forward: Doubles
    backward: Doubles

    @classmethod
    def of(cls, evidence: Doubles, prior: Prior) -> _Joined:
        dates = evidence.shape[1]
        forward, backward = [_scaled(evidence[:, 0] * prior.start)], [np.ones_like(evidence[:, 0])]
        for t in range(1, dates):
            forward.append(_scaled((forward[-1] @ prior.transitions[t - 1]) * evidence[:, t]))
        for t in range(dates - 1, 0, -1):
            backward.append(_scaled((backward[-1] * evidence[:, t]) @ prior.transitions[t - 1].T))
        return cls(evidence, prior, np.stack(forward), np.stack(backward[::-1]))

    def posterior(self) -> Doubles:
        """(N, T, K) probability of each class on each date given all dates."""
        return _scaled(self.forward * self.backward).transpose(1, 0, 2)

    def expected_moves(self) -> Doubles:
        """(T - 1, K, K) expected number of tiles that go from one class to another between consecutive dates."""
        found = []
        for t, transition in enumerate(self.prior.transitions):
            after = self.evidence[:, t + 1] * self.backward[t + 1]
            whole = ((self.forward[t] @ transition) * after).sum(axis=1, keepdims=True)
            found.append(transition * (self.forward[t].T @ (after / whole)))
        return np.stack(found)

    def from_to(self, first: npt.NDArray[np.bool_], last: npt.NDArray[np.bool_]) -> Doubles:
        """(N,) probability that the first date's class is in `first` (K,) and the last date's in `last` (K,)."""
        some, every = self.evidence[:, 0] * self.prior.start, self.evidence[:, 0] * self.prior.start
        some = some * first
        for t, transition in enumerate(self.prior.transitions, start=1):
            some, every = (some @ transition) * self.evidence[:, t], (every @ transition) * self.evidence[:, t]
            scale = every.sum(axis=1, keepdims=True)
            some, every = some / scale, every / scale
        return np.asarray((some * last).sum(axis=1))


def _scaled(values: Doubles) -> Doubles:
    return np.asarray(values / values.sum(axis=-1, keepdims=True))
