"""Classify single pictures: a photograph, a screenshot, a folder of chips."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .bundle import Bundle
from .datasets.pictures import SUFFIXES, Picture, read_picture, squared, unplaced
from .errors import DatasetError, GeoclassError
from .predict import DEFAULT_BATCH
from .runtimes.settling import Workload, device_for, open_runner, settle
from .runtimes.wanted import Wanted

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class PictureAnswers:
    """Answers to N pictures: their paths, probabilities (N, K), and the paths that could not be read."""

    paths: tuple[Path, ...]
    probabilities: npt.NDArray[np.float32]
    unreadable: tuple[Path, ...]


def classify_pictures(
    inputs: Sequence[str | Path],
    bundle: Bundle,
    *,
    device: str = "auto",
    batch_size: int | None = None,
    runtime: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
) -> PictureAnswers:
    """Classify picture files, and all in folders (and folders in these), each as one tile.

    A picture is scaled so that its shorter side is a tile's and its middle square is taken; its ground sampling
    distance is not known, so it should show about as much ground as a tile does. Raises DatasetError where there is no
    picture, or none can be read; GeoclassError for a runtime or precision that cannot be had.
    """
    wanted = Wanted(runtime, precision)
    if precision == "int8":
        raise GeoclassError("--precision int8 is calibrated on the tiles of a scene; for pictures give fp32")
    where = device_for(device, wanted)
    paths = _found(inputs)
    batch_size = batch_size or DEFAULT_BATCH[where.type]
    workload = Workload(bundle, bundle.meta.sensor, where, batch_size, len(paths), lambda _: [])
    settled = settle(workload, wanted)
    predictor = workload.predictor(settled.runner or open_runner(bundle, settled.choice, where))
    answered: list[Path] = []
    unreadable: list[Path] = []
    probabilities = []
    size = predictor.batch_size
    for start in range(0, len(paths), size):
        batch = paths[start : start + size]
        with unplaced():
            read = [_tile(path, bundle) for path in batch]
        tiles = [tile for tile in read if tile is not None]
        answered += [path for path, tile in zip(batch, read, strict=True) if tile is not None]
        unreadable += [path for path, tile in zip(batch, read, strict=True) if tile is None]
        if tiles:
            probabilities.append(predictor(tiles).probabilities)
        if progress:
            progress("classifying", min(len(paths), start + size), len(paths))
    if not answered:
        raise DatasetError(f"{paths[0]} cannot be read as a picture; give JPEG, PNG or TIFF files")
    return PictureAnswers(tuple(answered), np.concatenate(probabilities), tuple(unreadable))


def _found(inputs: Sequence[str | Path]) -> list[Path]:
    if not inputs:
        raise DatasetError("no picture given; name picture files, or folders of them")
    return [path for item in inputs for path in _of(Path(item))]


def _of(item: Path) -> Iterator[Path]:
    if item.is_dir():
        inside = sorted(path for path in item.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        if not inside:
            raise DatasetError(f"{item} holds no picture (JPEG, PNG or TIFF); give another folder")
        yield from inside
    elif item.is_file():
        yield item
    else:
        raise DatasetError(f"no such picture: {item}; check the path")


def _tile(path: Path, bundle: Bundle) -> Picture | None:
    meta = bundle.meta
    picture, _ = read_picture(path, meta.bands, meta.sensor, None)
    return None if picture is None else squared(picture, meta.size_px)
