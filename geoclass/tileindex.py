"""The tile index: which tiles of the permanent grid a mosaic covers, kept as a GeoPackage layer `tiles`."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyogrio

from .aoi import aoi_area
from .blocks import BlockPixels, plan_blocks, read_ahead
from .configs import validate
from .errors import GridError, SceneError
from .files import fingerprint, replacing
from .grid import AoiRule, IntArray, TileGrid, cells, crs_text
from .inputs import find_scenes
from .mosaic import Mosaic
from .remote.names import shown
from .remote.opening import READERS
from .scene import Scene
from .sensors import Sensor
from .tiletable import Values, corners, places, polygons, stream

INDEX_SUFFIX = ".tiles.gpkg"
LAYER = "tiles"
METADATA_KEY = "GEOCLASS_TILES"
GEOMETRY = "geom"
MIN_VALID = 0.5
MOST_TILES = 100_000_000
"""More tiles than this are a slip in --size or --gsd: a continent of 1 m imagery has fewer of 224 m."""


@dataclass(frozen=True)
class TileIndex:
    """Tiles to classify, sorted from the north-west line by line, with the share of data in each (N,).

    `below_min_valid` counts tiles of the selection that were left out; `note` says if the threshold was lowered.
    """

    grid: TileGrid
    columns: IntArray
    rows: IntArray
    valid_fraction: npt.NDArray[np.float32]
    min_valid: float = MIN_VALID
    below_min_valid: int = 0
    note: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.columns)

    def to_gdf(self) -> gpd.GeoDataFrame:
        """One row a tile in the grid's CRS: tile_id, column, row, valid_fraction, polygon."""
        return gpd.GeoDataFrame(
            {
                "tile_id": self.grid.tile_ids(self.columns, self.rows),
                "column": self.columns,
                "row": self.rows,
                "valid_fraction": self.valid_fraction,
            },
            geometry=self.grid.polygons(self.columns, self.rows),
            crs=self.grid.crs,
        )


def check_fraction(name: str, value: float) -> None:
    """Raise GridError unless 0 <= value <= 1."""
    if not 0 <= value <= 1:
        raise GridError(f"{name} is {value}; give a share from 0 to 1")


def select_tiles(
    mosaic: Mosaic, grid: TileGrid, aoi: gpd.GeoDataFrame | None = None, rule: AoiRule = "touches"
) -> tuple[IntArray, IntArray]:
    """(columns, rows) of the tiles that share ground with the scenes and that `aoi` selects by `rule`.

    Raises GridError where a whole scene is smaller than a tile both ways, or the AOI selects nothing.
    """
    outline = mosaic.outline_in(grid.crs)
    left, bottom, right, top = outline.bounds
    # Half a pixel is lost at most where pixels are moved onto the lattice.
    slack = 1.5 * grid.res
    if right - left < grid.side - slack and top - bottom < grid.side - slack:
        unit = grid.metres_per_unit
        raise GridError(
            f"{mosaic.scenes[0].files[0]} measures {(right - left) * unit:.0f} x {(top - bottom) * unit:.0f} m, smaller than "
            f"one tile of {grid.side_m:g} m; give a larger scene, or smaller tiles with --size or --gsd"
        )
    covered = grid.range_over(outline.bounds)
    # By columns and rows: more than sys.maxsize tiles have no len().
    if covered.columns * covered.rows > MOST_TILES:
        raise GridError(
            f"the scenes cover {covered.columns * covered.rows:.2g} tiles of {grid.side_m:g} m; give larger tiles with --size or --gsd"
        )
    columns, rows = cells(covered)
    if len(mosaic.scenes) > 1 or mosaic.scenes[0].rotated or mosaic.scenes[0].crs != grid.crs:
        keep = grid.select(outline, "touches", columns, rows)
        columns, rows = columns[keep], rows[keep]
    if aoi is not None:
        area = aoi_area(aoi)
        if not area.intersects(outline):
            raise GridError("the AOI lies outside the scene; check that it is the right file, and its CRS")
        keep = grid.select(area, rule, columns, rows)
        columns, rows = columns[keep], rows[keep]
        if not len(columns):
            raise GridError(f"the AOI selects no tile by the rule {rule!r}; use --aoi-rule touches, or a larger AOI")
    return columns, rows


def keep_valid(
    grid: TileGrid, columns: IntArray, rows: IntArray, fraction: npt.NDArray[np.float32], min_valid: float | None
) -> tuple[npt.NDArray[np.bool_], float, str]:
    """Which tiles have enough data, the threshold used, and a note where it was lowered.

    A scene with the ground of half a tile or more that straddles grid lines may fill no tile by half: unless the user
    set `min_valid`, its best-covered tile is then kept. Raises GridError where no tile has enough data.
    """
    wanted = MIN_VALID if min_valid is None else min_valid
    keep = (fraction >= wanted) & (fraction > 0)
    if keep.any():
        return keep, wanted, ""
    best = float(fraction.max(initial=0.0))
    if best == 0:
        raise GridError(
            "the scene has no data in any tile (all no-data); check its no-data value, or give another scene"
        )
    if min_valid is None and float(fraction.sum()) >= MIN_VALID:
        keep = fraction == fraction.max()
        return keep, best, f"no tile is half covered; the best-covered one is kept (valid fraction {best:.2f})"
    raise GridError(
        f"no tile has a valid fraction of {wanted:g} or more (the best has {best:.2f}); lower it with --min-valid"
    )


def build_index(
    mosaic: Mosaic,
    grid: TileGrid,
    *,
    aoi: gpd.GeoDataFrame | None = None,
    rule: AoiRule = "touches",
    min_valid: float | None = None,
    bands: tuple[str, ...] | None = None,
    threads: int = 2,
    on_block: Callable[[BlockPixels], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TileIndex:
    """Find the tiles of a mosaic and measure how much data each has, reading `bands` (default: those on display).

    `on_block` is shown every block read (chips are written there); `progress` gets (tiles done, tiles in all).
    Raises GridError and SceneError.
    """
    if min_valid is not None:
        check_fraction("--min-valid", min_valid)
    columns, rows = select_tiles(mosaic, grid, aoi, rule)
    names = bands or mosaic.display_bands
    blocks = plan_blocks(mosaic, grid, len(names), columns, rows)
    fraction: dict[tuple[int, int], float] = {}
    for done in read_ahead(mosaic, grid, names, blocks, READERS if mosaic.remote else threads):
        places = zip(done.block.columns.tolist(), done.block.rows.tolist(), strict=True)
        fraction.update(zip(places, done.valid_fraction.tolist(), strict=True))
        if on_block:
            on_block(done)
        if progress:
            progress(len(fraction), len(columns))
    share = np.array([fraction[place] for place in zip(columns.tolist(), rows.tolist(), strict=True)], np.float32)
    keep, used, note = keep_valid(grid, columns, rows, share, min_valid)
    return TileIndex(grid, columns[keep], rows[keep], share[keep], used, int((~keep).sum()), note)


def write_index(index: TileIndex, path: Path, mosaic: Mosaic, overwrite: bool = False) -> None:
    """Write layer `tiles`, with the scenes' names and fingerprints in its metadata. Raises OutputError."""
    base = path.resolve().parent
    info = {
        "grid": index.grid.to_dict(),
        "sensor": mosaic.sensor.model_dump(mode="json"),
        "offsets": [scene.value_offset for scene in mosaic.scenes],
        "min_valid": index.min_valid,
        "below_min_valid": index.below_min_valid,
        "note": index.note,
        "name": mosaic.name,
        "date": mosaic.date,
        "files": {
            name: {"relative": _relative(name, base), "digest": digest}
            for name, digest in mosaic.fingerprints().items()
        },
        "inputs": [_reopening(scene) for scene in mosaic.scenes],
        **index.info,
    }
    with replacing(path, overwrite) as temporary:
        pyogrio.write_arrow(
            _tiles(index),
            temporary,
            layer=LAYER,
            driver="GPKG",
            geometry_name=GEOMETRY,
            geometry_type="Polygon",
            crs=crs_text(index.grid.crs),
            layer_metadata={METADATA_KEY: json.dumps(info)},
        )


def _tiles(index: TileIndex) -> pa.RecordBatchReader:
    """The columns of `TileIndex.to_gdf` as a stream."""

    def made(part: slice) -> dict[str, Values | pa.Array]:
        at = index.grid, index.columns[part], index.rows[part]
        return {**places(*at), "valid_fraction": index.valid_fraction[part], GEOMETRY: polygons(corners(*at))}

    return stream(len(index), made)


def _reopening(scene: Scene) -> list[str]:
    """What opens a scene again. No query string of a URL is kept: it may hold a signature."""
    return [shown(scene.listed_in)] if scene.listed_in else [shown(band.path) for band in scene.bands]


def _relative(name: str, base: Path) -> str | None:
    path = Path(name)
    if not path.is_file():
        return None
    try:
        return os.path.relpath(path.resolve(), base)
    except ValueError:  # another drive, on Windows
        return None


def read_index(path: Path) -> tuple[TileIndex, Mosaic]:
    """A tile index and the mosaic it was made from.

    Raises GridError for a file that is no tile index, SceneError where a scene has moved or changed since.
    """
    if not path.is_file():
        raise GridError(f"no such tile index: {path}; make one with: geoclass tile SCENE")
    try:
        text = pyogrio.read_info(path, layer=LAYER).get("layer_metadata", {}).get(METADATA_KEY)
        info: dict[str, Any] = json.loads(text)
        frame = pyogrio.read_dataframe(
            path, layer=LAYER, columns=["column", "row", "valid_fraction"], read_geometry=False
        )
        grid = TileGrid.from_dict(info["grid"])
        files, inputs, made_with = info["files"], info["inputs"], info["offsets"]
    except (
        pyogrio.errors.DataSourceError,
        pyogrio.errors.DataLayerError,
        sqlite3.Error,
        TypeError,
        ValueError,
        KeyError,
    ) as error:
        raise GridError(f"{path} is not a tile index of geoclass; make one with: geoclass tile SCENE") from error
    found = {name: _locate(path, name, entry) for name, entry in files.items()}
    # The sensor itself and the offsets: a user's .toml may be elsewhere by now, and a product's metadata are not read.
    sensor = validate(Sensor, info["sensor"], str(path))
    names = list(dict.fromkeys(found.get(item, item) for group in inputs for item in group))
    scenes = find_scenes(names, sensor)
    if len(scenes) != len(made_with):
        raise GridError(f"{path} was made of other scenes than are there now; run geoclass tile again with --overwrite")
    offsets = zip(scenes, made_with, strict=True)
    mosaic = Mosaic(tuple(replace(scene, value_offset=float(offset)) for scene, offset in offsets))
    kept = {key: info[key] for key in ("name", "date", "aoi", "aoi_rule") if info.get(key) is not None}
    index = TileIndex(
        grid,
        frame["column"].to_numpy(np.int64),
        frame["row"].to_numpy(np.int64),
        frame["valid_fraction"].to_numpy(np.float32),
        float(info["min_valid"]),
        int(info["below_min_valid"]),
        str(info["note"]),
        kept,
    )
    return index, mosaic


def _locate(index: Path, name: str, entry: Mapping[str, Any]) -> str:
    """Where a scene's file is now. Raises SceneError where it has gone or its content has changed."""
    relative = entry.get("relative")
    if relative is None:
        return name
    beside = index.resolve().parent / relative
    path = beside if beside.is_file() else Path(name)
    if not path.is_file():
        raise SceneError(
            f"{name}, the scene of {index}, has moved or gone; put it back, or run geoclass tile again where it is now"
        )
    if fingerprint(path) != entry["digest"]:
        raise SceneError(f"{path} has changed since {index} was made; run geoclass tile again with --overwrite")
    return os.path.relpath(path) if not Path(name).is_absolute() else str(path)
