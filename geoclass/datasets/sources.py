"""The scenes a dataset is cut from: by date, or one by one, on one grid; and which tiles each of them covers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyproj
import shapely

from ..errors import DatasetError
from ..grid import IntArray, TileGrid
from ..inputs import find_scenes
from ..mosaic import Mosaic
from ..scene import Scene
from ..sensors import Sensor
from ..tileindex import select_tiles


@dataclass(frozen=True)
class Source:
    """Scenes that are read as one, under the `name` that the keys of their tiles begin with."""

    name: str
    mosaic: Mosaic


def open_sources(inputs: Sequence[str | Path], sensor: Sensor | None, apart: bool) -> list[Source]:
    """The scenes that `inputs` name, those of one date as one mosaic.

    With `apart` every file is a scene of its own, and every folder one a date. Raises SceneError, also where scenes
    differ in sensor or data type.
    """
    folders = [item for item in inputs if apart and Path(item).is_dir()]
    files = [item for item in inputs if item not in folders]
    groups: dict[tuple[str, str | None], list[Scene]] = {}
    for scene in find_scenes(files, sensor) if files or not folders else []:
        groups.setdefault((scene.files[0] if apart else "", scene.date), []).append(scene)
    for item in folders:
        for scene in find_scenes([item], sensor):
            groups.setdefault((str(item), scene.date), []).append(scene)
    mosaics = [Mosaic(tuple(group)) for group in groups.values()]
    Mosaic(tuple(scene for mosaic in mosaics for scene in mosaic.scenes))  # raises where they do not go together
    return [Source(name, mosaic) for name, mosaic in zip(_names(mosaics), mosaics, strict=True)]


def _names(mosaics: Sequence[Mosaic]) -> list[str]:
    """A name for each that no other has: the first scene's, with the date or a number where that is not enough."""
    counts = Counter(mosaic.name.lower() for mosaic in mosaics)
    dated = [m.name if counts[m.name.lower()] == 1 or not m.date else f"{m.name}_{m.date}" for m in mosaics]
    seen: Counter[str] = Counter()
    names = []
    for name in dated:
        seen[name.lower()] += 1
        names.append(name if seen[name.lower()] == 1 else f"{name}_{seen[name.lower()]}")
    return names


def common_grid(sources: Sequence[Source], size_px: int, gsd_m: float | None, crs: pyproj.CRS | None) -> TileGrid:
    """The grid that suits all scenes together, so that the same ground is the same tile in each."""
    together = Mosaic(tuple(scene for source in sources for scene in source.mosaic.scenes))
    return together.default_grid(size_px, gsd_m, crs)


def covered_tiles(
    source: Source, grid: TileGrid, aoi: gpd.GeoDataFrame | None, min_valid: float
) -> tuple[IntArray, IntArray, int]:
    """(columns, rows) of the tiles that lie within the scenes' outline by at least `min_valid`, and how many do not.

    No pixel is read: what has no data inside the outline shows later. Raises GridError and DatasetError.
    """
    columns, rows = select_tiles(source.mosaic, grid, aoi)
    outline = source.mosaic.outline_in(grid.crs)
    shapely.prepare(outline)
    squares = grid.polygons(columns, rows)
    share = np.ones(len(columns))
    edge = ~shapely.covers(outline, squares)
    share[edge] = shapely.area(shapely.intersection(squares[edge], outline)) / grid.side**2
    # Pixels are moved onto the lattice by up to half a pixel, at either side.
    keep = share >= min_valid - 2 / grid.size_px
    if not keep.any():
        raise DatasetError(
            f"no tile of {grid.side_m:g} m has data in {min_valid:.0%} of its ground in {source.mosaic.scenes[0].files[0]}; "
            "give a larger scene, smaller tiles with --size or --gsd, or a lower --min-valid"
        )
    return columns[keep], rows[keep], int((~keep).sum())
