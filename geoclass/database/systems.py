"""Coordinate reference systems as PostGIS numbers them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pyproj

from ..errors import DatabaseError
from ..grid import TileGrid
from .address import psycopg_or_refuse

if TYPE_CHECKING:
    import psycopg

OWN_SRIDS = range(910_000, 998_000)
"""Numbers for systems that have no EPSG code; PostGIS leaves those up to 998,999 to users."""


def srid_of(connection: psycopg.Connection[Any], postgis: str, grid: TileGrid) -> int:
    """The SRID of the grid's CRS, entered into `spatial_ref_sys` where it is not there yet. `postgis` is its schema.

    Raises DatabaseError where it may not be entered.
    """
    driver = psycopg_or_refuse()
    sql = driver.sql
    table = sql.Identifier(postgis, "spatial_ref_sys")
    code = grid.crs.to_epsg(min_confidence=90)
    wkt = _wkt(grid.crs)
    number = code or OWN_SRIDS.start + int(grid.crs_label[1:], 16) % len(OWN_SRIDS)
    while True:
        found = connection.execute(sql.SQL("SELECT srtext FROM {} WHERE srid = %s").format(table), (number,)).fetchone()
        if found is None:
            break
        if code or found[0] == wkt:
            return int(number)
        number += 1  # another system has the same number
    insert = "INSERT INTO {} (srid, auth_name, auth_srid, srtext, proj4text) VALUES (%s, %s, %s, %s, %s)"
    values = (number, "EPSG" if code else "geoclass", number, wkt, _proj4(grid.crs))
    try:
        connection.execute(sql.SQL(insert).format(table), values)
    except driver.errors.InsufficientPrivilege as error:
        user = connection.info.user
        raise DatabaseError(
            f"PostGIS does not know the CRS {grid.crs.name!r}, and user {user} may not enter it into spatial_ref_sys; have an "
            f"administrator run: GRANT INSERT ON {postgis}.spatial_ref_sys TO {user}"
        ) from error
    return int(number)


def _wkt(crs: pyproj.CRS) -> str:
    """The text that PostGIS keeps; WKT 1 where the CRS can be said so, because QGIS and GDAL look there."""
    try:
        return str(crs.to_wkt("WKT1_GDAL"))
    except pyproj.exceptions.CRSError:
        return str(crs.to_wkt("WKT2_2019"))


def _proj4(crs: pyproj.CRS) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the text loses something is known; srtext has it all
        return str(crs.to_proj4())
