"""The result as polygons: the GeoPackage that carries its own colours and provenance, and formats for other uses."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable, Container
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pyproj

from ..errors import OutputError
from ..files import write_errors
from ..grid import crs_text, slices
from ..labels import Labels
from ..schemes import ClassScheme
from ..tiletable import Values, corners, places, polygons, stream, words
from . import style
from .geopackage import GEOMETRY, Style, cut_short, finish, write_layer

FORMATS = {"parquet": ".parquet", "fgb": ".fgb", "geojson": ".geojson", "pmtiles": ".pmtiles", "csv": ".csv"}
"""The optional formats and the suffix of each."""

Place = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
"""Moves coordinates (…, 2) elsewhere."""

WGS84 = pyproj.CRS.from_epsg(4326)

# Coordinates in a vector tile are whole numbers up to 4096 (its extent). The deepest level is the first at which
# a tile of ours is at least 128 of them wide, so that no corner moves by more than 1/256 of its side; viewers
# enlarge that level beyond. Three levels up it is a screen pixel or two wide, and shallower ones would show noise.
MVT_EXTENT = 4096
MVT_SIDE = 128
MVT_LEVELS_UP = 3
MVT_MAX_ZOOM = 22
EQUATOR_M = 40_075_016.7

PARQUET_TILES = 32_768
"""Tiles of a row group of GeoParquet: a reader that wants a window skips the others by their bounds."""
PARQUET_REPEATED = ["tile_id", "column", "row", "class_id", "class", "raw_class", "valid_fraction"]
"""Columns with few values, stored once each. For probabilities such a dictionary takes more room than it saves."""
GEOJSON_END = b"}\n]\n}\n"


def write_gpkg(labels: Labels, path: Path) -> None:
    """Write layer `landcover` to `path`, a .gpkg that does not exist yet.

    One square a tile in the grid's CRS, in the order of `labels`, with a spatial index, a style that QGIS applies
    by itself, and the metadata from which `results.read_result` makes the same Labels. Tiles are streamed: memory does
    not grow with their number. Raises OutputError.
    """
    style.require_tiles(labels, path)
    with write_errors(path):
        write_layer(
            path,
            style.LAYER,
            _tiles(labels, GEOMETRY),
            labels.grid,
            style.metadata(labels),
            style.title(labels),
            style.description(labels),
        )
        finish(path, style.LAYER, len(labels), [_style(labels.scheme)])


def _tiles(
    labels: Labels, geometry: str, wanted: Container[str] | None = None, place: Place | None = None
) -> pa.RecordBatchReader:
    """The tiles as a stream: the columns of `Labels.to_gdf`, or those `wanted`, and squares in a column `geometry`, their
    corners moved by `place` where it is given."""

    def made(part: slice) -> dict[str, Values | pa.Array]:
        some = labels.part(part)
        ring = corners(some.grid, some.columns, some.rows)
        columns = _columns(some)
        kept = {name: values for name, values in columns.items() if wanted is None or name in wanted}
        return {**kept, geometry: polygons(ring if place is None else place(ring))}

    return stream(len(labels), made)


def _columns(labels: Labels) -> dict[str, Values | pa.Array]:
    """The columns of `Labels.to_gdf` but the polygons."""
    kinds, raw = labels.class_index, labels.raw
    names = labels.scheme.names
    return {
        **places(labels.grid, labels.columns, labels.rows),
        "class_id": np.asarray(labels.scheme.ids, np.int32)[kinds],
        "class": words(kinds, names),
        **({} if raw is None else {"raw_class": words(raw.argmax(axis=1), names)}),
        "confidence": labels.confidence,
        **{f"p_{name}": labels.probabilities[:, k] for k, name in enumerate(names)},
        **({} if raw is None else {f"raw_p_{name}": raw[:, k] for k, name in enumerate(names)}),
        "valid_fraction": labels.valid_fraction,
    }


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
    with pq.ParquetWriter(path, _parquet_schema(labels), compression="zstd", use_dictionary=PARQUET_REPEATED) as writer:
        for part in slices(len(labels), PARQUET_TILES):
            some = labels.part(part)
            ring = corners(some.grid, some.columns, some.rows)
            low, high = ring.min(axis=1), ring.max(axis=1)
            box = {"xmin": low[:, 0], "ymin": low[:, 1], "xmax": high[:, 0], "ymax": high[:, 1]}
            columns = {
                **_columns(some),
                "geometry": polygons(ring),
                "bbox": pa.StructArray.from_arrays(box.values(), box),
            }
            writer.write_table(pa.table(columns).cast(writer.schema))


def _parquet_schema(labels: Labels) -> pa.Schema:
    """The columns and the metadata that geopandas would write, with the bounds of all tiles in them."""
    few = io.BytesIO()
    labels.part(slice(0, 1)).to_gdf().to_parquet(few, index=False, write_covering_bbox=True, schema_version="1.1.0")
    schema = pq.read_schema(few)
    about = json.loads(schema.metadata[b"geo"])
    tiles, side = labels.range, labels.grid.side
    about["columns"]["geometry"]["bbox"] = [edge * side for edge in (tiles.left, tiles.bottom, tiles.right, tiles.top)]
    return schema.with_metadata({**schema.metadata, b"geo": json.dumps(about).encode()})


def _write_fgb(labels: Labels, path: Path) -> None:
    pyogrio.write_arrow(
        _tiles(labels, GEOMETRY),
        path,
        layer=style.LAYER,
        driver="FlatGeobuf",
        **_squares(crs_text(labels.grid.crs)),
        TITLE=style.title(labels),
        DESCRIPTION=style.description(labels),
    )
    # When the disk fills up with the last features, GDAL loses them without a word; so read the last one back.
    try:
        pyogrio.raw.read(path, columns=["tile_id"], skip_features=len(labels) - 1, max_features=1)
    except (pyogrio.errors.FeatureError, ValueError) as error:
        raise cut_short(path) from error


def _write_geojson(labels: Labels, path: Path) -> None:
    to_wgs84 = pyproj.Transformer.from_crs(labels.grid.crs, WGS84, always_xy=True)
    pyogrio.write_arrow(
        _tiles(labels, GEOMETRY, place=lambda ring: np.stack(to_wgs84.transform(ring[..., 0], ring[..., 1]), axis=-1)),
        path,
        layer=style.LAYER,
        driver="GeoJSON",
        **_squares(crs_text(WGS84)),
        RFC7946="YES",
        DESCRIPTION=style.description(labels),
    )
    # The same loss at the end of the file; the text shows it.
    with path.open("rb") as stream:
        stream.seek(-len(GEOJSON_END), os.SEEK_END)
        if stream.read() != GEOJSON_END:
            raise cut_short(path)


def _write_pmtiles(labels: Labels, path: Path) -> None:
    deepest = _deepest_zoom(labels)
    pyogrio.write_arrow(
        _tiles(labels, GEOMETRY, wanted=("tile_id", "class_id", "class", "confidence")),
        path,
        layer=style.LAYER,
        driver="PMTiles",
        **_squares(crs_text(labels.grid.crs)),
        NAME=style.title(labels),
        DESCRIPTION=style.description(labels),
        MINZOOM=max(0, deepest - MVT_LEVELS_UP),
        MAXZOOM=deepest,
        # The driver's own limits thin out a crowded vector tile, and the gaps would look like ground without data.
        MAX_SIZE=50_000_000,
        MAX_FEATURES=1_000_000,
        EXTENT=MVT_EXTENT,
    )


def _squares(crs: str) -> dict[str, str]:
    return {"geometry_name": GEOMETRY, "geometry_type": "Polygon", "crs": crs}


def _deepest_zoom(labels: Labels) -> int:
    _, latitudes = _centres(labels)
    stretch = math.cos(math.radians(float(latitudes.mean())))
    zoom = math.log2(EQUATOR_M * stretch * MVT_SIDE / (MVT_EXTENT * labels.grid.side_m))
    return min(MVT_MAX_ZOOM, max(0, math.ceil(zoom)))


def _write_csv(labels: Labels, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as target:
        for part in slices(len(labels)):
            _rows(labels.part(part)).to_csv(target, index=False, lineterminator="\n", header=part.start == 0)


def _rows(labels: Labels) -> pd.DataFrame:
    frame = labels.to_gdf()
    bounds = frame.geometry.bounds
    longitudes, latitudes = _centres(labels)
    table: pd.DataFrame = frame.drop(columns="geometry").assign(
        # Seven decimals of a degree are about a centimetre.
        longitude=longitudes.round(7),
        latitude=latitudes.round(7),
        left=bounds["minx"],
        bottom=bounds["miny"],
        right=bounds["maxx"],
        top=bounds["maxy"],
    )
    return table


def _centres(labels: Labels) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Longitudes and latitudes of the tiles' centres, (N,) each, in WGS 84 degrees."""
    side = labels.grid.side
    to_wgs84 = pyproj.Transformer.from_crs(labels.grid.crs, WGS84, always_xy=True)
    longitudes, latitudes = to_wgs84.transform((labels.columns + 0.5) * side, (labels.rows + 0.5) * side)
    return np.asarray(longitudes), np.asarray(latitudes)
