"""From a change map to a sample, answers, and hectares: through real GeoPackages, CSVs and the command line."""

import json
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pyogrio
import pytest
import sklearn.metrics
from click.testing import CliRunner

from geoclass.areas import design, strata
from geoclass.areas.answers import KNOWN, MISSING, TIED, UNSURE, combine, read_votes
from geoclass.areas.estimate import estimate
from geoclass.areas.sample import Sample, read_sample, write_sample
from geoclass.areas.sampling import draw_sample, read_expected
from geoclass.areas.strata import NEW_BUILT, POSSIBLE, frame_of_change, frame_of_labels, read_frame
from geoclass.areas.telling import sentence, to_dict, write_estimate
from geoclass.changes.posterior import Change, Prior
from geoclass.changes.series import Series, Source, Uncovered
from geoclass.cli import estimate as estimate_cli
from geoclass.cli import sample as sample_cli
from geoclass.errors import ChangeError, GeoclassError, OutputError
from geoclass.grid import TileGrid, TileRange, cells, parse_crs
from geoclass.labels import Labels
from geoclass.outputs.changevector import write_change_gpkg
from geoclass.outputs.vector import write_gpkg
from geoclass.schemes import ClassScheme, LandClass, load_scheme

SCHEME = load_scheme("nlcd6")
WATER, BUILT, BARREN, FOREST, GRASS, FIELD = range(6)
DATES = ("2010", "2016", "2022-07-14")
GRID = TileGrid(parse_crs("EPSG:26919"))


@dataclass(frozen=True)
class World:
    """A change map and what is true. truth: (N, 3) classes."""

    change: Change
    truth: np.ndarray

    @property
    def new_built(self) -> np.ndarray:
        return (self.truth[:, 0] > BUILT) & (self.truth[:, -1] == BUILT)

    @property
    def ground_ha(self) -> np.ndarray:
        return self.change.series.areas_m2 / 1e4

    def at(self, sample: Sample) -> np.ndarray:
        order = {key: place for place, key in enumerate(self.change.series.tile_ids)}
        return np.array([order[key] for key in sample.tile_ids])

    def answers(self, sample: Sample, kind: str = "classes", reviewer: str = "Ann") -> pd.DataFrame:
        """What a reviewer who is never wrong would hand in, in the review page's columns."""
        at = self.at(sample)
        names = np.array(SCHEME.names, dtype=object)
        table = pd.DataFrame({"sample_id": sample.design.sample_id, "tile_id": sample.tile_ids})
        table["answer"] = np.where(self.new_built[at], "y", "n") if kind == "y/n" else ""
        if kind == "classes":
            for t, column in enumerate(sample.class_columns):
                table[column] = names[self.truth[at, t]]
        return table.assign(reviewer=reviewer, note="", purpose="estimation", time="2026-01-01T10:00:00Z")


def make_world(seed: int = 0, columns: int = 60, rows: int = 50) -> World:
    """Ground of which some 5 % became built-up between the first two dates, and a map that misses and imagines some."""
    random = np.random.default_rng(seed)
    at_columns, at_rows = cells(TileRange(1800, 21_000 - rows, 1800 + columns, 21_000))
    count = len(at_columns)
    first = random.choice(6, count, p=[0.08, 0.15, 0.02, 0.35, 0.2, 0.2])
    # What the map believes is calibrated: of tiles at 30 %, 30 % became built-up.
    kinds = random.choice(3, count, p=[0.9, 0.06, 0.04])
    beliefs = np.choose(
        kinds, [random.beta(0.3, 30, count), random.uniform(0.1, 0.5, count), random.beta(8, 1.5, count)]
    )
    p_new = np.where(first > BUILT, beliefs, 0)
    became = random.random(count) < p_new
    grown = (first == BARREN) & ~became & (random.random(count) < 0.3)
    last = np.where(became, BUILT, np.where(grown, GRASS, first))
    truth = np.stack([first, last, last], axis=1)
    posterior = np.full((count, 3, 6), 0.01)
    mapped = np.where(p_new >= 0.5, BUILT, np.where(became, first, last))
    for t in range(3):
        posterior[np.arange(count), t, first if t == 0 else mapped] += 1
    posterior /= posterior.sum(axis=2, keepdims=True)
    p_change = np.clip(np.where(grown, np.maximum(p_new, 0.8), p_new), 0.01, 0.99)
    valid = np.where(random.random((count, 1)) < 0.1, random.uniform(0.5, 1, (count, 1)), 1.0)
    series = Series(
        GRID, SCHEME, DATES, at_columns, at_rows, posterior.astype(np.float32),
        np.repeat(valid, 3, axis=1).astype(np.float32), tuple(Source(None, {"date": date}) for date in DATES),
        Uncovered(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3), bool)),
        built=("Developed",), open=("Barren", "Forest", "Herbaceous", "Cultivated"), warnings=("the sensors differ",),
    )  # fmt: skip
    prior = Prior(np.full(6, 1 / 6), np.full((2, 6, 6), 1 / 6))
    change = Change(
        series, prior, posterior.astype(np.float32), p_change.astype(np.float32), p_new.astype(np.float32), 0.5
    )
    return World(change, truth)


def make_labels(world: World) -> Labels:
    series = world.change.series
    return Labels(
        GRID, SCHEME, series.columns, series.rows, world.change.posterior[:, -1], series.valid_fraction[:, -1]
    )


@pytest.fixture(scope="module")
def world() -> World:
    return make_world()


@pytest.fixture(scope="module")
def map_path(world, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("map") / "change.gpkg"
    write_change_gpkg(world.change, path, info={})
    return path


@pytest.fixture
def drawn(world) -> Sample:
    return draw_sample(world.change, total=400, allocation="neyman", seed=3)


def csv(table: pd.DataFrame, path: Path) -> Path:
    table.to_csv(path, index=False)
    return path


def run(command: click.Command, *arguments: object) -> str:
    """Output of a verb; errors a user can cause come through as raised."""
    result = CliRunner().invoke(command, [str(a) for a in arguments], obj={}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


# ---- strata


def test_default_strata_keep_new_built_up_land_apart(world):
    frame = frame_of_change(world.change)
    change = world.change
    assert frame.strata == (
        "Stable built-up", "Stable open land", "Stable other", NEW_BUILT, "Other change", POSSIBLE
    )  # fmt: skip
    new = frame.stratum == frame.strata.index(NEW_BUILT)
    assert (new == change.new_built).all()
    possible = frame.stratum == frame.strata.index(POSSIBLE)
    assert (possible == (~change.new_built & (change.p_new_built >= 0.1))).all()
    # On the legend these are what the map calls them, which is not new built-up land.
    assert NEW_BUILT not in {frame.legend.names[k] for k in frame.lines[possible]}
    assert frame.areas_ha.sum() == pytest.approx(world.ground_ha.sum())
    assert frame.beliefs.sum(axis=1) == pytest.approx(1)
    assert frame.beliefs.min() >= 0
    assert frame.beliefs.max() < 1


def test_legend_says_what_each_pair_of_classes_is(world):
    legend = frame_of_change(world.change).legend
    pairs = {
        (BUILT, BUILT): "Stable built-up", (FOREST, FOREST): "Stable open land", (WATER, WATER): "Stable other",
        (FOREST, BUILT): NEW_BUILT, (WATER, BUILT): "Other change", (BUILT, FOREST): "Other change",
        (FOREST, FIELD): "Other change",
    }  # fmt: skip
    for (first, last), name in pairs.items():
        assert legend.names[legend.lines(np.array([[first, WATER, last]]))[0]] == name


def test_transitions_are_strata_and_rare_ones_are_merged(world):
    frame = frame_of_change(world.change, "transition")
    sizes = dict(zip(frame.strata, frame.tiles, strict=True))
    assert "Forest" in sizes and "Forest → Developed" in sizes
    assert all(size >= 10 for name, size in sizes.items() if "→" in name)
    text = world.change.transition
    for name, size in sizes.items():
        if "→" in name or name in SCHEME.names:
            assert size == (text == name).sum()
    merged = {name for name in text if "→" in name} - sizes.keys()
    assert merged
    assert sum(sizes.get(n, 0) for n in ("Other change", "Other new built-up")) == np.isin(text, list(merged)).sum()
    new = {frame.legend.names[k] for k in frame.new_lines}
    assert new == {name for name in frame.legend.names if name.endswith("→ Developed") and "Water" not in name} | (
        {"Other new built-up"} & set(frame.legend.names)
    )


def test_other_strata(world):
    kinds = frame_of_change(world.change, "kind")
    assert set(kinds.strata) <= {"stable", "sustained", "endpoint", "flicker"}
    assert kinds.legend.names == frame_of_change(world.change).legend.names
    classes = frame_of_change(world.change, "class")
    assert classes.tiles[classes.strata.index("Developed")] == (world.change.classes[:, -1] == BUILT).sum()
    with pytest.raises(ChangeError, match="unknown strata 'colour'"):
        frame_of_change(world.change, "colour")  # type: ignore[arg-type]


def test_a_map_is_read_back_as_it_was(world, map_path, tmp_path):
    for by in strata.STRATA_BY:
        assert read_frame(map_path, by).digest == frame_of_change(world.change, by).digest
    labels = make_labels(world)
    write_gpkg(labels, tmp_path / "county.gpkg")
    assert read_frame(tmp_path / "county.gpkg").digest == frame_of_labels(labels).digest


# ---- the draw


def test_the_draw_is_random_seeded_and_without_replacement(world):
    first, again, other = (draw_sample(world.change, per_stratum=40, seed=seed) for seed in (1, 1, 2))
    assert first.tile_ids == again.tile_ids and first.design == again.design
    assert first.tile_ids != other.tile_ids and first.design.sample_id != other.design.sample_id
    assert len(set(first.tile_ids)) == len(first)
    frame = frame_of_change(world.change)
    order = {key: frame.strata[k] for key, k in zip(frame.tile_ids, frame.stratum, strict=True)}
    assert [order[key] for key in first.tile_ids] == first.table["stratum"].tolist()
    for item in first.design.strata:
        here = first.table[first.table["stratum"] == item.name]
        assert len(here) == item.drawn == min(40, item.tiles)
        assert here["weight"].unique() == pytest.approx([item.tiles / item.drawn])
    assert first.table["weight"].sum() == pytest.approx(len(world.change))
    # The order is random: the first half holds about half of every stratum.
    half = first.table.head(len(first) // 2)["stratum"].value_counts()
    assert all(half[item.name] == pytest.approx(item.drawn / 2, abs=10) for item in first.design.strata)


def test_every_tile_of_a_stratum_has_the_same_chance(world):
    frame = frame_of_change(world.change)
    chosen = np.zeros(len(frame))
    order = {key: place for place, key in enumerate(frame.tile_ids)}
    for seed in range(150):
        chosen[[order[key] for key in draw_sample(world.change, per_stratum=20, seed=seed).tile_ids]] += 1
    for h, size in enumerate(frame.tiles):
        counts, chance = chosen[frame.stratum == h], min(1, 20 / size)
        assert counts.sum() == 150 * min(20, size)
        # The spread of counts is the binomial's, within the noise of a variance of `size` numbers.
        if chance < 1 and size > 100:
            assert counts.var() == pytest.approx(150 * chance * (1 - chance), rel=0.4)


def test_a_random_design_ignores_strata(world):
    drawn = draw_sample(world.change, total=500, kind="random", seed=4)
    assert len(drawn) == 500 and drawn.design.kind == "random"
    assert drawn.table["weight"].unique() == pytest.approx([len(world.change) / 500])
    share = (drawn.table["stratum"] == "Stable open land").mean()
    frame = frame_of_change(world.change)
    assert share == pytest.approx(frame.tiles[frame.strata.index("Stable open land")] / len(frame), abs=0.07)


def test_what_is_expected_is_about_what_comes_out(world):
    drawn = draw_sample(world.change, total=600, allocation="neyman")
    expected = next(area for area in drawn.expected if area.name == "New built-up land")
    assert 0 < drawn.expected_accuracy_se < 0.05 < drawn.expected_accuracy < 1
    estimates = []
    for seed in range(5):
        sample = draw_sample(world.change, total=600, allocation="neyman", seed=seed)
        assert sample.expected == drawn.expected
        found = estimate(filled(world, sample), world.change).new_built
        assert found is not None
        estimates.append(found.ha.se)
    assert np.mean(estimates) == pytest.approx(expected.se_ha, rel=0.4)


def filled(world: World, sample: Sample, kind: str = "classes") -> Sample:
    """The sample with true answers in its own columns."""
    answers = world.answers(sample, kind)
    table = sample.table.copy()
    for column in ("answer", *sample.class_columns):
        if column in answers:
            table[column] = answers[column]
    return Sample(sample.design, sample.grid, sample.scheme, table)


def test_target_error_sets_the_size(world):
    drawn = draw_sample(world.change, target_se=0.01, allocation="neyman")
    loose = draw_sample(world.change, target_se=0.02, allocation="neyman")
    assert len(drawn) > 2 * len(loose)
    # Neyman here serves new built-up land, so overall accuracy comes out a little worse than asked.
    assert drawn.expected_accuracy_se == pytest.approx(0.01, rel=0.5)
    labels = make_labels(world)
    assert draw_sample(labels, target_se=0.01, allocation="neyman").expected_accuracy_se == pytest.approx(
        0.01, rel=0.05
    )


def test_too_few_tiles_are_advised_against(world):
    assert "'Stable open land'" in " ".join(draw_sample(world.change, per_stratum=10).advice)
    assert not draw_sample(world.change, total=len(world.change)).advice


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"per_stratum": 0}, "at least one tile"),
        ({"total": 0}, "at least one tile"),
        ({"total": 5}, "too few for 6 strata"),
        ({"total": 500, "target_se": 0.01}, "both say how many"),
        ({"target_se": 0.9}, "impossible"),
        ({"kind": "systematic"}, "unknown design 'systematic'"),
        ({"kind": "random", "total": 1}, "--total 2"),
        ({"allocation": "best"}, "unknown allocation"),
        ({"expected": {"New built": 0.7}}, "no stratum 'New built'"),
        ({"expected": {NEW_BUILT: 70}}, "between 0 and 1"),
    ],
)
def test_wishes_that_cannot_be_met(world, wishes, words):
    with pytest.raises(ChangeError, match=words):
        draw_sample(world.change, **wishes)


def test_expected_accuracies_are_read(tmp_path):
    path = csv(pd.DataFrame({"stratum": ["A=B", " C "], "accuracy": [0.7, 0.9]}), tmp_path / "expected.csv")
    assert read_expected(["New built-up=0.7", str(path)]) == {NEW_BUILT: 0.7, "A=B": 0.7, "C": 0.9}
    for wrong in (
        "New built-up=most",
        str(tmp_path / "none.csv"),
        str(csv(pd.DataFrame({"a": [1]}), tmp_path / "b.csv")),
    ):
        with pytest.raises(ChangeError, match="cannot be read; give NAME=SHARE"):
            read_expected([wrong])


# ---- the file


def test_the_sample_is_a_layer_that_takes_answers(world, drawn, tmp_path):
    path = tmp_path / "sample.gpkg"
    write_sample(drawn, path)
    frame = pyogrio.read_dataframe(path, layer="sample")
    assert frame.columns.tolist() == [
        "order", "sample_id", "tile_id", "stratum", "map_2010", "map_2016", "map_2022-07-14", "chance", "weight",
        "ground_ha", "answer", "class_2010", "class_2016", "class_2022-07-14", "reviewer", "note", "geometry",
    ]  # fmt: skip
    assert frame["order"].tolist() == list(range(1, len(drawn) + 1))
    assert frame.crs.to_epsg() == 26919
    place = world.at(drawn)[0]
    column, row = int(world.change.series.columns[place]), int(world.change.series.rows[place])
    assert frame.geometry[0].bounds == pytest.approx(GRID.bounds(column, row))
    assert frame["answer"].isna().all() and frame["class_2010"].isna().all()
    # Text can be put in the empty columns and comes back.
    frame.loc[0, "class_2010"] = "Forest"
    assert pyogrio.read_info(path, layer="sample")["dtypes"].tolist().count("object") >= 9
    back = read_sample(path)
    assert back.design == drawn.design and back.tile_ids == drawn.tile_ids


def test_answers_are_not_overwritten(drawn, tmp_path):
    write_sample(drawn, tmp_path / "sample.gpkg")
    with pytest.raises(OutputError, match="exists and is kept"):
        write_sample(drawn, tmp_path / "sample.gpkg")
    write_sample(drawn, tmp_path / "sample.gpkg", overwrite=True)


def rewrite(path: Path, edit, texts=None) -> Path:
    """Edit the sample's table as a GIS would, keeping its metadata unless `texts` are given."""
    info = pyogrio.read_info(path, layer="sample")["layer_metadata"]
    frame = edit(pyogrio.read_dataframe(path, layer="sample"))
    path.unlink()
    pyogrio.write_dataframe(frame, path, layer="sample", driver="GPKG", layer_metadata=info if texts is None else texts)
    return path


def test_samples_that_were_not_drawn_by_design_are_refused(drawn, map_path, tmp_path):
    path = tmp_path / "sample.gpkg"

    def fresh() -> Path:
        write_sample(drawn, path, overwrite=True)
        return path

    with pytest.raises(ChangeError, match="there is no file"):
        read_sample(tmp_path / "none.gpkg")
    (tmp_path / "text.gpkg").write_text("no database")
    with pytest.raises(ChangeError, match="cannot be read"):
        read_sample(tmp_path / "text.gpkg")
    with pytest.raises(ChangeError, match="no layer 'sample', so it was not drawn by design"):
        read_sample(map_path)
    with pytest.raises(ChangeError, match="does not say how its tiles were drawn"):
        read_sample(rewrite(fresh(), lambda frame: frame, {}))
    with pytest.raises(ChangeError, match="no longer holds the tiles that were drawn"):
        read_sample(rewrite(fresh(), lambda frame: frame.iloc[1:]))
    with pytest.raises(ChangeError, match="no longer holds the tiles that were drawn"):
        read_sample(rewrite(fresh(), lambda frame: pd.concat([frame, frame.iloc[:1]])))
    with pytest.raises(ChangeError, match="is damaged"):
        read_sample(rewrite(fresh(), lambda frame: frame.drop(columns="order")))
    # Another order of rows, as a GIS may save them, is no harm; a lost stratum column neither.
    shuffled = rewrite(fresh(), lambda frame: frame.sample(frac=1, random_state=1).drop(columns="stratum"))
    assert read_sample(shuffled).tile_ids == drawn.tile_ids


# ---- answers


def test_answers_from_the_page_and_from_the_file_are_the_same(world, drawn, tmp_path):
    path = csv(world.answers(drawn), tmp_path / "ann.csv")
    from_csv = estimate(drawn, world.change, answers=[path])
    inside = estimate(filled(world, drawn), world.change)
    assert from_csv.new_built == inside.new_built
    assert from_csv.assessment.counts.tolist() == inside.assessment.counts.tolist()
    text = path.read_text()
    path.write_text("\ufeff" + text.replace(",", ";"), encoding="utf-8")  # as a German Excel saves it
    assert estimate(drawn, world.change, answers=[path]).new_built == inside.new_built


def test_y_or_n_gives_the_same_hectares_and_two_classes(world, drawn):
    classes = estimate(filled(world, drawn), world.change)
    short = estimate(filled(world, drawn, "y/n"), world.change)
    assert short.legend == (NEW_BUILT, "Not new built-up")
    assert short.new_built == classes.new_built
    assert short.net_built is None and not short.by_date and not short.transitions
    new = classes.legend.index(NEW_BUILT)
    assert short.assessment.users[0].value == pytest.approx(classes.assessment.users[new].value)
    assert short.assessment.producers[0].se == pytest.approx(classes.assessment.producers[new].se)


def test_reviewers_are_joined_by_majority(world, drawn, tmp_path):
    truth = world.answers(drawn, "y/n")
    flip = {"y": "n", "n": "y"}
    tables = [truth.copy() for _ in range(3)]
    for name, table in zip(("Ann", "Ben", "Cem"), tables, strict=True):
        table["reviewer"] = name
    for table, row in ((tables[0], 0), (tables[1], 1), (tables[2], 2)):
        table.loc[row, "answer"] = flip[table.loc[row, "answer"]]  # each errs once, and is outvoted
    tables[2].loc[3, "answer"] = "?"
    tables[1].loc[3, "answer"] = flip[tables[1].loc[3, "answer"]]  # one against one
    for table in tables:
        table.loc[4, "answer"] = "?"
        table.loc[5:, "answer"] = table.loc[5:, "answer"].where(table.index[5:] < len(table) - 1, "")
    paths = [csv(table, tmp_path / f"{k}.csv") for k, table in enumerate(tables)]
    answers = combine(drawn, read_votes(drawn, Path("sample.gpkg"), paths))
    assert answers.status[:6].tolist() == [KNOWN, KNOWN, KNOWN, TIED, UNSURE, KNOWN]
    assert answers.status[-1] == MISSING
    known = answers.status == KNOWN
    assert (answers.new_built == world.new_built[world.at(drawn)])[known].all()
    assert answers.reviewers == ("Ann", "Ben", "Cem")
    pair = answers.agreements[0]
    assert (pair.first, pair.second) == ("Ann", "Ben")
    both = [(a, b) for a, b in zip(tables[0]["answer"], tables[1]["answer"], strict=True) if {a, b} <= {"y", "n"}]
    left, right = zip(*both, strict=True)
    assert pair.tiles == len(both)
    assert pair.kappa == pytest.approx(sklearn.metrics.cohen_kappa_score(left, right))
    assert pair.agreed == pytest.approx(np.mean([a == b for a, b in both]))
    found = estimate(drawn, world.change, answers=paths)
    assert len(found.tied) == len(found.unsure) == len(found.missing) == 1
    said = " ".join(found.warnings)
    assert "could not be told" in said and "tie between reviewers" in said and "have no answer" in said


def test_classes_of_dates_in_between_are_optional(world, drawn, tmp_path):
    table = world.answers(drawn)
    table.loc[3, "class_2016"] = ""
    table.loc[4, "class_2016"] = "?"
    found = estimate(drawn, world.change, answers=[csv(table, tmp_path / "a.csv")])
    assert [date for date, _ in found.by_date] == ["2010", "2022-07-14"]
    assert len(found.unsure) == 0
    table.loc[4, "class_2010"] = "?"
    assert len(estimate(drawn, world.change, answers=[csv(table, tmp_path / "a.csv")]).unsure) == 1


def test_mixed_answers_fall_back_to_y_or_n(world, drawn, tmp_path):
    table = world.answers(drawn)
    table["answer"] = np.where(world.new_built[world.at(drawn)], "y", "n")
    table.loc[0, list(drawn.class_columns)] = ""
    found = estimate(drawn, world.change, answers=[csv(table, tmp_path / "a.csv")])
    assert found.legend == (NEW_BUILT, "Not new built-up")
    assert any("y or n only" in text for text in found.warnings)
    # A page where only the last date got its class says no more than y or n does.
    table = table.assign(class_2010="")
    assert estimate(drawn, world.change, answers=[csv(table, tmp_path / "a.csv")]).new_built == found.new_built


def with_row(table: pd.DataFrame, **values: str) -> pd.DataFrame:
    table = table.copy()
    for column, value in values.items():
        table.loc[7, column] = value
    return table


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda t: with_row(t, tile_id="26919_224_1_1"), "was not drawn; remove the row"),
        (lambda t: with_row(t, sample_id="0123456789abcdef"), "has answers of sample 0123456789abcdef"),
        (lambda t: with_row(t, sample_id=""), r"has answers of sample \(none\)"),
        (lambda t: t.assign(purpose="candidates"), "ranked candidates"),
        (lambda t: t.drop(columns="sample_id"), "does not say of which sample"),
        (lambda t: t.drop(columns="tile_id"), "no table of answers"),
        (lambda t: t[["sample_id", "tile_id", "note"]], "no table of answers"),
        (lambda t: with_row(t, answer="maybe"), "unknown answer 'maybe'"),
        (lambda t: with_row(t, class_2010="Woodland"), "unknown class 'Woodland'; give one of Water"),
        (lambda t: with_row(t, class_2010=""), "class_2010 is empty"),
        (
            lambda t: with_row(t, answer="y", **{"class_2010": "Water", "class_2022-07-14": "Water"}),
            "not newly built-up",
        ),
        (lambda t: pd.concat([t, with_row(t, class_2010="?").iloc[7:8]]), "two different answers"),
        (lambda t: t.assign(**dict.fromkeys(("class_2010", "class_2016", "class_2022-07-14"), "")), "no answers yet"),
        (lambda t: t.drop(index=7), r"1 tiles were skipped \("),
    ],
)
def test_bad_answers_are_refused(world, drawn, tmp_path, edit, words):
    path = csv(edit(world.answers(drawn)), tmp_path / "answers.csv")
    with pytest.raises(ChangeError, match=words) as error:
        estimate(drawn, world.change, answers=[path])
    assert "\n" not in str(error.value)


def test_files_that_are_no_answers_are_refused(world, drawn, tmp_path):
    with pytest.raises(ChangeError, match="there is no file"):
        estimate(drawn, world.change, answers=[tmp_path / "none.csv"])
    (tmp_path / "picture.csv").write_bytes(bytes(range(256)) * 4)
    with pytest.raises(ChangeError, match="not in UTF-8"):
        estimate(drawn, world.change, answers=[tmp_path / "picture.csv"])
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ChangeError, match="cannot be read"):
        estimate(drawn, world.change, answers=[tmp_path / "empty.csv"])
    with pytest.raises(ChangeError, match="no answers yet"):
        estimate(drawn, world.change)


# ---- the estimate


def test_a_census_is_the_truth_without_error(world):
    small = make_world(1, 20, 15)
    everything = filled(small, draw_sample(small.change, total=10_000, kind="stratified"))
    assert len(everything) == len(small.change)
    found = estimate(everything, small.change)
    assert found.new_built is not None and found.net_built is not None
    assert found.new_built.ha.value == pytest.approx(float(small.ground_ha[small.new_built].sum()))
    assert found.new_built.ha.se == 0
    assert found.new_built.mapped_ha == pytest.approx(float(small.ground_ha[small.change.new_built].sum()))
    for (date, areas), t in zip(found.by_date, range(3), strict=True):
        assert date == DATES[t]
        truth = np.bincount(small.truth[:, t], weights=small.ground_ha, minlength=6)
        assert [area.ha.value for area in areas] == pytest.approx(truth)
    gained = found.by_date[-1][1][BUILT].ha.value - found.by_date[0][1][BUILT].ha.value
    assert found.net_built.ha.value == pytest.approx(gained)
    forest = next(area for area in found.transitions if area.name == "Forest → Developed")
    moved = (small.truth[:, 0] == FOREST) & (small.truth[:, -1] == BUILT)
    assert forest.ha.value == pytest.approx(float(small.ground_ha[moved].sum()))


@pytest.mark.parametrize("by", strata.STRATA_BY)
def test_whatever_the_strata_the_truth_is_covered_and_shares_add_up(world, by):
    truth = float(world.ground_ha[world.new_built].sum())
    covered = []
    for seed in range(6):
        sample = draw_sample(world.change, total=600, allocation="proportional", strata=by, seed=seed)
        found = estimate(filled(world, sample), world.change)
        assert found.new_built is not None
        covered.append(abs(found.new_built.ha.value - truth) <= found.new_built.ha.half)
        assert found.assessment.proportions.sum() == pytest.approx(1)
        assert sum(area.ha.value for area in found.areas) == pytest.approx(world.ground_ha.sum())
    assert sum(covered) >= 4


def test_random_designs_and_post_strata(world):
    truth = float(world.ground_ha[world.new_built].sum())
    plain, post = [], []
    for seed in range(5):
        sample = filled(world, draw_sample(world.change, total=600, kind="random", strata="kind", seed=seed))
        found = estimate(sample, world.change)
        assert [item.name for item in found.strata] == ["All tiles"]
        weighed = estimate(sample, world.change, post_stratify=True)
        assert len(weighed.strata) > 1 and weighed.post_stratified
        assert found.new_built is not None and weighed.new_built is not None
        plain.append(found.new_built.ha)
        post.append(weighed.new_built.ha)
    assert sum(abs(n.value - truth) <= n.half for n in plain) >= 3
    assert sum(abs(n.value - truth) <= n.half for n in post) >= 3
    assert np.mean([n.se for n in post]) < np.mean([n.se for n in plain])


def test_one_map_is_estimated_by_class(world, tmp_path):
    labels = make_labels(world)
    write_gpkg(labels, tmp_path / "county.gpkg")
    sample = draw_sample(tmp_path / "county.gpkg", per_stratum=60)
    assert sample.design.strata_by == "class" and sample.class_columns == ("reference",)
    assert "answer" not in sample.table
    names = np.array(SCHEME.names, dtype=object)
    table = pd.DataFrame(
        {
            "sample_id": sample.design.sample_id,
            "tile_id": sample.tile_ids,
            "reference": names[world.truth[world.at(sample), -1]],
        }
    )
    found = estimate(sample, labels, answers=[csv(table, tmp_path / "a.csv")])
    assert found.legend == SCHEME.names and found.new_built is None and found.net_built is None
    assert sentence(found).startswith("Overall accuracy: ")
    truth = np.bincount(world.truth[:, -1], weights=world.ground_ha, minlength=6)
    built = found.areas[BUILT]
    assert abs(built.ha.value - truth[BUILT]) < 2 * built.ha.half + 1
    with pytest.raises(ChangeError, match=r"not kind; name the change\.gpkg that is meant, or leave out --strata"):
        draw_sample(tmp_path / "county.gpkg", strata="kind")
    with pytest.raises(ChangeError, match="an answer on change"):
        estimate(sample, labels, answers=[csv(table.assign(answer="y"), tmp_path / "b.csv")])


def test_an_unfinished_review_counts_as_far_as_it_goes(world):
    drawn = draw_sample(world.change, per_stratum=60, seed=3)
    table = filled(world, drawn).table
    columns = list(drawn.class_columns)
    part = table.copy()
    part.loc[len(part) * 2 // 3 :, columns] = None
    found = estimate(Sample(drawn.design, GRID, SCHEME, part), world.change)
    assert len(found.missing) == len(part) - len(part) * 2 // 3
    assert any("random part" in text for text in found.warnings)
    assert found.new_built is not None
    assert abs(found.new_built.ha.value - world.ground_ha[world.new_built].sum()) < 2 * found.new_built.ha.half
    skipped = table.copy()
    skipped.loc[[3, 9], columns] = None
    gappy = Sample(drawn.design, GRID, SCHEME, skipped)
    with pytest.raises(
        ChangeError, match=f"2 tiles were skipped .{drawn.tile_ids[3]}, {drawn.tile_ids[9]}.; answer them"
    ):
        estimate(gappy, world.change)
    assert len(estimate(gappy, world.change, allow_missing=True).missing) == 2


def test_a_stratum_without_answers_is_refused(world, drawn):
    table = filled(world, drawn).table
    here = np.flatnonzero(table["stratum"] == "Stable other")
    for keep in (0, 1):
        part = table.copy()
        part.loc[here[keep:], list(drawn.class_columns)] = None
        with pytest.raises(ChangeError, match=f"'Stable other' has {keep} usable answers.*answer more of its tiles"):
            estimate(Sample(drawn.design, GRID, SCHEME, part), world.change)
    few = filled(world, draw_sample(world.change, total=20, kind="random", seed=1))
    with pytest.raises(ChangeError, match="leave out --post-stratify"):
        estimate(few, world.change, post_stratify=True)
    with pytest.raises(ChangeError, match="stratified already"):
        estimate(filled(world, drawn), world.change, post_stratify=True)


def test_another_map_is_refused(world, drawn, map_path, tmp_path):
    for other in (make_world(2).change, make_world(0, 60, 49).change):
        with pytest.raises(ChangeError, match="not the map that the sample"):
            estimate(filled(world, drawn), other)
    with pytest.raises(ChangeError, match="there is no file"):
        estimate(filled(world, drawn), tmp_path / "none.gpkg")
    (tmp_path / "text.gpkg").write_text("no database")
    with pytest.raises(ChangeError, match="cannot be read"):
        draw_sample(tmp_path / "text.gpkg")
    write_sample(drawn, tmp_path / "sample.gpkg")
    with pytest.raises(ChangeError, match="no layer 'change' or 'landcover'"):
        draw_sample(tmp_path / "sample.gpkg")


def test_thin_evidence_is_named(world):
    sample = draw_sample(world.change, per_stratum=50, seed=8)
    said = " ".join(estimate(filled(world, sample), world.change).warnings)
    assert "the sensors differ" in said  # what the map says of itself is repeated
    assert "of stratum 'Stable open land'" in said


# ---- words and files


def test_the_json_says_everything_in_plain_values(world, drawn, tmp_path):
    found = estimate(filled(world, drawn), world.change)
    write_estimate(found, tmp_path / "estimate.json")
    with pytest.raises(OutputError, match="exists"):
        write_estimate(found, tmp_path / "estimate.json")
    told = json.loads((tmp_path / "estimate.json").read_text())
    assert found.new_built is not None
    new = told["new_built"]
    assert new["area_ha"] == pytest.approx(found.new_built.ha.value)
    assert new["half_ha"] == pytest.approx(1.96 * new["se_ha"])
    assert 0 <= new["low_ha"] <= new["area_ha"] <= new["high_ha"] <= told["total_ha"]
    assert told["sentence"].startswith("New built-up land, 2010 to 2022-07-14: ")
    assert f"{new['area_ha']:,.0f} ha ± {new['half_ha']:,.0f} ha (95 %)" in told["sentence"]
    assert np.sum(told["matrix"]["proportions"]) == pytest.approx(1)
    assert np.sum(told["matrix"]["counts"]) == sum(item["counted"] for item in told["strata"]) == len(drawn)
    assert told["design"]["sample_id"] == drawn.design.sample_id
    assert "5.02 ha" in told["unit"]
    low, high = told["new_built_cautious_ha"]
    assert low < new["area_ha"] < high and f"{low:,.0f} to {high:,.0f} ha" in told["caution"]
    assert list(told["by_date"]) == list(DATES)
    assert to_dict(found)["warnings"] == found.warnings


def test_the_command_line_goes_from_map_to_hectares(world, map_path, tmp_path):
    path, out = tmp_path / "sample.gpkg", tmp_path / "estimate.json"
    text = run(sample_cli.command, map_path, "--per-stratum", 60, "-o", path, "--seed", 7)
    assert "New built-up land" in text and "standard error" in text and "overall accuracy" in text
    sample = read_sample(path)
    assert sample.tile_ids == draw_sample(world.change, per_stratum=60, seed=7).tile_ids
    rewrite(path, lambda frame: frame.assign(**{c: filled(world, sample).table[c] for c in sample.class_columns}))
    text = run(estimate_cli.command, path, "--map", map_path, "-o", out)
    told = json.loads(out.read_text())
    assert told["sentence"] in text.replace("\n", " ")
    truth = float(world.ground_ha[world.new_built].sum())
    assert told["new_built"]["low_ha"] < truth < told["new_built"]["high_ha"]
    assert "producer's accuracy" in text
    with pytest.raises(OutputError, match="exists"):
        run(sample_cli.command, map_path, "-o", path)
    with pytest.raises(OutputError, match="exists"):
        run(estimate_cli.command, path, "--map", map_path, "-o", out)
    run(estimate_cli.command, path, "--map", map_path, "-o", out, "--overwrite")


def test_two_reviewers_on_the_command_line(world, map_path, tmp_path):
    path = tmp_path / "sample.gpkg"
    options = ["--allocation", "neyman", "--total", 300, "--strata", "transition", "--min-per-stratum", 5]
    run(sample_cli.command, map_path, "-o", path, *options)
    sample = read_sample(path)
    first, second = world.answers(sample, "y/n", "A[red]nn"), world.answers(sample, "y/n", "Ben")
    second.loc[0, "answer"] = "?"
    paths = [csv(first, tmp_path / "1.csv"), csv(second, tmp_path / "2.csv")]
    text = run(estimate_cli.command, path, "--map", map_path, "--answers", paths[0], "--answers", paths[1])
    assert f"A[red]nn and Ben agree on 100% of {len(sample) - 1} tiles, kappa 1.00" in text
    with pytest.raises(GeoclassError, match="no answers yet"):
        run(estimate_cli.command, path, "--map", map_path)


def test_choices_of_the_command_line_are_the_librarys():
    assert sample_cli.ALLOCATIONS == design.ALLOCATIONS
    assert sample_cli.STRATA_BY == strata.STRATA_BY


def test_awkward_names_survive(tmp_path):
    scheme = ClassScheme(
        name="awkward",
        classes=(
            LandClass(id=1, name='Wald/"Gebüsch", <50%', colour="#004528"),
            LandClass(id=2, name="Siedlung [dicht]; neu", colour="#cc4c12"),
        ),
        groups={"built": ("Siedlung [dicht]; neu",)},
    )
    count = 100
    columns, rows = cells(TileRange(0, 0, 10, 10))
    random = np.random.default_rng(0)
    posterior = random.dirichlet(np.ones(2), (count, 2)).astype(np.float32)
    p_new = posterior[:, 0, 0] * posterior[:, 1, 1]
    none = np.zeros(0, np.int64)
    series = Series(
        GRID, scheme, ("2010", "2016"), columns, rows, posterior, np.ones((count, 2), np.float32),
        (Source(None, {}), Source(None, {})), Uncovered(none, none, np.zeros((0, 2), bool)),
        built=(scheme.names[1],), open=(scheme.names[0],),
    )  # fmt: skip
    change = Change(series, Prior(np.ones(2) / 2, np.ones((1, 2, 2)) / 2), posterior, p_new, p_new, 0.5)
    sample = draw_sample(change, per_stratum=8, strata="transition")
    write_sample(sample, tmp_path / "s.gpkg")
    back = read_sample(tmp_path / "s.gpkg")
    table = pd.DataFrame({"sample_id": back.design.sample_id, "tile_id": back.tile_ids})
    for date in ("2010", "2016"):
        table[f"class_{date}"] = back.table[f"map_{date}"]
    found = estimate(tmp_path / "s.gpkg", change, answers=[csv(table, tmp_path / "a.csv")])
    assert found.assessment.overall.value == pytest.approx(1)
