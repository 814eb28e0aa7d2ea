"""The example areas of interest are sound GeoJSON, and lie on the ground they name."""

import json
import warnings
from pathlib import Path
from typing import Any

import geopandas as gpd
import pyproj
import pytest
import rasterio
import shapely
from rasterio.mask import mask

from geoclass.aoi import read_aoi

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "aois"
FILES = sorted(FOLDER.glob("*.geojson"))

# Each file with real imagery of the same place, and the least share of its area that this covers.
IMAGERY = {
    "beetzsee": ("sentinel2_l1c_T33UUU/T33UUU_20170216T102101_B02.jp2", 0.99),
    "prairie-lakes": ("naip_5m_years/m_4709963_se_14_1_20090818.tif", 0.99),
    "pucallpa": ("landsat_years/2015.tif", 0.99),
    "sherando": ("naip_1m/NAIP-VA-b1.tiff", 0.99),
    "zion": ("nlcd/nlcd2011.tif", 0.99),
    "zone-boundary": ("naip_1m/m_3607717_sw_18_1_20160620_subset.tif", 0.4),
}


def features(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["features"]
    return found


def test_every_file_is_listed_in_the_readme_and_has_imagery_to_test_on() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert {path.stem for path in FILES} == set(IMAGERY)
    assert all(f"`{path.name}`" in text for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_follows_rfc_7946(path: Path) -> None:
    """WGS 84 without a crs member; rings closed and counter-clockwise; degrees in order longitude, latitude."""
    collection = json.loads(path.read_text(encoding="utf-8"))
    assert collection["type"] == "FeatureCollection"
    assert "crs" not in collection
    for feature in collection["features"]:
        shape = shapely.geometry.shape(feature["geometry"])
        assert isinstance(shape, shapely.Polygon)
        assert shape.is_valid
        assert shape.exterior.is_ccw
        left, bottom, right, top = shape.bounds
        assert -180 <= left < right <= 180
        assert -90 <= bottom < top <= 90
        assert feature["properties"]["name"].strip()
        assert feature["properties"]["note"].strip()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_loads_with_its_names(path: Path) -> None:
    frame = read_aoi(path, pyproj.CRS.from_epsg(4326))
    assert list(frame["name"]) == [feature["properties"]["name"] for feature in features(path)]
    assert frame.geometry.is_valid.all()


@pytest.mark.parametrize("stem", sorted(IMAGERY))
def test_each_lies_on_its_imagery(stem: str, test_data: Path) -> None:
    name, least = IMAGERY[stem]
    with rasterio.open(test_data / name) as source:
        crs, ground = source.crs, shapely.box(*source.bounds)
    frame = gpd.read_file(FOLDER / f"{stem}.geojson").to_crs(crs)
    for shape in frame.geometry:
        assert shape.intersection(ground).area >= least * shape.area


def test_the_beetzsee_outline_holds_the_lake(test_data: Path) -> None:
    """Water is dark in the near infrared: far more of the AOI is than of the whole clip."""
    with rasterio.open(test_data / "sentinel2_l1c_T33UUU" / "T33UUU_20170216T102101_B08.jp2") as source:
        shapes = list(gpd.read_file(FOLDER / "beetzsee.geojson").to_crs(source.crs).geometry)
        inside, _ = mask(source, shapes, crop=True, nodata=0)
        whole = source.read(1)
    assert (inside[inside > 0] < 900).mean() > 4 * (whole < 900).mean()


def test_a_border_along_a_parallel_is_followed(tmp_path: Path) -> None:
    """Straight between its four corners in UTM, the box would lie 2 km north of the parallel."""
    path = tmp_path / "state.geojson"
    path.write_text(json.dumps(shapely.geometry.mapping(shapely.box(-71, 45, -67, 47))))
    found = read_aoi(path, pyproj.CRS.from_epsg(32619)).geometry.iloc[0]
    inside, outside = gpd.points_from_xy([-69, -69], [45.0001, 47.0001], crs=4326).to_crs(32619)
    assert found.contains(inside)
    assert not found.contains(outside)


def test_a_file_of_several_layers_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "two.gpkg"
    for layer, left in (("first", 0), ("second", 500)):
        shape = shapely.box(left, 0, left + 100, 100)
        gpd.GeoDataFrame(geometry=[shape], crs="EPSG:32619").to_file(path, layer=layer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_aoi(path, pyproj.CRS.from_epsg(32619))
    assert found.total_bounds[0] == 0
