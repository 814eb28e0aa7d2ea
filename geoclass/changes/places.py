"""Named areas a trend is asked for: read from a vector file, and how much of each tile lies in them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyogrio
import pyproj
import shapely
from scipy.sparse import csr_array

from ..aoi import read_aoi
from ..errors import ChangeError
from ..grid import IntArray, TileGrid, slices
from .posterior import Doubles

SLIVER = 1e-3
"""Two areas overlap if they share more than this part of the smaller: less comes of drawing one border twice."""
NAMED_PAIRS = 3
ALL = "all"
"""The name of the whole ground that every date covers."""
POPULATION = "population_"
"""What the columns of people begin with in the frame that `read_named_aois` gives."""


def read_named_aois(
    path: str | Path, crs: pyproj.CRS, name_column: str | None = None, columns: Sequence[str] = ()
) -> gpd.GeoDataFrame:
    """The polygons of a vector file in `crs`: `name`, each of `columns` as numbers under `population_<column>`, geometry.

    Names come from `name_column`, else from the file's `name` or the like, else they are `area 1`, `area 2` and so on. An
    area whose name was there before gets a number behind it. Raises ChangeError for a column that is not there or holds
    no numbers, and GridError for a file that cannot be used.
    """
    frame = read_aoi(path, crs)
    if name_column is None and not columns:
        return frame.assign(name=_distinct(frame["name"]))
    table = _attributes(Path(path))
    if name_column is not None:
        texts = _column(path, table, name_column, "--aoi-name")
        frame = frame.assign(name=[str(t) if pd.notna(t) else f"area {n}" for n, t in enumerate(texts, 1)])
    frame = frame.assign(name=_distinct(frame["name"]))
    for name in columns:
        frame[f"{POPULATION}{name}"] = _numbers(path, name, _column(path, table, name, "--population"))
    return frame


def _attributes(path: Path) -> pd.DataFrame:
    """The attributes of the features that `read_aoi` keeps, in its order."""
    table = pyogrio.read_dataframe(path)
    table = table[~(table.geometry.isna() | table.geometry.is_empty)]
    return pd.DataFrame(table[shapely.area(shapely.make_valid(table.geometry.to_numpy())) > 0].drop(columns="geometry"))


def _column(path: str | Path, table: pd.DataFrame, name: str, option: str) -> list[Any]:
    if name not in table.columns:
        there = ", ".join(str(column) for column in table.columns) or "none"
        raise ChangeError(f"{path} has no column {name!r} for {option}; its columns are {there}")
    return list(table[name])


def _numbers(path: str | Path, name: str, values: list[Any]) -> Doubles:
    numbers = pd.to_numeric(pd.Series(values), errors="coerce").to_numpy(np.float64, na_value=np.nan)
    if not (np.isnan(numbers) | (numbers >= 0)).all() or np.isnan(numbers).all():
        raise ChangeError(f"column {name!r} of {path} holds no counts of people ({values[0]!r}); name another one")
    return np.asarray(numbers)


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number behind one that was there before; `all` is taken by the whole ground."""
    taken, found = {ALL}, []
    for name in names:
        own = next(text for n in count(1) if (text := name if n == 1 else f"{name} ({n})") not in taken)
        taken.add(own)
        found.append(own)
    return found


def population_columns(text: str) -> dict[str, str]:
    """`2010=pop2010,2016=pop2016` as date → column. Raises ChangeError for anything else."""
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    found = {date.strip(): column.strip() for date, _, column in pairs}
    if not pairs or not all(re.fullmatch(r"\d{4}(-\d{2}){0,2}", date) and column for date, column in found.items()):
        raise ChangeError(f"--population {text!r} is not understood; give it as 2010=pop2010,2016=pop2016")
    return found


def require_dates(populations: Mapping[str, str], dates: Sequence[str]) -> None:
    """Raise ChangeError where `populations` names a date that is none of `dates`."""
    for date in populations:
        if date not in dates:
            raise ChangeError(
                f"--population names {date}, but the results are of {', '.join(dates)}; name one of these"
            )


def tile_shares(
    grid: TileGrid, columns: IntArray, rows: IntArray, shapes: npt.NDArray[np.object_] | Sequence[shapely.Geometry]
) -> Any:
    """(areas, tiles) sparse: the share of each tile, from 0 to 1, that lies in each of `shapes` (in the grid's CRS)."""
    found = [_shares_of(grid, columns, rows, shape) for shape in shapes]
    at = np.concatenate([tiles for tiles, _ in found]) if found else np.zeros(0, np.intp)
    values = np.concatenate([shares for _, shares in found]) if found else np.zeros(0)
    starts = np.concatenate([[0], np.cumsum([len(tiles) for tiles, _ in found])]).astype(np.intp)
    return csr_array((values, at, starts), shape=(len(found), len(columns)))


def _shares_of(
    grid: TileGrid, columns: IntArray, rows: IntArray, shape: shapely.Geometry
) -> tuple[npt.NDArray[np.intp], Doubles]:
    """Which tiles share area with `shape`, and how much of each."""
    window = grid.range_over(shape.bounds)
    near = np.flatnonzero(
        (columns >= window.left) & (columns < window.right) & (rows >= window.bottom) & (rows < window.top)
    )
    shapely.prepare(shape)
    shares = np.zeros(len(near))
    for part in slices(len(near)):
        at = near[part]
        shares[part] = _shares_in(grid, rows[at], grid.polygons(columns[at], rows[at]), shape)
    return near[shares > 0], np.minimum(shares[shares > 0], 1.0)


def _shares_in(
    grid: TileGrid, rows: IntArray, squares: npt.NDArray[np.object_], shape: shapely.Geometry
) -> npt.NDArray[np.float64]:
    """The share of each of some squares that lies in `shape`, which is prepared."""
    shares = np.asarray(shapely.intersects(shape, squares), np.float64)
    near = np.flatnonzero(shares)
    edge = near[~shapely.covers(shape, squares[near])]
    left, _, right, _ = shape.bounds
    # Cut the outline into rows first: a coast of 80,000 points is then not cut once for every tile.
    for row in np.unique(rows[edge]):
        here = edge[rows[edge] == row]
        strip = shapely.intersection(shape, shapely.box(left, row * grid.side, right, (row + 1) * grid.side))
        shares[here] = shapely.area(shapely.intersection(strip, squares[here])) / grid.side**2
    return shares


def overlaps(frame: gpd.GeoDataFrame, ha_per_unit: float) -> list[str]:
    """A sentence on areas that overlap, if any do; ha_per_unit: hectares of one square CRS unit."""
    shapes, names = frame.geometry.to_numpy(), list(frame["name"])
    first, second = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    first, second = first[first < second], second[first < second]
    common = shapely.area(shapely.intersection(shapes[first], shapes[second]))
    big = common > SLIVER * np.minimum(shapely.area(shapes[first]), shapely.area(shapes[second]))
    if not big.any():
        return []
    order = np.flatnonzero(big)[np.argsort(-common[big], kind="stable")]
    said = "; ".join(
        f"{names[first[k]]} and {names[second[k]]} by {common[k] * ha_per_unit:,.1f} ha" for k in order[:NAMED_PAIRS]
    )
    more = f"; and {len(order) - NAMED_PAIRS:,} pairs more" if len(order) > NAMED_PAIRS else ""
    return [f"areas overlap ({said}{more}): each is counted by itself, so that their figures do not add up"]
