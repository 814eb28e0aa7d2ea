"""Results of several dates joined by tile id."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoclass.changes.series import align, decimal_year, regrouped
from geoclass.errors import ChangeError, ConfigError
from geoclass.grid import TileGrid
from geoclass.labels import Labels
from geoclass.schemes import load_scheme

NLCD6, NLCD3 = load_scheme("nlcd6"), load_scheme("nlcd3")


def labels(places, date=None, scheme=NLCD6, grid=None, seed=0, **info):
    """A result on tiles `places` [(column, row)], with random probabilities."""
    random = np.random.default_rng(seed)
    ordered = sorted(set(places), key=lambda place: (-place[1], place[0]))
    columns, rows = (np.array([place[k] for place in ordered], np.int64) for k in (0, 1))
    probabilities = random.dirichlet(np.ones(len(scheme)), len(ordered)).astype(np.float32)
    valid = random.uniform(0.5, 1, len(ordered)).astype(np.float32)
    return Labels(
        grid or TileGrid("EPSG:26919"), scheme, columns, rows, probabilities, valid, None, {"date": date, **info}
    )


SQUARE = list(itertools.product(range(4), range(5)))


def test_tiles_are_joined_by_id_whatever_their_extent_and_order():
    first = labels(SQUARE, "2010", seed=1)
    second = labels([(c + 2, r - 3) for c, r in SQUARE], "2016", seed=2)
    series = align([first, second])
    shared = sorted(set(first.tile_ids) & set(second.tile_ids))
    assert sorted(series.tile_ids) == shared and len(shared) == 4
    for t, one in enumerate((first, second)):
        rows = dict(zip(one.tile_ids, one.probabilities, strict=True))
        valid = dict(zip(one.tile_ids, one.valid_fraction, strict=True))
        for n, tile in enumerate(series.tile_ids):
            assert np.allclose(series.probabilities[n, t], rows[tile])
            assert series.valid_fraction[n, t] == valid[tile]


def test_what_a_date_lacks_is_reported_and_not_dropped():
    series = align([labels(SQUARE, "2010"), labels(SQUARE[:15], "2016"), labels(SQUARE[5:], "2022")])
    assert len(series) == 10 and len(series.uncovered) == 10
    assert series.uncovered.covered.sum(axis=0).tolist() == [10, 5, 5]
    assert any("10 of 20 tiles are not covered on every date" in text for text in series.warnings)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sets(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=1), min_size=2, max_size=4))
def test_every_tile_of_every_date_is_in_the_series_or_uncovered(extents):
    results = [labels(extent, f"20{10 + n}") for n, extent in enumerate(extents)]
    if not set.intersection(*extents):
        with pytest.raises(ChangeError, match="no tile in common"):
            align(results)
        return
    series = align(results)
    joined = set(zip(series.columns.tolist(), series.rows.tolist(), strict=True))
    rest = set(zip(series.uncovered.columns.tolist(), series.uncovered.rows.tolist(), strict=True))
    assert joined == set.intersection(*extents) and joined | rest == set.union(*extents) and not joined & rest
    keys = list(zip((-series.rows).tolist(), series.columns.tolist(), strict=True))
    assert keys == sorted(keys)


def test_probabilities_add_up_in_a_coarser_scheme():
    fine = labels(SQUARE, "2010")
    coarse = regrouped(fine, NLCD3)
    for k, item in enumerate(NLCD3.classes):
        members = [NLCD6.index(name) for name in item.members]
        assert np.allclose(coarse.probabilities[:, k], fine.probabilities[:, members].sum(axis=1), atol=1e-6)


def test_dates_as_years():
    assert decimal_year("2016") == 2016.5
    assert decimal_year("2016-07-01") == pytest.approx(2016.498, abs=2e-3)
    assert decimal_year("2016-01-01") == 2016
    assert decimal_year("2015-12-31") < decimal_year("2016-01-01") < decimal_year("2016-01")
    for wrong in ("", "16", "2016-13", "2016-02-30", "July", "2016-7-4"):
        with pytest.raises(ChangeError, match="is no date"):
            decimal_year(wrong)


@pytest.mark.parametrize(
    ("results", "options", "words"),
    [
        (lambda: [labels(SQUARE, "2010")], {}, "two dates or more"),
        (lambda: [labels(SQUARE, "2010"), labels(SQUARE)], {}, "has no date; give --date"),
        (lambda: [labels(SQUARE, "2010"), labels(SQUARE, "2010")], {}, "are both of 2010"),
        (lambda: [labels(SQUARE, "2016"), labels(SQUARE, "2010")], {}, "name the oldest first"),
        (lambda: [labels(SQUARE), labels(SQUARE)], {"dates": ["2010"]}, "1 dates for 2 results"),
        (lambda: [labels(SQUARE), labels(SQUARE)], {"dates": ["2010", "soon"]}, "'soon' is no date"),
        (lambda: [labels(SQUARE, "2010"), labels(SQUARE, "2016", NLCD3)], {}, "name a common --group"),
        (
            lambda: [labels(SQUARE, "2010"), labels(SQUARE, "2016", grid=TileGrid("EPSG:26919", 112, 2.0))],
            {},
            "the same --size, --gsd and --crs",
        ),
        (
            lambda: [labels(SQUARE, "2010"), labels(SQUARE, "2016", grid=TileGrid("EPSG:26918"))],
            {},
            "the same --size, --gsd and --crs",
        ),
        (lambda: [labels(SQUARE, "2010"), labels([(90, 90)], "2016")], {}, "no tile in common"),
        (lambda: [labels(SQUARE, "2010"), labels(SQUARE, "2016")], {"built": NLCD6.names}, "every class is built-up"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(results, options, words):
    with pytest.raises(ChangeError, match=words) as caught:
        align(results(), **options)
    assert "\n" not in str(caught.value)


def test_built_up_classes_must_be_known():
    bare = NLCD6.model_copy(update={"groups": {}})
    two = [labels(SQUARE, "2010", bare), labels(SQUARE, "2016", bare)]
    with pytest.raises(ChangeError, match="--built"):
        align(two)
    with pytest.raises(ConfigError, match="has no class 'Castle'"):
        align(two, built=["Castle"])
    series = align(two, built=["Developed"])
    assert series.built == ("Developed",) and "Developed" not in series.open and len(series.open) == len(NLCD6) - 1


def test_schemes_that_differ_meet_in_a_common_group():
    coarse = align([labels(SQUARE, "2010"), labels(SQUARE, "2016", NLCD3)], group=NLCD3)
    assert coarse.scheme.names == NLCD3.names
    with pytest.raises(ChangeError, match="does not say where class"):
        align([labels(SQUARE, "2010"), labels(SQUARE, "2016")], group=load_scheme("rsscn7"))


def test_models_sensors_and_invented_ground_are_warned_of():
    first, second = labels(SQUARE, "2010", bundle="a", sensor="naip"), labels(SQUARE, "2016", bundle="b", sensor="rgb8")
    said = " ".join(align([first, second]).warnings)
    assert "different models" in said and "different sensors" in said and "synthetic" not in said
    invented = replace(second, info={**second.info, "synthetic": True})
    assert "synthetic" in " ".join(align([first, invented]).warnings)
    assert align([first, replace(second, info={**first.info, "date": "2016"})]).warnings == ()
