"""The plan of a run: which scenes, on which grid, with which bundle, and which tiles. Nothing is read but headers."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import geopandas as gpd
import numpy as np

from .aoi import read_aoi
from .blocks import TileBlock, plan_blocks
from .bundle import Bundle, load_bundle
from .errors import GeoclassError, GridError, SceneError
from .grid import AoiRule, IntArray, TileGrid, parse_crs
from .history.registry import resolve
from .mosaic import Mosaic, open_mosaic
from .sensors import Sensor, load_sensor, require_bands
from .tileindex import INDEX_SUFFIX, MIN_VALID, build_index, check_fraction, read_index, select_tiles
from .tones import Tone

SMALL_RUN_TILES = 64
"""Up to this many tiles a run measures their data first, to keep the best-covered one where none is half covered."""


@dataclass(frozen=True)
class Plan:
    """Everything a run is of. `columns`, `rows` (N,) are the tiles to read, from the north-west line by line; `model`
    is what the bundle was named by, empty for one in memory."""

    name: str
    mosaic: Mosaic
    bundle: Bundle
    grid: TileGrid
    columns: IntArray
    rows: IntArray
    min_valid: float
    date: str | None
    aoi: gpd.GeoDataFrame | None
    aoi_rule: AoiRule
    note: str = ""
    left_out: int = 0
    tone: Tone | None = None
    model: str = ""

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def bands(self) -> tuple[str, ...]:
        """The bands that are read, in the network's order."""
        return self.bundle.meta.bands

    def blocks(self) -> list[TileBlock]:
        """The tiles, cut into the blocks that are read together."""
        return plan_blocks(self.mosaic, self.grid, len(self.bands), self.columns, self.rows)


def find_index(folder: Path) -> Path:
    """The one tile index in `folder`. Raises GridError where there is none, or more than one."""
    found = sorted(folder.glob(f"*{INDEX_SUFFIX}"))
    if not found:
        raise GridError(
            f"no scene named, and no *{INDEX_SUFFIX} in this folder; name a scene, or run geoclass tile first"
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise GridError(f"no scene named, and {len(found)} tile indexes in this folder ({names}); name one of them")
    return found[0]


def make_plan(
    inputs: Sequence[str | Path],
    model: str | Path | Bundle,
    *,
    name: str | None = None,
    sensor: str | Path | Sensor | None = None,
    size_px: int | None = None,
    gsd_m: float | None = None,
    crs: str | None = None,
    aoi: str | Path | None = None,
    aoi_rule: AoiRule = "touches",
    min_valid: float | None = None,
    date: str | None = None,
) -> Plan:
    """Plan a run over scenes, or over one tile index (`*.tiles.gpkg`).

    The grid is the index's; else its tile size is the bundle's, its GSD the bundle's where it was trained at a known
    one, else the scenes' own, and its CRS the scenes' or their UTM zone. Raises GeoclassError of every kind that bad
    inputs call for.
    """
    bundle = model if isinstance(model, Bundle) else load_bundle(resolve(model))
    if min_valid is not None:
        check_fraction("--min-valid", min_valid)
    if date:
        _require_date(date)
    named = "" if isinstance(model, Bundle) else str(model)
    indexes = [item for item in inputs if str(item).endswith(INDEX_SUFFIX)]
    if indexes and len(inputs) > 1:
        raise GridError(f"{indexes[0]} is a tile index and names its own scenes; give it alone")
    if indexes:
        plan = _plan_from_index(Path(indexes[0]), bundle, name, size_px, gsd_m, crs, aoi, aoi_rule, min_valid, date)
        return replace(plan, model=named)
    chosen = load_sensor(sensor) if isinstance(sensor, str | Path) else sensor
    mosaic = open_mosaic(inputs, chosen, default=bundle.meta.sensor)
    _require_bands(mosaic, bundle)
    target = parse_crs(crs) if crs else None
    grid = mosaic.default_grid(
        bundle.meta.size_px if size_px is None else size_px, bundle.meta.gsd_m if gsd_m is None else gsd_m, target
    )
    _require_size(grid, bundle)
    area = read_aoi(aoi, grid.crs) if aoi is not None else None
    columns, rows = select_tiles(mosaic, grid, area, aoi_rule)
    used, note, left_out = MIN_VALID if min_valid is None else min_valid, "", 0
    if len(columns) <= SMALL_RUN_TILES:
        index = build_index(
            mosaic, grid, aoi=area, rule=aoi_rule, min_valid=min_valid, bands=bundle.meta.bands, threads=1
        )
        columns, rows, used, note, left_out = (
            index.columns,
            index.rows,
            index.min_valid,
            index.note,
            index.below_min_valid,
        )
    return Plan(
        name=name or mosaic.name,
        mosaic=mosaic,
        bundle=bundle,
        grid=grid,
        columns=columns,
        rows=rows,
        min_valid=used,
        date=date or mosaic.date,
        aoi=area,
        aoi_rule=aoi_rule,
        note=note,
        left_out=left_out,
        model=named,
    )


def _plan_from_index(
    path: Path,
    bundle: Bundle,
    name: str | None,
    size_px: int | None,
    gsd_m: float | None,
    crs: str | None,
    aoi: str | Path | None,
    aoi_rule: AoiRule,
    min_valid: float | None,
    date: str | None,
) -> Plan:
    index, mosaic = read_index(path)
    _require_bands(mosaic, bundle)
    _require_size(index.grid, bundle)
    for option, wanted, there in (
        ("--size", size_px, index.grid.size_px),
        ("--gsd", gsd_m, index.grid.gsd_m),
        ("--crs", parse_crs(crs) if crs else None, index.grid.crs),
    ):
        if wanted is not None and wanted != there:
            raise GridError(
                f"{path} fixes the grid, so {option} cannot change it; run geoclass tile again with {option}"
            )
    used = index.min_valid if min_valid is None else min_valid
    if used < index.min_valid:
        raise GridError(
            f"{path} holds only tiles with {index.min_valid:g} of data or more; run geoclass tile with --min-valid {used:g}"
        )
    keep = index.valid_fraction >= used
    area = read_aoi(aoi, index.grid.crs) if aoi is not None else None
    if area is not None:
        keep &= index.grid.select(area.union_all(), aoi_rule, index.columns, index.rows)
    if not keep.any():
        raise GridError(f"no tile of {path} is left by --aoi and --min-valid; check both")
    return Plan(
        name=name or path.name.removesuffix(INDEX_SUFFIX),
        mosaic=mosaic,
        bundle=bundle,
        grid=index.grid,
        columns=index.columns[keep],
        rows=index.rows[keep],
        min_valid=used,
        date=date or mosaic.date,
        aoi=area,
        aoi_rule=aoi_rule,
        note=index.note,
        left_out=index.below_min_valid + int(np.count_nonzero(index.valid_fraction < used)),
    )


def _require_date(date: str) -> None:
    """Raise GeoclassError where `date` is none: `change` could not tell the dates' order."""
    try:
        if not re.fullmatch(r"\d{4}(-\d\d(-\d\d)?)?", date):
            raise ValueError
        datetime.date.fromisoformat(f"{date}-01-01"[:10])
    except ValueError:
        raise GeoclassError(f"--date {date!r} is no date; give one as 2016, 2016-07 or 2016-07-14") from None


def _require_bands(mosaic: Mosaic, bundle: Bundle) -> None:
    for scene in mosaic.scenes:
        require_bands(scene.sensor, bundle.meta.bands, scene.files[0])
        scene.require_bands(bundle.meta.bands)


def _require_size(grid: TileGrid, bundle: Bundle) -> None:
    if grid.size_px != bundle.meta.size_px:
        raise SceneError(
            f"tiles of {grid.size_px} px do not fit a bundle trained on {bundle.meta.size_px} px; "
            f"use --size {bundle.meta.size_px}, or train on {grid.size_px} px tiles"
        )
