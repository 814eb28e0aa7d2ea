"""Which tiles a dataset takes: their class by rule, the split of each, and how many of a class; no pixel is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyogrio
import shapely

from ..errors import DatasetError
from ..grid import IntArray, TileGrid
from ..schemes import ClassScheme
from .reference import MIN_PURITY, UNLABELLED, TileFractions
from .splits import balance, split_blocks, split_by_group, split_random
from .store import SPLITS, SplitRecord
from .tileset import TRAIN

Rule = Literal["majority", "nine-points", "soft"]
Balance = Literal["cap", "none", "weights"]
Split = Literal["blocks", "random", "by-scene", "by-field"]

NO_DATA = "too little data in the imagery"
NO_LABEL = "less than half of the ground carries a class"
MIXED = "mixed: no class covers enough of the labelled ground"
NINE = "mixed: nine points of the tile do not agree"
RARE = "of a class with a single tile"
BUFFER = "in the buffer between blocks"
BALANCED = "more than the smallest class has (balance)"
OUTSIDE = "outside every area of the field"
TWICE = "look-alikes of another tile"
SAME_GROUND = "ground that a scene of another split shows as well"
UNREADABLE = "pictures that cannot be read"

LEAST_CAP = 50
"""A class of fewer training tiles than this does not cut the others down to its own number."""
NO_PLACES = (
    "The pictures' places on the ground are not known, so they are split at random: neighbours may be in both training and "
    "test, and the scores will flatter the model."
)
SHARED_GROUND = (
    "Scenes of different splits show the same ground. It was dealt to one of them by blocks, so that no ground is both learned "
    "from and tested on."
)
NARROW = (
    "Blocks of {:,.0f} m are narrower than the {:,.0f} m over which labels resemble each other, as the ground has no room for "
    "wider ones: the scores may still flatter the model. More ground, or another place to test on, tells more."
)


@dataclass(frozen=True)
class Choice:
    """How tiles are labelled, parted and balanced. Raises DatasetError for what does not exist or add up.

    shares: of train, validation, test, or None for the split's own; min_purity None: 0.6 for `majority`, else 0;
    block_m: side of a block in metres, or None to take it from the data; split_field, test_groups: for `by-field`, the
    polygons' field and its values that test (for `by-scene` the scenes), or None to draw them.
    """

    rule: Rule = "majority"
    min_purity: float | None = None
    balance: Balance = "cap"
    split: Split = "blocks"
    shares: tuple[float, float, float] | None = None
    block_m: float | None = None
    split_field: str | None = None
    test_groups: tuple[str, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, kind in (
            ("rule", self.rule, Rule),
            ("balance", self.balance, Balance),
            ("split", self.split, Split),
        ):
            if value not in get_args(kind):
                raise DatasetError(f"--{name} is {value!r}; choose one of {', '.join(get_args(kind))}")
        if self.min_purity is not None and not 0 <= self.min_purity <= 1:
            raise DatasetError(f"--min-purity is {self.min_purity}; give a share from 0 to 1")
        if self.block_m is not None and not self.block_m > 0:
            raise DatasetError(f"--block-m is {self.block_m}; give the side of a block in metres, above 0")
        parts = self.parts
        if len(parts) != 3 or min(parts) < 0 or abs(sum(parts) - 1) > 1e-6 or parts[0] == 0:
            raise DatasetError("--shares must be three shares that sum to 1 (or 100), the first above 0, as 60,15,25")
        if self.split == "by-field" and not self.split_field:
            raise DatasetError(
                "--split by-field needs the field of the polygons that tells groups apart; name it with --split-field"
            )

    @property
    def parts(self) -> tuple[float, float, float]:
        """Shares of train, validation and test; a random split is the classic 75/25 unless told otherwise."""
        if self.shares is not None:
            return self.shares
        return (0.75, 0.0, 0.25) if self.split == "random" else (0.6, 0.15, 0.25)

    @property
    def least(self) -> float:
        """The purity from which a tile is taken."""
        return self.min_purity if self.min_purity is not None else MIN_PURITY if self.rule == "majority" else 0.0


def classes_of(reference: TileFractions, choice: Choice) -> tuple[IntArray, npt.NDArray[np.object_]]:
    """(N,) class position of each tile, or -1, and (N,) the reason why it has none, else ""."""
    labelled, classes = reference.majority(0.0), reference.majority(choice.least)
    reasons = np.full(len(reference), "", object)
    reasons[classes == UNLABELLED] = MIXED
    reasons[labelled == UNLABELLED] = NO_LABEL
    if choice.rule == "nine-points":
        reasons[(reasons == "") & (reference.nine_points == UNLABELLED)] = NINE
        classes = np.where(reasons == "", reference.nine_points, UNLABELLED)
    return classes.astype(np.int64), reasons


@dataclass(frozen=True)
class Placed:
    """Tiles with a class: scenes (N,) by name, places on the grid, class positions, and ids of their ground."""

    scenes: tuple[str, ...]
    ground: tuple[str, ...]
    classes: IntArray
    x_m: npt.NDArray[np.float64] | None = None
    y_m: npt.NDArray[np.float64] | None = None
    tile_m: float | None = None
    groups: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Parted:
    """The split (N,) and block (N,) of each tile, -1 where there are no blocks, and how that came about."""

    split: npt.NDArray[np.str_]
    blocks: IntArray
    record: SplitRecord
    left_out: Counter[str]
    notes: tuple[str, ...] = ()


def part(tiles: Placed, choice: Choice) -> Parted:
    """The split of each tile; tiles on the same ground share it. `buffer` is for those that are left out.

    Tiles without a place cannot lie in blocks: they are drawn at random, and a note says so. Raises DatasetError.
    """
    shares = {name: share for name, share in zip(SPLITS, choice.parts, strict=True) if share > 0}
    nowhere = np.full(len(tiles.classes), -1, np.int64)
    record = SplitRecord(rule=choice.split, shares=choice.parts, seed=choice.seed)
    if len(shares) == 1:
        names = np.full(len(tiles.classes), next(iter(shares)))
        return Parted(names, nowhere, record, Counter(), ("all tiles train: nothing is held out to test on",))
    if choice.split == "blocks" and tiles.x_m is not None and tiles.y_m is not None and tiles.tile_m is not None:
        found = split_blocks(tiles.x_m, tiles.y_m, tiles.classes, tiles.tile_m, shares, choice.block_m, choice.seed)
        record = record.model_copy(update={"block_m": found.block_m, "range_m": found.range_m})
        wide = found.range_m is None or found.range_m <= found.block_m
        note: tuple[str, ...] = () if wide else (NARROW.format(found.block_m, found.range_m),)
        return Parted(found.names, found.blocks, record, Counter({BUFFER: int((found.names == "buffer").sum())}), note)
    if choice.split in ("blocks", "random"):
        names = split_random(tiles.classes, shares, choice.seed, tiles.ground)
        note = () if choice.split == "random" else (NO_PLACES,)
        return Parted(names, nowhere, record.model_copy(update={"rule": "random"}), Counter(), note)
    groups = tiles.scenes if choice.split == "by-scene" else tiles.groups
    if groups is None:
        raise DatasetError("class folders tell no fields; --split by-field needs labels that are polygons, or an --aoi")
    names = split_by_group(groups, shares, choice.seed, test=choice.test_groups)
    known = dict(sorted(dict(zip(groups, names.tolist(), strict=True)).items()))
    record = record.model_copy(update={"field": choice.split_field, "groups": known})
    names, said = _apart(tiles, names, shares, choice)
    return Parted(names, nowhere, record, Counter({SAME_GROUND: int((names == "buffer").sum())}), said)


def _apart(
    tiles: Placed, names: npt.NDArray[np.str_], shares: Mapping[str, float], choice: Choice
) -> tuple[npt.NDArray[np.str_], tuple[str, ...]]:
    """The split with `buffer` for tiles whose ground is in another split too, as when years part the tiles of one place.

    Such ground is dealt by blocks, so that each split has some of it, and none is seen in training and in testing.
    """
    seen = pd.Series(names).groupby(np.array(tiles.ground)).transform("nunique").to_numpy()
    shared = seen > 1
    if not shared.any() or tiles.x_m is None or tiles.y_m is None or tiles.tile_m is None:
        return names, ()
    dealt = split_blocks(tiles.x_m, tiles.y_m, tiles.classes, tiles.tile_m, shares, choice.block_m, choice.seed).names
    result = np.where(shared & (names != dealt), "buffer", names)
    empty = [name for name in shares if not (result == name).any()]
    if empty:
        raise DatasetError(
            f"no tiles are left for {' and '.join(empty)}: scenes of different splits show the same ground; use --split blocks"
        )
    return result, (SHARED_GROUND,)


def balanced(classes: IntArray, split: npt.NDArray[np.str_], count: int, choice: Choice) -> npt.NDArray[np.bool_]:
    """(N,) which tiles to keep. With `cap` each class trains on at most as many tiles as the rarest one has, but 50 may
    always be kept; the other splits are cut in proportion, so that what is read stays small. Buffer tiles are not kept.
    """
    keep = np.isin(split, SPLITS)
    if choice.balance != "cap":
        return keep
    train = classes[split == TRAIN]
    counts = np.bincount(train, minlength=count)
    most = max(LEAST_CAP, int(counts[counts > 0].min(initial=np.iinfo(np.int64).max))) if len(train) else 0
    for name, share in zip(SPLITS, choice.parts, strict=True):
        here = np.flatnonzero(split == name)
        cap = max(1, round(most * share / choice.parts[0]))
        keep[here] = balance(classes[here], count, "cap", choice.seed, cap).keep
    return keep


def single_classes(classes: IntArray, ground: npt.NDArray[Any]) -> IntArray:
    """The class positions that only one place has: they can be in no two splits."""
    places = pd.DataFrame({"class": classes, "ground": ground}).groupby("class")["ground"].nunique()
    return places.index[places < 2].to_numpy(np.int64)


def rare_note(names: Sequence[str]) -> list[str]:
    """What is said of classes that were left out because they have a single tile."""
    return [f"{', '.join(names)}: one tile only, too few to learn and test, and left out."] if names else []


def untested(classes: IntArray, split: npt.NDArray[np.str_], scheme: ClassScheme) -> list[str]:
    """A note on the classes that a split which has tiles has none of."""
    notes = []
    for name in SPLITS[1:]:
        here = set(classes[split == name].tolist())
        gone = [scheme.names[k] for k in np.unique(classes).tolist() if here and k not in here]
        if gone:
            notes.append(
                f"No {name} tile is {' or '.join(gone)}: the {name} scores say nothing of {'it' if len(gone) == 1 else 'them'}."
            )
    return notes


def require_classes(classes: IntArray, scheme: ClassScheme, where: str) -> None:
    """Raise DatasetError unless tiles of two classes or more are there."""
    found = [scheme.names[k] for k in np.unique(classes)]
    if len(found) == 1:
        raise DatasetError(
            f"all {len(classes):,} tiles of {where} are {found[0]}; a dataset needs two classes: give more ground or another --scheme"
        )
    if not found:
        raise DatasetError(
            f"no tile of {where} gets a class; lower --min-purity, cut smaller tiles with --size, or give labels of more ground"
        )


def has_field(path: str | Path, layer: str | None, name: str) -> bool:
    """Whether this is a vector file (its `layer`) with a field called `name`."""
    try:
        return name in pyogrio.read_info(path, layer=layer)["fields"]
    except Exception:  # a raster, or damaged: pyogrio and GDAL each raise their own types
        return False


def field_of_tiles(
    path: str | Path, layer: str | None, name: str, grid: TileGrid, columns: IntArray, rows: IntArray
) -> tuple[str | None, ...]:
    """The value of a polygon file's field in each tile (N,): of the polygon that covers most of it, or None.

    Raises DatasetError where the file has no such field or no polygons.
    """
    try:
        options = {} if layer is None else {"layer": layer}
        frame = pyogrio.read_dataframe(path, **options)
    except Exception as error:  # pyogrio and GDAL each raise their own types
        raise DatasetError(
            f"{path} has no field {name!r}: it holds no polygons; --split-field needs labels or an --aoi with it"
        ) from error
    known = [column for column in frame.columns if column != "geometry"]
    if name not in known or not isinstance(frame, gpd.GeoDataFrame) or frame.crs is None:
        raise DatasetError(
            f"{path} has no field {name!r}; name one of {', '.join(known) or 'another file'} with --split-field"
        )
    frame = frame[frame[name].notna() & ~frame.geometry.isna()].to_crs(grid.crs)
    shapes = shapely.make_valid(frame.geometry.to_numpy())
    tiles = grid.polygons(columns, rows)
    at, other = shapely.STRtree(shapes).query(tiles, predicate="intersects")
    pairs = pd.DataFrame({"tile": at, "value": frame[name].astype(str).to_numpy()[other]})
    pairs["area"] = shapely.area(shapely.intersection(tiles[at], shapes[other]))
    largest = pairs.groupby(["tile", "value"])["area"].sum().reset_index().sort_values(by="area", kind="stable")
    values = dict(zip(largest["tile"], largest["value"], strict=True))
    return tuple(values.get(k) for k in range(len(columns)))
