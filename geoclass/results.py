"""Read a finished result back: the GeoPackage that `geoclass classify` wrote, as the Labels it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydantic
import pyogrio

from .database.address import is_address
from .errors import GeoclassError, OutputError
from .grid import TileGrid
from .labels import SMOOTHING_KEY, FloatArray, Labels
from .outputs.style import GRID_KEY, INFO_KEY, LAYER, SCHEME_KEY
from .schemes import ClassScheme
from .tiletable import read_columns

Fields = dict[str, npt.NDArray[Any]]

CHANGE_LAYER = "change"
"""What `geoclass change` calls its layer (see outputs.changevector, a later room)."""
MOST_TILES_AWAY = 100_000_000
"""Columns and rows from the origin of a CRS that tiles of a metre would still need."""
SUM_SLACK = 1e-2
"""How far a tile's probabilities may be from a sum of 1: those of a half-precision run are rounded."""


def read_result(path: str | Path) -> Labels:
    """The Labels in a GeoPackage that `geoclass classify` wrote, or in a database; thumbnails are not kept there.

    `path` is the file, or `postgresql://user@host/database?run=ID` (see `database.reading.read_run`).
    Probabilities and valid fractions are the float32 values that were written. Tiles deleted since are absent;
    columns added since are ignored, and so are edits of `class`: the class is the most probable one. Smoothed labels
    come with the model's own probabilities beside. Raises OutputError where the file is missing, no geoclass result, or
    damaged, and DatabaseError for a database.
    """
    if isinstance(path, str) and is_address(path):
        from .database.reading import read_run

        return read_run(path)
    path = Path(path)
    if not path.is_file():
        raise OutputError(f"there is no file {path}; name the .gpkg that geoclass classify wrote")
    described = _describe(path)
    scheme, grid, info = _metadata(path, described["layer_metadata"] or {})
    tables = [start for start in ("p_", "raw_p_") if start == "p_" or info.get(SMOOTHING_KEY)]
    wanted = [*(f"{t}{name}" for t in tables for name in scheme.names), "valid_fraction"]
    absent = [name for name in ("tile_id", "column", "row", *wanted) if name not in set(described["fields"])]
    if absent:
        raise _damaged(path, f"column {absent[0]!r} is missing")
    fields, alike = _read(path, wanted, grid)
    if len(fields["row"]) != described["features"]:
        raise _damaged(path, f"{described['features']:,} tiles are announced and {len(fields['row']):,} are there")
    labels = _labels(path, fields, scheme, grid, info)
    if not alike:
        raise _damaged(path, "tile ids disagree with columns and rows")
    return labels


def _describe(path: Path) -> dict[str, Any]:
    try:
        layers = [str(name) for name, _ in pyogrio.list_layers(path)]
        if LAYER in layers:
            return dict(pyogrio.read_info(path, layer=LAYER, force_feature_count=True))
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise OutputError(
            f"{path} cannot be read as a geoclass result: {str(error).split(';')[0].rstrip('.')}; "
            "name the .gpkg that geoclass classify wrote, or make it again with --overwrite"
        ) from error
    if CHANGE_LAYER in layers:
        raise OutputError(
            f"{path} is a result of geoclass change, which has a trend and not one date's classes; name the .gpkg that "
            "geoclass classify wrote for each date (a database takes those, and its views join them)"
        )
    raise _foreign(path, f"it has no layer {LAYER!r}")


def _metadata(path: Path, texts: Mapping[str, str]) -> tuple[ClassScheme, TileGrid, dict[str, Any]]:
    missing = [key for key in (INFO_KEY, SCHEME_KEY, GRID_KEY) if key not in texts]
    if missing:
        raise _foreign(path, f"its layer {LAYER!r} carries no {missing[0]}")
    try:
        scheme = ClassScheme.model_validate_json(texts[SCHEME_KEY])
        grid = TileGrid.from_dict(json.loads(texts[GRID_KEY]))
        info = json.loads(texts[INFO_KEY])
    except pydantic.ValidationError as error:
        raise _damaged(path, f"the class scheme is wrong: {error.errors()[0]['msg']}") from error
    except (ValueError, KeyError, TypeError, GeoclassError) as error:
        raise _damaged(path, f"its metadata are wrong: {error}") from error
    if not isinstance(info, dict):
        raise _damaged(path, f"{INFO_KEY} is no table of values")
    return scheme, grid, info


def _read(path: Path, wanted: list[str], grid: TileGrid) -> tuple[Fields, bool]:
    try:
        return read_columns(path, LAYER, wanted, grid)
    except Exception as error:
        # A damaged page comes up as whichever error the driver, Arrow or the decoder meets first.
        raise _damaged(path, str(error)) from error


def _labels(path: Path, fields: Fields, scheme: ClassScheme, grid: TileGrid, info: dict[str, Any]) -> Labels:
    if not all(np.issubdtype(values.dtype, np.number) and np.isfinite(values).all() for values in fields.values()):
        raise _damaged(path, "a number is missing or is text")
    order = _order(fields)
    if len(order) and not (fields["valid_fraction"].min() >= 0 and fields["valid_fraction"].max() <= 1):
        raise _damaged(path, "a tile's valid fraction is not from 0 to 1")
    if max((int(np.abs(fields[name]).max()) for name in ("column", "row") if len(order)), default=0) > MOST_TILES_AWAY:
        raise _damaged(path, "a tile lies beyond the earth")
    if _doubled(fields, order):
        raise _damaged(path, "a tile comes twice")
    return Labels(
        grid=grid,
        scheme=scheme,
        columns=fields["column"][order].astype(np.int64),
        rows=fields["row"][order].astype(np.int64),
        probabilities=_probabilities(path, fields, "p_", scheme, order),
        valid_fraction=fields["valid_fraction"][order].astype(np.float32),
        info=info,
        raw=_probabilities(path, fields, "raw_p_", scheme, order) if info.get(SMOOTHING_KEY) else None,
    )


def _probabilities(
    path: Path, fields: Fields, start: str, scheme: ClassScheme, order: npt.NDArray[np.intp]
) -> FloatArray:
    """(N, K) out of their columns, which are let go one by one."""
    table = np.empty((len(order), len(scheme)), np.float32)
    for k, name in enumerate(scheme.names):
        table[:, k] = fields.pop(f"{start}{name}")[order]
    if len(order) and (table.min() < 0 or np.abs(table.sum(axis=1) - 1).max() > SUM_SLACK):
        raise _damaged(path, "a tile's probabilities do not sum to 1")
    return table


def _doubled(fields: Fields, order: npt.NDArray[np.intp]) -> bool:
    columns, rows = fields["column"][order], fields["row"][order]
    return bool(((np.diff(columns) == 0) & (np.diff(rows) == 0)).any())


def _order(fields: Fields) -> npt.NDArray[np.intp]:
    """From the north-west, line by line, as Labels are; a table edited in a GIS may have another order."""
    return np.lexsort((fields["column"], -fields["row"]))


def _foreign(path: Path, reason: str) -> OutputError:
    return OutputError(f"{path} is no geoclass result: {reason}; name the .gpkg that geoclass classify wrote")


def _damaged(path: Path, reason: str) -> OutputError:
    return OutputError(f"{path} is damaged: {reason}; make it again with geoclass classify --overwrite")
