"""A plan whose imagery is brought to the colours of an earlier result's, measured on the tiles that both have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import GridError, SceneError
from .grid import IntArray
from .imagery import open_imagery
from .labels import Labels
from .plan import Plan
from .results import read_result
from .tones import Tone, histograms, match

MEASURED_TILES = 256
"""Tiles that are read at both dates to measure the colours: a few million pixels."""


def match_colours(
    plan: Plan, reference: Path, *, unchanged: npt.NDArray[np.int64] | None = None, seed: int = 0
) -> Plan:
    """`plan` with the tone that brings its imagery to that of the result at path `reference`.

    Measured on up to MEASURED_TILES common tiles drawn with `seed`, from those at `unchanged` (M, 2; column and row)
    where given. Raises SceneError where the reference's imagery is not found, or too few tiles are shared; GridError
    where its grid is another.
    """
    labels = read_result(reference)
    if labels.grid.prefix != plan.grid.prefix:
        raise GridError(
            f"{reference} is of the grid {labels.grid.prefix}, not {plan.grid.prefix}; give a result of the same"
        )
    columns, rows = _common(plan, labels, unchanged)
    if not len(columns):
        raise SceneError(f"{reference} shares no tile with this imagery; give a result of the same ground")
    if len(columns) > MEASURED_TILES:
        chosen = np.sort(np.random.default_rng(seed).choice(len(columns), MEASURED_TILES, replace=False))
        columns, rows = columns[chosen], rows[chosen]
    theirs = open_imagery(labels.info, reference)
    curves = match(
        histograms(plan.mosaic, plan.grid, plan.bands, columns, rows),
        histograms(theirs, plan.grid, plan.bands, columns, rows),
    )
    return replace(plan, tone=Tone(plan.bands, curves, str(reference), len(columns)))


def _common(plan: Plan, labels: Labels, unchanged: npt.NDArray[np.int64] | None) -> tuple[IntArray, IntArray]:
    """Columns and rows of tiles that the plan and the labels share."""
    wanted = set(zip(labels.columns.tolist(), labels.rows.tolist(), strict=True))
    if unchanged is not None:
        wanted &= set(map(tuple, unchanged.tolist()))
    keep = np.array([tile in wanted for tile in zip(plan.columns.tolist(), plan.rows.tolist(), strict=True)], bool)
    return plan.columns[keep], plan.rows[keep]
