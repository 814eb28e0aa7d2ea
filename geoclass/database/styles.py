"""The look of views and tables, in the database's own table of styles, where QGIS finds it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..outputs import style
from ..schemes import ClassScheme
from .address import psycopg_or_refuse

if TYPE_CHECKING:
    import psycopg

# What QGIS makes when it saves a style into a database (createStylesTable in src/providers/postgres of QGIS 3); it finds the
# table on the search path, hence in schema public wherever nobody moved it.
_STYLES = """
CREATE TABLE public.layer_styles (
    id serial PRIMARY KEY, f_table_catalog varchar, f_table_schema varchar, f_table_name varchar, f_geometry_column varchar,
    stylename text, styleqml xml, stylesld xml, useasdefault boolean, description text,
    owner varchar(63) DEFAULT CURRENT_USER, ui xml, update_time timestamp DEFAULT CURRENT_TIMESTAMP
)
"""
_STYLE = """
INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, stylename, styleqml,
    useasdefault, description)
SELECT current_database(), %(schema)s::text, %(relation)s::text, 'geom', %(name)s::text, XMLPARSE(DOCUMENT %(qml)s::text),
    NOT EXISTS (SELECT 1 FROM layer_styles WHERE f_table_catalog = current_database() AND f_table_schema = %(schema)s::text
        AND f_table_name = %(relation)s::text AND f_geometry_column = 'geom' AND useasdefault), %(about)s::text
WHERE NOT EXISTS (SELECT 1 FROM layer_styles WHERE f_table_catalog = current_database() AND f_table_schema = %(schema)s::text
    AND f_table_name = %(relation)s::text AND f_geometry_column = 'geom' AND stylename = %(name)s::text)
"""


def store_style(connection: psycopg.Connection[Any], relation: str, schema: str, scheme: ClassScheme) -> str | None:
    """Give a view or table the scheme's look, which QGIS applies by itself; a style of that name is left as it is.

    Returns a note for the user where the table of styles may not be written: the tiles are none the worse for it.
    """
    psycopg = psycopg_or_refuse()
    try:
        with connection.transaction():
            if connection.execute("SELECT to_regclass('layer_styles')::text").fetchone() == (None,):
                connection.execute(_STYLES)
            values = {
                "schema": schema, "relation": relation, "name": scheme.name[:30], "qml": style.qml(scheme),
                "about": scheme.title or f"Classes of scheme {scheme.name}",
            }  # fmt: skip
            connection.execute(_STYLE, values)
    except psycopg.errors.InsufficientPrivilege as error:
        return (
            f"the colours of {relation} are not stored for QGIS ({error.diag.message_primary}); have the owner of the database "
            f"run: GRANT CREATE ON SCHEMA public TO {connection.info.user}, and load again"
        )
    return None
