"""Score model bundles on labelled tiles they were not trained on, and finished maps against reference labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..bundle import Bundle
from ..cluster.crew import Spread
from ..cluster.pictures import answered, picture_job
from ..datasets.duplicates import Prints, leaks, prints_of
from ..datasets.fractions import Ignore
from ..datasets.reference import read_reference
from ..datasets.splits import split_blocks
from ..datasets.store import is_dataset, read_dataset, read_tiles
from ..datasets.tileset import BUFFER, TEST, TRAIN, VALIDATION, TileSet
from ..errors import DatasetError, EvaluationError
from ..labels import Labels
from ..predict import DEFAULT_BATCH, Predictor, choose_device, shown
from ..results import read_result
from ..schemes import ClassScheme
from .scored import Scored, take

Progress = Callable[[str, int, int], None]

BATCH = 64
SPLITS = (TEST, VALIDATION, TRAIN, "all")


@dataclass(frozen=True)
class Assessed:
    """A bundle's answers on labelled tiles, and how many of these look like ones it was trained on."""

    scored: Scored
    tiles: TileSet
    leaked: npt.NDArray[np.bool_]

    @property
    def clean(self) -> Scored | None:
        """The answers on tiles that the bundle was not trained on, or None where there is none."""
        return None if self.leaked.all() else take(self.scored, ~self.leaked)


def assess(
    data: str | Path,
    bundle: Bundle,
    *,
    name: str = "model",
    split: str | None = None,
    allow_leak: bool = False,
    device: str = "auto",
    batch_size: int | None = None,
    spread: Spread | None = None,
    progress: Progress | None = None,
) -> Assessed:
    """Score a bundle on a split of a dataset (test, or all of class folders), with the bundle's classes and bands.

    Tiles that look like ones the bundle was trained on (by the hashes it carries) are a leak: EvaluationError unless
    `allow_leak`. Raises DatasetError where the data cannot be read or have classes that the model lacks.
    """
    meta = bundle.meta
    # A dataset says itself what it was cut from; class folders are taken for what the model was trained on.
    tiles = read_tiles(data, meta.size_px, meta.scheme, None if is_dataset(data) else meta.sensor, meta.bands)
    tiles = _chosen(tiles, split, data)
    prints = prints_of(shown(tiles))
    leaked = np.zeros(len(tiles), bool)
    if meta.training_tiles:
        leaked[leaks(Prints.unpacked(meta.training_tiles), prints)[:, 1]] = True
    if leaked.any() and not allow_leak:
        raise EvaluationError(
            f"{int(leaked.sum())} of {len(tiles)} tiles of {data} look like tiles that {name} was trained on, first "
            f"{tiles.keys[int(leaked.argmax())]}; score on other tiles, or see how much it lies with --allow-leak"
        )
    probabilities = predict_tiles(tiles, bundle, device=device, batch_size=batch_size, spread=spread, progress=progress)
    scored = Scored(
        tiles.keys,
        tiles.classes,
        probabilities,
        meta.scheme,
        model=name,
        bundle=bundle.digest,
        split=_how_split(data, split),
        blocks=tiles.blocks,
        purity=_own_share(tiles),
        x_m=tiles.x_m,
        y_m=tiles.y_m,
        crs=tiles.crs or "",
        train_positions=_train_positions(data),
        notes=_notes(tiles, leaked),
    )
    return Assessed(scored, tiles, leaked)


def predict_tiles(
    tiles: TileSet,
    bundle: Bundle,
    *,
    device: str = "auto",
    batch_size: int | None = None,
    spread: Spread | None = None,
    progress: Progress | None = None,
) -> npt.NDArray[np.float32]:
    """(N, K) probabilities of tiles, by this process or Dask workers."""
    where = choose_device(device)
    size = batch_size or DEFAULT_BATCH[where.type]
    batches = ((at, tiles.read(np.arange(at, min(len(tiles), at + BATCH)))) for at in range(0, len(tiles), BATCH))
    if spread:
        answers = answered(picture_job(bundle, tiles.sensor, str(where), size, None), batches, spread)
    else:
        predictor = Predictor(bundle, tiles.sensor, device=where, batch_size=size)
        answers = ((at, predictor(list(pictures)).probabilities) for at, pictures in batches)
    found = np.empty((len(tiles), len(bundle.meta.scheme)), np.float32)
    done = 0
    for at, probabilities in answers:
        found[at : at + len(probabilities)] = probabilities
        done += len(probabilities)
        if progress:
            progress("scoring", done, len(tiles))
    return found


def pictures_of(tiles: TileSet) -> Callable[[Sequence[str]], list[npt.NDArray[np.uint8] | None]]:
    """A function from tile keys to their pictures, for the galleries of a report."""
    where = {key: k for k, key in enumerate(tiles.keys)}

    def pictures(keys: Sequence[str]) -> list[npt.NDArray[np.uint8] | None]:
        return list(shown(tiles.take(np.array([where[key] for key in keys], np.intp)))) if keys else []

    return pictures


def assess_result(
    path: str | Path,
    labels: str | Path,
    *,
    scheme: ClassScheme | None = None,
    class_field: str | None = None,
    layer: str | None = None,
    ignore: Ignore = (),
    min_purity: float = 0.0,
    name: str | None = None,
) -> Scored:
    """Score a finished map (its GeoPackage) against a label raster, polygons or points.

    A tile's truth is the class with most of it (raster, polygons) or most points; tiles without one are left out, and so
    are those below `min_purity`. Codes or names in `ignore` (or "all" outside the scheme) count as unlabelled. Raises
    DatasetError and EvaluationError.
    """
    result = read_result(Path(path))
    _, fractions = read_reference(
        labels,
        result.grid,
        result.columns,
        result.rows,
        scheme or result.scheme,
        class_field,
        layer=layer,
        ignore=ignore,
    )
    truth = fractions.majority(min_purity, 0.0)
    known = (truth >= 0) & (fractions.labelled > 0)
    if not known.any():
        raise EvaluationError(f"{labels} gives no tile of {path} a class; check that it covers the same ground")
    chosen = np.flatnonzero(known)
    x_m, y_m = _centres(result)
    ids = result.tile_ids
    left_out = len(result) - len(chosen)
    notes = [f"{left_out:,} tiles of the map have no reference class and are left out."] if left_out else []
    return Scored(
        tuple(ids[k] for k in chosen),
        truth[chosen],
        result.probabilities[chosen],
        result.scheme,
        model=name or Path(path).stem,
        bundle=str(result.info.get("bundle") or ""),
        split=f"All tiles of the map that {Path(labels).name} gives a class. Where the model was trained on some of them, the figures flatter it.",
        blocks=_blocks(x_m[chosen], y_m[chosen], truth[chosen], result.grid.side_m),
        purity=fractions.purity[chosen],
        x_m=x_m[chosen],
        y_m=y_m[chosen],
        crs=result.grid.crs_label,
        notes=(*notes, *fractions.notes),
    )


def _centres(result: Labels) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    side = result.grid.side_m
    return (result.columns + 0.5).astype(np.float64) * side, (result.rows + 0.5).astype(np.float64) * side


def _blocks(
    x_m: npt.NDArray[np.float64], y_m: npt.NDArray[np.float64], truth: npt.NDArray[np.int64], side_m: float
) -> npt.NDArray[np.int64] | None:
    """Blocks of ground for the bootstrap, sized by the reference's own autocorrelation."""
    try:
        return split_blocks(x_m, y_m, truth, side_m, {TRAIN: 0.5, TEST: 0.5}, buffer=False).blocks
    except DatasetError:  # too few tiles for blocks: each stands alone
        return None


def _chosen(tiles: TileSet, split: str | None, data: str | Path) -> TileSet:
    if split is not None and split not in SPLITS:
        raise EvaluationError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    wanted = split or (TEST if is_dataset(data) else "all")
    found = tiles.take(tiles.split != BUFFER) if wanted == "all" else tiles.of(wanted)
    if not len(found):
        there = ", ".join(sorted(set(tiles.split.tolist())))
        raise EvaluationError(f"{data} has no tiles of split {wanted} (it has {there}); name one with --split")
    return found


def _how_split(data: str | Path, split: str | None) -> str:
    if split not in (None, TEST):
        return f"These are the tiles of split {split}."
    if not is_dataset(data):
        return "All tiles of the folders. Where they are neighbours of training tiles, the figures flatter the model."
    return read_dataset(data).meta.split.rule


def _own_share(tiles: TileSet) -> npt.NDArray[np.float32] | None:
    """(N,) the share of each tile that its own class has."""
    if tiles.fractions is None:
        return None
    return np.asarray(tiles.fractions[np.arange(len(tiles)), tiles.classes], np.float32)


def _train_positions(data: str | Path) -> npt.NDArray[np.float64] | None:
    if not is_dataset(data):
        return None
    tiles = read_tiles(data).of(TRAIN)
    return (
        None if tiles.x_m is None or tiles.y_m is None or not len(tiles) else np.stack([tiles.x_m, tiles.y_m], axis=1)
    )


def _notes(tiles: TileSet, leaked: npt.NDArray[np.bool_]) -> tuple[str, ...]:
    notes = []
    if leaked.any():
        notes.append(
            f"{int(leaked.sum()):,} of {len(tiles):,} tiles look like ones the model was trained on: these figures lie."
        )
    if tiles.skipped:
        notes.append(f"{len(tiles.skipped):,} pictures could not be read and are left out.")
    return tuple(notes)
