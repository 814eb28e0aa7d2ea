"""Map tiles of a finished job as PNG: 256 pixels a side, on the Web Mercator grid of XYZ and WMTS.

Only files that the service wrote itself are opened, by their one driver: the class raster, and as imagery the preview
picture. Clients' scenes are never opened in the process that answers.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.crs import CRS
from rasterio.warp import transform_bounds
from rio_tiler.errors import NoOverviewWarning
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
MERCATOR = CRS.from_epsg(3857)
QUICK = 1
"""zlib's level for imagery: 6 takes four times as long for a file 2 % smaller."""
SPARE_ZOOMS = 3
"""How many times a layer may be enlarged twofold beyond its own pixels."""

Bytes = npt.NDArray[np.uint8]
Bounds = tuple[float, float, float, float]
Window = tuple[int, int, int, int]
"""First column and line, and those after the last."""


@dataclass(frozen=True)
class Extent:
    """Bounds in degrees (west, south, east, north), and the zooms at which there is something to see. Across 180° east
    is more than 180."""

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
    if east < west:
        east += 360
    shrunk = max(0.01, float(np.cos(np.radians((south + north) / 2))))  # of Mercator's metres, at this latitude
    nearest = int(np.ceil(np.log2(EQUATOR_M * shrunk / SIDE_PX / pixel_m))) + SPARE_ZOOMS
    span = max(1e-6, (east - west) % 360 or 360, north - south)
    furthest = int(np.floor(np.log2(360 / span))) - 1
    most = min(max(nearest, 1), MAX_ZOOM)
    return Extent((west, south, east, north), min(max(furthest, 0), most), most)


def tile(layer: Layer, classes: Path, imagery: Path, z: int, x: int, y: int) -> bytes | None:
    """One tile as PNG, see-through where there is nothing; None where it lies beside the scene."""
    square, scene = tile_bounds(z, x, y), _mercator_bounds(classes, classes.stat().st_mtime_ns)
    window = _window(square, scene)
    if window is None:
        return None
    if layer == "classes":
        return _classes(classes, square, window)
    picture, there = _read(imagery, square, window, "bilinear", bands=(1, 2, 3))
    dark = (picture.max(axis=0) <= BLACK) & (there > 0)
    if dark.any():  # of what is black, what has a label is dark, and the rest is missing
        known = _read(classes, square, window, "nearest", bands=(1,))[1]
        there = np.where(dark & (known == 0), 0, there).astype(np.uint8)
    return bytes(render(picture, there, img_format="PNG", ZLEVEL=QUICK))


def tile_bounds(z: int, x: int, y: int) -> Bounds:
    """Bounds of a tile in metres of Web Mercator."""
    side = EQUATOR_M / (1 << z)
    left, top = x * side - EQUATOR_M / 2, EQUATOR_M / 2 - y * side
    return left, top - side, left + side, top


def _window(square: Bounds, scene: Bounds) -> Window | None:
    """The pixels of a tile that the scene's bounds touch; None where there are none.

    Only they are read: for all of a tile that is much larger than the scene, GDAL would work through every pixel that a
    scene of that size would have.
    """
    left, _, right, top = square
    pixel = (right - left) / SIDE_PX
    first, last = math.floor((scene[0] - left) / pixel), math.ceil((scene[2] - left) / pixel)
    upper, lower = math.floor((top - scene[3]) / pixel), math.ceil((top - scene[1]) / pixel)
    window = max(0, first), max(0, upper), min(SIDE_PX, last), min(SIDE_PX, lower)
    return window if window[0] < window[2] and window[1] < window[3] else None


def _classes(path: Path, square: Bounds, window: Window) -> bytes:
    ids, known = _read(path, square, window, "nearest", bands=(1,))
    with _opened(path) as dataset:
        colours: dict[int, Any] = dataset.colormap(1)
    return bytes(render(ids, known, img_format="PNG", colormap=colours))


def _read(
    path: Path, square: Bounds, window: Window, method: Literal["nearest", "bilinear"], bands: tuple[int, ...]
) -> tuple[Bytes, Bytes]:
    """(bands, 256, 256) pixels of a tile and their mask (256, 256), 0 where there is none and outside `window`."""
    first, upper, last, lower = window
    left, _, right, top = square
    pixel = (right - left) / SIDE_PX
    pixels, mask = np.zeros((len(bands), SIDE_PX, SIDE_PX), np.uint8), np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    with _opened(path) as dataset, Reader(None, dataset=dataset) as reader:
        found = reader.part(
            (left + first * pixel, top - lower * pixel, left + last * pixel, top - upper * pixel),
            dst_crs=MERCATOR,
            bounds_crs=MERCATOR,
            height=lower - upper,
            width=last - first,
            indexes=bands,
            reproject_method=method,
            resampling_method=method,
        )
    pixels[:, upper:lower, first:last], mask[upper:lower, first:last] = found.data, found.mask
    return pixels, mask


@lru_cache(maxsize=256)
def _mercator_bounds(path: Path, _changed: int) -> Bounds:
    """Of a raster, once for each version of it: to make a transformation costs more than to draw a tile."""
    with _opened(path) as dataset:
        west, south, east, north = transform_bounds(dataset.crs, MERCATOR, *dataset.bounds, densify_pts=21)
    return west, south, east, north


@contextmanager
def _opened(path: Path) -> Iterator[rasterio.io.DatasetReader]:
    with rasterio.open(path, driver=DRIVER) as dataset:
        yield dataset
