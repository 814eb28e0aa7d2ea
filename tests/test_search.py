"""The search: it keeps its time, discards losers, and judges the winner on tiles that it never saw."""

from time import monotonic

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from geoclass.bundle import Bundle, load_bundle
from geoclass.cli import main
from geoclass.datasets.duplicates import Prints, prints_of
from geoclass.datasets.tileset import TEST, TRAIN, read_class_folders
from geoclass.errors import DatasetError, GeoclassError
from geoclass.learning.search import Found, parse_budget, search
from geoclass.predict import shown
from geoclass.train import Method

SIZE_PX = 64


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two classes that a look at their grain tells apart, 30 pictures of each."""
    root, rng = tmp_path_factory.mktemp("search") / "tiles", np.random.default_rng(5)
    for name, coarse in (("coarse", 8), ("fine", 2)):
        (root / name).mkdir(parents=True)
        for number in range(30):
            small = rng.integers(0, 256, (SIZE_PX // coarse, SIZE_PX // coarse, 3)).astype(np.uint8)
            picture = Image.fromarray(small).resize((SIZE_PX, SIZE_PX), Image.Resampling.NEAREST)
            picture.save(root / name / f"{number:02}.png")
    return root


@pytest.fixture(scope="module")
def found(folders) -> tuple[Found, float]:
    start = monotonic()
    made = search(read_class_folders(folders, SIZE_PX), budget_s=15, seed=1)
    return made, monotonic() - start


def test_the_default_is_tried_first_and_more_besides(found):
    methods = [trial.method for trial in found[0].trials]
    assert Method(seed=1) in methods and len(methods) > 2
    assert len({method.head for method in methods}) > 1


def test_it_keeps_about_its_time(found):
    assert found[1] < 60


def test_the_best_of_the_trials_wins(found):
    made = found[0]
    finished = [trial for trial in made.trials if not trial.discarded]
    assert made.method == max(finished, key=lambda trial: trial.accuracy).method
    accuracies = [trial.accuracy for trial in finished]
    assert accuracies == sorted(accuracies, reverse=True)


def test_the_winner_is_judged_on_tiles_it_never_saw(found, folders):
    made = found[0]
    tiles = read_class_folders(folders, SIZE_PX)
    known = {row.tobytes() for row in Prints.unpacked(made.winner.meta.training_tiles).hashes}
    unseen = [row.tobytes() not in known for row in prints_of(shown(tiles)).hashes]
    assert made.outer == 12 and sum(unseen) >= made.outer
    assert made.accuracy >= 0.9  # the textures are plain
    assert f"{made.accuracy:.3f} on {made.outer} tiles" in made.verdict


def test_a_test_split_is_the_last_judge(folders):
    tiles = read_class_folders(folders, SIZE_PX)
    split = np.where(np.arange(len(tiles)) % 3 == 0, TEST, TRAIN)
    made = search(type(tiles)(**{**vars(tiles), "split": split}), budget_s=2)
    assert made.outer == 20 and made.winner.meta.training["tiles"] == 40


def test_the_verdict_is_honest(found):
    made = found[0]
    worse = Found(made.trials, made.winner, Method(head="svm"), 100, 0.80, 0.85, made.test)
    assert "does not beat the default" in worse.verdict
    same = Found(made.trials, made.winner, Method(), 100, 0.85, 0.85, made.test)
    assert "found nothing better" in same.verdict


def test_command(folders, tmp_path):
    out = tmp_path / "m.pt"
    ran = CliRunner().invoke(
        main,
        ["train", str(folders), "-o", str(out), "--size", "64", "--search", "--budget", "2s"],
        catch_exceptions=False,
    )
    assert ran.exit_code == 0, ran.output
    assert "held-out accuracy" in ran.output and "tiles that the search never saw" in ran.output
    bundle = load_bundle(out)
    assert isinstance(bundle, Bundle) and bundle.meta.training["search"]["outer_tiles"] == 12


@pytest.mark.parametrize(("text", "seconds"), [("300", 300), ("90s", 90), ("5m", 300), ("1.5h", 5400)])
def test_budgets(text, seconds):
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-5m", "soon", "5d"])
def test_no_budgets(text):
    with pytest.raises(GeoclassError, match="--budget"):
        parse_budget(text)


def test_too_few_tiles(folders):
    tiles = read_class_folders(folders, SIZE_PX)
    with pytest.raises(DatasetError, match="too few to search"):
        search(tiles.take(np.array([0, 1, 30, 31])), budget_s=1)
