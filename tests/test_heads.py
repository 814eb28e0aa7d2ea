"""Heads on features: what they say of themselves, how they are chosen, and what rare classes do to them."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from geoclass.errors import DatasetError
from geoclass.learning import heads
from geoclass.learning.heads import (
    COSTS,
    KINDS,
    NEVER,
    PENALTIES,
    Head,
    Labelled,
    changes,
    deviations,
    fit_head,
    random_accuracy,
    rescaled,
    start_layer,
)
from geoclass.views import COPIED, TURNS, VIEWS

LINEAR = ("logistic", "svm")


@pytest.fixture(scope="module", autouse=True)
def small_forests() -> Iterator[None]:
    """Forty trees instead of three hundred: quicker, and no different in kind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(heads._FITS, "forest", (heads._fit_forest, (40.0,)))
        yield


def clouds(
    count: int, kinds: int, seed: int, views: int = 4, width: int = 6, apart: float = 3.0, **more: Any
) -> Labelled:
    """Points about one centre a class. Views scatter by 0.1."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(0, apart, (kinds, width)) + 50
    classes = np.repeat(np.arange(kinds), count)
    points = centres[classes] + rng.normal(0, 1, (len(classes), width))
    features = (points[:, None] + rng.normal(0, 0.1, (len(classes), views, width))).astype(np.float32)
    return Labelled(features, classes, kinds, **more)


def logits_of(head: Head, features: np.ndarray, count: int) -> np.ndarray:
    """(N, count) what a head says of one view a tile, as a bundle would compute it."""
    from geoclass.forest import probabilities

    found = features @ head.weight.T + head.bias
    return found if head.forest is None else np.log(probabilities(head.forest, found.astype(np.float32), count))


@pytest.mark.parametrize("kind", KINDS)
class TestEveryHead:
    def test_what_it_says_of_itself_is_what_unseen_points_show(self, kind):
        """The cross-validated accuracy must lie within three standard errors of that on 3,000 other points."""
        tiles = clouds(150, 3, seed=0, apart=1.0)
        head = fit_head(kind, tiles)
        fresh = clouds(1000, 3, seed=1, apart=1.0)
        right = (logits_of(head, fresh.features[:, 0], 3).argmax(1) == fresh.classes).mean()
        assert 0.6 < right < 0.98  # overlapping enough for the figure to mean something
        assert abs(head.accuracy - right) < 3 * np.sqrt(right * (1 - right) / len(tiles.classes))
        assert head.logits.shape == (450, 3) and head.held_out.tolist() == list(range(450))
        assert (head.logits.argmax(1) == tiles.classes).mean() == head.accuracy

    def test_labels_without_meaning_score_as_chance(self, kind):
        """Views of one picture in two folds would be recognised, and score near 1."""
        rng = np.random.default_rng(3)
        features = (rng.normal(0, 1, (80, 1, 200)) + rng.normal(0, 0.01, (80, 4, 200))).astype(np.float32)
        assert fit_head(kind, Labelled(features, np.tile(np.arange(2), 40), 2)).accuracy < 0.7

    def test_a_class_of_the_scheme_without_tiles_is_never_said(self, kind):
        tiles = clouds(30, 3, seed=5)
        head = fit_head(kind, replace(tiles, classes=np.array([0, 2, 3])[tiles.classes], count=5))
        probabilities = softmax(logits_of(head, tiles.features[:, 0], 5), axis=1)
        assert np.isfinite(probabilities).all() and head.accuracy > 0.9
        assert set(probabilities.argmax(axis=1)) == {0, 2, 3}
        far = np.random.default_rng(0).normal(0, 1000, (500, 6)).astype(np.float32)
        assert set(logits_of(head, far, 5).argmax(axis=1)) <= {0, 2, 3}
        if kind != "forest":
            assert probabilities[:, [1, 4]].max() == 0

    def test_features_that_never_vary(self, kind):
        tiles = clouds(10, 2, seed=7)
        tiles.features[..., 3] = 0
        head = fit_head(kind, tiles)
        assert np.isfinite(head.weight).all() and np.isfinite(head.bias).all()
        assert fit_head(kind, replace(tiles, features=np.ones_like(tiles.features))).accuracy <= 0.5

    def test_two_pictures_a_class_are_enough(self, kind):
        assert fit_head(kind, clouds(2, 3, seed=8)).folds == 2

    def test_one_seed_one_result(self, kind):
        one, two = (fit_head(kind, clouds(40, 3, seed=9, apart=1.0), seed=1) for _ in range(2))
        assert np.array_equal(one.weight, two.weight) and one.accuracy == two.accuracy
        assert np.array_equal(one.logits, two.logits)

    def test_a_class_with_one_tile_is_learnt_and_not_judged(self, kind):
        """Held out it would be a class no head could know, whose loss drowns all others."""
        tiles = clouds(30, 3, seed=10)
        chosen = np.r_[0:30, 30:60, 60]
        head = fit_head(kind, replace(tiles, features=tiles.features[chosen], classes=tiles.classes[chosen]))
        assert head.held_out.tolist() == list(range(60)) and head.logits.shape == (60, 3)
        assert head.accuracy > 0.9 and head.folds == 3
        if kind == "logistic":
            assert logits_of(head, tiles.features[60:61, 0], 3).argmax() == 2

    def test_one_tile_a_class(self, kind):
        with pytest.raises(DatasetError, match="no class has two training tiles"):
            fit_head(kind, clouds(1, 3, seed=0))

    def test_class_weights_help_the_rare(self, kind):
        """Two overlapping classes, 20 to 1: weights make the rare one be found more often."""
        rng = np.random.default_rng(11)
        classes = np.repeat([0, 1], [400, 20])
        points = rng.normal(0, 1, (420, 1, 3)) + 1.2 * classes[:, None, None]
        features = (points + rng.normal(0, 0.05, (420, 4, 3))).astype(np.float32)
        plain = fit_head(kind, Labelled(features, classes, 2))
        even = fit_head(kind, Labelled(features, classes, 2, class_weights=np.array([0.1, 1.9])))
        recall = [(head.logits.argmax(1) == classes)[classes == 1].mean() for head in (plain, even)]
        shares = [softmax(head.logits, axis=1)[:, 1].mean() for head in (plain, even)]
        assert recall[1] > recall[0] + 0.2 or kind == "forest"  # whose trees grow until every tile is told apart
        assert shares[1] > shares[0]

    def test_averaged_heads_are_judged_on_the_mean_of_turned_views(self, kind):
        rng = np.random.default_rng(12)
        tiles = clouds(100, 2, seed=12, apart=0.5, views=8)
        tiles.features[:, :4] += rng.normal(0, 2, (200, 4, 6)).astype(np.float32)
        one, mean = fit_head(kind, tiles), fit_head(kind, tiles, averaged=True)
        assert mean.averaged and not one.averaged
        assert not np.array_equal(one.logits, mean.logits) and mean.accuracy > one.accuracy


class TestBlocks:
    """A signature of each block, with labels the block's own: a split within blocks recognises it."""

    @staticmethod
    def blocky(blocks: int = 40, each: int = 8) -> Labelled:
        rng = np.random.default_rng(13)
        groups = np.repeat(np.arange(blocks), each)
        classes = rng.permutation(np.arange(blocks) % 2)[groups]
        marks = rng.normal(0, 3, (blocks, 60))[groups]
        features = marks[:, None] + rng.normal(0, 0.3, (len(groups), 4, 60))
        return Labelled(features.astype(np.float32), classes, 2, groups)

    @pytest.mark.parametrize("kind", LINEAR)
    def test_neighbours_stay_together(self, kind):
        tiles = self.blocky()
        head = fit_head(kind, tiles)
        assert head.blocked and head.accuracy < 0.75
        assert random_accuracy(tiles, head) > head.accuracy + 0.15
        assert not fit_head(kind, replace(tiles, groups=None)).blocked

    def test_a_class_in_one_block_only_is_told(self):
        tiles = self.blocky()
        classes = np.where(tiles.groups == 0, 2, tiles.classes)
        head = fit_head("logistic", replace(tiles, classes=classes, count=3))
        assert not head.blocked and len(head.held_out) == len(classes)

    def test_two_blocks_of_a_class_are_enough(self):
        """One unlucky draw that puts both in one fold must not give blocks up."""
        tiles = self.blocky()
        classes = np.where(tiles.groups < 2, 2, tiles.classes)
        for seed in range(8):
            assert fit_head("logistic", replace(tiles, classes=classes, count=3), seed=seed).blocked

    def test_the_largest_seed(self):
        assert fit_head("logistic", self.blocky(), seed=2**32 - 1).blocked


class TestLogistic:
    def test_two_classes_make_the_same_probabilities_as_a_plain_logistic_regression(self):
        """With one feature the rescaling is a standardisation; the penalty is the one that it says it chose."""
        rng = np.random.default_rng(4)
        classes = np.repeat([0, 1], 400)
        points = (rng.normal(0, 3, 800) + 4 * classes + 20).astype(np.float32)
        head = fit_head("logistic", Labelled(points[:, None, None], classes, 2))
        standard = ((points - points.mean()) / points.std())[:, None]
        plain = LogisticRegression(C=1 / (head.strength * len(points)), tol=1e-8).fit(standard, classes)
        ours = softmax(points[:, None] @ head.weight.T + head.bias, axis=1)
        assert ours == pytest.approx(plain.predict_proba(standard), abs=0.01)
        assert ours.std() > 0.1

    def test_directions_in_which_views_differ_count_less(self):
        """One feature tells the classes but flickers between views; another tells them as well and is steady."""
        rng = np.random.default_rng(6)
        classes = np.repeat([0, 1], 200)
        signal = np.stack([classes, classes], 1) * 2.0 + rng.normal(0, 0.5, (400, 2))
        flicker = rng.normal(0, 1, (400, 4, 2)) * (1.0, 0.01)
        head = fit_head("logistic", Labelled((signal[:, None] + flicker).astype(np.float32), classes, 2))
        assert abs(head.weight[1, 1]) > 2 * abs(head.weight[1, 0])

    def test_how_turns_differ_is_not_damped_and_what_copies_change_is(self):
        """Three features tell the classes as well: one differs from turn to turn, one changes in copies, one is steady."""
        rng = np.random.default_rng(6)
        classes = np.repeat([0, 1], 200)
        signal = np.stack([classes] * 3, 1) * 2.0 + rng.normal(0, 0.5, (400, 3))
        turns = np.repeat(signal[:, None], TURNS, 1)
        turns[..., 0] += rng.normal(0, 1, (400, TURNS))
        copies = turns[:, COPIED]
        copies[..., 1] += rng.normal(0, 1, copies.shape[:2])
        features = (np.concatenate([turns, copies], 1) + rng.normal(0, 0.01, (400, VIEWS, 3))).astype(np.float32)
        turned, copied, steady = rescaled(features, changes(features))[1].diagonal()
        assert turned > 2 * copied and steady > 2 * copied
        head, alone = (fit_head("logistic", Labelled(features, classes, 2), averaged=way) for way in (True, False))
        assert abs(head.weight[1, 0]) > 2 * abs(head.weight[1, 1])
        assert abs(head.weight[1, 0]) > 2 * abs(alone.weight[1, 0])  # one look sees how turns differ

    def test_soft_labels_of_one_class_each_are_hard_labels(self):
        tiles = clouds(40, 3, seed=14, apart=1.0)
        hard = fit_head("logistic", tiles)
        soft = fit_head("logistic", replace(tiles, fractions=0.8 * np.eye(3, dtype=np.float32)[tiles.classes]))
        assert np.allclose(hard.weight, soft.weight, atol=1e-3) and hard.strength == soft.strength

    def test_soft_labels_give_the_shares_back(self):
        """Tiles without features that tell: the answer is the mean share, of which majority labels know nothing."""
        rng = np.random.default_rng(15)
        features = rng.normal(0, 1, (400, 2, 3)).astype(np.float32)
        fractions = np.tile(np.float32([0.6, 0.3, 0.1]), (400, 1))
        classes = np.r_[np.zeros(398, int), 1, 1]
        head = fit_head("logistic", Labelled(features, classes, 3, fractions=fractions))
        said = softmax(features[:, 0] @ head.weight.T + head.bias, axis=1).mean(axis=0)
        assert said == pytest.approx([0.6, 0.3, 0.1], abs=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_the_strength_is_one_of_those_tried(kind):
    tried = {"logistic": PENALTIES, "svm": COSTS, "forest": (40,)}[kind]
    assert fit_head(kind, clouds(20, 2, seed=16)).strength in tried


def test_rescaling_is_the_matrix_it_says():
    tiles = clouds(50, 2, seed=17)
    scaled, matrix, centre = rescaled(tiles.features, deviations(tiles.features))
    assert np.allclose((tiles.features - centre) @ matrix, scaled, atol=1e-2)
    assert scaled.var(axis=(0, 1)).mean() == pytest.approx(1, abs=1e-3)


def test_the_layer_that_a_fine_tuning_begins_with():
    tiles = clouds(60, 3, seed=18)
    weight, bias = start_layer(tiles.features[:, 0], np.array([0, 1, 3])[tiles.classes], 4)
    said = tiles.features[:, 0] @ weight.T + bias
    assert (said.argmax(1) == np.array([0, 1, 3])[tiles.classes]).mean() > 0.95
    assert np.isfinite(said).all() and said.min() > NEVER / 2  # a loss under label smoothing stays small
