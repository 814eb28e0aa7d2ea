"""Cut labelled tiles: label the tiles of the grid, choose which to take, and write the pictures of those."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyproj

from ..aoi import read_aoi
from ..grid import TileGrid
from ..schemes import ClassScheme
from .candidates import (
    BALANCED,
    NO_DATA,
    OUTSIDE,
    RARE,
    Choice,
    Parted,
    Placed,
    balanced,
    classes_of,
    field_of_tiles,
    has_field,
    part,
    rare_note,
    require_classes,
    single_classes,
)  # fmt: skip
from .duplicates import Hashes, dhash, thumbnail
from .images import shown, write_images
from .reference import Ignore, TileFractions, read_reference
from .sources import Source, covered_tiles
from .store import SHARE

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Labelling:
    """Where labels come from (a raster, polygons or points in any CRS), what to read of them, and the scheme they mean.

    `aoi` is the file of the areas that tiles are taken of, or None for all ground.
    """

    path: str
    scheme: ClassScheme | None = None
    class_field: str | None = None
    layer: str | None = None
    ignore: Ignore = ()
    aoi: Path | None = None


@dataclass
class Collected:
    """N labelled tiles with their pictures written: `table` has the columns of layer `tiles` but label and class id, and
    `class`, the position; hashes (N, 4) and thumbnails (N, 16, 16, 3) to find look-alikes by."""

    table: pd.DataFrame
    scheme: ClassScheme
    parted: Parted
    hashes: Hashes
    thumbnails: npt.NDArray[np.uint8]
    left_out: Counter[str]
    notes: list[str] = field(default_factory=list)
    resized: int = 0
    crs: pyproj.CRS | None = None


def cut_tiles(
    sources: Sequence[Source],
    grid: TileGrid,
    bands: tuple[str, ...],
    labelling: Labelling,
    choice: Choice,
    folder: Path,
    min_valid: float = 0.9,
    progress: Progress | None = None,
) -> Collected:
    """Label the tiles of `sources`, choose, and write the pictures of those chosen into `<folder>/<scene>/`.

    Tiles are chosen before pixels are read; only what lacks data shows when they are. Raises GeoclassError.
    """
    left_out: Counter[str] = Counter()
    area = None if labelling.aoi is None else read_aoi(labelling.aoi, grid.crs)
    tiles = _covered(sources, grid, area, min_valid, left_out)
    ground, places = _distinct(tiles)
    if progress:
        progress("labelling", 0, len(ground))
    columns, rows = ground["column"].to_numpy(), ground["row"].to_numpy()
    scheme, reference = read_reference(
        labelling.path, grid, columns, rows, labelling.scheme, labelling.class_field, layer=labelling.layer,
        ignore=labelling.ignore,
    )  # fmt: skip
    classes, reasons = classes_of(reference, choice)
    tiles = tiles.assign(ground=places, **{"class": classes[places]})
    left_out.update(reasons[places][reasons[places] != ""].tolist())
    tiles = tiles[tiles["class"] >= 0]
    require_classes(tiles["class"].to_numpy(), scheme, labelling.path)
    fields = None
    if choice.split == "by-field" and choice.split_field:
        fields = field_of_tiles(*_areas(labelling, choice.split_field), choice.split_field, grid, columns, rows)
        inside = np.array([fields[k] is not None for k in tiles["ground"]])
        left_out[OUTSIDE] += int((~inside).sum())
        tiles = tiles[inside]
    tiles, rare = _without_rare(tiles, scheme, left_out)
    require_classes(tiles["class"].to_numpy(), scheme, labelling.path)
    parted = part(_placed(tiles, sources, grid, fields), choice)
    left_out.update(parted.left_out)
    tiles = tiles.assign(split=parted.split, block=parted.blocks)
    keep = balanced(tiles["class"].to_numpy(), parted.split, len(scheme), choice)
    left_out[BALANCED] += int((~keep & (parted.split != "buffer")).sum())
    tiles = tiles[keep].reset_index(drop=True)
    made = _read(sources, grid, bands, tiles, folder, min_valid, left_out, progress)
    table = _described(made[0], sources, grid, scheme, reference)
    notes = [*parted.notes, *rare, *reference.notes]
    return Collected(table, scheme, parted, made[1], made[2], left_out, notes, crs=grid.crs)


def _areas(labelling: Labelling, name: str) -> tuple[str | Path, str | None]:
    """The file, and its layer, whose polygons have this field: the labels, else those of the AOI."""
    if labelling.aoi is None or has_field(labelling.path, labelling.layer, name):
        return labelling.path, labelling.layer
    return labelling.aoi, None


def _covered(
    sources: Sequence[Source], grid: TileGrid, aoi: gpd.GeoDataFrame | None, min_valid: float, left_out: Counter[str]
) -> pd.DataFrame:
    parts = []
    for number, source in enumerate(sources):
        columns, rows, short = covered_tiles(source, grid, aoi, min_valid)
        left_out[NO_DATA] += short
        parts.append(pd.DataFrame({"source": number, "column": columns, "row": rows}))
    return pd.concat(parts, ignore_index=True)


def _distinct(tiles: pd.DataFrame) -> tuple[pd.DataFrame, npt.NDArray[np.int64]]:
    """The distinct ground of all scenes' tiles, from the north-west line by line, and each tile's position in it."""
    ground = tiles[["column", "row"]].drop_duplicates().sort_values(["row", "column"], ascending=[False, True])
    ground = ground.reset_index(drop=True)
    numbers = pd.MultiIndex.from_frame(ground)
    return ground, numbers.get_indexer(pd.MultiIndex.from_frame(tiles[["column", "row"]])).astype(np.int64)


def _without_rare(tiles: pd.DataFrame, scheme: ClassScheme, left_out: Counter[str]) -> tuple[pd.DataFrame, list[str]]:
    """The tiles without those of classes that have one place only, which can be in no two splits; and a note."""
    single = single_classes(tiles["class"].to_numpy(np.int64), tiles["ground"].to_numpy())
    gone = tiles["class"].isin(single)
    left_out[RARE] += int(gone.sum())
    return tiles[~gone], rare_note([scheme.names[k] for k in single])


def _placed(
    tiles: pd.DataFrame, sources: Sequence[Source], grid: TileGrid, fields: tuple[str | None, ...] | None
) -> Placed:
    columns, rows = tiles["column"].to_numpy(), tiles["row"].to_numpy()
    return Placed(
        scenes=tuple(sources[k].name for k in tiles["source"]),
        ground=tuple(grid.tile_ids(columns, rows)),
        classes=tiles["class"].to_numpy(np.int64),
        x_m=(columns + 0.5) * grid.side_m,
        y_m=(rows + 0.5) * grid.side_m,
        tile_m=grid.side_m,
        groups=None if fields is None else tuple(str(fields[k]) for k in tiles["ground"]),
    )


def _read(
    sources: Sequence[Source], grid: TileGrid, bands: tuple[str, ...], tiles: pd.DataFrame, folder: Path, min_valid: float,
    left_out: Counter[str], progress: Progress | None,
) -> tuple[pd.DataFrame, Hashes, npt.NDArray[np.uint8]]:  # fmt: skip
    """The tiles whose pictures were written, with `image`, in their order; their hashes and thumbnails."""
    total, before = len(tiles), 0
    images = np.full(total, "", object)
    hashes, small = np.zeros((total, 4), np.uint64), np.zeros((total, 16, 16, 3), np.uint8)
    for number, source in enumerate(sources):
        mine = tiles[tiles["source"] == number]
        at = dict(zip(zip(mine["column"], mine["row"], strict=True), mine.index, strict=True))
        tell = (lambda done, start=before: progress("cutting", start + done, total)) if progress else None
        columns, rows = mine["column"].to_numpy(np.int64), mine["row"].to_numpy(np.int64)
        for item in write_images(source.mosaic, grid, bands, columns, rows, folder / source.name, min_valid, tell):
            if item.path is None:
                left_out[NO_DATA] += 1
                continue
            k = at[item.column, item.row]
            picture = shown(item.pixels, source.mosaic.sensor, bands)
            images[k], hashes[k], small[k] = (
                item.path.relative_to(folder.parent).as_posix(),
                dhash(picture),
                thumbnail(picture),
            )
        before += len(mine)
    kept = images != ""
    return tiles.assign(image=images)[kept].reset_index(drop=True), hashes[kept], small[kept]


def _described(
    tiles: pd.DataFrame, sources: Sequence[Source], grid: TileGrid, scheme: ClassScheme, reference: TileFractions
) -> pd.DataFrame:
    """The tiles with what the labels say of each, and where they lie."""
    columns, rows, ground = (tiles[name].to_numpy(np.int64) for name in ("column", "row", "ground"))
    ids = grid.tile_ids(columns, rows)
    scenes = [sources[k].name for k in tiles["source"]]
    nine = [scheme.names[k] if k >= 0 else None for k in reference.nine_points[ground]]
    shares = {f"{SHARE}{name}": reference.fractions[ground, k] for k, name in enumerate(scheme.names)}
    return pd.DataFrame(
        {
            "key": [f"{scene}/{tile}" for scene, tile in zip(scenes, ids, strict=True)],
            "tile_id": ids,
            "scene": scenes,
            "class": tiles["class"],
            "split": tiles["split"],
            "purity": reference.purity[ground],
            "labelled": reference.labelled[ground],
            "nine_points": np.array(nine, object),
            **shares,
            "block": tiles["block"],
            "image": tiles["image"],
            "geometry": grid.polygons(columns, rows),
        }
    )
