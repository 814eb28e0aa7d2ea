"""Copies made by nearest neighbours: told from others, and put back pixel by pixel."""

from itertools import pairwise

import numpy as np
import pyproj
import pytest
import rasterio
import rasterio.windows
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import Resampling
from rasterio.transform import from_origin
from rasterio.warp import calculate_default_transform, reproject

from geoclass import nearest, scanlines
from geoclass.lattice import Lattice, LatticeWindow
from geoclass.reader import SceneReader
from geoclass.scene import open_scene
from geoclass.sensors import load_sensor

SIDE = 700
LEFT, TOP = 313600, 4681600
LATTICE = Lattice(pyproj.CRS("EPSG:26919"), 1.0)
WHOLE = LatticeWindow(LEFT, -TOP, SIDE, SIDE)


def texture(seed=0, side=SIDE, width=None):
    """(3, side, width) uint8 from 1 on: land-like, alike nearby and less so further away."""
    width = width or side
    noise = np.random.default_rng(seed).standard_normal((3, side, width))
    waves = np.hypot(*np.meshgrid(np.fft.fftfreq(width), np.fft.fftfreq(side)))
    land = np.fft.ifft2(np.fft.fft2(noise) / (waves + 0.004) ** 1.2).real
    return np.clip(128 + 45 * land / land.std(), 1, 255).astype(np.uint8)


def write(path, pixels, crs="EPSG:26919", transform=None, **more):
    transform = transform or from_origin(LEFT, TOP, 1, 1)
    profile = {"driver": "GTiff", "count": len(pixels), "dtype": pixels.dtype, "crs": crs, "transform": transform}
    with rasterio.open(path, "w", height=pixels.shape[1], width=pixels.shape[2], **profile, **more) as dataset:
        dataset.write(pixels)
    return path


def copied(source, path, crs, resampling=Resampling.nearest, tolerance=0.0, memory_mb=0):
    """`source` in another CRS, of pixels of about the same size. With little memory it is warped part by part."""
    with rasterio.open(source) as dataset:
        transform, width, height = calculate_default_transform(
            dataset.crs, crs, dataset.width, dataset.height, *dataset.bounds
        )
        profile = {**dataset.profile, "crs": crs, "transform": transform, "width": width, "height": height}
        with rasterio.open(path, "w", **profile) as target:
            bands = [rasterio.band(item, dataset.indexes) for item in (dataset, target)]
            reproject(
                *bands, resampling=resampling, tolerance=tolerance, init_dest_nodata=True, warp_mem_limit=memory_mb
            )
    return path


def read(path, window=WHOLE, lattice=LATTICE):
    """(pixels, valid, whether it was read as a copy) of the file at `path`."""
    with SceneReader(open_scene(path, load_sensor("rgb8")), ["red", "green", "blue"], lattice) as reader:
        window = window.intersection(reader.window)
        pixels, valid = reader.read(window)
        return pixels, np.ones(pixels.shape[1:], bool) if valid is None else valid, reader._files[0]._copy is not None


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return write(tmp_path_factory.mktemp("image") / "image.tif", texture())


@pytest.mark.parametrize("crs", ["EPSG:26918", "EPSG:4326", "EPSG:5070", "EPSG:3857"])
@pytest.mark.parametrize("tolerance", [0.0, 0.125])
def test_pixels_of_a_copy_go_back_to_where_they_came_from(image, tmp_path, crs, tolerance):
    pixels, valid, was_copy = read(copied(image, tmp_path / "copy.tif", crs, tolerance=tolerance))
    assert was_copy
    # Pixels of the image that the copy holds are known by their numbers, copied in the same way.
    numbers = np.arange(SIDE * SIDE, dtype=np.uint32).reshape(1, SIDE, SIDE)
    path = copied(write(tmp_path / "numbers.tif", numbers), tmp_path / "numbered.tif", crs, tolerance=tolerance)
    with rasterio.open(path) as dataset:
        held = np.isin(numbers[0], dataset.read(1))
    inner = np.s_[2:-2, 2:-2]
    assert valid[inner].all()
    same = (pixels == texture()).all(axis=0)
    assert same[inner][held[inner]].mean() > 0.9995


@pytest.fixture(scope="module")
def wide():
    """Wide enough that a parallel is no straight line in it."""
    return texture(5, 1500, 5000)


@pytest.mark.parametrize("blocks", [{}, {"tiled": True, "blockxsize": 256, "blockysize": 256}])
@pytest.mark.parametrize("memory_mb", [0, 4])
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:26918"])
def test_the_lines_that_a_warper_drew_straight_are_followed(wide, tmp_path, crs, memory_mb, blocks):
    """GDAL follows them in pieces; with little memory also in parts, on borders of the file's blocks."""
    image = write(tmp_path / "image.tif", wide, **blocks)
    path = copied(image, tmp_path / "copy.tif", crs, tolerance=0.125, memory_mb=memory_mb)
    with SceneReader(open_scene(path, load_sensor("rgb8")), ["red", "green", "blue"], LATTICE) as reader:
        copy = reader._files[0]._copy
        assert copy is not None
        share = {parts: share_from(wide, path, copy._project, parts) for parts in (copy._parts, scanlines.EXACT)}
    # With little memory some parts are halved once more than others, which is not followed.
    assert share[copy._parts] > (0.9999 if memory_mb == 0 else 0.998)
    if crs == "EPSG:4326" and memory_mb == 0:
        assert share[scanlines.EXACT] < 0.98, "exact places must not do as well here"


def share_from(image, path, project, parts):
    """Of the pixels of a copy, the share that is as the image is where its warper is said to have seen them."""
    with rasterio.open(path) as dataset:
        pixels = dataset.read()
    window = rasterio.windows.Window(0, 0, pixels.shape[2], pixels.shape[1])
    columns, rows = np.floor(scanlines.places(project, parts, window)).astype(int)
    columns, rows = columns - LEFT, rows + TOP
    within = (columns >= 0) & (columns < image.shape[2]) & (rows >= 0) & (rows < image.shape[1])
    return (pixels[:, within] == image[:, rows[within], columns[within]]).all(axis=0).mean()


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_places_of_a_window_are_those_of_the_whole_and_nearly_exact(data):
    def project(columns, rows):
        return np.stack(np.broadcast_arrays(0.9 * columns + 3e-5 * rows**2, 1.1 * rows + 4e-5 * (columns - 900) ** 2))

    width, height = data.draw(st.integers(1, 2000)), data.draw(st.integers(1, 60))
    ways = scanlines.possible_parts(width, data.draw(st.sampled_from([1, 128, 256, width])))
    parts = data.draw(st.sampled_from(ways))
    if parts:
        assert sum(count for _, count in parts) == width
        assert all(a + count == b for (a, count), (b, _) in pairwise(parts)) and parts[0][0] == 0
    whole = scanlines.places(project, parts, rasterio.windows.Window(0, 0, width, height))
    exact = project(*np.meshgrid(np.arange(width, dtype=float), np.arange(height, dtype=float)))
    assert np.abs(whole - exact).max() <= (scanlines.TOLERANCE_PX * 1.05 if parts else 0.02)
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    wide, high = data.draw(st.integers(1, width - left)), data.draw(st.integers(1, height - top))
    part = scanlines.places(project, parts, rasterio.windows.Window(left, top, wide, high))
    assert np.allclose(part, whole[:, top : top + high, left : left + wide], atol=1e-9)


@pytest.mark.parametrize("resampling", [Resampling.bilinear, Resampling.cubic, Resampling.lanczos, Resampling.average])
@pytest.mark.parametrize("crs", ["EPSG:26918", "EPSG:4326", "EPSG:5070"])
def test_other_kernels_are_told_from_it(image, tmp_path, crs, resampling):
    assert not read(copied(image, tmp_path / "copy.tif", crs, resampling))[2]


@pytest.mark.parametrize("crs", ["EPSG:26918", "EPSG:4326"])
@pytest.mark.parametrize("shift", [0.5, 0.3])
def test_a_copy_of_an_image_between_the_lattices_pixels_is_none(tmp_path, crs, shift):
    image = write(tmp_path / "image.tif", texture(1), transform=from_origin(LEFT + shift, TOP + shift, 1, 1))
    assert not read(copied(image, tmp_path / "copy.tif", crs))[2]


@pytest.mark.parametrize("what", ["even", "enlarged", "noise"])
def test_pictures_that_tell_nothing_are_not_taken_for_one(tmp_path, what):
    rng = np.random.default_rng(2)
    pixels = {
        "even": np.full((3, SIDE, SIDE), 90, np.uint8),
        "enlarged": np.kron(texture(3, SIDE // 7), np.ones((1, 7, 7), np.uint8)),
        "noise": rng.integers(1, 256, (3, SIDE, SIDE), np.uint8),
    }[what]
    image = write(tmp_path / "image.tif", pixels)
    assert not read(copied(image, tmp_path / "copy.tif", "EPSG:4326", Resampling.bilinear))[2]


@given(st.integers(0, SIDE - 1), st.integers(0, SIDE - 1), st.integers(1, 300), st.integers(1, 300))
@settings(max_examples=25, deadline=None)
def test_a_part_is_what_it_is_in_the_whole(image, tmp_path_factory, column, row, width, height):
    path = image.parent / "degrees.tif"
    if not path.exists():
        copied(image, path, "EPSG:4326")
    whole, valid, was_copy = read(path)
    assert was_copy
    part = LatticeWindow(LEFT + column, -TOP + row, min(width, SIDE - column), min(height, SIDE - row))
    pixels, there, _ = read(path, part)
    rows, columns = part.slices_in(WHOLE)
    assert np.array_equal(there, valid[rows, columns])
    assert np.array_equal(pixels[:, there], whole[:, rows, columns][:, there])


@pytest.mark.parametrize("kind", ["value", "alpha"])
def test_what_has_no_data_stays_without(tmp_path, kind):
    pixels = texture(4)
    hole = np.zeros((SIDE, SIDE), bool)
    hole[200:320, 150:400] = hole[:, :90] = True
    pixels[:, hole] = 0
    if kind == "value":
        image = write(tmp_path / "image.tif", pixels, nodata=0)
    else:
        layers = np.concatenate([pixels, np.where(hole, 0, 255).astype(np.uint8)[None]])
        image = write(tmp_path / "image.tif", layers, photometric="RGB", alpha="YES")
    found, valid, was_copy = read(copied(image, tmp_path / "copy.tif", "EPSG:26918"))
    assert was_copy
    # A pixel beside the hole that was never taken may be filled from those with data.
    assert np.array_equal(valid[2:-2, 2:-2] | hole[2:-2, 2:-2], np.ones((SIDE - 4, SIDE - 4), bool))
    wrong = (valid & hole)[2:-2, 2:-2]
    assert wrong.sum() < 60
    eroded = hole.copy()
    for axis in (0, 1):
        for step in (-1, 1):
            eroded &= np.roll(hole, step, axis)
    assert not (valid & eroded)[2:-2, 2:-2].any()
    assert (found == pixels).all(axis=0)[~hole].mean() > 0.9


def test_pixels_that_were_never_taken_become_the_mean_of_those_across():
    pixels = np.arange(75, dtype=np.uint8).reshape(3, 5, 5) * 3
    taken = np.ones((5, 5), bool)
    taken[2, 1:4] = False  # a line: from above and below
    taken[1, 3] = False  # and one above it: from left and right; the line's end then from all around
    expected = pixels.copy()
    expected[:, 2, 1:3] = (pixels[:, 1, 1:3].astype(int) + pixels[:, 3, 1:3] + 1) // 2
    expected[:, 1, 3] = (pixels[:, 1, 2].astype(int) + pixels[:, 1, 4] + 1) // 2
    around = [(1, 2), (1, 4), (2, 4), (3, 2), (3, 3), (3, 4)]
    expected[:, 2, 3] = np.rint(np.mean([pixels[:, row, column] for row, column in around], axis=0))
    pixels[:, ~taken] = 0
    valid = taken.copy()
    nearest._fill(pixels, taken, valid)
    assert valid.all()
    assert np.array_equal(pixels, expected)


def test_sixteen_bits_and_floats_are_put_back_too(tmp_path):
    for kind in (np.uint16, np.float32):
        pixels = texture(5).astype(kind) * kind(31) + kind(7)
        image = write(tmp_path / f"{np.dtype(kind)}.tif", pixels)
        found, _, was_copy = read(copied(image, tmp_path / f"{np.dtype(kind)}_copy.tif", "EPSG:26918"))
        assert was_copy
        assert (found == pixels).all(axis=0).mean() > 0.9


def test_where_samples_cannot_be_read_the_wanted_window_says_so(image, tmp_path):
    """A truncated file is told at the window that is wanted, not at one that only told what the file is."""
    path = copied(image, tmp_path / "copy.tif", "EPSG:26918")
    whole, _, _ = read(path)
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) * 2 // 3])
    top = LatticeWindow(LEFT + 100, -TOP + 100, 100, 100)
    pixels, _, _ = read(path, top)
    rows, columns = top.slices_in(WHOLE)
    assert np.abs(pixels.astype(int) - whole[:, rows, columns]).mean() < 12
    with pytest.raises(Exception, match="truncated or damaged"):
        read(path, LatticeWindow(LEFT + 100, -TOP + SIDE - 80, 50, 50))
