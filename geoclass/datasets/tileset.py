"""Labelled tiles: where their pictures lie, their classes, and which split each belongs to."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DatasetError
from ..schemes import ClassScheme, class_position, scheme_for_names
from ..sensors import Sensor, load_sensor, require_bands, require_once
from .pictures import RGB, SUFFIXES, Picture, picture_files, read_picture, unplaced

log = logging.getLogger(__name__)

MOST_UNREADABLE = 0.05
READERS = 4

TRAIN, VALIDATION, TEST, BUFFER = "train", "validation", "test", "buffer"


@dataclass(frozen=True)
class TileSet:
    """N labelled tiles of `size_px`, whose pictures are read when asked for.

    keys: unique names, `<class>/<file>` or `<scene>/<tile id>`; classes: (N,) positions in `scheme`; split: (N,) of
    train, validation, test, buffer; fractions: (N, K) share of each class, or None; x_m, y_m: (N,) centres in `crs`, or
    None; scenes: (N,) which scene each was cut from; class_weights: (K,) with mean 1, or None.
    """

    keys: tuple[str, ...]
    paths: tuple[Path, ...]
    classes: npt.NDArray[np.int64]
    scheme: ClassScheme
    sensor: Sensor
    bands: tuple[str, ...]
    size_px: int
    gsd_m: float | None
    split: npt.NDArray[np.str_]
    source: str
    fractions: npt.NDArray[np.float32] | None = None
    x_m: npt.NDArray[np.float64] | None = None
    y_m: npt.NDArray[np.float64] | None = None
    crs: str | None = None
    scenes: tuple[str, ...] | None = None
    blocks: npt.NDArray[np.int64] | None = None
    class_weights: npt.NDArray[np.float64] | None = None
    skipped: tuple[str, ...] = ()
    resized: int = 0

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def purity(self) -> npt.NDArray[np.float32] | None:
        """(N,) share of the most common class among what carries a class, or None."""
        if self.fractions is None:
            return None
        return np.asarray(self.fractions.max(axis=1) / self.fractions.sum(axis=1).clip(1e-6), np.float32)

    def take(self, chosen: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> TileSet:
        """The tiles at `chosen` positions, in that order."""
        at = np.flatnonzero(chosen) if chosen.dtype == bool else chosen

        def part(values: Any) -> Any:
            if values is None:
                return None
            return tuple(values[k] for k in at) if isinstance(values, tuple) else values[at]

        names = ("keys", "paths", "classes", "split", "fractions", "x_m", "y_m", "scenes", "blocks")
        return replace(self, **{name: part(getattr(self, name)) for name in names})

    def of(self, *splits: str) -> TileSet:
        """The tiles of these splits."""
        return self.take(np.isin(self.split, splits))

    def read(self, positions: Sequence[int] | npt.NDArray[np.intp]) -> Picture:
        """(n, bands, size, size) stored numbers of the tiles at these positions. Raises DatasetError."""
        read = partial(_require_picture, bands=self.bands, sensor=self.sensor, size_px=self.size_px)
        with unplaced(), ThreadPoolExecutor(READERS) as pool:
            return np.stack(list(pool.map(read, [self.paths[k] for k in positions])))

    def counts(self) -> dict[str, int]:
        """Number of tiles of each class of the scheme."""
        counted = np.bincount(self.classes, minlength=len(self.scheme)).tolist()
        return dict(zip(self.scheme.names, counted, strict=True))

    def fingerprint(self) -> str:
        """A digest of which tiles these are, their labels and splits, and their files' sizes and times."""
        digest = hashlib.blake2b(
            repr((self.keys, self.scheme.names, self.bands, self.size_px)).encode(), digest_size=16
        )
        for values in (self.classes, self.fractions):
            digest.update(b"" if values is None else np.ascontiguousarray(values).tobytes())
        stats = [(path.stat().st_size, path.stat().st_mtime_ns) for path in self.paths]
        digest.update(repr((self.split.tolist(), stats)).encode())
        return digest.hexdigest()


def _require_picture(path: Path, bands: Sequence[str], sensor: Sensor, size_px: int) -> Picture:
    picture, _ = read_picture(path, bands, sensor, size_px)
    if picture is None:
        raise DatasetError(f"{path} can no longer be read; put it back, or make the dataset again")
    return picture


def read_class_folders(
    folder: str | Path,
    size_px: int = 224,
    scheme: ClassScheme | None = None,
    *,
    sensor: Sensor | None = None,
    bands: Sequence[str] = RGB,
    gsd_m: float | None = None,
) -> TileSet:
    """The tiles of a folder that holds a folder of pictures for each class; all are in split train.

    Without `scheme` a shipped one that has all the folders' names is taken, else one is made of them. Every picture is
    read once; those that cannot be are skipped and counted, those in folders within the classes' are not looked at, and a
    warning counts them. Raises DatasetError where there are fewer than two classes
    with two pictures, and where more than 5 % cannot be read.
    """
    folder, sensor = Path(folder), sensor or load_sensor("rgb8")
    require_once(bands)
    require_bands(sensor, bands, str(folder))
    groups = _pictures_by_class(folder)
    chosen = scheme or scheme_for_names(list(groups))
    index = {name: _position(name, chosen, folder) for name in groups}
    named = [(path, index[name]) for name, files in groups.items() for path in files]
    look = partial(_look, bands=tuple(bands), sensor=sensor, size_px=size_px)
    with unplaced(), ThreadPoolExecutor(READERS) as pool:
        seen = list(pool.map(look, [path for path, _ in named]))
    skipped = tuple(str(path) for (path, _), (readable, _) in zip(named, seen, strict=True) if not readable)
    if len(skipped) > MOST_UNREADABLE * len(named):
        raise DatasetError(
            f"{len(skipped)} of {len(named)} pictures cannot be read, first {skipped[0]}; mend or remove them"
        )
    kept = [item for item, (readable, _) in zip(named, seen, strict=True) if readable]
    counts = Counter(label for _, label in kept)
    few = [chosen.names[label] for label in set(index.values()) if counts[label] < 2]
    if few:
        raise DatasetError(f"class {few[0]} of {folder} has fewer than 2 pictures that can be read; add some")
    return TileSet(
        tuple(path.relative_to(folder).as_posix() for path, _ in kept),
        tuple(path for path, _ in kept),
        np.array([label for _, label in kept], np.int64),
        chosen,
        sensor,
        tuple(bands),
        size_px,
        gsd_m,
        np.full(len(kept), TRAIN),
        folder.resolve().name,
        skipped=skipped,
        resized=sum(resized for readable, resized in seen if readable),
    )


def _pictures_by_class(folder: Path) -> dict[str, list[Path]]:
    if not folder.is_dir():
        raise DatasetError(f"no such folder: {folder}; give a folder that holds a folder of pictures for each class")
    groups = {
        path.name: sorted(item for item in path.iterdir() if item.suffix.lower() in SUFFIXES)
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.name.startswith(".")
    }
    if len(groups) < 2:
        raise DatasetError(
            f"{folder} holds {len(groups)} class folders; training needs two or more, each named as its class"
        )
    empty = [name for name, files in groups.items() if len(files) < 2]
    if empty:
        raise DatasetError(
            f"class folder {folder / empty[0]} holds fewer than 2 pictures; add some, or remove the folder"
        )
    _warn_of_deeper(folder, groups)
    return groups


def _warn_of_deeper(folder: Path, groups: dict[str, list[Path]]) -> None:
    deeper = [path for name in groups for path in picture_files(folder / name) if path.parent != folder / name]
    if deeper:
        log.warning(
            "%s pictures lie in folders within the class folders and are left out, first %s; "
            "move them up into their class's folder where they belong to it",
            f"{len(deeper):,}",
            deeper[0],
        )


def _position(name: str, scheme: ClassScheme, folder: Path) -> int:
    position = class_position(scheme, name)
    if position is None:
        known = ", ".join(scheme.names)
        raise DatasetError(f"{folder / name} is no class of scheme {scheme.name!r} ({known}); rename or remove it")
    return position


def _look(path: Path, bands: Sequence[str], sensor: Sensor, size_px: int) -> tuple[bool, bool]:
    picture, resized = read_picture(path, bands, sensor, size_px)
    return picture is not None, resized
