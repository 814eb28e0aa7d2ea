"""Compare models that were scored on the same tiles: how often they differ, and whether by more than chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from ..errors import EvaluationError
from . import metrics
from .metrics import Doubles
from .scored import Scored, take
from .scores import Estimate, Resampling, estimate, plain_values


@dataclass(frozen=True)
class Pair:
    """Two models on the same tiles. difference: overall accuracy of the first less the second's, with its block
    bootstrap interval; p by McNemar's test, exact or chi-square `statistic`; p_holm adjusted for all pairs compared."""

    first: str
    second: str
    only_first: int
    only_second: int
    difference: Estimate
    statistic: float
    exact: bool
    p: float
    p_holm: float

    def to_dict(self) -> dict[str, Any]:
        """The values as plain ones; NaN becomes None."""
        return dict(plain_values(self))


def compare(scored: Sequence[Scored], *, repeats: int = metrics.REPEATS, seed: int = 0) -> tuple[Pair, ...]:
    """Each pair of models on the same tiles, in any order of tiles, p values adjusted after Holm for all pairs.

    Raises EvaluationError where schemes, tiles or truths differ.
    """
    if not scored:
        return ()
    models = [scored[0], *(in_order_of(other, scored[0]) for other in scored[1:])]
    pairs = list(combinations(models, 2))
    tests = [metrics.mcnemar(first.right, second.right) for first, second in pairs]
    adjusted = metrics.holm(np.array([test.p for test in tests]))
    return tuple(
        Pair(
            first.model, second.model, test.only_first, test.only_second, _difference(first, second, Resampling(repeats, seed)),
            test.statistic, test.exact, test.p, float(p),
        )
        for (first, second), test, p in zip(pairs, tests, adjusted, strict=True)
    )  # fmt: skip


def in_order_of(other: Scored, first: Scored) -> Scored:
    """`other` with its tiles in the order of `first`. Raises EvaluationError where the two cannot be compared."""
    where = f"{first.model} and {other.model} cannot be compared"
    if other.scheme.names != first.scheme.names:
        raise EvaluationError(
            f"{where}: their schemes {first.scheme.name!r} and {other.scheme.name!r} differ; compare models of one scheme"
        )
    place = {key: k for k, key in enumerate(other.keys)}
    if place.keys() != set(first.keys):
        alone = len(set(first.keys) ^ place.keys())
        raise EvaluationError(f"{where}: {alone} tiles are scored by one of them only; score both on the same tiles")
    order = np.array([place[key] for key in first.keys])
    if (other.truth[order] != first.truth).any():
        raise EvaluationError(f"{where}: the truth of some tiles differs; score both against the same labels")
    return take(other, order)


def _difference(first: Scored, second: Scored, options: Resampling) -> Estimate:
    """Overall accuracy of `first` less that of `second`: counted in cells only first, only second, both or neither."""
    cells = np.where(first.right == second.right, 2, np.where(first.right, 0, 1))

    def statistic(counts: Doubles) -> Doubles:
        gaps: Doubles = (counts[:, :1] - counts[:, 1:2]) / counts.sum(axis=1, keepdims=True)
        return gaps

    low, high = metrics.block_bootstrap(
        statistic, cells, first.block_numbers, 3, repeats=options.repeats, seed=options.seed
    )
    return estimate(first.right.mean() - second.right.mean(), low[0], high[0])
