"""Areas of interest: any vector file in any CRS, as one geometry and named outlines in the grid's CRS."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import pyproj
import shapely

from .errors import GridError

MOST_POINTS = 200_000
"""Points that may be set along the edges of an AOI."""
BEYOND_DEG = (10.0, 4.0)
"""Degrees of longitude and latitude around the area that a CRS is made for where it still places points well."""
NAME_COLUMNS = ("name", "NAME", "Name", "title", "label", "id")


def read_aoi(path: str | Path, crs: pyproj.CRS) -> gpd.GeoDataFrame:
    """The polygons of a vector file in `crs`, with a column `name`; invalid outlines are repaired.

    Raises GridError for a missing or unreadable file, one without polygons, one without a CRS, and one that cannot
    be brought into `crs`.
    """
    path = Path(path)
    if not path.exists():
        raise GridError(f"no such AOI file: {path}; check the path given with --aoi")
    odd = re.search(r"[!;\x00-\x1f]", str(path))  # pyogrio's path of an archive, its URLs' parameters, what they drop
    if odd:
        raise GridError(
            f"{str(path)!r} has {odd.group()!r} in its path, which GDAL misreads; rename the file or folder"
        )
    try:
        with warnings.catch_warnings():  # of several layers, and of geometries that the checks below tell better
            warnings.simplefilter("ignore")
            frame = pyogrio.read_dataframe(path)
    except Exception as error:  # pyogrio, GDAL, GEOS and pyproj each raise their own types for a damaged file
        raise GridError(
            f"{path} cannot be read as a vector file; give GeoJSON, GeoPackage or Shapefile ({_short(error)})"
        ) from error
    if not isinstance(frame, gpd.GeoDataFrame) or frame.geometry.isna().all() or frame.geometry.is_empty.all():
        raise GridError(f"{path} holds no geometry; draw at least one polygon")
    if frame.crs is None:
        raise GridError(f"{path} has no CRS that is known here; set it in QGIS (Layer > Set CRS) and save again")
    frame = frame[~(frame.geometry.isna() | frame.geometry.is_empty)]
    polygons = shapely.make_valid(frame.geometry.to_numpy())
    frame = frame.set_geometry(gpd.GeoSeries(polygons, index=frame.index, crs=frame.crs))
    frame = frame[shapely.area(frame.geometry.to_numpy()) > 0]
    if frame.empty:
        raise GridError(
            f"{path} holds no polygon with an area (points or lines only, or collapsed outlines); draw polygons"
        )
    try:
        frame = _followed(_clipped(frame, crs), crs).to_crs(crs)
    except (pyproj.exceptions.ProjError, ValueError) as error:
        raise GridError(f"{path} cannot be brought into {crs.name!r}: {_short(error)}; check its CRS") from error
    finite = frame.geometry.bounds.apply(lambda column: column.abs() < 1e12).all(axis=1)
    if not finite.all():
        raise GridError(f"{path} reaches outside the area where {crs.name!r} can be used; check its CRS")
    column = next((name for name in NAME_COLUMNS if name in frame.columns), None)
    names = [
        str(name) if name is not None and name == name else f"area {n}"
        for n, name in enumerate(frame[column].tolist() if column else [None] * len(frame), start=1)
    ]
    return gpd.GeoDataFrame({"name": names}, geometry=frame.geometry.to_numpy(), crs=crs)


def aoi_area(frame: gpd.GeoDataFrame) -> shapely.Geometry:
    """All outlines as one geometry."""
    return shapely.union_all(shapely.make_valid(frame.geometry.to_numpy()))


def outlines_as_text(frame: gpd.GeoDataFrame, tolerance: float) -> list[list[str]]:
    """[name, WKT] of each outline, simplified to `tolerance` CRS units, to travel with a result."""
    simple = shapely.simplify(frame.geometry.to_numpy(), tolerance)
    return [
        [name, str(shapely.to_wkt(shape, rounding_precision=3))]
        for name, shape in zip(frame["name"], simple, strict=True)
    ]


def outlines_from_text(texts: Sequence[Sequence[str]], crs: pyproj.CRS) -> gpd.GeoDataFrame | None:
    """What `outlines_as_text` kept, or None where there is nothing."""
    if not texts:
        return None
    return gpd.GeoDataFrame({"name": [t[0] for t in texts]}, geometry=[shapely.from_wkt(t[1]) for t in texts], crs=crs)


def _clipped(frame: gpd.GeoDataFrame, crs: pyproj.CRS) -> gpd.GeoDataFrame:
    """The frame without what lies far beyond the area that `crs` is made for, where a projection folds the world over;
    as it is where it stays within, and where nothing else is left."""
    code = crs.to_epsg()  # a CRS read from a file's WKT tells no area
    use = pyproj.CRS.from_epsg(code).area_of_use if code else crs.area_of_use
    if use is None or crs.is_geographic:
        return frame
    around, along = BEYOND_DEG
    east = use.east + 360 * (use.east < use.west)
    bottom, top = max(use.south - along, -90.0), min(use.north + along, 90.0)
    if east - use.west + 2 * around < 360:
        turns = (-360, 0, 360)  # an area that reaches over 180 degrees, or an AOI that counts them from 0 to 360
        area = shapely.union_all([shapely.box(use.west - around + t, bottom, east + around + t, top) for t in turns])
    else:
        area = shapely.box(-540, max(bottom, -89), 540, min(top, 89))
    placed = frame if frame.crs.is_geographic else _followed(frame, pyproj.CRS("EPSG:4326")).to_crs("EPSG:4326")
    shapes = placed.geometry.to_numpy()
    beyond = ~shapely.covered_by(shapes, area)
    kept = np.where(beyond, shapely.intersection(shapes, area), shapes)
    some = shapely.area(kept) > 0
    if not beyond.any() or not some.any():
        return frame
    return placed[some].set_geometry(gpd.GeoSeries(kept[some], index=placed.index[some], crs=placed.crs))


def _followed(frame: gpd.GeoDataFrame, crs: pyproj.CRS) -> gpd.GeoDataFrame:
    """The frame with points set along its edges where it changes its CRS: an edge along a parallel, as many borders are,
    is a curve in UTM and lies up to kilometres from the straight line between its ends."""
    if frame.crs == crs or frame.crs.equals(crs, ignore_axis_order=True):
        return frame
    step = 0.01 if frame.crs.is_geographic else 1000.0 / frame.crs.axis_info[0].unit_conversion_factor
    shapes = frame.geometry.to_numpy()
    step = max(step, float(shapely.length(shapes).sum()) / MOST_POINTS)
    return frame.set_geometry(gpd.GeoSeries(shapely.segmentize(shapes, step), index=frame.index, crs=frame.crs))


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
