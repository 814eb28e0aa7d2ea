"""The tables of results: `schemes`, `runs` and, one a reference system, `tiles_<epsg>`, all below `tiles`.

A column of geometry has one reference system, or neither its type nor QGIS nor a spatial index can be relied on, and a county
of another UTM zone must fit in the same database. So the tiles of each system have a table of their own, which inherits from
`tiles`: whoever needs no geometry asks `tiles` for all of them. Grids of several tile sizes share a table, as they share
coordinates; the tile id tells them apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import DatabaseError
from ..grid import TileGrid
from .address import Address, psycopg_or_refuse
from .systems import srid_of

if TYPE_CHECKING:
    import psycopg

LAYOUT = 1
"""The version of these tables; another one is refused rather than guessed at."""
MARK = "geoclass_layout"
# Of the whole database, not of a schema: PostGIS and the table of styles are there once, too.
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('geoclass', 0))"

_TABLES = """
CREATE TABLE {schema}.geoclass_layout (version integer NOT NULL, made timestamptz NOT NULL DEFAULT now());
INSERT INTO {schema}.geoclass_layout (version) VALUES ({version});
CREATE TABLE {schema}.schemes (
    id text PRIMARY KEY,
    name text NOT NULL,
    title text NOT NULL,
    stem text NOT NULL UNIQUE,
    definition jsonb NOT NULL
);
CREATE TABLE {schema}.runs (
    id text PRIMARY KEY,
    name text,
    date text,
    scheme text NOT NULL REFERENCES {schema}.schemes,
    model text,
    bundle text,
    tiles integer NOT NULL,
    tile_table text NOT NULL,
    view text NOT NULL UNIQUE,
    srid integer NOT NULL,
    side_m double precision NOT NULL,
    grid jsonb NOT NULL,
    info jsonb NOT NULL,
    created timestamptz NOT NULL DEFAULT now(),
    loaded timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE {schema}.tiles (
    run text NOT NULL,
    tile_id text NOT NULL,
    date text,
    tile_column integer NOT NULL,
    tile_row integer NOT NULL,
    class text NOT NULL,
    class_id smallint NOT NULL,
    confidence real NOT NULL,
    probabilities real[] NOT NULL,
    raw_probabilities real[],
    valid_fraction real NOT NULL
);
COMMENT ON TABLE {schema}.schemes IS 'geoclass: class schemes, a row each';
COMMENT ON TABLE {schema}.runs IS 'geoclass: results, a row each; deleting one deletes its tiles';
COMMENT ON TABLE {schema}.tiles IS 'geoclass: tiles of all results; with geometry in the tables below it, one a reference system';
COMMENT ON COLUMN {schema}.tiles.probabilities IS 'in the order of the classes in schemes.definition';
"""
_TILE_TABLE = """
CREATE TABLE {table} (
    id bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    geom {postgis}.geometry(Polygon, {srid}) NOT NULL,
    PRIMARY KEY (run, tile_id),
    FOREIGN KEY (run) REFERENCES {schema}.runs ON DELETE CASCADE
) INHERITS ({schema}.tiles);
CREATE INDEX ON {table} (tile_id);
CREATE INDEX ON {table} USING gist (geom);
COMMENT ON TABLE {table} IS {comment};
"""


@dataclass(frozen=True)
class Place:
    """Where the tiles of a grid are kept: schema and table, the SRID of its geometry, and the schema PostGIS is in."""

    schema: str
    table: str
    srid: int
    postgis: str


def prepare(connection: psycopg.Connection[Any], address: Address) -> str:
    """Make what is missing of PostGIS, schema and tables; return the schema PostGIS is in.

    Other loads into the database wait until this transaction ends. Raises DatabaseError where PostGIS cannot be had, or
    the schema holds tables that are not ours or of another version.
    """
    sql = psycopg_or_refuse().sql
    connection.execute(LOCK)
    postgis = _postgis(connection, address)
    schema = sql.Identifier(address.schema)
    if not connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (address.schema,)).fetchone():
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
    if not has_tables(connection, address):
        connection.execute(sql.SQL(_TABLES).format(schema=schema, version=sql.Literal(LAYOUT)))
    return postgis


def has_tables(connection: psycopg.Connection[Any], address: Address) -> bool:
    """Whether our tables are there. Raises DatabaseError where tables of their names are not ours, or of another version."""
    sql = psycopg_or_refuse().sql
    if kind_of(connection, address.schema, MARK) is None:
        for name in ("schemes", "runs", "tiles"):
            if kind_of(connection, address.schema, name) is not None:
                raise DatabaseError(
                    f"schema {address.schema} of {address.shown} has a table {name} that geoclass did not make; "
                    "choose another schema with --schema"
                )
        return False
    found = connection.execute(
        sql.SQL("SELECT max(version) FROM {}").format(sql.Identifier(address.schema, MARK))
    ).fetchone()
    version = found[0] if found else None
    if version != LAYOUT:
        raise DatabaseError(
            f"the tables in schema {address.schema} of {address.shown} are of layout {version}, and this geoclass knows "
            f"{LAYOUT}: choose another --schema, or use the geoclass that made them"
        )
    return True


def kind_of(connection: psycopg.Connection[Any], schema: str, name: str) -> str | None:
    """What is called `name` there: r for a table, v for a view, another letter, or None (see pg_class.relkind)."""
    found = connection.execute(
        "SELECT c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s",
        (schema, name),
    ).fetchone()
    return str(found[0]) if found else None


def _postgis(connection: psycopg.Connection[Any], address: Address) -> str:
    """The schema PostGIS is in, after an attempt to add it where it is missing."""
    errors = psycopg_or_refuse().errors
    found = postgis_schema(connection)
    if found is None:
        if not connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'postgis'").fetchone():
            raise DatabaseError(
                f"the server of {address.shown} has no PostGIS; install it there (on Debian: apt-get install postgresql-postgis)"
            )
        try:
            with connection.transaction():
                connection.execute("CREATE EXTENSION postgis")
        except errors.InsufficientPrivilege as error:
            name = connection.info.dbname
            raise DatabaseError(
                f"database {name} has no PostGIS, and user {connection.info.user} may not add it; have an administrator run: "
                f'psql -d {name} -c "CREATE EXTENSION postgis"'
            ) from error
        found = postgis_schema(connection)
    return found or "public"


def postgis_schema(connection: psycopg.Connection[Any]) -> str | None:
    """The schema PostGIS is in; None where the database has none."""
    found = connection.execute(
        "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'postgis'"
    ).fetchone()
    return str(found[0]) if found else None


def tile_table(connection: psycopg.Connection[Any], address: Address, postgis: str, grid: TileGrid) -> Place:
    """The table for the tiles of a grid, made where it is missing. Raises DatabaseError where its name is taken."""
    sql = psycopg_or_refuse().sql
    place = Place(address.schema, f"tiles_{grid.crs_label}", srid_of(connection, postgis, grid), postgis)
    kind = kind_of(connection, place.schema, place.table)
    if kind is None:
        connection.execute(
            sql.SQL(_TILE_TABLE).format(
                table=sql.Identifier(place.schema, place.table),
                schema=sql.Identifier(place.schema),
                postgis=sql.Identifier(postgis),
                srid=sql.Literal(place.srid),
                comment=sql.Literal(f"geoclass: tiles in {grid.crs.name}"),
            )
        )
    elif not _is_ours(connection, place):
        raise DatabaseError(
            f"schema {place.schema} of {address.shown} has a table {place.table} that geoclass did not make; "
            "choose another schema with --schema"
        )
    return place


def _is_ours(connection: psycopg.Connection[Any], place: Place) -> bool:
    """Whether the table inherits from `tiles`."""
    return bool(
        connection.execute(
            "SELECT 1 FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent "
            "JOIN pg_namespace n ON n.oid = c.relnamespace AND n.oid = p.relnamespace "
            "WHERE n.nspname = %s AND c.relname = %s AND p.relname = 'tiles'",
            (place.schema, place.table),
        ).fetchone()
    )
