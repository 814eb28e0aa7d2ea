"""The files a result becomes, read back by other software than wrote them: GDAL, SQLite, QGIS."""

import csv
import dataclasses
import json
import os
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import closing
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import PIL.Image
import pyogrio
import pyproj
import pytest
import rasterio
import rasterio.enums
import rasterio.transform
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geoclass.errors import OutputError
from geoclass.files import write_errors
from geoclass.grid import TileGrid, TileRange, cells, parse_crs
from geoclass.labels import Labels
from geoclass.outputs import raster, style, summary, vector
from geoclass.results import read_result
from geoclass.schemes import ClassScheme, LandClass, load_scheme

AWKWARD = ClassScheme(
    name="awkward",
    title='Names with commas, slashes & "quotes"',
    classes=(
        LandClass(id=11, name="Open Water", colour="#466b9f"),
        LandClass(id=21, name="Developed, Open Space", colour="#dec5c5"),
        LandClass(id=95, name='Wald/Gebüsch <50% & "Heide"', colour="#6c9fb8"),
    ),
    groups={"built": ("Developed, Open Space",), "water": ("Open Water",)},
)

# A county's own projection with no EPSG code, and a State Plane zone in US survey feet.
CUSTOM_CRS = "+proj=aea +lat_1=37 +lat_2=39 +lat_0=38 +lon_0=-80 +x_0=1000 +y_0=2000 +datum=NAD83 +units=m"
FEET_CRS = "EPSG:2263"

Factory = Callable[..., Labels]


def many_classes(count: int) -> ClassScheme:
    classes = tuple(LandClass(id=k, name=f"class {k}", colour=f"#{k * 65_793:06x}") for k in range(1, count + 1))
    return ClassScheme(name="many", classes=classes)


@pytest.fixture(scope="session")
def make_labels() -> Factory:
    """Labels over a block of tiles, each with random probabilities; `share` of the tiles are kept."""

    def make(
        columns: int = 5,
        rows: int = 4,
        scheme: ClassScheme = AWKWARD,
        crs: str = "EPSG:26919",
        left: int = 1800,
        top: int = 21_000,
        size_px: int = 224,
        gsd_m: float = 1.0,
        share: float = 1.0,
        seed: int = 0,
        **info: object,
    ) -> Labels:
        random = np.random.default_rng(seed)
        at_columns, at_rows = cells(TileRange(left, top - rows, left + columns, top))
        probabilities = random.dirichlet(np.full(len(scheme), 0.3), len(at_columns)).astype(np.float32)
        keep = random.random(len(at_columns)) < share
        keep[0] = True
        return Labels(
            TileGrid(parse_crs(crs), size_px, gsd_m),
            scheme,
            at_columns[keep],
            at_rows[keep],
            probabilities[keep],
            random.uniform(0.5, 1, int(keep.sum())).astype(np.float32),
            info=info or {"name": "Ellis", "date": "2021-07-01", "inputs": ["a.tif"], "below_min_valid": 7},
        )

    return make


CASES: dict[str, dict[str, object]] = {
    "awkward names": {},
    "one tile": {"columns": 1, "rows": 1},
    "negative columns and rows": {"left": -3, "top": 2},
    "255 classes": {"scheme": many_classes(255)},
    "two classes": {"scheme": many_classes(2)},
    "sparse": {"columns": 60, "rows": 50, "share": 0.02},
    "0.6 m pixels": {"gsd_m": 0.6, "left": 3001, "top": 35_003},
    "CRS without a code": {"crs": CUSTOM_CRS, "left": -40, "top": 12},
    "US survey feet": {"crs": FEET_CRS, "left": 1340, "top": 280},
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def labels(request: pytest.FixtureRequest, make_labels: Factory) -> Labels:
    return make_labels(**request.param)


def assert_same(found: Labels, expected: Labels) -> None:
    assert found.grid == expected.grid
    assert found.scheme == expected.scheme
    assert dict(found.info) == dict(expected.info)
    for name in ("columns", "rows", "probabilities", "valid_fraction"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert found.tile_ids == expected.tile_ids
    assert found.thumbnails is None


def rows_of(path: Path, table: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(f"SELECT * FROM {table}").fetchall()


def edit(path: Path, *statements: str) -> None:
    """Change a GeoPackage behind its back. The triggers of its index need functions that plain SQLite lacks."""
    with closing(sqlite3.connect(path)) as database, database:
        for (trigger,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f'DROP TRIGGER "{trigger}"')
        for statement in statements:
            database.execute(statement)


# ---- GeoPackage ----


def test_gpkg_reads_back_as_the_same_labels(labels: Labels, tmp_path: Path) -> None:
    vector.write_gpkg(labels, tmp_path / "a.gpkg")
    assert_same(read_result(tmp_path / "a.gpkg"), labels)


def test_gpkg_columns_order_and_types(make_labels: Factory, tmp_path: Path) -> None:
    vector.write_gpkg(make_labels(), tmp_path / "a.gpkg")
    described = pyogrio.read_info(tmp_path / "a.gpkg", layer="landcover")
    assert list(described["fields"]) == [
        "tile_id",
        "column",
        "row",
        "class_id",
        "class",
        "confidence",
        "p_Open Water",
        "p_Developed, Open Space",
        'p_Wald/Gebüsch <50% & "Heide"',
        "valid_fraction",
    ]
    assert list(described["dtypes"]) == [
        "object",
        "int64",
        "int64",
        "int32",
        "object",
        *["float32"] * 4,
        "float32",
    ]
    assert described["geometry_type"] == "Polygon"
    assert described["crs"] == "EPSG:26919"


def test_gpkg_values_follow_the_probabilities(make_labels: Factory, tmp_path: Path) -> None:
    labels = make_labels(columns=9, rows=9)
    vector.write_gpkg(labels, tmp_path / "a.gpkg")
    frame = gpd.read_file(tmp_path / "a.gpkg", layer="landcover")
    for k, tile in enumerate(frame.itertuples(index=False)):
        chances = labels.probabilities[k].tolist()
        best = AWKWARD.classes[chances.index(max(chances))]
        assert (tile.class_id, tile[4], tile.confidence) == (best.id, best.name, max(chances))
        assert tile.tile_id == f"26919_224_{tile.column}_{tile.row}"


def test_gpkg_polygons_are_the_tiles_to_the_micrometre(labels: Labels, tmp_path: Path) -> None:
    vector.write_gpkg(labels, tmp_path / "a.gpkg")
    frame = gpd.read_file(tmp_path / "a.gpkg", layer="landcover")
    # From the definition alone: side in metres over the foot's length, counted from the origin.
    foot_m = 1200 / 3937 if labels.grid.crs == parse_crs(FEET_CRS) else 1.0
    side = labels.grid.size_px * labels.grid.gsd_m / foot_m
    expected = np.stack([frame["column"], frame["row"], frame["column"] + 1, frame["row"] + 1], axis=1) * side
    assert np.abs(frame.geometry.bounds.to_numpy() - expected).max() * foot_m < 1e-6
    assert frame.geometry.is_valid.all()
    assert (shapely.get_num_coordinates(frame.geometry.to_numpy()) == 5).all()
    assert frame.crs == labels.grid.crs or frame.crs.equals(labels.grid.crs, ignore_axis_order=True)


def test_neighbours_share_their_edge_exactly(make_labels: Factory, tmp_path: Path) -> None:
    vector.write_gpkg(make_labels(columns=12, rows=12, crs=FEET_CRS, left=1340, top=280), tmp_path / "a.gpkg")
    tiles = gpd.read_file(tmp_path / "a.gpkg", layer="landcover").geometry.to_numpy()
    assert len(np.unique(shapely.get_coordinates(tiles)[:, 0])) == 13
    assert len(np.unique(shapely.get_coordinates(tiles)[:, 1])) == 13


def test_gpkg_has_a_spatial_index_that_finds_a_tile(make_labels: Factory, tmp_path: Path) -> None:
    labels = make_labels(columns=30, rows=30)
    vector.write_gpkg(labels, tmp_path / "a.gpkg")
    assert len(rows_of(tmp_path / "a.gpkg", "rtree_landcover_geom")) == 900
    left, bottom, right, top = labels.grid.bounds(1811, 20_990)
    found = gpd.read_file(tmp_path / "a.gpkg", layer="landcover", bbox=(left + 1, bottom + 1, right - 1, top - 1))
    assert list(found["tile_id"]) == ["26919_224_1811_20990"]


def test_gpkg_is_the_same_row_by_row_every_time(make_labels: Factory, tmp_path: Path) -> None:
    labels = make_labels(columns=40, rows=30, share=0.7)
    for name in ("a.gpkg", "b.gpkg"):
        vector.write_gpkg(labels, tmp_path / name)
    for table in ("landcover", "rtree_landcover_geom", "gpkg_metadata"):
        assert rows_of(tmp_path / "a.gpkg", table) == rows_of(tmp_path / "b.gpkg", table)
    assert len(rows_of(tmp_path / "a.gpkg", "landcover")) == len(labels)


def test_gpkg_carries_one_default_style(make_labels: Factory, tmp_path: Path) -> None:
    vector.write_gpkg(make_labels(), tmp_path / "a.gpkg")
    with closing(sqlite3.connect(tmp_path / "a.gpkg")) as database:
        database.row_factory = sqlite3.Row
        rows = database.execute("SELECT * FROM layer_styles").fetchall()
        kind = database.execute("SELECT data_type FROM gpkg_contents WHERE table_name = 'layer_styles'").fetchone()[0]
    assert len(rows) == 1
    row = dict(rows[0])
    assert kind == "attributes"
    assert row["f_table_name"] == "landcover"
    assert row["f_geometry_column"] == "geom"
    assert row["useAsDefault"] == 1
    assert row["update_time"]
    categories = ElementTree.fromstring(row["styleQML"]).findall(".//category")
    assert [item.get("value") for item in categories] == list(AWKWARD.names)


def test_gpkg_says_what_it_is(make_labels: Factory, tmp_path: Path) -> None:
    vector.write_gpkg(make_labels(), tmp_path / "a.gpkg")
    texts = pyogrio.read_info(tmp_path / "a.gpkg", layer="landcover")["layer_metadata"]
    assert json.loads(texts["GEOCLASS_INFO"])["inputs"] == ["a.tif"]
    assert ClassScheme.model_validate_json(texts["GEOCLASS_SCHEME"]) == AWKWARD
    assert json.loads(texts["GEOCLASS_GRID"]) == {"crs": "EPSG:26919", "size_px": 224, "gsd_m": 1.0}
    with closing(sqlite3.connect(tmp_path / "a.gpkg")) as database:
        title, text = database.execute(
            "SELECT identifier, description FROM gpkg_contents WHERE table_name = 'landcover'"
        ).fetchone()
    assert title == "Land cover of Ellis, 2021-07-01"
    assert "20 tiles of 224 m" in text
    assert "Developed, Open Space" in text


def test_gpkg_without_its_index_is_refused(
    make_labels: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What GDAL leaves on a disk that fills up while the index is built: a table without one, and no error."""
    write = pyogrio.write_arrow
    monkeypatch.setattr(pyogrio, "write_arrow", lambda *a, **k: write(*a, **{**k, "SPATIAL_INDEX": "NO"}))
    with pytest.raises(OutputError, match="disk is full"):
        vector.write_gpkg(make_labels(), tmp_path / "a.gpkg")


def test_a_failure_on_a_full_disk_says_that_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's first pages do not fit, and what it then tells is that a table is missing."""
    missing = sqlite3.OperationalError("no such table: gpkg_contents")
    with pytest.raises(OutputError, match="no such table"), write_errors(tmp_path / "a.gpkg"):
        raise missing
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=4096))
    with (
        pytest.raises(OutputError, match=r"the disk is full while writing .*a\.gpkg; free"),
        write_errors(tmp_path / "a.gpkg"),
    ):
        raise missing


# ---- Other vector formats ----


@pytest.mark.parametrize("fmt", ["parquet", "fgb", "geojson"])
def test_vector_formats_hold_the_same_table(make_labels: Factory, tmp_path: Path, fmt: str) -> None:
    labels = make_labels(columns=8, rows=6, share=0.8)
    path = tmp_path / f"a{vector.FORMATS[fmt]}"
    vector.write_vector(labels, path, fmt)
    frame = gpd.read_parquet(path) if fmt == "parquet" else gpd.read_file(path)
    frame = frame.sort_values(["row", "column"], ascending=[False, True], ignore_index=True)
    expected = labels.to_gdf()
    assert list(frame["tile_id"]) == labels.tile_ids
    assert list(frame["class"]) == list(expected["class"])
    assert list(frame["class_id"]) == labels.class_ids.tolist()
    for k, name in enumerate(AWKWARD.names):
        np.testing.assert_array_equal(frame[f"p_{name}"].to_numpy(np.float32), labels.probabilities[:, k])
    if fmt == "geojson":
        assert frame.crs.to_epsg() == 4326
        # Seven decimals of a degree: a centimetre.
        moved = shapely.get_coordinates(frame.geometry.to_crs(26919).to_numpy())
        ordered = shapely.get_coordinates(expected.geometry.to_numpy())
        assert max(np.abs(moved.min(axis=0) - ordered.min(axis=0)).max(), abs(moved.max() - ordered.max())) < 0.02
        assert frame.geometry.exterior.is_ccw.all()
    else:
        assert frame.crs.to_epsg() == 26919
        np.testing.assert_array_equal(frame.geometry.bounds.to_numpy(), expected.geometry.bounds.to_numpy())


def test_geojson_is_plain_rfc_7946(make_labels: Factory, tmp_path: Path) -> None:
    vector.write_vector(make_labels(), tmp_path / "a.geojson", "geojson")
    content = json.loads((tmp_path / "a.geojson").read_text(encoding="utf-8"))
    assert content["type"] == "FeatureCollection"
    assert "crs" not in content
    longitude, latitude = content["features"][0]["geometry"]["coordinates"][0][0]
    assert -72 < longitude < -66
    assert 40 < latitude < 46


def test_csv_has_centres_and_bounds(make_labels: Factory, tmp_path: Path) -> None:
    labels = make_labels(columns=7, rows=5)
    vector.write_vector(labels, tmp_path / "a.csv", "csv")
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    to_utm = pyproj.Transformer.from_crs(4326, 26919, always_xy=True)
    assert [row["tile_id"] for row in rows] == labels.tile_ids
    for k, row in enumerate(rows):
        x, y = to_utm.transform(float(row["longitude"]), float(row["latitude"]))
        left, bottom, right, top = (float(row[name]) for name in ("left", "bottom", "right", "top"))
        assert (left, bottom, right, top) == labels.grid.bounds(int(row["column"]), int(row["row"]))
        assert abs(x - (left + right) / 2) < 0.02
        assert abs(y - (bottom + top) / 2) < 0.02
        assert np.float32(row["p_Developed, Open Space"]) == labels.probabilities[k, 1]


@pytest.mark.parametrize(("crs", "left", "top"), [("EPSG:26919", 1800, 21_000), ("EPSG:32733", 2000, 27_000)])
def test_pmtiles_put_every_class_where_it_belongs(
    make_labels: Factory, tmp_path: Path, crs: str, left: int, top: int
) -> None:
    labels = make_labels(columns=40, rows=30, share=0.9, crs=crs, left=left, top=top)
    path = tmp_path / "a.pmtiles"
    vector.write_vector(labels, path, "pmtiles")
    described = pyogrio.read_info(path)
    deepest = int(described["dataset_metadata"]["maxzoom"])
    for zoom, slack in ((deepest, 1 / 250), (deepest - 3, 1 / 30)):
        tiles = gpd.read_file(path, ZOOM_LEVEL=zoom)
        assert set(tiles["tile_id"]) == set(labels.tile_ids)
        assert set(zip(tiles["tile_id"], tiles["class"], strict=True)) == set(
            zip(labels.tile_ids, labels.to_gdf()["class"], strict=True)
        )
        whole = tiles.dissolve("tile_id").to_crs(labels.grid.crs).geometry
        bounds = whole.bounds.loc[labels.tile_ids].to_numpy()
        off = np.abs(bounds - labels.to_gdf().geometry.bounds.to_numpy()).max()
        # Meridian convergence turns squares a little; half a tile unit of rounding and the datum come on top.
        assert off < slack * 224 + 1.5
    assert [item.name for item in tmp_path.iterdir()] == ["a.pmtiles"]


@pytest.mark.parametrize("fmt", sorted(vector.FORMATS))
def test_every_format_takes_one_tile_and_255_classes(make_labels: Factory, tmp_path: Path, fmt: str) -> None:
    labels = make_labels(columns=1, rows=1, scheme=many_classes(255), left=1805)
    path = tmp_path / f"a{vector.FORMATS[fmt]}"
    vector.write_vector(labels, path, fmt)
    frame = gpd.read_parquet(path) if fmt == "parquet" else gpd.read_file(path)
    assert set(frame["tile_id"]) == set(labels.tile_ids)
    assert [int(value) for value in set(frame["class_id"])] == labels.class_ids.tolist()


def test_an_unknown_format_is_refused(make_labels: Factory, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="choose from parquet, fgb, geojson, pmtiles, csv"):
        vector.write_vector(make_labels(), tmp_path / "a.shp", "shp")


# ---- Raster ----


def test_raster_pixel_is_its_tile(labels: Labels, tmp_path: Path) -> None:
    raster.write_raster(labels, tmp_path / "a.tif")
    side = labels.grid.side
    centres = np.stack([(labels.columns + 0.5) * side, (labels.rows + 0.5) * side], axis=1)
    with rasterio.open(tmp_path / "a.tif") as image:
        found = np.array(list(image.sample(centres)))
        classes, confidence = image.read()
    np.testing.assert_array_equal(found[:, 0], labels.class_ids)
    assert np.abs(found[:, 1] - 100 * labels.confidence).max() <= 0.5001
    assert np.count_nonzero(classes) == len(labels)
    np.testing.assert_array_equal(classes == 0, confidence == 0)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tiles=st.sets(st.tuples(st.integers(-20, 20), st.integers(-20, 20)), min_size=1, max_size=30),
    shift=st.sampled_from([0, -5000, 7000]),
)
def test_raster_of_any_tiles(tmp_path: Path, tiles: set[tuple[int, int]], shift: int) -> None:
    ordered = sorted(tiles, key=lambda tile: (-tile[1], tile[0]))
    columns, rows = (np.array(part, dtype=np.int64) + shift for part in zip(*ordered, strict=True))
    chances = np.random.default_rng(len(tiles)).dirichlet(np.ones(3), len(tiles)).astype(np.float32)
    grid = TileGrid(parse_crs("EPSG:26919"), 10, 0.3)
    labels = Labels(grid, AWKWARD, columns, rows, chances, np.ones(len(tiles), np.float32))
    raster.write_raster(labels, tmp_path / "a.tif")
    with rasterio.open(tmp_path / "a.tif") as image:
        classes = image.read(1)
        transform = image.transform
    expected = {}
    for line, column in np.argwhere(classes).tolist():
        x, y = rasterio.transform.xy(transform, line, column)
        expected[grid.tile_at(x, y)] = int(classes[line, column])
    assert expected == dict(zip(zip(columns.tolist(), rows.tolist(), strict=True), labels.class_ids, strict=True))
    assert np.flatnonzero(classes.any(axis=0))[[0, -1]].tolist() == [0, classes.shape[1] - 1]


def test_raster_names_and_colours(make_labels: Factory, tmp_path: Path) -> None:
    labels = make_labels()
    written = raster.write_raster(labels, tmp_path / "county.tif")
    assert written == [tmp_path / name for name in ("county.tif", "county.tif.aux.xml", "county.qml")]
    assert sorted(tmp_path.iterdir()) == sorted(written)
    with rasterio.open(tmp_path / "county.tif") as image:
        assert image.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert image.nodata == 0
        assert image.dtypes == ("uint8", "uint8")
        assert image.descriptions == ("class id", "confidence × 100")
        assert image.colorinterp[0] == rasterio.enums.ColorInterp.palette
        assert image.crs.to_epsg() == 26919
        colours = image.colormap(1)
        tags = image.tags()
    assert {item.id: (*item.rgb, 255) for item in AWKWARD.classes}.items() <= colours.items()
    assert colours[0][3] == 0
    assert ClassScheme.model_validate_json(tags["GEOCLASS_SCHEME"]) == AWKWARD
    assert json.loads(tags["GEOCLASS_INFO"]) == dict(labels.info)
    assert tags["TIFFTAG_IMAGEDESCRIPTION"].startswith("Land cover of Ellis, 2021-07-01. 20 tiles")


def test_large_raster_has_blocks_and_overviews_of_true_classes(make_labels: Factory, tmp_path: Path) -> None:
    labels = make_labels(columns=1100, rows=700, scheme=AWKWARD, left=-500, top=300)
    raster.write_raster(labels, tmp_path / "a.tif")
    with rasterio.open(tmp_path / "a.tif") as image:
        assert image.block_shapes == [(512, 512)] * 2
        assert image.overviews(1) == image.overviews(2) != []
        assert image.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        small = image.read(1, out_shape=(image.height // 2, image.width // 2))
    assert set(np.unique(small).tolist()) <= {11, 21, 95}


def test_confidence_of_a_label_is_never_zero(make_labels: Factory) -> None:
    labels = make_labels(scheme=many_classes(255))
    flat = dataclasses.replace(labels, probabilities=np.full_like(labels.probabilities, 1 / 255))
    assert set(raster.confidence_percent(flat).tolist()) == {1}


def test_tiles_too_far_apart_for_an_image_are_refused(make_labels: Factory, tmp_path: Path) -> None:
    labels = make_labels(columns=2, rows=1)
    far = dataclasses.replace(labels, columns=np.array([0, 400_000]), rows=np.array([400_000, 0]))
    with pytest.raises(OutputError, match="one by one"):
        raster.write_raster(far, tmp_path / "a.tif")
    assert list(tmp_path.iterdir()) == []


# ---- QGIS ----

QGIS = textwrap.dedent(
    """
    import json, os, sys
    from osgeo import gdal
    from qgis.core import (QgsApplication, QgsCoordinateReferenceSystem, QgsMapRendererSequentialJob, QgsMapSettings,
                           QgsRasterLayer, QgsRectangle, QgsVectorLayer)
    from qgis.PyQt.QtCore import QSize
    from qgis.PyQt.QtGui import QColor
    QgsApplication.setPrefixPath("/usr", True)
    application = QgsApplication([], False)
    application.initQgis()

    def draw(layer, path):
        picture = QgsMapSettings()
        picture.setLayers([layer])
        picture.setDestinationCrs(QgsCoordinateReferenceSystem(order["crs"]))
        picture.setExtent(QgsRectangle(*order["bounds"]))
        picture.setOutputSize(QSize(*order["size"]))
        picture.setBackgroundColor(QColor("white"))
        job = QgsMapRendererSequentialJob(picture)
        job.start()
        job.waitForFinished()
        job.renderedImage().save(path)

    order, found = json.loads(sys.argv[1]), {}
    for path in sys.argv[2:]:
        if path.endswith(".tif"):
            layer = QgsRasterLayer(path, "raster")
            about = {"valid": layer.isValid(), "renderer": layer.renderer().type(), "crs": layer.crs().authid()}
            about["classes"] = [[c.value, c.label, c.color.name()] for c in layer.renderer().classes()]
            image = gdal.Open(path)
            band = image.GetRasterBand(1)
            band.GetDescription()  # GDAL 3.6 reads the side file at the first such call, GetCategoryNames not being one
            about["categories"] = band.GetCategoryNames()
            table = band.GetDefaultRAT()
            about["table"] = [[table.GetValueAsInt(k, 0), table.GetValueAsString(k, 1)]
                              for k in range(table.GetRowCount())]
        else:
            layer = QgsVectorLayer(path + ("|layername=landcover" if path.endswith(".gpkg") else ""), "tiles", "ogr")
            _, styled = layer.loadDefaultStyle()
            renderer = layer.renderer()
            about = {"valid": layer.isValid(), "renderer": renderer.type(), "styled": styled,
                     "crs": layer.crs().authid(), "tiles": layer.featureCount()}
            about["classes"] = [[c.value(), c.label(), c.symbol().color().name()] for c in renderer.categories()]
        found[os.path.basename(path)] = about
        draw(layer, path + ".png")
    print(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # QGIS's own teardown can crash after the work is done
    """
)


TILE_PX = 10


def look_with_qgis(python: str, labels: Labels, *paths: Path, tile_px: float = TILE_PX) -> dict[str, dict[str, object]]:
    """What QGIS makes of each file; beside each it leaves its picture, a tile being `tile_px` pixels wide."""
    tiles, side = labels.range, labels.grid.side
    order = {
        "crs": labels.grid.to_dict()["crs"],
        "bounds": [tiles.left * side, tiles.bottom * side, tiles.right * side, tiles.top * side],
        "size": [round(tiles.columns * tile_px), round(tiles.rows * tile_px)],
    }
    done = subprocess.run(
        [python, "-c", QGIS, json.dumps(order), *map(str, paths)],
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def drawn(path: Path) -> np.ndarray:
    """(height, width, 3) colours of the picture QGIS drew of `path`."""
    with PIL.Image.open(f"{path}.png") as picture:
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("name", ["awkward", "nlcd16"])
def test_qgis_shows_scheme_names_and_colours(make_labels: Factory, tmp_path: Path, qgis_python: str, name: str) -> None:
    """GeoPackage and raster side by side under one stem, and the other vector files, which share the raster's QML."""
    scheme = AWKWARD if name == "awkward" else load_scheme(name)
    labels = make_labels(columns=25, rows=15, scheme=scheme, share=0.8)
    vector.write_gpkg(labels, tmp_path / "county.gpkg")
    raster.write_raster(labels, tmp_path / "county.tif")
    vector.write_vector(labels, tmp_path / "county.fgb", "fgb")
    vector.write_vector(labels, tmp_path / "county.geojson", "geojson")
    paths = [tmp_path / f"county.{suffix}" for suffix in ("gpkg", "tif", "fgb", "geojson")]
    found = look_with_qgis(qgis_python, labels, *paths)
    for suffix in ("gpkg", "fgb", "geojson"):
        about = found[f"county.{suffix}"]
        assert about["valid"]
        assert about["styled"]
        assert about["renderer"] == "categorizedSymbol"
        assert about["tiles"] == len(labels)
        assert about["classes"] == [[item.name, item.name, item.colour] for item in scheme.classes]
    image = found["county.tif"]
    assert image["valid"]
    assert image["renderer"] == "paletted"
    assert image["classes"] == [[item.id, item.name, item.colour] for item in scheme.classes]
    assert image["crs"] == found["county.gpkg"]["crs"] == "EPSG:26919"
    categories = {item.id: item.name for item in scheme.classes} | {0: "No label"}
    assert image["categories"] == [categories.get(k, "") for k in range(max(scheme.ids) + 1)]
    assert image["table"] == [[item.id, item.name] for item in scheme.classes]
    colours = np.array([item.rgb for item in scheme.classes], dtype=np.uint8)[labels.class_index]
    expected = labels.image(colours, 255)
    for path in paths:
        centres = drawn(path)[TILE_PX // 2 :: TILE_PX, TILE_PX // 2 :: TILE_PX]
        np.testing.assert_array_equal(centres, expected, err_msg=path.name)


def test_qgis_draws_one_class_without_seams(make_labels: Factory, tmp_path: Path, qgis_python: str) -> None:
    """Tiles whose edges fall between screen pixels, where anti-aliasing mixes in the background."""
    labels = make_labels(columns=61, rows=47, scheme=load_scheme("nlcd6"))
    forest = np.zeros_like(labels.probabilities)
    forest[:, 3] = 1
    labels = dataclasses.replace(labels, probabilities=forest)
    vector.write_gpkg(labels, tmp_path / "a.gpkg")
    look_with_qgis(qgis_python, labels, tmp_path / "a.gpkg", tile_px=14.37)
    inside = drawn(tmp_path / "a.gpkg")[30:-30, 30:-30].astype(int)
    assert np.abs(inside - labels.scheme.classes[3].rgb).max() < 15


def test_qgis_takes_the_style_inside_the_geopackage(make_labels: Factory, tmp_path: Path, qgis_python: str) -> None:
    """Alone, and beside a .qml of the same stem that says something else."""
    labels = make_labels()
    other = ClassScheme(
        name="other", classes=tuple(c.model_copy(update={"colour": "#010203"}) for c in AWKWARD.classes)
    )
    vector.write_gpkg(labels, tmp_path / "alone.gpkg")
    vector.write_gpkg(labels, tmp_path / "beside.gpkg")
    (tmp_path / "beside.qml").write_text(style.qml(other), encoding="utf-8")
    found = look_with_qgis(qgis_python, labels, tmp_path / "alone.gpkg", tmp_path / "beside.gpkg")
    for about in found.values():
        assert about["styled"]
        assert [item[2] for item in about["classes"]] == [item.colour for item in AWKWARD.classes]


# ---- Summary ----


def test_summary_adds_up(make_labels: Factory) -> None:
    labels = make_labels(columns=2, rows=2)
    chances = np.array([[0.9, 0.1, 0], [0.6, 0.4, 0], [0, 0.75, 0.25], [0.5, 0.5, 0]], dtype=np.float32)
    labels = dataclasses.replace(
        labels,
        probabilities=chances,
        valid_fraction=np.array([1, 0.5, 1, 0.75], dtype=np.float32),
        info={"below_min_valid": np.int64(3), "min_valid": 0.5},
    )
    found = summary.summarise(labels)
    water, built, heath = found["classes"]
    tile_m2 = 224.0**2
    assert (water["tiles"], built["tiles"], heath["tiles"]) == (3, 1, 0)
    assert water["area_m2"] == pytest.approx(2.25 * tile_m2)
    assert water["area_ha"] == pytest.approx(2.25 * 5.0176)
    assert water["share"] == pytest.approx(2.25 / 3.25)
    assert water["mean_confidence"] == pytest.approx((0.9 + 0.6 + 0.5) / 3)
    assert heath["mean_confidence"] is None
    assert found["area_m2"] == pytest.approx(3.25 * tile_m2)
    assert found["groups"]["built"]["share"] == pytest.approx(1 / 3.25)
    assert (found["tiles"], found["tiles_partly_without_data"], found["below_min_valid"]) == (4, 2, 3)
    assert found["mean_confidence"] == pytest.approx((0.9 + 0.6 + 0.75 + 0.5) / 4)
    assert "3 tiles were not classified because less than 50% of their ground has data" in found["notes"][1]


def test_summary_file_is_strict_json(make_labels: Factory, tmp_path: Path) -> None:
    labels = make_labels(
        day=date(2021, 7, 1), folder=Path("a/b"), share_built=np.float32(0.5), bad=float("nan"), bands=("red", "nir")
    )
    summary.write_summary(tmp_path / "a.json", labels, {"network_s": np.float64(1.5), "tiles_per_s": float("inf")})

    def refuse(text: str) -> None:
        raise AssertionError(text)

    content = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert content["info"] == {
        "day": "2021-07-01",
        "folder": str(Path("a/b")),
        "share_built": 0.5,
        "bad": None,
        "bands": ["red", "nir"],
    }
    assert content["timings"] == {"network_s": 1.5, "tiles_per_s": None}
    assert content["summary"]["tiles"] == 20
    assert [item["name"] for item in content["summary"]["classes"]] == list(AWKWARD.names)


def test_summary_of_no_tiles(make_labels: Factory) -> None:
    labels = make_labels()
    none = dataclasses.replace(
        labels,
        columns=labels.columns[:0],
        rows=labels.rows[:0],
        probabilities=labels.probabilities[:0],
        valid_fraction=labels.valid_fraction[:0],
    )
    found = summary.summarise(none)
    assert (found["tiles"], found["area_m2"], found["mean_confidence"]) == (0, 0, None)
    with pytest.raises(OutputError, match="no tile was classified"):
        vector.write_gpkg(none, Path("a.gpkg"))
    with pytest.raises(OutputError, match="no tile was classified"):
        raster.write_raster(none, Path("a.tif"))


# ---- Reading back ----


def test_reading_survives_what_a_gis_does(make_labels: Factory, tmp_path: Path) -> None:
    """Rows deleted and added again in another order, a column added."""
    labels = make_labels(columns=6, rows=5)
    path = tmp_path / "a.gpkg"
    vector.write_gpkg(labels, path)
    edit(
        path,
        "DELETE FROM landcover WHERE fid = 4",
        "UPDATE landcover SET fid = 1000 - fid",
        "UPDATE gpkg_ogr_contents SET feature_count = 29",
        "ALTER TABLE landcover ADD COLUMN note TEXT",
    )
    keep = np.arange(30) != 3
    expected = dataclasses.replace(
        labels,
        columns=labels.columns[keep],
        rows=labels.rows[keep],
        probabilities=labels.probabilities[keep],
        valid_fraction=labels.valid_fraction[keep],
    )
    assert_same(read_result(path), expected)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ('UPDATE landcover SET "p_Open Water" = NULL WHERE fid = 2', "a number is missing"),
        ('UPDATE landcover SET "p_Open Water" = 3.5 WHERE fid = 2', "do not sum to 1"),
        ("UPDATE landcover SET column = column + 999 WHERE fid = 2", "tile ids disagree"),
        ("UPDATE landcover SET column = column + 1 WHERE fid = 2", "a tile comes twice"),
        ("ALTER TABLE landcover DROP COLUMN valid_fraction", "column 'valid_fraction' is missing"),
        ("UPDATE gpkg_metadata SET metadata = replace(metadata, '#466b9f', 'blue')", "the class scheme is wrong"),
        ("UPDATE gpkg_metadata SET metadata = replace(metadata, 'EPSG:26919', 'EPSG:99')", "its metadata are wrong"),
        ("DELETE FROM gpkg_metadata", "carries no GEOCLASS_INFO"),
    ],
)
def test_a_tampered_result_is_refused(make_labels: Factory, tmp_path: Path, statement: str, reason: str) -> None:
    path = tmp_path / "a.gpkg"
    vector.write_gpkg(make_labels(), path)
    before = path.read_bytes()
    edit(path, statement)
    assert path.read_bytes() != before
    with pytest.raises(OutputError, match=reason) as caught:
        read_result(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_truncated_result_is_refused(make_labels: Factory, tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.gpkg"
    vector.write_gpkg(make_labels(columns=50, rows=40), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(OutputError, match=r"again"):
        read_result(path)


def test_a_garbled_page_is_refused(make_labels: Factory, tmp_path: Path) -> None:
    path = tmp_path / "a.gpkg"
    vector.write_gpkg(make_labels(columns=50, rows=40), path)
    content = bytearray(path.read_bytes())
    # The table's own pages start after the catalogue; a tile's text id shows where.
    at = content.index(b"26919_224_1820_20980") // 4096 * 4096
    content[at : at + 4096] = bytes(reversed(content[at : at + 4096]))
    path.write_bytes(content)
    with pytest.raises(OutputError, match="damaged"):
        read_result(path)


def test_what_is_no_result_is_refused(make_labels: Factory, tmp_path: Path) -> None:
    (tmp_path / "text.gpkg").write_text("not a database")
    raster.write_raster(make_labels(), tmp_path / "raster.tif")
    make_labels().to_gdf().to_file(tmp_path / "foreign.gpkg", layer="landcover")
    make_labels().to_gdf().to_file(tmp_path / "tiles.gpkg", layer="tiles")
    for name, reason in {
        "absent.gpkg": "there is no file",
        "text.gpkg": "cannot be read as a geoclass result",
        "raster.tif": "geoclass result",
        "foreign.gpkg": "carries no GEOCLASS_INFO",
        "tiles.gpkg": "no layer 'landcover'",
        ".": "there is no file",
    }.items():
        with pytest.raises(OutputError, match=reason) as caught:
            read_result(tmp_path / name)
        assert "name the .gpkg" in str(caught.value)


# ---- Disks that fill up ----


def writers(labels: Labels, folder: Path) -> dict[str, Callable[[], object]]:
    return {
        "gpkg": lambda: vector.write_gpkg(labels, folder / "a.gpkg"),
        "tif": lambda: raster.write_raster(labels, folder / "a.tif"),
        "json": lambda: summary.write_summary(folder / "a.json", labels, {}),
        **{fmt: lambda fmt=fmt: vector.write_vector(labels, folder / f"a.{fmt}", fmt) for fmt in vector.FORMATS},
    }


KINDS = ["gpkg", "tif", "json", *vector.FORMATS]


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_is_not_there(make_labels: Factory, tmp_path: Path, kind: str) -> None:
    with pytest.raises(OutputError, match=r"a\.\w+"):
        writers(make_labels(), tmp_path / "absent")[kind]()


CUT_SHORT = textwrap.dedent(
    """
    import json, resource, sys
    from pathlib import Path
    from geoclass.errors import OutputError
    from geoclass.outputs import raster, summary, vector
    from geoclass.results import read_result

    def write(kind, path):
        if kind == "gpkg":
            vector.write_gpkg(labels, path)
        elif kind == "tif":
            raster.write_raster(labels, path)
        elif kind == "json":
            summary.write_summary(path, labels, {})
        else:
            vector.write_vector(labels, path, kind)

    labels, folder = read_result(Path(sys.argv[1])), Path(sys.argv[2])
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for kind in ("gpkg", "tif", "json", *vector.FORMATS):
        write(kind, folder / f"whole.{kind}")
        size = (folder / f"whole.{kind}").stat().st_size
        for missing in (1, 30, 3000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size - missing, hard))
            try:
                write(kind, folder / f"cut{missing}.{kind}")
                said = "nothing"
            except OutputError as error:
                said = str(error)
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            print(json.dumps([kind, missing, said]))
    """
)


def test_a_file_cut_short_is_never_taken_for_whole(make_labels: Factory, tmp_path: Path) -> None:
    """The system refuses to let a file grow to its full size, as a full disk or a quota does."""
    vector.write_gpkg(make_labels(columns=40, rows=40, log="x" * 9000), tmp_path / "labels.gpkg")
    (tmp_path / "out").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", CUT_SHORT, str(tmp_path / "labels.gpkg"), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(said) == 3 * len(KINDS)
    assert [item for item in said if item[2] == "nothing"] == []
    assert all(f"cut{missing}.{kind}" in text and "again" in text for kind, missing, text in said)
