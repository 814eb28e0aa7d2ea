"""Areas of interest: any vector file in any CRS, as one geometry and named outlines in the grid's CRS."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import geopandas as gpd
import pyogrio
import pyproj
import shapely

from .errors import GridError

MOST_POINTS = 200_000
"""Points that may be set along the edges of an AOI."""
NAME_COLUMNS = ("name", "NAME", "Name", "title", "label", "id")


def read_aoi(path: str | Path, crs: pyproj.CRS) -> gpd.GeoDataFrame:
    """The polygons of a vector file in `crs`, with a column `name`; invalid outlines are repaired.

    Raises GridError for a missing or unreadable file, one without polygons, one without a CRS, and one that cannot
    be brought into `crs`.
    """
    path = Path(path)
    if not path.exists():
        raise GridError(f"no such AOI file: {path}; check the path given with --aoi")
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
        frame = _followed(frame, crs).to_crs(crs)
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
