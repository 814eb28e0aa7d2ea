"""Where to look first: tiles that may be newly built-up, those of large clusters before single ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import quote

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyproj
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..grid import IntArray
from .posterior import KINDS, Change, Doubles
from .series import Series, Truths

FLOOR = 0.1
"""Tiles less likely than this to be newly built-up are not worth a look."""
MOST = 500
JOIN = 0.5
"""Share of the threshold from which neighbouring tiles count as one cluster: a housing estate has a pale edge, and a
tile that is half as likely as a decision asks for is more often part of its neighbours' than chance would have it."""
M2_PER_HA = 10_000
_AHEAD = ((1, 0), (-1, 1), (0, 1), (1, 1))
"""Half of a tile's eight neighbours; the other half are ahead of them in turn."""


@dataclass(frozen=True)
class Candidates:
    """The C tiles to look at, best first.

    index: (C,) position of each tile in the series; cluster: (C,) its cluster, numbered from 1 in the order in which
    the list comes to them; cluster_tiles, cluster_ha: (C,) tiles of that cluster and their ground with data, those
    below the list's end included; found: how many tiles reached the floor before the list was cut.
    """

    change: Change
    index: npt.NDArray[np.intp]
    cluster: IntArray
    cluster_tiles: IntArray
    cluster_ha: Doubles
    floor: float
    found: int

    def __len__(self) -> int:
        return len(self.index)

    @property
    def probability(self) -> Doubles:
        """(C,) that the tile became built-up between the first and the last date."""
        return self.change.p_new_built[self.index].astype(np.float64)

    @property
    def score(self) -> Doubles:
        """(C,) probability × tiles of the cluster: one certain tile weighs as much as each of five at 20 %."""
        return np.asarray(self.probability * self.cluster_tiles)

    @property
    def columns(self) -> IntArray:
        return self.change.series.columns[self.index]

    @property
    def rows(self) -> IntArray:
        return self.change.series.rows[self.index]

    @property
    def tile_ids(self) -> list[str]:
        return self.change.series.grid.tile_ids(self.columns, self.rows)

    @cached_property
    def centres(self) -> tuple[Doubles, Doubles]:
        """(C,) longitude and (C,) latitude of the tiles' centres, WGS 84 degrees."""
        return centres(self.change.series, self.index)

    def to_frame(self) -> pd.DataFrame:
        """One row a tile, best first: the columns of candidates.csv."""
        change, names = self.change, np.asarray(self.change.series.scheme.names, dtype=object)
        longitude, latitude = self.centres
        at = self.index
        return pd.DataFrame(
            {
                "rank": np.arange(1, len(self) + 1, dtype=np.int32),
                "tile_id": np.asarray(self.tile_ids, dtype=object),
                "probability": self.probability.round(6),
                "new_built": change.new_built[at],
                "cluster": self.cluster.astype(np.int32),
                "cluster_tiles": self.cluster_tiles.astype(np.int32),
                "cluster_ha": self.cluster_ha.round(4),
                "score": self.score.round(6),
                "from_class": names[change.classes[at, 0]],
                "to_class": names[change.classes[at, -1]],
                "kind": np.asarray(KINDS, dtype=object)[change.kind[at]],
                "longitude": longitude.round(7),
                "latitude": latitude.round(7),
                "map": np.asarray([map_link(tile) for tile in self.tile_ids], dtype=object),
                "openstreetmap": _links(openstreetmap_link, longitude, latitude),
                "google_maps": _links(google_link, longitude, latitude),
            }
        )

    def to_gdf(self) -> gpd.GeoDataFrame:
        """`to_frame` with each tile's square, in the grid's CRS."""
        grid = self.change.series.grid
        squares = gpd.GeoSeries(grid.polygons(self.columns, self.rows), crs=grid.crs)
        return gpd.GeoDataFrame(self.to_frame(), geometry=squares, crs=grid.crs)


def rank(change: Change, *, floor: float = FLOOR, most: int = MOST) -> Candidates:
    """The tiles that reach `floor` in p_new_built, at most `most` of them, by probability × size of their cluster.

    A cluster is a group of tiles of at least JOIN × the threshold (a quarter, by default) that touch, corners
    included; a tile below that is a cluster of its own. Development comes in pieces and errors come alone, so the
    size of a cluster is evidence that the tile's own probability does not hold. Ties go to the likelier tile, then
    to the one further north-west. The list finds and trains; it cannot tell how much was built.
    """
    series, chance = change.series, change.p_new_built
    group = clusters(series, chance >= JOIN * change.threshold)
    tiles = np.bincount(group)
    hectares = np.bincount(group, weights=series.areas_m2) / M2_PER_HA
    at = np.flatnonzero(chance >= floor)
    score = chance[at].astype(np.float64) * tiles[group[at]]
    order = at[np.lexsort((at, -chance[at], -score))][:most]
    _, first, place = np.unique(group[order], return_index=True, return_inverse=True)
    number = np.empty(len(first), np.int64)
    number[np.argsort(first)] = np.arange(1, len(first) + 1)
    return Candidates(
        change=change,
        index=order,
        cluster=number[place],
        cluster_tiles=tiles[group[order]].astype(np.int64),
        cluster_ha=hectares[group[order]],
        floor=floor,
        found=len(at),
    )


def clusters(series: Series, member: Truths) -> npt.NDArray[np.intp]:
    """(N,) number of each tile's cluster from 0: member tiles that touch share one, every other tile has its own.

    Works on the tiles there are, not on an image of their range, which two scenes far apart would make huge.
    """
    columns, rows = series.columns - series.columns.min(), series.rows - series.rows.min()
    width = int(columns.max()) + 3  # a column to spare on each side, so that a line's end does not touch the next
    keys = rows * width + columns + 1
    at = np.flatnonzero(member)
    at = at[np.argsort(keys[at])]
    known = keys[at]
    starts, ends = [], []
    for east, north in _AHEAD:
        wanted = known + north * width + east
        place = np.minimum(np.searchsorted(known, wanted), max(0, len(known) - 1))
        there = known[place] == wanted
        starts.append(at[there])
        ends.append(at[place[there]])
    start, end = np.concatenate(starts), np.concatenate(ends)
    graph = coo_array((np.ones(len(start), bool), (start, end)), shape=(len(series), len(series)))
    _, found = connected_components(graph, directed=False)
    return np.asarray(found, np.intp)


def centres(series: Series, index: npt.NDArray[np.intp]) -> tuple[Doubles, Doubles]:
    """Longitude and latitude (WGS 84 degrees) of the centres of the tiles at these positions."""
    grid = series.grid
    to_degrees = pyproj.Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    x, y = (series.columns[index] + 0.5) * grid.side, (series.rows[index] + 0.5) * grid.side
    longitude, latitude = to_degrees.transform(x, y)
    return np.asarray(longitude, np.float64), np.asarray(latitude, np.float64)


def map_link(tile_id: str, page: str = "change.html") -> str:
    """The address of a tile on the change map that lies beside the list."""
    return f"{quote(page)}#tile={tile_id}"


def openstreetmap_link(longitude: float, latitude: float) -> str:
    """A page of OpenStreetMap with a marker on the place."""
    place = f"{latitude:.6f}", f"{longitude:.6f}"
    return f"https://www.openstreetmap.org/?mlat={place[0]}&mlon={place[1]}#map=17/{place[0]}/{place[1]}"


def google_link(longitude: float, latitude: float) -> str:
    """A page of Google Maps with its imagery around the place (Maps URLs, api=1)."""
    return (
        f"https://www.google.com/maps/@?api=1&map_action=map&center={latitude:.6f},{longitude:.6f}"
        "&zoom=18&basemap=satellite"
    )


def _links(link: Callable[[float, float], str], longitude: Doubles, latitude: Doubles) -> npt.NDArray[np.object_]:
    return np.asarray([link(x, y) for x, y in zip(longitude, latitude, strict=True)], dtype=object)
