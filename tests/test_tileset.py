"""Labelled tiles: which pictures of class folders are read, what is refused, and what a tile set says of itself."""

import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from conftest import TEXTURE_PX as SIZE_PX
from conftest import TEXTURES, write_textures
from PIL import Image

from geoclass.datasets.pictures import read_picture
from geoclass.datasets.tileset import BUFFER, TEST, TRAIN, VALIDATION, TileSet, read_class_folders
from geoclass.errors import ConfigError, DatasetError, GeoclassError
from geoclass.schemes import load_scheme
from geoclass.sensors import load_sensor


@pytest.fixture
def few(tmp_path: Path) -> Path:
    return write_textures(tmp_path / "few", 3)


def every(tiles: TileSet) -> np.ndarray:
    return tiles.read(np.arange(len(tiles)))


def refused(folder: Path, *words: str, **options: Any) -> None:
    with pytest.raises(GeoclassError) as caught:
        read_class_folders(folder, SIZE_PX, **options)
    said = str(caught.value)
    assert "\n" not in said
    for word in words:
        assert word in said, said


def write_chip(path: Path, pixels: np.ndarray, names: tuple[str, ...] = (), **profile: Any) -> Path:
    """A TIFF of (bands, height, width), without a place."""
    count, high, wide = pixels.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver="GTiff", count=count, height=high, width=wide, dtype=pixels.dtype, **profile
        ) as chip:
            chip.write(pixels)
            if names:
                chip.descriptions = names
    return path


class TestReading:
    def test_pictures_and_labels_belong_together(self, few):
        tiles = read_class_folders(few, SIZE_PX)
        pictures = every(tiles)
        assert pictures.shape == (9, 3, SIZE_PX, SIZE_PX) and pictures.dtype == np.uint8
        assert tiles.scheme.names == TEXTURES and tiles.classes.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert (tiles.skipped, tiles.resized, tiles.source) == ((), 0, "few")
        assert np.array_equal(pictures[4].transpose(1, 2, 0), np.asarray(Image.open(few / "noise" / "001.png")))
        assert tiles.keys[4] == "noise/001.png" and set(tiles.split) == {TRAIN}
        assert np.array_equal(tiles.read([7, 2]), pictures[[7, 2]])

    def test_pictures_deeper_than_a_class_folder_are_told(self, few, caplog):
        (few / "noise" / "more").mkdir()
        for name in ("000.png", "001.png"):
            shutil.copy(few / "noise" / name, few / "noise" / "more" / name)
        assert len(read_class_folders(few, SIZE_PX)) == 9
        assert "2 pictures lie in folders within the class folders and are left out, first " in caplog.text

    def test_a_known_scheme_is_taken_in_its_own_order(self, tmp_path):
        write_textures(tmp_path / "t", 2, kinds=("river lake", "FOREST", "Field"))
        tiles = read_class_folders(tmp_path / "t", SIZE_PX)
        assert tiles.scheme == load_scheme("rsscn7").subset(("Field", "Forest", "RiverLake"))
        first = {name: np.asarray(Image.open(tmp_path / "t" / name / "000.png")) for name in ("FOREST", "river lake")}
        for folder, name in (("FOREST", "Forest"), ("river lake", "RiverLake")):
            pictures = every(tiles).transpose(0, 2, 3, 1)
            at = next(k for k, picture in enumerate(pictures) if np.array_equal(picture, first[folder]))
            assert tiles.scheme.names[tiles.classes[at]] == name

    def test_folders_that_differ_in_punctuation_stay_apart(self, tmp_path):
        write_textures(tmp_path / "t", 2, kinds=("a b", "ab"))
        tiles = read_class_folders(tmp_path / "t", SIZE_PX)
        assert tiles.scheme.names == ("a b", "ab") and tiles.classes.tolist() == [0, 0, 1, 1]

    def test_names_beyond_ascii(self, tmp_path):
        write_textures(tmp_path / "t", 2, kinds=("森林", "水体"))
        tiles = read_class_folders(tmp_path / "t", SIZE_PX)
        assert tiles.scheme.names == ("森林", "水体") and tiles.classes.tolist() == [0, 0, 1, 1]

    def test_every_kind_of_8_bit_picture(self, tmp_path):
        """The same colours, stored in other ways, are read as the same brightness."""
        root = write_textures(tmp_path / "t", 2, kinds=("one", "two"))
        flat = Image.new("RGB", (SIZE_PX, SIZE_PX), (90, 90, 90))
        modes = {
            "1": "png",
            "L": "png",
            "P": "png",
            "RGBA": "png",
            "LA": "png",
            "RGB": "tif",
            "CMYK": "tif",
            "YCbCr": "jpg",
        }
        for mode, suffix in modes.items():
            stored = flat.quantize() if mode == "P" else flat.convert(mode)
            stored.save(root / "one" / f"x{mode}.{suffix}", **({"quality": 95} if suffix == "jpg" else {}))
        flat.convert("CMYK").save(root / "one" / "xcmyk.jpg", quality=95)
        flat.save(root / "one" / "xjpeg.JPEG", quality=95)
        profile = {"photometric": "rgb", "compress": "deflate", "tiled": True, "blockxsize": 16, "blockysize": 16}
        write_chip(root / "one" / "xchip.tif", np.full((4, SIZE_PX, SIZE_PX), 90, np.uint8), **profile)
        write_chip(root / "one" / "xplain.tif", np.full((4, SIZE_PX, SIZE_PX), 90, np.uint8))
        write_chip(root / "one" / "xapart.tif", np.full((3, SIZE_PX, SIZE_PX), 90, np.uint8), interleave="band")
        tiles = read_class_folders(root, SIZE_PX)
        assert tiles.skipped == () and len(tiles) == 4 + len(modes) + 5
        read = {key: tiles.read([k])[0].astype(int) for k, key in enumerate(tiles.keys) if "/x" in key}
        black_and_white = read.pop("one/x1.png")
        assert set(np.unique(black_and_white)) <= {0, 255}
        for key, picture in read.items():
            assert np.abs(picture - 90).max() <= 1, key

    def test_other_sizes_are_resized_and_counted(self, few):
        Image.new("RGB", (100, 80), (200, 100, 50)).save(few / "noise" / "000.png")
        Image.new("RGB", (1, 1), (7, 8, 9)).save(few / "noise" / "001.png")
        tiles = read_class_folders(few, SIZE_PX)
        assert tiles.resized == 2
        for k, colour in ((3, (200, 100, 50)), (4, (7, 8, 9))):
            assert (tiles.read([k])[0] == np.array(colour)[:, None, None]).all()

    def test_what_is_no_picture_or_hidden_is_left_alone(self, few):
        (few / "noise" / "notes.txt").write_text("no picture")
        (few / ".cache").mkdir()
        (few / "readme.md").write_text("no class")
        assert len(read_class_folders(few, SIZE_PX)) == 9

    def test_a_few_unreadable_pictures_are_skipped_and_named(self, tmp_path):
        root = write_textures(tmp_path / "t", 20, kinds=("one", "two"))
        whole = (root / "one" / "003.png").read_bytes()
        (root / "one" / "003.png").write_bytes(whole[: len(whole) // 2])
        (root / "two" / "005.png").write_bytes(b"")
        tiles = read_class_folders(root, SIZE_PX)
        assert sorted(Path(path).name for path in tiles.skipped) == ["003.png", "005.png"]
        assert np.bincount(tiles.classes).tolist() == [19, 19] and len(every(tiles)) == 38

    @pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
    def test_no_damage_raises_anything_but_a_one_line_error(self, tmp_path, suffix):
        """Cut anywhere, or with bytes turned over: a picture, nothing, or a GeoclassError, never another exception."""
        rng = np.random.default_rng(0)
        path = tmp_path / f"x.{suffix}"
        Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(path)
        whole = bytearray(path.read_bytes())
        for _ in range(150):
            broken = bytearray(whole)
            for at in rng.integers(0, len(whole), 4):
                broken[at] = int(rng.integers(256))
            path.write_bytes(broken[: int(rng.integers(1, len(whole) + 1))])
            for sensor in ("rgb8", "naip"):
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        read_picture(path, ("red", "green", "blue"), load_sensor(sensor), 24)
                except GeoclassError as error:
                    assert "\n" not in str(error)

    def test_too_many_unreadable_pictures(self, few):
        (few / "stripes" / "001.png").write_bytes(b"not a picture")
        refused(few, "1 of 9 pictures cannot be read", "001.png", "mend or remove")

    def test_a_class_left_with_one_picture(self, tmp_path):
        root = write_textures(tmp_path / "t", 30, kinds=("many",))
        write_textures(tmp_path / "u", 2, kinds=("rare",))
        (tmp_path / "u" / "rare").rename(root / "rare")
        (root / "rare" / "001.png").write_bytes(b"")
        refused(root, "class rare", "fewer than 2 pictures")

    def test_no_folder_one_class_empty_class(self, tmp_path, few):
        refused(tmp_path / "none", "no such folder")
        refused(few / "noise", "0 class folders", "two or more")
        write_textures(tmp_path / "one", 3, kinds=("noise",))
        refused(tmp_path / "one", "1 class folders")
        (few / "water").mkdir()
        refused(few, "water", "fewer than 2 pictures", "remove the folder")
        Image.new("RGB", (9, 9)).save(few / "water" / "a.png")
        refused(few, "water", "fewer than 2 pictures")

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


class TestBands:
    """Values tell which band is which: band k of a chip holds 10 k."""

    @staticmethod
    def chips(root: Path, dtype: str = "uint8", count: int = 4, names: tuple[str, ...] = ()) -> Path:
        for kind in ("one", "two"):
            (root / kind).mkdir(parents=True)
            for number in range(2):
                values = (10 * np.arange(1, count + 1)).astype(dtype)
                write_chip(root / kind / f"{number}.tif", np.tile(values[:, None, None], (1, 8, 8)), names)
        return root

    def levels(self, tiles: TileSet) -> list[float]:
        return every(tiles).mean(axis=(0, 2, 3)).tolist()

    def test_four_bands_in_the_order_of_the_sensor(self, tmp_path):
        root = self.chips(tmp_path / "t")
        naip = load_sensor("naip")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tiles = read_class_folders(root, 8, sensor=naip, bands=("red", "green", "blue", "nir"))
            assert self.levels(tiles) == [10, 20, 30, 40]
            swapped = read_class_folders(root, 8, sensor=naip, bands=("nir", "red"))
        assert self.levels(swapped) == [40, 10]

    def test_bands_are_found_by_their_names(self, tmp_path):
        """Also red, green and blue: a file that says it holds blue first must not be read as if red were first."""
        root = self.chips(tmp_path / "t", names=("Blue", "B2", "red", "NIR"))
        naip = load_sensor("naip")
        wide = read_class_folders(root, 8, sensor=naip, bands=("red", "green", "blue", "nir"))
        assert self.levels(wide) == [30, 20, 10, 40]
        assert self.levels(read_class_folders(root, 8, sensor=naip)) == [30, 20, 10]

    def test_numbers_of_16_bits_of_a_sensor_that_has_them(self, tmp_path):
        root = self.chips(tmp_path / "t", dtype="uint16", count=12)
        tiles = read_class_folders(root, 8, sensor=load_sensor("sentinel2-l2a"))
        assert every(tiles).dtype == np.uint16 and self.levels(tiles) == [40, 30, 20]

    def test_real_numbers_of_a_sensor_that_has_them(self, tmp_path):
        tiles = read_class_folders(self.chips(tmp_path / "t", dtype="float32", count=3), 8)
        assert every(tiles).dtype == np.float32 and self.levels(tiles) == [10, 20, 30]

    def test_other_sizes(self, tmp_path):
        tiles = read_class_folders(self.chips(tmp_path / "t"), 16, sensor=load_sensor("naip"), bands=("nir", "red"))
        assert every(tiles).shape == (4, 2, 16, 16) and tiles.resized == 4 and self.levels(tiles) == [40, 10]

    def test_bands_that_are_not_there(self, tmp_path, few):
        naip, wanted = load_sensor("naip"), ("red", "green", "blue", "nir")
        root = self.chips(tmp_path / "t", count=3)
        with pytest.raises(GeoclassError, match=r"3 bands, none of them nir; check --sensor and --bands"):
            read_class_folders(root, 8, sensor=naip, bands=wanted)
        with pytest.raises(GeoclassError, match="holds red, green and blue, not red, green, blue, nir"):
            read_class_folders(few, SIZE_PX, sensor=naip, bands=wanted)
        with pytest.raises(ConfigError, match="rgb8' has no band nir"):
            read_class_folders(few, SIZE_PX, bands=wanted)

    def test_a_band_named_twice(self, few):
        with pytest.raises(ConfigError, match="--bands names red twice; name each band once"):
            read_class_folders(few, SIZE_PX, bands=("red", "green", "red"))

    def test_a_picture_of_one_band_says_so(self, tmp_path):
        root = self.chips(tmp_path / "t", count=1)
        with pytest.raises(
            GeoclassError, match=r"\.tif is a picture of one band, where nir, red are wanted; take it out"
        ):
            read_class_folders(root, 8, sensor=load_sensor("naip"), bands=("nir", "red"))

    def test_numbers_that_are_not_the_sensors(self, tmp_path, few):
        with pytest.raises(GeoclassError, match=r"holds uint8, sensor sentinel2-l2a has uint16; check --sensor"):
            read_class_folders(self.chips(tmp_path / "t", count=12), 8, sensor=load_sensor("sentinel2-l2a"))
        # An 8-bit picture under a scale for reflectance would be all but black.
        with pytest.raises(GeoclassError, match="8-bit colours, sensor sentinel2-l2a has uint16"):
            read_class_folders(few, SIZE_PX, sensor=load_sensor("sentinel2-l2a"))


class TestTileSet:
    @pytest.fixture
    def tiles(self, few) -> TileSet:
        made = read_class_folders(few, SIZE_PX)
        split = np.array([TRAIN, TEST, BUFFER, TRAIN, VALIDATION, TEST, TRAIN, TRAIN, BUFFER])
        fractions = np.eye(3, dtype=np.float32)[made.classes] * np.linspace(0.2, 1, 9)[:, None].astype(np.float32)
        place = np.arange(9.0)
        return replace(
            made,
            split=split,
            fractions=fractions,
            x_m=place,
            y_m=-place,
            scenes=tuple("abcdefghi"),
            blocks=np.arange(9),
        )

    def test_a_split_keeps_everything_together(self, tiles):
        train = tiles.of(TRAIN)
        assert train.x_m.tolist() == [0, 3, 6, 7] and train.y_m.tolist() == [0, -3, -6, -7]
        assert train.scenes == ("a", "d", "g", "h") and train.blocks.tolist() == [0, 3, 6, 7]
        assert train.classes.tolist() == [0, 1, 2, 2] and len(train.of(TRAIN)) == 4
        assert np.array_equal(every(train), every(tiles)[[0, 3, 6, 7]])
        assert np.array_equal(train.fractions, tiles.fractions[[0, 3, 6, 7]])
        assert train.counts() == {"checks": 1, "noise": 1, "stripes": 2}
        assert len(tiles.of(TRAIN, TEST)) == 6 and len(tiles.of("none")) == 0

    def test_taking_by_mask_and_by_position(self, tiles):
        mask = tiles.classes == 1
        assert tiles.take(mask).keys == tiles.keys[3:6]
        assert tiles.take(np.array([5, 0])).keys == (tiles.keys[5], tiles.keys[0])

    def test_purity_is_the_share_among_what_has_a_class(self, tiles):
        mixed = replace(tiles, fractions=np.tile(np.float32([0.3, 0.1, 0]), (9, 1)))
        assert mixed.purity == pytest.approx(np.full(9, 0.75))
        assert replace(tiles, fractions=None).purity is None
        assert np.isfinite(replace(tiles, fractions=np.zeros((9, 3), np.float32)).purity).all()

    def test_the_fingerprint_tells_labels_splits_and_files(self, tiles, few):
        seen = {tiles.fingerprint()}
        assert tiles.fingerprint() in seen
        others = [
            replace(tiles, classes=tiles.classes[::-1].copy()),
            replace(tiles, split=tiles.split[::-1].copy()),
            replace(tiles, fractions=None),
            replace(tiles, size_px=32),
            tiles.take(np.arange(8)),
        ]
        seen |= {other.fingerprint() for other in others}
        Image.new("RGB", (SIZE_PX, SIZE_PX)).save(few / "noise" / "000.png")
        seen.add(tiles.fingerprint())
        assert len(seen) == 7

    def test_a_picture_that_is_gone(self, tiles, few):
        (few / "noise" / "001.png").unlink()
        with pytest.raises(DatasetError, match=r"001.png can no longer be read; put it back"):
            every(tiles)


def test_reading_does_not_need_torch():
    import subprocess

    code = "import sys, geoclass.datasets.tileset; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
