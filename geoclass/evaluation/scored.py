"""One model's answers on a set of tiles with known truth, and the same answers for fewer tiles or coarser classes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from ..configs import config_names
from ..errors import EvaluationError
from ..schemes import ClassScheme, LandClass, load_scheme
from . import metrics
from .metrics import Doubles, Ints, Truths

SUM_SLACK = 1e-2
"""How far a tile's probabilities may be from a sum of 1: those of a half-precision run are rounded."""
OTHER = "Other"

SPLITS = {
    "blocks": "The test tiles lie in square blocks of ground that training did not see.",
    "by-scene": "The test tiles come from scenes that training did not see.",
    "by-field": "The test tiles come from counties, years or other groups that training did not see.",
    "random": "The test tiles were drawn at random from the same ground as the training tiles. Neighbouring tiles look "
    "alike, so the figures flatter the model: expect less on ground it has not seen.",
}


@dataclass(frozen=True)
class Scored:
    """One model's answers on one set of N tiles, and the truth.

    keys: tile ids or file names, each once; truth: (N,) positions in `scheme`; probabilities: (N, K) in its order, rows
    sum to 1 within 1 % and are made to sum to 1. Optional: x_m, y_m (N,) tile centres in metres of `crs`; purity (N,)
    the share of the tile that its class covers, 0–1; blocks (N,) the block of ground of each tile; train_positions
    (M, 2) centres of the training tiles in the same CRS; split: how the tiles were chosen, a key of SPLITS or a
    sentence; bundle: the model file's digest; notes: sentences for the reader. Raises EvaluationError where these do not
    fit together.
    """

    keys: tuple[str, ...]
    truth: Ints
    probabilities: npt.NDArray[Any]
    scheme: ClassScheme
    model: str = "model"
    bundle: str = ""
    split: str = ""
    blocks: Ints | None = None
    purity: npt.NDArray[Any] | None = None
    x_m: npt.NDArray[Any] | None = None
    y_m: npt.NDArray[Any] | None = None
    crs: str = ""
    train_positions: npt.NDArray[Any] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require_sound(self)
        values = np.asarray(self.probabilities, np.float64)
        object.__setattr__(self, "probabilities", values / values.sum(axis=1, keepdims=True))
        object.__setattr__(self, "keys", tuple(self.keys))

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def predicted(self) -> Ints:
        """(N,) position of the most probable class; ties go to the earlier class."""
        return np.asarray(self.probabilities.argmax(axis=1))

    @property
    def confidence(self) -> Doubles:
        """(N,) the probability of the most probable class."""
        return np.asarray(self.probabilities.max(axis=1))

    @property
    def right(self) -> Truths:
        """(N,) whether the most probable class is the true one."""
        return np.asarray(self.predicted == self.truth)

    @property
    def block_numbers(self) -> Ints:
        """(N,) the block of each tile; where blocks are not known, each tile is its own."""
        return np.arange(len(self)) if self.blocks is None else np.asarray(self.blocks)

    @property
    def train_distance_m(self) -> float:
        """Median distance from a tile's centre to the nearest training tile's, NaN where places are not known."""
        if self.x_m is None or self.y_m is None or self.train_positions is None or not len(self.train_positions):
            return math.nan
        distances, _ = cKDTree(self.train_positions).query(np.stack([self.x_m, self.y_m], axis=1))
        return float(np.median(distances))


def _require_sound(scored: Scored) -> None:
    count, classes, name = len(scored.keys), len(scored.scheme), scored.model
    if not count:
        raise EvaluationError(f"{name} has no test tile to be scored on; check the labels, or the split")
    if len(set(scored.keys)) < count:
        raise EvaluationError(f"a test tile of {name} comes twice; give every tile once")
    if scored.probabilities.shape != (count, classes):
        raise EvaluationError(
            f"{name} gives probabilities of shape {scored.probabilities.shape} for {count} tiles of {classes} classes "
            f"(scheme {scored.scheme.name!r}); score it with the scheme it was trained for"
        )
    if not np.isfinite(scored.probabilities).all() or np.abs(scored.probabilities.sum(axis=1) - 1).max() > SUM_SLACK:
        raise EvaluationError(f"{name} gives values that are no probabilities; the bundle is damaged, train it again")
    for column in ("truth", "blocks", "purity", "x_m", "y_m"):
        values = getattr(scored, column)
        if values is not None and np.shape(values) != (count,):
            raise EvaluationError(
                f"{column} of {name} has shape {np.shape(values)} for {count} tiles; give one value a tile"
            )
    if (scored.x_m is None) != (scored.y_m is None):
        raise EvaluationError(f"{name} has one of x_m and y_m; give both or neither")
    if np.min(scored.truth) < 0 or np.max(scored.truth) >= classes:
        raise EvaluationError(
            f"the truth of {name} holds classes outside scheme {scored.scheme.name!r}; label the tiles with this scheme"
        )


def take(scored: Scored, chosen: npt.NDArray[Any]) -> Scored:
    """The tiles of `scored` at positions `chosen` (an index or mask array), in that order."""
    positions = np.arange(len(scored))[chosen]
    columns: dict[str, Any] = {
        name: getattr(scored, name) for name in ("truth", "probabilities", "blocks", "purity", "x_m", "y_m")
    }
    cut: dict[str, Any] = {
        name: None if values is None else np.asarray(values)[positions] for name, values in columns.items()
    }
    return dataclasses.replace(scored, keys=tuple(scored.keys[k] for k in positions), **cut)


# ---- coarser classes


def groupings_of(scheme: ClassScheme) -> tuple[ClassScheme, ...]:
    """Coarser schemes for `scheme`: the shipped ones that group it, then its own groups (built, open, water), where
    these put every class into one group at most; classes in no group become Other."""
    shipped = [load_scheme(name) for name in config_names("schemes")]
    based = [coarse for coarse in shipped if coarse.base == scheme.name and _covers(coarse, scheme.names)]
    own = _own_groups(scheme)
    return (*based, own) if own is not None else tuple(based)


def _covers(coarse: ClassScheme, names: Sequence[str]) -> bool:
    return set(names) <= {member for item in coarse.classes for member in item.members}


def _own_groups(scheme: ClassScheme) -> ClassScheme | None:
    groups = {group: members for group, members in scheme.groups.items() if members}
    grouped = [name for members in groups.values() for name in members]
    rest = tuple(name for name in scheme.names if name not in grouped)
    if rest and OTHER.lower() not in {group.lower() for group in groups}:
        groups[OTHER] = rest
    if len(set(grouped)) < len(grouped) or not 2 <= len(groups) < len(scheme):
        return None
    return ClassScheme(
        name=f"{scheme.name}-groups",
        title=f"Groups of {scheme.name}",
        base=scheme.name,
        classes=tuple(
            LandClass(
                id=number,
                name=group[:1].upper() + group[1:],
                colour=scheme.classes[scheme.index(members[0])].colour,
                members=tuple(members),
            )
            for number, (group, members) in enumerate(groups.items(), start=1)
        ),
    )


def regroup(scored: Scored, coarse: ClassScheme) -> Scored:
    """`scored` in the classes of `coarse`, whose classes list the `members` they are made of; probabilities add up.

    Purity is left out, for it is that of the finer class. Raises EvaluationError where a class belongs to none.
    """
    parents = {member: place for place, item in enumerate(coarse.classes) for member in item.members}
    lost = [name for name in scored.scheme.names if name not in parents]
    if lost:
        raise EvaluationError(
            f"scheme {coarse.name!r} does not say where class {lost[0]!r} of {scored.scheme.name!r} belongs; "
            "add it to the members of one of its classes"
        )
    parent = np.array([parents[name] for name in scored.scheme.names])
    truth, merged = metrics.merge_classes(scored.truth, scored.probabilities, parent, len(coarse))
    return dataclasses.replace(scored, truth=truth, probabilities=merged, scheme=coarse, purity=None)
