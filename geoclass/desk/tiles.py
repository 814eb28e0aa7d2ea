"""The tiles of a desk, from a dataset, class folders or a folder of pictures, and which of them are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..areas.sample import Sample
from ..datasets.folders import places_of_names
from ..datasets.pictures import RGB, picture_files, read_picture, unplaced
from ..datasets.store import Dataset, is_dataset, read_dataset, read_tiles
from ..datasets.tileset import TEST, TRAIN, VALIDATION, TileSet
from ..errors import DatasetError
from ..grid import IntArray, TileGrid, parse_crs
from ..schemes import ClassScheme, class_position
from ..sensors import load_sensor
from .queue import UNKNOWN

JUDGED = 4
"""Of class folders every fourth tile, by a digest of its name, is held out to judge the head on."""


@dataclass(frozen=True)
class Tiles:
    """N tiles. ids: (N,) short names made of the keys; known: (N,) the data's own labels as positions in the scheme, or
    UNKNOWN; asked: (N,) whether people are asked; judged: (N,) whether the head is judged on it, by the known label.

    tile_ids: names on the grid, where the tiles have places, with (N,) columns and rows; ground: scene each was cut
    from. dataset: what it was read from, where that is a dataset. missing: sampled tiles that are not there."""

    folder: Path
    pictures: TileSet
    ids: tuple[str, ...]
    known: npt.NDArray[np.int64]
    asked: npt.NDArray[np.bool_]
    judged: npt.NDArray[np.bool_]
    tile_ids: tuple[str, ...] | None = None
    grid: TileGrid | None = None
    columns: IntArray | None = None
    rows: IntArray | None = None
    dataset: Dataset | None = None
    sample: Sample | None = None
    missing: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def scheme(self) -> ClassScheme:
        return self.pictures.scheme

    @property
    def keys(self) -> tuple[str, ...]:
        return self.pictures.keys

    @property
    def positions(self) -> npt.NDArray[np.intp]:
        """The tiles that people are asked for."""
        return np.flatnonzero(self.asked)


def short(key: str) -> str:
    """The id of a tile's key: fit for an address, the same wherever the dataset lies."""
    return hashlib.blake2b(key.encode(), digest_size=8).hexdigest()


def open_tiles(
    folder: Path, scheme: ClassScheme | None = None, *, size_px: int | None = None, gsd_m: float | None = None,
    sensor: str | None = None, sample: Sample | None = None,
) -> Tiles:  # fmt: skip
    """Read a dataset, class folders, or with `scheme` a folder of pictures that have no label yet.

    With `sample` its tiles are asked for, found by their tile ids. Raises DatasetError, also for data without a tile.
    """
    chosen = load_sensor(sensor) if sensor else None
    data: Dataset | None = None
    if is_dataset(folder):
        data = read_dataset(folder)
        pictures = read_tiles(folder, size_px, scheme, chosen, None, gsd_m)
        known = pictures.classes
    elif (scheme is None and sample is None) or (scheme is not None and _names_classes(folder, scheme)):
        pictures = read_tiles(folder, size_px, scheme, chosen, None, gsd_m)
        known = pictures.classes
    else:
        wanted = scheme if scheme is not None or sample is None else sample.scheme
        assert wanted is not None
        pictures = _unlabelled(folder, wanted, size_px, gsd_m, sensor)
        known = np.full(len(pictures), UNKNOWN, np.int64)
    if not len(pictures):
        raise DatasetError(f"{folder} holds no tile; make the dataset again, or give a folder of pictures")
    judged = _judged(pictures, data is not None) & (known != UNKNOWN)
    ids = tuple(short(key) for key in pictures.keys)
    made = _placed(Tiles(folder, pictures, ids, known, ~judged, judged, dataset=data))
    return made if sample is None else _sampled(made, sample)


def _names_classes(folder: Path, scheme: ClassScheme) -> bool:
    """Whether pictures lie in folders of this one only, two or more, each called as a class of the scheme."""
    names = {path.relative_to(folder).parts[0] for path in picture_files(folder)} if folder.is_dir() else set()
    return len(names) > 1 and all(
        (folder / name).is_dir() and class_position(scheme, name) is not None for name in names
    )


def _unlabelled(
    folder: Path, scheme: ClassScheme, size_px: int | None, gsd_m: float | None, sensor: str | None
) -> TileSet:
    """Every picture under `folder`; their classes count for nothing."""
    if not folder.is_dir():
        raise DatasetError(f"no such folder: {folder}; give a dataset, class folders or a folder of pictures")
    paths = picture_files(folder)
    if not paths:
        raise DatasetError(f"{folder} holds no picture; give a folder of JPEG, PNG or TIFF files")
    known = load_sensor(sensor or "rgb8")
    with unplaced():
        first, _ = read_picture(paths[0], RGB, known, None)
    side = size_px or (224 if first is None else min(first.shape[1:]))
    return TileSet(
        tuple(path.relative_to(folder).as_posix() for path in paths), tuple(paths), np.zeros(len(paths), np.int64), scheme,
        known, RGB, side, gsd_m, np.full(len(paths), TRAIN), folder.resolve().name,
    )  # fmt: skip


def _judged(pictures: TileSet, parted: bool) -> npt.NDArray[np.bool_]:
    """The held-out tiles: a dataset's own, else of every class a share that does not change when tiles are added."""
    if parted:
        for name in (TEST, VALIDATION):
            if (pictures.split == name).any():
                return np.asarray(pictures.split == name, np.bool_)
    return np.array([int(short(f"held out {key}"), 16) % JUDGED == 0 for key in pictures.keys], np.bool_)


def _placed(tiles: Tiles) -> Tiles:
    """With the tiles' places on their grid, where a dataset or the pictures' names tell them."""
    meta = tiles.dataset.meta if tiles.dataset else None
    if tiles.dataset is not None and meta is not None and meta.crs and tiles.dataset.table["tile_id"].notna().all():
        names = [str(name) for name in tiles.dataset.table["tile_id"]]
        grid, columns, rows = places_of_names(names, meta.size_px, parse_crs(meta.crs))
    else:
        names = [path.stem for path in tiles.pictures.paths]
        try:
            grid, columns, rows = places_of_names(names, tiles.pictures.size_px)
        except DatasetError:
            return tiles
    if grid is None:
        return tiles
    return replace(tiles, tile_ids=tuple(names), grid=grid, columns=columns, rows=rows)


def _sampled(tiles: Tiles, sample: Sample) -> Tiles:
    """With the sample's tiles asked for, in its order, and the other known ones to judge the head on."""
    if sample.design.dates:
        raise DatasetError(
            "the sample is of a change map, so its tiles are to be seen on every date; answer them on its review page "
            "(geoclass sample --page)"
        )
    if tiles.tile_ids is None:
        raise DatasetError(
            f"the tiles of {tiles.folder} have no tile ids, so the sample's cannot be found; cut them with geoclass tile --chips"
        )
    place = {name: k for k, name in enumerate(tiles.tile_ids)}
    there = [place[name] for name in sample.tile_ids if name in place]
    missing = tuple(name for name in sample.tile_ids if name not in place)
    if not there:
        raise DatasetError(f"{tiles.folder} holds none of the sample's {len(sample):,} tiles; check --design")
    asked = np.zeros(len(tiles), bool)
    asked[there] = True
    judged = ~asked & (tiles.known != UNKNOWN)
    return replace(tiles, asked=asked, judged=judged, sample=sample, missing=missing)


def design_order(tiles: Tiles, at: Sequence[int]) -> list[int]:
    """`at`, tiles that are asked for, in the order of the sample, or of the data where there is none."""
    if tiles.sample is None or tiles.tile_ids is None:
        return sorted(at)
    rank = {name: k for k, name in enumerate(tiles.sample.tile_ids)}
    return sorted(at, key=lambda k: rank.get(tiles.tile_ids[k] if tiles.tile_ids else "", len(rank)))
