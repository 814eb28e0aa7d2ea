"""Map tiles of a finished job as PNG: 256 pixels a side, on the Web Mercator grid of XYZ and WMTS.

Only files that the service wrote itself are opened, by their one driver: the class raster, and as imagery the preview
picture. Clients' scenes are never opened in the process that answers.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.warp import transform_bounds
from rio_tiler.errors import NoOverviewWarning, TileOutsideBounds
from rio_tiler.io import Reader
from rio_tiler.utils import render

# Previews have no overviews and need none: they are 4,096 pixels wide at most.
warnings.filterwarnings("ignore", category=NoOverviewWarning)

Layer = Literal["imagery", "classes"]
SIDE_PX = 256
MAX_ZOOM = 24
"""A pixel of 1 cm at the equator: beyond it there is nothing to see, and numbers of tiles grow without end."""
DRIVER = "GTiff"
BLACK = 16
"""Brightness up to which imagery without a label counts as missing: JPEG's black is not quite 0."""
EQUATOR_M = 40_075_016.68557849
SPARE_ZOOMS = 3
"""How many times a layer may be enlarged twofold beyond its own pixels."""

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Extent:
    """Bounds in degrees (west, south, east, north), and the zooms at which there is something to see."""

    bounds: tuple[float, float, float, float]
    min_zoom: int
    max_zoom: int


def exists(z: int, x: int, y: int) -> bool:
    """Whether there is such a tile in the world."""
    return 0 <= z <= MAX_ZOOM and 0 <= x < 1 << z and 0 <= y < 1 << z


def extent(classes: Path, imagery: Path) -> Extent:
    """Where and how near a job's tiles can be looked at, from the headers of its rasters."""
    with _opened(imagery) as fine:
        pixel_m = abs(fine.transform.a) * (fine.crs.linear_units_factor[1] if fine.crs.is_projected else 1.0)
    with _opened(classes) as dataset:
        west, south, east, north = transform_bounds(dataset.crs, "EPSG:4326", *dataset.bounds, densify_pts=21)
    shrunk = max(0.01, float(np.cos(np.radians((south + north) / 2))))  # of Mercator's metres, at this latitude
    nearest = int(np.ceil(np.log2(EQUATOR_M * shrunk / SIDE_PX / pixel_m))) + SPARE_ZOOMS
    span = max(1e-6, (east - west) % 360 or 360, north - south)
    furthest = int(np.floor(np.log2(360 / span))) - 1
    most = min(max(nearest, 1), MAX_ZOOM)
    return Extent((west, south, east, north), min(max(furthest, 0), most), most)


def tile(layer: Layer, classes: Path, imagery: Path, z: int, x: int, y: int) -> bytes | None:
    """One tile as PNG, see-through where there is nothing; None where it lies beside the scene."""
    try:
        ids, known = _read(classes, z, x, y, "nearest", bands=1)
        if layer == "classes":
            with _opened(classes) as dataset:
                colours: dict[int, Any] = dataset.colormap(1)
            return bytes(render(ids, known, img_format="PNG", colormap=colours))
        picture, there = _read(imagery, z, x, y, "bilinear", bands=(1, 2, 3))
    except TileOutsideBounds:
        return None
    seen = np.where((known > 0) | (picture.max(axis=0) > BLACK), there, 0).astype(np.uint8)
    return bytes(render(picture, seen, img_format="PNG"))


def _read(
    path: Path, z: int, x: int, y: int, method: Literal["nearest", "bilinear"], bands: int | tuple[int, ...]
) -> tuple[Bytes, Bytes]:
    """(bands, 256, 256) pixels and their mask (256, 256), 0 where there is none. Raises TileOutsideBounds."""
    with _opened(path) as dataset, Reader(None, dataset=dataset) as reader:
        found = reader.tile(x, y, z, tilesize=SIDE_PX, indexes=bands, reproject_method=method, resampling_method=method)
        return np.asarray(found.data), np.asarray(found.mask)


@contextmanager
def _opened(path: Path) -> Iterator[rasterio.io.DatasetReader]:
    with rasterio.open(path, driver=DRIVER) as dataset:
        yield dataset
