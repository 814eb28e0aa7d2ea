"""Arithmetic of change: growth a year, gain and loss behind a net change, and the land consumption of SDG 11.3.1."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .posterior import Doubles

NAN = float("nan")


def compound_rate(before: float, after: float, years: float) -> float:
    """The share by which `before` grows each year to become `after`: (after / before)^(1 / years) - 1.

    NaN where there was nothing before, or no time passed.
    """
    if not (before > 0 and after >= 0 and years > 0):
        return NAN
    return math.expm1(math.log(after / before) / years) if after > 0 else -1.0


def linear_rate(before: float, after: float, years: float) -> float:
    """(after - before) / before / years; NaN where there was nothing before, or no time passed."""
    return (after - before) / before / years if before > 0 and after >= 0 and years > 0 else NAN


def log_rate(before: float, after: float, years: float) -> float:
    """ln(after / before) / years; NaN where either is nothing, or no time passed."""
    return math.log(after / before) / years if before > 0 and after > 0 and years > 0 else NAN


@dataclass(frozen=True)
class Exchange:
    """What K classes won and lost between two dates, each (..., K), in the unit of the matrix it was made of.

    net = gain - loss; swap: ground lost in one place and won in another, 2 min(gain, loss); gross = gain + loss, which
    is |net| + swap (Pontius, Shusas & McEachern 2004, Agriculture, Ecosystems & Environment 101:251–268).
    """

    gain: Doubles
    loss: Doubles

    @property
    def net(self) -> Doubles:
        return self.gain - self.loss

    @property
    def swap(self) -> Doubles:
        return 2 * np.minimum(self.gain, self.loss)

    @property
    def gross(self) -> Doubles:
        return self.gain + self.loss


def exchange(matrix: Doubles) -> Exchange:
    """Gain and loss of each class from a transition matrix (..., K, K): rows the earlier class, columns the later."""
    stayed = np.diagonal(matrix, axis1=-2, axis2=-1)
    return Exchange(gain=matrix.sum(axis=-2) - stayed, loss=matrix.sum(axis=-1) - stayed)


@dataclass(frozen=True)
class Consumption:
    """SDG indicator 11.3.1 between two dates. Rates are shares a year; what cannot be computed is NaN.

    lcr: land consumption rate as the indicator's metadata have it since March 2021, (V_present - V_past) / V_past / t
    (UN-Habitat 2021, SDG indicator metadata 11.3.1); lcr_log: as before, ln(Urb_t+n / Urb_t) / t (UN-Habitat 2019,
    training module on land use efficiency); pgr: population growth rate, ln(Pop_t+n / Pop_t) / t; ratio = lcr / pgr,
    the indicator; ratio_log = lcr_log / pgr.
    """

    lcr: float
    lcr_log: float
    pgr: float = NAN

    @property
    def ratio(self) -> float:
        return self.lcr / self.pgr if self.pgr else NAN

    @property
    def ratio_log(self) -> float:
        return self.lcr_log / self.pgr if self.pgr else NAN


def land_consumption(
    built: tuple[float, float], years: float, population: tuple[float, float] | None = None
) -> Consumption:
    """SDG 11.3.1 of built-up land, and people where known, each before and after `years`."""
    pgr = log_rate(*population, years) if population is not None else NAN
    return Consumption(linear_rate(*built, years), log_rate(*built, years), pgr)
