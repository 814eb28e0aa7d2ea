"""Single pictures: whatever people have lying about, as one tile each."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from click.testing import CliRunner, Result
from PIL import Image

from geoclass import backbones
from geoclass.bundle import Bundle, BundleMeta, load_bundle
from geoclass.cli import main
from geoclass.errors import DatasetError, GeoclassError
from geoclass.predict import Predictor
from geoclass.schemes import load_scheme
from geoclass.sensors import load_sensor
from geoclass.single import classify_pictures

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """A smooth picture of 224 px, which survives JPEG and resampling."""
    lines, columns = np.mgrid[:224, :224]
    bands = [128 + 100 * np.sin(lines / 31 + k) * np.cos(columns / 23 - k) for k in range(3)]
    return Image.fromarray(np.stack(bands, axis=-1).astype(np.uint8))


@pytest.fixture(scope="module")
def bundle(tiny_bundle) -> Bundle:
    return load_bundle(tiny_bundle)


def directly(bundle: Bundle, tile: np.ndarray) -> np.ndarray:
    return Predictor(bundle, bundle.meta.sensor, device=torch.device("cpu"))([tile]).probabilities[0]


def band_bundle(sensor: str, bands: tuple[str, ...], size_px: int = 32) -> Bundle:
    norm = backbones.normalisation("efficientnet_lite0", len(bands))
    meta = BundleMeta(
        backbone="efficientnet_lite0", scheme=load_scheme("rsscn7"), sensor=load_sensor(sensor), bands=bands, size_px=size_px,
        mean=norm.mean, std=norm.std, created="2020-01-01T00:00:00+00:00", geoclass_version="0.1.0",
    )  # fmt: skip
    network = backbones.build("efficientnet_lite0", classes=7, bands=len(bands))
    return Bundle(meta, dict(network.state_dict()), "")


def write_tiff(path: Path, pixels: np.ndarray) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        count, high, wide = pixels.shape
        with rasterio.open(path, "w", driver="GTiff", count=count, height=high, width=wide, dtype=pixels.dtype) as chip:
            chip.write(pixels)
    return path


class TestPictures:
    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "L", "LA"])
    def test_every_kind_says_what_its_colours_say(self, picture, bundle, tmp_path, mode):
        plain = picture.convert("L").convert("RGB") if mode in ("L", "LA") else picture
        stored = plain.quantize(256) if mode == "P" else plain.convert(mode)
        path = tmp_path / f"x.{'tif' if mode == 'CMYK' else 'png'}"
        stored.save(path)
        wanted = directly(bundle, np.asarray(stored.convert("RGB")).transpose(2, 0, 1))
        found = classify_pictures([path], bundle)
        assert found.paths == (path,) and found.probabilities[0] == pytest.approx(wanted, abs=1e-5)
        if mode not in ("P", "CMYK"):
            assert wanted == pytest.approx(directly(bundle, np.asarray(plain).transpose(2, 0, 1)), abs=1e-5)

    def test_the_middle_square_of_a_larger_picture(self, picture, bundle, tmp_path):
        """Twice the size, with strips that must not matter at both ends."""
        wide = Image.new("RGB", (900, 448), (255, 0, 255))
        wide.paste(picture.resize((448, 448), Image.Resampling.BICUBIC), ((900 - 448) // 2, 0))
        wide.save(tmp_path / "wide.jpg", quality=98)
        wide.transpose(Image.Transpose.TRANSPOSE).save(tmp_path / "high.png")
        wanted = directly(bundle, np.asarray(picture).transpose(2, 0, 1))
        turned = directly(bundle, np.asarray(picture.transpose(Image.Transpose.TRANSPOSE)).transpose(2, 0, 1))
        found = classify_pictures([tmp_path / "wide.jpg", tmp_path / "high.png"], bundle).probabilities
        assert found[0] == pytest.approx(wanted, abs=0.02) and found[1] == pytest.approx(turned, abs=0.02)

    @pytest.mark.parametrize("size", [(1, 1), (3, 500), (6000, 4000)])
    def test_tiny_narrow_and_large(self, bundle, tmp_path, size):
        Image.new("RGB", size, (90, 120, 60)).save(tmp_path / "x.png")
        flat = np.full((3, 224, 224), 0, np.uint8) + np.array([90, 120, 60], np.uint8)[:, None, None]
        found = classify_pictures([tmp_path / "x.png"], bundle).probabilities[0]
        assert found == pytest.approx(directly(bundle, flat), abs=1e-5)

    def test_folders_in_folders_and_any_batch(self, picture, bundle, tmp_path):
        for k, name in enumerate(("b/2.png", "a.jpg", "b/c/3.tif", "b/1.PNG", "b/notes.txt")):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x") if path.suffix == ".txt" else picture.rotate(40 * k).save(path)
        seen: list[tuple[str, int, int]] = []
        found = classify_pictures([tmp_path], bundle, batch_size=3, progress=lambda *step: seen.append(step))
        assert [path.relative_to(tmp_path).as_posix() for path in found.paths] == [
            "a.jpg",
            "b/1.PNG",
            "b/2.png",
            "b/c/3.tif",
        ]
        assert seen == [("classifying", 3, 4), ("classifying", 4, 4)]
        for path, row in zip(found.paths, found.probabilities, strict=True):
            assert row == pytest.approx(classify_pictures([path], bundle).probabilities[0], abs=1e-4)

    def test_those_that_cannot_be_read_are_named_and_the_rest_keep_their_answers(self, picture, bundle, tmp_path):
        for name in ("a.png", "c.png", "e.png"):
            picture.rotate(ord(name[0])).save(tmp_path / name)
        (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:500])
        (tmp_path / "d.jpg").write_text("no picture")
        found = classify_pictures([tmp_path], bundle, batch_size=2)
        assert [path.name for path in found.paths] == ["a.png", "c.png", "e.png"]
        assert [path.name for path in found.unreadable] == ["b.png", "d.jpg"]
        for path, row in zip(found.paths, found.probabilities, strict=True):
            assert row == pytest.approx(classify_pictures([path], bundle).probabilities[0], abs=1e-4)

    def test_refused(self, bundle, tmp_path):
        (tmp_path / "empty").mkdir()
        (tmp_path / "x.jpg").write_text("no picture")
        for inputs, word in (
            ([], "no picture given"), ([tmp_path / "none.jpg"], "no such picture"), ([tmp_path / "empty"], "holds no picture"),
            ([tmp_path / "x.jpg"], "cannot be read as a picture"),
        ):  # fmt: skip
            with pytest.raises(DatasetError, match=word):
                classify_pictures(inputs, bundle)


class TestBands:
    def test_four_bands(self, tmp_path):
        bundle = band_bundle("naip", ("red", "green", "blue", "nir"))
        pixels = np.random.default_rng(0).integers(1, 255, (4, 32, 32), dtype=np.uint8)
        found = classify_pictures([write_tiff(tmp_path / "x.tif", pixels)], bundle).probabilities[0]
        assert found == pytest.approx(directly(bundle, pixels), abs=1e-5)

    def test_the_middle_square_of_16_bits(self, tmp_path):
        """Strips at both ends are cut off; what is left is resampled in its own numbers."""
        bundle = band_bundle("sentinel2-l2a", ("red", "green", "blue", "nir"))
        pixels = np.full((12, 64, 200), 60_000, np.uint16)
        pixels[:, :, 68:132] = np.arange(500, 1700, 100, dtype=np.uint16)[:, None, None]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = classify_pictures([write_tiff(tmp_path / "x.tif", pixels)], bundle).probabilities[0]
        flat = np.zeros((4, 32, 32), np.uint16) + np.array([800, 700, 600, 1200], np.uint16)[:, None, None]
        assert found == pytest.approx(directly(bundle, flat), abs=1e-5)

    def test_a_photograph_for_a_model_of_reflectance(self, picture, tmp_path):
        """Its brightness taken for reflectance would be all but black."""
        picture.save(tmp_path / "x.jpg")
        with pytest.raises(GeoclassError, match="8-bit colours, sensor sentinel2-l2a has uint16"):
            classify_pictures([tmp_path / "x.jpg"], band_bundle("sentinel2-l2a", ("red", "green", "blue")))
        with pytest.raises(GeoclassError, match="holds red, green and blue, not red, green, blue, nir"):
            classify_pictures([tmp_path / "x.jpg"], band_bundle("naip", ("red", "green", "blue", "nir")))


class TestCommand:
    @pytest.fixture
    def run(self, tiny_bundle):
        def run(*arguments: object) -> Result:
            return CliRunner().invoke(
                main, ["predict", *map(str, arguments), "--model", str(tiny_bundle), "--device", "cpu"]
            )

        return run

    def test_a_table(self, run, picture, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        picture.save(tmp_path / "[bold] 1.jpg")
        (tmp_path / "[x] no.png").write_text("no picture")
        done = run(".", "--top", "2")
        assert done.exit_code == 0, done.output
        assert (
            "[bold] 1.jpg" in done.stdout and "not readable as a picture" in done.stderr and "[x] no.png" in done.stderr
        )
        (row,) = [line for line in done.stdout.splitlines() if "1.jpg" in line]
        assert sum(name in row.rpartition(".jpg")[2] for name in load_scheme("rsscn7").names) == 2

    def test_json(self, run, picture, bundle, tmp_path):
        picture.save(tmp_path / "Wald é.png")
        (tmp_path / "no.png").write_text("no picture")
        done = run(tmp_path, "--json")
        (row,) = json.loads(done.stdout)
        wanted = directly(bundle, np.asarray(picture).transpose(2, 0, 1))
        assert row["picture"].endswith("Wald é.png") and row["class"] == bundle.meta.scheme.names[int(wanted.argmax())]
        assert list(row["probabilities"].values()) == pytest.approx(wanted.tolist(), abs=1e-5)
        assert tuple(row["probabilities"]) == bundle.meta.scheme.names

    @pytest.mark.parametrize("arguments", [[], ["none.jpg"]])
    def test_errors_in_one_line(self, run, arguments):
        done = run(*arguments)
        assert done.exit_code == 2 and done.stderr.strip().startswith("geoclass: error: no ")
        assert done.stderr.strip().count("\n") == 0 and done.stdout == ""

    def test_no_model(self, picture, tmp_path):
        picture.save(tmp_path / "x.png")
        done = CliRunner().invoke(main, ["predict", str(tmp_path / "x.png")])
        assert done.exit_code == 2 and "no model named" in done.stderr
