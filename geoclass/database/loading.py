"""Results into a database: all of a run in one transaction, or nothing of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DatabaseError
from ..labels import SMOOTHING_KEY, Labels
from ..outputs.style import to_json
from ..results import read_result
from .address import Address, parse_address, psycopg_or_refuse
from .connecting import connected
from .copying import CHUNK_TILES, HEADER, TRAILER, pack
from .styles import store_style
from .tables import Place, prepare, tile_table
from .views import enter_scheme, make_view, run_view_name

if TYPE_CHECKING:
    import psycopg

IDENTITY = ("name", "date", "inputs", "bundle", "like", SMOOTHING_KEY, "min_valid", "aoi_rule", "aois")
"""What makes a run this run, besides grid and classes. Not what it ran on: another runtime gives the same map."""

# The tile id, its class and its square follow from columns, rows and the class's place, and need not travel. The corners
# are the same products as in TileGrid.polygons, hence the same to the last bit.
_STAGE = """
CREATE TEMPORARY TABLE geoclass_stage (tile_column integer NOT NULL, tile_row integer NOT NULL, place smallint NOT NULL,
    valid_fraction real NOT NULL, probabilities real[] NOT NULL{raw}, PRIMARY KEY (tile_column, tile_row)) ON COMMIT DROP
"""
_MERGE = """
INSERT INTO {tiles} AS t (run, tile_id, date, tile_column, tile_row, class, class_id, confidence, probabilities,
    raw_probabilities, valid_fraction, geom)
SELECT %(run)s, %(prefix)s || '_' || tile_column || '_' || tile_row, %(date)s, tile_column, tile_row,
    (%(names)s::text[])[place], (%(ids)s::smallint[])[place], probabilities[place], probabilities, {raw}, valid_fraction,
    {postgis}.ST_MakeEnvelope(tile_column * %(side)s::float8, tile_row * %(side)s::float8,
        (tile_column + 1) * %(side)s::float8, (tile_row + 1) * %(side)s::float8, %(srid)s)
FROM geoclass_stage
ON CONFLICT (run, tile_id) DO UPDATE SET date = excluded.date, class = excluded.class, class_id = excluded.class_id,
    confidence = excluded.confidence, probabilities = excluded.probabilities,
    raw_probabilities = excluded.raw_probabilities, valid_fraction = excluded.valid_fraction, geom = excluded.geom
WHERE (t.class, t.class_id, t.confidence, t.probabilities, t.raw_probabilities, t.valid_fraction) IS DISTINCT FROM
    (excluded.class, excluded.class_id, excluded.confidence, excluded.probabilities, excluded.raw_probabilities,
    excluded.valid_fraction)
"""
# The server has no statistics of a new run yet and takes it for a row or two; the stage's index keeps that harmless, where
# without one it compared every tile with every other (minutes).
_FORGET = """
DELETE FROM {tiles} t WHERE t.run = %s AND NOT EXISTS (
    SELECT 1 FROM geoclass_stage s WHERE s.tile_column = t.tile_column AND s.tile_row = t.tile_row)
"""
_RUN = """
INSERT INTO {runs} (id, name, date, scheme, model, bundle, tiles, tile_table, view, srid, side_m, grid, info)
VALUES (%(id)s, %(name)s, %(date)s, %(scheme)s, %(model)s, %(bundle)s, %(tiles)s, %(tile_table)s, %(view)s, %(srid)s,
    %(side_m)s, %(grid)s, %(info)s)
ON CONFLICT (id) DO UPDATE SET tiles = excluded.tiles, model = excluded.model, info = excluded.info, loaded = now()
"""


@dataclass(frozen=True)
class Loaded:
    """What a load made: the run's id, its tiles, those written (fewer where the run was there already), the table they are in,
    the views of the run and of its class scheme, and notes for the user. `address` is without its password."""

    run: str
    tiles: int
    written: int
    address: str
    schema: str
    table: str
    run_view: str
    scheme_view: str
    notes: tuple[str, ...] = ()


def load_result(result: Labels | str | Path, to: str | Address, *, schema: str | None = None) -> Loaded:
    """Load a result, or the GeoPackage that `geoclass classify` wrote, into a PostgreSQL database with PostGIS.

    `to` is postgresql://user@host/database; `schema` (default: geoclass) is made where it is missing. All is one
    transaction: a load that fails or is killed leaves nothing. Loading a run again changes what differs, so that the
    database holds just that result. Raises DatabaseError, and OutputError for a file that is no result.
    """
    address = parse_address(to, schema)
    labels = result if isinstance(result, Labels) else read_result(result)
    if not len(labels):
        raise DatabaseError("the result has no tiles, so nothing is loaded; check the area, or lower --min-valid")
    with connected(address) as connection:
        place = tile_table(connection, address, prepare(connection, address), labels.grid)
        return _load(connection, address, place, labels)


def require_database(to: str | Address, *, schema: str | None = None) -> None:
    """Try all that a load needs but the tiles, and take it back. Raises DatabaseError where a load would."""
    address = parse_address(to, schema)
    with connected(address) as connection:
        prepare(connection, address)
        connection.rollback()


def run_id(labels: Labels) -> str:
    """16 hexadecimal digits that are the same whenever the same result is made again: same inputs, date, bundle, grid,
    classes and options. A result that does not say where it comes from is known by its content."""
    known = {key: labels.info.get(key) for key in IDENTITY}
    digest = hashlib.blake2b(to_json([known, labels.grid.to_dict()]).encode(errors="replace"), digest_size=8)
    digest.update(labels.scheme.model_dump_json().encode())
    if not (known["inputs"] and known["bundle"]):
        for array in (labels.columns, labels.rows, labels.probabilities):
            digest.update(array.tobytes())
    return digest.hexdigest()


def _load(connection: psycopg.Connection[Any], address: Address, place: Place, labels: Labels) -> Loaded:
    sql = psycopg_or_refuse().sql
    run, info = run_id(labels), labels.info
    scheme, stem = enter_scheme(connection, address, labels.scheme)
    run_view = run_view_name(connection, address, run, info.get("name"), info.get("date"))
    scheme_view = f"{stem}_{labels.grid.crs_label}"
    values = {
        "id": run, "name": _text(info.get("name")), "date": _text(info.get("date")), "scheme": scheme,
        "model": _text(info.get("model")), "bundle": _text(info.get("bundle")), "tiles": len(labels), "tile_table": place.table,
        "view": run_view, "srid": place.srid, "side_m": labels.grid.side_m, "grid": to_json(labels.grid.to_dict()),
        "info": _text(to_json(info)),
    }  # fmt: skip
    connection.execute(sql.SQL(_RUN).format(runs=sql.Identifier(address.schema, "runs")), values)
    written = _load_tiles(connection, place, labels, run)
    make_view(connection, address, run_view, place, labels.scheme, "id", run)
    make_view(connection, address, scheme_view, place, labels.scheme, "scheme", scheme)
    notes = [
        store_style(connection, name, address.schema, labels.scheme) for name in (run_view, scheme_view, place.table)
    ]
    return Loaded(
        run, len(labels), written, address.shown, address.schema, place.table, run_view, scheme_view,
        tuple(filter(None, notes[:1])),
    )  # fmt: skip


def _load_tiles(connection: psycopg.Connection[Any], place: Place, labels: Labels, run: str) -> int:
    """Bring the run's rows to what `labels` says; return how many had to be written."""
    sql = psycopg_or_refuse().sql
    raw = labels.raw is not None
    connection.execute(sql.SQL(_STAGE).format(raw=sql.SQL(", raw_probabilities real[] NOT NULL" if raw else "")))
    with connection.cursor() as cursor, cursor.copy("COPY geoclass_stage FROM STDIN (FORMAT BINARY)") as copy:
        for piece in _binary(labels):
            copy.write(piece)
    connection.execute("ANALYZE geoclass_stage")
    tiles = sql.Identifier(place.schema, place.table)
    values = {
        "run": run, "prefix": labels.grid.prefix, "date": _text(labels.info.get("date")), "names": list(labels.scheme.names),
        "ids": list(labels.scheme.ids), "side": labels.grid.side, "srid": place.srid,
    }  # fmt: skip
    column = sql.SQL("raw_probabilities" if raw else "NULL::real[]")
    merge = sql.SQL(_MERGE).format(tiles=tiles, raw=column, postgis=sql.Identifier(place.postgis))
    written = connection.execute(merge, values).rowcount
    connection.execute(sql.SQL(_FORGET).format(tiles=tiles), (run,))
    connection.execute(sql.SQL("ANALYZE {}").format(tiles))  # else QGIS and the planner know nothing of the new rows
    return int(written)


def _binary(labels: Labels) -> Iterator[bytes]:
    places = labels.class_index + 1
    yield HEADER
    for start in range(0, len(labels), CHUNK_TILES):
        part = slice(start, start + CHUNK_TILES)
        yield pack(
            labels.columns[part],
            labels.rows[part],
            places[part],
            labels.valid_fraction[part],
            labels.probabilities[part],
            None if labels.raw is None else labels.raw[part],
        )
    yield TRAILER


def _text(value: object) -> str | None:
    """`value` as text that UTF-8 can carry: a file's name need not be."""
    return None if value is None else str(value).encode(errors="replace").decode()
