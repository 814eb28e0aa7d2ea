"""Scoring bundles and maps: the right tiles, the right numbers, and no tile that the model was trained on."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch
from click.testing import CliRunner, Result
from conftest import TEXTURE_PX as SIZE_PX
from PIL import Image
from rasterio.transform import from_origin
from shapely.geometry import box
from sklearn.metrics import accuracy_score

from geoclass.bundle import Bundle, load_bundle
from geoclass.classify import classify
from geoclass.cli import main
from geoclass.datasets.making import build_dataset
from geoclass.datasets.store import read_tiles
from geoclass.datasets.tileset import read_class_folders
from geoclass.errors import EvaluationError, GeoclassError
from geoclass.evaluation.assessment import assess, assess_result, pictures_of, predict_tiles
from geoclass.predict import Predictor
from geoclass.results import read_result
from geoclass.train import train, train_to_file

torch.set_num_threads(1)


CELLS = {"fine": 3, "middle": 6, "coarse": 11}


def write_fields(root: Path, count: int, seed: int = 0) -> Path:
    """Class folders of random smooth fields that differ in their grain. No two look alike, unlike regular patterns."""
    rng = np.random.default_rng(seed)
    for kind, cell in CELLS.items():
        (root / kind).mkdir(parents=True)
        for number in range(count):
            side = SIZE_PX // cell + 3
            small = Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8))
            field = small.resize((side * cell, side * cell), Image.Resampling.BICUBIC)
            field.crop((cell, cell, cell + SIZE_PX, cell + SIZE_PX)).save(root / kind / f"{number:03}.png")
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of fields, and a bundle trained on one of them."""
    root = tmp_path_factory.mktemp("made")
    write_fields(root / "county", 16)
    write_fields(root / "other", 10, seed=5)
    train_to_file(root / "county", root / "m.pt", size_px=SIZE_PX)
    return root


@pytest.fixture(scope="module")
def bundle(made: Path) -> Bundle:
    return load_bundle(made / "m.pt")


def geoclass(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments), "--device", "cpu"])


class TestScores:
    def test_class_folders(self, made, bundle):
        """Against the network asked picture by picture, and scikit-learn."""
        found = assess(made / "other", bundle, name="m")
        tiles = read_class_folders(made / "other", SIZE_PX)
        predictor = Predictor(bundle, bundle.meta.sensor, device=torch.device("cpu"))
        wanted = np.concatenate([predictor([tile]).probabilities for tile in tiles.read(np.arange(30))])
        assert found.scored.keys == tiles.keys and found.scored.truth.tolist() == tiles.classes.tolist()
        assert found.scored.probabilities == pytest.approx(wanted, abs=1e-4) and not found.leaked.any()
        assert found.scored.right.mean() == accuracy_score(tiles.classes, wanted.argmax(axis=1)) > 0.8
        assert found.scored.bundle == bundle.digest and found.clean is not None and len(found.clean) == 30
        assert "All tiles of the folders" in found.scored.split

    def test_folders_in_the_models_order(self, made, bundle, tmp_path):
        """Two of three classes, named in another spelling."""
        for old, new in (("middle", "MIDDLE"), ("coarse", "Coarse")):
            shutil.copytree(made / "other" / old, tmp_path / "t" / new)
        scored = assess(tmp_path / "t", bundle).scored
        assert scored.scheme.names == ("coarse", "fine", "middle")
        assert all(("Coarse" in key) == (truth == 0) for key, truth in zip(scored.keys, scored.truth, strict=True))
        assert scored.right.mean() > 0.8

    def test_pictures_for_the_galleries(self, made, bundle):
        found = assess(made / "other", bundle)
        pictures = pictures_of(found.tiles)
        keys = [found.scored.keys[k] for k in (7, 3)]
        for key, picture in zip(keys, pictures(keys), strict=True):
            assert np.array_equal(picture, np.asarray(Image.open(made / "other" / key)))
        assert pictures([]) == []

    def test_many_batches_say_the_same(self, made, bundle, monkeypatch):
        tiles = read_class_folders(made / "other", SIZE_PX)
        whole = predict_tiles(tiles, bundle)
        monkeypatch.setattr("geoclass.evaluation.assessment.BATCH", 7)
        seen: list[tuple[str, int, int]] = []
        assert predict_tiles(tiles, bundle, progress=lambda *step: seen.append(step)) == pytest.approx(whole, abs=1e-4)
        assert seen[0] == ("scoring", 7, 30) and seen[-1] == ("scoring", 30, 30)

    def test_a_model_of_other_bands_and_numbers(self, tmp_path):
        """Class folders tell no sensor: they are taken for what the model was trained on."""
        rng = np.random.default_rng(0)
        for folder in ("train", "test"):
            for level, kind in ((60, "bare"), (190, "green")):
                (tmp_path / folder / kind).mkdir(parents=True)
                for number in range(6):
                    pixels = (11 * rng.normal([[[120]], [[level]]], 15, (2, 48, 48)).clip(1, 254)).astype("uint16")
                    with rasterio.open(
                        tmp_path / folder / kind / f"{number}.tif", "w", driver="GTiff", count=2, height=48, width=48,
                        dtype="uint16", crs="EPSG:32619", transform=from_origin(0, 0, 10, 10),
                    ) as chip:  # fmt: skip
                        chip.write(pixels)
                        chip.descriptions = ("B04", "B08")
        trained = train(tmp_path / "train", sensor="sentinel2-l2a", bands=("red", "nir"), size_px=48)
        bundle = trained.save(tmp_path / "m.pt")
        found = assess(tmp_path / "test", bundle, allow_leak=True)
        assert found.scored.right.all()

    def test_a_scheme_that_does_not_fit(self, made, tiny_bundle):
        with pytest.raises(
            GeoclassError, match=r"coarse is no class of scheme 'rsscn7' \(.*\); rename or remove it"
        ) as caught:
            assess(made / "other", load_bundle(tiny_bundle))
        assert "\n" not in str(caught.value)


class TestLeaks:
    @pytest.mark.parametrize("how", ["copies", "jpeg", "one jpeg of low quality"])
    def test_planted_training_tiles_are_caught(self, made, bundle, tmp_path, how):
        root = shutil.copytree(made / "other", tmp_path / "t")
        planted = {}
        for kind, number in (("fine", 3), ("middle", 5), ("coarse", 8)):
            source = made / "county" / kind / f"{number:03}.png"
            if how == "copies":
                planted[f"{kind}/zz.png"] = shutil.copy(source, root / kind / "zz.png")
                continue
            quality = 85 if how == "jpeg" else 40
            stored = io.BytesIO()
            Image.open(source).save(stored, "JPEG", quality=quality)
            (root / kind / "zz.jpg").write_bytes(stored.getvalue())
            planted[f"{kind}/zz.jpg"] = None
        with pytest.raises(
            EvaluationError, match=r"3 of 33 tiles of .* look like tiles that m was trained on, first .*zz"
        ) as caught:
            assess(root, bundle, name="m")
        assert "--allow-leak" in str(caught.value) and "\n" not in str(caught.value)
        found = assess(root, bundle, name="m", allow_leak=True)
        assert {key for key, leaked in zip(found.scored.keys, found.leaked, strict=True) if leaked} == set(planted)
        assert len(found.clean) == 30 and not set(found.clean.keys) & set(planted)
        assert any("3 of 33 tiles look like ones the model was trained on" in note for note in found.scored.notes)

    def test_the_training_tiles_themselves(self, made, bundle):
        with pytest.raises(EvaluationError, match="48 of 48"):
            assess(made / "county", bundle)
        found = assess(made / "county", bundle, allow_leak=True)
        assert found.clean is None and found.leaked.all()

    def test_a_bundle_that_does_not_say_what_it_was_trained_on(self, made, bundle):
        silent = replace(bundle, meta=bundle.meta.model_copy(update={"training_tiles": ""}))
        assert not assess(made / "county", silent).leaked.any()

    def test_a_damaged_record_of_training_tiles(self, made, bundle):
        spoilt = replace(bundle, meta=bundle.meta.model_copy(update={"training_tiles": "no base64"}))
        with pytest.raises(GeoclassError, match="record of training tiles is damaged"):
            assess(made / "other", spoilt)


class TestDatasets:
    @pytest.fixture(scope="class")
    @staticmethod
    def data(tmp_path_factory) -> tuple[Path, Bundle]:
        root = tmp_path_factory.mktemp("data")
        write_fields(root / "t", 30)
        build_dataset([root / "t"], out=root / "d", size_px=SIZE_PX, split="random")
        return root / "d", train(root / "d").save(root / "m.pt")

    def test_the_test_split_is_scored_and_nothing_of_it_was_trained_on(self, data):
        folder, bundle = data
        tiles = read_tiles(folder)
        found = assess(folder, bundle)
        assert found.scored.keys == tiles.of("test").keys and not found.leaked.any()
        assert bundle.meta.training["tiles"] == len(tiles.of("train")) and found.scored.split == "random"

    def test_other_splits(self, data):
        folder, bundle = data
        tiles = read_tiles(folder)
        assert assess(folder, bundle, split="test").scored.keys == tiles.of("test").keys
        with pytest.raises(EvaluationError, match="trained on"):
            assess(folder, bundle, split="train")
        everything = assess(folder, bundle, split="all", allow_leak=True)
        assert len(everything.scored) == len(tiles) and everything.leaked.sum() >= len(tiles.of("train"))
        with pytest.raises(EvaluationError, match=r"no tiles of split validation \(it has test, train\)"):
            assess(folder, bundle, split="validation")
        with pytest.raises(EvaluationError, match="unknown split 'tests'"):
            assess(folder, bundle, split="tests")

    def test_a_split_that_is_not_there(self, made, bundle):
        with pytest.raises(EvaluationError, match=r"has no tiles of split test \(it has train\)"):
            assess(made / "other", bundle, split="test")


class TestMaps:
    @pytest.fixture(scope="class")
    @staticmethod
    def map_and_labels(tmp_path_factory, tiny_bundle) -> tuple[Path, Path]:
        """A map of 6 × 4 tiles by a network of random weights, and polygons that say what it said, but for two tiles."""
        root = tmp_path_factory.mktemp("map")
        rng = np.random.default_rng(0)
        left, top = 1400 * 224, 20900 * 224
        scene = root / "scene.tif"
        with rasterio.open(
            scene, "w", driver="GTiff", count=3, height=4 * 224, width=6 * 224, dtype="uint8", crs="EPSG:26919",
            transform=from_origin(left, top, 1, 1),
        ) as dataset:  # fmt: skip
            shades = rng.integers(1, 255, (3, 4, 6)).repeat(224, axis=1).repeat(224, axis=2)
            dataset.write((shades + rng.integers(-20, 20, shades.shape)).clip(1, 254).astype(np.uint8))
        classify([scene], tiny_bundle, out=root / "out", device="cpu")
        result = read_result(root / "out" / "scene.gpkg")
        named = np.array(result.scheme.names)[result.probabilities.argmax(axis=1)].astype(object)
        named[:2] = [next(name for name in result.scheme.names if name != said) for said in named[:2]]
        side = result.grid.side_m
        squares = [
            box(c * side, r * side, (c + 1) * side, (r + 1) * side)
            for c, r in zip(result.columns, result.rows, strict=True)
        ]
        squares = list(squares[:-4])  # four tiles have no reference
        gpd.GeoDataFrame({"cover": named[:-4]}, geometry=squares, crs="EPSG:26919").to_file(root / "truth.gpkg")
        return root / "out" / "scene.gpkg", root / "truth.gpkg"

    def test_against_polygons(self, map_and_labels):
        path, labels = map_and_labels
        result = read_result(path)
        scored = assess_result(path, labels, class_field="cover")
        assert len(scored) == len(result) - 4 == 20 and scored.right.sum() == 18
        assert set(scored.keys) <= set(result.tile_ids) and scored.purity.min() > 0.99
        assert any("4 tiles of the map have no reference class" in note for note in scored.notes)
        assert scored.crs and scored.x_m.min() > 1400 * 224

    def test_codes_outside_the_scheme(self, map_and_labels, tmp_path):
        path, labels = map_and_labels
        named = gpd.read_file(labels)
        named.loc[named.index < 5, "cover"] = "cloud"
        named.to_file(tmp_path / "clouds.gpkg")
        command = ["evaluate", str(path), "--labels", str(tmp_path / "clouds.gpkg"), "--class-field", "cover"]
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 2 and "cloud (25.00%)" in done.stderr and "--ignore-codes" in done.stderr
        for ignore in ("cloud", "all"):
            scored = assess_result(
                path, tmp_path / "clouds.gpkg", class_field="cover", ignore="all" if ignore == "all" else (ignore,)
            )
            assert len(scored) == 15 and scored.right.all()
            assert scored.notes[-1] == "Left out of the labels as asked: cloud (25.0%)."
            done = CliRunner().invoke(main, [*command, "--ignore-codes", ignore])
            assert done.exit_code == 0 and "15" in done.stdout
        done = CliRunner().invoke(main, ["evaluate", str(path), "--model", "m.pt", "--ignore-codes", "cloud"])
        assert done.exit_code == 2 and "--labels" in done.stderr

    def test_labels_elsewhere(self, map_and_labels, tmp_path):
        path, labels = map_and_labels
        away = gpd.read_file(labels).translate(500_000)
        gpd.GeoDataFrame({"cover": gpd.read_file(labels)["cover"]}, geometry=away).to_file(tmp_path / "away.gpkg")
        with pytest.raises(GeoclassError) as caught:
            assess_result(path, tmp_path / "away.gpkg", class_field="cover")
        assert "\n" not in str(caught.value)

    def test_on_the_command_line(self, map_and_labels, tmp_path):
        path, labels = map_and_labels
        report = tmp_path / "r.html"
        done = CliRunner().invoke(
            main, ["evaluate", str(path), "--labels", str(labels), "--class-field", "cover", "--report", str(report)]
        )
        assert done.exit_code == 0, done.output
        assert "scene:" in done.stdout and "90" in done.stdout
        assert {item.suffix for item in tmp_path.iterdir()} == {".html", ".json", ".csv"}
        assert len((tmp_path / "r.csv").read_text().splitlines()) == 21
        done = CliRunner().invoke(main, ["evaluate", str(path), "--labels", str(labels), "--model", "m.pt"])
        assert done.exit_code == 2 and "give one of them" in done.stderr


class TestCommand:
    def test_a_report_of_class_folders(self, made, tmp_path):
        done = geoclass(made / "other", "--model", made / "m.pt", "--report", tmp_path / "r.html")
        assert done.exit_code == 0, done.output
        numbers = json.loads((tmp_path / "r.json").read_text())
        bundle = load_bundle(made / "m.pt")
        right = assess(made / "other", bundle).scored.right.mean()
        assert f"{right:.3f}" in json.dumps(numbers) or str(float(right)) in json.dumps(numbers)
        assert numbers["models"] and len((tmp_path / "r.csv").read_text().splitlines()) == 31
        assert "<html" in (tmp_path / "r.html").read_text()
        again = geoclass(made / "other", "--model", made / "m.pt", "--report", tmp_path / "r.html")
        assert again.exit_code == 2 and "--overwrite" in again.stderr

    def test_two_models_side_by_side(self, made, tmp_path):
        train_to_file(made / "county", tmp_path / "n.pt", size_px=SIZE_PX, head="svm")
        done = geoclass(
            made / "other", "--model", made / "m.pt", "--model", tmp_path / "n.pt", "--report", tmp_path / "r.html"
        )
        assert done.exit_code == 0, done.output
        assert (
            "McNemar" in done.stdout
            and "m right alone on" in done.stdout
            and len(json.loads((tmp_path / "r.json").read_text())["models"]) == 2
        )

    def test_the_same_model_twice(self, made):
        done = geoclass(made / "other", "--model", made / "m.pt", "--model", made / "m.pt")
        assert done.exit_code == 0, done.output
        assert "p = 1" in done.stdout

    def test_a_leak_is_refused_and_shown(self, made):
        done = geoclass(made / "county", "--model", made / "m.pt")
        assert done.exit_code == 2 and "48 of 48 tiles" in done.stderr
        assert done.stderr.strip().count("\n") == 0
        done = geoclass(made / "county", "--model", made / "m.pt", "--allow-leak")
        assert done.exit_code == 0 and "48 of 48 tiles look like training tiles" in done.stdout

    def test_what_cannot_be_scored(self, made, tiny_bundle, tmp_path):
        for arguments, word in (
            ([made / "other"], "nothing to score"),
            ([made / "other", "--model", tiny_bundle], "no class of scheme"),
            ([made / "none", "--model", tiny_bundle], "no such folder"),
            ([made / "other", "--model", made / "none.pt"], "no such model bundle"),
            ([made / "other", "--model", made / "m.pt", "--split", "test"], "has no tiles of split test"),
            ([made / "other", "--model", made / "m.pt", "--report", tmp_path / "r.pdf"], "does not end in .html"),
        ):
            done = geoclass(*arguments)
            assert done.exit_code == 2 and word in done.stderr, (arguments, done.stderr)
            assert done.stderr.strip().count("\n") == 0
