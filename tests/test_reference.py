"""Tile labels from reference data: fractions against brute force and closed forms, the rules against cases made by hand."""

import math
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import from_origin

from geoclass.datasets.fractions import code_positions, name_position
from geoclass.datasets.reference import TileFractions, legend_scheme, raster_legend, read_reference
from geoclass.errors import DatasetError
from geoclass.grid import TileGrid, TileRange, cells
from geoclass.schemes import ClassScheme, LandClass, load_scheme

GRID = TileGrid(pyproj.CRS.from_epsg(26912), 224, 1.0)
SIX, THREE, SIXTEEN = load_scheme("nlcd6"), load_scheme("nlcd3"), load_scheme("nlcd16")
WATER, DEVELOPED, BARREN, FOREST, HERBACEOUS, CULTIVATED = range(6)


def write_codes(path: Path, codes: np.ndarray, left=1000 * 224, top=18000 * 224, res=28.0, crs="EPSG:26912", **profile):
    options = {
        "driver": "GTiff",
        "count": 1,
        "dtype": codes.dtype,
        "crs": crs,
        "transform": from_origin(left, top, res, res),
    }
    with rasterio.open(path, "w", width=codes.shape[1], height=codes.shape[0], **{**options, **profile}) as target:
        target.write(codes, 1)
    return path


def tiles_at(column: int, top_row: int, columns: int, rows: int):
    """Tiles from the upper left one, whose rows end at `top_row`."""
    return cells(TileRange(column, top_row - rows, column + columns, top_row))


def fractions(values, labelled=None, nine=-1) -> TileFractions:
    table = np.array(values, np.float32)
    share = table.sum(axis=1) if labelled is None else np.array(labelled, np.float32)
    return TileFractions(table, share, np.full(len(table), nine))


# --- rules


def test_majority_by_hand():
    found = fractions(
        [[0.6, 0.4, 0], [0.59, 0.41, 0], [0.4, 0.1, 0], [0.2, 0.05, 0], [0, 0, 0], [0.5, 0.5, 0], [0, 0.7, 0.3]]
    )
    assert found.majority().tolist() == [0, -1, 0, -1, -1, -1, 1]
    assert found.majority(0.5, 0).tolist() == [0, 0, 0, 0, -1, 0, 1]
    assert found.majority(0.7).tolist() == [-1, -1, 0, -1, -1, -1, 1]
    assert found.purity == pytest.approx([0.6, 0.59, 0.8, 0.8, 0, 0.5, 0.7])
    assert found.soft.sum(axis=1) == pytest.approx([1, 1, 1, 1, 0, 1, 1])
    with pytest.raises(DatasetError, match="min-purity"):
        found.majority(60)


def test_nine_points_by_hand(tmp_path):
    """28 m codes, 8 × 8 a tile; the nine points fall in pixels 1, 4 and 6 of each axis (37.3, 112 and 186.7 m)."""
    codes = np.full((8, 40), 41, np.uint8)
    codes[0, 0] = codes[3, 3] = 11  # tile 0: not at a point
    codes[6, 8 + 1] = 11  # tile 1: at one point
    codes[:, 16:24] = 0  # tile 2: unlabelled
    codes[1, 24 + 6] = 0  # tile 3: one point unlabelled
    codes[:, 32:40] = np.where(
        np.isin(np.arange(8), (1, 4, 6)), 82, 11
    )  # tile 4: mostly water, cultivated at the points
    path = write_codes(tmp_path / "codes.tif", codes)
    _, found = read_reference(path, GRID, *tiles_at(1000, 18000, 5, 1), SIX)
    assert found.nine_points.tolist() == [FOREST, -1, -1, -1, CULTIVATED]
    assert found.majority().tolist() == [FOREST, FOREST, -1, FOREST, WATER]
    assert found.labelled == pytest.approx([1, 1, 0, 63 / 64, 1])
    assert found.fractions[0] == pytest.approx([2 / 64, 0, 0, 62 / 64, 0, 0])


# --- rasters


@pytest.mark.parametrize("scheme", [SIXTEEN, SIX, THREE], ids=lambda s: s.name)
def test_fractions_of_whole_pixels_are_counts(tmp_path, scheme):
    rng = np.random.default_rng(0)
    codes = rng.choice([11, 21, 24, 31, 41, 43, 52, 71, 81, 82, 90, 95, 0, 255], (40, 56)).astype(np.uint8)
    path = write_codes(tmp_path / "codes.tif", codes, nodata=255)
    columns, rows = tiles_at(1000, 18000, 7, 5)
    _, found = read_reference(path, GRID, columns, rows, scheme)
    for n, (column, row) in enumerate(zip(columns, rows, strict=True)):
        line, place = (17999 - row) * 8, (column - 1000) * 8
        tile = codes[line : line + 8, place : place + 8]
        expected = [np.isin(tile, item.codes).sum() / 64 for item in scheme.classes]
        assert found.fractions[n] == pytest.approx(expected)
        assert found.labelled[n] == pytest.approx((~np.isin(tile, (0, 255))).sum() / 64)


def brute_force(path: Path, crs: pyproj.CRS, columns, rows, per_side: int, side: float):
    """Codes at the centres of per_side² squares of each tile, by pyproj and plain indexing: (N, k²)."""
    with rasterio.open(path) as source:
        codes, t, wkt = source.read(1), source.transform, source.crs.to_wkt()
    steps = (np.arange(per_side) + 0.5) / per_side
    x = (columns[:, None, None] + steps[None, None, :]) * side + np.zeros((1, per_side, 1))
    y = (rows[:, None, None] + steps[None, :, None]) * side + np.zeros((1, 1, per_side))
    to_x, to_y = pyproj.Transformer.from_crs(crs, pyproj.CRS.from_wkt(wkt), always_xy=True).transform(x, y)
    place, line = np.floor((to_x - t.c) / t.a).astype(int), np.floor((to_y - t.f) / t.e).astype(int)
    inside = (place >= 0) & (place < codes.shape[1]) & (line >= 0) & (line < codes.shape[0])
    found = np.where(inside, codes[line.clip(0, codes.shape[0] - 1), place.clip(0, codes.shape[1] - 1)], 0)
    return found.reshape(len(columns), -1)


@pytest.mark.parametrize("epsg", [26912, 26911, 5070, 2850])
def test_real_nlcd_equals_a_brute_force_count(test_data, epsg):
    """NLCD 2011 around Zion (custom CRS, 31.5 m), over its whole extent and its edges, onto grids in several CRSs.

    2850 is NAD83(HARN) Utah South; at the far edge of zone 11 and in Albers the ground is turned and stretched.
    """
    per_side = 29  # the least for which four samples span a label pixel: 4 × 224 m / 31.5 m
    path = test_data / "nlcd" / "nlcd2011.tif"
    grid = TileGrid(pyproj.CRS.from_epsg(epsg), 224, 1.0)
    with rasterio.open(path) as source:
        middle = pyproj.Transformer.from_crs(source.crs.to_wkt(), grid.crs, always_xy=True).transform(318819, 4132665)
    column, row = grid.tile_at(*middle)
    columns, rows = cells(TileRange(column - 90, row - 6, column + 90, row + 6))
    some = np.random.default_rng(0).permutation(len(columns))[:1200]
    columns, rows = columns[some], rows[some]
    _, found = read_reference(path, grid, columns, rows, SIXTEEN)
    codes = brute_force(path, grid.crs, columns, rows, per_side, grid.side)
    expected = np.stack([(codes == item.id).sum(axis=1) for item in SIXTEEN.classes], axis=1) / per_side**2
    differing = np.abs(found.fractions - expected) * per_side**2
    assert differing.max() < 0.01  # not one sample goes to another class
    nine = brute_force(path, grid.crs, columns, rows, 3, grid.side)
    agree = np.where((nine == nine[:, :1]).all(axis=1), nine[:, 0], 0)
    assert np.where(found.nine_points >= 0, np.array(SIXTEEN.ids)[found.nine_points], 0).tolist() == agree.tolist()
    assert 0.3 < found.labelled.mean() < 0.99 and (found.nine_points >= 0).any()


def test_official_colours_and_names_of_nlcd(test_data):
    """Zion's file carries the palette of the 2011 edition, of which the published one differs by a few levels."""
    legend = raster_legend(test_data / "nlcd" / "nlcd2011.tif")
    for item in SIXTEEN.classes:
        name, colour = legend[item.id]
        assert name == ""
        assert np.abs(np.subtract(tuple(bytes.fromhex(colour[1:])), item.rgb)).max() <= 22
    assert SIXTEEN.classes[SIXTEEN.index("Evergreen Forest")].colour == "#1c5f2c"
    assert legend[42][1] == "#1c6330" and legend[23][1] == "#ed0000"


@pytest.mark.parametrize("how", ["categories", "table"])
def test_names_and_colours_in_the_file_are_kept(tmp_path, how):
    codes = np.array([[11, 42], [42, 95]], np.uint8)
    path = write_codes(tmp_path / "named.tif", codes, res=224)
    official = {item.id: item for item in SIXTEEN.classes}
    with rasterio.open(path, "r+") as target:
        target.write_colormap(1, {code: (*item.rgb, 255) for code, item in official.items()})
    if how == "categories":
        names = "".join(f"<Category>{official[c].name if c in official else ''}</Category>" for c in range(96))
        inside = f"<CategoryNames>{names}</CategoryNames>"
    else:
        heads = "".join(f'<FieldDefn index="{n}"><Name>{h}</Name><Type>{t}</Type><Usage>0</Usage></FieldDefn>'
                        for n, (h, t) in enumerate([("Value", 0), ("Count", 0), ("NLCD_Land", 2)]))  # fmt: skip
        lines = "".join(f'<Row index="{n}"><F>{c}</F><F>7</F><F>{item.name}</F></Row>'
                            for n, (c, item) in enumerate(official.items()))  # fmt: skip
        inside = f"<GDALRasterAttributeTable>{heads}{lines}</GDALRasterAttributeTable>"
    aux = path.with_name(path.name + ".aux.xml")
    aux.write_text(f'<PAMDataset><PAMRasterBand band="1">{inside}</PAMRasterBand></PAMDataset>')
    legend = raster_legend(path)
    assert legend == {code: (item.name, item.colour) for code, item in official.items()}
    scheme, found = read_reference(path, GRID, *tiles_at(1000, 18000, 2, 2))
    assert [(c.name, c.colour, c.codes) for c in scheme.classes] == [
        (c.name, c.colour, c.codes) for c in SIXTEEN.classes
    ]
    assert [scheme.ids[k] for k in found.majority()] == [11, 42, 42, 95]
    assert legend_scheme(path).ids == SIXTEEN.ids


def test_codes_through_a_grouping():
    grouped = ClassScheme(
        name="two", base="nlcd6",
        classes=(LandClass(id=1, name="Wet", colour="#0000ff", members=("Water",)),
                 LandClass(id=2, name="Green", colour="#00ff00", members=("Forest", "Herbaceous"))),
    )  # fmt: skip
    codes = code_positions(grouped)
    assert codes[11] == codes[12] == 0 and codes[42] == codes[95] == 1 and 21 not in codes
    assert name_position(grouped, "forest") == 1 and name_position(grouped, "82") is None
    assert name_position(grouped, "Green") == 1 and name_position(grouped, "11.0") == 0
    assert code_positions(load_scheme("rsscn7")) == {n + 1: n for n in range(7)}
    assert all(THREE.classes[k].name == {21: "Developed", 82: "Cultivated", 42: "Undeveloped"}[c]
               for c, k in code_positions(THREE).items() if c in (21, 82, 42))  # fmt: skip


def test_codes_outside_the_scheme_are_named(tmp_path):
    codes = np.full((8, 8), 11, np.uint8)
    codes[0, :4] = 77
    codes[1, :2] = 78
    path = write_codes(tmp_path / "codes.tif", codes)
    with pytest.raises(DatasetError, match=r"77 \(6\.25%\), 78 \(3\.12%\).*--scheme.*--ignore-codes"):
        read_reference(path, GRID, *tiles_at(1000, 18000, 1, 1), SIX)
    with pytest.raises(DatasetError, match=r"scheme 'nlcd6': 78"):
        read_reference(path, GRID, *tiles_at(1000, 18000, 1, 1), SIX, ignore=[77])
    for ignore in ("all", [77, 78]):
        _, found = read_reference(path, GRID, *tiles_at(1000, 18000, 1, 1), SIX, ignore=ignore)
        assert found.labelled[0] == pytest.approx(58 / 64) and found.purity[0] == 1
        assert found.ignored == {"77": pytest.approx(4 / 64), "78": pytest.approx(2 / 64)}
    with pytest.raises(DatasetError, match="ignored"):
        read_reference(path, GRID, *tiles_at(1000, 18000, 1, 1), SIX, ignore=[11, 77, 78])


def test_ids_are_taken_where_nothing_is_a_code(tmp_path):
    path = write_codes(tmp_path / "map.tif", np.array([[1, 2], [6, 0]], np.uint8), res=224)
    _, found = read_reference(path, GRID, *tiles_at(1000, 18000, 2, 2), SIX)
    assert found.majority().tolist() == [WATER, DEVELOPED, CULTIVATED, -1]
    aux = path.with_name(path.name + ".aux.xml")  # the file says that its numbers mean something else
    aux.write_text('<PAMDataset><PAMRasterBand band="1"><CategoryNames><Category/><Category>Rock</Category></CategoryNames>'
                   "</PAMRasterBand></PAMDataset>")  # fmt: skip
    with pytest.raises(DatasetError, match="outside the scheme"):
        read_reference(path, GRID, *tiles_at(1000, 18000, 2, 2), SIX)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
def test_any_number_type_and_nodata(tmp_path, dtype):
    codes = np.array([[11, 41], [82, 0]], dtype)
    nodata = {"f": -9999, "i": -9999, "u": 255}[np.dtype(dtype).kind]
    codes[1, 1] = math.nan if dtype == "float64" else nodata
    path = write_codes(tmp_path / "codes.tif", codes, res=224, nodata=nodata)
    columns, rows = tiles_at(999, 18001, 4, 4)  # a ring of uncovered tiles about the four
    _, found = read_reference(path, GRID, columns, rows, SIX)
    expected = np.full((4, 4), -1)
    expected[1:3, 1:3] = [[WATER, FOREST], [CULTIVATED, -1]]
    assert found.majority().tolist() == expected.ravel().tolist()


def test_zero_may_be_a_class(tmp_path):
    scheme = ClassScheme(name="wet", classes=(LandClass(id=1, name="Dry", colour="#aaaaaa", codes=(0,)),
                                              LandClass(id=2, name="Wet", colour="#0000ff", codes=(1,))))  # fmt: skip
    path = write_codes(tmp_path / "codes.tif", np.array([[0, 1]], np.uint8), res=224)
    _, found = read_reference(path, GRID, *tiles_at(999, 18000, 4, 1), scheme)
    assert found.majority().tolist() == [-1, 0, 1, -1]


def test_scattered_tiles_and_order_do_not_matter(tmp_path):
    rng = np.random.default_rng(2)
    path = write_codes(tmp_path / "codes.tif", rng.choice([11, 41, 82], (900, 900)).astype(np.uint8), res=30.7)
    columns, rows = tiles_at(1000, 18000, 110, 110)
    _, whole = read_reference(path, GRID, columns, rows, SIX)
    some = rng.permutation(len(columns))[:300]
    _, part = read_reference(path, GRID, columns[some], rows[some], SIX)
    assert (part.fractions == whole.fractions[some]).all() and (part.nine_points == whole.nine_points[some]).all()


def test_grid_in_feet(tmp_path):
    """US survey feet: the fractions of a half-and-half raster are halves."""
    grid = TileGrid(pyproj.CRS.from_epsg(3560), 224, 1.0)
    codes = np.repeat(np.array([[11, 41]], np.uint8), 2, axis=0)
    path = write_codes(
        tmp_path / "feet.tif", codes, left=2000 * grid.side, top=4000 * grid.side, res=grid.side / 2, crs="EPSG:3560"
    )
    _, found = read_reference(path, grid, np.array([2000]), np.array([3999]), SIX)
    assert found.fractions[0] == pytest.approx([0.5, 0, 0, 0.5, 0, 0])


# --- polygons


def write_shapes(path: Path, shapes, classes, crs="EPSG:26912", field="kind", **more):
    gpd.GeoDataFrame({field: classes, "other": 1}, geometry=list(shapes), crs=crs).to_file(path, **more)
    return path


def in_tile(column, row, left, bottom, right, top):
    """A box in shares of a tile."""
    return shapely.box(*(np.array([column + left, row + bottom, column + right, row + top]) * 224))


def test_polygon_fractions_by_hand(tmp_path):
    shapes = [
        in_tile(1000, 18000, 0, 0, 1, 0.25),
        in_tile(1000, 18000, 0, 0.25, 2, 1),  # over two tiles
        in_tile(1001, 18000, 0, 0.5, 1, 1),  # later in the file: on top of it
        in_tile(1001, 18000, 0.5, 0.5, 1, 0.75),  # same class twice: counted once
        in_tile(1002, 18000, 0, 0, 0.5, 0.3),
        shapely.Polygon(
            [(1003 * 224, 18000 * 224), (1004 * 224, 18001 * 224), (1004 * 224, 18000 * 224), (1003 * 224, 18001 * 224)]
        ),
    ]
    path = write_shapes(
        tmp_path / "p.gpkg", shapes, ["Water", "forest", "Developed", "DEVELOPED", "Barren", "Cultivated"]
    )
    columns, rows = tiles_at(1000, 18001, 5, 1)
    scheme, found = read_reference(path, GRID, columns, rows, SIX, "kind")
    assert scheme is SIX and found.points is None
    expected = np.zeros((5, 6))
    expected[0, [WATER, FOREST]] = 0.25, 0.75
    expected[1, [FOREST, DEVELOPED]] = 0.25, 0.5
    expected[2, BARREN] = 0.15
    expected[3, CULTIVATED] = 0.5  # an hourglass, repaired
    assert found.fractions == pytest.approx(expected, abs=1e-6)
    assert found.labelled == pytest.approx(expected.sum(axis=1), abs=1e-6)
    assert found.majority().tolist() == [FOREST, DEVELOPED, -1, CULTIVATED, -1]
    assert found.nine_points.tolist() == [-1, -1, -1, -1, -1]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_polygons_equal_a_painted_raster(tmp_path_factory, seed):
    """Random overlapping shapes over 40 × 3 tiles, against painting them in order on a fine raster."""
    from rasterio.features import rasterize

    rng = np.random.default_rng(seed)
    path = tmp_path_factory.mktemp("p") / "p.gpkg"
    origin, per_tile = np.array([1000, 18000]) * 224, 64
    shapes = [
        shapely.Point(origin + rng.random(2) * [40 * 224, 3 * 224]).buffer(
            rng.uniform(20, 900), quad_segs=rng.integers(1, 9)
        )
        for _ in range(30)
    ]
    names = rng.choice(["Water", "Forest", "Barren"], len(shapes))
    write_shapes(path, shapes, names)
    columns, rows = tiles_at(1000, 18003, 40, 3)
    _, found = read_reference(path, GRID, columns, rows, SIX, "kind")
    transform = from_origin(origin[0], origin[1] + 3 * 224, 224 / per_tile, 224 / per_tile)
    burnt = rasterize(
        [(s, SIX.index(n) + 1) for s, n in zip(shapes, names, strict=True)],
        (3 * per_tile, 40 * per_tile),
        transform=transform,
    )
    stack = burnt.reshape(3, per_tile, 40, per_tile).swapaxes(1, 2).reshape(120, -1)
    painted = np.stack([(stack == k + 1).mean(axis=1) for k in range(6)], axis=1)
    assert np.abs(found.fractions - painted).max() < 0.02
    assert np.abs(found.fractions - painted).mean() < 0.001
    at = [(2 * k + 1) * per_tile // 6 for k in range(3)]
    nine = stack.reshape(120, per_tile, per_tile)[:, at][:, :, at].reshape(120, 9)
    agree = np.where((nine == nine[:, :1]).all(axis=1) & (nine[:, 0] > 0), nine[:, 0].astype(int) - 1, -1)
    assert (found.nine_points == agree).mean() > 0.97
    assert found.labelled.max() <= 1


def test_polygons_in_degrees_and_without_a_scheme(tmp_path):
    shapes = (
        gpd.GeoSeries([in_tile(1000, 18000, 0, 0, 1, 1), in_tile(1001, 18000, 0, 0, 1, 1)], crs=26912)
        .segmentize(5)
        .to_crs(4326)
    )
    path = write_shapes(tmp_path / "p.geojson", shapes, ["moor", "lake"], crs=4326)
    scheme, found = read_reference(path, GRID, *tiles_at(1000, 18001, 3, 1), None, "kind")
    assert scheme.names == ("lake", "moor") and scheme.name == "custom"
    assert found.fractions == pytest.approx(np.array([[0, 1], [1, 0], [0, 0]]), abs=1e-4)
    assert found.nine_points.tolist() == [1, 0, -1]
    path = write_shapes(tmp_path / "q.geojson", shapes, ["forest", "Water"], crs=4326)
    scheme, _ = read_reference(path, GRID, *tiles_at(1000, 18001, 3, 1), None, "kind")
    assert scheme.subset(scheme.names) == SIX.subset(["Water", "Forest"])
    path = write_shapes(tmp_path / "r.geojson", shapes, [42.0, None], crs=4326)
    _, found = read_reference(path, GRID, *tiles_at(1000, 18001, 3, 1), SIX, "kind")
    assert found.majority().tolist() == [FOREST, -1, -1]


def test_real_polygons_without_a_scheme(test_data):
    """OpenStreetMap land use under Sentinel-2: shares add to at most one and to the union's area."""
    found = sorted((test_data / "sentinel2_l1c_T33UUU").rglob("*.gpkg")) + sorted(
        (test_data / "sentinel2_l1c_T33UUU").rglob("*.geojson")
    )
    found += sorted((test_data / "sentinel2_l1c_T33UUU").rglob("*.shp"))
    assert found
    frame = gpd.read_file(found[0]).to_crs(32633)
    field = next(name for name in frame.columns if name != "geometry" and 2 <= frame[name].nunique() <= 60)
    grid = TileGrid(pyproj.CRS.from_epsg(32633), 224, 10.0)
    columns, rows = cells(grid.range_over(tuple(frame.total_bounds)))
    scheme, labels = read_reference(found[0], grid, columns, rows, None, field)
    assert set(scheme.names) == {str(value).strip() for value in frame[field].dropna().unique()}
    valid = frame[frame[field].notna()].geometry.make_valid()
    area = shapely.union_all(valid.to_numpy()).area
    assert labels.labelled.sum() * grid.side**2 == pytest.approx(area, rel=1e-4)
    assert (labels.fractions.sum(axis=1) <= 1 + 1e-5).all()


# --- points


def test_points(tmp_path):
    spots = [
        (1000.1, 18000.1),
        (1000.9, 18000.9),
        (1000.5, 18000.2),
        (1001.0, 18000.0),
        (1002.5, 18000.5),
        (1002.6, 18000.5),
        (1050.5, 18000.5),
    ]
    shapes = [shapely.Point(x * 224, y * 224) for x, y in spots]
    path = write_shapes(tmp_path / "p.gpkg", shapes, ["Water", "Water", "Forest", "Forest", "Barren", "Water", "Water"])
    _, found = read_reference(path, GRID, *tiles_at(1000, 18001, 4, 1), SIX, "kind")
    assert found.points.tolist() == [3, 1, 2, 0] and found.labelled.tolist() == [1, 1, 1, 0]
    assert found.fractions[0] == pytest.approx([2 / 3, 0, 0, 1 / 3, 0, 0])
    assert found.majority().tolist() == [WATER, FOREST, -1, -1] and set(found.nine_points.tolist()) == {-1}


# --- bad input


def test_bad_labels_are_refused_in_one_line(tmp_path):
    tiles = tiles_at(1000, 18000, 2, 2)
    codes = np.full((16, 16), 41, np.uint8)
    good = write_codes(tmp_path / "good.tif", codes)
    elsewhere = write_codes(tmp_path / "far.tif", codes, left=1500 * 224)
    abroad = write_codes(tmp_path / "abroad.tif", codes, left=600_000, top=-3_000_000, crs="EPSG:32755")
    homeless = write_codes(tmp_path / "nocrs.tif", codes, crs=None)
    void = write_codes(tmp_path / "void.tif", codes * 0)
    broken = tmp_path / "broken.tif"
    broken.write_bytes(good.read_bytes()[:-150])
    text = tmp_path / "text.tif"
    text.write_text("no raster")
    picture = tmp_path / "picture.tif"
    with rasterio.open(picture, "w", driver="GTiff", width=16, height=16, count=3, dtype="uint8", crs="EPSG:26912",
                       transform=from_origin(1000 * 224, 18000 * 224, 28, 28), photometric="RGB") as target:  # fmt: skip
        target.write(np.stack([codes] * 3))
    slope = write_codes(tmp_path / "slope.tif", codes.astype("float32") + 0.5)
    refusals = [
        (elsewhere, "lies elsewhere"), (abroad, "lies elsewhere"), (homeless, "no CRS"), (void, "has no data there"),
        (broken, "damaged"), (text, "cannot be read"), (picture, "is a picture"), (slope, "fractional"),
        (tmp_path / "none.tif", "no such file"),
    ]  # fmt: skip
    for path, words in refusals:
        with pytest.raises(DatasetError, match=words) as caught:
            read_reference(path, GRID, *tiles, SIX)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(DatasetError, match="name the class scheme"):
        read_reference(good, GRID, *tiles)
    with pytest.raises(DatasetError, match="no tiles"):
        read_reference(good, GRID, np.empty(0, int), np.empty(0, int), SIX)
    with pytest.raises(DatasetError, match="1 bands, not 4"):
        read_reference(good, GRID, *tiles, SIX, band=4)


def test_bad_shapes_are_refused_in_one_line(tmp_path):
    tiles = tiles_at(1000, 18001, 2, 1)
    box, line = in_tile(1000, 18000, 0, 0, 1, 1), shapely.LineString([(224000, 4032000), (224100, 4032100)])
    good = write_shapes(tmp_path / "p.gpkg", [box, box], ["Water", "Tundra"], layer="a")
    far = write_shapes(tmp_path / "far.gpkg", [in_tile(1500, 18000, 0, 0, 1, 1)], ["Water"])
    homeless = write_shapes(tmp_path / "nocrs.gpkg", [box], ["Water"], crs=None)
    lines = write_shapes(tmp_path / "lines.gpkg", [line], ["Water"])
    empty = write_shapes(tmp_path / "empty.gpkg", [box], [None])
    alone = write_shapes(tmp_path / "alone.gpkg", [box], ["moor"])
    layers = write_shapes(tmp_path / "layers.gpkg", [box], ["Water"], layer="a")
    write_shapes(layers, [box], ["Forest"], layer="b")
    refusals = [
        (good, SIX, "kind", r"Tundra \(50\.00%\).*--scheme"), (good, SIX, "class", "no field 'class'.*kind, other"),
        (good, SIX, None, "--class-field"), (far, SIX, "kind", "lies elsewhere"), (homeless, SIX, "kind", "no CRS"),
        (lines, SIX, "kind", "LineString"), (empty, SIX, "kind", "no class"), (alone, None, "kind", "only 'moor'"),
        (layers, SIX, "kind", "several layers: a, b"),
    ]  # fmt: skip
    for path, scheme, field, words in refusals:
        with pytest.raises(DatasetError, match=words) as caught:
            read_reference(path, GRID, *tiles, scheme, field)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert read_reference(layers, GRID, *tiles, SIX, "kind", layer="b")[1].majority().tolist() == [FOREST, -1]
    with pytest.raises(DatasetError, match="no layer 'c'"):
        read_reference(layers, GRID, *tiles, SIX, "kind", layer="c")
    _, found = read_reference(good, GRID, *tiles, SIX, "kind", ignore="all")
    assert found.ignored == {"Tundra": 0.5} and found.majority().tolist() == [WATER, -1]
