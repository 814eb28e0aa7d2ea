"""The permanent grid: ids, bounds, ranges and selection, on made cases and by properties."""

import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geoclass.errors import GridError
from geoclass.grid import TileGrid, TileRange, cells, needs_utm, nominal_gsd_m, parse_crs, utm_crs

UTM19 = TileGrid(pyproj.CRS.from_epsg(26919))
grids = st.builds(
    TileGrid,
    st.sampled_from([pyproj.CRS.from_epsg(code) for code in (26919, 32633, 2263, 3035)]),
    st.integers(8, 512),
    st.sampled_from([0.3, 0.6, 1.0, 10.0, 30.0]),
)
positions = st.integers(-50_000, 50_000)


def test_worked_example():
    assert UTM19.tile_id(1400, 20899) == "26919_224_1400_20899"
    assert UTM19.bounds(1400, 20899) == (313600.0, 4681376.0, 313824.0, 4681600.0)
    assert UTM19.tile_at(313600, 4681376) == (1400, 20899)
    assert UTM19.tile_at(313600 - 1e-6, 4681376) == (1399, 20899)


@given(grids, positions, positions)
def test_id_and_back(grid, column, row):
    assert grid.parse_id(grid.tile_id(column, row)) == (column, row)


@given(grids, positions, positions, st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_a_point_inside_a_tile_is_in_it(grid, column, row, x, y):
    left, bottom, right, top = grid.bounds(column, row)
    assert grid.tile_at(left + x * (right - left), bottom + y * (top - bottom)) == (column, row)


@given(grids, positions, positions, st.integers(1, 6), st.integers(1, 6))
def test_range_over_whole_tiles_is_those_tiles(grid, column, row, wide, high):
    left, bottom, _, _ = grid.bounds(column, row)
    _, _, right, top = grid.bounds(column + wide - 1, row + high - 1)
    assert grid.range_over((left, bottom, right, top)) == TileRange(column, row, column + wide, row + high)


@given(grids, positions, positions)
def test_neighbours_share_their_edge_to_the_bit(grid, column, row):
    squares = grid.polygons(np.array([column, column + 1]), np.array([row, row]))
    assert squares[0].bounds[2] == squares[1].bounds[0]
    assert shapely.touches(squares[0], squares[1])


@given(grids, positions, positions, st.integers(1, 5), st.integers(1, 5))
def test_pixel_window_covers_the_range(grid, left, bottom, wide, high):
    column, line, width, height = grid.pixel_window(TileRange(left, bottom, left + wide, bottom + high))
    assert (width, height) == (wide * grid.size_px, high * grid.size_px)
    assert column * grid.res == pytest.approx(left * grid.side)
    assert -line * grid.res == pytest.approx((bottom + high) * grid.side)


@given(grids, positions, positions, st.floats(0.2, 2.5), st.floats(0, 1), st.floats(0, 1))
def test_aoi_rules_nest(grid, column, row, size, x, y):
    """What lies within is selected by its centre, and what is selected by its centre is touched."""
    left, bottom = (column + x) * grid.side, (row + y) * grid.side
    area = shapely.box(left, bottom, left + size * grid.side, bottom + size * grid.side)
    columns, rows = cells(TileRange(column - 1, row - 1, column + 5, row + 5))
    within, center, touches = (grid.select(area, rule, columns, rows) for rule in ("within", "center", "touches"))
    assert not (within & ~center).any()
    assert not (center & ~touches).any()
    brute = [
        shapely.box(*grid.bounds(int(c), int(r))).intersection(area).area > 0
        for c, r in zip(columns, rows, strict=True)
    ]
    assert (touches == np.array(brute)).all()


def test_touching_along_an_edge_selects_nothing():
    columns, rows = cells(TileRange(0, 0, 3, 3))
    picked = UTM19.select(shapely.box(224, 224, 448, 448), "touches", columns, rows)
    assert list(zip(columns[picked], rows[picked], strict=True)) == [(1, 1)]


def test_cells_run_from_the_north_west():
    columns, rows = cells(TileRange(5, 7, 7, 9))
    assert list(zip(columns.tolist(), rows.tolist(), strict=True)) == [(5, 8), (6, 8), (5, 7), (6, 7)]


def test_feet_are_converted():
    grid = TileGrid(pyproj.CRS.from_epsg(2263), 224, 0.3048)
    assert grid.side == pytest.approx(224 * 0.3048 / 0.3048006096, rel=1e-9)
    assert grid.prefix == "2263_68.2752"


def test_a_crs_without_a_code_has_a_stable_label():
    text = "+proj=utm +zone=12 +ellps=GRS80 +units=m"
    assert TileGrid(pyproj.CRS.from_proj4(text)).prefix == TileGrid(pyproj.CRS.from_proj4(text)).prefix
    assert TileGrid(pyproj.CRS.from_proj4(text)).prefix.startswith("x")


def test_side_has_no_binary_noise():
    assert TileGrid(pyproj.CRS.from_epsg(26911), 224, 0.6).prefix == "26911_134.4"


@pytest.mark.parametrize(
    ("lon", "lat", "code"),
    [(-72.1, 42, 32618), (15, 52, 32633), (-74.4, -8.4, 32718), (180, 0, 32660), (-180, -1, 32701)],
)
def test_utm_zone(lon, lat, code):
    assert utm_crs(lon, lat).to_epsg() == code


def test_web_mercator_is_not_square_ground():
    assert needs_utm(pyproj.CRS.from_epsg(3857))
    assert needs_utm(pyproj.CRS.from_epsg(4326))
    assert not needs_utm(pyproj.CRS.from_epsg(26919))


@pytest.mark.parametrize(
    ("measured", "tolerance", "nominal"), [(0.957, 0.2, 1), (0.5992, 0.005, 0.6), (89.6, 0.2, 90), (31.5, 0.005, 31.5)]
)
def test_nominal_gsd(measured, tolerance, nominal):
    assert nominal_gsd_m(measured, tolerance) == nominal


@pytest.mark.parametrize(
    "make",
    [
        lambda: TileGrid(pyproj.CRS.from_epsg(4326)),
        lambda: TileGrid(UTM19.crs, -5),
        lambda: TileGrid(UTM19.crs, 0),
        lambda: TileGrid(UTM19.crs, 224, 0.0),
        lambda: TileGrid(UTM19.crs, 224, float("nan")),
        lambda: parse_crs("EPSG:999999"),
        lambda: utm_crs(10, 89),
        lambda: UTM19.parse_id("32633_224_1_2"),
    ],
)
def test_impossible_grids_are_refused(make):
    with pytest.raises(GridError):
        make()
