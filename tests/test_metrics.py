"""Scores against scikit-learn's, closed forms, hand-computed values and truths that were simulated."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from scipy.stats import binom, binomtest

from geoclass.errors import EvaluationError
from geoclass.evaluation import metrics
from geoclass.evaluation.comparison import compare
from geoclass.evaluation.scored import groupings_of, regroup, take
from geoclass.evaluation.scores import Scored, evaluate
from geoclass.schemes import ClassScheme, LandClass, load_scheme


def simulate(tiles, classes, seed=0, strength=2.0):
    """Truth and probabilities of a classifier that is right more often than not."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, tiles)
    logits = rng.normal(0, 1, (tiles, classes))
    logits[np.arange(tiles), truth] += strength
    return truth, softmax(logits, axis=1)


def scored(tiles=300, seed=0, scheme="nlcd6", **values):
    scheme = load_scheme(scheme)
    truth, probabilities = simulate(tiles, len(scheme), seed)
    return Scored(tuple(f"t{k}" for k in range(tiles)), truth, probabilities, scheme, **values)


answers = st.integers(2, 6).flatmap(
    lambda classes: st.tuples(
        st.just(classes),
        st.lists(st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1)), min_size=1, max_size=60),
    )
)


@given(answers)
@settings(max_examples=150, deadline=None)
def test_rates_equal_scikit_learn(case):
    classes, pairs = case
    truth, predicted = np.array(pairs).T
    labels = np.arange(classes)
    found = metrics.rates(metrics.confusion_matrix(truth, predicted, classes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        each = sklearn.metrics.precision_recall_fscore_support(truth, predicted, labels=labels, zero_division=np.nan)
        wanted = [
            (found.overall, sklearn.metrics.accuracy_score(truth, predicted)),
            (found.balanced, sklearn.metrics.balanced_accuracy_score(truth, predicted)),
            (found.kappa, sklearn.metrics.cohen_kappa_score(truth, predicted)),
            (found.macro_f1, sklearn.metrics.f1_score(truth, predicted, average="macro")),
            (found.precision, each[0]),
            (found.recall, each[1]),
            (found.f1, each[2]),
        ]
    for own, theirs in wanted:
        np.testing.assert_allclose(own, theirs, atol=1e-12)


def test_rates_of_a_stack_are_those_of_each_matrix():
    tables = np.random.default_rng(1).integers(0, 9, (20, 4, 4))
    tables[3, 2] = 0
    stacked = metrics.rates(tables)
    for k, table in enumerate(tables):
        alone = metrics.rates(table)
        for name in ("overall", "balanced", "kappa", "macro_f1", "recall", "precision", "f1"):
            np.testing.assert_array_equal(getattr(stacked, name)[k], getattr(alone, name))


@pytest.mark.parametrize("seed", range(5))
def test_ranking_and_probability_scores_equal_scikit_learn(seed):
    truth, probabilities = simulate(400, 5, seed)
    one_hot = np.eye(5)[truth]
    assert metrics.log_loss(truth, probabilities) == pytest.approx(sklearn.metrics.log_loss(truth, probabilities))
    halves = [sklearn.metrics.brier_score_loss(truth == k, probabilities[:, k]) for k in range(5)]
    assert metrics.brier_score(truth, probabilities) == pytest.approx(sum(halves))
    areas = [metrics.roc_curve(truth == k, probabilities[:, k]).area for k in range(5)]
    assert np.mean(areas) == pytest.approx(sklearn.metrics.roc_auc_score(one_hot, probabilities, average="macro"))
    precisions = [metrics.precision_recall_curve(truth == k, probabilities[:, k]).area for k in range(5)]
    assert np.mean(precisions) == pytest.approx(sklearn.metrics.average_precision_score(one_hot, probabilities))


def test_curves_hold_the_area_they_state():
    truth, probabilities = simulate(500, 3, 2)
    roc = metrics.roc_curve(truth == 1, probabilities[:, 1])
    assert np.trapezoid(roc.y, roc.x) == pytest.approx(roc.area)
    pr = metrics.precision_recall_curve(truth == 1, probabilities[:, 1])
    assert np.sum(np.diff(pr.x) * pr.y[1:]) == pytest.approx(pr.area)
    assert (np.diff(pr.x) >= 0).all()


def test_a_class_absent_from_the_truth_gives_nan_and_no_crash():
    truth, probabilities = simulate(200, 4, 3)
    truth[truth == 3] = 0
    assert np.isnan(metrics.roc_curve(truth == 3, probabilities[:, 3]).area)
    assert np.isnan(metrics.precision_recall_curve(truth == 3, probabilities[:, 3]).area)
    found = metrics.rates(metrics.confusion_matrix(truth, probabilities.argmax(axis=1), 4))
    assert np.isnan(found.recall[3]) and found.balanced == pytest.approx(np.nanmean(found.recall))
    one_class = metrics.rates(np.array([[5, 0], [0, 0]]))
    assert one_class.overall == 1 and np.isnan(one_class.kappa) and np.isnan(one_class.recall[1])


# ---- calibration


@given(st.integers(1, 200), st.integers(2, 5), st.integers(1, 20), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_ece_equals_a_loop_over_bins(tiles, classes, bins, seed):
    truth, probabilities = simulate(tiles, classes, seed)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    total = 0.0
    for k in range(bins):
        inside = (confidence > k / bins) & (confidence <= (k + 1) / bins)
        if inside.any():
            total += inside.sum() * abs(right[inside].mean() - confidence[inside].mean())
    assert metrics.expected_calibration_error(truth, probabilities, bins) == pytest.approx(total / tiles, abs=1e-9)
    assert metrics.reliability(truth, probabilities, bins).tiles.sum() == tiles


def test_ece_by_hand_and_of_a_calibrated_model():
    probabilities = np.array([[0.9, 0.1]] * 10)
    assert metrics.expected_calibration_error(np.array([0] * 6 + [1] * 4), probabilities) == pytest.approx(0.3)
    rng = np.random.default_rng(5)
    probabilities = softmax(rng.normal(0, 2, (100_000, 4)), axis=1)
    truth = (rng.random((100_000, 1)) > probabilities.cumsum(axis=1)).sum(axis=1).clip(max=3)
    assert metrics.expected_calibration_error(truth, probabilities) < 0.01


@pytest.mark.parametrize("factor", [0.3, 1.0, 2.5, 6.0])
def test_temperature_recovers_the_factor_that_logits_were_scaled_by(factor):
    rng = np.random.default_rng(6)
    logits = rng.normal(0, 2, (50_000, 5))
    honest = softmax(logits, axis=1)
    truth = (rng.random((50_000, 1)) > honest.cumsum(axis=1)).sum(axis=1).clip(max=4)
    found = metrics.fit_temperature(factor * logits, truth)
    assert found == pytest.approx(factor, rel=0.03)
    given_log = metrics.fit_temperature(log_softmax(factor * logits, axis=1), truth)
    assert given_log == pytest.approx(found, rel=1e-4)
    overdone = softmax(factor * logits, axis=1)
    mended = metrics.apply_temperature(overdone, found)
    np.testing.assert_allclose(mended, softmax(factor * logits / found, axis=1), atol=1e-9)
    assert (mended.argmax(axis=1) == overdone.argmax(axis=1)).all()
    assert metrics.expected_calibration_error(truth, mended) < 0.012
    np.testing.assert_allclose(metrics.apply_temperature(mended, 1 / found), overdone, atol=1e-6)


def test_temperature_of_a_separable_set_stays_finite():
    assert 0 < metrics.fit_temperature(np.eye(3) * 4, np.arange(3)) < 0.2
    certain = metrics.apply_temperature(np.array([[1.0, 0.0]]), 2.0)
    assert np.isfinite(certain).all() and certain.sum() == pytest.approx(1)


# ---- chance


def test_bootstrap_of_single_tiles_is_the_binomial_interval():
    right = np.arange(400) < 320
    low, high = metrics.bootstrap_rates(np.zeros(400, int), (~right).astype(int), np.arange(400), 2, repeats=4000)
    ends = binom.ppf((0.025, 0.975), 400, 0.8) / 400
    assert (low.overall, high.overall) == pytest.approx(ends, abs=0.004)


def test_bootstrap_is_wider_for_blocks_that_agree_and_covers_as_it_says():
    rng = np.random.default_rng(7)
    covered, wider = 0, []
    for _ in range(150):
        shares = rng.beta(4, 1, 40)
        blocks = np.repeat(np.arange(40), 25)
        wrong = (rng.random(1000) > shares[blocks]).astype(int)
        truth = np.zeros(1000, int)
        low, high = metrics.bootstrap_rates(truth, wrong, blocks, 2, repeats=300)
        alone = metrics.bootstrap_rates(truth, wrong, np.arange(1000), 2, repeats=300)
        covered += bool(low.overall <= 0.8 <= high.overall)
        wider.append(float((high.overall - low.overall) / (alone[1].overall - alone[0].overall)))
    # Theory: variance is (1 + 24 ρ) times larger with ρ = 1/(4+1+1), hence the interval √5 = 2.2 times wider.
    assert np.mean(wider) == pytest.approx(np.sqrt(1 + 24 / 6), rel=0.1)
    assert 0.88 <= covered / 150 <= 0.99


def test_bootstrap_equals_a_plain_resampling_of_blocks():
    rng = np.random.default_rng(8)
    truth, said = rng.integers(0, 3, 120), rng.integers(0, 3, 120)
    blocks = rng.integers(100, 115, 120) * 7 - 500
    low, high = metrics.bootstrap_rates(truth, said, blocks, 3, repeats=4000, seed=3)
    names = np.unique(blocks)
    drawn = []
    for _ in range(4000):
        tiles = np.concatenate([np.flatnonzero(blocks == name) for name in rng.choice(names, len(names))])
        drawn.append(np.mean(truth[tiles] == said[tiles]))
    assert (low.overall, high.overall) == pytest.approx(np.percentile(drawn, (2.5, 97.5)), abs=0.01)


def test_bootstrap_is_seeded_and_unknown_for_one_block():
    rng = np.random.default_rng(9)
    truth = rng.integers(0, 7, 100_000)
    said = np.where(rng.random(100_000) < 0.8, truth, rng.integers(0, 7, 100_000))
    first = metrics.bootstrap_rates(truth, said, np.arange(100_000) // 10, 7, seed=1)
    again = metrics.bootstrap_rates(truth, said, np.arange(100_000) // 10, 7, seed=1)
    np.testing.assert_array_equal(first[0].recall, again[0].recall)
    assert np.isnan(metrics.bootstrap_rates(truth, said, np.zeros(100_000, int), 7, repeats=5)[0].overall)


def test_mcnemar_by_hand():
    def pair(only_first, only_second, both=30, neither=5):
        first = [1] * only_first + [0] * only_second + [1] * both + [0] * neither
        second = [0] * only_first + [1] * only_second + [1] * both + [0] * neither
        return metrics.mcnemar(np.array(first, bool), np.array(second, bool))

    exact = pair(2, 8)
    assert exact.exact and exact.p == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert pair(7, 17).p == pytest.approx(binomtest(7, 24).pvalue)
    chi = pair(10, 25)  # (|10 − 25| − 1)² / 35 = 5.6
    assert not chi.exact and chi.statistic == pytest.approx(5.6) and chi.p == pytest.approx(0.01796, abs=1e-5)
    assert pair(0, 0).p == 1 and pair(20, 20).p == pytest.approx(1)
    assert (pair(3, 4).only_first, pair(3, 4).only_second) == (3, 4)


def test_holm_by_hand():
    np.testing.assert_allclose(metrics.holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(metrics.holm(np.array([0.9, 0.8])), [1, 1])
    assert len(metrics.holm(np.array([]))) == 0


# ---- evaluation


def test_grouped_scores_add_probabilities_up():
    fine = scored(400)
    coarse = load_scheme("nlcd3")
    assert [item.name for item in groupings_of(fine.scheme)] == ["nlcd3", "nlcd6-groups"]
    merged = regroup(fine, coarse)
    p = fine.probabilities
    np.testing.assert_allclose(merged.probabilities, np.stack([p[:, 1], p[:, 5], p[:, [0, 2, 3, 4]].sum(axis=1)], 1))
    assert set(merged.truth[fine.truth == 3]) == {2} and set(merged.truth[fine.truth == 1]) == {0}
    found = evaluate(fine, repeats=50).grouped[0]
    assert found.overall.value == pytest.approx(np.mean(merged.right)) and found.classes[0].name == "Developed"
    with pytest.raises(EvaluationError, match="does not say where class 'Annual"):
        regroup(scored(50, scheme="eurosat10"), coarse)


def test_own_groups_are_a_grouping_only_where_they_part_the_classes():
    rsscn7 = groupings_of(load_scheme("rsscn7"))
    assert [item.names for item in rsscn7] == [("Built", "Open", "Water")]
    pair = tuple(LandClass(id=k, name=f"c{k}", colour="#000000") for k in (1, 2, 3))
    twice = ClassScheme(name="x", classes=pair, groups={"a": ("c1", "c2"), "b": ("c2", "c3")})
    assert groupings_of(twice) == ()
    rest = ClassScheme(name="x", classes=pair, groups={"a": ("c1", "c2")})
    assert groupings_of(rest)[0].names == ("A", "Other")


def test_evaluation_parts():
    rng = np.random.default_rng(1)
    blocks, purity = np.arange(300) // 10, rng.uniform(0.5, 1, 300)
    x, y = rng.uniform(0, 9000, (2, 300))
    one = scored(
        300, blocks=blocks, purity=purity, x_m=x, y_m=y, train_positions=np.array([[0.0, 0.0]]), split="random"
    )
    found = evaluate(one, random=0.9, temperature=2.0, repeats=100)
    right = one.right
    assert found.scores.overall.value == pytest.approx(right.mean()) and found.scores.blocks == 30
    assert found.pure is not None and found.mixed is not None
    assert found.pure.overall.value == pytest.approx(right[purity >= 0.9].mean())
    assert found.pure.tiles + found.mixed.tiles == 300
    assert found.gap is not None and found.gap.gap == pytest.approx(0.9 - right.mean())
    assert "at random" in found.chosen
    assert found.train_distance_m == pytest.approx(np.median(np.hypot(x, y)))
    assert found.uncalibrated is not None and found.uncalibrated.temperature == 1
    raw = metrics.apply_temperature(one.probabilities, 0.5)
    assert found.uncalibrated.log_loss == pytest.approx(metrics.log_loss(one.truth, raw))
    swapped = evaluate(replace(one, probabilities=raw), temperature=2.0, applied=False, repeats=20)
    assert swapped.calibration.ece == pytest.approx(found.calibration.ece)
    other = evaluate(one, random=take(one, right), repeats=20)
    assert other.gap is not None and other.gap.random.value == 1


def test_evaluation_as_json_has_null_for_what_is_not_known():
    one = scored(60)
    lost = one.truth != 4
    kept = take(one, lost)
    found = json.loads(evaluate(kept, repeats=50).to_json())
    absent = found["scores"]["classes"][4]
    assert absent["tiles"] == 0 and absent["recall"] == {"value": None, "low": None, "high": None}
    assert absent["auc"] is None and found["curves"]["roc"][4] == [[], []]
    assert found["scores"]["blocks"] is None and any("not known" in text for text in found["caveats"])
    assert any("Herbaceous" in text and "No test tile" in text for text in found["caveats"])


def test_an_interval_without_width_is_none():
    one = scored(40)
    sure = replace(one, probabilities=np.eye(6)[one.truth])
    found = evaluate(sure, repeats=50)
    assert found.scores.overall.value == 1 and np.isnan(found.scores.overall.low)
    assert "too alike, or too few" in found.headline


def test_single_tile():
    found = evaluate(take(scored(5), np.array([0])), repeats=10)
    assert found.scores.tiles == 1 and np.isnan(found.scores.overall.high)
    json.loads(found.to_json())


def test_compare_aligns_tiles_and_adjusts():
    first, second, third = (replace(scored(400, seed=0), model=name) for name in "abc")
    rng = np.random.default_rng(2)
    second = replace(second, probabilities=simulate(400, 6, 5)[1])
    shuffled = take(second, rng.permutation(400))
    pairs = compare([first, shuffled, third], repeats=200)
    assert [(pair.first, pair.second) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert pairs[0].difference.value == pytest.approx(first.right.mean() - second.right.mean())
    assert pairs[0].only_first == np.sum(first.right & ~second.right)
    assert pairs[0].p_holm >= pairs[0].p and pairs[1].p == 1 and pairs[1].to_dict()["difference"]["low"] is None
    assert pairs[0].difference.low < pairs[0].difference.value < pairs[0].difference.high


def test_what_cannot_be_compared_is_refused():
    one = scored(30)
    with pytest.raises(EvaluationError, match="scored by one of them only"):
        compare([one, take(one, np.arange(20))])
    with pytest.raises(EvaluationError, match="truth of some tiles differs"):
        compare([one, replace(one, truth=(one.truth + 1) % 6)])
    with pytest.raises(EvaluationError, match="compare models of one scheme"):
        compare([one, scored(30, scheme="rsscn7")])
    with pytest.raises(EvaluationError, match="random split is scored in scheme 'rsscn7'"):
        evaluate(one, random=scored(30, scheme="rsscn7"))
    for values, words in (
        ({"keys": ()}, "no test tile"),
        ({"keys": ("a",) * 30}, "comes twice"),
        ({"probabilities": one.probabilities[:, :3]}, r"shape \(30, 3\) for 30 tiles of 6 classes"),
        ({"probabilities": one.probabilities * 2}, "no probabilities"),
        ({"probabilities": one.probabilities * np.nan}, "no probabilities"),
        ({"truth": one.truth + 5}, "outside scheme 'nlcd6'"),
        ({"purity": np.ones(3)}, r"purity of model has shape \(3,\)"),
        ({"x_m": np.ones(30)}, "give both or neither"),
    ):
        with pytest.raises(EvaluationError, match=words):
            replace(one, **values)
    with pytest.raises(EvaluationError, match="temperature -1"):
        evaluate(one, temperature=-1.0, repeats=5)
