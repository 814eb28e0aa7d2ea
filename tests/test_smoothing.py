"""Smoothing of one date's labels: against a loop, against known truth, and through a run and its files."""

import itertools
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from geoclass.grid import TileGrid, TileRange, cells, parse_crs
from geoclass.labels import Labels
from geoclass.schemes import ClassScheme, LandClass, load_scheme
from geoclass.smoothing import METHODS, plurality, potts, smooth

GRID = TileGrid(parse_crs("EPSG:26919"))
THREE = ClassScheme(
    name="three", classes=tuple(LandClass(id=k * 10, name=f"c{k}", colour=f"#{k:06x}") for k in (1, 2, 3))
)
A, B, C = range(3)


def labels_of(
    columns: npt.ArrayLike,
    rows: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    scheme: ClassScheme = THREE,
    **info: object,
) -> Labels:
    at_columns, at_rows = np.asarray(columns, np.int64), np.asarray(rows, np.int64)
    table = np.asarray(probabilities, np.float32)
    return Labels(GRID, scheme, at_columns, at_rows, table, np.ones(len(table), np.float32), info=info)


def drawn(picture: list[str], sure: float = 0.8) -> Labels:
    """Labels from lines of letters, north first; a blank is ground without a tile."""
    found = [
        (c, -r, "ABC".index(letter)) for r, line in enumerate(picture) for c, letter in enumerate(line) if letter != " "
    ]
    columns, rows, classes = zip(*found, strict=True)
    table = np.full((len(found), 3), (1 - sure) / 2)
    table[np.arange(len(found)), classes] = sure
    return labels_of(columns, rows, table)


def letters(labels: Labels) -> list[str]:
    image = labels.image(labels.class_index.astype(np.int64), -1)
    return ["".join(" ABC"[k + 1] for k in line) for line in image]


def scattered(seed: int, count: int = 120, side: int = 14, classes: int = 3) -> Labels:
    """Random labels on some of the cells of a square astride the grid's origin."""
    random = np.random.default_rng(seed)
    at = random.choice(side * side, min(count, side * side), replace=False)
    table = random.dirichlet(np.full(classes, 0.5), len(at))
    return labels_of(at % side - side // 2, at // side - side // 2, table)


# ---- Plurality ----


def looped(labels: Labels, own_weight: float) -> list[int]:
    """The classic filter, as its definition reads."""
    classes = dict(zip(zip(labels.columns.tolist(), labels.rows.tolist(), strict=True), labels.class_index.tolist(), strict=True))  # fmt: skip
    found = []
    for (column, row), own in classes.items():
        votes: Counter[int] = Counter()
        for east in (-1, 0, 1):
            for north in (-1, 0, 1):
                voter = classes.get((column + east, row + north))
                if voter is not None:
                    votes[voter] += own_weight if east == north == 0 else 1
        most = max(votes.values())
        first = [k for k, count in votes.items() if count == most]
        found.append(first[0] if len(first) == 1 else own)
    return found


@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 1.5, 2.0, 3.0]), st.integers(1, 196))
@settings(max_examples=60, deadline=None)
def test_plurality_is_what_a_loop_says(seed: int, own_weight: float, count: int) -> None:
    labels = scattered(seed, count)
    found = plurality(labels, own_weight)
    assert found.class_index.tolist() == looped(labels, own_weight)
    assert np.allclose(found.probabilities.sum(axis=1), 1, atol=1e-6)


def test_plurality_on_a_picture_worked_out_by_hand() -> None:
    #                    own 2 + 0          2 + 1 against 5: gone     an edge tile alone: 2 against 2 A, 1 B is a tie
    before = ["AAAA B", "ABAA  ", "AAAC  ", "   CC "]
    after = letters(plurality(drawn(before)))
    assert after == ["AAAA B", "AAAA  ", "AAAC  ", "   CC "]


def test_ties_keep_the_own_label_even_with_fewest_votes() -> None:
    labels = drawn(["AAA", " C ", "BBB"])
    found = plurality(labels)
    assert letters(found)[1] == " C "
    middle = 3
    np.testing.assert_array_equal(found.probabilities[middle], labels.probabilities[middle])


def test_shares_of_votes_are_the_probabilities() -> None:
    found = plurality(drawn(["AAB", "ABB", "CBB"]), own_weight=2)
    assert found.probabilities[4].tolist() == pytest.approx([0.3, 0.6, 0.1])
    assert found.confidence[4] == pytest.approx(0.6)


# ---- Potts ----


def free_energy(labels: Labels, mean: np.ndarray, strength: float) -> float:
    """What mean field minimises: expected energy under `mean` less its entropy, written out pair by pair."""
    place = {tile: n for n, tile in enumerate(zip(labels.columns.tolist(), labels.rows.tolist(), strict=True))}
    total = float((mean * (np.log(np.maximum(mean, 1e-300)) - np.log(labels.probabilities.astype(float)))).sum())
    for (column, row), n in place.items():
        for east, north in ((1, 0), (0, 1), (1, 1), (1, -1)):
            other = place.get((column + east, row + north))
            if other is not None:
                total -= strength / np.hypot(east, north) * float(mean[n] @ mean[other])
    return total


@pytest.mark.parametrize("strength", [0.2, 0.5, 1.5])
def test_each_sweep_lowers_the_free_energy_until_it_settles(strength: float) -> None:
    labels = scattered(4)
    energies = [free_energy(labels, labels.probabilities.astype(float), strength)]
    energies += [free_energy(labels, potts(labels, strength, n).probabilities.astype(float), strength) for n in range(1, 9)]  # fmt: skip
    assert all(after <= before + 1e-4 for before, after in itertools.pairwise(energies))
    assert energies[1] < energies[0] - 0.1
    assert np.abs(potts(labels, strength, 200).probabilities - potts(labels, strength, 400).probabilities).max() == 0


def test_potts_settles_where_its_own_equation_holds() -> None:
    labels, strength = scattered(5), 0.5
    mean = potts(labels, strength).probabilities.astype(float)
    place = {tile: n for n, tile in enumerate(zip(labels.columns.tolist(), labels.rows.tolist(), strict=True))}
    for (column, row), n in place.items():
        field = np.zeros(3)
        for east in (-1, 0, 1):
            for north in (-1, 0, 1):
                other = place.get((column + east, row + north))
                if other is not None and other != n:
                    field += mean[other] / np.hypot(east, north)
        expected = labels.probabilities[n] * np.exp(strength * field)
        assert mean[n] == pytest.approx(expected / expected.sum(), abs=0.005)


def test_two_tiles_are_solved_by_hand() -> None:
    """One pair, one sure of A, the other even between A and B: q(A) = e^(s q1(A)) / (e^(s q1(A)) + e^(s q1(B)))."""
    found = potts(labels_of([0, 1], [0, 0], [[1, 0, 0], [0.5, 0.5, 0]]), strength=1.0)
    assert found.probabilities[1].tolist() == pytest.approx([np.e / (np.e + 1), 1 / (np.e + 1), 0], abs=1e-6)
    assert found.probabilities[0].tolist() == [1, 0, 0]


def test_no_strength_changes_nothing() -> None:
    labels = scattered(6)
    np.testing.assert_allclose(potts(labels, strength=0).probabilities, labels.probabilities, atol=1e-6)


def test_a_single_tile_survives_by_its_evidence() -> None:
    picture = ["AAAAA", "AAAAA", "AABAA", "AAAAA", "AAAAA"]
    weak, strong = drawn(picture, sure=0.8), drawn(picture, sure=0.8)
    strong.probabilities[12] = [0.01, 0.985, 0.005]
    assert letters(potts(weak)) == ["AAAAA"] * 5
    assert letters(potts(strong)) == picture
    assert letters(plurality(strong)) == ["AAAAA"] * 5  # which counts labels only


@pytest.mark.parametrize("patch", [1.5, 3.0])
def test_both_come_nearer_to_a_known_truth(patch: float) -> None:
    """Patches of six classes; each tile's evidence is a noisy measurement, its probability exactly calibrated."""
    random, side, scheme = np.random.default_rng(1), 120, load_scheme("nlcd6")
    truth = np.stack([ndimage.gaussian_filter(random.normal(size=(side, side)), patch) for _ in scheme.names])
    where = truth.argmax(axis=0).ravel()
    seen = random.normal(size=(len(where), len(scheme))) + 2 * np.eye(len(scheme))[where]
    table = np.exp(2 * seen)
    columns, rows = cells(TileRange(0, 0, side, side))
    labels = labels_of(columns, rows, table / table.sum(axis=1, keepdims=True), scheme)
    raw, voted, field = ((x.class_index != where).mean() for x in (labels, plurality(labels), potts(labels)))
    assert 0.2 < raw < 0.3
    assert voted < 0.65 * raw
    assert field < 0.5 * raw
    loss = [-np.log(x.probabilities[np.arange(len(where)), where]).mean() for x in (labels, potts(labels))]
    assert loss[1] < loss[0]


# ---- Both ----


@pytest.mark.parametrize("method", METHODS)
@given(st.integers(0, 2), st.integers(0, 1000), st.integers(1, 60))
@settings(max_examples=20, deadline=None)
def test_a_map_of_one_class_stays(method: str, place: int, seed: int, count: int) -> None:
    labels = scattered(seed, count)
    table = np.roll(np.sort(labels.probabilities, axis=1)[:, ::-1] + [0.01, 0, 0], place, axis=1)
    one = replace(labels, probabilities=(table / table.sum(axis=1, keepdims=True)).astype(np.float32))
    assert set(one.class_index) == {place}
    assert set(smooth(one, method).class_index) == {place}


@pytest.mark.parametrize("method", METHODS)
@given(st.integers(0, 1000), st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_the_order_of_rows_does_not_matter(method: str, seed: int, rng: random.Random) -> None:
    labels = scattered(seed)
    order = list(range(len(labels)))
    rng.shuffle(order)
    other = labels_of(labels.columns[order], labels.rows[order], labels.probabilities[order])
    np.testing.assert_array_equal(smooth(other, method).probabilities, smooth(labels, method).probabilities[order])


@pytest.mark.parametrize("method", METHODS)
def test_what_the_model_said_is_kept(method: str) -> None:
    labels = replace(scattered(7), info={"name": "Ellis"})
    found = smooth(labels, method)
    assert (found.class_index != labels.class_index).any()
    np.testing.assert_array_equal(found.evidence, labels.probabilities)
    assert "3" in found.info["smoothing"] or "Potts" in found.info["smoothing"]
    assert found.info["name"] == "Ellis"
    back = found.unsmoothed()
    assert back.raw is None
    assert dict(back.info) == {"name": "Ellis"}
    np.testing.assert_array_equal(back.probabilities, labels.probabilities)
    np.testing.assert_array_equal(smooth(found, method).probabilities, found.probabilities)  # from the raw ones again


@pytest.mark.parametrize("method", METHODS)
def test_a_few_tiles_a_hemisphere_apart(method: str) -> None:
    """An image over their range would have 10^14 cells. Tiles at the two ends of a row are no neighbours."""
    far = 10_000_000
    at = [
        (-far, far),
        (-far + 1, far),
        (-far, far - 1),
        (-far + 1, far - 1),
        (far, far - 1),
        (far, far - 2),
        (far, -far),
    ]
    weak, sure = [0.6, 0.4, 0], [0.1, 0.9, 0]
    labels = labels_of(*zip(*at, strict=True), [weak, sure, sure, sure, weak, weak, weak])
    assert smooth(labels, method).class_index.tolist() == [B, B, B, B, A, A, A]
    # The last tile has no neighbour at all.
    np.testing.assert_allclose(potts(labels).probabilities[6], weak, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_one_tile_and_none(method: str) -> None:
    one = smooth(labels_of([3], [4], [[0.2, 0.7, 0.1]]), method)
    assert one.class_index.tolist() == [B]
    assert len(smooth(labels_of([], [], np.zeros((0, 3))), method)) == 0
