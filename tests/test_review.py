"""What a review of the whole road found broken once."""

from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine
from conftest import write_coordinates

from geoclass.classify import _final_paths, _manifest
from geoclass.demo import demo
from geoclass.errors import ConfigError, GeoclassError, GridError, OutputError, SceneError
from geoclass.grid import TileGrid
from geoclass.inputs import find_scenes
from geoclass.mosaic import open_mosaic
from geoclass.reader import LatticeWindow
from geoclass.sensors import Scale, Sensor, load_sensor
from geoclass.tile import tile
from geoclass.tileindex import read_index

UTM19 = pyproj.CRS.from_epsg(26919)


def test_warped_pixels_do_not_depend_on_the_window(tmp_path):
    # South-up at the lattice's own pixels: warped, and yet each pixel must come out as it is.
    width, height = 1792, 1120
    pixels = np.random.default_rng(0).integers(1, 255, (3, height, width), np.uint8)
    path = tmp_path / "south_up.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=3, dtype="uint8", nodata=0, crs="EPSG:26919",
        transform=Affine(1, 0, 313520, 0, 1, 4681680 - height),
    ) as dataset:  # fmt: skip
        dataset.write(pixels[:, ::-1])
    with open_mosaic([path]).reader(TileGrid(UTM19), ("red", "green", "blue")) as reader:
        assert reader.warped
        for column, line, wide, high in [(0, 0, width, height), (80, 80, 1712, 1040), (0, 80, 1792, 1040)]:
            read, valid = reader.read(LatticeWindow(313520 + column, -4681680 + line, wide, high))
            assert valid.all()
            assert np.array_equal(read, pixels[:, line : line + high, column : column + wide])


def test_heights_in_the_crs_do_not_change_tile_ids(tmp_path):
    flat, high = write_coordinates(tmp_path / "a.tif"), write_coordinates(tmp_path / "b.tif", crs="EPSG:26919+5703")
    assert open_mosaic([flat]).default_grid().prefix == open_mosaic([high]).default_grid().prefix == "26919_224"


@pytest.mark.parametrize("crs", ['LOCAL_CS["drawing",UNIT["metre",1]]', "EPSG:4978"])
def test_a_crs_without_a_map_is_refused(tmp_path, crs):
    path = write_coordinates(tmp_path / "a.tif", crs=crs)
    with pytest.raises(SceneError, match="gdal_edit"):
        tile([path], out=tmp_path)


def test_slips_in_size_and_names(tmp_path):
    path = write_coordinates(tmp_path / "a.tif")
    for gsd_m in (1e-4, 1e-6):
        with pytest.raises(GridError, match="larger tiles"):
            tile([path], out=tmp_path, gsd_m=gsd_m, size_px=10)
    with pytest.raises(OutputError, match="--name"):
        tile([path], out=tmp_path, name="../b")
    with pytest.raises(SceneError, match="empty"):
        find_scenes([""])


def test_an_index_keeps_its_sensor(tmp_path):
    text = Path(__file__).parent.parent.joinpath("configs/sensors/rgb8.toml").read_text(encoding="utf-8")
    own = tmp_path / "mine.toml"
    own.write_text(text.replace('name = "rgb8"', 'name = "mine"', 1), encoding="utf-8")
    made = tile([write_coordinates(tmp_path / "a.tif")], out=tmp_path, sensor=own)
    own.unlink()
    assert read_index(made.path)[1].sensor.name == "mine"


def test_an_index_keeps_the_offset_of_a_product(tmp_path):
    folder = tmp_path / "S2A_MSIL2A_20170216T102101_N0500_R065_T19TCG_20230101T000000.SAFE"
    inside = folder / "GRANULE" / "L2A" / "IMG_DATA" / "R10m"
    inside.mkdir(parents=True)
    (folder / "MTD_MSIL2A.xml").write_text("<a><BOA_ADD_OFFSET>-1000</BOA_ADD_OFFSET></a>")
    for band in ("B02", "B03", "B04"):
        with rasterio.open(
            inside / f"T19TCG_20170216T102101_{band}_10m.jp2", "w", driver="JP2OpenJPEG", width=500, height=500, count=1,
            dtype="uint16", crs="EPSG:32619", transform=Affine(10, 0, 313600, 0, -10, 4681600),
        ) as dataset:  # fmt: skip
            dataset.write(np.full((1, 500, 500), 2000, np.uint16))
    made = tile([folder], out=tmp_path, name="product")
    assert [scene.value_offset for scene in read_index(made.path)[1].scenes] == [-1000.0]


def test_sensors_that_cannot_work_are_refused():
    values = load_sensor("rgb8").model_dump()
    with pytest.raises(ValueError, match="group"):
        Sensor.model_validate({**values, "band_pattern": "b[1-4]"})
    with pytest.raises(ValueError, match="differ"):
        Scale(low=5, high=5)
    with pytest.raises(ConfigError):
        load_sensor("none")


@pytest.mark.parametrize("inside", ["m.pt", "results", "notes.txt"])
def test_the_demo_removes_nothing_that_is_not_its_own(tmp_path, inside):
    (tmp_path / "county_2016.tif").touch()
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / inside).touch()
    with pytest.raises(GeoclassError, match="-o"):
        demo(tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_runs_over_other_tiles_are_told_apart(tmp_path, tiny_bundle):
    from dataclasses import replace

    from geoclass.classify import Settings
    from geoclass.plan import make_plan

    plan = make_plan([write_coordinates(tmp_path / "a.tif")], tiny_bundle)
    one = replace(plan, columns=np.array([0, 2]), rows=np.array([0, 2]))
    other = replace(plan, columns=np.array([2, 0]), rows=np.array([0, 2]))
    manifests = [_manifest(plan, Settings(), 8) for plan in (one, other)]
    assert manifests[0]["tiles"] != manifests[1]["tiles"]
    assert {path.name for path in _final_paths(plan, Settings(), tmp_path)} >= {"a.qml", "a.tif.aux.xml"}


def test_one_path_is_opened_as_it_is(tmp_path):
    import geoclass

    path = write_coordinates(tmp_path / "a.tif")
    assert geoclass.open(path).files == geoclass.open(str(path)).files == [str(path)]
