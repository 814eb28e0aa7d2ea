"""Take the pictures of class folders into a dataset: copied, placed on the ground where their names tell where it is."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyproj

from ..errors import DatasetError, GridError
from ..files import write_errors
from ..grid import TileGrid, parse_crs
from .candidates import BALANCED, UNREADABLE, Choice, Placed, balanced, part
from .cutting import Collected, Progress
from .duplicates import dhash, thumbnail
from .images import shown
from .pictures import TILE_ID
from .store import IMAGES
from .tileset import TileSet


def take_pictures(
    tiles: TileSet, choice: Choice, folder: Path, crs: pyproj.CRS | None = None, progress: Progress | None = None
) -> tuple[Collected, TileGrid | None]:
    """Split and balance the tiles of class folders, copy the pictures of those chosen, and tell their grid if any.

    Files named by tile id (`geoclass tile --chips` names them so) get their place back; `crs` says which one a grid
    without an EPSG code is in. Raises DatasetError and OutputError.
    """
    grid, columns, rows = places_of_names([path.stem for path in tiles.paths], tiles.size_px, crs)
    if choice.split == "by-scene":
        raise DatasetError("class folders tell no scenes; use --split blocks or random")
    ids = [path.stem for path in tiles.paths] if grid else list(tiles.keys)
    scenes = (tiles.source,) * len(tiles)
    if grid is None:
        parted = part(Placed(scenes, tuple(ids), tiles.classes), choice)
    else:
        x_m, y_m = (columns + 0.5) * grid.side_m, (rows + 0.5) * grid.side_m
        parted = part(Placed(scenes, tuple(ids), tiles.classes, x_m, y_m, grid.side_m), choice)
    left_out = Counter({UNREADABLE: len(tiles.skipped)}) + parted.left_out
    keep = balanced(tiles.classes, parted.split, len(tiles.scheme), choice)
    left_out[BALANCED] += int((~keep & (parted.split != "buffer")).sum())
    chosen = np.flatnonzero(keep)
    hashes, small = np.zeros((len(chosen), 4), np.uint64), np.zeros((len(chosen), 16, 16, 3), np.uint8)
    for n, k in enumerate(chosen):
        picture = shown(tiles.read([int(k)])[0], tiles.sensor, tiles.bands)
        hashes[n], small[n] = dhash(picture), thumbnail(picture)
        target = folder / tiles.keys[k]
        with write_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(tiles.paths[k], target)
        if progress:
            progress("copying", n + 1, len(chosen))
    table = pd.DataFrame(
        {
            "key": [tiles.keys[k] for k in chosen],
            "tile_id": [ids[k] if grid else None for k in chosen],
            "scene": tiles.source,
            "class": tiles.classes[chosen],
            "split": parted.split[chosen],
            "purity": np.nan,
            "labelled": np.nan,
            "nine_points": None,
            "block": parted.blocks[chosen],
            "image": [f"{IMAGES}/{tiles.keys[k]}" for k in chosen],
            "geometry": grid.polygons(columns[chosen], rows[chosen]) if grid else np.full(len(chosen), None),
        }
    )
    notes = list(parted.notes)
    if tiles.skipped:
        notes.append(f"{len(tiles.skipped)} pictures cannot be read and are left out, first {tiles.skipped[0]}.")
    if tiles.resized:
        notes.append(
            f"{tiles.resized:,} pictures are of another size, and are resized to {tiles.size_px} px when read."
        )
    return Collected(
        table, tiles.scheme, parted, hashes, small, left_out, notes, tiles.resized, grid.crs if grid else None
    ), grid


def places_of_names(
    names: Sequence[str], size_px: int, crs: pyproj.CRS | None = None
) -> tuple[TileGrid | None, np.ndarray, np.ndarray]:
    """The grid whose tile ids all `names` are, with (N,) columns and rows, or None where they are not, or of two grids."""
    found = [TILE_ID.fullmatch(name) for name in names]
    prefixes = {(item["crs"], item["side"]) for item in found if item}
    nothing = np.empty(0, np.int64)
    if not all(found) or len(prefixes) != 1:
        return None, nothing, nothing
    label, side = prefixes.pop()
    try:
        grid = TileGrid(crs or parse_crs(label), size_px, float(side) / size_px)
    except GridError:
        return None, nothing, nothing
    if grid.prefix != f"{label}_{side}":
        raise DatasetError(f"the pictures are named by tiles of {label}, not of {grid.crs_label}; check --crs")
    columns, rows = (np.array([int(item[name]) for item in found if item]) for name in ("column", "row"))
    return grid, columns, rows
