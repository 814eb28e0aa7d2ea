"""Results out of a database: which there are, and the Labels of one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pydantic

from ..errors import DatabaseError, GeoclassError
from ..grid import TileGrid
from ..labels import Labels
from ..schemes import ClassScheme
from .address import Address, parse_address, psycopg_or_refuse
from .connecting import connected
from .copying import Rows, unpack
from .run import RunInfo
from .tables import has_tables

if TYPE_CHECKING:
    import psycopg

SUM_SLACK = 1e-2
"""How far a tile's probabilities may be from a sum of 1, as for results in files."""
SHOWN_RUNS = 5


class NoSuchRun(DatabaseError):
    """The database answers, and does not hold the run that is asked for."""


def list_runs(address: str | Address, schema: str | None = None) -> list[RunInfo]:
    """The results in a database, the last loaded first; none where nothing was ever loaded. Raises DatabaseError."""
    at = parse_address(address, schema)
    with connected(at, reading=True) as connection:
        return _runs(connection, at)


def read_run(address: str | Address, run: str | None = None, schema: str | None = None) -> Labels:
    """The Labels of one result, as it was loaded.

    `run`, or `?run=` in the address, is the run's id or its view's name; it may be left out where there is one run only.
    Tiles deleted since are absent. Raises DatabaseError where the run is not there (NoSuchRun), or its rows are damaged.
    """
    at = parse_address(address, schema)
    with connected(at, reading=True) as connection:
        found = find_run(connection, at, run or at.run)
        scheme, grid, info = described(connection, at, found)
        raw = _has_raw(connection, at, found)
        rows = _rows(connection, at, found, len(scheme), raw)
    return _labels(rows, scheme, grid, info, raw, f"run {found.id} in {at.shown}")


def _runs(connection: psycopg.Connection[Any], at: Address) -> list[RunInfo]:
    if not has_tables(connection, at):
        return []
    sql = psycopg_or_refuse().sql
    query = (
        "SELECT r.id, r.name, r.date, s.name, r.tiles, r.model, r.view, r.loaded FROM {schema}.runs r "
        "JOIN {schema}.schemes s ON s.id = r.scheme ORDER BY r.loaded DESC, r.id"
    )
    rows = connection.execute(sql.SQL(query).format(schema=sql.Identifier(at.schema))).fetchall()
    return [RunInfo(*[*told, loaded.isoformat(timespec="seconds")]) for *told, loaded in rows]


def find_run(connection: psycopg.Connection[Any], at: Address, wanted: str | None) -> RunInfo:
    """The run with this id or view, the only one where None is wanted. Raises NoSuchRun, one line with the remedy."""
    runs = _runs(connection, at)
    chosen = [run for run in runs if wanted is None or wanted in (run.id, run.view)]
    if len(chosen) == 1:
        return chosen[0]
    where = f"schema {at.schema} of {at.shown}"
    if not runs:
        raise NoSuchRun(f"{where} holds no results; load one with geoclass load NAME.gpkg --to {at.shown}")
    names = ", ".join(run.view for run in runs[:SHOWN_RUNS]) + (", …" if len(runs) > SHOWN_RUNS else "")
    if wanted is None:
        raise NoSuchRun(f"{where} holds {len(runs)} results ({names}); say which with ?run= in the address")
    raise NoSuchRun(f"{where} holds no run {wanted[:80]!r}; it has {names}")


def described(
    connection: psycopg.Connection[Any], at: Address, run: RunInfo
) -> tuple[ClassScheme, TileGrid, dict[str, Any]]:
    """Classes, grid and provenance of a run. Raises DatabaseError where they are damaged."""
    sql = psycopg_or_refuse().sql
    query = "SELECT s.definition, r.grid, r.info FROM {schema}.runs r JOIN {schema}.schemes s ON s.id = r.scheme WHERE r.id = %s"
    row = connection.execute(sql.SQL(query).format(schema=sql.Identifier(at.schema)), (run.id,)).fetchone()
    try:
        if row is None:
            raise ValueError("it was deleted meanwhile")
        definition, grid, info = row
        return ClassScheme.model_validate_json(json.dumps(definition)), TileGrid.from_dict(grid), dict(info)
    except (pydantic.ValidationError, ValueError, KeyError, TypeError, GeoclassError) as error:
        raise _damaged(f"run {run.id} in {at.shown}", f"its description is wrong ({error})") from error


def _has_raw(connection: psycopg.Connection[Any], at: Address, run: RunInfo) -> bool:
    """Whether its tiles have raw probabilities; where one has, all must."""
    sql = psycopg_or_refuse().sql
    query = sql.SQL("SELECT count(raw_probabilities) > 0 FROM {}.tiles WHERE run = %s").format(
        sql.Identifier(at.schema)
    )
    found = connection.execute(query, (run.id,)).fetchone()
    return bool(found and found[0])


def _rows(connection: psycopg.Connection[Any], at: Address, run: RunInfo, classes: int, raw: bool) -> Rows:
    sql = psycopg_or_refuse().sql
    query = (
        "COPY (SELECT tile_column, tile_row, class_id, valid_fraction, probabilities{raw} FROM {tiles} WHERE run = {run} "
        "ORDER BY tile_row DESC, tile_column) TO STDOUT (FORMAT BINARY)"
    )
    whole = sql.SQL(query).format(
        raw=sql.SQL(", raw_probabilities" if raw else ""),
        tiles=sql.Identifier(at.schema, "tiles"),
        run=sql.Literal(run.id),
    )
    with connection.cursor() as cursor, cursor.copy(whole) as copy:
        rows = unpack(b"".join(bytes(part) for part in copy), classes, raw)
    if rows is None:
        raise _damaged(f"run {run.id} in {at.shown}", f"a tile has not {classes} probabilities")
    return rows


def _labels(rows: Rows, scheme: ClassScheme, grid: TileGrid, info: dict[str, Any], raw: bool, where: str) -> Labels:
    tables = {name: rows[name]["value"].astype(np.float32) for name in ("probabilities", *(["raw"] if raw else []))}
    for table in tables.values():
        # Written so that NaN fails too.
        if len(rows) and not (table.min() >= 0 and np.abs(table.sum(axis=1) - 1).max() <= SUM_SLACK):
            raise _damaged(where, "a tile's probabilities do not sum to 1")
    valid = rows["valid_fraction"].astype(np.float32)
    if len(rows) and not (valid.min() >= 0 and valid.max() <= 1):
        raise _damaged(where, "a tile's valid fraction is not from 0 to 1")
    columns, lines = rows["column"].astype(np.int64), rows["row"].astype(np.int64)
    if ((np.diff(lines) == 0) & (np.diff(columns) == 0)).any():
        raise _damaged(where, "a tile comes twice")
    return Labels(grid, scheme, columns, lines, tables["probabilities"], valid, info=info, raw=tables.get("raw"))


def _damaged(where: str, reason: str) -> DatabaseError:
    return DatabaseError(f"{where} is damaged: {reason}; load it again with geoclass load")
