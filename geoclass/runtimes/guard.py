"""The guard of quick networks: what they say of held-out tiles of the scene, against what fp32 says from all sides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np

from ..labels import FloatArray
from ..reader import Pixels
from .wanted import Agreement

HELD_OUT = 400
"""Tiles that a network is compared with fp32 on: others than those it was made with."""

FEWEST = 100
"""Held-out tiles below which a share of 99 % says nothing, and nothing but fp32 is used."""

LEAST_AGREEMENT = 0.99
MOST_MEAN_DP = 0.02
"""A network is used where at least this share of the labels is fp32's, and the probability of fp32's class changes by at
most this much on average."""

LEAST_SPEEDUP = 1.1

MOST_ASKED_AGAIN = 0.5
"""Where fp32 has to be asked about more of the tiles, the quick network leaves too little between its classes."""

Classifier = Callable[[Sequence[Pixels]], FloatArray]
"""Tiles (C, H, W) in stored numbers → probabilities (N, K)."""


def compare(precision: str, fp32: Classifier, quick: Classifier, tiles: Sequence[Pixels], batch: int) -> Agreement:
    """Both networks' answers to the same tiles, in batches by turns so that both meet the same machine."""
    seconds = np.zeros(2)
    agreed, moved = 0, 0.0
    for way in (fp32, quick):
        way(tiles[:batch])  # the first pass of each also makes its buffers
    for start in range(0, len(tiles), batch):
        answers = []
        for number, way in enumerate((fp32, quick)):
            began = perf_counter()
            answers.append(way(tiles[start : start + batch]))
            seconds[number] += perf_counter() - began
        exact, rounded = answers
        classes = exact.argmax(axis=1)
        every = np.arange(len(classes))
        agreed += int((rounded.argmax(axis=1) == classes).sum())
        moved += float(np.abs(rounded[every, classes] - exact[every, classes]).sum())
    count = max(1, len(tiles))
    speedup = float(seconds[0] / max(1e-9, seconds[1]))
    return Agreement(
        precision=precision, tiles=len(tiles), labels=agreed / count, mean_dp=moved / count, speedup=speedup
    )


def objection(found: Agreement, slow_too: bool) -> str:
    """Why a network must not be used, empty where it may. `slow_too`: whether being slow counts."""
    name = found.name
    if found.tiles < FEWEST:
        return f"only {found.tiles} tiles to compare {name} with fp32 on, {FEWEST} are needed"
    if found.labels < LEAST_AGREEMENT:
        return f"{name} gives {found.labels:.1%} of {found.tiles} held-out tiles fp32's class, {LEAST_AGREEMENT:.0%} are needed"
    if found.asked_again > MOST_ASKED_AGAIN:
        return f"{name} is unsure of {found.asked_again:.0%} of {found.tiles} held-out tiles, {MOST_ASKED_AGAIN:.0%} at most will do"
    if found.mean_dp > MOST_MEAN_DP:
        return f"{name} changes the probability of fp32's class by {found.mean_dp:.3f} on average, at most {MOST_MEAN_DP} will do"
    if slow_too and found.speedup < LEAST_SPEEDUP:
        return f"{name} is only {found.speedup:.2f} times as fast here"
    return ""
