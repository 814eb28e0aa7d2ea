"""The guard against drift: whether two dates differ by more than the land can have changed.

If at most a share c of the tiles changed, no statistic's distribution over the tiles can differ between the dates by more
than c in total variation, sampling noise aside. So the distance between the distributions of what the model says (class
and confidence of each tile) is compared with c plus the noise, found by swapping the dates of tiles at random.

Distributions can agree where the tiles do not: an image that lies on other ground has the same classes in other places. So
the share of tiles that changed by the model of `inference` is compared with c as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..labels import FloatArray
from .inference import infer
from .series import Series

LEAST_CHANGE = 0.10
CHANGE_A_YEAR = 0.01
"""Unless the user says otherwise, this share of the tiles can really have changed for each year between two dates, and
LEAST_CHANGE between any two: more than the fastest growing counties change, less than a drift that spoils a trend."""
SLACK = 0.05
"""What the modelled share of changed tiles may go beyond the real one where answers are weak."""
CONFIDENCE_STEPS = (0.6, 0.9)
SWAPS = 200
NOISE_QUANTILE = 0.99
PRIOR_ROUNDS = 200
SETTLED = 1e-6

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """One date against the reference.

    distance: total variation, 0–1, between the dates' distributions of class and confidence; noise: what it reaches by
    chance alone in 1 of 100 cases; modelled: share of tiles that changed between the two dates, by their probabilities;
    max_change: share of tiles that can really have changed; shares: (2, K) mean
    probability of each class on the reference and on this date; confidence: mean of each; colours: (2, 3, 2) mean and
    standard deviation over the tiles of red, green and blue (0–255) on each, None without pictures.
    """

    reference: str
    date: str
    distance: float
    noise: float
    modelled: float
    max_change: float
    shares: Doubles
    confidence: tuple[float, float]
    colours: Doubles | None = None

    @property
    def drifted(self) -> bool:
        """Whether the dates differ by more than real change and chance explain."""
        return self.shifted or self.scattered

    @property
    def shifted(self) -> bool:
        """Whether what the model says as a whole moved too far."""
        return self.distance > self.max_change + self.noise

    @property
    def scattered(self) -> bool:
        """Whether too many single tiles changed."""
        return self.modelled > self.max_change + SLACK

    @property
    def colour_shift(self) -> float | None:
        """The largest shift of a band's mean brightness, in standard deviations of the reference's tiles."""
        if self.colours is None:
            return None
        means, spreads = self.colours[:, :, 0], self.colours[0, :, 1]
        return float((np.abs(means[1] - means[0]) / spreads.clip(min=1)).max())


@dataclass(frozen=True)
class Correction:
    """What was tried on a date that had drifted, in words, and the comparison before and after it."""

    words: str
    before: Comparison
    after: Comparison


@dataclass(frozen=True)
class Drift:
    """The guard's findings: a comparison for each date but the reference, as it stands after `corrections`."""

    comparisons: tuple[Comparison, ...]
    corrections: tuple[Correction, ...] = ()

    @property
    def withheld(self) -> bool:
        """Whether the trend must not be told."""
        return any(item.drifted for item in self.comparisons)

    @property
    def verdict(self) -> str:
        """quiet, corrected or withheld."""
        return "withheld" if self.withheld else "corrected" if self.corrections else "quiet"


def compare(
    series: Series,
    date: int,
    *,
    reference: int = 0,
    max_change: float | None = None,
    pictures: Sequence[Image.Image | None] = (),
    seed: int = 0,
) -> Comparison:
    """Compare date number `date` of a series with the reference date.

    max_change: share of the tiles that can really have changed, None for `plausible_change`; pictures: one a date, of any size over the whole ground of the series, or none.
    """
    first, second = series.probabilities[:, reference], series.probabilities[:, date]
    classes = len(series.scheme)
    cells = np.stack([_cells(first), _cells(second)], axis=1)
    found = [pictures[t] if pictures else None for t in (reference, date)]
    return Comparison(
        series.dates[reference],
        series.dates[date],
        _distance(cells, classes * (len(CONFIDENCE_STEPS) + 1)),
        _noise(cells, classes * (len(CONFIDENCE_STEPS) + 1), seed),
        _modelled(series, reference, date),
        plausible_change(series, date, reference) if max_change is None else max_change,
        np.stack([first.mean(axis=0, dtype=np.float64), second.mean(axis=0, dtype=np.float64)]),
        (float(first.max(axis=1).mean()), float(second.max(axis=1).mean())),
        _colours(series, found[0], found[1]),
    )


def plausible_change(series: Series, date: int, reference: int = 0) -> float:
    """The share of tiles that can really have changed between two dates, if nothing better is known."""
    years = abs(float(series.years[date] - series.years[reference]))
    return min(1.0, max(LEAST_CHANGE, CHANGE_A_YEAR * years))


def unchanged_tiles(
    series: Series, date: int, reference: int = 0, max_change: float | None = None
) -> npt.NDArray[np.intp]:
    """Positions of the tiles presumed unchanged: all but the share `max_change` whose answers differ most."""
    apart = np.abs(series.probabilities[:, date] - series.probabilities[:, reference]).sum(axis=1)
    changed = plausible_change(series, date, reference) if max_change is None else max_change
    kept = max(1, round(len(series) * (1 - changed)))
    return np.sort(np.argsort(apart, kind="stable")[:kept])


def with_shares_of(series: Series, date: int, *, reference: int = 0, max_change: float | None = None) -> FloatArray:
    """(N, K) the date's probabilities under class priors that give the tiles presumed unchanged the reference's shares.

    Answers are reweighted by a factor a class (Saerens et al. 2002, Neural Computation 14:21–41, equation 2.4), found by
    iterative scaling.
    """
    kept = unchanged_tiles(series, date, reference, max_change)
    probabilities = series.probabilities[:, date].astype(np.float64)
    wanted = series.probabilities[kept, reference].mean(axis=0, dtype=np.float64)
    weights = np.ones(probabilities.shape[1])
    for _ in range(PRIOR_ROUNDS):
        scaled = probabilities[kept] * weights
        shares = (scaled / scaled.sum(axis=1, keepdims=True)).mean(axis=0)
        step = (wanted + 1e-4) / (shares + 1e-4)
        weights *= step
        if np.abs(step - 1).max() < SETTLED:
            break
    scaled = probabilities * weights
    return np.asarray(scaled / scaled.sum(axis=1, keepdims=True), np.float32)


def with_probabilities(series: Series, date: int, probabilities: FloatArray) -> Series:
    """The series with other probabilities (N, K) on one date."""
    changed = series.probabilities.copy()
    changed[:, date] = probabilities
    return replace(series, probabilities=changed)


def _modelled(series: Series, reference: int, date: int) -> float:
    first, last = sorted((reference, date))
    pair = replace(
        series,
        dates=(series.dates[first], series.dates[last]),
        probabilities=series.probabilities[:, [first, last]],
        valid_fraction=series.valid_fraction[:, [first, last]],
        sources=(series.sources[first], series.sources[last]),
    )
    return float(infer(pair).p_change.mean())


def _cells(probabilities: FloatArray) -> npt.NDArray[np.intp]:
    """(N,) a number for each pair of most probable class and step of confidence."""
    steps = np.digitize(probabilities.max(axis=1), CONFIDENCE_STEPS)
    return np.asarray(probabilities.argmax(axis=1) * (len(CONFIDENCE_STEPS) + 1) + steps)


def _distance(cells: npt.NDArray[np.intp], count: int) -> float:
    counts = [np.bincount(cells[:, side], minlength=count) for side in (0, 1)]
    return float(np.abs(counts[0] - counts[1]).sum() / (2 * len(cells)))


def _noise(cells: npt.NDArray[np.intp], count: int, seed: int) -> float:
    random = np.random.default_rng(seed)
    # Only tiles that differ can move the distance: swapping one adds or takes two of its cells.
    apart = cells[cells[:, 0] != cells[:, 1]]
    if not len(apart):
        return 0.0
    found = []
    for _ in range(SWAPS):
        sign = random.choice((-1.0, 1.0), len(apart))
        moved = np.bincount(apart[:, 0], sign, count) - np.bincount(apart[:, 1], sign, count)
        found.append(np.abs(moved).sum() / (2 * len(cells)))
    return float(np.quantile(found, NOISE_QUANTILE))


def _colours(series: Series, first: Image.Image | None, second: Image.Image | None) -> Doubles | None:
    """(2, 3, 2) mean and spread over the tiles of each band."""
    if first is None or second is None:
        return None
    tiles = series.range
    rows, columns = tiles.top - 1 - series.rows, series.columns - tiles.left
    found = []
    for picture in (first, second):
        small = picture.convert("RGB").resize((tiles.columns, tiles.rows), Image.Resampling.BOX)
        values = np.asarray(small, np.float64)[rows, columns]
        found.append(np.stack([values.mean(axis=0), values.std(axis=0)], axis=1))
    return np.stack(found)
