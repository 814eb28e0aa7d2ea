"""Sensors: bands are found by name, dates and sensors by file name, and numbers become brightness by one rule."""

import re
from pathlib import Path

import pytest
import rasterio

from geoclass.configs import config_names
from geoclass.errors import ConfigError
from geoclass.sensors import Scale, guess_sensor, load_sensor, require_bands

SENSORS = ("naip", "rgb8", "sentinel2-l1c", "sentinel2-l2a")
S2_BANDS = {
    "B01": "coastal",
    "B02": "blue",
    "B03": "green",
    "B04": "red",
    "B05": "rededge1",
    "B06": "rededge2",
    "B07": "rededge3",
    "B08": "nir",
    "B8A": "nir08",
    "B09": "nir09",
    "B10": "cirrus",
    "B11": "swir16",
    "B12": "swir22",
}


def test_shipped_sensors_are_these() -> None:
    assert tuple(config_names("sensors")) == SENSORS


@pytest.mark.parametrize("name", SENSORS)
def test_no_two_bands_answer_to_one_label(name: str) -> None:
    """Labels are compared without case and punctuation, so B1 must not also mean B10, nor B8 mean B8A."""
    sensor = load_sensor(name)
    assert sensor.name == name
    assert sensor.title
    assert sensor.source
    owners: dict[str, str] = {}
    for band in sensor.bands:
        for label in (band.name, *band.aliases):
            assert sensor.band_for(label) == band.name
            folded = re.sub(r"[^a-z0-9]", "", label.lower())
            assert owners.setdefault(folded, band.name) == band.name, f"{label} names two bands"


@pytest.mark.parametrize("level", ["l1c", "l2a"])
def test_sentinel2_bands_by_official_name(level: str) -> None:
    sensor = load_sensor(f"sentinel2-{level}")
    wanted = {code: name for code, name in S2_BANDS.items() if level == "l1c" or code != "B10"}
    assert sensor.band_names == tuple(wanted.values())
    for code, name in S2_BANDS.items():
        expected = name if code in wanted else None
        assert sensor.band_for(code) == expected
        assert sensor.band_for(code.replace("B0", "B")) == expected
    assert sensor.band_for("13") is None


@pytest.mark.parametrize("level", ["l1c", "l2a"])
def test_sentinel2_plain_numbers_mean_the_same_by_position_and_by_name(level: str) -> None:
    """From B8A on, position and official number differ, so a plain number is no name there."""
    sensor = load_sensor(f"sentinel2-{level}")
    for position in range(1, 9):
        assert sensor.band_for(str(position)) == sensor.band_names[position - 1]
    for position in range(9, 14):
        assert sensor.band_for(str(position)) is None


def test_sentinel2_ground_sampling_distances() -> None:
    gsd_m = {band.name: band.gsd_m for band in load_sensor("sentinel2-l1c").bands}
    assert {name for name, value in gsd_m.items() if value == 10} == {"blue", "green", "red", "nir"}
    assert {name for name, value in gsd_m.items() if value == 60} == {"coastal", "nir09", "cirrus"}


@pytest.mark.parametrize("label", ["1", "b1", "B1", "Band 1", "band_1", "Red", "RED", "r"])
def test_naip_first_band_by_any_habit(label: str) -> None:
    assert load_sensor("naip").band_for(label) == "red"


def test_naip_alpha_is_infrared_and_its_range_is_full() -> None:
    sensor = load_sensor("naip")
    assert sensor.alpha_is == "nir"
    assert sensor.band_names == ("red", "green", "blue", "nir")
    assert sensor.scale.affine() == (1.0, 0.0)
    assert load_sensor("rgb8").scale.affine() == (1.0, 0.0)


def test_scale_is_the_formula_of_its_docstring() -> None:
    a, b = Scale(gain=1e-4, offset=-1000.0, low=0.05, high=0.35).affine()
    assert a * 1500 + b == pytest.approx(0.0)
    assert a * 4500 + b == pytest.approx(255.0)
    assert a * 3000 + b == pytest.approx(127.5)


@pytest.mark.parametrize(("level", "white"), [("l1c", 3558), ("l2a", 3000)])
def test_sentinel2_saturates_where_its_config_says(level: str, white: int) -> None:
    a, b = load_sensor(f"sentinel2-{level}").scale.affine()
    assert b == 0.0
    assert a * white == pytest.approx(255.0)


@pytest.mark.parametrize(
    ("sensor", "stem", "band", "date"),
    [
        ("naip", "NAIP-VA-b1", "red", None),
        ("naip", "NAIP-VA-b4", "nir", None),
        ("naip", "m_3607717_sw_18_1_20160620_subset", None, "2016-06-20"),
        ("naip", "m_3211605_ne_11_060_20200415", None, "2020-04-15"),
        ("naip", "m_3211605_ne_11_060_20210901_20211103", None, "2021-09-01"),
        ("naip", "m_4709963_se_14_1_20090818", None, "2009-08-18"),
        ("naip", "m_3607717_sw_18_1", None, None),
        ("sentinel2-l1c", "T33UUU_20170216T102101_B02", "blue", "2017-02-16"),
        ("sentinel2-l1c", "T33UUU_20170216T102101_B8A", "nir08", "2017-02-16"),
        ("sentinel2-l1c", "T33UUU_20170216T102101_B10", "cirrus", "2017-02-16"),
        ("sentinel2-l1c", "B12", "swir22", None),
        ("sentinel2-l2a", "T33UUU_20230611T101601_B8A_20m", "nir08", "2023-06-11"),
        ("sentinel2-l2a", "T33UUU_20230611T101601_B01_60m", "coastal", "2023-06-11"),
        ("sentinel2-l2a", "T33UUU_20230611T101601_TCI_10m", None, "2023-06-11"),
        ("sentinel2-l2a", "S2B_MSIL2A_20230611T101601_N0509_R065_T33UUU_20230611T151212", None, "2023-06-11"),
        ("rgb8", "photo_20200101", None, None),
    ],
)
def test_band_and_date_in_file_names(sensor: str, stem: str, band: str | None, date: str | None) -> None:
    described = load_sensor(sensor)
    assert described.band_in_file_name(stem) == band
    assert described.date_in_file_name(stem) == date


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["m_3607717_sw_18_1_20160620_subset.tif", "m_3607824_se_17_1_20160620_subset.tif"], "naip"),
        (["m_3211605_ne_11_060_20210901_20211103.tif"], "naip"),
        (["NAIP-VA-b1.tiff", "NAIP-VA-b2.tiff"], "naip"),
        (["T33UUU_20170216T102101_B02.jp2", "T33UUU_20170216T102101_B8A.jp2"], "sentinel2-l1c"),
        (["T33UUU_20230611T101601_B02_10m.jp2"], "sentinel2-l2a"),
        (["S2A_MSIL1C_20230611T101601_N0509_R065_T33UUU_20230611T121212.SAFE"], "sentinel2-l1c"),
        (["S2C_MSIL2A_20250611T101601_N0511_R065_T33UUU_20250611T121212.SAFE"], "sentinel2-l2a"),
        (["county.tif"], None),
        (["B02.jp2"], None),  # both levels are distributed under such names
        (["m_3607717_sw_18_1_20160620.tif", "county.tif"], None),
    ],
)
def test_the_sensor_is_guessed_from_file_names_only_when_all_agree(names: list[str], expected: str | None) -> None:
    guessed = guess_sensor(names)
    assert (guessed.name if guessed else None) == expected


def test_real_files_are_recognised(test_data: Path) -> None:
    folders = {"naip_1m": "naip", "naip_5m_years": "naip", "sentinel2_l1c_T33UUU": "sentinel2-l1c"}
    for folder, expected in folders.items():
        files = [path for path in sorted((test_data / folder).iterdir()) if path.suffix in (".tif", ".tiff", ".jp2")]
        assert files
        guessed = guess_sensor([path.name for path in files])
        assert guessed is not None
        assert guessed.name == expected
    bands = {guessed.band_in_file_name(path.stem) for path in files} if guessed else set()
    assert bands == set(S2_BANDS.values())


def test_brightness_of_real_imagery_is_plausible(test_data: Path) -> None:
    """Each sensor's typical mean holds for real files, and tells the stored numbers from scaled ones."""
    for folder, name, pattern in (
        ("naip_1m", "naip", "m_*.tif"),
        ("sentinel2_l1c_T33UUU", "sentinel2-l1c", "*B0[234].jp2"),
    ):
        sensor = load_sensor(name)
        a, b = sensor.scale.affine()
        low, high = sensor.typical_mean
        for path in (test_data / folder).glob(pattern):
            with rasterio.open(path) as source:
                stored = source.read().astype("float32")
            assert low < (a * stored + b).clip(0, 255).mean() < high
            if sensor.scale.gain != 1.0:
                assert not low < stored.clip(0, 255).mean() < high


def test_require_bands_says_what_there_is() -> None:
    require_bands(load_sensor("naip"), ["red", "nir"], "m.pt")
    with pytest.raises(ConfigError, match=r"m\.pt: sensor 'rgb8' has no band nir; it has red, green, blue"):
        require_bands(load_sensor("rgb8"), ["red", "nir"], "m.pt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "x"\ndtypes = ["uint8"]\n', "bands"),
        ('name = "x"\ndtypes = ["uint8"]\nfile_pattern = "("\n[[bands]]\nname = "red"\n', "file_pattern"),
        ('name = "x"\ndtypes = ["uint8"]\ngsd_m = -1\n[[bands]]\nname = "red"\n', "gsd_m"),
        ('name = "x"\ndtypes = ["uint8"]\ngain = 2\n[[bands]]\nname = "red"\n', "gain"),
        ("name = x", "not valid TOML"),
    ],
)
def test_a_wrong_sensor_is_refused_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_sensor(path)
    assert message in str(caught.value)


def test_an_unknown_sensor_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"unknown sensor 'nape'; choose one of naip, rgb8, sentinel2-l1c"):
        load_sensor("nape")
