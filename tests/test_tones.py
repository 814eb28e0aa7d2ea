"""Colours of one date brought to those of another."""

import numpy as np
import pytest
import rasterio
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import from_origin

import geoclass
from geoclass.cli import main
from geoclass.errors import GridError, SceneError
from geoclass.predict import toned
from geoclass.tones import LEVELS, histograms, match

SIDE = 224


def counts(values):
    return np.bincount(np.asarray(values).ravel(), minlength=LEVELS)[None]


def test_a_monotone_change_of_colours_is_undone():
    random = np.random.default_rng(0)
    ground = random.gamma(4, 20, 200_000).clip(5, 250)
    other = (255 * (ground / 255) ** 0.7 * 0.8).round().astype(int)
    curve = match(counts(other), counts(ground.round().astype(int)))[0]
    levels = np.unique(other)
    middle = levels[(levels > 60) & (levels < 150)]
    expected = 255 * (middle / 255 / 0.8) ** (1 / 0.7)
    assert np.abs(curve[middle] - expected).max() < 2
    assert (np.diff(curve) >= 0).all() and curve.min() >= 0 and curve.max() <= 255


def test_the_same_colours_stay():
    random = np.random.default_rng(1)
    ground = counts(random.integers(30, 220, 50_000))
    curve = match(ground, ground)[0]
    assert np.abs(curve - np.arange(LEVELS)).max() < 1e-3


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 255), min_size=1, max_size=50), st.lists(st.integers(0, 255), min_size=1, max_size=50))
def test_curves_rise_and_stay_in_range(own, reference):
    curve = match(counts(own), counts(reference))[0]
    assert np.isfinite(curve).all() and (np.diff(curve) >= -1e-4).all() and curve.min() >= 0 and curve.max() <= 255


def test_the_network_sees_the_curve_and_interpolates_between_levels():
    curves = torch.arange(256.0).repeat(2, 1)
    curves[1] = 255 - curves[1]
    brightness = torch.tensor([0.0, 10.25, 254.5, 255.0, 300.0]).view(1, 1, 1, 5).repeat(3, 2, 1, 1)
    found = toned(brightness, curves)
    assert torch.allclose(found[0, 0, 0], torch.tensor([0.0, 10.25, 254.5, 255.0, 300.0]).clamp(max=255), atol=1e-3)
    assert torch.allclose(found[2, 1, 0], torch.tensor([255.0, 244.75, 0.5, 0.0, 0.0]), atol=1e-3)


def write_scene(path, pixels, epsg=26919):
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "crs": f"EPSG:{epsg}", "nodata": 0}
    height, width = pixels.shape[1:]
    with rasterio.open(
        path, "w", width=width, height=height, transform=from_origin(10 * SIDE, 100 * SIDE, 1, 1), **profile
    ) as file:
        file.write(pixels)


@pytest.fixture
def two_dates(tmp_path):
    """A scene of 3 x 4 tiles, and the same ground seen by another sensor."""
    random = np.random.default_rng(2)
    coarse = random.integers(20, 200, (3, 3 * 7, 4 * 7)).repeat(32, axis=1).repeat(32, axis=2)
    ground = (coarse + random.normal(0, 8, coarse.shape)).clip(5, 230).round().astype(np.uint8)
    cast = (255 * (ground / 255.0) ** 0.6 * np.array([0.9, 0.7, 0.5])[:, None, None]).clip(1, 255).astype(np.uint8)
    write_scene(tmp_path / "first.tif", ground)
    write_scene(tmp_path / "second.tif", cast)
    return tmp_path


def test_pixels_are_counted_on_whole_tiles(two_dates):
    mosaic = geoclass.open(two_dates / "first.tif")
    grid = mosaic.default_grid()
    with rasterio.open(two_dates / "first.tif") as file:
        tile = file.read(window=rasterio.windows.Window(SIDE, 0, SIDE, SIDE))
    found = histograms(mosaic, grid, ("red", "green", "blue"), np.array([11]), np.array([99]))
    assert np.array_equal(found, [np.bincount(band.ravel(), minlength=LEVELS) for band in tile])
    with pytest.raises(SceneError, match="is whole"):
        histograms(mosaic, grid, ("red", "green", "blue"), np.array([9]), np.array([99]))


def test_classify_like_another_date_gives_its_labels(two_dates, tiny_bundle, monkeypatch):
    monkeypatch.chdir(two_dates)
    run = CliRunner()
    first = run.invoke(main, ["classify", "first.tif", "-m", str(tiny_bundle), "-o", "a", "--date", "2010"])
    assert first.exit_code == 0, first.output
    for name, options in (("plain", []), ("like", ["--like", "a/first.gpkg"])):
        done = run.invoke(
            main, ["classify", "second.tif", "-m", str(tiny_bundle), "-o", name, "--date", "2016", *options]
        )
        assert done.exit_code == 0, done.output
    reference, plain, like = (
        geoclass.read_result(two_dates / folder / f"{name}.gpkg")
        for folder, name in (("a", "first"), ("plain", "second"), ("like", "second"))
    )
    off = [np.abs(one.probabilities - reference.probabilities).max() for one in (plain, like)]
    assert off[1] < 0.1 * off[0]
    assert like.info["like"] == "a/first.gpkg" and plain.info["like"] is None
    # The preview shows the ground as it was photographed.
    previews = [(two_dates / name / "second.preview.tif").read_bytes() for name in ("plain", "like")]
    assert previews[0] == previews[1]


def test_a_reference_that_cannot_serve_is_refused(two_dates, tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(two_dates)
    geoclass.classify("first.tif", tiny_bundle, out="a", date="2010")
    (two_dates / "first.tif").rename(two_dates / "away.tif")
    with pytest.raises(SceneError, match=r"first\.tif, which .* is not found; put it where it was"):
        geoclass.classify("second.tif", tiny_bundle, like="a/first.gpkg")
    (two_dates / "away.tif").rename(two_dates / "first.tif")
    with pytest.raises(GridError, match="give a result of the same"):
        geoclass.classify("second.tif", tiny_bundle, like="a/first.gpkg", gsd_m=2.0)
