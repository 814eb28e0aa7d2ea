"""Read a change result back: the GeoPackage that `geoclass change` wrote, as the Change it was made from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydantic
import pyogrio

from ..errors import ChangeError, GeoclassError
from ..grid import TileGrid
from ..labels import FloatArray
from ..outputs.changevector import CHANGE_KEY, LAYER, UNCOVERED_LAYER
from ..outputs.style import GRID_KEY, INFO_KEY, SCHEME_KEY
from ..schemes import ClassScheme
from ..tiletable import read_columns
from .posterior import Change, Prior
from .series import Series, Source, Uncovered

Values = npt.NDArray[Any]

SUM_SLACK = 1e-2
"""How far a tile's probabilities may be from a sum of 1: those of a half-precision run are rounded."""


class _Source(pydantic.BaseModel):
    path: str | None
    info: dict[str, Any]


class _Prior(pydantic.BaseModel):
    start: list[float]
    transitions: list[list[list[float]]]


class _About(pydantic.BaseModel):
    """What stands under CHANGE_KEY; a newer version of geoclass may say more."""

    tiles: int = pydantic.Field(ge=1)
    uncovered: int = pydantic.Field(ge=0)
    dates: tuple[str, ...] = pydantic.Field(min_length=2)
    built: tuple[str, ...]
    open: tuple[str, ...]
    threshold: float = pydantic.Field(ge=0, le=1)
    warnings: tuple[str, ...]
    prior: _Prior
    sources: tuple[_Source, ...]


def read_change(path: Path) -> Change:
    """The Change in a GeoPackage written by `outputs.changevector.write_change_gpkg`.

    Every number is the one that was written; sources are named as seen from the working directory. Columns added since
    are ignored, and so are edits of texts and of `new_built`: those follow from the probabilities. Raises ChangeError
    where the file is missing, no such GeoPackage, damaged, or has lost or gained tiles: an estimate of area needs all
    of its map.
    """
    described = _describe(path, LAYER)
    scheme, grid, about = _metadata(path, described["layer_metadata"] or {})
    prior = _prior(path, about, len(scheme))
    dates, names = about.dates, scheme.names
    tables = {start: [[f"{start}_{name}_{date}" for name in names] for date in dates] for start in ("p", "raw_p")}
    valid = [f"valid_fraction_{date}" for date in dates]
    numbers = ["p_change", "p_new_built", *valid, *(c for t in tables.values() for row in t for c in row)]
    fields, order = _read(path, LAYER, numbers, grid, described, about.tiles)
    _require_numbers(path, fields, numbers)
    posterior, raw = (_stacked(path, fields, tables[start], order) for start in ("p", "raw_p"))
    series = Series(
        grid=grid,
        scheme=scheme,
        dates=dates,
        columns=fields["column"][order].astype(np.int64),
        rows=fields["row"][order].astype(np.int64),
        probabilities=raw,
        valid_fraction=np.stack([fields[name][order] for name in valid], axis=1).astype(np.float32),
        sources=tuple(Source(_path(item.path, path), item.info) for item in about.sources),
        uncovered=_uncovered(path, grid, about),
        built=about.built,
        open=about.open,
        warnings=about.warnings,
    )
    p_change, p_new_built = (fields[name][order].astype(np.float32) for name in ("p_change", "p_new_built"))
    return Change(series, prior, posterior, p_change, p_new_built, about.threshold)


def read_info(path: Path) -> dict[str, Any]:
    """The plain values that travel with a change result, as given when it was written. Raises ChangeError."""
    texts = _describe(path, LAYER)["layer_metadata"] or {}
    _metadata(path, texts)
    try:
        found = json.loads(texts[INFO_KEY])
    except ValueError as error:
        raise _damaged(path, f"{INFO_KEY} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise _damaged(path, f"{INFO_KEY} is no table of values")
    return found


def _describe(path: Path, layer: str) -> dict[str, Any]:
    if not path.is_file():
        raise ChangeError(f"there is no file {path}; name the change.gpkg that geoclass change wrote")
    try:
        layers = [str(name) for name, _ in pyogrio.list_layers(path)]
        if layer in layers:
            return dict(pyogrio.read_info(path, layer=layer, force_feature_count=True))
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise ChangeError(
            f"{path} cannot be read as a change result: {str(error).split(';')[0].rstrip('.')}; "
            "name the change.gpkg that geoclass change wrote, or make it again with --overwrite"
        ) from error
    if layer != LAYER:
        raise _damaged(path, f"layer {layer!r} is missing")
    raise _foreign(path, f"it has no layer {layer!r}")


def _metadata(path: Path, texts: Mapping[str, str]) -> tuple[ClassScheme, TileGrid, _About]:
    missing = [key for key in (INFO_KEY, SCHEME_KEY, GRID_KEY, CHANGE_KEY) if key not in texts]
    if missing:
        raise _foreign(path, f"its layer {LAYER!r} carries no {missing[0]}")
    try:
        scheme = ClassScheme.model_validate_json(texts[SCHEME_KEY])
        grid = TileGrid.from_dict(json.loads(texts[GRID_KEY]))
        about = _About.model_validate_json(texts[CHANGE_KEY])
    except pydantic.ValidationError as error:
        raise _damaged(path, f"its metadata are wrong: {error.errors()[0]['msg']}") from error
    except (ValueError, KeyError, TypeError, GeoclassError) as error:
        raise _damaged(path, f"its metadata are wrong: {error}") from error
    unknown = [name for name in (*about.built, *about.open) if name not in scheme.names]
    if unknown:
        raise _damaged(path, f"the scheme has no class {unknown[0]!r}")
    return scheme, grid, about


def _prior(path: Path, about: _About, classes: int) -> Prior:
    try:
        start, transitions = np.array(about.prior.start), np.array(about.prior.transitions)
    except ValueError as error:
        raise _damaged(path, "the prior has rows of different lengths") from error
    if start.shape != (classes,) or transitions.shape != (len(about.dates) - 1, classes, classes):
        raise _damaged(path, f"the prior does not fit {classes} classes on {len(about.dates)} dates")
    return Prior(start, transitions)


def _read(
    path: Path, layer: str, wanted: list[str], grid: TileGrid, described: Mapping[str, Any], tiles: int
) -> tuple[dict[str, Values], npt.NDArray[np.intp]]:
    """The numbers of a layer, and the order from the north-west, line by line; a table edited in a GIS may have another."""
    absent = [name for name in ("tile_id", "column", "row", *wanted) if name not in set(described["fields"])]
    if absent:
        raise _damaged(path, f"column {absent[0]!r} of layer {layer!r} is missing")
    try:
        fields, alike = read_columns(path, layer, wanted, grid)
    except Exception as error:
        # A damaged page comes up as whichever error the driver, Arrow or the decoder meets first.
        raise _damaged(path, str(error)) from error
    if len(fields["row"]) != tiles:
        raise _damaged(path, f"{tiles:,} tiles were written to layer {layer!r} and {len(fields['row']):,} are there")
    if not all(np.issubdtype(fields[name].dtype, np.integer) for name in ("column", "row")):
        raise _damaged(path, "a column or row is missing or is no whole number")
    if not alike:
        raise _damaged(path, "tile ids disagree with columns and rows")
    order = np.lexsort((fields["column"], -fields["row"]))
    steps = [np.diff(fields[name][order]) for name in ("column", "row")]
    if ((steps[0] == 0) & (steps[1] == 0)).any():
        raise _damaged(path, "a tile is there twice")
    return fields, order


def _require_numbers(path: Path, fields: dict[str, Values], names: list[str]) -> None:
    for name in names:
        values = fields[name]
        if not (np.issubdtype(values.dtype, np.number) and values.min() >= 0 and values.max() <= 1 + SUM_SLACK):
            raise _damaged(path, f"column {name!r} holds something else than numbers from 0 to 1")


def _stacked(path: Path, fields: dict[str, Values], names: list[list[str]], order: npt.NDArray[np.intp]) -> FloatArray:
    """(N, T, K) probabilities out of their columns, which are let go one by one."""
    table = np.empty((len(order), len(names), len(names[0])), np.float32)
    for t, row in enumerate(names):
        for k, name in enumerate(row):
            table[:, t, k] = fields.pop(name)[order]
    if np.abs(table.sum(axis=2) - 1).max() > SUM_SLACK:
        raise _damaged(path, "a tile's probabilities do not sum to 1")
    return table


def _uncovered(path: Path, grid: TileGrid, about: _About) -> Uncovered:
    names = [f"covered_{date}" for date in about.dates]
    if not about.uncovered:
        none = np.zeros(0, np.int64)
        return Uncovered(none, none, np.zeros((0, len(names)), bool))
    described = _describe(path, UNCOVERED_LAYER)
    fields, order = _read(path, UNCOVERED_LAYER, names, grid, described, about.uncovered)
    covered = np.stack([fields[name][order] == 1 for name in names], axis=1)
    return Uncovered(fields["column"][order].astype(np.int64), fields["row"][order].astype(np.int64), covered)


def _path(text: str | None, path: Path) -> Path | None:
    return None if text is None else Path(os.path.normpath(path.parent / text))


def _foreign(path: Path, reason: str) -> ChangeError:
    return ChangeError(f"{path} is no change result: {reason}; name the change.gpkg that geoclass change wrote")


def _damaged(path: Path, reason: str) -> ChangeError:
    return ChangeError(f"{path} is damaged: {reason}; make it again with geoclass change --overwrite")
