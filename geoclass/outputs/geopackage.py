"""GeoPackages of tiles: a layer written as a stream, styles that QGIS applies by itself, and a check that all is there."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyogrio

from ..errors import OutputError
from ..grid import TileGrid, crs_text
from ..tiletable import gdal_option

GEOMETRY = "geom"
GPKG_VERSION = "1.3"
"""Newest GeoPackage version that GDAL 3.6, which Debian 12's QGIS uses, reads without a warning."""

INDEX_OPTION = "OGR_GPKG_MAX_RAM_USAGE_RTREE"
INDEX_BYTES = 64 << 20
"""GDAL builds a spatial index in memory, some 75 bytes a tile, up to a tenth of the machine's; beyond this it goes on in
the file, which takes up to twice as long and lets memory grow no further."""

# The columns QGIS makes when it saves a style into a GeoPackage (src/core/providers/ogr of QGIS 3).
STYLE_TABLE = """CREATE TABLE IF NOT EXISTS layer_styles (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    f_table_catalog TEXT(256), f_table_schema TEXT(256), f_table_name TEXT(256), f_geometry_column TEXT(256),
    styleName TEXT(30), styleQML TEXT, styleSLD TEXT, useAsDefault BOOLEAN,
    description TEXT, owner TEXT(30), ui TEXT(30),
    update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')))"""
STYLE_ROW = """INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column,
    styleName, styleQML, styleSLD, useAsDefault, description, owner) VALUES ('', '', ?, ?, ?, ?, '', ?, ?, '')"""
REGISTER = """INSERT OR IGNORE INTO gpkg_contents (table_name, data_type, identifier)
    VALUES ('layer_styles', 'attributes', 'layer_styles')"""


@dataclass(frozen=True)
class Style:
    """A style of a layer: its name (30 characters count), the QML, and a line that says what it shows."""

    name: str
    qml: str
    description: str


def write_layer(
    path: Path,
    layer: str,
    tiles: pa.RecordBatchReader,
    grid: TileGrid,
    metadata: Mapping[str, str],
    title: str,
    description: str,
) -> None:
    """Stream tiles, squares in column GEOMETRY, into a layer of `path`; the spatial index follows the last row.

    Raises what pyogrio raises.
    """
    bound = pyogrio.get_gdal_config_option(INDEX_OPTION)  # the user's, where there is one
    with gdal_option(INDEX_OPTION, INDEX_BYTES if bound is None else bound):
        pyogrio.write_arrow(
            tiles,
            path,
            layer=layer,
            driver="GPKG",
            geometry_name=GEOMETRY,
            geometry_type="Polygon",
            crs=crs_text(grid.crs),
            layer_metadata=dict(metadata),
            SPATIAL_INDEX="YES",
            VERSION=GPKG_VERSION,
            IDENTIFIER=title,
            DESCRIPTION=description,
        )


def finish(path: Path, layer: str, rows: int, styles: Sequence[Style]) -> None:
    """Check that `layer` has its spatial index over all `rows`, and add its styles; QGIS applies the first.

    Raises OutputError where the index is not whole.
    """
    with closing(sqlite3.connect(path)) as database, database:
        if not _is_indexed(database, layer, rows):
            raise cut_short(path)
        database.execute(STYLE_TABLE)
        for place, style in enumerate(styles):
            values = (layer, GEOMETRY, style.name[:30], style.qml, int(place == 0), style.description)
            database.execute(STYLE_ROW, values)
        database.execute(REGISTER)


def _is_indexed(database: sqlite3.Connection, layer: str, rows: int) -> bool:
    # On a disk that is all but full, GDAL leaves the spatial index out without a word.
    table = f"rtree_{layer}_{GEOMETRY}"
    if not database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchall():
        return False
    return bool(database.execute(f'SELECT count(*) = ? FROM "{table}_rowid"', (rows,)).fetchone()[0])


def cut_short(path: Path) -> OutputError:
    """The error for a file that lost its end."""
    return OutputError(f"{path} came out incomplete: the disk is full; free some space and run the same command again")
