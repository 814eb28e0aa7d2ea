"""The road from results to a trend: files and their contract, the command's words, and everything bad input can cause."""

import json
import sqlite3
from dataclasses import replace

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
from click.testing import CliRunner
from playwright.sync_api import sync_playwright
from sklearn.metrics import average_precision_score

import geoclass
from geoclass.change import change
from geoclass.cli import main
from geoclass.grid import TileGrid, TileRange, cells
from geoclass.labels import Labels
from geoclass.outputs.preview import write_preview
from geoclass.outputs.vector import write_gpkg
from geoclass.schemes import load_scheme
from geoclass.smoothing import smooth

SCHEME = load_scheme("rsscn7")
SIDE = 20
DATES = ("2010", "2016", "2022")
NEW = 14
"""Tiles that turn from field to houses between the first two dates."""


def county(seed=0, dates=DATES, shift=None):
    """Labels of each date of a county of 20 × 20 tiles, and its true classes (N, T).

    shift: added to the log-odds of one class on the last date, as a cast of its colours would.
    """
    random = np.random.default_rng(seed)
    columns, rows = cells(TileRange(1400, 20900, 1400 + SIDE, 20900 + SIDE))
    names = ["Field", "Forest", "Resident", "RiverLake"]
    patches = random.integers(0, len(names), (SIDE // 4, SIDE // 4)).repeat(4, 0).repeat(4, 1).ravel()
    first = np.array([SCHEME.index(names[k]) for k in patches])
    later = first.copy()
    later[random.permutation(np.flatnonzero(first == SCHEME.index("Field")))[:NEW]] = SCHEME.index("Resident")
    truth = np.stack([first, *[later] * (len(dates) - 1)], axis=1)
    found = []
    for t, date in enumerate(dates):
        logits = random.normal(0, 1.3, (len(columns), len(SCHEME)))
        logits[np.arange(len(columns)), truth[:, t]] += 4.5
        if shift and t == len(dates) - 1:
            logits[:, SCHEME.index(shift)] += 6
        values = np.exp(logits - logits.max(axis=1, keepdims=True))
        found.append(
            Labels(
                TileGrid("EPSG:26919"), SCHEME, columns, rows,
                (values / values.sum(axis=1, keepdims=True)).astype(np.float32), np.ones(len(columns), np.float32),
                random.integers(60, 190, (len(columns), 8, 8, 3)).astype(np.uint8),
                {"name": f"county_{date}", "date": date, "sensor": "rgb8", "bundle": "b", "inputs": [f"{date}.tif"]},
            )
        )  # fmt: skip
    return found, truth


def write(folder, labels, name):
    path = folder / f"{name}.gpkg"
    write_gpkg(labels, path)
    if labels.thumbnails is not None:
        write_preview(labels, path.with_suffix(".preview.tif"))
    return path


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Results of three dates in files, and the truth by tile id."""
    folder = tmp_path_factory.mktemp("results")
    found, truth = county()
    paths = [write(folder, one, date) for one, date in zip(found, DATES, strict=True)]
    return paths, pd.DataFrame(truth, index=found[0].tile_ids, columns=DATES)


def run(*arguments):
    return CliRunner().invoke(main, [str(item) for item in arguments])


def refused(*arguments):
    """The one line that the command says, with exit code 2."""
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert done.output.startswith("geoclass: error: ") and done.output.count("\n") == 1, done.output
    return done.output


def test_the_files_and_columns_that_were_promised(three, tmp_path):
    paths, truth = three
    done = run("change", *paths, "-o", tmp_path / "trend")
    assert done.exit_code == 0, done.output
    folder = tmp_path / "trend"
    assert {path.name for path in folder.iterdir()} == {
        "change.gpkg", "change.json", "change.html", "report.html", "change.qgz", "review.html", "transitions.csv",
        "candidates.csv", "trend.csv", "trend.json",
    }  # fmt: skip
    frame = gpd.read_file(folder / "change.gpkg", layer="change")
    wanted = {"tile_id", "transition", "kind", "p_change", "p_new_built", "new_built"}
    wanted |= {f"class_{date}" for date in DATES} | {f"p_{name}_{date}" for name in SCHEME.names for date in DATES}
    assert wanted <= set(frame.columns) and set(frame["kind"]) <= {"stable", "sustained", "endpoint", "flicker"}
    assert len(frame) == SIDE**2 and frame.crs.to_epsg() == 26919
    for date in DATES:
        table = frame[[f"p_{name}_{date}" for name in SCHEME.names]].to_numpy()
        assert np.allclose(table.sum(axis=1), 1, atol=1e-5)
        assert (np.asarray(SCHEME.names)[table.argmax(axis=1)] == frame[f"class_{date}"]).all()
    summary = json.loads((folder / "change.json").read_text())
    assert summary["drift"]["verdict"] == "quiet" and summary["trend"]["dates"] == list(DATES)
    known = truth.loc[frame["tile_id"]]
    new = (known["2010"] != known["2022"]).to_numpy()
    assert average_precision_score(new, frame["p_new_built"]) > 0.95
    called = frame["new_built"].to_numpy().astype(bool)
    assert (called & new).sum() >= 0.8 * NEW and (called & ~new).sum() <= 2
    assert set(frame.loc[called & new, "kind"]) == {"sustained"}
    assert "newly built-up" in done.output


def test_joined_dates_flicker_less_than_single_ones(three):
    found = change(three[0])
    single, joined = found.change.series.classes, found.change.classes
    moves = [(one[:, 1:] != one[:, :-1]).sum() for one in (single, joined)]
    assert moves[1] < 0.5 * moves[0] and moves[1] >= 0.7 * NEW
    assert found.files == {} and found.trend is not None


def test_library_and_stored_change_agree(three, tmp_path):
    found = geoclass.change(three[0], out=tmp_path / "trend")
    stored = geoclass.read_change(tmp_path / "trend" / "change.gpkg")
    assert np.array_equal(stored.posterior, found.change.posterior)
    assert np.array_equal(stored.p_new_built, found.change.p_new_built)
    assert found.explore().get_root() is not None


def test_smoothed_results_give_the_evidence_of_their_model(three, tmp_path):
    paths, _ = three
    smoothed = [write(tmp_path, smooth(geoclass.read_result(path), "potts"), path.stem) for path in paths]
    plain, again = change(paths), change(smoothed)
    assert np.allclose(plain.change.p_new_built, again.change.p_new_built, atol=1e-5)


def test_an_existing_trend_is_kept_unless_asked(three, tmp_path):
    paths, _ = three
    assert run("change", *paths, "-o", tmp_path).exit_code == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert "exists and is kept" in refused("change", *paths, "-o", tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert run("change", *paths[:2], "-o", tmp_path, "--overwrite").exit_code == 0
    assert json.loads((tmp_path / "change.json").read_text())["dates"] == list(DATES[:2])
    assert not list(tmp_path.glob(".change-*"))


def test_a_drift_withholds_the_trend_and_removes_an_older_one(three, tmp_path):
    shifted, _ = county(shift="Forest")
    paths = [write(tmp_path, one, f"r{date}") for one, date in zip(shifted, DATES, strict=True)]
    assert run("change", *three[0], "-o", tmp_path / "trend").exit_code == 0
    done = run("change", *paths, "-o", tmp_path / "trend", "--no-correct", "--overwrite")
    assert done.exit_code == 0 and "no trend is told" in done.output and "--max-change" in done.output
    names = {path.name for path in (tmp_path / "trend").iterdir()}
    assert names == {"change.gpkg", "change.json", "change.html", "report.html", "change.qgz"}
    summary = json.loads((tmp_path / "trend" / "change.json").read_text())
    assert summary["drift"]["verdict"] == "withheld" and summary["trend"] is None
    told = run("change", *paths, "-o", tmp_path / "told", "--no-correct", "--force")
    assert told.exit_code == 0 and (tmp_path / "told" / "candidates.csv").is_file()
    assert "on demand" in (tmp_path / "told" / "report.html").read_text()


def test_new_class_priors_are_tried_where_the_imagery_is_gone(tmp_path):
    shifted, _ = county(dates=DATES[:2], shift="Grass")
    found = change([write(tmp_path, one, date) for one, date in zip(shifted, DATES, strict=False)], max_change=0.05)
    assert found.drift.corrections and "class shares brought" in found.drift.corrections[0].words
    assert found.drift.corrections[0].after.distance < found.drift.corrections[0].before.distance
    assert any("class shares" in text for text in found.change.series.warnings)


def test_areas_of_interest(three, tmp_path):
    side = 224
    half = gpd.GeoDataFrame(
        {"town": ["West", "East"], "people10": [100, 50], "people22": [120, 50]},
        geometry=gpd.GeoSeries.from_wkt(
            [
                f"POLYGON(({x} {20900 * side},{x + 10 * side} {20900 * side},{x + 10 * side} {20920 * side},{x} {20920 * side},"
                f"{x} {20900 * side}))"
                for x in (1400 * side, 1410 * side)
            ]
        ),
        crs="EPSG:26919",
    )
    half.to_crs("EPSG:4326").to_file(tmp_path / "towns.geojson")
    options = ["--aoi", tmp_path / "towns.geojson", "--aoi-name", "town"]
    people = "2010=people10,2022=people22"
    done = run("change", *three[0], "-o", tmp_path / "t", *options, "--population", people)
    assert done.exit_code == 0, done.output
    table = pd.read_csv(tmp_path / "t" / "trend.csv", dtype={"date": str})
    mapped = table[(table["level"] == "class")].groupby(["area", "date"])["mapped_ha"].sum()
    assert mapped["West", "2016"] == pytest.approx(mapped["all", "2016"] / 2, rel=1e-3)
    assert "West" in (tmp_path / "t" / "report.html").read_text()
    assert {"change", "candidates"} <= {str(name) for name, _ in pyogrio.list_layers(tmp_path / "t" / "change.gpkg")}
    assert "no column 'city'" in refused("change", *three[0], "-o", tmp_path / "u", *options[:2], "--aoi-name", "city")
    assert "no column" in refused("change", *three[0], "-o", tmp_path / "u", *options, "--population", "2010=x")
    assert "is not understood" in refused("change", *three[0], "-o", tmp_path / "u", *options, "--population", "x")
    far = half.translate(xoff=1e6)
    gpd.GeoDataFrame({"name": ["a", "b"]}, geometry=far, crs=half.crs).to_file(tmp_path / "far.gpkg")
    assert "none of the areas" in refused("change", *three[0], "-o", tmp_path / "u", "--aoi", tmp_path / "far.gpkg")


def test_tiles_that_a_date_lacks_are_told(three, tmp_path):
    found, _ = county()
    cut = [replace(one, **{name: getattr(one, name)[k:] for name in
           ("columns", "rows", "probabilities", "valid_fraction", "thumbnails")}) for k, one in zip((0, 40, 0), found, strict=True)]  # fmt: skip
    paths = [write(tmp_path, one, date) for one, date in zip(cut, DATES, strict=True)]
    done = run("change", *paths, "-o", tmp_path / "t")
    assert done.exit_code == 0 and "40 of 400 tiles are not covered on every date" in done.output.replace("\n", " ")
    assert len(gpd.read_file(tmp_path / "t" / "change.gpkg", layer="uncovered")) == 40
    assert "not covered" in (tmp_path / "t" / "report.html").read_text()


def test_bad_input_is_one_line_and_leaves_nothing(three, tmp_path):
    paths, _ = three
    out = tmp_path / "t"
    first, second = paths[0], paths[1]
    assert "two dates or more" in refused("change", first, "-o", out)
    assert "two dates or more" in refused("change", "-o", out)
    assert "there is no file" in refused("change", first, tmp_path / "no.gpkg", "-o", out)
    assert "name the oldest first" in refused("change", second, first, "-o", out)
    assert "are both of 2010" in refused("change", first, first, "-o", out)
    assert "is no date" in refused("change", first, second, "-o", out, "--date", "x", "--date", "2016")
    assert "for 2 results" in refused("change", first, second, "-o", out, "--date", "2010")
    assert "--reference 1999" in refused("change", first, second, "-o", out, "--reference", "1999")
    assert "give a number from 0 to 1" in refused("change", first, second, "-o", out, "--max-change", "2")
    assert "give a number from 0 to 1" in refused("change", first, second, "-o", out, "--threshold", "-1")
    assert "has no class 'Castle'" in refused("change", first, second, "-o", out, "--built", "Castle")
    assert "does not say where class" in refused("change", first, second, "-o", out, "--group", "nlcd3")
    assert "cannot be read as an estimate" in refused("change", first, second, "-o", out, "--estimate", first)
    undated = write(tmp_path, replace(county()[0][1], info={"name": "undated"}), "undated")
    assert "has no date" in refused("change", first, undated, "-o", out)
    broken = tmp_path / "broken.gpkg"
    broken.write_bytes(first.read_bytes()[:40_000])
    assert "broken.gpkg" in refused("change", first, broken, "-o", out)
    with sqlite3.connect(write(tmp_path, county()[0][1], "edited")) as database:
        for (trigger,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f'DROP TRIGGER "{trigger}"')  # they call functions that only GDAL has
        database.execute("UPDATE landcover SET p_Field = NULL WHERE rowid = 3")
    assert "edited.gpkg is damaged" in refused("change", first, tmp_path / "edited.gpkg", "-o", out)
    (tmp_path / "file").write_text("here")
    assert "cannot write" in refused("change", first, second, "-o", tmp_path / "file")
    assert not out.exists()


def test_inputs_are_never_replaced(three, tmp_path):
    paths, _ = three
    own = write(tmp_path, county()[0][0], "change")
    before = own.read_bytes()
    assert "is an input" in refused("change", own, paths[1], "-o", tmp_path, "--overwrite")
    assert run("change", *paths, "-o", tmp_path / "t").exit_code == 0
    map_ = tmp_path / "t" / "change.gpkg"
    assert "is an input" in refused("sample", map_, "-o", map_, "--overwrite")
    assert "ends in .gpkg" in refused("sample", map_, "-o", tmp_path / "s.csv")
    sample = tmp_path / "s.gpkg"
    assert run("sample", map_, "-o", sample, "--no-page").exit_code == 0
    assert "is an input" in refused("estimate", sample, "--map", map_, "-o", sample, "--overwrite")
    (tmp_path / "t" / "trend.csv").unlink()
    (tmp_path / "t" / "trend.csv").mkdir()
    kept = map_.read_bytes()
    assert "is a folder" in refused("change", *paths, "-o", tmp_path / "t", "--overwrite")
    assert map_.read_bytes() == kept and own.read_bytes() == before


def test_an_image_of_other_ground_is_no_trend(tmp_path):
    found, _ = county(dates=DATES[:2])
    order = np.random.default_rng(0).permutation(len(found[1]))
    moved = replace(found[1], probabilities=found[1].probabilities[order])
    paths = [write(tmp_path, one, name) for one, name in ((found[0], "a"), (moved, "b"))]
    done = run("change", *paths, "-o", tmp_path / "t")
    assert done.exit_code == 0 and "same ground" in done.output and "no trend is told" in done.output


def test_remedies_build_on_each_other_and_may_fail(three, monkeypatch):
    road = geoclass.change  # the function; its module's names are its globals
    shifted, _ = county(dates=DATES[:2], shift="Forest")
    paths = three[0]
    series = road.__globals__["align"]([shifted[0], shifted[1]], paths=paths[:2])
    guard, options = road.__globals__["guard"], road.__globals__["Options"]
    seen = []

    def two(now, date, *_):
        def fails(_):
            raise geoclass.GeoclassError("gone")

        def marks(state):
            return state.probabilities[:, date] * 0.3 + state.probabilities[:, 0] * 0.7

        def looks(state):
            seen.append(state.probabilities[:, date].copy())
            return state.probabilities[:, 0]

        yield "not possible", fails
        yield "marked", marks
        yield "looked", looks

    monkeypatch.setitem(road.__globals__, "_remedies", two)
    _, drift = guard(series, (), options(max_change=0.0))
    assert [item.words for item in drift.corrections] == ["marked", "looked"]
    assert np.allclose(seen[0], series.probabilities[:, 1] * 0.3 + series.probabilities[:, 0] * 0.7)


def test_an_estimate_of_another_map_is_refused(three, tmp_path):
    paths, _ = three
    other, _ = county(seed=9)
    theirs = [write(tmp_path, one, date) for one, date in zip(other, DATES, strict=True)]
    assert run("change", *theirs, "-o", tmp_path / "t").exit_code == 0
    map_, sample = tmp_path / "t" / "change.gpkg", tmp_path / "s.gpkg"
    assert run("sample", map_, "-o", sample, "--no-page").exit_code == 0
    drawn = gpd.read_file(sample, layer="sample")
    drawn[["sample_id", "tile_id"]].assign(answer="n").to_csv(tmp_path / "a.csv", index=False)
    assert (
        run("estimate", sample, "--map", map_, "--answers", tmp_path / "a.csv", "-o", tmp_path / "e.json").exit_code
        == 0
    )
    assert "of another map" in refused("change", *paths, "-o", tmp_path / "u", "--estimate", tmp_path / "e.json")
    (tmp_path / "bad.json").write_text('{"new_built": 5}')
    assert "cannot be read as an estimate" in refused(
        "change", *paths, "-o", tmp_path / "u", "--estimate", tmp_path / "bad.json"
    )


def test_fifty_tiles_reviewed_by_keyboard_become_hectares(three, tmp_path, chromium):
    """A sample is drawn, answered in a real browser from the truth, saved, and estimated; the truth lies in the interval."""
    paths, truth = three
    assert run("change", *paths, "-o", tmp_path / "t").exit_code == 0
    map_, sample = tmp_path / "t" / "change.gpkg", tmp_path / "sample.gpkg"
    done = run("sample", map_, "--total", "50", "--allocation", "neyman", "--min-per-stratum", "8", "-o", sample)
    assert done.exit_code == 0, done.output
    drawn = gpd.read_file(sample, layer="sample")
    assert len(drawn) == 50
    new = (truth["2010"] != truth["2022"]).to_dict()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(accept_downloads=True)
        said = []
        page.on("console", lambda message: said.append(message.text))
        page.goto((tmp_path / "sample.review.html").as_uri())
        page.fill("#reviewer", "Ann")
        page.keyboard.press("Escape")
        for tile in drawn.sort_values("order" if "order" in drawn else drawn.columns[0])["tile_id"]:
            page.keyboard.press("y" if new[tile] else "n")
        with page.expect_download() as waiting:
            page.keyboard.press("Control+s")
        waiting.value.save_as(tmp_path / "answers.csv")
        browser.close()
    assert said == []
    done = run(
        "estimate", sample, "--map", map_, "--answers", tmp_path / "answers.csv", "-o", tmp_path / "estimate.json"
    )
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "estimate.json").read_text())
    low, high = found["new_built_cautious_ha"]
    assert low <= NEW * 224**2 / 1e4 <= high
    told = run("change", *paths, "-o", tmp_path / "t", "--estimate", tmp_path / "estimate.json", "--overwrite")
    assert told.exit_code == 0, told.output
    assert "interval runs from" in (tmp_path / "t" / "report.html").read_text()
    assert run("estimate", sample, "--map", map_, "--answers", tmp_path / "answers.csv").exit_code == 0
