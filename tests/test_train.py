"""Training on class folders: what is read, what is refused, and whether the head learns what it should."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

from geoclass import backbones
from geoclass.bundle import load_bundle
from geoclass.errors import BundleError, ConfigError, GeoclassError, OutputError
from geoclass.schemes import load_scheme
from geoclass.sensors import load_sensor
from geoclass.train import (
    VIEWS,
    extract_features,
    fit_head,
    read_class_folders,
    train,
    train_to_file,
    views_of,
)

MODULE = sys.modules["geoclass.train"]  # `geoclass.train` is the function
SIZE_PX = 64
TEXTURES = ("checks", "noise", "stripes")


def texture(kind: str, rng: np.random.Generator) -> np.ndarray:
    """(64, 64, 3) uint8 of one kind, each with colours, spacing and place of its own."""
    lines, columns = np.mgrid[:SIZE_PX, :SIZE_PX] + rng.integers(0, 20, (2, 1, 1))
    spacing = int(rng.integers(5, 9))
    if kind == "checks":
        pattern = (lines // spacing + columns // spacing) % 2
    elif kind == "stripes":
        pattern = lines // spacing % 2
    else:
        pattern = rng.random((SIZE_PX, SIZE_PX))
    low, high = rng.integers(0, 100, 3), rng.integers(140, 256, 3)
    return (low + np.asarray(pattern)[..., None] * (high - low)).astype(np.uint8)


def write_folders(root: Path, count: int, seed: int = 0, kinds: tuple[str, ...] = TEXTURES) -> Path:
    rng = np.random.default_rng(seed)
    for kind in kinds:
        (root / kind).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(texture(kind, rng)).save(root / kind / f"{number:03}.png")
    return root


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folders(tmp_path_factory.mktemp("tiles") / "county", 24)


@pytest.fixture
def few(tmp_path: Path) -> Path:
    return write_folders(tmp_path / "few", 3)


def refused(folder: Path, *words: str, **options: Any) -> None:
    with pytest.raises(GeoclassError) as caught:
        read_class_folders(folder, SIZE_PX, **options)
    said = str(caught.value)
    assert "\n" not in said
    for word in words:
        assert word in said, said


class TestReading:
    def test_pictures_and_labels_belong_together(self, few):
        tiles = read_class_folders(few, SIZE_PX)
        assert tiles.pictures.shape == (9, SIZE_PX, SIZE_PX, 3) and tiles.pictures.dtype == np.uint8
        assert tiles.scheme.names == TEXTURES and tiles.classes.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert (tiles.skipped, tiles.resized) == ((), 0)
        assert np.array_equal(tiles.pictures[4], np.asarray(Image.open(few / "noise" / "001.png")))

    def test_a_known_scheme_is_taken_in_its_own_order(self, tmp_path):
        write_folders(tmp_path / "t", 2, kinds=("river lake", "FOREST", "Field"))
        tiles = read_class_folders(tmp_path / "t", SIZE_PX)
        assert tiles.scheme == load_scheme("rsscn7").subset(("Field", "Forest", "RiverLake"))
        first = {name: np.asarray(Image.open(tmp_path / "t" / name / "000.png")) for name in ("FOREST", "river lake")}
        for folder, name in (("FOREST", "Forest"), ("river lake", "RiverLake")):
            at = next(k for k, picture in enumerate(tiles.pictures) if np.array_equal(picture, first[folder]))
            assert tiles.scheme.names[tiles.classes[at]] == name

    def test_folders_that_differ_in_punctuation_stay_apart(self, tmp_path):
        write_folders(tmp_path / "t", 2, kinds=("a b", "ab"))
        tiles = read_class_folders(tmp_path / "t", SIZE_PX)
        assert tiles.scheme.names == ("a b", "ab") and tiles.classes.tolist() == [0, 0, 1, 1]

    def test_names_beyond_ascii(self, tmp_path):
        write_folders(tmp_path / "t", 2, kinds=("森林", "水体"))
        tiles = read_class_folders(tmp_path / "t", SIZE_PX)
        assert tiles.scheme.names == ("森林", "水体") and tiles.classes.tolist() == [0, 0, 1, 1]

    def test_every_kind_of_8_bit_picture(self, tmp_path):
        """The same colours, stored in other ways, are read as the same brightness."""
        root = tmp_path / "t"
        write_folders(root, 2, kinds=("one", "two"))
        flat = Image.new("RGB", (SIZE_PX, SIZE_PX), (90, 90, 90))
        modes = {"L": "png", "P": "png", "RGBA": "png", "LA": "png", "RGB": "tif", "CMYK": "tif"}
        for mode, suffix in modes.items():
            stored = flat.quantize() if mode == "P" else flat.convert(mode)
            stored.save(root / "one" / f"x{mode}.{suffix}")
        flat.save(root / "one" / "xjpeg.JPEG", quality=95)
        with rasterio.open(
            root / "one" / "xchip.tif", "w", driver="GTiff", width=SIZE_PX, height=SIZE_PX, count=4, dtype="uint8",
            photometric="rgb", compress="deflate", tiled=True, blockxsize=16, blockysize=16,
        ) as chip:  # fmt: skip
            chip.write(np.full((4, SIZE_PX, SIZE_PX), 90, np.uint8))
        tiles = read_class_folders(root, SIZE_PX)
        assert tiles.skipped == () and len(tiles.pictures) == 4 + len(modes) + 2
        read = tiles.pictures[2 : 2 + len(modes) + 2].astype(int)
        assert np.abs(read - 90).max() <= 1

    def test_other_sizes_are_resized_and_counted(self, few):
        Image.new("RGB", (100, 80), (200, 100, 50)).save(few / "noise" / "000.png")
        tiles = read_class_folders(few, SIZE_PX)
        assert tiles.resized == 1 and tiles.pictures[3].tolist() == [[[200, 100, 50]] * SIZE_PX] * SIZE_PX

    def test_what_is_no_picture_or_hidden_is_left_alone(self, few):
        (few / "noise" / "notes.txt").write_text("no picture")
        (few / ".cache").mkdir()
        (few / "readme.md").write_text("no class")
        assert len(read_class_folders(few, SIZE_PX).pictures) == 9

    def test_a_few_unreadable_pictures_are_skipped_and_named(self, tmp_path):
        root = write_folders(tmp_path / "t", 20, kinds=("one", "two"))
        whole = (root / "one" / "003.png").read_bytes()
        (root / "one" / "003.png").write_bytes(whole[: len(whole) // 2])
        (root / "two" / "005.png").write_bytes(b"")
        tiles = read_class_folders(root, SIZE_PX)
        assert sorted(Path(path).name for path in tiles.skipped) == ["003.png", "005.png"]
        assert np.bincount(tiles.classes).tolist() == [19, 19] and len(tiles.pictures) == 38

    def test_too_many_unreadable_pictures(self, few):
        (few / "stripes" / "001.png").write_bytes(b"not a picture")
        refused(few, "1 of 9 pictures cannot be read", "001.png", "mend or remove")

    def test_no_folder_one_class_empty_class(self, tmp_path, few):
        refused(tmp_path / "none", "no such folder")
        refused(few / "noise", "0 class folders", "two or more")
        write_folders(tmp_path / "one", 3, kinds=("noise",))
        refused(tmp_path / "one", "1 class folders")
        (few / "water").mkdir()
        refused(few, "water", "fewer than 2 pictures", "remove the folder")

    def test_a_folder_that_is_no_class_of_the_scheme(self, few):
        refused(few, "checks", "no class of scheme 'rsscn7'", scheme=load_scheme("rsscn7"))

    @pytest.mark.parametrize("suffix", ["png", "tif"])
    @pytest.mark.parametrize("bands", [1, 3])
    def test_16_bit_pictures_are_refused_not_halved(self, few, suffix, bands):
        """Pillow would keep the high bytes of 16-bit colour without a word, and a sensor's scale is not that."""
        options = {"photometric": "rgb"} if (suffix, bands) == ("tif", 3) else {}
        with rasterio.open(
            few / "noise" / f"deep.{suffix}", "w", driver="GTiff" if suffix == "tif" else "PNG", width=SIZE_PX,
            height=SIZE_PX, count=bands, dtype="uint16", **options,
        ) as deep:  # fmt: skip
            deep.write(np.full((bands, SIZE_PX, SIZE_PX), 4000, np.uint16))
        refused(few, f"deep.{suffix}", "not an 8-bit picture", "gdal_translate")


class TestFeatures:
    @pytest.fixture
    def pictures(self) -> np.ndarray:
        rng = np.random.default_rng(1)
        return np.stack([texture(kind, rng) for kind in TEXTURES])

    def test_views_show_the_same_ground(self, pictures):
        views = views_of(pictures)
        assert len(views) == VIEWS
        for turn in range(4):
            assert np.array_equal(views[turn].permute(0, 2, 3, 1).numpy(), np.rot90(pictures, turn, (1, 2)))
        for view in views:
            assert view.shape == (3, 3, SIZE_PX, SIZE_PX)
            assert float(view.min()) >= 0 and float(view.max()) <= 255
            means = view.float().mean((2, 3)).numpy()
            assert means == pytest.approx(pictures.mean((1, 2)), abs=4)

    def test_each_view_has_its_own_features(self, pictures):
        """An unfused network given each view by itself must say the same, whatever the batches."""
        network = backbones.build("efficientnet_lite0", classes=3)
        norm = backbones.normalisation("efficientnet_lite0")
        seen: list[tuple[str, int, int]] = []
        found = extract_features(network, pictures, norm, batch_size=2, progress=lambda *step: seen.append(step))
        assert found.shape == (3, VIEWS, 1280) and found.dtype == np.float32
        plain = backbones.feature_network(network)
        for k, view in enumerate(views_of(pictures)):
            with torch.inference_mode():
                assert np.allclose(found[:, k], plain((view.float() - 127) / 128).numpy(), atol=1e-3)
        assert seen == [("features", 2, 3), ("features", 3, 3)]


def clouds(count: int, kinds: int, seed: int, views: int = 2, width: int = 6, apart: float = 3.0):
    """(N, V, F) points about one centre a class, and their classes. Views scatter by 0.1."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(0, apart, (kinds, width)) + 50
    classes = np.repeat(np.arange(kinds), count)
    points = centres[classes] + rng.normal(0, 1, (len(classes), width))
    return (points[:, None] + rng.normal(0, 0.1, (len(classes), views, width))).astype(np.float32), classes


class TestHead:
    def test_what_it_says_of_itself_is_what_unseen_points_show(self):
        """The cross-validated accuracy must lie within three standard errors of that on 3,000 other points."""
        features, classes = clouds(150, 3, seed=0, apart=1.0)
        head = fit_head(features, classes, 3)
        fresh, truth = clouds(1000, 3, seed=1, apart=1.0)
        right = ((fresh[:, 0] @ head.weight.T + head.bias).argmax(1) == truth).mean()
        assert 0.6 < right < 0.98  # overlapping enough for the figure to mean something
        assert abs(head.accuracy - right) < 3 * np.sqrt(right * (1 - right) / len(classes))

    def test_labels_without_meaning_score_as_chance(self):
        """Views of one picture in two folds would be recognised, and score near 1."""
        rng = np.random.default_rng(3)
        features = (rng.normal(0, 1, (80, 1, 200)) + rng.normal(0, 0.01, (80, 4, 200))).astype(np.float32)
        head = fit_head(features, np.tile(np.arange(2), 40), 2)
        assert head.accuracy < 0.7

    def test_two_classes_make_the_same_probabilities_as_a_plain_logistic_regression(self):
        """With one feature the rescaling is a standardisation; the penalty is the one that it says it chose."""
        rng = np.random.default_rng(4)
        classes = np.repeat([0, 1], 400)
        points = (rng.normal(0, 3, 800) + 4 * classes + 20).astype(np.float32)
        head = fit_head(points[:, None, None], classes, 2)
        standard = ((points - points.mean()) / points.std())[:, None]
        plain = LogisticRegression(C=1 / (head.penalty * len(points)), tol=1e-8).fit(standard, classes)
        ours = torch.from_numpy(points[:, None] @ head.weight.T + head.bias).softmax(1).numpy()
        assert ours == pytest.approx(plain.predict_proba(standard), abs=0.01)
        assert ours.std() > 0.1

    def test_a_class_of_the_scheme_without_tiles_is_never_said(self):
        features, classes = clouds(30, 3, seed=5)
        head = fit_head(features, np.array([0, 2, 3])[classes], 5)
        logits = torch.from_numpy(features[:, 0] @ head.weight.T + head.bias)
        probabilities = logits.softmax(1)
        assert bool(probabilities.isfinite().all())
        assert float(probabilities[:, [1, 4]].max()) == 0
        assert head.accuracy > 0.9

    def test_directions_in_which_views_differ_count_less(self):
        """One feature tells the classes but flickers between views; another tells them as well and is steady."""
        rng = np.random.default_rng(6)
        classes = np.repeat([0, 1], 200)
        signal = np.stack([classes, classes], 1) * 2.0 + rng.normal(0, 0.5, (400, 2))
        flicker = rng.normal(0, 1, (400, 4, 2)) * (1.0, 0.01)
        head = fit_head((signal[:, None] + flicker).astype(np.float32), classes, 2)
        assert abs(head.weight[1, 1]) > 2 * abs(head.weight[1, 0])

    def test_features_that_never_vary(self):
        features, classes = clouds(10, 2, seed=7)
        features[..., 3] = 0
        head = fit_head(features, classes, 2)
        assert np.isfinite(head.weight).all() and np.isfinite(head.bias).all()

    def test_two_pictures_a_class_are_enough(self):
        features, classes = clouds(2, 3, seed=8)
        assert fit_head(features, classes, 3).folds == 2

    def test_one_seed_one_result(self):
        features, classes = clouds(40, 3, seed=9, apart=1.0)
        one, two = (fit_head(features, classes, 3, seed=1) for _ in range(2))
        assert np.array_equal(one.weight, two.weight) and one.accuracy == two.accuracy


class TestTrain:
    @pytest.fixture(scope="class")
    @staticmethod
    def trained(folders, tmp_path_factory):
        out = tmp_path_factory.mktemp("model") / "m.pt"
        stages: list[str] = []
        made = train_to_file(folders, out, size_px=SIZE_PX, gsd_m=1.0, progress=lambda stage, *_: stages.append(stage))
        return out, made, stages

    def test_the_bundle_tells_textures_apart(self, trained):
        """On textures drawn from another seed, through the file, as prediction reads it."""
        bundle = load_bundle(trained[0])
        rng = np.random.default_rng(77)
        truth = np.repeat(np.arange(3), 20)
        pictures = np.stack([texture(TEXTURES[kind], rng) for kind in truth])
        x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (bundle.meta.mean, bundle.meta.std))
        with torch.inference_mode():
            said = bundle.network()((x - mean) / std).argmax(1).numpy()
        assert (said == truth).mean() >= 0.95

    def test_its_record(self, trained, folders):
        path, made, stages = trained
        bundle = load_bundle(path)
        assert bundle.digest == made.digest
        meta = bundle.meta
        assert meta.scheme.names == TEXTURES and meta.bands == ("red", "green", "blue")
        assert (meta.backbone, meta.size_px, meta.gsd_m, meta.temperature) == ("efficientnet_lite0", SIZE_PX, 1.0, 1.0)
        assert meta.training["source"] == "county" and os.sep not in meta.training["source"]
        assert meta.training["tiles_per_class"] == dict.fromkeys(TEXTURES, 24)
        assert meta.training["cross_validated_accuracy"] >= 0.9
        assert stages[0] == "features" and stages[-1] == "fitting"
        assert str(folders) not in meta.model_dump_json()

    def test_its_brightness_is_that_of_the_tiles(self, trained, folders):
        brightness = np.array(load_bundle(trained[0]).meta.brightness)
        assert brightness.sum(axis=1) == pytest.approx([1, 1, 1], abs=1e-4)
        pictures = read_class_folders(folders, SIZE_PX).pictures
        means = brightness @ (np.arange(32) * 8 + 3.5)
        assert means == pytest.approx(pictures.reshape(-1, 3).mean(axis=0), abs=2)

    def test_only_the_classifier_changes(self, trained):
        original = backbones.build("efficientnet_lite0", classes=3).state_dict()
        differ = [name for name, t in load_bundle(trained[0]).state.items() if not torch.equal(t, original[name])]
        assert differ == ["classifier.weight", "classifier.bias"]

    def test_the_same_again(self, few):
        (_, one), (_, two) = (train(few, size_px=SIZE_PX) for _ in range(2))
        assert all(torch.equal(one[name], two[name]) for name in one)

    def test_another_backbone_with_weights_from_a_file(self, few, tmp_path):
        torch.save(backbones.build("resnet18", classes=9, weights=None).state_dict(), tmp_path / "w.pth")
        meta, state = train(few, backbone="resnet18", weights=tmp_path / "w.pth", size_px=SIZE_PX)
        assert meta.mean == backbones.normalisation("resnet18").mean
        assert state["fc.weight"].shape == (3, 512)

    def test_sensor_and_scheme_by_name(self, tmp_path):
        write_folders(tmp_path / "t", 2, kinds=("Field", "Forest"))
        meta, state = train(tmp_path / "t", size_px=SIZE_PX, sensor="naip", scheme="rsscn7")
        assert meta.sensor == load_sensor("naip") and len(meta.scheme) == 7
        assert meta.training["tiles_per_class"]["RiverLake"] == 0 and state["classifier.bias"].shape == (7,)

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
        ],
    )
    def test_wrong_options_are_told_before_any_picture_is_read(self, few, monkeypatch, options, kind, word):
        monkeypatch.setattr(MODULE, "_read_picture", None)
        with pytest.raises(kind, match=word):
            train(few, **options)

    def test_a_sensor_without_the_colours(self, few):
        radar = load_sensor("rgb8").model_copy(update={"bands": load_sensor("rgb8").bands[:1]})
        with pytest.raises(ConfigError, match="no band green, blue"):
            train(few, sensor=radar)

    def test_a_size_that_the_backbone_does_not_take(self, few, tmp_path):
        torch.save(backbones.build("alexnet", classes=3, weights=None).state_dict(), tmp_path / "w.pth")
        with pytest.raises(BundleError, match="alexnet does not take tiles of 32 px"):
            train(few, backbone="alexnet", weights=tmp_path / "w.pth", size_px=32)

    def test_an_existing_bundle_is_found_before_the_work(self, few, tmp_path, monkeypatch):
        (tmp_path / "m.pt").write_bytes(b"mine")
        monkeypatch.setattr(MODULE, "train", None)
        with pytest.raises(OutputError, match="--overwrite"):
            train_to_file(few, tmp_path / "m.pt")
        assert (tmp_path / "m.pt").read_bytes() == b"mine"


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
    meta, state = train(tmp_path / "t")
    assert meta.scheme == load_scheme("rsscn7")
    network = backbones.build(meta.backbone, classes=7, weights=None)
    network.load_state_dict(state)
    pictures = np.stack([np.asarray(Image.open(path).convert("RGB")) for path, _ in held])
    x = (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() - 127) / 128
    with torch.inference_mode():
        said = network(x).argmax(1).tolist()
    assert np.mean([meta.scheme.names[k] == name for k, (_, name) in zip(said, held, strict=True)]) >= 0.62
