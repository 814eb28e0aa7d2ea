"""A view of each class scheme and of each run, with a column for each class's probability, for people and QGIS."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..errors import DatabaseError
from ..schemes import ClassScheme
from .address import NAME_BYTES, Address, as_name, psycopg_or_refuse
from .tables import Place, kind_of

if TYPE_CHECKING:
    import psycopg

_VIEW = """
CREATE VIEW {view} AS
SELECT t.id, t.tile_id, t.run, r.name, t.date, t.class, t.class_id, t.confidence, t.valid_fraction,
    r.side_m * r.side_m * t.valid_fraction / 10000 AS area_ha, {probabilities}, t.geom
FROM {tiles} t JOIN {runs} r ON r.id = t.run
WHERE r.{column} = {value}
"""
_OTHER_VIEWS = """
SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relkind = 'v' AND position(%s IN pg_get_viewdef(c.oid)) = 0
"""
"""The views of a schema that do not name a run."""


def enter_scheme(connection: psycopg.Connection[Any], address: Address, scheme: ClassScheme) -> tuple[str, str]:
    """(id, stem of the name of its views) of a scheme, entered where it is not there yet.

    Two schemes of one name and other classes, as two `custom` ones, have views of their own: landcover_custom and
    landcover_custom_2.
    """
    sql = psycopg_or_refuse().sql
    text = scheme.model_dump_json()
    key = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    table = sql.Identifier(address.schema, "schemes")
    found = connection.execute(sql.SQL("SELECT id, stem FROM {}").format(table)).fetchall()
    known = {str(name): str(stem) for name, stem in found}
    if key not in known:
        known[key] = _free(f"landcover_{as_name(scheme.name) or 'scheme'}"[:40], known.values())
        connection.execute(
            sql.SQL("INSERT INTO {} (id, name, title, stem, definition) VALUES (%s, %s, %s, %s, %s)").format(table),
            (key, scheme.name, scheme.title, known[key], text),
        )
    return key, known[key]


def run_view_name(connection: psycopg.Connection[Any], address: Address, run: str, name: object, date: object) -> str:
    """The name of a run's view: the one it has, else run_<name>_<date>, with a number where another run has that.

    A view outlives its run where that was deleted from `runs`. It shows no other run, so its name is not free.
    """
    sql = psycopg_or_refuse().sql
    found = connection.execute(
        sql.SQL("SELECT id, view FROM {}").format(sql.Identifier(address.schema, "runs"))
    ).fetchall()
    known = {str(key): str(view) for key, view in found}
    others = connection.execute(_OTHER_VIEWS, (address.schema, f"'{run}'")).fetchall()
    taken = {*known.values(), *(str(view) for (view,) in others)}
    parts = [as_name(str(part)) for part in (name, date) if part]
    return known.get(run) or _free("_".join(["run", *filter(None, parts)])[: NAME_BYTES - 5], taken)


def make_view(
    connection: psycopg.Connection[Any],
    address: Address,
    view: str,
    place: Place,
    scheme: ClassScheme,
    column: str,
    value: str,
) -> None:
    """Make the view where it is not there: the tiles of `place` whose run has `value` in `column`. Raises DatabaseError
    where something else than a view has its name."""
    sql = psycopg_or_refuse().sql
    kind = kind_of(connection, address.schema, view)
    if kind not in (None, "v"):
        raise DatabaseError(
            f"schema {address.schema} of {address.shown} has a table {view} that geoclass did not make; "
            "choose another schema with --schema"
        )
    if kind is None:
        columns = [
            sql.SQL("t.probabilities[{}] AS {}").format(sql.Literal(number), sql.Identifier(name))
            for number, name in enumerate(probability_columns(scheme), start=1)
        ]
        connection.execute(
            sql.SQL(_VIEW).format(
                view=sql.Identifier(address.schema, view),
                tiles=sql.Identifier(address.schema, place.table),
                runs=sql.Identifier(address.schema, "runs"),
                probabilities=sql.SQL(", ").join(columns),
                column=sql.Identifier(column),
                value=sql.Literal(value),
            )
        )


def probability_columns(scheme: ClassScheme) -> list[str]:
    """A column name for each class that SQL takes without quotes: p_developed_open_space; by its id where letters fail."""
    names: list[str] = []
    for item in scheme.classes:
        name = f"p_{as_name(item.name) or item.id}"[: NAME_BYTES - 4]
        names.append(_free(name, names))
    return names


def _free(name: str, taken: Iterable[str]) -> str:
    """`name`, or with the first number after it that makes it new."""
    used = set(taken)
    if name not in used:
        return name
    return next(f"{name}_{number}" for number in itertools.count(2) if f"{name}_{number}" not in used)
