"""Candidates against brute force on small grids, and pictures of tiles whose pixels tell which ground they show."""

import io
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pyproj
import pytest
import rasterio
from conftest import coordinate_pixels, write_coordinates
from PIL import Image
from rasterio.transform import from_origin
from scipy import ndimage

from geoclass.changes.candidates import centres, clusters, google_link, map_link, openstreetmap_link, rank
from geoclass.changes.chips import EMPTY, TOTAL_BYTES, View, make_chips, read_tiles, view_of, views_of
from geoclass.changes.posterior import Change, Prior
from geoclass.changes.series import Series, Source, Uncovered
from geoclass.errors import OutputError
from geoclass.grid import TileGrid
from geoclass.labels import Labels
from geoclass.outputs.candidatelist import add_candidates_layer, candidates_table, write_candidates_csv
from geoclass.outputs.preview import write_preview
from geoclass.schemes import ClassScheme, LandClass, load_scheme

LEFT, BOTTOM = 1400, 20896
GRID = TileGrid(pyproj.CRS("EPSG:26919"))


def make_change(
    chance: np.ndarray, *, there: np.ndarray | None = None, scheme: ClassScheme | None = None, threshold: float = 0.5
) -> Change:
    """A change of two dates whose p_new_built is the picture `chance`, north up, on the tiles that are `there`."""
    rows = len(chance)
    scheme = scheme or load_scheme("rsscn7")
    there = np.ones(chance.shape, bool) if there is None else there
    line, column = np.nonzero(there)
    count, classes = len(line), len(scheme)
    valid = np.random.default_rng(0).uniform(0.5, 1, (count, 2)).astype(np.float32)
    wanted = np.stack([np.zeros(count, int), np.where(chance[there] >= threshold, classes - 2, 0)], axis=1)
    posterior = np.eye(classes, dtype=np.float32)[wanted]
    none = np.empty(0, np.int64)
    series = Series(
        GRID, scheme, ("2011", "2016"), (column + LEFT).astype(np.int64), (BOTTOM + rows - 1 - line).astype(np.int64),
        posterior, valid, (Source(None, {}), Source(None, {})), Uncovered(none, none, np.empty((0, 2), bool)),
        ("Resident",), ("Field",),
    )  # fmt: skip
    prior = Prior(np.full(classes, 1 / classes), np.full((1, classes, classes), 1 / classes))
    found = chance[there].astype(np.float32)
    return Change(series, prior, posterior, found, found, threshold)


def flood(member: dict[tuple[int, int], bool]) -> dict[tuple[int, int], frozenset[tuple[int, int]]]:
    """The cluster of every tile, by walking from neighbour to neighbour."""
    found: dict[tuple[int, int], frozenset[tuple[int, int]]] = {}
    for start in member:
        if start in found:
            continue
        group, todo = {start}, [start]
        while todo and member[start]:
            column, row = todo.pop()
            for tile in [(column + x, row + y) for x in (-1, 0, 1) for y in (-1, 0, 1)]:
                if member.get(tile) and tile not in group:
                    group.add(tile)
                    todo.append(tile)
        found |= dict.fromkeys(group, frozenset(group))
    return found


@pytest.mark.parametrize("seed", range(12))
def test_clusters_are_those_of_an_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 30, 2))
    there = rng.random(shape) < 0.9
    there[0, 0] = True
    change = make_change(rng.random(shape), there=there)
    member = change.p_new_built >= rng.uniform(0.3, 0.9)
    mine = clusters(change.series, member)
    image, count = ndimage.label(change.series.image(member, False), np.ones((3, 3)))
    theirs = image[change.series.range.top - 1 - change.series.rows, change.series.columns - change.series.range.left]
    pairs = set(zip(mine[member].tolist(), theirs[member].tolist(), strict=True))
    assert len(pairs) == count == len(set(mine[member].tolist()))
    assert len(set(mine[~member].tolist())) == (~member).sum() and not set(mine[~member]) & set(mine[member])


def test_lines_do_not_touch_around_the_edge() -> None:
    chance = np.zeros((3, 5))
    chance[0, 4] = chance[1, 0] = chance[2, 4] = 0.9
    assert len(set(clusters(make_change(chance).series, chance.ravel() > 0.5))) == 15


def test_scenes_far_apart_need_no_image_of_all_between() -> None:
    change = make_change(np.full((2, 2), 0.9))
    far = replace(
        change.series, columns=change.series.columns + np.array([0, 0, 10**6, 10**6]), rows=change.series.rows
    )
    assert len(set(clusters(far, np.ones(4, bool)))) == 2
    assert sorted(rank(replace(change, series=far)).cluster_tiles) == [2, 2, 2, 2]


@pytest.mark.parametrize("seed", range(8))
def test_ranking_is_that_of_brute_force(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    shape = tuple(rng.integers(4, 26, 2))
    there = rng.random(shape) < 0.92
    there[0, 0] = True
    # Chances in tenths, so that ties are many.
    threshold = float(rng.choice([0.3, 0.5, 0.8]))
    change = make_change(np.round(rng.random(shape) ** 3, 1), there=there, threshold=threshold)
    series, chance = change.series, change.p_new_built.astype(float)
    tiles = list(zip(series.columns.tolist(), series.rows.tolist(), strict=True))
    group = flood({tile: p >= 0.5 * threshold for tile, p in zip(tiles, change.p_new_built, strict=True)})
    area = dict(zip(tiles, series.areas_m2 / 10_000, strict=True))
    order = [k for k in range(len(tiles)) if change.p_new_built[k] >= np.float32(0.1)]
    order.sort(key=lambda k: (-chance[k] * len(group[tiles[k]]), -chance[k], -tiles[k][1], tiles[k][0]))
    found = rank(change, most=40)
    assert found.found == len(order) and len(found) == min(40, len(order))
    assert found.tile_ids == [series.tile_ids[k] for k in order[:40]]
    sizes = [len(group[tiles[k]]) for k in order[:40]]
    assert found.cluster_tiles.tolist() == sizes
    np.testing.assert_allclose(found.score, chance[order[:40]] * sizes)
    np.testing.assert_allclose(found.cluster_ha, [sum(area[tile] for tile in group[tiles[k]]) for k in order[:40]])
    seen = list(dict.fromkeys(group[tiles[k]] for k in order[:40]))
    assert found.cluster.tolist() == [seen.index(group[tiles[k]]) + 1 for k in order[:40]]


def test_a_weak_tile_of_a_large_cluster_comes_before_a_strong_one_alone() -> None:
    chance = np.array(
        [
            [0.6, 0.0, 0.0, 0.0, 0.95],
            [0.0, 0.3, 0.0, 0.0, 0.00],
            [0.4, 0.2, 0.0, 0.0, 0.05],
        ]
    )
    frame = rank(make_change(chance)).to_frame()
    # 0.6, 0.3 and 0.4 touch at corners and reach half the threshold; 0.2 touches them and does not; 0.05 is nothing.
    assert frame["probability"].tolist() == pytest.approx([0.6, 0.4, 0.95, 0.3, 0.2])
    assert frame["score"].tolist() == pytest.approx([1.8, 1.2, 0.95, 0.9, 0.2], abs=1e-6)
    assert frame["cluster"].tolist() == [1, 1, 2, 1, 3]
    assert frame["cluster_tiles"].tolist() == [3, 3, 1, 3, 1]
    assert frame["new_built"].tolist() == [True, False, True, False, False]
    assert frame["from_class"].tolist() == ["Field"] * 5
    assert frame["to_class"].tolist() == ["Resident", "Field", "Resident", "Field", "Field"]
    assert frame["kind"].tolist() == ["endpoint", "stable", "endpoint", "stable", "stable"]


def test_places_and_links_lead_to_the_tile() -> None:
    change = make_change(np.full((3, 4), 0.7))
    found = rank(change)
    degrees = gpd.GeoSeries(found.to_gdf().geometry.centroid, crs=GRID.crs).to_crs(4326)
    for place, row in zip(degrees, found.to_frame().to_dict("records"), strict=True):
        assert (row["longitude"], row["latitude"]) == pytest.approx((place.x, place.y), abs=1e-6)
        google = parse_qs(urlsplit(row["google_maps"]).query)
        assert [float(x) for x in google["center"][0].split(",")] == pytest.approx([place.y, place.x], abs=1e-6)
        assert google["api"] == ["1"] and google["basemap"] == ["satellite"]
        streets = urlsplit(row["openstreetmap"])
        assert float(parse_qs(streets.query)["mlat"][0]) == pytest.approx(place.y, abs=1e-6)
        assert streets.fragment.startswith("map=17/")
        assert row["map"] == f"change.html#tile={row['tile_id']}"
    assert map_link("a_1", "my page#1.html") == "my%20page%231.html#tile=a_1"
    assert openstreetmap_link(-71.5, 42.25).startswith("https://www.openstreetmap.org/?mlat=42.250000&mlon=-71.500000#")
    assert google_link(0, 0).startswith("https://www.google.com/maps/@?api=1&map_action=map&center=0.000000,0.000000")
    longitude, latitude = centres(change.series, np.array([0]))
    assert longitude.shape == latitude.shape == (1,)


# ---- the list as files


def some_change(**options: Any) -> Change:
    return make_change(np.random.default_rng(3).random((9, 12)) ** 4, **options)


def test_csv_and_layer_hold_the_list(tmp_path: Path) -> None:
    change = some_change()
    found = rank(change)
    path = tmp_path / "candidates.csv"
    write_candidates_csv(found, path)
    read = pd.read_csv(path)
    assert read["tile_id"].tolist() == found.tile_ids and read["rank"].tolist() == list(range(1, len(found) + 1))
    np.testing.assert_allclose(read["probability"], found.probability, atol=1e-6)
    with pytest.raises(OutputError, match="--overwrite"):
        write_candidates_csv(found, path)
    package = tmp_path / "change.gpkg"
    other = gpd.GeoDataFrame({"a": [1]}, geometry=GRID.polygons(np.array([LEFT]), np.array([BOTTOM])), crs=GRID.crs)
    pyogrio.write_dataframe(other, package, layer="change", GEOMETRY_NAME="geom")
    add_candidates_layer(found, package)
    assert {name for name, _ in pyogrio.list_layers(package)} >= {"change", "candidates"}
    layer = pyogrio.read_dataframe(package, layer="candidates")
    assert layer["tile_id"].tolist() == found.tile_ids and layer.crs == GRID.crs
    squares = GRID.polygons(found.columns, found.rows)
    assert all(a.equals(b) for a, b in zip(layer.geometry, squares, strict=True))
    assert len(pyogrio.read_dataframe(package, layer="change")) == 1
    with pytest.raises(OutputError, match="already has a layer"):
        add_candidates_layer(found, package)
    with pytest.raises(OutputError, match="write the changes first"):
        add_candidates_layer(found, tmp_path / "none.gpkg")


def test_nothing_found_is_an_empty_list(tmp_path: Path) -> None:
    found = rank(make_change(np.zeros((3, 3))))
    assert len(found) == 0 and found.found == 0
    write_candidates_csv(found, tmp_path / "none.csv")
    assert pd.read_csv(tmp_path / "none.csv").empty
    package = tmp_path / "change.gpkg"
    other = gpd.GeoDataFrame({"a": [1]}, geometry=GRID.polygons(np.array([LEFT]), np.array([BOTTOM])), crs=GRID.crs)
    pyogrio.write_dataframe(other, package, layer="change", GEOMETRY_NAME="geom")
    add_candidates_layer(found, package)
    layer = pyogrio.read_dataframe(package, layer="candidates")
    assert layer.empty and list(layer.columns[:-1]) == list(found.to_frame().columns)
    assert "<tbody></tbody>" in candidates_table(found)


def test_qgis_draws_the_layer(qgis_python: str, tmp_path: Path) -> None:
    package = tmp_path / "change.gpkg"
    other = gpd.GeoDataFrame({"a": [1]}, geometry=GRID.polygons(np.array([LEFT]), np.array([BOTTOM])), crs=GRID.crs)
    pyogrio.write_dataframe(other, package, layer="change", GEOMETRY_NAME="geom")
    add_candidates_layer(rank(some_change()), package)
    code = """
import os, sys
from qgis.core import QgsApplication, QgsVectorLayer
QgsApplication.setPrefixPath("/usr", True)
app = QgsApplication([], False)
app.initQgis()
layer = QgsVectorLayer(sys.argv[1] + "|layername=candidates", "c", "ogr")
symbol = layer.renderer().symbol().symbolLayer(0)
print(layer.isValid(), layer.featureCount(), layer.renderer().type(), symbol.strokeColor().name(), symbol.brushStyle())
print(layer.labelsEnabled(), layer.labeling().settings().fieldName, flush=True)
os._exit(0)  # tearing QGIS down may crash, and nothing is left to do
"""
    run = subprocess.run(
        [qgis_python, "-c", code, str(package)],
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = run.stdout.splitlines()
    assert lines[0].split() == ["True", str(len(rank(some_change()))), "singleSymbol", "#d55e00", "0"], run.stderr
    assert lines[1] == "True rank"


def test_names_in_the_table_stay_text() -> None:
    scheme = ClassScheme(
        name="nasty",
        classes=(LandClass(id=1, name="<b>&", colour="#000000"), LandClass(id=2, name='"><script>', colour="#ffffff")),
    )
    text = candidates_table(rank(make_change(np.full((2, 2), 0.9), scheme=scheme)))
    assert "&lt;b&gt;&amp; → " in text and "<script>" not in text and "<b>" not in text
    assert text.count("<tr>") == 5


# ---- chips


def test_a_picture_shows_its_tile_and_what_is_around_it(tmp_path: Path) -> None:
    """At the imagery's own pixels each picture is the ground, to the pixel; what lies beyond the scene is grey."""
    left, top, width, height = LEFT * 224, (BOTTOM + 3) * 224, 3 * 224, 2 * 224
    path = write_coordinates(tmp_path / "scene.tif", left, top, width, height)
    columns, rows = np.array([LEFT + 1, LEFT, LEFT + 2]), np.array([BOTTOM + 1, BOTTOM + 2, BOTTOM + 2])
    view = view_of("2016", [path])
    pictures = dict(read_tiles(GRID, columns, rows, view, size_px=336, context=0.25))
    assert sorted(pictures) == [0, 1, 2]
    for k, picture in pictures.items():
        column, line = int(columns[k]) * 224 - 56, -(int(rows[k]) + 1) * 224 - 56
        truth = coordinate_pixels(column, line, 336, 336).transpose(1, 2, 0)
        across, down = np.arange(column, column + 336), np.arange(line, line + 336)
        inside = ((down >= -top) & (down < height - top))[:, None] & ((across >= left) & (across < left + width))
        np.testing.assert_array_equal(picture[inside], truth[inside])
        assert (picture[~inside] == EMPTY).all() and inside.any()


def ramp(x: Any, y: Any) -> np.ndarray:
    """(…, 3) colours that tell where in a range of 4 × 3 tiles a point lies, slowly enough for any resampling."""
    red = (x / GRID.side - LEFT) / 4 * 200 + 30
    green = (BOTTOM + 3 - y / GRID.side) / 3 * 200 + 30
    return np.stack([red, green, np.full_like(red, 128)], axis=-1)


def write_result(folder: Path, name: str, inputs: list[str], thumbnails: bool = True) -> Source:
    """A preview beside a result that is not needed itself, its colours a ramp over the ground of 4 × 3 tiles."""
    line, column = np.divmod(np.arange(12), 4)
    columns, rows = column + LEFT, BOTTOM + 2 - line
    step = (np.arange(56) + 0.5) / 56
    x = (columns[:, None, None] + step[None, None, :]) * GRID.side + np.zeros((12, 56, 56))
    y = (rows[:, None, None] + 1 - step[None, :, None]) * GRID.side + np.zeros((12, 56, 56))
    scheme = load_scheme("nlcd3")
    labels = Labels(
        GRID, scheme, columns, rows, np.full((12, len(scheme)), 1 / len(scheme), np.float32), np.ones(12, np.float32),
        ramp(x, y).round().astype(np.uint8),
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    if thumbnails:
        write_preview(labels, folder / f"{name}.preview.tif")
    return Source(folder / f"{name}.gpkg", {"inputs": inputs, "sensor": "rgb8"})


def with_sources(*sources: Source) -> Series:
    return replace(make_change(np.zeros((3, 4))).series, sources=sources)


@pytest.mark.parametrize("way", ["imagery", "coarser imagery", "preview"])
def test_both_ways_show_the_same_ground(way: str, tmp_path: Path) -> None:
    """Imagery at 0.5 m, at 4 m, and the preview: the JPEG of a tile has the ramp's colours of its own ground."""
    source = write_result(tmp_path, "county", ["scene.tif"])
    if way != "preview":
        res = 0.5 if way == "imagery" else 4.0
        width, height = round(4 * 224 / res), round(3 * 224 / res)
        x = LEFT * 224 + (np.arange(width) + 0.5)[None, :] * res + np.zeros((height, 1))
        y = (BOTTOM + 3) * 224 - (np.arange(height) + 0.5)[:, None] * res + np.zeros((1, width))
        with rasterio.open(
            tmp_path / "scene.tif", "w", driver="GTiff", width=width, height=height, count=3, dtype="uint8",
            crs="EPSG:26919", transform=from_origin(LEFT * 224, (BOTTOM + 3) * 224, res, res),
        ) as scene:  # fmt: skip
            scene.write(ramp(x, y).round().astype(np.uint8).transpose(2, 0, 1))
    view = views_of(with_sources(source, Source(None, {})))[0]
    assert view.origin == way.split()[-1]
    columns, rows = np.array([LEFT + 1, LEFT + 2]), np.array([BOTTOM + 1, BOTTOM + 1])
    chips = make_chips(GRID, columns, rows, [view])
    assert chips.tile_ids == tuple(GRID.tile_ids(columns, rows)) and chips.dates == ("2011",)
    for k, column in enumerate(columns):
        picture = chips.pictures[k][0]
        assert picture is not None and picture.startswith(b"\xff\xd8")
        shown = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(float)
        side = len(shown)
        assert side == {"imagery": 288, "coarser imagery": 84, "preview": 84}[way]
        step = (np.arange(side) + 0.5) / side * 1.5 - 0.25
        x = (column + step)[None, :] * 224 + np.zeros((side, 1))
        y = (BOTTOM + 2 - step)[:, None] * 224 + np.zeros((1, side))
        off = np.abs(shown - ramp(x, y))[..., :2]
        # A step of 1 in colour is 4.5 m of ground across and 3.4 m down.
        assert off.mean() < 1.2 and off.max() < 5


def test_imagery_is_found_and_not_mistaken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for year in ("2011", "2016"):
        (tmp_path / year).mkdir()
        write_coordinates(tmp_path / year / "county.tif")
    sources = [write_result(tmp_path / year / "out", "county", ["county.tif"]) for year in ("2011", "2016")]
    # The class raster has the imagery's name, as classify writes it: it is not the imagery.
    for year in ("2011", "2016"):
        write_coordinates(tmp_path / year / "out" / "county.tif", width=4, height=3)
    views = views_of(with_sources(*sources))
    assert [view.origin for view in views] == ["imagery", "imagery"]
    found = [Path(view.mosaic.files[0]).resolve() for view in views if view.mosaic]
    assert found == [tmp_path / year / "county.tif" for year in ("2011", "2016")]
    # Both results say county.tif and only one is left: it would be shown for both, so it is for neither.
    (tmp_path / "2011" / "county.tif").unlink()
    (tmp_path / "2016" / "county.tif").rename(tmp_path / "county.tif")
    assert [view.origin for view in views_of(with_sources(*sources))] == ["preview", "preview"]
    (tmp_path / "2011" / "out" / "county.preview.tif").write_bytes(b"no picture")
    views = views_of(with_sources(*sources))
    assert [view.origin for view in views] == ["none", "preview"] and "neither" in views[0].words
    assert views_of(with_sources(*sources), [tmp_path])[1].origin == "preview"
    alone = with_sources(sources[0], Source(sources[1].path, {"inputs": ["https://example.invalid/a.tif"]}))
    views = views_of(alone)
    assert [view.origin for view in views] == ["imagery", "preview"] and "county.tif" in views[0].words


def test_stored_numbers_become_colours_by_one_rule(tmp_path: Path) -> None:
    """A 16-bit scene: brightness is the sensor's, so a tile twice as bright on one date looks twice as bright."""
    views = []
    for date, level in (("2016-05-01", 1000), ("2017-05-01", 2000)):
        path = tmp_path / f"T19TCG_{date.replace('-', '')}T000000_B0.tif"
        with rasterio.open(
            path, "w", driver="GTiff", width=64, height=64, count=3, dtype="uint16", crs="EPSG:32619",
            transform=from_origin(300_000, 4_700_160, 10, 10),
        ) as scene:  # fmt: skip
            scene.write(np.full((3, 64, 64), level, np.uint16))
            scene.descriptions = ("red", "green", "blue")
        views.append(view_of(date, [path], "sentinel2-l2a"))
    grid = TileGrid(pyproj.CRS("EPSG:32619"), 16, 10.0)
    column, row = grid.tile_at(300_300, 4_699_800)
    found = [dict(read_tiles(grid, np.array([column]), np.array([row]), view))[0] for view in views]
    gain, offset = views[0].mosaic.sensor.scale.affine() if views[0].mosaic else (0, 0)
    assert [picture.max() for picture in found] == [round(1000 * gain + offset), round(2000 * gain + offset)]
    assert all(np.ptp(picture) == 0 and picture.shape == (24, 24, 3) for picture in found)


def test_a_page_of_pictures_keeps_within_its_bytes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(1, 255, (3, 672, 672)).astype(np.uint8)
    path = write_coordinates(tmp_path / "noise.tif", width=672, height=672)
    with rasterio.open(path, "r+") as scene:
        scene.write(noise)
    views = [view_of(date, [path]) for date in ("2011", "2016")]
    columns, rows = np.array([1401, 1400]), np.array([20898, 20898])
    rich, poor = (make_chips(GRID, columns, rows, views, total_bytes=total) for total in (TOTAL_BYTES, 150_000))
    sizes = [sum(len(picture or b"") for row in chips.pictures for picture in row) for chips in (rich, poor)]
    assert sizes[1] <= 150_000 < sizes[0] <= TOTAL_BYTES


def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    path = write_coordinates(tmp_path / "scene.tif", compress="none", tiled=False, blockysize=1, blockxsize=700)
    view = view_of("2016", [path])
    path.write_bytes(path.read_bytes()[:50_000])
    chips = make_chips(GRID, np.array([1401]), np.array([20898]), [view, View("2020", None, "none", "nothing")])
    assert chips.pictures == ((None, None),) and chips.views[0].origin == "none"
    assert "has changed since it was opened" in chips.views[0].words and chips.dates == ("2016", "2020")
    beyond = make_chips(GRID, np.array([1]), np.array([1]), [view])
    assert beyond.pictures == ((None,),)
