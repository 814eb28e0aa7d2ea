"""Scenes and mosaics on real files whose pixel values encode their place, so that any misplacement is measurable."""

import math
import shutil
from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
import rasterio.shutil
from conftest import coordinate_pixels, write_coordinates
from rasterio.enums import ColorInterp, Resampling
from rasterio.transform import from_origin
from rasterio.warp import calculate_default_transform, reproject

from geoclass.blocks import plan_blocks, read_ahead
from geoclass.errors import GeoclassError, SceneError
from geoclass.grid import TileGrid, cells
from geoclass.inputs import find_scenes
from geoclass.mosaic import Mosaic, open_mosaic
from geoclass.reader import LatticeWindow
from geoclass.sensors import load_sensor
from geoclass.tileindex import build_index

UTM19 = pyproj.CRS.from_epsg(26919)
GRID = TileGrid(UTM19)
LEFT, TOP = 1400 * 224, 20900 * 224


def read(mosaic: Mosaic, window: LatticeWindow, grid: TileGrid = GRID, bands=("red", "green", "blue")):
    with mosaic.reader(grid, bands) as reader:
        return reader.read(window)


def assert_true_coordinates(pixels, valid, window: LatticeWindow):
    truth = coordinate_pixels(window.column, window.line, window.width, window.height)
    assert (pixels[:, valid] == truth[:, valid]).all()


@pytest.mark.parametrize("shift", [(0, 0), (37, -101), (-3, 5)])
@pytest.mark.parametrize(
    "profile",
    [
        {},
        {"tiled": False, "blockysize": 3, "blockxsize": None},
        {"compress": "lzw", "interleave": "pixel"},
        {"tiled": True, "blockxsize": 128, "blockysize": 512},
    ],
)
def test_every_pixel_is_where_it_belongs(tmp_path, shift, profile):
    profile = {key: value for key, value in profile.items() if value is not None}
    if profile.get("tiled") is False:
        profile |= {"blockxsize": 700}
    path = write_coordinates(tmp_path / "a.tif", LEFT + shift[0], TOP + shift[1], **profile)
    window = LatticeWindow(LEFT - 50, -TOP - 60, 900, 800)
    pixels, valid = read(open_mosaic([path]), window)
    assert valid.sum() == 700 * 500
    assert_true_coordinates(pixels, valid, window)
    assert (pixels[:, ~valid] == 0).all()


def test_a_fraction_of_a_pixel_moves_to_the_nearest(tmp_path):
    path = write_coordinates(tmp_path / "a.tif")
    with rasterio.open(path, "r+") as dataset:
        dataset.transform = from_origin(LEFT + 0.4, TOP - 0.3, 1, 1)
    with open_mosaic([path]).reader(GRID, ["red"]) as reader:
        assert reader.warped == 0
        assert reader.shift_px == pytest.approx(0.4)
        pixels, _ = reader.read(LatticeWindow(LEFT, -TOP, 10, 10))
    assert pixels[0, 0, 0] == coordinate_pixels(LEFT, -TOP, 1, 1)[0, 0, 0]


@pytest.mark.parametrize("driver", ["COG", "VRT", "JP2OpenJPEG"])
def test_other_formats(tmp_path, driver):
    source = write_coordinates(tmp_path / "a.tif")
    path = tmp_path / {"COG": "b.tif", "VRT": "b.vrt", "JP2OpenJPEG": "b.jp2"}[driver]
    options = {"QUALITY": "100", "REVERSIBLE": "YES"} if driver == "JP2OpenJPEG" else {}
    rasterio.shutil.copy(source, path, driver=driver, **options)
    window = LatticeWindow(LEFT + 13, -TOP + 17, 300, 300)
    pixels, valid = read(open_mosaic([path]), window)
    assert valid.all()
    assert_true_coordinates(pixels, valid, window)


def smooth_scene(path: Path, crs="EPSG:26919", left=LEFT, top=TOP, res=1.0, width=700, height=500, **profile) -> Path:
    """A scene that is easily compared after warping: brightness is a plane over map coordinates."""
    x = left + (np.arange(width) + 0.5) * res
    y = top - (np.arange(height) + 0.5) * res
    red = 40 + (x - LEFT)[None, :] / 5 + np.zeros((height, 1))
    green = 40 + (TOP - y)[:, None] / 5 + np.zeros((1, width))
    pixels = np.stack([red, green, np.full_like(red, 99)]).round().astype(np.uint8)
    options = {
        "driver": "GTiff", "width": width, "height": height, "count": 3, "dtype": "uint8", "crs": crs,
        "transform": from_origin(left, top, res, res), **profile,
    }  # fmt: skip
    with rasterio.open(path, "w", **options) as dataset:
        dataset.write(pixels)
    return path


def warped_copy(source: Path, target: Path, crs: str) -> Path:
    with rasterio.open(source) as src:
        transform, width, height = calculate_default_transform(src.crs, crs, src.width, src.height, *src.bounds)
        profile = {**src.profile, "crs": crs, "transform": transform, "width": width, "height": height, "nodata": 0}
        with rasterio.open(target, "w", **profile) as dst:
            for band in src.indexes:
                reproject(
                    rasterio.band(src, band), rasterio.band(dst, band), resampling=Resampling.bilinear, dst_nodata=0
                )
    return target


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:26918", "EPSG:3857", "EPSG:2249"])
def test_other_crs_lands_on_the_same_ground(tmp_path, crs):
    source = smooth_scene(tmp_path / "a.tif")
    moved = open_mosaic([warped_copy(source, tmp_path / "b.tif", crs)])
    grid = moved.default_grid(crs=UTM19)
    assert grid.prefix == GRID.prefix
    window = LatticeWindow(LEFT + 20, -TOP + 20, 600, 420)
    expected, _ = read(open_mosaic([source]), window)
    pixels, valid = read(moved, window, grid)
    assert valid.all()
    # A slope of 1/5 a metre: a shift of half a pixel would change brightness by 0.1, rounding by up to 1.
    difference = pixels.astype(float) - expected
    assert abs(difference.mean(axis=(1, 2))).max() < 0.15
    assert abs(difference).max() <= 1


def test_rotated_geotransform_is_warped(tmp_path):
    source = smooth_scene(tmp_path / "a.tif")
    with rasterio.open(source) as dataset:
        pixels, profile = dataset.read(), dataset.profile
    quarter = rasterio.Affine(0, 1, LEFT, -1, 0, TOP)  # columns run south, lines run east
    with rasterio.open(
        tmp_path / "r.tif", "w", **{**profile, "transform": quarter, "width": 500, "height": 700}
    ) as dataset:
        dataset.write(pixels.transpose(0, 2, 1))
    mosaic = open_mosaic([tmp_path / "r.tif"])
    assert mosaic.scenes[0].rotated
    window = LatticeWindow(LEFT + 20, -TOP + 20, 600, 420)
    turned, valid = read(mosaic, window)
    expected, _ = read(open_mosaic([source]), window)
    assert valid.all()
    assert abs(turned.astype(int) - expected).max() <= 1


def test_finer_scenes_are_averaged(tmp_path):
    fine = smooth_scene(tmp_path / "fine.tif", res=0.5, width=1400, height=1000)
    coarse = smooth_scene(tmp_path / "coarse.tif")
    window = LatticeWindow(LEFT + 20, -TOP + 20, 600, 420)
    pixels, valid = read(open_mosaic([fine]), window)
    expected, _ = read(open_mosaic([coarse]), window)
    assert valid.all()
    assert abs(pixels.astype(int) - expected).max() <= 1


def test_alpha_tagged_infrared_is_not_a_mask(tmp_path):
    pixels = np.full((4, 300, 300), 100, np.uint8)
    pixels[3] = 0  # dark in the infrared everywhere: as a mask it would leave nothing
    path = tmp_path / "m_3211605_ne_11_060_20200415.tif"
    profile = {"driver": "GTiff", "width": 300, "height": 300, "count": 4, "dtype": "uint8", "crs": "EPSG:26911"}
    with rasterio.open(path, "w", transform=from_origin(500000, 3600000, 0.6, 0.6), **profile) as dataset:
        dataset.write(pixels)
        dataset.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
    mosaic = open_mosaic([path])
    assert mosaic.sensor.name == "naip"
    assert mosaic.scenes[0].band_names == ("red", "green", "blue", "nir")
    assert "not used as a mask" in mosaic.scenes[0].notes[0]
    for gsd_m in (0.6, 1.0):  # read as it is, and warped
        grid = mosaic.default_grid(gsd_m=gsd_m)
        column, line = math.ceil(500040 / gsd_m), math.ceil(-3599960 / gsd_m)
        values, valid = read(mosaic, LatticeWindow(column, line, 60, 60), grid, ("red", "nir"))
        assert valid.all()
        assert (values[0] == 100).all()
        # GDAL's warper writes 1 for a 0 that would read as no data.
        assert (values[1] <= 1).all()


def test_true_alpha_is_a_mask(tmp_path):
    pixels = coordinate_pixels(LEFT, -TOP, 300, 300)
    alpha = np.full((1, 300, 300), 255, np.uint8)
    alpha[:, :, :100] = 0
    profile = {"driver": "GTiff", "width": 300, "height": 300, "count": 4, "dtype": "uint8", "crs": "EPSG:26919"}
    with rasterio.open(tmp_path / "a.tif", "w", transform=from_origin(LEFT, TOP, 1, 1), **profile) as dataset:
        dataset.write(np.concatenate([pixels, alpha]))
        dataset.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
    _, valid = read(open_mosaic([tmp_path / "a.tif"]), LatticeWindow(LEFT, -TOP, 300, 300))
    assert not valid[:, :100].any()
    assert valid[:, 100:].all()


@pytest.mark.parametrize("kind", ["nodata", "mask", "nan"])
def test_no_data(tmp_path, kind):
    pixels = coordinate_pixels(LEFT, -TOP, 300, 300).astype("float32" if kind == "nan" else "uint8")
    hole = np.s_[:, 50:80, 60:90]
    pixels[hole] = {"nodata": 255, "mask": 7, "nan": math.nan}[kind]
    if kind == "nan":
        pixels[:, 51, 61] = math.inf
    if kind == "nodata":
        pixels[0, 0, 0] = 255  # one band at the value is a bright pixel, not a hole
    profile = {"driver": "GTiff", "width": 300, "height": 300, "count": 3, "dtype": pixels.dtype, "crs": "EPSG:26919"}
    profile |= {"nodata": 255} if kind == "nodata" else {}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(tmp_path / "a.tif", "w", transform=from_origin(LEFT, TOP, 1, 1), **profile) as dataset,
    ):
        dataset.write(pixels)
        if kind == "mask":
            mask = np.full((300, 300), 255, np.uint8)
            mask[hole[1:]] = 0
            dataset.write_mask(mask)
    values, valid = read(open_mosaic([tmp_path / "a.tif"]), LatticeWindow(LEFT, -TOP, 300, 300))
    assert not valid[hole[1:]].any()
    assert valid.sum() == 300 * 300 - 900
    assert np.isfinite(values).all()


def test_bands_by_description_whatever_their_order(tmp_path):
    path = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "width": 300, "height": 300, "count": 4, "dtype": "uint8", "crs": "EPSG:26919"}
    with rasterio.open(path, "w", transform=from_origin(LEFT, TOP, 1, 1), **profile) as dataset:
        dataset.write(np.stack([np.full((300, 300), v, np.uint8) for v in (40, 10, 30, 20)]))
        dataset.descriptions = ("NIR", "Red", "Blue", "Green")
    mosaic = open_mosaic([path], load_sensor("naip"))
    values, _ = read(mosaic, LatticeWindow(LEFT, -TOP, 5, 5), bands=("red", "green", "blue", "nir"))
    assert values[:, 0, 0].tolist() == [10, 20, 30, 40]


def test_single_band_files_are_one_scene(tmp_path):
    whole = write_coordinates(tmp_path / "a.tif")
    (tmp_path / "bands").mkdir()
    with rasterio.open(whole) as dataset:
        profile = {**dataset.profile, "count": 1}
        for band in (1, 2, 3):
            with rasterio.open(tmp_path / "bands" / f"NAIP-XX-b{band}.tiff", "w", **profile) as single:
                single.write(dataset.read(band), 1)
    for named in (
        [tmp_path / "bands"],
        [str(tmp_path / "bands" / "NAIP-XX-b*.tiff")],
        sorted((tmp_path / "bands").iterdir()),
    ):
        mosaic = open_mosaic(named)
        assert [scene.name for scene in mosaic.scenes] == ["NAIP-XX"]
        window = LatticeWindow(LEFT + 5, -TOP + 9, 100, 100)
        pixels, valid = read(mosaic, window)
        assert valid.all()
        assert_true_coordinates(pixels, valid, window)


def make_safe(folder: Path, offset: int | None, level: str = "2A") -> Path:
    """A Sentinel-2 product in miniature: 10 m bands, a 20 m band, metadata with or without an offset."""
    product = folder / f"S2A_MSIL{level}_20230601T102101_N0509_R065_T33UUU_20230601T140000.SAFE"
    for band, res, value in (("B02", 10, 2000), ("B03", 10, 3000), ("B04", 10, 4000), ("B05", 20, 5000)):
        place = product / "GRANULE" / f"L{level}_T33UUU" / "IMG_DATA" / (f"R{res}m" if level == "2A" else "")
        place.mkdir(parents=True, exist_ok=True)
        name = f"T33UUU_20230601T102101_{band}" + (f"_{res}m" if level == "2A" else "")
        size = 6000 // res
        with rasterio.open(
            place / f"{name}.jp2", "w", driver="JP2OpenJPEG", width=size, height=size, count=1, dtype="uint16", crs="EPSG:32633",
            transform=from_origin(300000, 5800000, res, res), QUALITY="100", REVERSIBLE="YES",
        ) as dataset:  # fmt: skip
            dataset.write(np.full((1, size, size), value, np.uint16))
    tag = "BOA_ADD_OFFSET" if level == "2A" else "RADIO_ADD_OFFSET"
    text = "" if offset is None else f'<List><{tag} band_id="0">{offset}</{tag}></List>'
    (product / f"MTD_MSIL{level}.xml").write_text(f"<n1:Product xmlns:n1='x'>{text}</n1:Product>")
    return product


@pytest.mark.parametrize(("offset", "red"), [(-1000, 3000), (None, 4000)])
@pytest.mark.parametrize("level", ["1C", "2A"])
def test_sentinel2_product_and_its_offset(tmp_path, offset, red, level):
    product = make_safe(tmp_path, offset, level)
    mosaic = open_mosaic([product])
    assert mosaic.sensor.name == f"sentinel2-l{level.lower()}"
    assert mosaic.date == "2023-06-01"
    grid = mosaic.default_grid()
    assert grid.gsd_m == 10
    values, valid = read(mosaic, LatticeWindow(30001, -579999, 20, 20), grid, ("red", "blue", "rededge1"))
    assert valid.all()
    assert values[:, 10, 10].tolist() == [red, red - 2000, red + 1000]


def test_overlapping_quads_are_read_once(tmp_path, monkeypatch):
    for number, (dx, dy) in enumerate([(0, 0), (400, 0), (0, -300), (400, -300)]):
        write_coordinates(tmp_path / f"q{number}.tif", LEFT + dx, TOP + dy, 500, 400)
    mosaic = open_mosaic([tmp_path])
    window = LatticeWindow(LEFT, -TOP, 900, 700)
    read_pixels = []
    from geoclass.reader import SceneReader

    honest = SceneReader.read_into
    monkeypatch.setattr(
        SceneReader, "read_into", lambda self, w, out: read_pixels.append(w.width * w.height) or honest(self, w, out)
    )
    pixels, valid = read(mosaic, window)
    assert valid.all()
    assert_true_coordinates(pixels, valid, window)
    # Overlaps are 100 px wide: reading each quad whole would be 800,000 pixels.
    assert sum(read_pixels) < 700_000


def test_pixels_on_the_lattice_win_over_warped_ones(tmp_path):
    smooth_scene(tmp_path / "z.tif")
    warped_copy(tmp_path / "z.tif", tmp_path / "a.tif", "EPSG:26918")
    mosaic = open_mosaic([tmp_path / "a.tif", tmp_path / "z.tif"])
    window = LatticeWindow(LEFT + 20, -TOP + 20, 300, 300)
    pixels, _ = read(mosaic, window)
    expected, _ = read(open_mosaic([tmp_path / "z.tif"]), window)
    assert (pixels == expected).all()


def test_blocks_hold_every_tile_once_and_stay_small(tmp_path):
    for profile in ({}, {"tiled": False, "blockxsize": 3000, "blockysize": 1}):
        path = write_coordinates(tmp_path / "a.tif", LEFT + 30, TOP + 11, 3000, 1800, **profile)
        mosaic = open_mosaic([path])
        columns, rows = cells(GRID.range_over(mosaic.scenes[0].bounds))
        blocks = plan_blocks(mosaic, GRID, 3, columns, rows)
        seen = [place for block in blocks for place in zip(block.columns, block.rows, strict=True)]
        assert sorted(seen) == sorted(zip(columns, rows, strict=True))
        assert all(len(block.range) * 224 * 224 * 3 <= 24 << 20 for block in blocks)


@pytest.mark.parametrize("threads", [1, 3])
def test_read_ahead_gives_tiles_in_place_and_order(tmp_path, threads):
    path = write_coordinates(tmp_path / "a.tif", LEFT - 100, TOP + 100, 5000, 900)
    mosaic = open_mosaic([path])
    columns, rows = cells(GRID.range_over(mosaic.scenes[0].bounds))
    blocks = plan_blocks(mosaic, GRID, 3, columns, rows)
    numbers = []
    for pixels in read_ahead(mosaic, GRID, ["red", "green", "blue"], blocks, threads):
        numbers.append(pixels.block.number)
        for column, row, tile, share in zip(
            pixels.block.columns, pixels.block.rows, pixels.tiles, pixels.valid_fraction, strict=True
        ):
            if share == 1:
                assert (tile == coordinate_pixels(column * 224, -(row + 1) * 224, 224, 224)).all()
    assert numbers == list(range(len(blocks)))


def test_valid_fraction_is_the_share_of_pixels(tmp_path):
    path = write_coordinates(tmp_path / "a.tif", LEFT + 56, TOP - 112, 600, 600)
    index = build_index(open_mosaic([path]), GRID, min_valid=0.01)
    share = {(c - 1400, r - 20899): f for c, r, f in zip(index.columns, index.rows, index.valid_fraction, strict=True)}
    assert share[0, 0] == pytest.approx(0.75 * 0.5)
    assert share[1, -1] == 1
    assert share[2, 0] == pytest.approx(208 / 224 * 0.5)
    assert index.below_min_valid == 0


def test_real_clips_across_a_utm_boundary_fit(test_data):
    """Two NAIP clips of one day, side by side in two zones: where they meet, brightness runs on."""
    mosaic = open_mosaic(sorted((test_data / "naip_1m").glob("m_360*.tif")))
    grid = mosaic.default_grid()
    assert {scene.crs.to_epsg() for scene in mosaic.scenes} == {26917, 26918}
    outline = mosaic.outline_in(grid.crs)
    assert outline.geom_type == "Polygon" or outline.area > 170_000
    index = build_index(mosaic, grid)
    assert len(index) >= 1


def test_real_band_files(test_data):
    naip = open_mosaic([str(test_data / "naip_1m" / "NAIP-VA-b*.tiff")])
    assert naip.scenes[0].band_names == ("red", "green", "blue", "nir")
    assert len(build_index(naip, naip.default_grid())) == 7
    sentinel = open_mosaic([test_data / "sentinel2_l1c_T33UUU"])
    assert len(sentinel.scenes[0].bands) == 13
    assert len(build_index(sentinel, sentinel.default_grid())) == 21


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: folder / "none.tif", "no such file"),
        (lambda folder: str(folder / "*.tif"), "nothing matches"),
        (lambda folder: folder, "holds no raster"),
        (lambda folder: _file(folder / "text.tif", b"not a raster"), "cannot be read as a raster"),
        (lambda folder: _file(folder / "empty.tif", b""), "0 bytes"),
    ],
)
def test_what_is_no_scene(tmp_path, make, says):
    with pytest.raises(SceneError, match=says):
        find_scenes([make(tmp_path)])


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_mixed_types_are_refused(tmp_path):
    write_coordinates(tmp_path / "a.tif")
    with rasterio.open(tmp_path / "a.tif") as dataset:
        pixels, profile = dataset.read().astype("uint16"), {**dataset.profile, "dtype": "uint16"}
    with rasterio.open(tmp_path / "b.tif", "w", **profile) as dataset:
        dataset.write(pixels)
    with pytest.raises(SceneError, match="uint16"):
        open_mosaic([tmp_path])


def test_a_damaged_block_names_file_and_window(tmp_path):
    path = write_coordinates(tmp_path / "a.tif", width=2000, height=2000, compress="none")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(GeoclassError, match=r"a\.tif.*window"):
        mosaic = open_mosaic([path])
        build_index(mosaic, mosaic.default_grid())


def test_files_of_two_products_do_not_mix(tmp_path):
    one = tmp_path / "T33UUU_20170216T102101_B02.jp2"
    profile = {"driver": "GTiff", "width": 10, "height": 10, "count": 1, "dtype": "uint16", "crs": "EPSG:32633"}
    with rasterio.open(one, "w", transform=from_origin(0, 0, 10, 10), **profile) as dataset:
        dataset.write(np.ones((1, 10, 10), np.uint16))
    shutil.copy(one, tmp_path / "T33UUU_20170216T102101_B2.jp2")
    with pytest.raises(SceneError, match="both hold band"):
        find_scenes([tmp_path], load_sensor("sentinel2-l1c"))
