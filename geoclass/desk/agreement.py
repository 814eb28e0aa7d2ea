"""Where people agree: one label a tile from the answers of several, and how far each two of them agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ..areas.answers import Agreement, agreement_of
from .answers import MIXED_LABEL


@dataclass(frozen=True)
class Joined:
    """Labels of tiles by majority. labels: tile → class; mixed: tiles that most call mixed; apart: tiles on which no
    answer has the most votes; people: tile → how many answered."""

    labels: dict[str, str]
    mixed: frozenset[str]
    apart: frozenset[str]
    people: dict[str, int]


def joined(told: Mapping[str, Mapping[str, str]]) -> Joined:
    """Join person → tile → class or MIXED_LABEL by majority."""
    votes: dict[str, Counter[str]] = {}
    for own in told.values():
        for tile, label in own.items():
            votes.setdefault(tile, Counter())[label] += 1
    labels, mixed, apart = {}, set(), set()
    for tile, count in votes.items():
        ranked = count.most_common(2)
        if len(ranked) > 1 and ranked[0][1] == ranked[1][1]:
            apart.add(tile)
        elif ranked[0][0] == MIXED_LABEL:
            mixed.add(tile)
        else:
            labels[tile] = ranked[0][0]
    people = {tile: count.total() for tile, count in votes.items()}
    return Joined(labels, frozenset(mixed), frozenset(apart), people)


def agreements(told: Mapping[str, Mapping[str, str]]) -> list[Agreement]:
    """Each two people who labelled tiles in common: Cohen's kappa over classes, `mixed` being one of them."""
    return list(agreement_of(told))
