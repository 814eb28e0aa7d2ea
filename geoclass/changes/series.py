"""Results of several dates on the same ground, joined by permanent tile id."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ChangeError
from ..grid import IntArray, TileGrid, TileRange, bounding_range
from ..labels import FloatArray, Labels
from ..schemes import ClassScheme

Truths = npt.NDArray[np.bool_]

DATE = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?")
DAYS_PER_YEAR = 365.2425


@dataclass(frozen=True)
class Source:
    """Where a date's labels come from: the result's GeoPackage (None for one in memory) and what it says of itself."""

    path: Path | None
    info: Mapping[str, Any]


@dataclass(frozen=True)
class Uncovered:
    """M tiles that some date lacks. columns, rows: (M,); covered: (M, T) which dates have them."""

    columns: IntArray
    rows: IntArray
    covered: Truths

    def __len__(self) -> int:
        return len(self.columns)


@dataclass(frozen=True)
class Series:
    """T results, oldest first, on the N tiles that every date covers, sorted from the north-west, line by line.

    dates: as text, `2016` or `2016-07-14`, each later than the one before; probabilities: (N, T, K) in the scheme's
    order, as the models gave them; valid_fraction: (N, T) share of a tile's pixels with data; built, open: names of the
    built-up classes and of those that can become so; warnings: sentences that every output repeats.
    """

    grid: TileGrid
    scheme: ClassScheme
    dates: tuple[str, ...]
    columns: IntArray
    rows: IntArray
    probabilities: FloatArray
    valid_fraction: FloatArray
    sources: tuple[Source, ...]
    uncovered: Uncovered
    built: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def tile_ids(self) -> list[str]:
        return self.grid.tile_ids(self.columns, self.rows)

    @property
    def range(self) -> TileRange:
        """The smallest range of tiles that holds all of these."""
        return bounding_range(self.columns, self.rows)

    @property
    def classes(self) -> npt.NDArray[np.intp]:
        """(N, T) position in the scheme of each date's most probable class, as classified date by date."""
        return np.asarray(self.probabilities.argmax(axis=2))

    @cached_property
    def years(self) -> npt.NDArray[np.float64]:
        """(T,) the dates as decimal years; a year alone is its middle."""
        return np.array([decimal_year(date) for date in self.dates])

    @property
    def areas_m2(self) -> npt.NDArray[np.float64]:
        """(N,) ground of each tile that counts: its area less the share without data on the worst-covered date."""
        return np.asarray(self.valid_fraction.min(axis=1) * self.grid.tile_area_m2, np.float64)

    def members(self, names: Sequence[str]) -> Truths:
        """(K,) which classes of the scheme are called one of `names`."""
        return np.isin(np.asarray(self.scheme.names), list(names))

    def image(self, values: npt.NDArray[Any], fill: float = 0) -> npt.NDArray[Any]:
        """Per-tile `values` (N, …) laid out as an image (rows, columns, …) over `range`, north up, else `fill`."""
        tiles = self.range
        canvas = np.full((tiles.rows, tiles.columns, *values.shape[1:]), fill, dtype=values.dtype)
        canvas[tiles.top - 1 - self.rows, self.columns - tiles.left] = values
        return canvas

    def labels_at(self, date: int, probabilities: FloatArray | None = None) -> Labels:
        """The Labels of one date on the common tiles, with other `probabilities` (N, K) where given."""
        chosen = self.probabilities[:, date] if probabilities is None else probabilities
        info = {**self.sources[date].info, "date": self.dates[date]}
        return Labels(self.grid, self.scheme, self.columns, self.rows, chosen, self.valid_fraction[:, date], None, info)


def align(
    results: Sequence[Labels],
    *,
    paths: Sequence[Path] = (),
    dates: Sequence[str] = (),
    group: ClassScheme | None = None,
    built: Sequence[str] = (),
) -> Series:
    """Join results of two and more dates by tile id.

    dates: one for each result, in place of their own; group: a coarser scheme to bring all of them to; built: the
    built-up classes, in place of the scheme's. Results of different models are joined with a warning. Raises
    ChangeError for one result, dates that are missing, equal or not in order, schemes or grids that differ, and no
    common tile.
    """
    if len(results) < 2:
        raise ChangeError(f"change needs the results of two dates or more, and {len(results)} was named; add another")
    names = [str(path) for path in paths] or [str(r.info.get("name") or n) for n, r in enumerate(results, 1)]
    days = _dates(results, names, dates)
    own = [labels.unsmoothed() for labels in results]
    found = [regrouped(labels, group) for labels in own] if group else own
    _require_alike(found, names)
    scheme = found[0].scheme
    built_up, open_ = _groups(scheme, built)
    columns, rows, covered, places = _join(found)
    both = covered.all(axis=1)
    if not both.any():
        raise ChangeError(f"{' and '.join(names)} have no tile in common; give results of the same ground")
    at = places[both]
    if not any(r.valid_fraction[at[:, t]].any() for t, r in enumerate(found)):
        raise ChangeError(f"the tiles of {' and '.join(names)} hold no data; classify them again")
    return Series(
        grid=found[0].grid,
        scheme=scheme,
        dates=days,
        columns=columns[both],
        rows=rows[both],
        probabilities=np.stack([_unit(r.probabilities[at[:, t]]) for t, r in enumerate(found)], axis=1),
        valid_fraction=np.stack([r.valid_fraction[at[:, t]] for t, r in enumerate(found)], axis=1),
        sources=tuple(Source(Path(paths[t]) if paths else None, labels.info) for t, labels in enumerate(results)),
        uncovered=Uncovered(columns[~both], rows[~both], covered[~both]),
        built=built_up,
        open=open_,
        warnings=tuple(_warnings(found, names, days, covered)),
    )


def decimal_year(date: str) -> float:
    """`2016` → 2016.5, `2016-07` → the middle of July, `2016-07-14` → 2016.53. Raises ChangeError for anything else."""
    parts = DATE.fullmatch(date)
    try:
        if parts is None:
            raise ValueError
        year = np.datetime64(parts[1], "D")
        if parts[2] is None:
            return int(parts[1]) + 0.5
        day = np.datetime64(date, "D") + (0 if parts[3] else 15)
    except ValueError:
        raise ChangeError(f"{date!r} is no date; give one as 2016, 2016-07 or 2016-07-14") from None
    return int(parts[1]) + float((day - year).astype(int)) / DAYS_PER_YEAR


def _dates(results: Sequence[Labels], names: Sequence[str], given: Sequence[str]) -> tuple[str, ...]:
    if given and len(given) != len(results):
        raise ChangeError(f"{len(given)} dates for {len(results)} results; give --date once for each, in their order")
    found = list(given) or [str(labels.info.get("date") or "") for labels in results]
    for name, date in zip(names, found, strict=True):
        if not date:
            raise ChangeError(f"{name} has no date; give --date once for each result, or classify with --date")
    years = [decimal_year(date) for date in found]
    for k in range(len(found) - 1):
        if years[k] == years[k + 1]:
            raise ChangeError(
                f"{names[k]} and {names[k + 1]} are both of {found[k]}; name results of different dates, or give --date "
                "for each"
            )
        if years[k] > years[k + 1]:
            raise ChangeError(
                f"{names[k]} ({found[k]}) comes before {names[k + 1]} ({found[k + 1]}); name the oldest first"
            )
    return tuple(found)


def regrouped(labels: Labels, coarse: ClassScheme) -> Labels:
    """The labels in a coarser scheme, the probabilities of each class's `members` added up. Raises ChangeError."""
    if labels.scheme.names == coarse.names:
        return labels
    parents = {member: place for place, item in enumerate(coarse.classes) for member in item.members}
    lost = [name for name in labels.scheme.names if name not in parents]
    if lost:
        raise ChangeError(
            f"scheme {coarse.name!r} does not say where class {lost[0]!r} of {labels.scheme.name!r} belongs; give "
            "another --group, or add it to the members of one of its classes"
        )
    merged = np.zeros((len(labels), len(coarse)), np.float32)
    np.add.at(merged.T, [parents[name] for name in labels.scheme.names], labels.probabilities.T)
    return replace(labels, scheme=coarse, probabilities=merged)


def _require_alike(results: Sequence[Labels], names: Sequence[str]) -> None:
    first = results[0]
    for labels, name in zip(results[1:], names[1:], strict=True):
        if labels.scheme.names != first.scheme.names:
            raise ChangeError(
                f"{name} has the classes of scheme {labels.scheme.name!r} and {names[0]} those of "
                f"{first.scheme.name!r}; classify both with one model, or name a common --group"
            )
        if labels.grid.prefix != first.grid.prefix or labels.grid.size_px != first.grid.size_px:
            raise ChangeError(
                f"{name} has tiles of {labels.grid.size_px} px ({labels.grid.prefix}) and {names[0]} of "
                f"{first.grid.size_px} px ({first.grid.prefix}); classify both with the same --size, --gsd and --crs"
            )


def _groups(scheme: ClassScheme, built: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Built-up classes, and those that can become so: the scheme's `open`, or all but built-up and water."""
    names = tuple(scheme.names[scheme.index(name)] for name in built) or tuple(scheme.groups.get("built", ()))
    if not names:
        raise ChangeError(
            f"scheme {scheme.name!r} does not say which classes are built-up; name them with --built, from "
            f"{', '.join(scheme.names)}"
        )
    others = tuple(name for name in scheme.names if name not in names and name not in scheme.groups.get("water", ()))
    open_ = tuple(name for name in scheme.groups.get("open", ()) if name not in names) or others
    if not open_:
        raise ChangeError(f"every class is built-up ({', '.join(names)}); name fewer with --built")
    return names, open_


def _join(results: Sequence[Labels]) -> tuple[IntArray, IntArray, Truths, IntArray]:
    """All tiles of any date, north-west first: columns, rows, (M, T) which dates have them, and where there."""
    # A number of each place that rises from the north-west, line by line: one number sorts far quicker than a pair.
    left, right = min(int(r.columns.min()) for r in results), max(int(r.columns.max()) for r in results)
    top, width = max(int(r.rows.max()) for r in results), right - left + 1
    keys = [(top - r.rows) * width + (r.columns - left) for r in results]
    union = np.unique(np.concatenate(keys))
    covered = np.zeros((len(union), len(results)), bool)
    places = np.zeros((len(union), len(results)), np.int64)
    for t, own in enumerate(keys):
        at = np.searchsorted(union, own)
        covered[at, t], places[at, t] = True, np.arange(len(own))
    return union % width + left, top - union // width, covered, places


def _unit(probabilities: FloatArray) -> FloatArray:
    """Rows that sum to 1: those of a half-precision run are rounded."""
    return np.asarray(probabilities / probabilities.sum(axis=1, keepdims=True), np.float32)


def _warnings(results: Sequence[Labels], names: Sequence[str], dates: Sequence[str], covered: Truths) -> list[str]:
    said = []
    missing = int((~covered.all(axis=1)).sum())
    if missing:
        each = ", ".join(f"{int(covered[:, t].sum()):,} in {date}" for t, date in enumerate(dates))
        said.append(
            f"{missing:,} of {len(covered):,} tiles are not covered on every date ({each}) and are left out of every figure"
        )
    if len({labels.info.get("bundle") for labels in results}) > 1:
        said.append("the dates were classified by different models: differences between models look like change")
    if len({labels.info.get("sensor") for labels in results}) > 1:
        said.append("the dates are of different sensors: differences between sensors look like change")
    if any(labels.info.get("synthetic") for labels in results):
        said.append("synthetic imagery: nothing here is a real place")
    return said
