"""The result as polygons: the GeoPackage that carries its own colours and provenance, and formats for other uses."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyogrio
import pyproj

from ..errors import OutputError
from ..files import write_errors
from ..labels import Labels
from ..schemes import ClassScheme
from . import style
from .geopackage import GEOMETRY, GPKG_VERSION, Style, cut_short, finish

FORMATS = {"parquet": ".parquet", "fgb": ".fgb", "geojson": ".geojson", "pmtiles": ".pmtiles", "csv": ".csv"}
"""The optional formats and the suffix of each."""

WGS84 = pyproj.CRS.from_epsg(4326)

# Coordinates in a vector tile are whole numbers up to 4096 (its extent). The deepest level is the first at which
# a tile of ours is at least 128 of them wide, so that no corner moves by more than 1/256 of its side; viewers
# enlarge that level beyond. Three levels up it is a screen pixel or two wide, and shallower ones would show noise.
MVT_EXTENT = 4096
MVT_SIDE = 128
MVT_LEVELS_UP = 3
MVT_MAX_ZOOM = 22
EQUATOR_M = 40_075_016.7

GEOJSON_END = b"}\n]\n}\n"


def write_gpkg(labels: Labels, path: Path) -> None:
    """Write layer `landcover` to `path`, a .gpkg that does not exist yet.

    One square a tile in the grid's CRS, in the order of `labels`, with a spatial index, a style that QGIS applies
    by itself, and the metadata from which `results.read_result` makes the same Labels. Raises OutputError.
    """
    style.require_tiles(labels, path)
    with write_errors(path):
        pyogrio.write_dataframe(
            labels.to_gdf(),
            path,
            layer=style.LAYER,
            driver="GPKG",
            use_arrow=True,
            layer_metadata=style.metadata(labels),
            GEOMETRY_NAME=GEOMETRY,
            SPATIAL_INDEX="YES",
            VERSION=GPKG_VERSION,
            IDENTIFIER=style.title(labels),
            DESCRIPTION=style.description(labels),
        )
        finish(path, style.LAYER, len(labels), [_style(labels.scheme)])


def _style(scheme: ClassScheme) -> Style:
    return Style(scheme.name, style.qml(scheme), scheme.title or f"Classes of scheme {scheme.name}")


def write_vector(labels: Labels, path: Path, fmt: str) -> None:
    """Write the tiles to `path` in one of FORMATS.

    parquet (GeoParquet) and fgb (FlatGeobuf) are in the grid's CRS; geojson (RFC 7946) is in WGS 84; pmtiles holds
    class and confidence for a web map; csv has each tile's attributes, its centre in WGS 84 degrees and its bounds
    in CRS units. Raises OutputError.
    """
    writers: dict[str, Callable[[Labels, Path], None]] = {
        "parquet": _write_parquet,
        "fgb": _write_fgb,
        "geojson": _write_geojson,
        "pmtiles": _write_pmtiles,
        "csv": _write_csv,
    }
    if fmt not in writers:
        raise OutputError(f"unknown format {fmt!r}; choose from {', '.join(FORMATS)}")
    style.require_tiles(labels, path)
    with write_errors(path):
        writers[fmt](labels, path)


def _write_parquet(labels: Labels, path: Path) -> None:
    labels.to_gdf().to_parquet(path, index=False, compression="zstd", write_covering_bbox=True, schema_version="1.1.0")


def _write_fgb(labels: Labels, path: Path) -> None:
    pyogrio.write_dataframe(
        labels.to_gdf(),
        path,
        layer=style.LAYER,
        driver="FlatGeobuf",
        use_arrow=True,
        TITLE=style.title(labels),
        DESCRIPTION=style.description(labels),
    )
    # When the disk fills up with the last features, GDAL loses them without a word; so read the last one back.
    try:
        pyogrio.raw.read(path, columns=["tile_id"], skip_features=len(labels) - 1, max_features=1)
    except (pyogrio.errors.FeatureError, ValueError) as error:
        raise cut_short(path) from error


def _write_geojson(labels: Labels, path: Path) -> None:
    pyogrio.write_dataframe(
        labels.to_gdf().to_crs(WGS84),
        path,
        layer=style.LAYER,
        driver="GeoJSON",
        use_arrow=True,
        RFC7946="YES",
        DESCRIPTION=style.description(labels),
    )
    # The same loss at the end of the file; the text shows it.
    with path.open("rb") as stream:
        stream.seek(-len(GEOJSON_END), os.SEEK_END)
        if stream.read() != GEOJSON_END:
            raise cut_short(path)


def _write_pmtiles(labels: Labels, path: Path) -> None:
    frame = labels.to_gdf()[["tile_id", "class_id", "class", "confidence", "geometry"]]
    deepest = _deepest_zoom(labels)
    pyogrio.write_dataframe(
        frame,
        path,
        layer=style.LAYER,
        driver="PMTiles",
        use_arrow=True,
        NAME=style.title(labels),
        DESCRIPTION=style.description(labels),
        MINZOOM=max(0, deepest - MVT_LEVELS_UP),
        MAXZOOM=deepest,
        # The driver's own limits thin out a crowded vector tile, and the gaps would look like ground without data.
        MAX_SIZE=50_000_000,
        MAX_FEATURES=1_000_000,
        EXTENT=MVT_EXTENT,
    )


def _deepest_zoom(labels: Labels) -> int:
    _, latitudes = _centres(labels)
    stretch = math.cos(math.radians(float(latitudes.mean())))
    zoom = math.log2(EQUATOR_M * stretch * MVT_SIDE / (MVT_EXTENT * labels.grid.side_m))
    return min(MVT_MAX_ZOOM, max(0, math.ceil(zoom)))


def _write_csv(labels: Labels, path: Path) -> None:
    frame = labels.to_gdf()
    bounds = frame.geometry.bounds
    longitudes, latitudes = _centres(labels)
    table = frame.drop(columns="geometry").assign(
        # Seven decimals of a degree are about a centimetre.
        longitude=longitudes.round(7),
        latitude=latitudes.round(7),
        left=bounds["minx"],
        bottom=bounds["miny"],
        right=bounds["maxx"],
        top=bounds["maxy"],
    )
    table.to_csv(path, index=False, lineterminator="\n", encoding="utf-8")


def _centres(labels: Labels) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Longitudes and latitudes of the tiles' centres, (N,) each, in WGS 84 degrees."""
    side = labels.grid.side
    to_wgs84 = pyproj.Transformer.from_crs(labels.grid.crs, WGS84, always_xy=True)
    longitudes, latitudes = to_wgs84.transform((labels.columns + 0.5) * side, (labels.rows + 0.5) * side)
    return np.asarray(longitudes), np.asarray(latitudes)
