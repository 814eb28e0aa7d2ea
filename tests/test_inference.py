"""Change as a probability: the forward–backward algorithm against brute force, and known truth."""

import itertools

import numpy as np
import pytest
from test_series import SQUARE, labels

from geoclass.changes import inference
from geoclass.changes.inference import estimate_prior, infer
from geoclass.changes.posterior import KINDS, Prior
from geoclass.changes.series import align
from geoclass.grid import TileGrid
from geoclass.labels import Labels
from geoclass.schemes import ClassScheme, LandClass

SCHEME = ClassScheme(
    name="three",
    classes=tuple(LandClass(id=k + 1, name=n, colour=f"#{k + 1:06x}") for k, n in enumerate(("Field", "House", "Lake"))),
    groups={"built": ("House",), "open": ("Field",), "water": ("Lake",)},
)  # fmt: skip


def series_of(probabilities):
    """A series of N tiles in a row from probabilities (N, T, 3)."""
    count = len(probabilities)
    columns, rows = np.arange(count, dtype=np.int64), np.zeros(count, np.int64)
    return align(
        [
            Labels(
                TileGrid("EPSG:26919"), SCHEME, columns, rows, np.asarray(probabilities[:, t], np.float32),
                np.ones(count, np.float32), None, {"date": str(2010 + t)},
            )
            for t in range(probabilities.shape[1])
        ]
    )  # fmt: skip


@pytest.mark.parametrize("dates", [2, 3, 5])
def test_posteriors_equal_the_sum_over_all_sequences(dates):
    random = np.random.default_rng(dates)
    evidence = random.dirichlet(np.ones(3), (12, dates)).astype(np.float32)
    prior = Prior(random.dirichlet(np.ones(3)), random.dirichlet(np.ones(3), (dates - 1, 3)))
    change = infer(series_of(evidence), prior=prior)
    evidence = np.maximum(change.series.probabilities.astype(np.float64), inference.FLOOR)
    for n in range(12):
        weights = {}
        for path in itertools.product(range(3), repeat=dates):
            chance = prior.start[path[0]] * evidence[n, 0, path[0]]
            for t in range(1, dates):
                chance *= prior.transitions[t - 1, path[t - 1], path[t]] * evidence[n, t, path[t]]
            weights[path] = chance
        whole = sum(weights.values())
        for t, k in itertools.product(range(dates), range(3)):
            share = sum(w for path, w in weights.items() if path[t] == k) / whole
            assert change.posterior[n, t, k] == pytest.approx(share, abs=1e-6)
        built = sum(w for path, w in weights.items() if path[0] == 0 and path[-1] == 1) / whole
        moved = sum(w for path, w in weights.items() if path[0] != path[-1]) / whole
        assert change.p_new_built[n] == pytest.approx(built, abs=1e-6)
        assert change.p_change[n] == pytest.approx(moved, abs=1e-6)


def chain(count, dates, transition, accuracy, seed):
    """True classes (N, T) of a Markov chain, and calibrated answers (N, T, 3) of a classifier that is right at times."""
    random = np.random.default_rng(seed)
    truth = np.empty((count, dates), int)
    truth[:, 0] = random.integers(0, 3, count)
    for t in range(1, dates):
        steps = transition[truth[:, t - 1]].cumsum(axis=1)
        truth[:, t] = (random.random((count, 1)) > steps).sum(axis=1)
    likelihood = np.full((3, 3), (1 - accuracy) / 2)
    np.fill_diagonal(likelihood, accuracy)
    seen = (random.random((count, dates, 1)) > likelihood[truth].cumsum(axis=2)).sum(axis=2)
    return truth, likelihood.T[seen]


def test_the_prior_is_recovered_from_noisy_answers():
    transition = np.array([[0.93, 0.06, 0.01], [0.005, 0.99, 0.005], [0.01, 0.01, 0.98]])
    _, answers = chain(20_000, 3, transition, 0.85, seed=3)
    found = estimate_prior(answers)
    assert np.abs(found.transitions - transition).max() < 0.025
    assert np.abs(found.start - 1 / 3).max() < 0.03
    assert np.allclose(found.transitions.sum(axis=2), 1)


def test_without_change_nearly_none_is_found_whatever_the_labels_do():
    truth, answers = chain(5_000, 2, np.eye(3), 0.8, seed=4)
    change = infer(series_of(answers))
    assert (change.series.classes[:, 0] != change.series.classes[:, 1]).mean() > 0.3
    assert change.p_change.mean() < 0.04 and change.new_built.mean() < 0.002
    # Two equally good answers that disagree cannot be settled, and those that agree need not be.
    assert (change.classes == truth).mean() > (change.series.classes == truth).mean() - 0.01


def test_probabilities_of_change_are_calibrated():
    transition = np.array([[0.9, 0.1, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    truth, answers = chain(20_000, 2, transition, 0.9, seed=5)
    change = infer(series_of(answers))
    real = (truth[:, 0] == 0) & (truth[:, -1] == 1)
    assert change.p_new_built.sum() == pytest.approx(real.sum(), rel=0.12)
    for low, high in ((0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        inside = (change.p_new_built >= low) & (change.p_new_built < high)
        if inside.sum() > 200:
            assert low - 0.08 < real[inside].mean() < high + 0.08


def test_one_odd_year_does_not_make_two_changes():
    sure = {"F": [0.995, 0.004, 0.001], "H": [0.004, 0.995, 0.001], "f": [0.6, 0.3, 0.1], "h": [0.3, 0.6, 0.1]}
    stories = ["FFF", "FhF", "FHH", "FFH", "HHH", "fhf", "FFh"]
    prior = Prior(np.full(3, 1 / 3), np.repeat((np.eye(3) * 0.94 + 0.02)[None], 2, axis=0))
    change = infer(series_of(np.array([[sure[x] for x in story] for story in stories])), prior=prior)
    kinds = [KINDS[k] for k in change.kind]
    assert dict(zip(stories, kinds, strict=True)) == {
        "FFF": "stable", "FhF": "flicker", "FHH": "sustained", "FFH": "endpoint", "HHH": "stable", "fhf": "flicker",
        "FFh": "flicker",
    }  # fmt: skip
    assert change.new_built.tolist() == [False, False, True, True, False, False, False]
    assert change.transition.tolist()[:4] == ["Field", "Field", "Field → House", "Field → House"]


def test_two_dates_know_no_sustained_change():
    change = infer(align([labels(SQUARE, "2010", seed=1), labels(SQUARE, "2016", seed=2)]))
    assert KINDS.index("sustained") not in change.kind


def test_a_large_series_is_fitted_on_a_seeded_part(monkeypatch):
    _, answers = chain(3_000, 2, np.eye(3) * 0.9 + 1 / 30, 0.9, seed=6)
    monkeypatch.setattr(inference, "FITTED_TILES", 1_000)
    first, again, other = (estimate_prior(answers, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.transitions, again.transitions)
    assert not np.array_equal(first.transitions, other.transitions)
    assert np.abs(first.transitions - other.transitions).max() < 0.1
