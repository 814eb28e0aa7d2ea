"""Splits keep ground apart, give every split its share, and depend on nothing but the data and the seed."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from geoclass.datasets.splits import balance, correlation_range_m, split_blocks, split_by_group, split_random
from geoclass.errors import DatasetError

TWO = {"train": 0.75, "test": 0.25}
THREE = {"train": 0.6, "validation": 0.2, "test": 0.2}


def patchwork(side: int, patch: int, classes: int, seed: int):
    """Centres (tile 1 m) and classes of side × side tiles made of square patches, each of one class at random."""
    column, row = (a.ravel() for a in np.meshgrid(np.arange(side), np.arange(side)))
    rng = np.random.default_rng(seed)
    shift = rng.integers(0, patch, 2)
    kinds = rng.integers(0, classes, (side // patch + 2, side // patch + 2))
    return column + 0.5, row + 0.5, kinds[(row + shift[0]) // patch, (column + shift[1]) // patch]


def touching_pairs(x, y, tile):
    near = (np.abs(x[:, None] - x) <= tile * 1.001) & (np.abs(y[:, None] - y) <= tile * 1.001)
    return np.argwhere(np.triu(near, 1))


@settings(max_examples=40, deadline=None)
@given(
    side=st.integers(8, 26), patch=st.integers(1, 6), classes=st.integers(1, 5), seed=st.integers(0, 10**6),
    three=st.booleans(), holes=st.floats(0, 0.5), block=st.sampled_from([None, 2, 4]),
)  # fmt: skip
def test_tiles_of_different_splits_never_touch(side, patch, classes, seed, three, holes, block):
    x, y, kind = patchwork(side, patch, classes, seed)
    keep = np.random.default_rng(seed).random(len(x)) >= holes
    x, y, kind = x[keep] * 224 - 5e5, y[keep] * 224 + 4e6, kind[keep]
    assume(len(x) > 30)
    shares = THREE if three else TWO
    try:
        found = split_blocks(x, y, kind, 224, shares, block and block * 224, seed=seed)
    except DatasetError:
        assume(False)
    names = found.names
    assert set(names.tolist()) <= {*shares, "buffer"} and set(shares) <= set(names.tolist())
    first, second = touching_pairs(x, y, 224).T
    apart = (names[first] != names[second]) & (names[first] != "buffer") & (names[second] != "buffer")
    assert not apart.any()
    again = split_blocks(x, y, kind, 224, shares, block and block * 224, seed=seed)
    assert (again.names == names).all() and again.block_m == found.block_m
    without = split_blocks(x, y, kind, 224, shares, found.block_m, seed=seed, buffer=False)
    assert "buffer" not in without.names
    for number in range(without.blocks.max() + 1):
        assert len(set(without.names[without.blocks == number])) == 1


def test_blocks_are_squares_of_ground_counted_from_the_origin():
    x, y, kind = patchwork(24, 4, 3, 0)
    whole = split_blocks(x * 10, y * 10, kind, 10, TWO, 40).blocks
    part = (x > 5) & (y > 7)
    clipped = split_blocks(x[part] * 10, y[part] * 10, kind[part], 10, TWO, 40).blocks
    expected = np.floor(x * 10 / 40) * 1000 + np.floor(y * 10 / 40)
    assert len(np.unique(whole)) == 36
    for blocks, key in ((whole, expected), (clipped, expected[part])):
        assert len(np.unique(np.stack([blocks, key]), axis=1).T) == len(np.unique(blocks)) == len(np.unique(key))


def test_same_ground_of_several_years_goes_to_one_split():
    x, y, kind = patchwork(30, 5, 4, 1)
    years = 3
    names = split_blocks(np.tile(x, years), np.tile(y, years), np.tile(kind, years), 1, THREE, seed=4).names
    assert (names.reshape(years, -1) == names[: len(x)]).all()
    ids = [f"{a}_{b}" for a, b in zip(x, y, strict=True)] * years
    names = split_random(np.tile(kind, years), TWO, 5, ground=ids)
    assert (names.reshape(years, -1) == names[: len(x)]).all()


@pytest.mark.parametrize("seed", range(6))
def test_block_shares_are_near_and_every_class_trains(seed):
    x, y, kind = patchwork(60, 4, 6, seed)
    kind[np.argmin((x - 30) ** 2 + (y - 30) ** 2)] = 6  # a class of one tile
    found = split_blocks(x, y, kind, 1, TWO, seed=seed, buffer=False)
    for number in range(6):
        share = (found.names[kind == number] == "test").mean()
        assert abs(share - 0.25) < 0.05
    assert (found.names[kind == 6] == "train").all()
    buffered = split_blocks(x, y, kind, 1, TWO, seed=seed)
    assert set(kind[buffered.names == "train"]) == set(range(7))
    assert set(kind[buffered.names == "test"]) >= set(range(6))
    assert (buffered.names == "test").mean() > 0.15 and (buffered.names == "train").mean() > 0.4


def test_seeds_differ():
    x, y, kind = patchwork(40, 4, 4, 0)
    assert (split_blocks(x, y, kind, 1, TWO, seed=1).names != split_blocks(x, y, kind, 1, TWO, seed=2).names).any()
    assert (split_random(kind, TWO, 1) != split_random(kind, TWO, 2)).any()


@pytest.mark.parametrize("patch", [5, 10, 16])
def test_range_of_a_patchwork_is_its_closed_form(patch):
    """Two points at distance h share an L × L patch of a random lattice with probability 1 − 4h/πL + h²/πL² for h ≤ L,
    so the variogram reaches 95 % of its sill at h = 0.992 L."""
    expected = patch * (4 - math.sqrt(16 - 4 * 0.95 * math.pi)) / 2
    found = [correlation_range_m(*_scaled(patchwork(12 * patch, patch, 4, seed)), 50.0) / 50 for seed in range(5)]
    assert np.median(found) == pytest.approx(expected, abs=1 + 0.1 * patch)


def _scaled(tiles):
    x, y, kind = tiles
    return x * 50, y * 50, kind


def test_range_of_noise_is_a_tile_and_blocks_keep_their_limits():
    rng = np.random.default_rng(0)
    x, y, _ = patchwork(40, 4, 4, 0)
    noise = rng.integers(0, 4, len(x))
    assert correlation_range_m(x, y, noise, 1) == 1
    assert split_blocks(x, y, noise, 1, TWO).block_m == 3  # never below three tiles
    halves = (x > 20).astype(int)
    found = split_blocks(x, y, halves, 1, TWO)
    assert found.range_m is not None and found.range_m > 8
    assert found.block_m == 8 and found.blocks.max() + 1 >= 20  # 1,600 tiles in at least 20 blocks
    assert split_blocks(x, y, np.zeros(len(x), int), 1, TWO).range_m == 1


def test_random_split_is_stratified():
    kind = np.repeat([0, 1, 2, 3, 4], [400, 40, 3, 2, 1])
    names = split_random(kind, TWO, 0)
    assert [int((names[kind == k] == "train").sum()) for k in range(5)] == [300, 30, 2, 1, 1]
    assert set(names) == {"train", "test"}
    assert (names == split_random(kind, TWO, 0)).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 99))
def test_random_split_gives_each_class_its_share(kinds, seed):
    kind = np.array(kinds)
    names = split_random(kind, THREE, seed)
    for k in np.unique(kind):
        size = (kind == k).sum()
        for name, share in THREE.items():
            assert abs((names[kind == k] == name).sum() - share * size) <= (1 if size >= 10 else 2)
        assert (names[kind == k] == "train").any()


def test_groups_stay_whole():
    groups = [f"county {n}" for n in range(12) for _ in range(10 + n)]
    names = split_by_group(groups, THREE, 3)
    for group in set(groups):
        assert len({name for name, g in zip(names, groups, strict=True) if g == group}) == 1
    assert abs((names == "train").mean() - 0.6) < 0.12
    named = split_by_group(groups, TWO, 0, test=["county 3", "county 5"])
    assert {g for g, name in zip(groups, named, strict=True) if name == "test"} == {"county 3", "county 5"}


def test_groups_on_the_same_ground_are_buffered():
    groups = ["2012"] * 4 + ["2016"] * 4
    names = split_by_group(groups, TWO, 0, test=["2016"], ground=["a", "b", "c", "d", "c", "d", "e", "f"])
    assert names.tolist() == ["train", "train", "buffer", "buffer", "test", "test", "test", "test"]
    with pytest.raises(DatasetError, match="same ground"):
        split_by_group(groups, TWO, 0, test=["2016"], ground=list("abcdabcd"))


def test_what_cannot_be_split_is_refused():
    x, y = np.array([0.5, 1.5, 2.5]), np.array([0.5, 0.5, 0.5])
    kind = np.array([0, 1, 1])
    with pytest.raises(DatasetError, match="too few blocks"):
        split_blocks(x, y, kind, 1, TWO)
    with pytest.raises(DatasetError, match="smaller --block"):  # the buffer takes the only training tiles
        split_blocks(x[:2], y[:2], kind[:2], 1, TWO, block_m=1)
    with pytest.raises(DatasetError, match="no place"):
        split_blocks(x * math.nan, y, kind, 1, TWO)
    with pytest.raises(DatasetError, match="too few blocks"):
        split_blocks(x[:0], y[:0], kind[:0], 1, TWO)
    for shares in (
        {"train": 1.0},
        {"train": 0.9, "test": 0.2},
        {"train": -0.5, "test": 1.5},
        {"train": 0.5, "buffer": 0.5},
    ):
        with pytest.raises(DatasetError, match="shares"):
            split_random(kind, shares, 0)
    with pytest.raises(DatasetError, match="no tiles of Cork"):
        split_by_group(["a", "b"], TWO, 0, test=["Cork"])
    with pytest.raises(DatasetError, match="too few"):
        split_by_group(["a", "a"], TWO, 0)


def test_balance():
    kind = np.repeat([0, 1, 3], [50, 20, 5])
    capped = balance(kind, 4, "cap", seed=1)
    assert np.bincount(kind[capped.keep], minlength=4).tolist() == [5, 5, 0, 5] and (capped.weights == 1).all()
    assert np.bincount(kind[balance(kind, 4, "cap", seed=1, cap=12).keep], minlength=4).tolist() == [12, 12, 0, 5]
    assert (capped.keep == balance(kind, 4, "cap", seed=1).keep).all()
    assert (capped.keep != balance(kind, 4, "cap", seed=2).keep).any()
    weighed = balance(kind, 4, "weights", seed=0)
    assert weighed.keep.all() and weighed.weights[2] == 0
    assert weighed.weights[[0, 1, 3]].mean() == pytest.approx(1)
    assert weighed.weights[0] * 50 == pytest.approx(weighed.weights[1] * 20) == pytest.approx(weighed.weights[3] * 5)
    assert balance(kind, 4, "none", seed=0).keep.all()
    with pytest.raises(DatasetError, match="--cap"):
        balance(kind, 4, "cap", seed=0, cap=0)
