"""Training end to end: every head to a bundle that predicts what it predicted, from all kinds of labelled tiles."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import rasterio
import torch
from click.testing import CliRunner
from conftest import TEXTURE_PX as SIZE_PX
from conftest import TEXTURES, texture, write_textures
from PIL import Image
from rasterio.transform import from_origin

import geoclass.train  # noqa: F401  (the module, whose name the function below hides)
from geoclass import backbones
from geoclass.bundle import Bundle, load_bundle
from geoclass.cli import main
from geoclass.datasets.tileset import TEST, TRAIN, VALIDATION, TileSet, read_class_folders
from geoclass.errors import BundleError, ConfigError, DatasetError, GeoclassError, OutputError
from geoclass.evaluation.metrics import expected_calibration_error
from geoclass.history.record import read_record, record_path
from geoclass.learning import heads
from geoclass.learning.finetune import Recipe
from geoclass.predict import Predictor
from geoclass.runtimes.answers import Answers
from geoclass.schemes import load_scheme
from geoclass.sensors import load_sensor
from geoclass.train import HEADS, Method, Trained, calibrated, train, train_to_file

torch.set_num_threads(1)
MODULE = sys.modules["geoclass.train"]  # `geoclass.train` is the function
QUICK = Recipe(epochs=2, batch_size=8, patience=0, consistency=0.0)
NIR = ("red", "green", "blue", "nir")


@pytest.fixture(scope="module", autouse=True)
def small_forests() -> Iterator[None]:
    """Forty trees instead of three hundred: quicker, and no different in kind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(heads._FITS, "forest", (heads._fit_forest, (40.0,)))
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_textures(tmp_path_factory.mktemp("tiles") / "county", 24)


@pytest.fixture
def few(tmp_path: Path) -> Path:
    return write_textures(tmp_path / "few", 3)


@pytest.fixture(scope="module")
def tiles(folders: Path) -> TileSet:
    return read_class_folders(folders, SIZE_PX)


def fresh(each: int = 20) -> tuple[list[np.ndarray], np.ndarray]:
    """Textures (3, 64, 64) of another seed, and their classes."""
    rng = np.random.default_rng(77)
    truth = np.repeat(np.arange(3), each)
    return [texture(TEXTURES[kind], rng).transpose(2, 0, 1) for kind in truth], truth


def said(bundle: Bundle, pictures: list[np.ndarray]) -> np.ndarray:
    return Predictor(bundle, bundle.meta.sensor, device=torch.device("cpu"))(pictures).probabilities


def unsaved(trained: Trained) -> Bundle:
    return Bundle(trained.meta, trained.state, "", trained.forest)


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def write_bands(root: Path, count: int, bands: int, dtype: str, scale: float = 1.0, seed: int = 0) -> Path:
    """Class folders of GeoTIFF chips whose RGB is the same noise in both classes: only the last band tells them."""
    rng = np.random.default_rng(seed)
    for level, kind in ((60, "bare"), (190, "green")):
        (root / kind).mkdir(parents=True)
        for number in range(count):
            pixels = rng.normal(120, 15, (bands, 48, 48))
            pixels[-1] += level - 120
            with rasterio.open(
                root / kind / f"{number:03}.tif", "w", driver="GTiff", count=bands, height=48, width=48, dtype=dtype,
                crs="EPSG:26919", transform=from_origin(1000 * number, 5_000_000, 1, 1),
            ) as chip:  # fmt: skip
                chip.write((pixels.clip(1, 254) * scale).astype(dtype))
    return root


class TestEveryHead:
    @pytest.fixture(scope="class", params=HEADS)
    @staticmethod
    def made(request, folders, tmp_path_factory):
        out = tmp_path_factory.mktemp("model") / "m.pt"
        stages: list[str] = []
        recipe = replace(QUICK, epochs=5, learning_rate=2e-3, augmentation="turns")
        trained = train(
            folders, head=request.param, size_px=SIZE_PX, gsd_m=1.0, recipe=recipe,
            progress=lambda stage, *_: stages.append(stage),
        )  # fmt: skip
        trained.save(out)
        return out, trained, stages, request.param

    def test_before_and_after_saving_the_same(self, made):
        path, trained, _, head = made
        pictures, truth = fresh()
        before, after = said(unsaved(trained), pictures), said(load_bundle(path), pictures)
        assert np.array_equal(before, after)
        assert (after.argmax(axis=1) == truth).mean() >= (0.5 if head == "finetune" else 0.9)
        assert after.sum(axis=1) == pytest.approx(np.ones(60), abs=1e-5)

    def test_its_record(self, made, folders):
        path, trained, stages, head = made
        meta = load_bundle(path).meta
        assert meta == trained.meta
        assert meta.scheme.names == TEXTURES and meta.bands == ("red", "green", "blue")
        backbone = "efficientnet_lite0" + ("" if head == "finetune" else "+stages")
        assert (meta.backbone, meta.size_px, meta.gsd_m, meta.views) == (backbone, SIZE_PX, 1.0, 1)
        assert meta.input_px is None and meta.training["source"] == "county"
        assert meta.training["tiles_per_class"] == dict.fromkeys(TEXTURES, 24)
        assert meta.training["method"]["head"] == head and meta.training["temperature"] == round(meta.temperature, 4)
        assert meta.training["ece_after"] <= meta.training["ece_before"]
        assert str(folders) not in meta.model_dump_json()
        if head == "finetune":
            assert meta.training["validation_tiles"] == 7 and len(trained.history) == 5 and set(stages) == {"training"}
        else:
            assert meta.training["cross_validated_accuracy"] >= 0.9 and meta.training["folds_by"] == "tiles"
            assert stages[-1] == "fitting" and (meta.projection is not None) == (head == "forest")

    def test_only_what_is_trained_changes(self, made):
        _, trained, _, head = made
        original = backbones.build(trained.meta.backbone, classes=3).state_dict()
        differ = {
            name
            for name, t in trained.state.items()
            if t.shape != original[name].shape or not torch.equal(t, original[name])
        }
        assert len(differ) > 250 if head == "finetune" else differ == {"classifier.weight", "classifier.bias"}

    def test_another_size_of_batch_says_the_same(self, made):
        pictures, _ = fresh(4)
        bundle = load_bundle(made[0])
        one = Predictor(bundle, bundle.meta.sensor, device=torch.device("cpu"), batch_size=1)(pictures).probabilities
        assert one == pytest.approx(said(bundle, pictures), abs=0.02 if made[3] == "forest" else 1e-4)


class TestWhatABundleSees:
    """`input_px`, `views` and `temperature` of a bundle, against an average written out by hand."""

    @pytest.mark.parametrize(
        ("input_px", "views", "temperature"), [(None, 1, 1.0), (32, 1, 2.0), (None, 4, 0.5), (48, 8, 1.3), (80, 3, 1.0)]
    )
    def test_answers_are_the_mean_over_views_of_resampled_tiles(self, input_px, views, temperature):
        from geoclass.bundle import BundleMeta

        network = backbones.build("efficientnet_lite0", classes=7)
        norm = backbones.normalisation("efficientnet_lite0")
        meta = BundleMeta(
            backbone="efficientnet_lite0", scheme=load_scheme("rsscn7"), sensor=load_sensor("rgb8"), bands=("red", "green", "blue"),
            size_px=SIZE_PX, mean=norm.mean, std=norm.std, input_px=input_px, views=views, temperature=temperature,
            created="2020-01-01T00:00:00+00:00", geoclass_version="0.1.0",
        )  # fmt: skip
        bundle = Bundle(meta, dict(network.state_dict()), "")
        pictures = np.stack(fresh(2)[0])
        side = input_px or SIZE_PX
        x = torch.from_numpy(pictures).float()
        if side != SIZE_PX:
            x = torch.nn.functional.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
        x = ((x - 127) / 128).numpy()
        turned = [np.rot90(x, k, (2, 3)) for k in range(4)]
        group = [*turned, *(item[..., ::-1] for item in turned)][:views]
        with torch.inference_mode():
            each = [network(torch.from_numpy(np.ascontiguousarray(item))) for item in group]
            wanted = torch.stack(each).mean(dim=0) / temperature
            found = Answers(bundle)(torch.from_numpy(pictures).float())
        assert torch.allclose(found, wanted, atol=2e-3, rtol=1e-3)
        assert said(bundle, list(pictures)) == pytest.approx(wanted.softmax(dim=1).numpy(), abs=2e-3)
        if views == 8:  # the whole group: a turned tile says the same
            flipped = [np.ascontiguousarray(np.rot90(item, 1, (1, 2))) for item in pictures]
            assert said(bundle, flipped) == pytest.approx(said(bundle, list(pictures)), abs=2e-3)

    def test_the_default_backbone_sees_large_tiles_at_half_size_from_four_sides(self):
        assert (Method().settled(224).input_px, Method().settled(224).views) == (112, 4)
        assert (Method().settled(64).input_px, Method().settled(64).views) == (64, 1)
        assert (Method(backbone="resnet18").settled(224).input_px, Method(backbone="resnet18").settled(224).views) == (
            224,
            1,
        )
        assert (Method(input_px=448).settled(224).input_px, Method(views=2).settled(224).views) == (448, 2)

    def test_they_go_into_the_bundle(self, few):
        meta = train(few, size_px=SIZE_PX, input_px=32, views=8).meta
        assert (meta.size_px, meta.input_px, meta.views) == (SIZE_PX, 32, 8)


class TestHowTilesCount:
    def test_the_same_again_with_and_without_the_cache(self, few, tmp_path, monkeypatch):
        monkeypatch.setenv("GEOCLASS_CACHE", str(tmp_path / "cache"))
        one, two, three = (train(few, size_px=SIZE_PX, cache=cache) for cache in (True, True, False))
        assert same(one.state, two.state) and same(one.state, three.state)

    def test_only_training_tiles_train(self, tiles):
        """Test tiles with labels turned round must change nothing; nor may they be in the record."""
        split = np.where(np.arange(len(tiles)) % 3 == 0, TEST, TRAIN)
        plain = replace(tiles, split=split)
        turned = replace(plain, classes=np.where(split == TEST, (tiles.classes + 1) % 3, tiles.classes))
        one, two = train(plain), train(turned)
        assert same(one.state, two.state) and one.meta.temperature == two.meta.temperature
        assert one.meta.training["tiles"] == 48 and one.meta.brightness == two.meta.brightness
        assert one.meta.training_tiles == two.meta.training_tiles
        assert one.meta.training["fingerprint"] != two.meta.training["fingerprint"]

    def test_brightness_is_that_of_the_training_tiles(self, tiles):
        split = np.where(np.arange(len(tiles)) % 2 == 0, TEST, TRAIN)
        meta = train(replace(tiles, split=split)).meta
        brightness = np.array(meta.brightness)
        assert brightness.sum(axis=1) == pytest.approx([1, 1, 1], abs=1e-4)
        pictures = tiles.of(TRAIN).read(np.flatnonzero(split == TRAIN))
        assert brightness @ (np.arange(32) * 8 + 3.5) == pytest.approx(pictures.mean(axis=(0, 2, 3)), abs=2)

    def test_a_validation_split_judges_a_fine_tuning(self, tiles):
        split = np.where(np.arange(len(tiles)) % 4 == 0, VALIDATION, TRAIN)
        trained = train(replace(tiles, split=split), head="finetune", input_px=32, recipe=replace(QUICK, epochs=1))
        assert trained.meta.training["validation_tiles"] == 18 and trained.meta.training["tiles"] == 54

    def test_validation_tiles_of_a_class_that_training_lacks(self, tiles):
        """They cannot be known: they must not ruin the temperature, and the class is never said."""
        split = np.where(tiles.classes == 2, VALIDATION, np.where(np.arange(len(tiles)) % 4 == 0, VALIDATION, TRAIN))
        trained = train(replace(tiles, split=split), head="finetune", input_px=32, recipe=replace(QUICK, epochs=1))
        assert trained.meta.training["validation_tiles"] == 12
        assert 0.05 < trained.meta.temperature < 20
        assert said(unsaved(trained), fresh(5)[0])[:, 2].max() == 0

    @pytest.mark.parametrize("head", HEADS)
    def test_a_class_with_one_training_tile(self, tiles, head):
        keep = np.flatnonzero((tiles.classes < 2) | (np.arange(len(tiles)) == 60))
        trained = train(tiles.take(keep), head=head, input_px=32, recipe=replace(QUICK, epochs=1))
        assert trained.meta.training["tiles_per_class"] == {"checks": 24, "noise": 24, "stripes": 1}
        assert trained.meta.temperature < 20  # an impossible class held out would ask for thousands

    @pytest.mark.parametrize("head", HEADS)
    def test_a_class_of_the_scheme_without_tiles_is_never_said(self, head, tmp_path):
        write_textures(tmp_path / "t", 4, kinds=("Field", "Forest"))
        trained = train(tmp_path / "t", head=head, size_px=32, scheme="rsscn7", recipe=replace(QUICK, epochs=1))
        assert trained.meta.training["tiles_per_class"]["RiverLake"] == 0
        names = {load_scheme("rsscn7").names[k] for k in said(unsaved(trained), fresh(10)[0]).argmax(axis=1)}
        assert names <= {"Field", "Forest"}

    def test_one_class_is_refused(self, tiles):
        with pytest.raises(DatasetError, match="county are of one class"):
            train(tiles.take(tiles.classes == 1))
        split = np.where(tiles.classes == 0, TRAIN, TEST)
        with pytest.raises(DatasetError, match="training tiles of county are of one class"):
            train(replace(tiles, split=split))

    def test_soft_labels(self, tiles):
        with pytest.raises(DatasetError, match="soft labels need the share of each class"):
            train(tiles, soft=True)
        shares = (0.7 * np.eye(3) + 0.1).astype(np.float32)[tiles.classes]
        mixed = replace(tiles, fractions=shares)
        hard, soft = train(mixed), train(mixed, soft=True)
        assert same(hard.state, train(tiles).state)
        pictures, _ = fresh(5)
        raw = [
            said(replace(unsaved(item), meta=item.meta.model_copy(update={"temperature": 1.0})), pictures)
            for item in (hard, soft)
        ]
        assert raw[1].max(axis=1).mean() < raw[0].max(axis=1).mean() - 0.05
        assert train(mixed, soft=True, head="finetune", input_px=32, recipe=replace(QUICK, epochs=1)).history

    def test_class_weights(self, tiles):
        uneven = tiles.take(np.flatnonzero((tiles.classes > 0) | (np.arange(len(tiles)) < 4)))
        weighted = MODULE._weighted(uneven, Method(class_weights=True))
        counts = np.array([4, 24, 24])
        assert weighted.class_weights * counts == pytest.approx(np.full(3, (weighted.class_weights * counts)[0]))
        assert weighted.class_weights.mean() == pytest.approx(1)
        assert not same(train(uneven).state, train(uneven, class_weights=True).state)
        given = replace(uneven, class_weights=weighted.class_weights)  # as a dataset with --balance weights has them
        assert same(train(given).state, train(uneven, class_weights=True).state)

    def test_a_sample_keeps_every_class_and_all_other_splits(self, tiles):
        split = np.where(np.arange(len(tiles)) % 3 == 0, TEST, TRAIN)
        for share, each in ((0.5, 8), (0.01, 2), (1.0, 16)):
            sampled = MODULE._sampled(replace(tiles, split=split), Method(sample_share=share))
            assert np.bincount(sampled.of(TRAIN).classes).tolist() == [each] * 3
            assert len(sampled.of(TEST)) == 24 and len(set(sampled.keys)) == len(sampled)
        one, two = (MODULE._sampled(tiles, Method(sample_share=0.3, seed=seed)).keys for seed in (0, 1))
        assert one != two and one == MODULE._sampled(tiles, Method(sample_share=0.3)).keys

    def test_blocks_of_ground_stay_together_and_the_gap_is_told(self, tiles):
        blocked = train(replace(tiles, blocks=np.arange(len(tiles)) % 12)).meta.training
        assert blocked["folds_by"] == "blocks" and 0 <= blocked["random_split_accuracy"] <= 1
        one_each = train(replace(tiles, blocks=tiles.classes)).meta.training  # no fold could do without a class
        assert one_each["folds_by"] == "tiles" and "random_split_accuracy" not in one_each


class TestCalibration:
    def test_the_temperature_that_made_the_logits_is_found(self):
        rng = np.random.default_rng(0)
        logits = rng.normal(0, 2, (4000, 3))
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        classes = (rng.random(4000)[:, None] > shares.cumsum(axis=1)).sum(axis=1)
        kept, record = calibrated((3 * logits).astype(np.float32), classes)
        assert kept == pytest.approx(3, rel=0.08) and record["ece_after"] < 0.05 < record["ece_before"]

    def test_it_is_kept_only_where_it_helps(self):
        """Over many small samples: never a temperature that makes the calibration error larger."""
        ones = 0
        for seed in range(40):
            rng = np.random.default_rng(seed)
            logits = rng.normal(0, 2, (12, 3)).astype(np.float32)
            classes = np.where(rng.random(12) < 0.7, logits.argmax(axis=1), rng.integers(0, 3, 12))
            kept, record = calibrated(logits, classes)
            shares = torch.from_numpy(logits / kept).softmax(dim=1).numpy()
            plain = torch.from_numpy(logits).softmax(dim=1).numpy()
            after, before = (expected_calibration_error(classes, item) for item in (shares, plain))
            assert after <= before + 1e-6 and record["ece_after"] == pytest.approx(after, abs=1e-4)
            ones += kept == 1
        assert 0 < ones < 40


class TestOtherImagery:
    def test_near_infrared_is_used_and_a_scene_is_classified(self, tmp_path):
        """The two classes differ in the fourth band only."""
        root = write_bands(tmp_path / "chips", 10, 4, "uint8")
        out = tmp_path / "m.pt"
        runner = CliRunner()
        arguments = [
            "train",
            str(root),
            "-o",
            str(out),
            "--sensor",
            "naip",
            "--bands",
            "red,green,blue,nir",
            "--size",
            "48",
            "--gsd",
            "1",
        ]
        done = runner.invoke(main, [*arguments, "--device", "cpu"])
        assert done.exit_code == 0, done.output
        bundle = load_bundle(out)
        assert bundle.meta.bands == NIR and bundle.meta.training["cross_validated_accuracy"] == 1.0
        rgb = train(root, sensor="naip", size_px=48).meta.training["cross_validated_accuracy"]
        assert rgb < 0.85  # what the other bands alone can tell
        own = backbones.build("efficientnet_lite0", classes=2).state_dict()["conv_stem.weight"]
        adapted = bundle.state["network.conv_stem.weight"]
        assert adapted.shape == (32, 4, 3, 3)
        assert torch.allclose(adapted[:, :3], own * 3 / 4) and torch.allclose(
            adapted[:, 3], own.mean(dim=1) * 3 / 4, atol=1e-6
        )

        rng = np.random.default_rng(9)
        pixels = rng.normal(120, 15, (4, 96, 192))
        pixels[3, :, :96] += 70
        pixels[3, :, 96:] -= 60
        scene = tmp_path / "m_4307001_ne_19_1_20180920.tif"
        with rasterio.open(
            scene, "w", driver="GTiff", count=4, height=96, width=192, dtype="uint8", crs="EPSG:26919",
            transform=from_origin(480_000, 4_800_000, 1, 1),
        ) as dataset:  # fmt: skip
            dataset.write(pixels.clip(1, 254).astype("uint8"))
        done = runner.invoke(
            main,
            [
                "classify",
                str(scene),
                "--model",
                str(out),
                "-o",
                str(tmp_path / "out"),
                "--format",
                "csv",
                "--device",
                "cpu",
            ],
        )
        assert done.exit_code == 0, done.output
        from geoclass.results import read_result

        result = read_result(next((tmp_path / "out").glob("*.gpkg")))
        sides = (result.columns + 0.5) * result.grid.side_m < 480_096
        named = np.array(result.scheme.names)[result.probabilities.argmax(axis=1)]
        assert len(result) == 8 and (named == np.where(sides, "green", "bare")).all()

    def test_16_bit_reflectance(self, tmp_path):
        root = write_bands(tmp_path / "chips", 8, 12, "uint16", scale=11)
        trained = train(root, sensor="sentinel2-l2a", bands=("red", "green", "blue", "swir22"), size_px=48)
        assert trained.meta.training["cross_validated_accuracy"] == 1.0
        brightness = np.array(trained.meta.brightness) @ (np.arange(32) * 8 + 3.5)
        assert brightness[:3] == pytest.approx(120 * 11 * 1e-4 / 0.3 * 255 * np.ones(3), abs=4)
        chip = rasterio.open(root / "green" / "000.tif").read([4, 3, 2, 12])
        assert said(unsaved(trained), [chip])[0].argmax() == trained.meta.scheme.index("green")
        tuned = train(
            root,
            sensor="sentinel2-l2a",
            bands=("red", "nir"),
            size_px=48,
            head="finetune",
            recipe=replace(QUICK, epochs=1),
        )
        assert tuned.state["conv_stem.weight"].shape[1] == 2

    def test_another_backbone_with_weights_from_a_file(self, few, tmp_path):
        torch.save(backbones.build("resnet18", classes=9, weights=None).state_dict(), tmp_path / "w.pth")
        trained = train(few, backbone="resnet18", weights=tmp_path / "w.pth", size_px=SIZE_PX)
        assert trained.meta.mean == backbones.normalisation("resnet18").mean
        assert trained.state["fc.weight"].shape == (3, 512)
        assert str(tmp_path) not in trained.meta.model_dump_json()


@pytest.mark.parametrize("name", backbones.TORCHVISION)
def test_the_classic_networks(name, few, tmp_path):
    """Each builds, trains one step, is saved and loaded, and predicts the same."""
    recipe = Recipe(epochs=1, batch_size=2, patience=0, consistency=0.0)
    trained = train(few, head="finetune", backbone=name, weights=None, size_px=SIZE_PX, sample_share=0.5, recipe=recipe)
    trained.save(tmp_path / "m.pt")
    pictures = fresh(1)[0]
    before, after = said(unsaved(trained), pictures), said(load_bundle(tmp_path / "m.pt"), pictures)
    assert np.array_equal(before, after) and np.isfinite(after).all()
    assert trained.meta.backbone == name and len(trained.history) == 1


def test_weights_that_cannot_be_fetched_say_how_to_get_others(few, monkeypatch):
    import torchvision

    real = torchvision.models.get_model

    def offline(name, weights=None, **options):
        if weights is not None:
            raise OSError("<urlopen error [Errno -2] Name or service not known>")
        return real(name, weights=weights, **options)

    monkeypatch.setattr(torchvision.models, "get_model", offline)
    with pytest.raises(
        BundleError, match=r"weights of resnet18 could not be fetched \(.*\); give them with --weights FILE"
    ) as caught:
        train(few, backbone="resnet18", size_px=SIZE_PX)
    assert "\n" not in str(caught.value) and "efficientnet_lite0" in str(caught.value)


class TestToFile:
    def test_the_bundle_its_record_and_its_curves(self, few, tmp_path):
        seen: list[float] = []
        bundle = train_to_file(
            few, tmp_path / "m.pt", head="finetune", size_px=SIZE_PX, input_px=32, recipe=QUICK,
            on_epoch=lambda epoch: seen.append(epoch["epoch"]),
        )  # fmt: skip
        assert seen == [1, 2] and load_bundle(tmp_path / "m.pt").digest == bundle.digest
        record = read_record(record_path(tmp_path / "m.pt"))
        assert record.status == "finished" and record.bundle.digest == bundle.digest
        assert [row["epoch"] for row in record.history] == [1, 2] and "validation_loss" in record.history[0]
        assert record.plots == ["m.training.png"] and record.metrics["validation_accuracy"] is not None
        assert record.parameters["epochs"] == 2 and record.dataset["tiles"] == 9
        with Image.open(tmp_path / "m.training.png") as curves:
            assert curves.width > 800
        assert sorted(path.name for path in tmp_path.iterdir()) == ["few", "m.pt", "m.run.json", "m.training.png"]

    def test_an_existing_bundle_is_found_before_the_work(self, few, tmp_path, monkeypatch):
        (tmp_path / "m.pt").write_bytes(b"mine")
        monkeypatch.setattr(MODULE, "train", None)
        with pytest.raises(OutputError, match="--overwrite"):
            train_to_file(few, tmp_path / "m.pt")
        assert (tmp_path / "m.pt").read_bytes() == b"mine"

    def test_a_training_that_fails_is_recorded_and_leaves_no_bundle(self, few, tmp_path):
        with pytest.raises(GeoclassError, match="NaN"):
            train_to_file(
                few, tmp_path / "m.pt", head="finetune", size_px=SIZE_PX, input_px=32,
                recipe=replace(QUICK, learning_rate=1e30, layer_decay=1.0, ema=0.0),
            )  # fmt: skip
        record = read_record(record_path(tmp_path / "m.pt"))
        assert record.status == "failed" and "lower --learning-rate" in record.reason
        assert not (tmp_path / "m.pt").exists()

    def test_a_loss_that_ends_is_noted(self, few, tmp_path, monkeypatch):
        from geoclass.learning import finetune

        real = finetune._Run._one_step

        def broken(run, *given):
            if run.epoch == 1:
                raise finetune._NotANumberError
            return real(run, *given)

        monkeypatch.setattr(finetune._Run, "_one_step", broken)
        bundle = train_to_file(few, tmp_path / "m.pt", head="finetune", size_px=SIZE_PX, input_px=32, recipe=QUICK)
        assert "NaN in epoch 2" in bundle.meta.training["note"]
        assert read_record(record_path(tmp_path / "m.pt")).notes == [bundle.meta.training["note"]]
        assert not (tmp_path / ".m.partial").exists()


class TestInterrupted:
    OPTIONS: ClassVar[dict[str, Any]] = {
        "head": "finetune", "size_px": SIZE_PX, "input_px": 32, "recipe": replace(QUICK, epochs=3, mixup=0.2),
    }  # fmt: skip

    def stopped(self, few: Path, out: Path, epoch: int = 2, **more: Any) -> None:
        def stop(record):
            if record["epoch"] >= epoch:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train_to_file(few, out, on_epoch=stop, **{**self.OPTIONS, **more})

    def test_ctrl_c_leaves_the_state_and_a_record(self, few, tmp_path):
        out = tmp_path / "m.pt"
        whole = train_to_file(few, tmp_path / "w.pt", **self.OPTIONS)
        self.stopped(few, out)
        first = read_record(record_path(out))
        assert first.status == "interrupted" and (tmp_path / ".m.partial").is_file() and not out.exists()
        bundle = train_to_file(few, out, **self.OPTIONS)
        record = read_record(record_path(out))
        assert same(whole.state, bundle.state) and record.status == "finished"
        assert record.id == first.id and [row["epoch"] for row in record.history] == [1, 2, 3]
        assert not (tmp_path / ".m.partial").exists()

    def test_other_options_begin_anew_with_a_record_of_their_own(self, few, tmp_path):
        out = tmp_path / "m.pt"
        self.stopped(few, out)
        first = read_record(record_path(out))
        bundle = train_to_file(few, out, head="logistic", size_px=SIZE_PX)
        record = read_record(record_path(out))
        assert record.id != first.id and record.history == [] and record.bundle.digest == bundle.digest
        assert read_record(tmp_path / f"m.{first.id}.run.json").status == "interrupted"

    def test_other_data_begins_anew(self, few, tmp_path):
        out = tmp_path / "m.pt"
        self.stopped(few, out)
        Image.fromarray(texture("noise", np.random.default_rng(5))).save(few / "checks" / "000.png")
        seen: list[float] = []
        train_to_file(few, out, on_epoch=lambda epoch: seen.append(epoch["epoch"]), **self.OPTIONS)
        assert seen == [1, 2, 3]

    def test_a_killed_command_goes_on_and_ends_the_same(self, few, tmp_path):
        """kill -9 after the first whole epoch of a real process."""

        def command(out: str) -> list[str]:
            return [
                sys.executable, "-m", "geoclass", "train", "few", "-o", out, "--head", "finetune", "--size", "64", "--input-size",
                "32", "--epochs", "5", "--batch-size", "2", "--patience", "0", "--mixup", "0.3", "--device", "cpu",
            ]  # fmt: skip

        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            command("m.pt"), cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        end = time.monotonic() + 100
        while not (tmp_path / ".m.partial").is_file() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the training ended before it could be killed"
        assert not (tmp_path / "m.pt").exists()
        assert read_record(record_path(tmp_path / "m.pt")).shown_status == "killed"
        again = subprocess.run(command("m.pt"), cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
        assert "going on after epoch" in again.stderr and "epoch 5" in again.stdout and "epoch 1:" not in again.stdout
        recipe = Recipe(epochs=5, batch_size=2, patience=0, mixup=0.3)
        whole = train_to_file(few, tmp_path / "w.pt", head="finetune", size_px=SIZE_PX, input_px=32, recipe=recipe)
        killed = load_bundle(tmp_path / "m.pt")
        assert same(killed.state, whole.state) and killed.meta.temperature == whole.meta.temperature
        history = json.loads((tmp_path / "m.run.json").read_text())["history"]
        assert history == json.loads((tmp_path / "w.run.json").read_text())["history"]
        assert not list(tmp_path.glob(".m*"))


@pytest.mark.parametrize("side", [32, 48, 64])
def test_a_single_small_tile(side, few):
    """Some kernels for one small tile refuse parameters that were made in inference mode."""
    trained = train(few, size_px=side)
    assert said(unsaved(trained), [np.zeros((3, side, side), np.uint8)]).sum() == pytest.approx(1)
    from geoclass.learning.features import extract_features

    network = backbones.build("efficientnet_lite0", classes=3)
    alone = read_class_folders(few, side).take(np.array([1]))
    norm = backbones.normalisation("efficientnet_lite0")
    assert extract_features(network, alone, norm, cache=False).shape[0] == 1


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "kind", "word"),
        [
            ({"backbone": "resnet51"}, BundleError, "unknown backbone"),
            ({"backbone": "deit_tiny_distilled_patch16_224"}, BundleError, "one linear layer"),
            ({"size_px": 0}, GeoclassError, "--size"),
            ({"gsd_m": -1.0}, GeoclassError, "--gsd"),
            ({"gsd_m": float("nan")}, GeoclassError, "--gsd"),
            ({"sensor": "radar"}, ConfigError, "unknown sensor"),
            ({"scheme": "none"}, ConfigError, "unknown scheme"),
            ({"head": "boosting"}, GeoclassError, "unknown head"),
            ({"views": 0}, GeoclassError, "--views"),
            ({"views": 9}, GeoclassError, "--views"),
            ({"input_px": 0}, GeoclassError, "--input-size"),
            ({"sample_share": 0.0}, GeoclassError, "--sample-frac"),
            ({"sample_share": float("nan")}, GeoclassError, "--sample-frac"),
            ({"device": "tpu"}, GeoclassError, "device"),
        ],
    )
    def test_wrong_options_are_told_before_any_picture_is_read(self, few, monkeypatch, options, kind, word):
        monkeypatch.setattr("geoclass.datasets.tileset.read_picture", None)
        with pytest.raises(kind, match=word):
            train(few, **options)

    def test_a_sensor_without_the_colours(self, few):
        radar = load_sensor("rgb8").model_copy(update={"bands": load_sensor("rgb8").bands[:1]})
        with pytest.raises(ConfigError, match="no band green, blue"):
            train(few, sensor=radar)

    def test_a_size_that_the_backbone_does_not_take(self, few):
        with pytest.raises(BundleError, match="alexnet does not take tiles of 32 px"):
            train(few, backbone="alexnet", weights=None, size_px=32)
        with pytest.raises(BundleError, match="alexnet does not take tiles of 32 px"):
            train(few, backbone="alexnet", weights=None, size_px=SIZE_PX, input_px=32)

    @pytest.mark.parametrize(
        "arguments",
        [["--learning-rate", "0"], ["--epochs", "0"], ["--ema", "2"], ["--views", "9"], ["--weights", "none.pth"]],
    )
    def test_on_the_command_line_in_one_line(self, few, tmp_path, arguments):
        done = CliRunner().invoke(main, ["train", str(few), "-o", str(tmp_path / "m.pt"), "--size", "64", *arguments])
        assert done.exit_code == 2
        text = done.stderr if hasattr(done, "stderr") else done.output
        assert text.strip().count("\n") == 0 and text.strip().startswith("geoclass: error:")
        assert not (tmp_path / "m.pt").exists()


def test_nothing_is_warned_of(few):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for head in HEADS:
            train(few, head=head, size_px=SIZE_PX, recipe=replace(QUICK, epochs=1))


def test_real_imagery(test_data, tmp_path):
    """12 training and 12 other tiles of each RSSCN7 class: far above chance (0.14) even from so few."""
    source = test_data / "rsscn7_224"
    if not source.is_dir():
        pytest.skip(f"no {source}")
    held = []
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        (tmp_path / "t" / folder.name).mkdir(parents=True)
        files = sorted(folder.glob("*.jpg"))[::16][:24]
        for path in files[::2]:
            (tmp_path / "t" / folder.name / path.name).write_bytes(path.read_bytes())
        held += [(path, folder.name) for path in files[1::2]]
    trained = train(tmp_path / "t")
    meta = trained.meta
    assert meta.scheme == load_scheme("rsscn7") and (meta.input_px, meta.views) == (112, 4)
    pictures = [np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1) for path, _ in held]
    named = said(unsaved(trained), pictures).argmax(axis=1)
    assert np.mean([meta.scheme.names[k] == name for k, (_, name) in zip(named, held, strict=True)]) >= 0.62


def test_the_command_s_defaults_are_the_library_s():
    from geoclass.cli.train import command

    defaults = {parameter.name: parameter.default for parameter in command.params}
    for settings in (Recipe(), Method()):
        for field in dataclasses.fields(settings):
            if field.name not in ("recipe", "weights") and field.name in defaults:
                ours = getattr(settings, field.name)
                if ours not in (None, False):  # click has a mark of its own for an option without a default
                    assert defaults[field.name] == ours, field.name
    assert {field.name for field in dataclasses.fields(Recipe)} <= set(defaults)
