"""A desk at work: its tiles, the answers so far, the head, and the order in which each person is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..areas.answers import Agreement
from ..errors import DatasetError
from .agreement import Joined, agreements, joined
from .answers import Answers, Kind, Standing, standing, told
from .learner import Learner, Retrained, labels_of
from .pictures import Pictures
from .queue import UNKNOWN, OrderName, disagreement_first, least_certain_first, spread_first
from .tiles import Tiles, design_order

Suggest = Literal["after", "before", "never"]
Learns = Literal["answers", "all"]
SPREAD = 5
"""Tiles a class that are asked for, spread over the features, before a head says what is uncertain."""


@dataclass(frozen=True)
class Suggestion:
    """The class the head holds most probable for a tile, its probability, and the label that the data came with, if
    any."""

    label: str | None
    probability: float | None
    known: str | None


class Desk:
    """All that the page asks of. Positions are those of `tiles`; people and answers are in `answers`, by tile id."""

    def __init__(
        self, tiles: Tiles, answers: Answers, learner: Learner, *, order: OrderName = "uncertain",
        suggest: Suggest = "after", learns: Learns = "answers", who: str = "",
    ) -> None:  # fmt: skip
        self.tiles, self.answers, self.learner = tiles, answers, learner
        self.order, self.suggest, self.learns, self.who = order, suggest, learns, who
        self.pictures = Pictures(tiles)
        self.place = {name: k for k, name in enumerate(tiles.ids)}
        self._spread: list[int] | None = None

    # ---- what was answered

    def standing(self) -> dict[str, dict[str, Standing]]:
        """person → tile id → what stands, of all tiles, those included that no longer exist."""
        return standing(self.answers.rows())

    def joined(self) -> Joined:
        """One label a tile of those that exist, from everybody's answers."""
        there = {
            person: {tile: label for tile, label in own.items() if tile in self.place}
            for person, own in told(self.standing()).items()
        }
        return joined(there)

    def agreements(self) -> list[Agreement]:
        """How far each two people agree, on tiles that are still there."""
        everyone = told(self.standing())
        return agreements({who: {t: one for t, one in own.items() if t in self.place} for who, own in everyone.items()})

    def gone(self) -> list[str]:
        """Ids of tiles that were answered and no longer exist: their answers are kept, and left out of everything."""
        return sorted({tile for own in self.standing().values() for tile in own if tile not in self.place})

    # ---- answering

    def answer(self, act: str, person: str, tiles: Sequence[str], kind: Kind, label: str, note: str | None) -> None:
        """Keep one person's word on tiles. Raises DatasetError for an unknown tile or class, OutputError for a full
        disk."""
        for tile in tiles:
            if tile not in self.place or not self.tiles.asked[self.place[tile]]:
                raise DatasetError(f"there is no tile {tile!r} to label; reload the page")
        if kind == "class" and label not in self.tiles.scheme.names:
            raise DatasetError(f"there is no class {label!r}; choose one of {', '.join(self.tiles.scheme.names)}")
        self.answers.add(act, person, tiles, kind, label if kind == "class" else "", note)

    def suggestion(self, tile: str) -> Suggestion:
        """What the head, and the data, say of a tile. For the page after the answer only, unless asked otherwise."""
        at, learned, names = self.place[tile], self.learner.learned, self.tiles.scheme.names
        known = None if self.tiles.known[at] == UNKNOWN else names[int(self.tiles.known[at])]
        if learned is None:
            return Suggestion(None, None, known)
        row = learned.probabilities[at]
        return Suggestion(names[int(row.argmax())], float(row.max()), known)

    def retrain(self) -> Retrained:
        """Fit the head to the labels so far. Raises DatasetError."""
        return self.learner.retrain(labels_of(self.tiles, self.joined().labels, self.learns == "all"))

    # ---- the queue

    def queue(self, person: str, order: OrderName, second: bool = False) -> list[int]:
        """The positions that `person` has not answered, the next first.

        Tiles that others have labelled come last, with `second` first, to measure agreement; what the person skipped
        comes after everything else."""
        found = self.standing()
        own = found.get(person, {})
        others = {tile for who, theirs in told(found).items() if who != person for tile in theirs}
        skipped = {tile for tile, one in own.items() if one.skipped}
        ids = self.tiles.ids
        waiting = [k for k in self._ordered(order) if ids[k] not in own or not own[ids[k]].label]

        def rank(k: int) -> tuple[bool, bool]:
            return ids[k] in skipped, (ids[k] in others) != second

        return sorted(waiting, key=rank)

    def _ordered(self, order: OrderName) -> list[int]:
        at = self.tiles.positions
        learned = self.learner.learned
        if order == "design":
            return design_order(self.tiles, at.tolist())
        if learned is None:
            return self._start()
        rows = learned.probabilities[at]
        chosen = least_certain_first(rows) if order == "uncertain" else disagreement_first(rows, self._labels()[at])
        return [int(k) for k in at[chosen]]

    def _labels(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """(N,) what is held to be each tile's class: what people said, else the data's own label, else UNKNOWN."""
        labels = self.tiles.known.copy()
        found = self.joined()
        index = {name: k for k, name in enumerate(self.tiles.scheme.names)}
        for tile, label in found.labels.items():
            labels[self.place[tile]] = index.get(label, UNKNOWN)
        for tile in found.mixed | found.apart:
            labels[self.place[tile]] = UNKNOWN
        return labels

    def _start(self) -> list[int]:
        """The order before there is a head: spread over the features once these are known, until then at random."""
        at, points = self.tiles.positions, self.learner.points
        if points is None:
            return [int(k) for k in np.random.default_rng(0).permutation(at)]
        if self._spread is None:
            many = SPREAD * len(self.tiles.scheme)
            self._spread = [int(k) for k in at[spread_first(points[at, 0], min(many, len(at) - 1))]]
        return self._spread
