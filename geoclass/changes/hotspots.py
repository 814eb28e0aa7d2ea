"""Where high values crowd together: the local statistic Gi* on the tile grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import convolve
from scipy.stats import false_discovery_control, norm

from ..grid import IntArray
from .posterior import Doubles
from .series import Truths

FDR = 0.05
"""Share of false ones among the tiles called a hot spot that is put up with."""
QUEEN = np.ones((3, 3))
"""A tile's neighbours, itself included."""


@dataclass(frozen=True)
class Hotspots:
    """z: (N,) standard score of each tile's neighbourhood against chance; hot, cold: (N,) whether it lies above or below
    it by more than chance, at a false discovery rate of `fdr` over all tiles."""

    z: Doubles
    hot: Truths
    cold: Truths
    fdr: float = FDR

    @property
    def level(self) -> npt.NDArray[np.int8]:
        """(N,) 1 for hot, -1 for cold, 0 for neither."""
        return (self.hot.astype(np.int8) - self.cold.astype(np.int8)).astype(np.int8)


def find_hotspots(values: npt.NDArray[np.floating], columns: IntArray, rows: IntArray, fdr: float = FDR) -> Hotspots:
    """Hot and cold spots of `values` (N,) on tiles at `columns`, `rows` (N,).

    Two-sided p-values of z as a normal score, adjusted after Benjamini & Hochberg (1995, Journal of the Royal Statistical
    Society B 57:289–300), as Caldas de Castro & Singer (2006, Geographical Analysis 38:180–208) advise for local
    statistics.
    """
    z = getis_ord(values, columns, rows)
    if not len(z):
        return Hotspots(z, z > 0, z > 0, fdr)
    found = false_discovery_control(2 * norm.sf(np.abs(z)), method="bh") <= fdr
    return Hotspots(z, found & (z > 0), found & (z < 0), fdr)


def getis_ord(values: npt.NDArray[np.floating], columns: IntArray, rows: IntArray) -> Doubles:
    """(N,) Gi* of each tile over its queen neighbours and itself, with weights of one.

    Gi* = (sum of the neighbourhood - W mean) / (s sqrt((n W - W²) / (n - 1))), with W tiles in the neighbourhood, n tiles
    in all, and s their standard deviation (Getis & Ord 1992, Geographical Analysis 24:189–206; Ord & Getis 1995,
    Geographical Analysis 27:286–306). 0 where all values are alike, or the neighbourhood is everything.
    """
    x = np.asarray(values, np.float64)
    n = len(x)
    if n < 2 or np.ptp(x) == 0:
        return np.zeros(n)
    line, column = rows.max() - rows, columns - columns.min()
    shape = (int(line.max()) + 1, int(column.max()) + 1)
    total, count = np.zeros(shape), np.zeros(shape)
    total[line, column], count[line, column] = x - x.mean(), 1.0
    around = convolve(total, QUEEN, mode="constant")[line, column]
    weight = convolve(count, QUEEN, mode="constant")[line, column]
    spread = x.std() * np.sqrt(np.maximum(n * weight - weight**2, 0) / (n - 1))
    return np.asarray(np.divide(around, spread, out=np.zeros(n), where=spread > 0))
