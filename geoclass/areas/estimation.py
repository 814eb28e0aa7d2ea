"""The stratified estimator: shares of the ground and accuracies with standard errors, from a random sample of tiles.

Olofsson et al. (2014, *Remote Sensing of Environment* 148:42–57) give it for strata that are the map's classes, Stehman
(2014, *International Journal of Remote Sensing* 35:4923–4939) for any strata: everything is the mean of a number that
each tile has, or the ratio of two such means. Where strata are the map's classes the second is the first, equations 5
to 7 and 9 to 11. Two things go beyond both. Tiles with less ground than others (at the edge of the imagery) count by
their ground, as a ratio within the stratum (Cochran 1977, section 6.10); and since tiles are a finite list of which a
class is asked, strata that were looked at whole add no error (Cochran 1977, section 2.6; Stehman 2014 has it too).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

Z95 = 1.96
"""Standard errors to either side in a 95 % interval, as equation 11 of Olofsson et al. (2014) has it."""


@dataclass(frozen=True)
class Number:
    """An estimate and its standard error; NaN where undefined."""

    value: float
    se: float

    @property
    def half(self) -> float:
        """Half the width of the 95 % interval."""
        return Z95 * self.se

    def times(self, factor: float) -> Number:
        return Number(self.value * factor, self.se * factor)


@dataclass(frozen=True)
class Observed:
    """n sampled tiles whose truth is known. stratum: (n,) position of each tile's stratum; ground: (n,) its ground, in
    any unit; weights: (H,) each stratum's share of all ground; tiles: (H,) how many tiles each stratum has, or None
    for so many that none is looked at twice. Every stratum has two tiles here, or all of its tiles."""

    stratum: Places
    ground: Doubles
    weights: Doubles
    tiles: npt.NDArray[np.int64] | None = None

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """(H,) how many tiles of each stratum are here."""
        return np.bincount(self.stratum, minlength=len(self.weights)).astype(np.int64)

    def _sum(self, values: Doubles) -> Doubles:
        """(H,) sums of `values` (n,) by stratum."""
        return np.asarray(np.bincount(self.stratum, weights=values, minlength=len(self.weights)), np.float64)

    def means(self, values: Doubles) -> Doubles:
        """(H,) mean of `values` (n,) over the ground of each stratum."""
        return self._sum(self.ground * values) / self._sum(self.ground)

    def share(self, values: Doubles) -> Number:
        """The mean of `values` (n,) over all ground: of an indicator, the share of the ground.

        Equations 9 and 10 of Olofsson et al. (2014); 3 and 25 of Stehman (2014).
        """
        means = self.means(values)
        return Number(float(self.weights @ means), float(np.sqrt(self._variance(values, means))))

    def cautious(self, values: Doubles) -> tuple[float, float]:
        """Low and high end of a 95 % interval for the share of an indicator `values` (n,), not the same to both sides.

        Where a stratum shows few finds or none, the normal interval takes what it missed for nothing. Here each stratum
        has its Wilson (1927) limits, which are never of no width, and their distances from the estimate add up as
        standard errors do: the method of variance estimates recovery of Zou & Donner (2008, *Statistics in Medicine*
        27:1693–1702).
        """
        counts, means = self.counts, self.means(values)
        centre = (means + Z95**2 / (2 * counts)) / (1 + Z95**2 / counts)
        inner = means * (1 - means) / counts + Z95**2 / (4 * counts**2)
        half = Z95 / (1 + Z95**2 / counts) * np.sqrt(np.maximum(inner, 0))
        finite = self._finite()
        below, above = (np.maximum(0, side) for side in (means - (centre - half), centre + half - means))
        value = float(self.weights @ means)
        low, high = (float(np.sqrt((self.weights**2 * finite * side**2).sum())) for side in (below, above))
        return max(0.0, value - low), min(1.0, value + high)

    def _finite(self) -> Doubles:
        """(H,) the share of each stratum not looked at: 1 where the list is endless."""
        if self.tiles is None:
            return np.ones(len(self.weights))
        return np.asarray(np.maximum(0.0, 1 - self.counts / self.tiles))

    def ratio(self, part: Doubles, whole: Doubles) -> Number:
        """The ratio of two such means, as a user's or producer's accuracy is one.

        Equations 27 and 28 of Stehman (2014); 6 and 7 of Olofsson et al. (2014) where strata are the map's classes.
        """
        below = float(self.weights @ self.means(whole))
        if below <= 0:
            return Number(np.nan, np.nan)
        value = float(self.weights @ self.means(part)) / below
        rest = part - value * whole
        return Number(value, float(np.sqrt(self._variance(rest, self.means(rest)))) / below)

    def _variance(self, values: Doubles, means: Doubles) -> float:
        counts = self.counts
        mean_ground = self._sum(self.ground) / counts
        spread = (self.ground / mean_ground[self.stratum] * (values - means[self.stratum])) ** 2
        within = self._sum(spread) / np.maximum(counts - 1, 1)
        return float((self.weights**2 * self._finite() * within / counts).sum())


@dataclass(frozen=True)
class Assessment:
    """What a sample says of a map of K classes.

    counts: (K, K) tiles, mapped class by true class; proportions: (K, K) estimated shares of the ground; overall:
    accuracy; users, producers: K accuracies; shares: K shares of the ground by the truth.
    """

    counts: npt.NDArray[np.int64]
    proportions: Doubles
    overall: Number
    users: tuple[Number, ...]
    producers: tuple[Number, ...]
    shares: tuple[Number, ...]


def assess(observed: Observed, mapped: Places, truth: Places, classes: int) -> Assessment:
    """Error matrix, accuracies and shares from `mapped` and `truth` (n,) positions of K = `classes` classes."""
    is_mapped = [(mapped == k).astype(np.float64) for k in range(classes)]
    is_true = [(truth == k).astype(np.float64) for k in range(classes)]
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (mapped, truth), 1)
    proportions = np.array([[observed.share(m * t).value for t in is_true] for m in is_mapped])
    return Assessment(
        counts=counts,
        proportions=proportions.reshape(classes, classes),
        overall=observed.share((mapped == truth).astype(np.float64)),
        users=tuple(observed.ratio(m * t, m) for m, t in zip(is_mapped, is_true, strict=True)),
        producers=tuple(observed.ratio(m * t, t) for m, t in zip(is_mapped, is_true, strict=True)),
        shares=tuple(observed.share(t) for t in is_true),
    )


def unseen_share(count: int, tiles: int | None = None) -> float:
    """The largest share that may hide in a stratum of which `count` random tiles were looked at and none had it.

    95 % confidence: (1 − p)ⁿ = 0.05 (Hanley & Lippman-Hand 1983, *JAMA* 249:1743–1745, for whom it is about 3/n).
    Nothing hides in a stratum looked at whole.
    """
    return 0.0 if tiles is not None and count >= tiles else float(1 - 0.05 ** (1 / max(count, 1)))
