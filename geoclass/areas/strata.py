"""The list a sample is drawn from: every tile of a map, its stratum, and the line of the legend the map gives it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyogrio

from ..changes.posterior import ARROW, KINDS, Change
from ..changes.series import Series
from ..changes.stored import read_change
from ..errors import ChangeError
from ..grid import IntArray, TileGrid, slices
from ..labels import Labels
from ..outputs.changevector import LAYER as CHANGE_LAYER
from ..outputs.style import LAYER
from ..results import read_result
from ..schemes import ClassScheme

Doubles = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

StrataBy = Literal["new_built", "transition", "kind", "class"]
STRATA_BY: tuple[str, ...] = get_args(StrataBy)

NEW_BUILT, OTHER_CHANGE, POSSIBLE = "New built-up", "Other change", "Possibly new built-up"
OTHER_NEW_BUILT = "Other new built-up"
STABLE_BUILT, STABLE_OPEN, STABLE_OTHER = "Stable built-up", "Stable open land", "Stable other"
POSSIBLE_FROM = 0.1
"""Tiles at least this probably new built-up, though not called so, are a stratum of their own. Most of what a map misses
is there, and a missed tile in a small stratum widens the interval far less than one that stands for half the county
(Olofsson et al. 2020, Remote Sensing of Environment 236:111492)."""
RARE_TILES = 10
"""Transitions, and the stratum `Possibly new built-up`, with fewer tiles are not strata of their own."""
LEAST_DOUBT = 0.005
"""No expectation is surer than this, however sure the map's own probabilities are."""


@dataclass(frozen=True)
class Legend:
    """K lines that map and truth are compared on. table: the line of each class, (C,), or of each pair of classes on the
    first and the last date, (C, C)."""

    names: tuple[str, ...]
    table: npt.NDArray[np.int64]

    def lines(self, classes: npt.NDArray[Any]) -> Places:
        """(n,) positions in `names` of tiles whose `classes` are (n,), or (n, T) on T dates."""
        if self.table.ndim == 1:
            return np.asarray(self.table[classes.reshape(len(classes))], np.intp)
        return np.asarray(self.table[classes[:, 0], classes[:, -1]], np.intp)


@dataclass(frozen=True)
class Frame:
    """All N tiles of a map, north-west first, line by line.

    dates: of a change map, else empty; classes: (N, T) most probable class on each date, T = 1 without dates; new_built:
    (N,) what the map calls newly built-up; ground_ha: (N,) ground with data; stratum: (N,) positions in `strata`;
    lines: (N,) positions in `legend`; beliefs: (N, K) how probable the map itself holds each line; said: sentences that
    the map has about itself.
    """

    grid: TileGrid
    scheme: ClassScheme
    dates: tuple[str, ...]
    built: tuple[str, ...]
    open: tuple[str, ...]
    columns: IntArray
    rows: IntArray
    classes: Places
    new_built: npt.NDArray[np.bool_]
    ground_ha: Doubles
    by: StrataBy
    strata: tuple[str, ...]
    stratum: Places
    legend: Legend
    lines: Places
    beliefs: Doubles
    said: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.columns)

    @cached_property
    def tile_ids(self) -> list[str]:
        return self.grid.tile_ids(self.columns, self.rows)

    @property
    def tiles(self) -> IntArray:
        """(H,) number of tiles of each stratum."""
        return np.bincount(self.stratum, minlength=len(self.strata)).astype(np.int64)

    @property
    def areas_ha(self) -> Doubles:
        """(H,) ground of each stratum."""
        return np.asarray(np.bincount(self.stratum, weights=self.ground_ha, minlength=len(self.strata)), np.float64)

    @property
    def weights(self) -> Doubles:
        """(H,) share of each stratum in all ground."""
        areas = self.areas_ha
        return np.asarray(areas / areas.sum())

    @property
    def new_lines(self) -> Places:
        """Positions in `legend` of new built-up land; none for one map."""
        if not self.dates:
            return np.zeros(0, np.intp)
        built, open_ = (np.isin(np.asarray(self.scheme.names), names) for names in (self.built, self.open))
        return np.unique(self.legend.table[np.ix_(open_, built)]).astype(np.intp)

    @cached_property
    def digest(self) -> str:
        """What stays the same as long as every tile keeps its stratum, legend line, classes and ground."""
        found = hashlib.blake2b(
            json.dumps([self.strata, self.legend.names, self.scheme.names]).encode(), digest_size=16
        )
        for values in (self.stratum, self.lines, self.classes, self.new_built, np.rint(self.ground_ha * 1e4)):
            found.update(np.ascontiguousarray(values, dtype="<i8").tobytes())
        for part in slices(len(self)):
            ids = self.grid.tile_ids(self.columns[part], self.rows[part])
            found.update(("\n" * (part.start > 0) + "\n".join(ids)).encode())
        return found.hexdigest()


def read_frame(path: Path, by: StrataBy | None = None) -> Frame:
    """The sampling frame of a change map (layer `change`) or of a result of `geoclass classify` (layer `landcover`).

    by: what the strata are; for a change map `new_built` unless given, for one map always `class`. Raises ChangeError
    or OutputError for a file that is neither, or damaged, and for strata that it cannot have.
    """
    advice = "name the change.gpkg of geoclass change, or the .gpkg of geoclass classify"
    if not path.is_file():
        raise ChangeError(f"there is no file {path}; {advice}")
    try:
        layers = [str(name) for name, _ in pyogrio.list_layers(path)]
    except pyogrio.errors.DataSourceError as error:
        raise ChangeError(f"{path} cannot be read: {str(error).split(';')[0].rstrip('.')}; {advice}") from error
    if CHANGE_LAYER in layers:
        return frame_of_change(read_change(path), by or "new_built")
    if LAYER not in layers:
        raise ChangeError(f"{path} has no layer {CHANGE_LAYER!r} or {LAYER!r}; {advice}")
    if by not in (None, "class"):
        raise ChangeError(
            f"{path} is a map of one date, whose strata are its classes, not {by}; name the "
            "change.gpkg that is meant, or leave out --strata"
        )
    return frame_of_labels(read_result(path))


def frame_of_labels(labels: Labels) -> Frame:
    """The sampling frame of one map: its classes are the strata and the legend. Raises ChangeError for no tile."""
    if not len(labels):
        raise ChangeError("the map has no tile to draw; check the area it was made for")
    scheme, classes = labels.scheme, labels.class_index
    strata, stratum = _used(scheme.names, classes)
    return Frame(
        grid=labels.grid,
        scheme=scheme,
        dates=(),
        built=tuple(scheme.groups.get("built", ())),
        open=tuple(scheme.groups.get("open", ())),
        columns=labels.columns,
        rows=labels.rows,
        classes=classes[:, None],
        new_built=np.zeros(len(classes), bool),
        ground_ha=labels.valid_fraction.astype(np.float64) * labels.grid.tile_area_m2 / 1e4,
        by="class",
        strata=strata,
        stratum=stratum,
        legend=Legend(scheme.names, np.arange(len(scheme))),
        lines=classes,
        beliefs=_doubting(labels.probabilities.astype(np.float64)),
        said=("synthetic imagery: nothing here is a real place",) if labels.info.get("synthetic") else (),
    )


def frame_of_change(change: Change, by: StrataBy = "new_built") -> Frame:
    """The sampling frame of a change map.

    by: `new_built`: built-up, open and other land that stays, new built-up land and what may be it, other change;
    `transition`: each class that stays and each transition, rare ones together; `kind`: stable, sustained, endpoint,
    flicker; `class`: the class on the last date. Raises ChangeError for another.
    """
    if by not in STRATA_BY:
        raise ChangeError(f"unknown strata {by!r}; choose from {', '.join(STRATA_BY)}")
    series, classes = change.series, change.classes
    if by == "transition":
        legend = _transitions(series, classes)
        lines = legend.lines(classes)
    else:
        legend = _groups(series)
        lines = _decided(legend, classes, change.new_built)
    strata, stratum = _strata(by, change, legend, lines)
    return Frame(
        grid=series.grid,
        scheme=series.scheme,
        dates=series.dates,
        built=series.built,
        open=series.open,
        columns=series.columns,
        rows=series.rows,
        classes=classes,
        new_built=change.new_built,
        ground_ha=series.areas_m2 / 1e4,
        by=by,
        strata=strata,
        stratum=stratum,
        legend=legend,
        lines=lines,
        beliefs=_beliefs(change, legend, lines),
        said=series.warnings,
    )


def _groups(series: Series) -> Legend:
    """Stable built-up, open and other land (the class is the same on both dates), new built-up, any other change."""
    built, open_ = series.members(series.built), series.members(series.open)
    names = (STABLE_BUILT, STABLE_OPEN, STABLE_OTHER, NEW_BUILT, OTHER_CHANGE)
    table = np.full((len(built), len(built)), names.index(OTHER_CHANGE), np.int64)
    table[open_[:, None] & built[None, :]] = names.index(NEW_BUILT)
    stable = np.select([built, open_], [names.index(STABLE_BUILT), names.index(STABLE_OPEN)], names.index(STABLE_OTHER))
    table[np.diag_indices(len(built))] = stable
    # A scheme without other land has no line for it.
    there = [k for k, name in enumerate(names) if name == OTHER_CHANGE or (table == k).any()]
    return Legend(tuple(names[k] for k in there), np.searchsorted(there, table).astype(np.int64))


def _transitions(series: Series, classes: Places) -> Legend:
    """Every class that stays, every transition with enough tiles, and the rare ones together."""
    classes_ = series.scheme.names
    built, open_ = series.members(series.built), series.members(series.open)
    seen = np.zeros((len(built), len(built)), np.int64)
    np.add.at(seen, (classes[:, 0], classes[:, -1]), 1)
    names = [*classes_]
    table = np.diag(np.arange(len(built)))
    for a, b in zip(*np.nonzero(~np.eye(len(built), dtype=bool)), strict=True):
        name = classes_[a] + ARROW + classes_[b]
        if seen[a, b] < RARE_TILES:
            name = OTHER_NEW_BUILT if open_[a] and built[b] else OTHER_CHANGE
        if name not in names:
            names.append(name)
        table[a, b] = names.index(name)
    return Legend(tuple(names), table)


def _decided(legend: Legend, classes: Places, new_built: npt.NDArray[np.bool_]) -> Places:
    """Lines of the map: its decision on new built-up land comes before its most probable classes."""
    new, other = legend.names.index(NEW_BUILT), legend.names.index(OTHER_CHANGE)
    lines = legend.lines(classes)
    return np.where(new_built, new, np.where(lines == new, other, lines))


def _strata(by: StrataBy, change: Change, legend: Legend, lines: Places) -> tuple[tuple[str, ...], Places]:
    if by == "kind":
        return _used(KINDS, change.kind)
    if by == "class":
        return _used(change.series.scheme.names, change.classes[:, -1])
    if by == "new_built":
        possible = ~change.new_built & (change.p_new_built >= POSSIBLE_FROM)
        if possible.sum() >= RARE_TILES:
            return _used((*legend.names, POSSIBLE), np.where(possible, len(legend.names), lines))
    return _used(legend.names, lines)


def _used(names: Sequence[str], places: Places) -> tuple[tuple[str, ...], Places]:
    """Only the names that some tile has, and the places among them."""
    there, inverse = np.unique(places, return_inverse=True)
    return tuple(names[k] for k in there), np.asarray(inverse, np.intp).reshape(-1)


def _beliefs(change: Change, legend: Legend, lines: Places) -> Doubles:
    """(N, K) how probable each line is, from the chances of any change and of new built-up land.

    A tile's own line has its chance of (no) change, new built-up land its own chance, and what is left is spread over
    the other lines by how much of the map they have.
    """
    names, tiles, classes = legend.names, np.arange(len(lines)), change.classes
    stays = classes[:, 0] == classes[:, -1]
    beliefs = np.zeros((len(lines), len(names)))
    beliefs[tiles, lines] = np.where(stays, 1 - change.p_change, change.p_change)
    if NEW_BUILT in names:
        beliefs[:, names.index(NEW_BUILT)] = change.p_new_built
    share = np.bincount(lines, minlength=len(names)) / len(lines)
    spread = np.where(beliefs > 0, 0, share + LEAST_DOUBT)
    rest = np.maximum(0, 1 - beliefs.sum(axis=1)) / np.maximum(spread.sum(axis=1), LEAST_DOUBT)
    return _doubting(beliefs + spread * rest[:, None])


def _doubting(beliefs: Doubles) -> Doubles:
    """Rows that sum to 1, none surer than `LEAST_DOUBT`: the doubt is spread over all lines by their share."""
    unit = beliefs / beliefs.sum(axis=1, keepdims=True)
    return np.asarray((1 - LEAST_DOUBT) * unit + LEAST_DOUBT * unit.mean(axis=0))
