"""What reference labels say of each tile, the rules that make a class of it, and what labels' codes and names mean."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..errors import DatasetError
from ..grid import IntArray
from ..schemes import ClassScheme, class_position, load_scheme

MIN_PURITY = 0.6
MIN_LABELLED = 0.5
Ignore = Literal["all"] | Collection[str | int]
"""Codes or names to leave out as if unlabelled; `all` leaves out every one outside the scheme."""
UNLABELLED = -1
"""The class position of a tile without a class."""


@dataclass(frozen=True)
class TileFractions:
    """What the reference labels say of N tiles, over the K classes of a scheme.

    fractions: (N, K) share of the tile's area in each class (of points: share of its points); labelled: (N,) share of
    the tile's area that carries any class, the sum of its fractions; nine_points: (N,) class position where the centres
    of a 3 × 3 division of the tile all carry that class, else -1. `points` (N,) counts the points of each tile where the
    labels are points, and is None otherwise. `ignored` gives what was left out as asked: code or name → share of the
    labelled ground (of points: of the points).
    """

    fractions: npt.NDArray[np.float32]
    labelled: npt.NDArray[np.float32]
    nine_points: IntArray
    points: IntArray | None = None
    ignored: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labelled)

    @property
    def purity(self) -> npt.NDArray[np.float32]:
        """(N,) share of the commonest class in the labelled ground of each tile; 0 where nothing is labelled.

        How much of a tile is labelled at all is another matter, which `majority` asks for by `min_labelled`.
        """
        return np.asarray(self.soft.max(axis=1), np.float32)

    @property
    def soft(self) -> npt.NDArray[np.float32]:
        """(N, K) soft labels: the fractions divided by their sum; all 0 where nothing is labelled."""
        total = self.fractions.sum(axis=1, keepdims=True, dtype=np.float64)
        soft = np.divide(self.fractions, total, out=np.zeros(self.fractions.shape), where=total > 0)
        return np.asarray(soft, np.float32)

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence on what was left out as asked."""
        told = ", ".join(f"{key} ({share:.1%})" for key, share in self.ignored.items())
        return (f"Left out of the labels as asked: {told}.",) if told else ()

    def majority(self, min_purity: float = MIN_PURITY, min_labelled: float = MIN_LABELLED) -> IntArray:
        """(N,) position of the commonest class, or -1 where purity or `labelled` is below its least value.

        Ties go to the earlier class of the scheme. Raises DatasetError where a threshold is no share from 0 to 1.
        """
        for name, value in (("min-purity", min_purity), ("min-labelled", min_labelled)):
            if not 0 <= value <= 1:
                raise DatasetError(f"{name} is {value}; give a share from 0 to 1")
        # Single precision: 0.6 stored as float32 is a little more than 0.6, 0.7 a little less.
        sure = (self.purity >= min_purity - 1e-6) & (self.labelled >= min_labelled - 1e-6) & (self.labelled > 0)
        return np.where(sure, self.fractions.argmax(axis=1), UNLABELLED).astype(np.int64)


def code_positions(scheme: ClassScheme) -> dict[int, int]:
    """Source code → class position.

    A scheme without codes that groups another takes the codes (else the ids) of the classes it groups; one that stands
    alone is read by its own ids. Raises ConfigError where the base is unknown.
    """
    own = {code: position for position, item in enumerate(scheme.classes) for code in item.codes}
    if own:
        return own
    if scheme.base is None:
        return {number: position for position, number in enumerate(scheme.ids)}
    base = load_scheme(scheme.base)
    groups = _group_of(scheme, base)
    return {code: groups[position] for code, position in code_positions(base).items() if position in groups}


def name_position(scheme: ClassScheme, name: str) -> int | None:
    """Position of the class that `name` means: its own name, one that its scheme groups, or a code written as text."""
    position = class_position(scheme, name)
    if position is None and scheme.base is not None:
        base = load_scheme(scheme.base)
        inner = name_position(base, name)
        position = None if inner is None else _group_of(scheme, base).get(inner)
    if position is None:
        try:
            number = float(name)
        except ValueError:
            return None
        position = code_positions(scheme).get(int(number)) if number.is_integer() else None
    return position


def _group_of(scheme: ClassScheme, base: ClassScheme) -> dict[int, int]:
    """Position in the base → position in the scheme that groups it."""
    return {base.index(member): place for place, item in enumerate(scheme.classes) for member in item.members}


def refuse_unknown(path: object, scheme: ClassScheme, shares: Mapping[str, float], what: str, ignore: Ignore) -> None:
    """Raise DatasetError where labels hold codes or names (`what`) outside the scheme that are not to be ignored.

    `shares` gives each one's share of the labels.
    """
    refused = {key: share for key, share in shares.items() if not ignored(ignore, key)}
    if not refused or ignore == "all":
        return
    ordered = sorted(refused.items(), key=lambda item: -item[1])
    listed = ", ".join(f"{key} ({share:.2%})" for key, share in ordered[:8])
    more = f" and {len(ordered) - 8} more" if len(ordered) > 8 else ""
    raise DatasetError(
        f"{path} holds {what} outside the scheme {scheme.name!r}: {listed}{more} of the labels; "
        "give another --scheme, or leave them out with --ignore-codes"
    )


def ignored(ignore: Ignore, key: object) -> bool:
    """Whether `ignore` lists this code or name, so that it is left out even where it is of the scheme."""
    return ignore != "all" and str(key) in {str(item) for item in ignore}


def unanimous(places: IntArray, classes: int) -> IntArray:
    """(n,) the class position that all of (n, 9) agree on, else -1; positions from 0 to `classes` - 1 are classes."""
    agree = (places == places[:, :1]).all(axis=1) & (places[:, 0] >= 0) & (places[:, 0] < classes)
    return np.where(agree, places[:, 0], UNLABELLED).astype(np.int64)


def no_overlap(path: object) -> DatasetError:
    """The error for labels that say nothing of the tiles."""
    return DatasetError(
        f"{path} labels no ground of the tiles: it lies elsewhere or has no data there; "
        "give labels of the same place, and check that their CRS is right"
    )
