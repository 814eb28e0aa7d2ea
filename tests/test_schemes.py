"""Class schemes: the shipped ones are right and readable by everyone, and wrong ones are refused."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from geoclass.configs import config_names
from geoclass.errors import ConfigError
from geoclass.schemes import CATEGORICAL, ClassScheme, load_scheme, scheme_for_names

SCHEMES = ("eurosat10", "nlcd16", "nlcd3", "nlcd6", "rsscn7")
OWN_COLOURS = ("eurosat10", "nlcd3", "nlcd6", "rsscn7")

# Machado, Oliveira & Fernandes (2009), "A physiologically-based model for simulation of color vision deficiency",
# IEEE TVCG 15(6):1291–1298, table of matrices at severity 1.0, for linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
# sRGB to CIE XYZ under D65 (IEC 61966-2-1).
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)

# CIE 1976 distance. A just noticeable difference is about 2.3; a tenfold one still shows on a small legend swatch,
# or with the map's colours laid half-transparent over imagery.
LEAST_DISTANCE = 25.0


def linear(colour: str) -> NDArray[np.float64]:
    value = np.array(list(bytes.fromhex(colour[1:])), dtype=np.float64) / 255.0
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIE Lab of linear RGB, relative to D65."""
    ratio = (XYZ @ rgb.clip(0, 1)) / (XYZ @ np.ones(3))
    delta = 6 / 29
    f = np.where(ratio > delta**3, np.cbrt(ratio), ratio / (3 * delta**2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(one: str, other: str, vision: str) -> float:
    matrix = VISION[vision]
    return float(np.linalg.norm(lab(matrix @ linear(one)) - lab(matrix @ linear(other))))


def test_the_colour_distance_is_the_published_one() -> None:
    """White to black is 100; sRGB red has the Lab every reference gives; a deuteranope confuses red with olive."""
    assert distance("#ffffff", "#000000", "normal") == pytest.approx(100, abs=0.01)
    assert lab(linear("#ff0000")) == pytest.approx([53.24, 80.09, 67.20], abs=0.05)
    assert distance("#ff0000", "#808000", "normal") > 60
    assert distance("#ad0000", "#5a5a00", "deuteranopia") < 20


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("name", OWN_COLOURS)
def test_colours_stay_apart_for_colour_blind_readers(name: str, vision: str) -> None:
    for one, other in combinations(load_scheme(name).classes, 2):
        apart = distance(one.colour, other.colour, vision)
        assert apart >= LEAST_DISTANCE, f"{one.name} and {other.name} under {vision}: {apart:.1f}"


def test_shipped_schemes_are_these() -> None:
    assert tuple(config_names("schemes")) == SCHEMES


@pytest.mark.parametrize("name", SCHEMES)
def test_each_shipped_scheme_is_complete(name: str) -> None:
    scheme = load_scheme(name)
    assert scheme.name == name
    assert scheme.title
    assert "Colours:" in scheme.source
    assert set(scheme.groups) == {"built", "open", "water"}
    in_groups = [member for members in scheme.groups.values() for member in members]
    assert sorted(in_groups) == sorted(scheme.names), "each class is in exactly one group"


def test_nlcd6_order_ids_and_codes() -> None:
    scheme = load_scheme("nlcd6")
    assert scheme.names == ("Water", "Developed", "Barren", "Forest", "Herbaceous", "Cultivated")
    assert scheme.ids == (1, 2, 3, 4, 5, 6)
    codes = {code: item.name for item in scheme.classes for code in item.codes}
    assert set(codes) == {11, 12, 21, 22, 23, 24, 31, 41, 42, 43, 51, 52, 71, 72, 73, 74, 81, 82, 90, 95}
    assert codes[90] == "Forest"
    assert codes[95] == "Herbaceous"
    assert scheme.groups["built"] == ("Developed",)


def test_nlcd3_groups_nlcd6_with_the_same_codes() -> None:
    coarse, fine = load_scheme("nlcd3"), load_scheme("nlcd6")
    assert coarse.base == "nlcd6"
    assert sorted(member for item in coarse.classes for member in item.members) == sorted(fine.names)
    for item in coarse.classes:
        codes = {code for member in item.members for code in fine.classes[fine.index(member)].codes}
        assert set(item.codes) == codes


def test_nlcd16_uses_the_official_codes_and_colours() -> None:
    scheme = load_scheme("nlcd16")
    assert scheme.ids == (11, 12, 21, 22, 23, 24, 31, 41, 42, 43, 52, 71, 81, 82, 90, 95)
    assert all(item.codes == (item.id,) for item in scheme.classes)
    by_id = {item.id: item for item in scheme.classes}
    assert by_id[11].colour == "#466b9f"
    assert by_id[24].name == "Developed, High Intensity"
    assert by_id[24].rgb == (0xAB, 0, 0)


def test_nlcd16_colours_are_those_of_a_real_nlcd_raster(test_data: Path) -> None:
    """The palette of the published 2011 raster differs from the 2016 legend by a rounding habit, not by class."""
    with rasterio.open(test_data / "nlcd" / "nlcd2011.tif") as source:
        palette = source.colormap(1)
    for item in load_scheme("nlcd16").classes:
        assert np.abs(np.array(palette[item.id][:3]) - np.array(item.rgb)).max() <= 13, item.name


def test_subset_keeps_order_ids_colours_and_groups() -> None:
    scheme = load_scheme("nlcd6")
    part = scheme.subset(["Cultivated", "Water"])
    assert part.names == ("Water", "Cultivated")
    assert part.ids == (1, 6)
    assert part.classes[1].colour == scheme.classes[5].colour
    assert part.groups == {"built": (), "open": ("Cultivated",), "water": ("Water",)}


def test_index_names_the_classes_there_are() -> None:
    scheme = load_scheme("nlcd6")
    assert scheme.index("Forest") == 3
    with pytest.raises(ConfigError, match=r"no class 'Swamp'; it has Water, Developed"):
        scheme.index("Swamp")


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["Field", "Forest", "Grass", "Industry", "Parking", "Resident", "RiverLake"], "rsscn7"),
        (["annual crop", "sea_lake", "Forest"], "eurosat10"),
        (["FOREST", "water"], "nlcd6"),
        (["Developed", "Undeveloped"], "nlcd3"),
    ],
)
def test_class_folders_take_the_scheme_whose_names_they_bear(folders: list[str], expected: str) -> None:
    scheme = scheme_for_names(folders)
    assert scheme.name == expected
    assert len(scheme) == len(folders)


def test_other_class_folders_make_a_scheme_of_their_own() -> None:
    scheme = scheme_for_names(["solar farm", "Forest"])
    assert scheme.name == "custom"
    assert scheme.names == ("Forest", "solar farm")
    assert scheme.ids == (1, 2)
    assert [item.colour for item in scheme.classes] == list(CATEGORICAL[:2])


def test_folders_that_differ_in_case_only_are_refused() -> None:
    with pytest.raises(ConfigError, match="same name"):
        scheme_for_names(["solar farm", "Solar Farm"])


GOOD = """
name = "two"
[groups]
built = ["A"]
[[classes]]
id = 1
name = "A"
colour = "#ff0000"
codes = [7]
[[classes]]
id = 2
name = "B"
colour = "#0000ff"
codes = [8]
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("id = 2", "id = 1", "same id"),
        ("id = 2", "id = 0", "classes.1.id"),
        ("id = 2", "id = 256", "classes.1.id"),
        ('name = "B"', 'name = "a"', "same name"),
        ("#0000ff", "blue", "classes.1.colour"),
        ("codes = [8]", "codes = [7]", "belongs to two classes"),
        ('built = ["A"]', 'built = ["C"]', "names no class of the scheme: C"),
        ("codes = [8]", "code = [8]", "classes.1.code"),
        ('name = "two"', "name = two", "not valid TOML"),
    ],
)
def test_a_wrong_scheme_is_refused_with_the_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "two.toml"
    path.write_text(GOOD, encoding="utf-8")
    assert load_scheme(path).names == ("A", "B")
    path.write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_scheme(path)
    assert message in str(caught.value)
    assert "two.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_class_is_no_scheme() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        ClassScheme.model_validate({"name": "one", "classes": [{"id": 1, "name": "A", "colour": "#000000"}]})


def test_an_unknown_scheme_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown scheme 'nlcd7'; choose one of eurosat10, .*nlcd6"):
        load_scheme("nlcd7")
    with pytest.raises(ConfigError, match=r"cannot read .*missing\.toml"):
        load_scheme(tmp_path / "missing.toml")
