"""What was labelled, for other programs: CSV, GeoPackage, and the dataset format of `geoclass dataset`."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio

from .. import __version__
from ..datasets.duplicates import dhash
from ..datasets.images import shown
from ..datasets.store import (
    COLUMNS,
    IMAGES,
    DatasetMeta,
    LabelRecord,
    SplitRecord,
    new_folder,
    write_dataset,
)
from ..datasets.tileset import TEST, TRAIN
from ..errors import DatasetError
from ..files import replacing, write_errors
from ..grid import crs_text
from ..outputs.geopackage import GEOMETRY, GPKG_VERSION, Style, finish
from ..outputs.style import SCHEME_KEY, qml
from .answers import MIXED_LABEL
from .desk import Desk
from .learner import labels_of

LAYER = "labels"
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet computes; it passes over a tab or a carriage return before."""


def labels_csv(desk: Desk) -> str:
    """One row a labelled tile: key and label, as `geoclass dataset --corrections` reads them, tile id, number of
    people."""
    joined = desk.joined()
    rows = []
    for tile, label in _in_order(desk, joined.labels):
        k = desk.place[tile]
        rows.append(
            (desk.tiles.keys[k], label, desk.tiles.tile_ids[k] if desk.tiles.tile_ids else "", joined.people[tile])
        )
    return _csv(("key", "label", "tile_id", "people"), rows)


def answers_csv(desk: Desk) -> str:
    """One row for each person and tile that was answered; with a sample, as `geoclass estimate --answers` reads them.

    `?` stands for a mixed tile there, as nobody can tell the one class of it. Notes and names that a spreadsheet would
    take for a formula have an apostrophe before them.
    """
    sample, found = desk.tiles.sample, desk.standing()
    header = ["key", "tile_id", "label", "note", "time", "reviewer"]
    if sample is not None:
        header += ["sample_id", "reference"]
    rows = []
    for person in sorted(found):
        for tile, one in _in_order(desk, found[person]):
            if not one.label and not one.note:
                continue
            k = desk.place[tile]
            label = "mixed" if one.label == MIXED_LABEL else one.label
            row = [
                desk.tiles.keys[k],
                desk.tiles.tile_ids[k] if desk.tiles.tile_ids else "",
                label,
                _as_text(one.note),
                one.time,
                _as_text(person),
            ]
            if sample is not None:
                row += [sample.design.sample_id, "?" if one.label == MIXED_LABEL else one.label]
            rows.append(tuple(row))
    return _csv(tuple(header), rows)


def _in_order(desk: Desk, found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The tiles of `found` that exist, in the order of the data."""
    return [(tile, found[tile]) for tile in desk.tiles.ids if tile in found]


def _as_text(words: str) -> str:
    """What a person wrote, as a cell that no spreadsheet computes: a formula can send a table's cells elsewhere."""
    return f"'{words}" if words.startswith(FORMULA) else words


def _csv(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\r\n")  # RFC 4180
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue()


def write_csv(desk: Desk, path: Path, overwrite: bool = False) -> int:
    """Write `labels_csv`, of a sample's tiles `answers_csv`; return the number of rows. Raises OutputError."""
    text = answers_csv(desk) if desk.tiles.sample else labels_csv(desk)
    with replacing(path, overwrite) as temporary:
        temporary.write_bytes(text.encode())
    return text.count("\r\n") - 1


def write_gpkg(desk: Desk, path: Path, overwrite: bool = False) -> int:
    """Write layer `labels`, the squares of labelled tiles with their class, coloured by it; return their number.

    Raises DatasetError where the tiles have no places or none is labelled, OutputError where it cannot be written.
    """
    tiles, joined = desk.tiles, desk.joined()
    if tiles.grid is None or tiles.columns is None or tiles.rows is None or tiles.tile_ids is None:
        raise DatasetError(
            "the places of these tiles are not known, so they make no GeoPackage; export a CSV or a dataset"
        )
    found = _in_order(desk, joined.labels)
    if not found:
        raise DatasetError("no tile is labelled yet; label some, then export")
    at = np.array([desk.place[tile] for tile, _ in found])
    ids = dict(zip(tiles.scheme.names, tiles.scheme.ids, strict=True))
    table = {
        "tile_id": [tiles.tile_ids[k] for k in at], "key": [tiles.keys[k] for k in at],
        "class_id": np.array([ids[label] for _, label in found], np.int32), "class": [label for _, label in found],
        "people": np.array([joined.people[tile] for tile, _ in found], np.int32),
        "notes": ["; ".join(_notes(desk, tile)) for tile, _ in found],
    }  # fmt: skip
    frame = gpd.GeoDataFrame(
        table, geometry=tiles.grid.polygons(tiles.columns[at], tiles.rows[at]), crs=crs_text(tiles.grid.crs)
    )
    with replacing(path, overwrite) as temporary:
        pyogrio.write_dataframe(
            frame, temporary, layer=LAYER, driver="GPKG", GEOMETRY_NAME=GEOMETRY, SPATIAL_INDEX="YES",
            VERSION=GPKG_VERSION, layer_metadata={SCHEME_KEY: tiles.scheme.model_dump_json()},
        )  # fmt: skip
        finish(temporary, LAYER, len(found), [Style("labels", qml(tiles.scheme), "Class of each labelled tile")])
    return len(found)


def _notes(desk: Desk, tile: str) -> list[str]:
    return [own[tile].note for _, own in sorted(desk.standing().items()) if tile in own and own[tile].note]


def write_labelled(desk: Desk, out: Path, overwrite: bool = False) -> dict[str, int]:
    """Write the dataset folder `out`: what the head learns from as split train (a dataset's tiles keep their split),
    and the held-out tiles, with the data's own labels, as split test. Return the number of tiles of each class.

    Raises DatasetError with fewer than two classes or tiles, OutputError.
    """
    tiles = desk.tiles
    labels = labels_of(tiles, desk.joined().labels, desk.learns == "all")
    if len(set(labels.values())) < 2:
        raise DatasetError(
            "labels of two classes or more make a dataset; label some tiles of another class, then export"
        )
    judged = {int(k): int(tiles.known[k]) for k in np.flatnonzero(tiles.judged)}
    chosen = {**judged, **labels}
    with new_folder(out, overwrite) as folder:
        table = _table(desk, chosen, set(judged), folder)
        write_dataset(folder, table, _meta(desk, out, len(labels), bool(judged)))
    return {name: sum(label == k for label in labels.values()) for k, name in enumerate(tiles.scheme.names)}


def _table(desk: Desk, chosen: Mapping[int, int], judged: set[int], folder: Path) -> gpd.GeoDataFrame:
    """The rows of layer `tiles`, whose pictures are copied into `folder`."""
    tiles, at = desk.tiles, np.array(sorted(chosen), np.intp)
    pictures, rows = tiles.pictures, []
    for k in at.tolist():
        target = folder / IMAGES / _plain(tiles.keys[k])
        with write_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(pictures.paths[k], target)
        hashes = dhash(shown(pictures.read([k])[0], pictures.sensor, pictures.bands))
        split = TEST if k in judged else str(pictures.split[k]) if tiles.dataset else TRAIN
        label = tiles.scheme.names[chosen[k]]
        rows.append({
            "key": tiles.keys[k], "tile_id": tiles.tile_ids[k] if tiles.tile_ids else None,
            "scene": pictures.scenes[k] if pictures.scenes else pictures.source, "label": label,
            "class_id": tiles.scheme.ids[chosen[k]], "split": split, "purity": np.nan, "labelled": np.nan,
            "nine_points": None, "block": -1 if pictures.blocks is None else int(pictures.blocks[k]),
            "image": f"{IMAGES}/{_plain(tiles.keys[k])}", "dhash": "".join(f"{word:016x}" for word in hashes.tolist()),
        })  # fmt: skip
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    grid, columns, lines = tiles.grid, tiles.columns, tiles.rows
    if grid is None or columns is None or lines is None:
        return gpd.GeoDataFrame(frame, geometry=np.full(len(frame), None))
    return gpd.GeoDataFrame(frame, geometry=grid.polygons(columns[at], lines[at]), crs=crs_text(grid.crs))


def _plain(key: str) -> str:
    """A key as a path below the images: it is a relative path, and stays one."""
    return "/".join(part for part in key.split("/") if part not in ("", ".", ".."))


def _meta(desk: Desk, out: Path, labelled: int, judged: bool) -> DatasetMeta:
    tiles = desk.tiles
    people = ", ".join(sorted(desk.standing())) or "nobody"
    held = (
        "Tiles of split test carry the labels that the data came with." if judged else "Nothing is held out to test on."
    )
    known: dict[str, Any] = {
        "labels": LabelRecord(source=f"labelled by {people}", rule="folders"),
        "split": SplitRecord(rule="random", shares=(1.0, 0.0, 0.0), seed=0, note=held),
        "notes": (f"{labelled:,} tiles were labelled at the labelling desk by {people}. {held}",),
        "created": datetime.now(UTC).isoformat(timespec="seconds"), "geoclass_version": __version__,
    }  # fmt: skip
    if tiles.dataset is not None:
        meta = tiles.dataset.meta
        known["split"] = meta.split.model_copy(update={"note": f"{meta.split.note} {held}".strip()})
        return meta.model_copy(update={"name": out.name, "scheme": tiles.scheme, "class_weights": None, "balance": "none",
                                       "counts": {}, "left_out": {}, "corrected": 0, **known})  # fmt: skip
    pictures, grid = tiles.pictures, tiles.grid
    return DatasetMeta(
        name=out.name, scheme=tiles.scheme, sensor=pictures.sensor, bands=pictures.bands, size_px=pictures.size_px,
        gsd_m=grid.gsd_m if grid else pictures.gsd_m, crs=crs_text(grid.crs) if grid else None, balance="none", **known,
    )  # fmt: skip


def write_export(desk: Desk, path: Path, overwrite: bool = False) -> str:
    """Write `path`: a .csv, a .gpkg, else a dataset folder; return a line that says what is there. Raises
    GeoclassError."""
    if path.suffix.lower() == ".csv":
        rows = write_csv(desk, path, overwrite)
        return f"{path}: {rows:,} answers" if desk.tiles.sample else f"{path}: labels of {rows:,} tiles"
    if path.suffix.lower() == ".gpkg":
        return f"{path}: labels of {write_gpkg(desk, path, overwrite):,} tiles"
    counts = write_labelled(desk, path, overwrite)
    told_each = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
    return f"{path}: a dataset of {sum(counts.values()):,} labelled tiles: {told_each}"
