"""The figures of a trend: per area, class and date the ground it covers, what was won and lost, and where.

Two figures stand side by side. *Mapped* hectares add up the ground of tiles whose most probable class, given all dates,
is the one in question. *Expected* hectares add up probability times ground; they count a doubtful tile in parts and rest
on the model's probabilities being right. Neither has an interval: taking tiles as independent draws would give one that
is far too narrow, because a model errs alike on neighbours and in the same direction on tiles of one look. An interval
comes from a sample looked at by eye (Olofsson et al. 2014), which a Trend carries in `estimate` where there is one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import shapely
from scipy.sparse import csr_array, vstack

from ..errors import ChangeError
from ..schemes import ClassScheme
from .hotspots import Hotspots, find_hotspots
from .places import ALL, POPULATION, overlaps, require_dates, tile_shares
from .posterior import KINDS, Change, Doubles
from .rates import Consumption, Exchange, compound_rate, exchange, land_consumption
from .series import Series

M2_PER_HA = 10_000.0


@dataclass(frozen=True)
class Place:
    """An area of interest. area_ha: of its outline, NaN for the whole ground; covered_ha: ground of it with data on every
    date; tiles: how many tiles share ground with it; people: (T,) at each date, NaN where unknown."""

    name: str
    geometry: shapely.Geometry | None
    area_ha: float
    covered_ha: float
    tiles: int
    people: tuple[float, ...]

    @property
    def covered_share(self) -> float:
        """Part of the outline with data on every date, from 0 to 1."""
        return min(1.0, self.covered_ha / self.area_ha) if self.area_ha > 0 else 1.0


@dataclass(frozen=True)
class Step:
    """From one date to a later one (positions in the dates). matrices: (A, K, K) mapped hectares that went from one class
    (rows) to another (columns) in each place, by the classes of all dates together."""

    before: int
    after: int
    years: float
    matrices: Doubles


@dataclass(frozen=True)
class Ledger:
    """The flicker ledger of a step, in tiles: raw changed class by the labels of single dates; joint by those of all
    dates together; both by both, hence dropped = raw - both is what the joint model takes for flicker."""

    before: int
    after: int
    raw: int
    joint: int
    both: int
    tiles: int

    @property
    def dropped(self) -> int:
        return self.raw - self.both


@dataclass(frozen=True)
class Trend:
    """Figures for A places (the first is the whole ground, `all`), T dates and K classes.

    mapped_ha, expected_ha, single_ha: (A, T, K) hectares by the classes of all dates together, by their probabilities,
    and by each date's labels alone; steps: between consecutive dates, then from the first to the last where there are
    more than two; new_mapped_ha, new_expected_ha, new_single_ha: (A,) newly built-up ground as called, by probability, and
    by the first and the last date's labels alone; new_tiles: tiles called newly built-up; hot_tiles: (A,) tiles of each
    place that are hot spots; ledgers: one a step; kinds: tiles of each of KINDS; hotspots: of p_new_built; estimate: what
    `geoclass estimate` wrote of a sample looked at by eye, or None; warnings: sentences that every output repeats.
    """

    scheme: ClassScheme
    dates: tuple[str, ...]
    years: Doubles
    built: tuple[str, ...]
    places: tuple[Place, ...]
    mapped_ha: Doubles
    expected_ha: Doubles
    single_ha: Doubles
    steps: tuple[Step, ...]
    new_mapped_ha: Doubles
    new_expected_ha: Doubles
    new_single_ha: Doubles
    new_tiles: int
    hot_tiles: npt.NDArray[np.intp]
    ledgers: tuple[Ledger, ...]
    kinds: Mapping[str, int]
    hotspots: Hotspots
    estimate: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = field(default=())

    @property
    def whole(self) -> Step:
        """From the first date to the last."""
        return self.steps[-1]

    @property
    def is_built(self) -> npt.NDArray[np.bool_]:
        """(K,) which classes are built-up."""
        return np.isin(np.asarray(self.scheme.names), self.built)

    @property
    def built_ha(self) -> Doubles:
        """(A, T) mapped hectares of all built-up classes."""
        return np.asarray(self.mapped_ha[:, :, self.is_built].sum(axis=2))

    def shares(self, hectares: Doubles) -> Doubles:
        """`hectares` (A, T, ...) as parts of each place's covered ground; NaN where none is covered."""
        whole = np.array([place.covered_ha for place in self.places])
        whole = whole.reshape(-1, *[1] * (hectares.ndim - 1))
        return np.asarray(np.divide(hectares, whole, out=np.full(hectares.shape, np.nan), where=whole > 0))

    def exchange(self, step: Step) -> Exchange:
        """Gain and loss in hectares of each class in each place, (A, K)."""
        return exchange(step.matrices)

    def built_exchange(self, step: Step) -> Exchange:
        """Gain and loss in hectares of built-up land as a whole in each place, (A,)."""
        built = self.is_built
        return Exchange(
            gain=step.matrices[:, ~built][:, :, built].sum(axis=(1, 2)),
            loss=step.matrices[:, built][:, :, ~built].sum(axis=(1, 2)),
        )

    def growth(self, place: int, step: Step, series: Doubles | None = None) -> float:
        """Compound growth a year of `series` (A, T), built-up land unless told, in a place over a step."""
        values = self.built_ha if series is None else series
        return compound_rate(float(values[place, step.before]), float(values[place, step.after]), step.years)

    def consumption(self, place: int, step: Step) -> Consumption:
        """SDG 11.3.1 of a place over a step, from mapped built-up hectares and its people where known."""
        built, people = self.built_ha[place], self.places[place].people
        pair = (people[step.before], people[step.after])
        known = not np.isnan(pair).any()
        return land_consumption(
            (float(built[step.before]), float(built[step.after])), step.years, pair if known else None
        )


def trend(
    change: Change,
    aois: gpd.GeoDataFrame | None = None,
    populations: Mapping[str, str] | None = None,
    *,
    estimate: Mapping[str, Any] | None = None,
) -> Trend:
    """The figures of `change`, for the whole ground and for each of `aois` (from `places.read_named_aois`).

    populations: date → column of people, read with the areas. A tile on a border counts by its share of area inside.
    Raises ChangeError where no area meets the tiles that every date covers, and for dates or columns that are not there.
    """
    series = change.series
    people = _people(aois, populations or {}, series.dates)
    ground = series.areas_m2 / M2_PER_HA
    unit_ha = series.grid.metres_per_unit**2 / M2_PER_HA
    shapes = [] if aois is None else list(aois.geometry)
    everywhere = csr_array(np.ones((1, len(series))))
    shares = vstack([everywhere, tile_shares(series.grid, series.columns, series.rows, shapes)], format="csr")
    places = _places(shares, ground, aois, unit_ha, people)
    spots = find_hotspots(change.p_new_built, series.columns, series.rows)
    weights = shares.multiply(ground).tocsr()
    shape, kept, alone = (len(series.dates), len(series.scheme)), change.classes, series.classes
    steps = _steps(change, weights)
    return Trend(
        scheme=series.scheme,
        dates=series.dates,
        years=series.years,
        built=series.built,
        places=places,
        mapped_ha=_by_class(weights, shape, lambda t, k: kept[:, t] == k),
        expected_ha=_by_class(weights, shape, lambda t, k: change.posterior[:, t, k]),
        single_ha=_by_class(weights, shape, lambda t, k: alone[:, t] == k),
        steps=steps,
        new_mapped_ha=weights @ change.new_built.astype(np.float64),
        new_expected_ha=weights @ change.p_new_built.astype(np.float64),
        new_single_ha=weights @ _newly_built(series).astype(np.float64),
        new_tiles=int(change.new_built.sum()),
        hot_tiles=np.diff(shares[:, np.flatnonzero(spots.hot)].indptr),
        ledgers=tuple(_ledger(change, step) for step in steps),
        kinds={name: int((change.kind == k).sum()) for k, name in enumerate(KINDS)},
        hotspots=spots,
        estimate=estimate,
        warnings=(*series.warnings, *_area_warnings(aois, places, unit_ha)),
    )


def _people(aois: gpd.GeoDataFrame | None, populations: Mapping[str, str], dates: tuple[str, ...]) -> Doubles:
    """(areas, T) people of each area at each date, NaN where unknown."""
    if populations and aois is None:
        raise ChangeError("--population names columns of an AOI file, and there is none; give one with --aoi")
    require_dates(populations, dates)
    found = np.full((0 if aois is None else len(aois), len(dates)), np.nan)
    for date, column in populations.items():
        name = f"{POPULATION}{column}" if aois is not None and f"{POPULATION}{column}" in aois.columns else column
        if aois is None or name not in aois.columns:
            raise ChangeError(f"the areas have no column {column!r} for the people of {date}; name another one")
        found[:, dates.index(date)] = aois[name].to_numpy(np.float64)
    return found


def _places(
    shares: Any, ground: Doubles, aois: gpd.GeoDataFrame | None, unit_ha: float, people: Doubles
) -> tuple[Place, ...]:
    covered, tiles = shares @ ground, np.diff(shares.indptr)
    unknown = (float("nan"),) * people.shape[1]
    found = [Place(ALL, None, float("nan"), float(covered[0]), int(tiles[0]), unknown)]
    if aois is not None:
        found += [
            Place(
                str(name), shape, shape.area * unit_ha, float(covered[k]), int(tiles[k]), tuple(people[k - 1].tolist())
            )
            for k, (name, shape) in enumerate(zip(aois["name"], aois.geometry, strict=True), start=1)
        ]
    if len(found) > 1 and not any(place.tiles for place in found[1:]):
        raise ChangeError(
            "none of the areas meets a tile that every date covers; check the file given with --aoi, and its CRS"
        )
    return tuple(found)


def _area_warnings(aois: gpd.GeoDataFrame | None, places: tuple[Place, ...], unit_ha: float) -> list[str]:
    if aois is None:
        return []
    said = []
    if all(re.fullmatch(r"area \d+", place.name) for place in places[1:]):
        said.append("the areas are told apart by number only: name the column that holds their names with --aoi-name")
    outside = [place.name for place in places[1:] if not place.tiles]
    if outside:
        said.append(f"no tile that every date covers lies in {', '.join(outside)}: there are no figures for it")
    part = [place for place in places[1:] if place.tiles and place.covered_share < 0.99]
    if part:
        each = ", ".join(f"{place.name} {100 * place.covered_share:.0f} %" for place in part[:5])
        more = f" and {len(part) - 5} more" if len(part) > 5 else ""
        said.append(f"areas not wholly covered on every date ({each}{more}): their figures are of the covered part")
    return said + overlaps(aois, unit_ha)


def _newly_built(series: Series) -> npt.NDArray[np.bool_]:
    """(N,) what comparing the labels of the first and the last date alone would call newly built-up."""
    first, last = series.classes[:, 0], series.classes[:, -1]
    return np.asarray(series.members(series.open)[first] & series.members(series.built)[last])


def _by_class(weights: Any, shape: tuple[int, int], values: Callable[[int, int], npt.NDArray[Any]]) -> Doubles:
    """(A, T, K) hectares: `weights` (A, N) times `values` (N,) of each date and class, one at a time to spare memory."""
    dates, classes = shape
    each = [[weights @ values(t, k).astype(np.float64) for k in range(classes)] for t in range(dates)]
    return np.moveaxis(np.asarray(each, np.float64), 2, 0)


def _steps(change: Change, weights: Any) -> tuple[Step, ...]:
    years, classes, count = change.series.years, change.classes, len(change.series.scheme)
    pairs = [(t, t + 1) for t in range(len(years) - 1)] + ([(0, len(years) - 1)] if len(years) > 2 else [])
    found = []
    for before, after in pairs:
        cell = classes[:, before] * count + classes[:, after]
        moves = csr_array((np.ones(len(cell)), cell, np.arange(len(cell) + 1)), shape=(len(cell), count**2))
        matrices = (weights @ moves).toarray().reshape(-1, count, count)
        found.append(Step(before, after, float(years[after] - years[before]), matrices))
    return tuple(found)


def _ledger(change: Change, step: Step) -> Ledger:
    raw, joint = (labels[:, step.before] != labels[:, step.after] for labels in (change.series.classes, change.classes))
    return Ledger(step.before, step.after, int(raw.sum()), int(joint.sum()), int((raw & joint).sum()), len(change))
