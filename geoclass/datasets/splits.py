"""Which tiles train and which are held out: spatial blocks with a buffer, groups, or the classic random split; balance.

A split is an array (N,) of names: those of `shares` in its order, and `buffer` for tiles that are used for nothing. The
first name is the training side. Ground never straddles: tiles of several scenes or years on the same ground go together.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy.spatial

from ..errors import DatasetError
from .tileset import BUFFER, TEST

LEAST_BLOCK_TILES = 3
LEAST_BLOCKS = 20
DEALS = 24
"""Deals of the blocks that are tried, of which the best is kept."""
SILL_SHARE = 0.95
SAMPLE_TILES = 4000

Names = npt.NDArray[np.str_]
Floats = npt.NDArray[np.float64]
Classes = npt.NDArray[np.int64]
Rule = Literal["cap", "none", "weights"]


@dataclass(frozen=True)
class BlockSplit:
    """A split by blocks: `names` (N,); `blocks` (N,) number of each tile's block; `block_m` the side of a block.

    `range_m` is the autocorrelation range that sized it, None where the side was given.
    """

    names: Names
    blocks: Classes
    block_m: float
    range_m: float | None


@dataclass(frozen=True)
class Balance:
    """`keep` (N,) tells the tiles to train on, `weights` (K,) how much each class counts (mean 1 over classes present)."""

    keep: npt.NDArray[np.bool_]
    weights: Floats


def split_random(
    classes: Classes, shares: Mapping[str, float], seed: int, ground: Sequence[Hashable] | None = None
) -> Names:
    """A stratified random split of tiles with these class positions (N,): each class is dealt by `shares`.

    Numbers of tiles are rounded by largest remainder, with at least one of each class for training, then for each other
    split while the class has tiles left. Tiles of equal `ground` (tile ids) go together, counted by the first one's
    class. Neighbours straddle such a split, and accuracy measured on it flatters. Raises DatasetError for impossible shares.
    """
    wanted = _checked(shares)
    names = np.array(list(wanted))
    _, first, member = np.unique(_codes(ground, len(classes)), return_index=True, return_inverse=True)
    rng = np.random.default_rng(seed)
    dealt = np.empty(len(first), np.int64)
    kinds = np.asarray(classes)[first]
    for kind in np.unique(kinds):
        places = rng.permutation(np.flatnonzero(kinds == kind))
        dealt[places] = np.repeat(np.arange(len(names)), _apportioned(len(places), list(wanted.values())))
    return np.asarray(names[dealt[member.ravel()]])


def split_by_group(
    groups: Sequence[Hashable],
    shares: Mapping[str, float],
    seed: int,
    *,
    test: Collection[Hashable] | None = None,
    ground: Sequence[Hashable] | None = None,
) -> Names:
    """Whole groups (scenes, counties, years; (N,)) to one split each: those in `test` are tested on, or all are drawn.

    With `test` the rest is dealt among the other names of `shares`; without, groups are drawn so that the numbers of
    tiles come near the shares. Where tiles of equal `ground` (tile ids) would straddle, those of the earlier split go
    to `buffer`. Raises DatasetError for unknown groups, too few groups, or a split that is left empty.
    """
    wanted = _checked(shares)
    codes = _codes(groups, len(groups))
    labels = list(dict.fromkeys(groups))
    names = list(wanted)
    fixed = np.full(len(labels), -1)
    if test is not None:
        unknown = [str(item) for item in test if item not in labels]
        if unknown:
            raise DatasetError(f"no tiles of {', '.join(unknown)}; there are {', '.join(map(str, labels[:12]))}")
        target = names.index(TEST) if TEST in names else len(names) - 1
        fixed[[labels.index(item) for item in test]] = target
    free, others = fixed < 0, [n for n in range(len(names)) if test is None or n not in fixed]
    if free.sum() < len(others):
        raise DatasetError(
            f"{len(labels)} scenes or field values are too few for the splits {', '.join(names)}; use --split blocks"
        )
    sizes = np.bincount(codes, minlength=len(labels))
    weights = np.array([list(wanted.values())[n] for n in others])
    order = np.random.default_rng(seed).permutation(np.flatnonzero(free))
    dealt = _dealt(sizes[order, None].astype(float), weights / weights.sum())
    fixed[order] = np.array(others)[dealt]
    split = fixed[codes]
    if ground is not None:
        same = _codes(ground, len(groups))
        latest = np.zeros(same.max() + 1, np.int64)
        np.maximum.at(latest, same, split)
        split = np.where(split < latest[same], -1, split)
    _require_all(split, names, "the same ground lies in several scenes or years; use --split blocks")
    return _named(split, names)


def split_blocks(
    x_m: Floats,
    y_m: Floats,
    classes: Classes,
    tile_m: float,
    shares: Mapping[str, float],
    block_m: float | None = None,
    seed: int = 0,
    buffer: bool = True,
) -> BlockSplit:
    """Split tiles of side `tile_m`, centred at (`x_m`, `y_m`) (N,) metres in one CRS, by square blocks of ground.

    Blocks count from the CRS origin, so the same ground is in the same block whatever the extent. `block_m` is rounded
    to whole tiles; None sizes blocks by the autocorrelation range (`correlation_range_m`), from 3 tiles to what still
    gives 20 blocks. Seeded deals of the blocks are tried, and the one kept whose class shares come nearest to `shares`
    with every class in training. With `buffer`, a tile that touches one of a later split (by an edge or a corner) goes
    to `buffer`, so no two tiles of different splits touch. Raises DatasetError where there are too few blocks.
    """
    wanted = _checked(shares)
    x_m, y_m, classes = np.asarray(x_m, float), np.asarray(y_m, float), np.asarray(classes, np.int64)
    if not (np.isfinite(x_m).all() and np.isfinite(y_m).all()):
        raise DatasetError("some tiles have no place on the ground, which blocks need; use --split random or by-scene")
    range_m = None
    if block_m is None:
        range_m = correlation_range_m(x_m, y_m, classes, tile_m)
    elif not (np.isfinite(block_m) and block_m > 0):
        raise DatasetError(f"the block side is {block_m} m; give --block above 0")
    tiles = np.floor(np.stack([x_m, y_m], axis=1) / tile_m + 1e-6)
    ground = len(np.unique(tiles, axis=0))
    side = _block_tiles(range_m or 0, tile_m, ground) if block_m is None else max(1, round(block_m / tile_m))
    _, blocks = np.unique(tiles // side, axis=0, return_inverse=True)
    blocks = blocks.ravel().astype(np.int64)
    names = list(wanted)
    if blocks.max(initial=-1) + 1 < len(names):
        raise DatasetError(
            f"{len(classes)} tiles lie in too few blocks of {side * tile_m:g} m ({blocks.max(initial=-1) + 1}) to hold any "
            "out; add imagery, give a smaller --block, or use --split random"
        )
    touching = _touching(x_m, y_m, tile_m, blocks) if buffer else np.empty((0, 2), np.int64)
    split = _best_deal(blocks, classes, np.array(list(wanted.values())), touching, seed)
    _require_all(split, names, f"blocks of {side * tile_m:g} m with a buffer use up the tiles; give a smaller --block")
    return BlockSplit(_named(split, names), blocks, side * tile_m, range_m)


def correlation_range_m(x_m: Floats, y_m: Floats, classes: Classes, tile_m: float) -> float:
    """How far apart tiles must be for their classes to be about unrelated, in metres; at least one tile.

    The pooled indicator variogram (Journel 1983, Mathematical Geology 15(3):445–468) is γ(h) = ½ Σₖ mean[(Iₖ(u) − Iₖ(v))²]
    over pairs at distance h, which is the share of pairs whose classes differ: the unlike joins of Cliff & Ord (1981,
    Spatial Processes). Its sill is 1 − Σₖ pₖ². The range is the first h, in steps of a tile, at which γ reaches 95 % of the
    sill, or half of the extent where it never does. Blocks at least as wide are what Roberts et al. (2017, Ecography
    40:913–929) and Valavi et al. (2019, Methods in Ecology and Evolution 10:225–232) advise. At most 4,000 tiles, drawn
    with a fixed seed, are paired.
    """
    chosen = np.arange(len(classes))
    if len(chosen) > SAMPLE_TILES:
        chosen = np.sort(np.random.default_rng(0).choice(len(classes), SAMPLE_TILES, replace=False))
    x, y, kind = x_m[chosen] / tile_m, y_m[chosen] / tile_m, classes[chosen]
    if len(x) < 2:
        return tile_m
    shares = np.bincount(kind) / len(kind)
    sill = 1 - float((shares**2).sum())
    lags = max(1, int(max(np.ptp(x), np.ptp(y)) / 2))
    pairs, unlike = np.zeros(lags + 2), np.zeros(lags + 2)
    for start in range(0, len(x), 500):
        part = slice(start, start + 500)
        lag = np.rint(np.hypot(x[part, None] - x, y[part, None] - y)).astype(np.int64).clip(0, lags + 1).ravel()
        pairs += np.bincount(lag, minlength=lags + 2)
        unlike += np.bincount(lag, weights=(kind[part, None] != kind).ravel(), minlength=lags + 2)
    enough = pairs[1:-1] >= 30
    reached = enough & (unlike[1:-1] >= SILL_SHARE * sill * pairs[1:-1])
    if sill == 0:
        return tile_m
    return tile_m * float(np.argmax(reached) + 1 if reached.any() else lags)


def balance(classes: Classes, class_count: int, rule: Rule, seed: int, cap: int | None = None) -> Balance:
    """Even out classes (N,) of `class_count`: `cap` keeps at most `cap` (default: the rarest class's number) tiles of each.

    `weights` keeps all and weighs each class by the inverse of its number; a class without tiles weighs 0. Kept tiles
    are drawn with `seed`. Raises DatasetError for an unknown rule or a cap below 1.
    """
    counts = np.bincount(classes, minlength=class_count)
    keep, weights = np.ones(len(classes), bool), np.ones(class_count)
    if rule == "cap":
        most = int(counts[counts > 0].min(initial=np.iinfo(np.int64).max)) if cap is None else cap
        if most < 1:
            raise DatasetError(f"at most {most} tiles of each class leaves none; give --cap of 1 or more")
        rng = np.random.default_rng(seed)
        for kind in np.flatnonzero(counts > most):
            members = np.flatnonzero(classes == kind)
            keep[rng.permutation(members)[most:]] = False
    elif rule == "weights":
        weights = np.divide(1.0, counts, out=np.zeros(class_count), where=counts > 0)
        weights *= (counts > 0).sum() / max(weights.sum(), 1e-300)
    elif rule != "none":
        raise DatasetError(f"unknown balance {rule!r}; choose cap, none or weights")
    return Balance(keep, weights)


def _checked(shares: Mapping[str, float]) -> dict[str, float]:
    """Shares that sum to 1, as given but for rounding. Raises DatasetError."""
    values = dict(shares)
    good = len(values) >= 2 and all(np.isfinite(v) and v > 0 for v in values.values()) and BUFFER not in values
    if not good or abs(sum(values.values()) - 1) > 1e-6:
        listed = ", ".join(f"{name} {value:g}" for name, value in values.items())
        raise DatasetError(
            f"shares {listed or 'of nothing'} do not split the tiles; give two or more above 0 that sum to 1"
        )
    return values


def _codes(keys: Sequence[Hashable] | None, count: int) -> Classes:
    """(count,) a number for each key, in order of first appearance; without keys every tile is its own."""
    if keys is None:
        return np.arange(count)
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def _apportioned(count: int, shares: Sequence[float]) -> Classes:
    """How many of `count` each share gets: largest remainder, then one each, in order, for the splits that got none."""
    exact = np.array(shares) * count
    parts = np.floor(exact + 1e-9).astype(np.int64)
    for place in np.argsort(-(exact - parts).round(9), kind="stable")[: count - parts.sum()]:
        parts[place] += 1
    for place in range(min(count, len(parts))):
        if parts[place] == 0 and parts.max() > 1:
            parts[parts.argmax()] -= 1
            parts[place] = 1
    return parts


def _block_tiles(range_m: float, tile_m: float, ground: int) -> int:
    """Side of a block in tiles: the range, at most what leaves 20 blocks of the ground, at least 3."""
    most = int((ground / LEAST_BLOCKS) ** 0.5)
    return max(LEAST_BLOCK_TILES, min(int(np.ceil(range_m / tile_m - 1e-9)), most))


def _touching(x_m: Floats, y_m: Floats, tile_m: float, blocks: Classes) -> Classes:
    """(M, 2) pairs of tiles of different blocks that share an edge, a corner or ground."""
    tree = scipy.spatial.cKDTree(np.stack([x_m, y_m], axis=1))
    pairs = tree.query_pairs(tile_m * (1 + 1e-6), p=np.inf, output_type="ndarray").astype(np.int64)
    return np.asarray(pairs[blocks[pairs[:, 0]] != blocks[pairs[:, 1]]])


def _best_deal(blocks: Classes, classes: Classes, shares: Floats, touching: Classes, seed: int) -> Classes:
    """(N,) split of each tile, -1 in the buffer: the best of several seeded deals, judged after the buffer is taken."""
    present, kinds = np.unique(classes, return_inverse=True)
    kinds = kinds.ravel()
    counts = np.zeros((blocks.max() + 1, len(present)))
    np.add.at(counts, (blocks, kinds), 1)
    rng = np.random.default_rng(seed)
    splits = []
    for _ in range(DEALS):
        order = rng.permutation(len(counts))
        order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
        dealt = np.empty(len(counts), np.int64)
        # Each class counts by its share, so that a rare one is dealt as carefully as a common one.
        dealt[order] = _dealt(counts[order] / counts.sum(axis=0), shares)
        splits.append(_buffered(dealt[blocks], touching))
    return min(splits, key=lambda split: _badness(split, kinds, shares))


def _badness(split: Classes, kinds: Classes, shares: Floats) -> tuple[float, ...]:
    """What is wrong with a split, worst first: empty splits, classes without training tiles, missing classes, shares."""
    table = np.zeros((len(shares), kinds.max() + 1))
    np.add.at(table, (split[split >= 0], kinds[split >= 0]), 1)
    part = table / np.maximum(table.sum(axis=0), 1)
    empty, untrained, missing = (table.sum(axis=1) == 0).sum(), (table[0] == 0).sum(), (table == 0).sum()
    return float(empty), float(untrained), float(missing), float(((part - shares[:, None]) ** 2).sum())


def _dealt(amounts: Floats, shares: Floats) -> Classes:
    """(B,) a split for each of the items in turn: the one that then is nearest to its share of every column of (B, K).

    What is in one item only goes to the first split (training); each split gets an item while there are enough.
    """
    target = shares[:, None] * amounts.sum(axis=0)
    have = np.zeros_like(target)
    dealt = np.full(len(amounts), -1)
    there = amounts > 0
    alone = np.asarray((there & (there.sum(axis=0) == 1)).any(axis=1))
    for place, amount in enumerate(amounts):
        cost = ((have + amount - target) ** 2 - (have - target) ** 2).sum(axis=1)
        choice = 0 if alone[place] else int(cost.argmin())
        if len(amounts) - place <= len(shares):
            missing = [n for n in range(len(shares)) if n not in dealt[:place]]
            if len(missing) >= len(amounts) - place and choice not in missing:
                choice = missing[0]
        dealt[place] = choice
        have[choice] += amount
    return dealt


def _buffered(split: Classes, touching: Classes) -> Classes:
    """The split with -1 for tiles that touch a tile of a later split."""
    first, second = split[touching[:, 0]], split[touching[:, 1]]
    result = split.copy()
    result[touching[first < second, 0]] = -1
    result[touching[second < first, 1]] = -1
    return result


def _named(split: Classes, names: Sequence[str]) -> Names:
    return np.asarray(np.array([*names, BUFFER])[split])


def _require_all(split: Classes, names: Sequence[str], reason: str) -> None:
    empty = [name for place, name in enumerate(names) if not (split == place).any()]
    if empty:
        raise DatasetError(f"no tiles are left for {' and '.join(empty)}: {reason}, or use --split random")
