"""Change as polygons: the GeoPackage that says of every tile what it was on each date, what became of it, how surely.

Layer `change` has the tiles that every date covers, layer `uncovered` those that some date lacks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa

from .. import __version__
from ..changes.posterior import ARROW, KINDS, Change
from ..errors import OutputError
from ..files import write_errors
from ..grid import IntArray, TileGrid
from ..tiletable import Columns, Values, corners, places, polygons, stream, words
from . import changeqml, style
from .changestyle import CATEGORIES, categories
from .geopackage import GEOMETRY, Style, finish, write_layer

LAYER, UNCOVERED_LAYER = "change", "uncovered"
CHANGE_KEY = "GEOCLASS_CHANGE"
MAX_COLUMNS = 2000
"""Of a table, in SQLite as everybody builds it (sqlite.org/limits.html)."""


def write_change_gpkg(
    change: Change,
    path: Path,
    *,
    info: Mapping[str, Any],
    hot_spots: Values | None = None,
    home: Path | None = None,
) -> None:
    """Write layers `change` and, where some date lacks a tile, `uncovered` to `path`, a .gpkg that does not exist yet.

    One square a tile in the grid's CRS, in the order of the series, styled for QGIS, with the metadata from which
    `changes.stored.read_change` makes the same Change. `class_<date>` and `p_<class>_<date>` are what all dates say
    together, `raw_class_<date>` and `raw_p_<class>_<date>` what each date's classifier said alone; valid_fraction is
    that of the worst-covered date. info: plain values that travel along; hot_spots: (N,) becomes column `hot_spot`;
    home: the folder in which the file will lie at last, where `path` is a temporary place: the results are named
    relative to it. Raises OutputError.
    """
    series = change.series
    if not len(change):
        raise OutputError(f"no tile is covered on every date, so {path.name} is not written; give other results")
    count = 12 + len(series.dates) * (3 + 2 * len(series.scheme))
    if count > MAX_COLUMNS:
        raise OutputError(
            f"{len(series.scheme)} classes on {len(series.dates)} dates make {count:,} columns, and a GeoPackage holds "
            f"{MAX_COLUMNS:,}; bring the classes together with --group, or give fewer dates"
        )
    metadata = _metadata(change, info, home or path.parent)
    with write_errors(path):
        columns = _change_columns(change, hot_spots)
        _write(
            path,
            LAYER,
            series.grid,
            series.columns,
            series.rows,
            columns,
            metadata,
            _title(change, info),
            _description(change),
        )
        finish(path, LAYER, len(change), _styles(change))
        lost = series.uncovered
        if len(lost):
            title = f"Tiles not covered on every date, {series.dates[0]} to {series.dates[-1]}"
            columns = _uncovered_columns(change)
            _write(
                path,
                UNCOVERED_LAYER,
                series.grid,
                lost.columns,
                lost.rows,
                columns,
                {},
                title,
                "Left out of every figure.",
            )
            text = "Outline of tiles that some date lacks"
            finish(path, UNCOVERED_LAYER, len(lost), [Style("not covered", changeqml.outline_qml(), text)])


def _write(
    path: Path,
    layer: str,
    grid: TileGrid,
    columns: IntArray,
    rows: IntArray,
    more: Columns,
    metadata: Mapping[str, str],
    title: str,
    description: str,
) -> None:
    """Stream the tiles into a layer: their ids and places, the columns that `more` makes, and squares."""

    def made(part: slice) -> dict[str, Values | pa.Array]:
        at = grid, columns[part], rows[part]
        return {**places(*at), **more(part), GEOMETRY: polygons(corners(*at))}

    write_layer(path, layer, stream(len(columns), made), grid, metadata, title, description)


def _change_columns(change: Change, hot_spots: Values | None) -> Columns:
    series = change.series
    names, dates = series.scheme.names, series.dates
    kinds, kept, raw = change.kind, change.classes, series.classes
    what, count = categories(change), len(names)
    moves = [a if a == b else a + ARROW + b for a in names for b in names]

    def columns(part: slice) -> dict[str, Values | pa.Array]:
        each: dict[str, Values | pa.Array] = {
            "change": words(what[part], [item.label for item in CATEGORIES]),
            "transition": words(kept[part, 0] * count + kept[part, -1], moves),
            "kind": words(kinds[part], KINDS),
            "p_change": change.p_change[part],
            "p_new_built": change.p_new_built[part],
            "new_built": change.new_built[part],
        }
        if hot_spots is not None:
            each["hot_spot"] = hot_spots[part]
        each |= {f"class_{date}": words(kept[part, t], names) for t, date in enumerate(dates)}
        each |= {f"raw_class_{date}": words(raw[part, t], names) for t, date in enumerate(dates)}
        each["valid_fraction"] = series.valid_fraction[part].min(axis=1)
        each |= {f"valid_fraction_{date}": series.valid_fraction[part, t] for t, date in enumerate(dates)}
        for start, table in (("p", change.posterior), ("raw_p", series.probabilities)):
            each |= {
                f"{start}_{name}_{date}": table[part, t, k]
                for t, date in enumerate(dates)
                for k, name in enumerate(names)
            }
        return each

    return columns


def _uncovered_columns(change: Change) -> Columns:
    series = change.series

    def columns(part: slice) -> dict[str, Values | pa.Array]:
        return {f"covered_{date}": series.uncovered.covered[part, t] for t, date in enumerate(series.dates)}

    return columns


def _styles(change: Change) -> list[Style]:
    series = change.series
    styles = [
        Style("change", changeqml.change_qml(), "What became of each tile"),
        Style("chance of new built-up", changeqml.chance_qml(), "How probable new built-up land is"),
    ]
    for date in series.dates:
        qml = changeqml.classes_qml(series.scheme, f"class_{date}")
        styles.append(Style(f"classes {date}", qml, f"Classes of {date}, given all dates"))
    return styles


def _title(change: Change, info: Mapping[str, Any]) -> str:
    name, dates = info.get("name"), change.series.dates
    return "Land-cover change" + (f" of {name}" if name else "") + f", {dates[0]} to {dates[-1]}"


def _description(change: Change) -> str:
    series = change.series
    return (
        f"{len(series):,} tiles of {series.grid.side_m:g} m on {len(series.dates)} dates ({', '.join(series.dates)}), "
        f"classes of scheme {series.scheme.name} ({'; '.join(series.scheme.names)}). Written by geoclass {__version__}."
    )


def _metadata(change: Change, info: Mapping[str, Any], home: Path) -> dict[str, str]:
    series, prior = change.series, change.prior
    about = {
        "tiles": len(series),
        "uncovered": len(series.uncovered),
        "dates": series.dates,
        "built": series.built,
        "open": series.open,
        "threshold": float(change.threshold),
        "warnings": series.warnings,
        "prior": {"start": prior.start, "transitions": prior.transitions},
        "sources": [{"path": relative(item.path, home), "info": item.info} for item in series.sources],
    }
    return {
        style.INFO_KEY: style.to_json(info),
        style.SCHEME_KEY: series.scheme.model_dump_json(),
        style.GRID_KEY: style.to_json(series.grid.to_dict()),
        CHANGE_KEY: style.to_json(about),
    }


def relative(path: Path | None, home: Path) -> str | None:
    """How to get from `home` to `path`, so that both can be moved together; on another drive, all of the path."""
    if path is None:
        return None
    try:
        return PurePath(os.path.relpath(path.resolve(), home.resolve())).as_posix()
    except ValueError:
        return path.resolve().as_posix()
