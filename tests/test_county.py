"""The synthetic county: the same everywhere and every time, and its truth is what its pixels show."""

import hashlib
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.windows import from_bounds

from geoclass.county.landscape import DEVELOPED, WATER, World, survey
from geoclass.county.make import CLASS_NAMES, MARGIN_PX, County, make_county
from geoclass.county.painting import paint, picture, survey_around
from geoclass.county.site import COARSE_PX, Site, growth_for, place
from geoclass.errors import ConfigError, GridError, OutputError
from geoclass.grid import TileGrid, parse_crs
from geoclass.schemes import load_scheme

ROWS, COLUMNS, SIZE, SEED = 3, 4, 224, 8


@pytest.fixture(scope="module")
def county(tmp_path_factory: pytest.TempPathFactory) -> County:
    return make_county(
        tmp_path_factory.mktemp("county"), rows=ROWS, columns=COLUMNS, seed=SEED, tiles_per_class=4, changed=0.2
    )


@pytest.fixture(scope="module")
def truth(county: County) -> gpd.GeoDataFrame:
    return gpd.read_file(county.truth, layer="truth")


def site_of(county: County) -> Site:
    return place(county.grid, ROWS, COLUMNS)


def world_of(county: County) -> World:
    world = World(SEED)
    return replace(world, growth=growth_for(world, site_of(county), 0.2))


def coarse(rows: int, columns: int, changed: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Classes of every 16th pixel at both dates, as (rows, columns, pixels of a tile)."""
    site = place(TileGrid(parse_crs("EPSG:26919")), rows, columns)
    world = World(seed)
    world = replace(world, growth=growth_for(world, site, changed))
    ground = survey(world, 0, 0, site.width_px, site.height_px, COARSE_PX)
    side = SIZE // COARSE_PX
    return tuple(
        ground.classes(date).reshape(rows, side, columns, side).swapaxes(1, 2).reshape(rows, columns, -1)
        for date in (0, 1)
    )


def majority(classes: np.ndarray) -> np.ndarray:
    return np.stack([(classes == k).sum(axis=-1) for k in range(6)]).argmax(axis=0)


def contents(folder: Path) -> dict[str, str]:
    """A digest of the pixels of every raster and picture in a folder."""
    found = {}
    for path in sorted([*folder.rglob("*.tif"), *folder.rglob("*.png")]):
        if path.suffix == ".png":
            pixels = np.asarray(Image.open(path))
        else:
            with rasterio.open(path) as raster:
                pixels = raster.read()
        found[str(path.relative_to(folder))] = hashlib.blake2b(pixels.tobytes()).hexdigest()
    return found


# --- the same everywhere and every time


def test_same_arguments_give_the_same_pixels_and_another_seed_does_not(tmp_path):
    arguments = {"rows": 1, "columns": 2, "tiles_per_class": 1}
    for name, seed in (("first", 1), ("second", 1), ("other", 2)):
        make_county(tmp_path / name, seed=seed, **arguments)
    first, second, other = (contents(tmp_path / name) for name in ("first", "second", "other"))
    assert len(first) == 4 + 6
    assert first == second
    assert not set(first.values()) & set(other.values())


def test_any_window_equals_the_same_pixels_of_a_larger_one(county):
    """To the bit, wherever its edges lie: that is what makes blocks without seams."""
    world = world_of(county)
    whole = [paint(world, 0, 0, 1100, 700, date) for date in (0, 1)]
    random = np.random.default_rng(3)
    for _ in range(12):
        width, height = (int(n) for n in random.integers(1, 200, 2))
        x, y = int(random.integers(0, 1100 - width)), int(random.integers(0, 700 - height))
        ground = survey_around(world, x, y, width, height)
        for date in (0, 1):
            np.testing.assert_array_equal(picture(ground, date), whole[date][:, y : y + height, x : x + width])


def test_windows_of_both_signs_agree():
    world = World(9, growth=0.1)
    across = survey(world, -300, -150, 600, 300)
    for x, y in ((-300, -150), (-7, -3), (5, 11)):
        part = survey(world, x, y, 64, 40)
        for date in (0, 1):
            at = (slice(y + 150, y + 190), slice(x + 300, x + 364))
            np.testing.assert_array_equal(part.classes(date), across.classes(date)[at])


def test_a_coarse_survey_is_a_sample_of_the_full_one():
    world = World(4)
    full, few = survey(world, 512, 1024, 512, 512).classes(0), survey(world, 512, 1024, 512, 512, 8).classes(0)
    np.testing.assert_array_equal(full[::8, ::8], few)


def test_the_same_ground_looks_the_same_in_a_county_of_another_size(county, tmp_path):
    small = make_county(tmp_path, rows=1, columns=2, seed=SEED, tiles_per_class=0)
    with rasterio.open(small.scenes["2016"]) as a, rasterio.open(county.scenes["2016"]) as b:
        inner = a.read(window=((MARGIN_PX, MARGIN_PX + SIZE), (MARGIN_PX, MARGIN_PX + 2 * SIZE)))
        row, column = b.index(*a.xy(MARGIN_PX, MARGIN_PX))
        at = ((row, row + SIZE), (column, column + 2 * SIZE))
        np.testing.assert_array_equal(inner, b.read(window=at))


# --- the files


def test_scenes_have_a_margin_without_data_and_stand_off_the_grid(county):
    for path in county.scenes.values():
        with rasterio.open(path) as scene:
            pixels = scene.read()
            assert scene.nodata == 0 and scene.crs == "EPSG:26919" and scene.res == (1, 1)
            assert scene.profile["tiled"] and scene.compression.name == "deflate"
            left, _, _, top = scene.bounds
        inside = np.zeros(pixels.shape[1:], bool)
        inside[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX] = True
        assert inside.sum() == ROWS * COLUMNS * SIZE**2
        assert (pixels[:, ~inside] == 0).all() and (pixels[:, inside] > 0).all()
        # Neither the file's corner nor the data's lies on the grid.
        for edge in (left, top, left + MARGIN_PX, top - MARGIN_PX):
            assert edge % SIZE != 0


def test_every_file_says_when_and_that_it_is_synthetic(county):
    for paths in (county.scenes, county.labels):
        for date, path in paths.items():
            with rasterio.open(path) as raster:
                tags = raster.tags()
            assert tags["SYNTHETIC"] == "YES" and "SYNTHETIC" in tags["TIFFTAG_IMAGEDESCRIPTION"]
            assert tags["TIFFTAG_DATETIME"].startswith(f"{date}:07:01 ")


def test_jpeg_scenes_carry_a_mask(county, tmp_path):
    small = make_county(tmp_path, rows=1, columns=2, seed=SEED, tiles_per_class=0, compress="jpeg")
    with rasterio.open(small.scenes["2016"]) as a, rasterio.open(county.scenes["2016"]) as b:
        assert a.nodata is None
        mask = a.dataset_mask()
        assert (mask > 0).sum() == 2 * SIZE**2 and (mask[:MARGIN_PX] == 0).all()
        inner = ((MARGIN_PX, MARGIN_PX + SIZE), (MARGIN_PX, MARGIN_PX + 2 * SIZE))
        assert np.abs(a.read(window=inner).astype(int) - b.read(window=inner)).mean() < 8


def test_label_rasters_hold_nlcd_codes_of_the_classes_below(county):
    scheme = load_scheme("nlcd6")
    class_of = {code: item.name for item in scheme.classes for code in item.codes}
    site, world = site_of(county), world_of(county)
    for number, path in enumerate(county.labels.values()):
        with rasterio.open(path) as raster:
            codes, colours = raster.read(1), raster.colormap(1)
            rows, columns = np.indices(codes.shape)
            x, y = (np.reshape(axis, codes.shape) for axis in raster.xy(rows, columns))
            assert raster.res == (30, 30) and raster.nodata == 0 and colours[11][:3] == (70, 107, 159)
            assert raster.transform.c % 30 == 0 and raster.transform.f % 30 == 0
        assert set(np.unique(codes)) <= set(class_of), "no cell of the label raster is without a code"
        column, line = site.lattice
        classes = survey(world, 0, 0, site.width_px, site.height_px).classes(number)
        below = classes[(-y - line).astype(int), (x - column).astype(int)]
        assert [class_of[code] for code in codes.ravel()] == [CLASS_NAMES[k] for k in below.ravel()]


def test_other_tile_sizes_resolutions_and_units(tmp_path):
    made = make_county(tmp_path, rows=2, columns=1, size_px=64, gsd_m=0.6, crs="EPSG:2263", tiles_per_class=1)
    table = gpd.read_file(made.truth)
    assert len(table) == 2 and table.crs == "EPSG:2263"
    feet = 64 * 0.6 / made.grid.metres_per_unit
    np.testing.assert_allclose(table.geometry.area, feet**2)
    with rasterio.open(made.scenes["2022"]) as scene:
        np.testing.assert_allclose(scene.res, feet / 64)
        for row in table.itertuples():
            data = scene.read(1, window=from_bounds(*row.geometry.bounds, scene.transform), boundless=True)
            assert (data > 0).mean() == pytest.approx(row.valid_fraction, abs=0.04)


# --- the truth


def test_truth_is_a_count_of_the_pixels_in_each_tile(county, truth):
    """By brute force: the classes of the whole county, cut with rasterio at the tiles' own polygons."""
    site = site_of(county)
    ground = survey(world_of(county), 0, 0, site.width_px, site.height_px)
    with rasterio.open(county.scenes["2016"]) as scene:
        (west, _, _, north), shape = scene.bounds, scene.shape
    seen = set()
    for number, date in enumerate(county.dates):
        field = np.full(shape, 9, np.uint8)
        field[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX] = ground.classes(number)
        for row in truth.itertuples():
            assert row.geometry.bounds == county.grid.bounds(row.column, row.row)
            assert row.tile_id == county.grid.tile_id(row.column, row.row)
            # The tiles in the west begin outside the file, where there is nothing to count.
            left, top = round(row.geometry.bounds[0] - west), round(north - row.geometry.bounds[3])
            pixels = field[max(top, 0) : top + SIZE, max(left, 0) : left + SIZE]
            counts = [(pixels == k).sum() for k in range(6)]
            record = truth.loc[row.Index]
            assert record[f"class_{date}"] == CLASS_NAMES[int(np.argmax(counts))]
            assert record[f"purity_{date}"] == pytest.approx(max(counts) / sum(counts))
            assert record["valid_fraction"] == pytest.approx(sum(counts) / SIZE**2)
            seen.add(row.tile_id)
    assert len(seen) == ROWS * COLUMNS


def test_truth_has_partly_covered_tiles_and_none_below_half(truth):
    assert truth["valid_fraction"].min() >= 0.5
    assert (truth["valid_fraction"] == 1).sum() == (ROWS - 1) * (COLUMNS - 1)
    assert truth["purity_2016"].min() < 0.9, "tiles along borders are mixed"


def test_truth_says_what_changed(truth):
    changed = truth["class_2016"] != truth["class_2022"]
    assert (truth["changed"] == changed).all()
    assert (truth["new_built"] == (changed & (truth["class_2022"] == "Developed"))).all()
    assert truth["new_built"].any()


# --- the land


def test_classes_are_those_of_the_scheme_and_all_are_there():
    assert load_scheme("nlcd6").names == CLASS_NAMES
    for seed in (0, 1, 2):
        found, _ = coarse(24, 32, 0.0, seed)
        shares = np.bincount(majority(found).ravel(), minlength=6) / (24 * 32)
        assert shares.min() >= 0.015, f"seed {seed}: {shares}"


@pytest.mark.parametrize("wanted", [0.0, 0.02, 0.04, 0.1])
def test_about_the_asked_share_of_tiles_turns_developed(wanted):
    before, after = (majority(classes) for classes in coarse(24, 32, wanted))
    turned = (before != DEVELOPED) & (after == DEVELOPED)
    assert turned.mean() == pytest.approx(wanted, abs=0.012)
    assert (turned.sum() == 0) == (wanted == 0)


def test_growth_takes_open_land_beside_developed_land_and_nothing_else():
    before, after = coarse(24, 32, 0.04)
    assert (after[before != after] == DEVELOPED).all(), "land changes to developed only"
    assert (before[before != after] != WATER).all(), "nobody builds on water"
    developed = majority(before) == DEVELOPED
    turned = np.argwhere(~developed & (majority(after) == DEVELOPED))
    there = np.argwhere(developed)
    distance = np.abs(turned[:, None] - there[None]).max(axis=-1).min(axis=1)
    chance = np.abs(np.argwhere(~developed)[:, None] - there[None]).max(axis=-1).min(axis=1)
    assert (distance <= 2).mean() >= 0.9, "new building stands within two tiles of older"
    assert distance.mean() < 0.6 * chance.mean()


def test_the_second_date_has_another_season_and_sensor(county):
    means = []
    for path in county.scenes.values():
        with rasterio.open(path) as scene:
            inside = scene.read()[:, MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX]
        means.append(inside.mean(axis=(1, 2)))
        assert inside.std() > 15
    red, green, blue = means[1] - means[0]
    assert red > green and red > blue, "the second sensor sees warmer"


# --- training tiles


def test_training_tiles_are_balanced_pure_and_from_elsewhere(county):
    folders = sorted(path.name for path in county.training.iterdir())
    assert folders == sorted(CLASS_NAMES)
    world = World(SEED, place=1)
    with rasterio.open(county.scenes["2016"]) as scene:
        county_rows = {row.tobytes() for row in scene.read(1)[:, :SIZE]}
    for land, name in enumerate(CLASS_NAMES):
        tiles = sorted((county.training / name).glob("*.png"))
        assert len(tiles) == 4
        for path in tiles:
            column, row = (int(part) for part in path.stem.split("_")[1:])
            classes = survey(world, column * SIZE, row * SIZE, SIZE, SIZE).classes(0)
            assert (classes == land).mean() >= 0.6
            pixels = np.asarray(Image.open(path))
            assert pixels.shape == (SIZE, SIZE, 3) and pixels.dtype == np.uint8
            assert not {line.tobytes() for line in pixels[:, :, 0]} & county_rows


def test_a_second_run_replaces_the_training_tiles(tmp_path):
    for tiles in (3, 1):
        made = make_county(tmp_path, rows=1, columns=1, tiles_per_class=tiles, changed=0)
    assert len(list(made.training.rglob("*.png"))) == 6


def test_progress_counts_up_to_the_end(tmp_path):
    seen: list[tuple[str, int, int]] = []
    make_county(tmp_path, rows=1, columns=1, tiles_per_class=1, progress=lambda *args: seen.append(args))
    assert [stage for stage, _, _ in seen] == ["county"] * seen[0][2] + ["training"] * 6
    assert seen[-1] == ("training", 6, 6)


# --- what cannot be made


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"rows": 0}, GridError, "at least 1 x 1"),
        ({"columns": -2}, GridError, "at least 1 x 1"),
        ({"size_px": 8}, GridError, "32 px"),
        ({"crs": "EPSG:4326"}, GridError, "projected"),
        ({"crs": "Maine"}, GridError, "unknown CRS"),
        ({"changed": 1.5}, ConfigError, "from 0 to 1"),
        ({"date_a": "spring"}, ConfigError, "is no date"),
        ({"date_b": "2022-02-31"}, ConfigError, "is no date"),
        ({"date_a": "2022", "date_b": "2016"}, ConfigError, "not later"),
    ],
)
def test_what_cannot_be_made_is_refused_and_leaves_nothing(tmp_path, arguments, error, says):
    with pytest.raises(error, match=says):
        make_county(tmp_path / "county", **({"rows": 1, "columns": 1} | arguments))
    assert not (tmp_path / "county").exists()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="choose another folder"):
        make_county(tmp_path / "file", rows=1, columns=1)


def test_nothing_half_written_stays_when_the_run_is_stopped(tmp_path):
    def stop(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_county(tmp_path, rows=1, columns=1, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == []
