"""Change as a probability: what the labels of all dates say together about each tile, under a stated prior.

A tile's classes over time are taken as a Markov chain that mostly stays; each date's classifier gives evidence. The
forward–backward algorithm (Rabiner 1989, Proceedings of the IEEE 77:257–286) joins them, so that one odd year does not
make two changes and a weak answer does not make one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..labels import FloatArray
from .series import Series, Truths

Doubles = npt.NDArray[np.float64]

STABLE, SUSTAINED, ENDPOINT, FLICKER = KINDS = ("stable", "sustained", "endpoint", "flicker")
THRESHOLD = 0.5
"""A tile is called newly built-up from this probability on: a miss and a false alarm cost the same."""
ARROW = " → "


@dataclass(frozen=True)
class Prior:
    """What is assumed before looking at a tile: start (K,) shares of the classes on the first date; transitions
    (T - 1, K, K) chance of each class (columns) on the next date given the one before (rows)."""

    start: Doubles
    transitions: Doubles


@dataclass(frozen=True)
class Change:
    """What a series says of each tile.

    posterior: (N, T, K) probability of each class on each date given all dates; p_change: (N,) that the first and the
    last date differ in class; p_new_built: (N,) that an open class became a built-up one between them.
    """

    series: Series
    prior: Prior
    posterior: FloatArray
    p_change: FloatArray
    p_new_built: FloatArray
    threshold: float = THRESHOLD

    def __len__(self) -> int:
        return len(self.series)

    @cached_property
    def classes(self) -> npt.NDArray[np.intp]:
        """(N, T) position in the scheme of the most probable class on each date, given all dates."""
        return np.asarray(self.posterior.argmax(axis=2))

    @cached_property
    def new_built(self) -> Truths:
        """(N,) whether the tile is called newly built-up."""
        return np.asarray(self.p_new_built >= self.threshold)

    @cached_property
    def kind(self) -> npt.NDArray[np.intp]:
        """(N,) position in KINDS.

        stable: one class, whichever date is asked; sustained: another class, seen on the last two dates or more;
        endpoint: another class, seen on the last date only; flicker: the labels of single dates differ and all dates
        together say that the class stayed, or came back.
        """
        classes, raw = self.classes, self.series.classes
        moved = classes[:, -1] != classes[:, 0]
        held = classes[:, -1] == classes[:, -2] if classes.shape[1] > 2 else np.zeros(len(self), bool)
        odd = (raw != raw[:, :1]).any(axis=1) | (classes != classes[:, :1]).any(axis=1)
        return np.select(
            [moved & held, moved, odd], [KINDS.index(SUSTAINED), KINDS.index(ENDPOINT), KINDS.index(FLICKER)], 0
        )

    @property
    def transition(self) -> npt.NDArray[np.object_]:
        """(N,) `Forest → Resident` from the first to the last date, or `Forest` where the class stayed."""
        names = np.asarray(self.series.scheme.names, dtype=object)
        first, last = names[self.classes[:, 0]], names[self.classes[:, -1]]
        return np.asarray(np.where(first == last, first, first + ARROW + last))
