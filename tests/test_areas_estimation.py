"""The estimators against published examples, closed forms and draws from a population whose truth is known."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from geoclass.areas.design import ALLOCATIONS, allocate, expected_errors, sample_size
from geoclass.areas.estimation import Assessment, Number, Observed, assess, unseen_share
from geoclass.errors import ChangeError


def of_matrix(counts: list[list[int]], mapped_areas: list[float]) -> Assessment:
    """The assessment of an error matrix whose strata are its rows, as papers print them."""
    rows, columns = np.nonzero(counts)
    times = np.asarray(counts)[rows, columns]
    mapped, truth = np.repeat(rows, times), np.repeat(columns, times)
    weights = np.asarray(mapped_areas, float) / np.sum(mapped_areas)
    return assess(Observed(mapped, np.ones(len(mapped)), weights), mapped, truth, len(mapped_areas))


def rounded(numbers: tuple[Number, ...], digits: int, what: str = "value") -> list[float]:
    return [round(getattr(number, what), digits) for number in numbers]


# ---- published examples


def test_golden_case_of_the_plan():
    found = of_matrix([[410, 26], [67, 369]], [828_837, 33_067_283])
    assert round(found.overall.value, 5) == 0.84863
    assert rounded(found.shares, 5) == [0.17291, 0.82709]
    assert rounded(found.shares, 6, "se") == [0.016870, 0.016870]
    assert rounded(found.shares, 6, "half") == [0.033066, 0.033066]
    assert found.counts.tolist() == [[410, 26], [67, 369]]


def test_olofsson_2014_section_5():
    # Table 8: deforestation, forest gain, stable forest, stable non-forest; areas in Landsat pixels of 0.09 ha.
    pixels = [200_000, 150_000, 3_200_000, 6_450_000]
    found = of_matrix([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]], pixels)
    deforested = found.shares[0].times(sum(pixels))
    assert (round(deforested.value), round(deforested.half)) == (235_086, 68_418)
    hectares = deforested.times(0.09)
    assert (round(hectares.value), round(hectares.half)) == (21_158, 6_158)
    assert (round(found.overall.value, 2), round(found.overall.half, 2)) == (0.95, 0.02)
    assert rounded(found.users, 2) == [0.88, 0.73, 0.93, 0.96]
    assert rounded(found.users, 2, "half") == [0.07, 0.10, 0.04, 0.02]
    assert rounded(found.producers, 2) == [0.75, 0.85, 0.93, 0.96]
    assert round(found.producers[0].half, 2) == 0.21


def test_sample_size_of_olofsson_2014_section_5():
    # Equation 13 with the paper's conjectured user's accuracies and a standard error of 0.01 for overall accuracy.
    weights, accuracies = np.array([0.020, 0.015, 0.320, 0.645]), np.array([0.70, 0.60, 0.90, 0.95])
    assert sample_size(weights, accuracies, 0.01) == 641


def test_stehman_2014_strata_that_are_not_the_map_classes():
    letter = "ABCD".index
    stratum = np.repeat(np.arange(4), 10)
    mapped = np.array([letter(c) for c in "A" * 7 + "BBB" + "A" + "B" * 11 + "C" * 6 + "BB" + "D" * 10])
    truth = np.array([letter(c) for c in "AAAAACBABC" + "ABBBBBAABB" + "CCCCCDDBBA" + "DDDDDDDCCB"])
    tiles = np.array([40_000, 30_000, 20_000, 10_000])
    found = assess(Observed(stratum, np.ones(40), tiles / tiles.sum(), tiles), mapped, truth, 4)
    assert [round(x, 3) for x in (found.shares[0].value, found.shares[0].se)] == [0.35, 0.082]
    assert [round(x, 3) for x in (found.shares[2].value, found.shares[2].se)] == [0.20, 0.064]
    assert [round(x, 3) for x in (found.overall.value, found.overall.se)] == [0.63, 0.085]
    assert [round(x, 3) for x in (found.users[1].value, found.users[1].se)] == [0.574, 0.125]
    assert [round(x, 3) for x in (found.producers[1].value, found.producers[1].se)] == [0.794, 0.117]
    assert found.proportions[1, 2] == pytest.approx(0.08)
    # To more digits, by the R package mapaccuracy.
    assert [found.shares[0].se, found.shares[2].se, found.overall.se, found.users[1].se, found.producers[1].se] == (
        pytest.approx([0.0822478, 0.06427977, 0.08464219, 0.1247822, 0.1165479], abs=1e-7)
    )


# ---- closed forms


def equations_of_olofsson(counts: np.ndarray, areas: np.ndarray) -> dict[str, np.ndarray]:
    """Equations 4 to 11, term by term as the paper prints them."""
    n, weights = counts.sum(axis=1), areas / areas.sum()
    p = counts / n[:, None]
    cells = weights[:, None] * p
    column = cells.sum(axis=0)
    users, producers = np.diag(p), np.diag(cells) / column
    spread = p * (1 - p) / (n - 1)[:, None]
    own = areas**2 * (1 - producers) ** 2 * np.diag(spread)
    others = producers**2 * ((areas**2)[:, None] * spread * (1 - np.eye(len(areas)))).sum(axis=0)
    return {
        "overall": np.array([np.trace(cells), np.sqrt((weights**2 * np.diag(spread)).sum())]),
        "users": np.stack([users, np.sqrt(np.diag(spread))], axis=1),
        "producers": np.stack([producers, np.sqrt(own + others) / (areas.sum() * column)], axis=1),
        "shares": np.stack([column, np.sqrt((weights[:, None] ** 2 * spread).sum(axis=0))], axis=1),
    }


matrices = st.integers(2, 4).flatmap(
    lambda k: st.tuples(
        st.lists(st.lists(st.integers(1, 30), min_size=k, max_size=k), min_size=k, max_size=k),
        st.lists(st.floats(1, 1e6), min_size=k, max_size=k),
    )
)


@given(matrices)
@settings(max_examples=60, deadline=None)
def test_any_matrix_equals_the_equations_and_adds_up(case):
    counts, areas = np.array(case[0]), np.array(case[1])
    found, wanted = of_matrix(case[0], case[1]), equations_of_olofsson(counts, areas)
    assert [found.overall.value, found.overall.se] == pytest.approx(wanted["overall"])
    for name in ("users", "producers", "shares"):
        assert np.array([[x.value, x.se] for x in getattr(found, name)]) == pytest.approx(wanted[name])
    assert found.proportions.sum() == pytest.approx(1)
    assert found.proportions.sum(axis=1) == pytest.approx(areas / areas.sum())
    assert found.proportions.sum(axis=0) == pytest.approx([share.value for share in found.shares])


def test_simple_random_sample_is_cochrans_proportion():
    truth = np.array([1] * 30 + [0] * 70)
    found = Observed(np.zeros(100, int), np.ones(100), np.ones(1), np.array([400])).share(truth.astype(float))
    # Cochran (1977), equation 3.8.
    assert [found.value, found.se] == pytest.approx([0.3, np.sqrt((1 - 100 / 400) * 0.3 * 0.7 / 99)])


def test_a_stratum_looked_at_whole_adds_no_error():
    stratum, truth = np.array([0, 0, 0, 1, 1, 1, 1]), np.array([1, 0, 0, 1, 1, 0, 1.0])
    weights = np.array([0.25, 0.75])
    whole = Observed(stratum, np.ones(7), weights, np.array([3, 4]))
    assert (whole.share(truth).value, whole.share(truth).se) == (pytest.approx(0.25 / 3 + 0.75 * 0.75), 0)
    part = Observed(stratum, np.ones(7), weights, np.array([3, 8]))
    assert part.share(truth).se == pytest.approx(0.75 * np.sqrt(0.5 * 0.25 / 4))
    # A single tile can be a stratum of its own if it is all of it.
    alone = Observed(np.array([0, 1, 1]), np.ones(3), weights, np.array([1, 2]))
    assert alone.share(np.ones(3)) == Number(1.0, 0.0)


def test_half_a_tile_counts_half():
    # Every tile of the stratum is looked at, so the estimate must be the plain sum over ground.
    ground, truth = np.array([1, 1, 0.5, 0.5, 0.1]), np.array([1, 0, 1, 1, 0.0])
    found = Observed(np.zeros(5, int), ground, np.ones(1), np.array([5])).share(truth)
    assert found.value == pytest.approx(2 / 3.1)
    assert found.se == 0


def test_what_nobody_mapped_or_found_has_no_accuracy():
    found = assess(Observed(np.zeros(4, int), np.ones(4), np.ones(1)), np.zeros(4, int), np.zeros(4, int), 2)
    assert np.isnan(found.users[1].value) and np.isnan(found.producers[1].value)
    assert found.shares[1] == Number(0.0, 0.0)


def test_what_may_hide_where_nothing_was_found():
    assert unseen_share(59) == pytest.approx(0.0495, abs=1e-4)  # the classic: 59 clean draws exclude 5 %
    assert unseen_share(50) == pytest.approx(3 / 50, rel=0.04)
    assert unseen_share(20, 20) == 0


# ---- allocation

strata_cases = st.integers(1, 6).flatmap(
    lambda h: st.tuples(
        st.lists(st.integers(1, 5000), min_size=h, max_size=h),
        st.lists(st.floats(0.001, 1), min_size=h, max_size=h),
        st.lists(st.floats(0, 0.5), min_size=h, max_size=h),
        st.integers(1, 3000),
        st.integers(2, 60),
    )
)


@given(st.sampled_from(ALLOCATIONS), strata_cases)
@example("neyman", ([5000], [1.0], [5e-324], 100, 2))
@settings(max_examples=150, deadline=None)
def test_allocation_adds_up_within_bounds(kind, case):
    tiles, weights, spread, total, least = (np.asarray(part) for part in case)
    floor = np.minimum(least, tiles)
    if total < floor.sum():
        with pytest.raises(ChangeError, match="too few"):
            allocate(kind, int(total), tiles, weights / weights.sum(), spread, int(least))
        return
    drawn = allocate(kind, int(total), tiles, weights / weights.sum(), spread, int(least))
    assert drawn.sum() == min(total, tiles.sum())
    assert (drawn >= floor).all() and (drawn <= tiles).all()


def test_neyman_is_proportional_to_weight_times_spread_and_the_best():
    tiles, weights = np.array([20_000, 15_000, 320_000, 645_000]), np.array([0.02, 0.015, 0.32, 0.645])
    spread = np.sqrt(np.array([0.7, 0.6, 0.9, 0.95]) * (1 - np.array([0.7, 0.6, 0.9, 0.95])))
    drawn = allocate("neyman", 641, tiles, weights, spread)
    assert drawn == pytest.approx(641 * weights * spread / (weights * spread).sum(), abs=1)
    shares = np.array([0.7, 0.6, 0.9, 0.95])[:, None]
    best = expected_errors(weights, tiles, drawn, shares)[0]
    assert best == pytest.approx(0.01, abs=2e-5)  # which is what 641 was worked out for
    for other in ("equal", "proportional", "minimum"):
        assert expected_errors(weights, tiles, allocate(other, 641, tiles, weights, spread), shares)[0] > best


def test_minimum_gives_rare_strata_fifty_and_shares_out_the_rest():
    tiles, weights = np.array([20_000, 15_000, 320_000, 645_000]), np.array([0.02, 0.015, 0.32, 0.645])
    drawn = allocate("minimum", 640, tiles, weights, np.ones(4), 75)
    assert drawn.tolist() == [75, 75, 162, 328]  # which Olofsson et al. (2014) round to 75, 75, 165, 325
    assert allocate("minimum", 640, tiles, weights, np.ones(4))[:2].tolist() == [50, 50]
    assert allocate("equal", 200, np.array([20, 500, 500]), np.ones(3) / 3, np.ones(3)).tolist() == [20, 90, 90]
    assert allocate("neyman", 60, np.array([100, 100]), np.ones(2) / 2, np.zeros(2)).tolist() == [30, 30]


def test_impossible_wishes_are_refused():
    tiles, weights = np.array([100, 100]), np.ones(2) / 2
    with pytest.raises(ChangeError, match="unknown allocation 'best'; choose from equal"):
        allocate("best", 50, tiles, weights, weights)
    with pytest.raises(ChangeError, match="at least 1 tiles"):
        allocate("equal", 50, tiles, weights, weights, 1)
    for error in (0.0, 0.5, -1.0):
        with pytest.raises(ChangeError, match="standard error"):
            sample_size(weights, weights, error)


# ---- a population whose truth is known


class Population:
    """5,000 tiles in five strata as a change map has them, with misses and false alarms, some with less ground."""

    def __init__(self, seed: int = 5) -> None:
        random = np.random.default_rng(seed)
        self.tiles = np.array([800, 3300, 400, 250, 250])
        #                        built open  water new possibly
        rate = np.array([0.01, 0.02, 0.01, 0.75, 0.35])
        self.stratum = np.repeat(np.arange(5), self.tiles)
        self.truth = (random.random(5000) < rate[self.stratum]).astype(float)
        self.ground = np.where(random.random(5000) < 0.1, random.uniform(0.5, 1, 5000), 1.0)
        areas = np.bincount(self.stratum, weights=self.ground)
        self.weights = areas / areas.sum()
        self.share = float((self.truth * self.ground).sum() / self.ground.sum())

    def observe(self, drawn: np.ndarray, seed: int) -> Number:
        return self.look(drawn, seed)[0]

    def look(self, drawn: np.ndarray, seed: int) -> tuple[Number, tuple[float, float]]:
        """The estimate with its normal interval, and the cautious one."""
        random = np.random.default_rng(seed)
        index = np.concatenate(
            [random.choice(np.flatnonzero(self.stratum == h), n, replace=False) for h, n in enumerate(drawn)]
        )
        observed = Observed(self.stratum[index], self.ground[index], self.weights, self.tiles)
        return observed.share(self.truth[index]), observed.cautious(self.truth[index])


def coverage(numbers: list[Number], truth: float) -> float:
    return float(np.mean([abs(number.value - truth) <= number.half for number in numbers]))


def test_intervals_cover_the_truth():
    population = Population()
    drawn = np.array([100, 400, 60, 120, 120])
    found = [population.observe(drawn, seed) for seed in range(1000)]
    assert 0.93 <= coverage(found, population.share) <= 0.97
    values = np.array([number.value for number in found])
    # Unbiased: the mean of 1,000 draws lies within three of its own standard errors.
    assert abs(values.mean() - population.share) < 3 * values.std() / np.sqrt(1000)
    # And the error it states is the error it makes.
    assert np.mean([number.se for number in found]) == pytest.approx(values.std(), rel=0.05)


def test_simple_random_intervals_cover_too():
    population = Population()
    found = []
    for seed in range(1000):
        index = np.random.default_rng(seed).choice(5000, 800, replace=False)
        everywhere = Observed(np.zeros(800, int), population.ground[index], np.ones(1), np.array([5000]))
        found.append(everywhere.share(population.truth[index]))
    assert 0.93 <= coverage(found, population.share) <= 0.97


def test_strata_pay():
    population = Population()
    stratified = np.mean([population.observe(np.array([40, 160, 30, 85, 85]), seed).se for seed in range(50)])
    simple = []
    for seed in range(50):
        index = np.random.default_rng(seed).choice(5000, 400, replace=False)
        everywhere = Observed(np.zeros(400, int), population.ground[index], np.ones(1), np.array([5000]))
        simple.append(everywhere.share(population.truth[index]).se)
    assert stratified < 0.8 * np.mean(simple)


def test_few_tiles_of_a_large_stratum_cover_less_and_neyman_mends_it():
    # The hard case of docs/design/area-estimation.md: 50 tiles of the 3,300 open ones hold one miss on average, or none,
    # and then the interval does not know of it.
    population = Population()
    equal = coverage([population.observe(np.full(5, 50), seed) for seed in range(1000)], population.share)
    rate = np.array([0.01, 0.02, 0.01, 0.75, 0.35])
    spread = np.sqrt(rate * (1 - rate))
    drawn = allocate("neyman", 250, population.tiles, population.weights, spread)
    neyman = coverage([population.observe(drawn, seed) for seed in range(1000)], population.share)
    assert 0.65 < equal < 0.80 < 0.87 < neyman < 0.95
    drawn = allocate("neyman", 800, population.tiles, population.weights, spread)
    assert 0.93 <= coverage([population.observe(drawn, seed) for seed in range(1000)], population.share) <= 0.97


@pytest.mark.parametrize("drawn", [[50, 50, 50, 50, 50], [24, 143, 12, 34, 37], [100, 400, 60, 120, 120]])
def test_the_cautious_interval_covers_even_then(drawn):
    population = Population()
    found = [population.look(np.array(drawn), seed) for seed in range(1000)]
    assert 0.925 <= np.mean([low <= population.share <= high for _, (low, high) in found]) <= 0.98
    for number, (low, high) in found:
        assert 0 <= low <= number.value <= high <= 1


def test_cautious_limits_are_wilsons_for_one_stratum():
    for hits in (0, 1, 7, 30):
        truth = np.array([1.0] * hits + [0.0] * (30 - hits))
        low, high = Observed(np.zeros(30, int), np.ones(30), np.ones(1)).cautious(truth)
        wanted = binomtest(hits, 30).proportion_ci(0.95, method="wilson")
        assert (low, high) == pytest.approx((wanted.low, wanted.high), abs=1e-4)
    # Nothing is left to doubt once all tiles were looked at.
    assert Observed(np.zeros(4, int), np.ones(4), np.ones(1), np.array([4])).cautious(np.zeros(4)) == (0, 0)
