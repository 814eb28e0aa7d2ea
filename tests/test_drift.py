"""The guard against drift: noise, real change and a sensor's shift told apart."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from test_inference import series_of

from geoclass.changes.drift import Drift, compare, unchanged_tiles, with_probabilities, with_shares_of

N = 600


def answers(truth, seed, sharpness=6.0, bias=(0.0, 0.0, 0.0)):
    """(N, 3) answers of a classifier that is right about 85 times in 100; `bias` shifts its log-odds, as a cast does."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2.0, (len(truth), 3)) + np.asarray(bias)
    logits[np.arange(len(truth)), truth] += sharpness * 0.6
    values = np.exp(logits - logits.max(axis=1, keepdims=True))
    return values / values.sum(axis=1, keepdims=True)


def two_dates(seed, changed=0.0, **shift):
    random = np.random.default_rng(seed)
    before = random.integers(0, 3, N)
    after = np.where(random.random(N) < changed, 1, before)
    return series_of(np.stack([answers(before, seed + 1000), answers(after, seed + 2000, **shift)], axis=1)), after


def test_chance_alone_does_not_set_it_off():
    fired = [compare(two_dates(seed)[0], 1, max_change=0.0).drifted for seed in range(60)]
    assert sum(fired) <= 3  # one in a hundred is expected


def test_real_change_below_the_limit_does_not_set_it_off():
    found = [compare(two_dates(seed, changed=0.12)[0], 1, max_change=0.1) for seed in range(30)]
    assert not any(item.drifted for item in found)


@pytest.mark.parametrize("bias", [(4.0, 0, 0), (0, 4.0, 0)])
def test_a_shift_of_all_answers_sets_it_off(bias):
    assert all(compare(two_dates(seed, bias=bias)[0], 1).drifted for seed in range(30))


def test_a_loss_of_confidence_sets_it_off_though_the_classes_keep_their_shares():
    found = [compare(two_dates(seed, sharpness=1.0)[0], 1) for seed in range(20)]
    assert all(item.drifted for item in found)
    assert all(np.abs(item.shares[0] - item.shares[1]).max() < 0.1 for item in found)


def test_the_distance_is_the_total_variation():
    series, _ = two_dates(3)
    found = compare(series, 1)
    counts = []
    for t in (0, 1):
        table = np.zeros((3, 3))
        for p in series.probabilities[:, t]:
            top = p.max()
            table[p.argmax(), 0 if top < 0.6 else 1 if top < 0.9 else 2] += 1
        counts.append(table / N)
    assert found.distance == pytest.approx(np.abs(counts[0] - counts[1]).sum() / 2)


def test_new_class_priors_mend_a_shift_of_the_answers():
    series, truth = two_dates(4, bias=(2.5, 0, 0))
    mended = with_probabilities(series, 1, with_shares_of(series, 1))
    right = [(one.classes[:, 1] == truth).mean() for one in (series, mended)]
    assert right[1] > right[0] + 0.08
    assert compare(series, 1).drifted and not compare(mended, 1).drifted
    assert np.array_equal(mended.probabilities[:, 0], series.probabilities[:, 0])
    assert np.allclose(mended.probabilities.sum(axis=2), 1, atol=1e-5)


def test_new_class_priors_keep_real_growth():
    series, _ = two_dates(5, changed=0.08)
    kept = unchanged_tiles(series, 1)
    assert len(kept) == round(N * 0.9)
    mended = with_probabilities(series, 1, with_shares_of(series, 1))
    growth = [(one.classes[:, 1] == 1).mean() - (one.classes[:, 0] == 1).mean() for one in (series, mended)]
    assert growth[1] > 0.5 * growth[0] > 0


def test_colours_are_compared_in_spreads_of_the_reference():
    series, _ = two_dates(6)
    random = np.random.default_rng(7)
    one = random.normal(100, 10, (1, N, 3)).clip(0, 255).astype(np.uint8)
    two = (one + np.array([0, 20, 0])).astype(np.uint8)
    pictures = [Image.fromarray(item.repeat(4, axis=0).repeat(4, axis=1)) for item in (one, two)]
    found = compare(series, 1, pictures=pictures)
    assert found.colours[1, 1, 0] - found.colours[0, 1, 0] == pytest.approx(20, abs=0.5)
    assert found.colour_shift == pytest.approx(20 / one[0, :, 0].std(), rel=0.1)
    assert compare(series, 1).colour_shift is None


def test_tiles_that_change_places_set_it_off_though_nothing_shifted_as_a_whole():
    series, _ = two_dates(9)
    moved = with_probabilities(series, 1, series.probabilities[np.random.default_rng(1).permutation(N), 1])
    found = compare(moved, 1)
    assert found.scattered and found.drifted and not found.shifted
    assert not compare(series, 1).scattered


def test_the_verdict():
    quiet = compare(two_dates(8)[0], 1)
    loud = compare(two_dates(8, bias=(5.0, 0, 0))[0], 1)
    assert Drift((quiet,)).verdict == "quiet"
    assert Drift((quiet, loud)).verdict == "withheld" and Drift((quiet, loud)).withheld
    assert Drift((quiet, replace(loud, max_change=1.0))).verdict == "quiet"
