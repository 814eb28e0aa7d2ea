"""Many tiles: what is streamed equals what is written at once, memory does not follow the number, the map still opens."""

import json
import os
import sqlite3
import subprocess
import sys
import textwrap
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pyproj
import pytest
import shapely
from playwright.sync_api import Browser, Page

from geoclass import tiletable
from geoclass.changes import inference
from geoclass.changes.series import align
from geoclass.errors import OutputError
from geoclass.gathering import gather
from geoclass.grid import BATCH_TILES, TileGrid, TileRange, cells, parse_crs, positions
from geoclass.journal import Part
from geoclass.labels import Labels
from geoclass.outputs import geopackage, vector, webmap
from geoclass.outputs.offline import write_page
from geoclass.results import read_result
from geoclass.schemes import load_scheme


def made(columns: int, rows: int, *, share: float = 1.0, seed: int = 0, crs: str = "EPSG:26919", **info: Any) -> Labels:
    """Patches of classes over a block of tiles of which `share` are kept; answers noisy."""
    random, scheme = np.random.default_rng(seed), load_scheme("rsscn7")
    at_columns, at_rows = cells(TileRange(1400, 20_000, 1400 + columns, 20_000 + rows))
    keep = random.random(len(at_columns)) < share
    keep[[0, -1]] = True
    at_columns, at_rows = at_columns[keep], at_rows[keep]
    patch = random.integers(0, len(scheme), (rows // 9 + 1, columns // 9 + 1))
    values = random.normal(0, 1.5, (len(at_columns), len(scheme)))
    values[np.arange(len(values)), patch[(at_rows - 20_000) // 9, (at_columns - 1400) // 9]] += 4
    values = np.exp(values)
    return Labels(
        TileGrid(parse_crs(crs)),
        scheme,
        at_columns,
        at_rows,
        (values / values.sum(axis=1, keepdims=True)).astype(np.float32),
        random.uniform(0.5, 1, len(values)).astype(np.float32),
        info=info or {"name": "Many", "date": "2021"},
    )


def rows_of(path: Path, table: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(f'SELECT * FROM "{table}" ORDER BY 1').fetchall()


# ---- the stream


@pytest.mark.parametrize("crs", ["EPSG:26919", "EPSG:2263"])
def test_ids_and_squares_are_those_of_the_grid(crs: str) -> None:
    grid = TileGrid(parse_crs(crs), 200, 0.6)
    columns, rows = cells(TileRange(-7, -5, 9, 6))
    assert tiletable.tile_ids(grid, columns, rows).to_pylist() == grid.tile_ids(columns, rows)
    squares = tiletable.polygons(tiletable.corners(grid, columns, rows))
    assert squares.to_pylist() == list(shapely.to_wkb(grid.polygons(columns, rows)))


@pytest.fixture(scope="module")
def several_batches() -> Labels:
    labels = made(230, 210, share=0.9)
    assert len(labels) > 2 * BATCH_TILES
    return labels


def test_a_streamed_geopackage_is_the_one_geopandas_writes(several_batches: Labels, tmp_path: Path) -> None:
    vector.write_gpkg(several_batches, tmp_path / "ours.gpkg")
    options = {"layer": "landcover", "GEOMETRY_NAME": "geom", "VERSION": "1.3", "use_arrow": True}
    pyogrio.write_dataframe(several_batches.to_gdf(), tmp_path / "theirs.gpkg", **options)
    for table in ("landcover", "rtree_landcover_geom"):
        assert rows_of(tmp_path / "ours.gpkg", table) == rows_of(tmp_path / "theirs.gpkg", table)
    for name in ("ours", "theirs"):
        described = pyogrio.read_info(tmp_path / f"{name}.gpkg", layer="landcover")
        assert list(described["fields"]) == list(several_batches.to_gdf().columns[:-1])
    back = read_result(tmp_path / "ours.gpkg")
    np.testing.assert_array_equal(back.probabilities, several_batches.probabilities)
    assert back.tile_ids == several_batches.tile_ids


def test_streamed_parquet_and_csv_are_those_of_geopandas(several_batches: Labels, tmp_path: Path) -> None:
    frame = several_batches.to_gdf()
    vector.write_vector(several_batches, tmp_path / "ours.parquet", "parquet")
    frame.to_parquet(tmp_path / "theirs.parquet", index=False, write_covering_bbox=True, schema_version="1.1.0")
    ours, theirs = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("ours", "theirs"))
    assert ours.equals(theirs)
    assert ours.schema.equals(theirs.schema, check_metadata=True)
    assert pq.ParquetFile(tmp_path / "ours.parquet").num_row_groups > 1
    left, bottom, right, top = several_batches.grid.bounds(1500, 20_100)
    window = gpd.read_parquet(tmp_path / "ours.parquet", bbox=(left + 1, bottom + 1, right - 1, top - 1))
    assert list(window["tile_id"]) == ["26919_224_1500_20100"]
    vector.write_vector(several_batches, tmp_path / "ours.csv", "csv")
    names = frame.columns[:-1].tolist()
    frame[names].to_csv(tmp_path / "theirs.csv", index=False, lineterminator="\n")
    found = (tmp_path / "ours.csv").read_text(encoding="utf-8").splitlines()
    for ours_line, theirs_line in zip(found, (tmp_path / "theirs.csv").read_text().splitlines(), strict=True):
        assert ours_line.startswith(theirs_line + ",")


def test_gdal_options_are_put_back(several_batches: Labels, tmp_path: Path) -> None:
    pyogrio.set_gdal_config_options({geopackage.INDEX_OPTION: 12345})
    try:
        vector.write_gpkg(several_batches, tmp_path / "a.gpkg")
        assert pyogrio.get_gdal_config_option(geopackage.INDEX_OPTION) == 12345
    finally:
        pyogrio.set_gdal_config_options({geopackage.INDEX_OPTION: None})
    vector.write_gpkg(several_batches, tmp_path / "b.gpkg")
    assert pyogrio.get_gdal_config_option(geopackage.INDEX_OPTION) is None
    assert sorted(rows_of(tmp_path / "a.gpkg", "rtree_landcover_geom")) == sorted(
        rows_of(tmp_path / "b.gpkg", "rtree_landcover_geom")
    )


def test_a_lost_row_is_noticed_whatever_the_file_announces(several_batches: Labels, tmp_path: Path) -> None:
    """GDAL's quick reader would repeat another row in its place."""
    path = tmp_path / "a.gpkg"
    vector.write_gpkg(several_batches, path)
    with closing(sqlite3.connect(path)) as database, database:
        for (trigger,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f'DROP TRIGGER "{trigger}"')
        database.execute("DELETE FROM landcover WHERE fid = 3")
    fields, alike = tiletable.read_columns(path, "landcover", ["confidence"], several_batches.grid)
    assert (len(fields["confidence"]), alike) == (len(several_batches) - 1, True)
    with pytest.raises(OutputError, match="are announced and"):
        read_result(path)


# ---- memory

MEASURE = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from test_many import made
    from geoclass.outputs import vector

    def status(name):
        return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) / 1024

    kind, side, folder = sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    warm, labels = made(40, 40), made(side, side)
    def write(labels, path):
        if kind == "gpkg":
            vector.write_gpkg(labels, path)
        else:
            vector.write_vector(labels, path, kind)
    write(warm, folder / f"warm.{kind}")
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    write(labels, folder / f"many.{kind}")
    print(status("VmHWM") - before)
    """
)


# Polygons and texts of 160,000 tiles take 110 to 140 MB; what a batch and a spatial index need is some 20.
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc")
@pytest.mark.parametrize("kind", ["gpkg", "parquet"])
def test_writers_hold_a_batch_not_a_county(tmp_path: Path, kind: str) -> None:
    command = [sys.executable, "-c", MEASURE, str(Path(__file__).parent), kind, "400", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 60


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a process does not inherit a peak")
def test_the_peak_of_memory_told_is_not_that_of_who_started_the_process() -> None:
    child = "from geoclass.classify import peak_memory_mb as peak; before = peak(); held = b'x' * 300_000_000; print(before, peak())"
    parent = f"""
import subprocess, sys
held = b"x" * 1_500_000_000
print(subprocess.run([sys.executable, "-c", {child!r}], capture_output=True, text=True, check=True).stdout)
"""
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    before, after = map(float, done.stdout.split())
    assert before < 1200
    assert 250 < after - before < 400


def test_tiles_are_selected_piece_by_piece_as_at_once() -> None:
    grid = TileGrid(parse_crs("EPSG:26919"))
    columns, rows = cells(TileRange(0, 0, 200, 200))
    area = shapely.Point(22_000, 21_000).buffer(15_000)
    squares = grid.polygons(columns, rows)
    assert len(columns) > 2 * BATCH_TILES
    np.testing.assert_array_equal(grid.select(area, "within", columns, rows), shapely.covers(area, squares))
    touching = shapely.intersects(area, squares) & ~shapely.touches(area, squares)
    np.testing.assert_array_equal(grid.select(area, "touches", columns, rows), touching)


def test_positions_of_tiles() -> None:
    labels = made(30, 20, share=0.6)
    some = np.random.default_rng(1).permutation(len(labels))[:50]
    found = positions(labels.columns, labels.rows, labels.columns[some], labels.rows[some])
    np.testing.assert_array_equal(found, some)
    assert positions(labels.columns, labels.rows, np.array([1399, 1500]), np.array([20_000, 5])).tolist() == [-1, -1]


# ---- parts of a run


@pytest.mark.parametrize("in_order", [True, False])
def test_parts_find_their_places(in_order: bool) -> None:
    labels = made(25, 18, share=0.7)
    random = np.random.default_rng(2)
    count = len(labels)
    classified = random.random(count) < 0.8
    pictures = random.integers(0, 255, (count, 2, 2, 3), np.uint8)
    parts = []
    for at in np.array_split(random.permutation(count), 7):
        kept = at[classified[at]]
        parts.append(
            Part(
                labels.columns[at], labels.rows[at], labels.valid_fraction[at], classified[at], labels.probabilities[kept],
                pictures[kept], 1.0, 0.5,
            )
        )  # fmt: skip
    order = np.arange(count) if in_order else random.permutation(count)
    found = gather(labels.columns[order], labels.rows[order], iter(parts))
    for name in ("columns", "rows", "probabilities", "valid_fraction"):
        np.testing.assert_array_equal(getattr(found, name), getattr(labels, name)[classified])
    np.testing.assert_array_equal(found.thumbnails, pictures[classified])
    assert (found.left_out, found.read_seconds, found.network_seconds) == (int((~classified).sum()), 7.0, 3.5)
    assert found.best_valid == labels.valid_fraction.max()


def test_change_is_joined_piece_by_piece_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    dates = [made(40, 30, seed=seed, date=date, share=0.95) for seed, date in ((3, "2010"), (4, "2016"))]
    series = align(dates, built=("Resident",))
    whole = inference.infer(series)
    monkeypatch.setattr(inference, "JOINED_TILES", 77)
    pieces = inference.infer(series)
    for name in ("posterior", "p_change", "p_new_built"):
        np.testing.assert_array_equal(getattr(pieces, name), getattr(whole, name))


# ---- QGIS

QGIS = textwrap.dedent(
    """
    import os, sys
    from qgis.core import QgsApplication, QgsFeatureRequest, QgsRectangle, QgsVectorLayer
    QgsApplication.setPrefixPath("/usr", True)
    application = QgsApplication([], False)
    application.initQgis()
    layer = QgsVectorLayer(sys.argv[1] + "|layername=landcover", "tiles", "ogr")
    _, styled = layer.loadDefaultStyle()
    box = QgsRectangle(*map(float, sys.argv[2:6]))
    near = [feature["tile_id"] for feature in layer.getFeatures(QgsFeatureRequest(box))]
    print(layer.isValid(), styled, layer.featureCount(), layer.renderer().type(), *near)
    sys.stdout.flush()
    os._exit(0)  # QGIS's own teardown can crash after the work is done
    """
)


def test_qgis_opens_a_hundred_thousand_tiles(qgis_python: str, tmp_path: Path) -> None:
    labels = made(320, 320)
    vector.write_gpkg(labels, tmp_path / "many.gpkg")
    left, bottom, right, top = labels.grid.bounds(1555, 20_123)
    box = [str(value) for value in (left + 5, bottom + 5, right - 5, top - 5)]
    done = subprocess.run(
        [qgis_python, "-c", QGIS, str(tmp_path / "many.gpkg"), *box],
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen", "PYTHONPATH": ""},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()[-1].split()
    assert said == ["True", "True", "102400", "categorizedSymbol", "26919_224_1555_20123"]


# ---- the map

PIXEL = """([lat, lng]) => {
    const { map, page } = geoclass;
    const at = map.latLngToLayerPoint([lat, lng]).subtract(page.classes._bounds.min).multiplyBy(page.classes._ratio);
    const copy = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    copy.drawImage(page.classes._container, -Math.floor(at.x), -Math.floor(at.y));
    return [...copy.getImageData(0, 0, 1, 1).data];
}"""
ANSWER = """async ([lat, lng]) => {
    const tile = geoclass.tileAt(lat, lng);
    await geoclass.page.tiles.load(tile.tile);
    return geoclass.tileAt(lat, lng);
}"""


@pytest.fixture(scope="module")
def many() -> Labels:
    return made(640, 560, share=0.97, seed=5)


@pytest.fixture(scope="module")
def many_page(many: Labels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("map") / "many.html"
    webmap.write_map(path, many)
    return path


def opened(browser: Browser, path: Path, script: str = "") -> tuple[Page, list[str]]:
    context = browser.new_context(viewport={"width": 1440, "height": 860}, offline=True)
    if script:
        context.add_init_script(script)
    page, seen = context.new_page(), []
    page.on("console", lambda message: seen.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: seen.append(f"error: {error}"))
    page.on("request", lambda request: request.url[:5] != "data:" and seen.append(request.url))
    page.goto(path.as_uri())
    assert seen[:1] == [path.as_uri()]
    del seen[0]
    return page, seen


def centre(labels: Labels, at: int) -> list[float]:
    to_degrees = pyproj.Transformer.from_crs(labels.grid.crs, "EPSG:4326", always_xy=True)
    longitude, latitude = to_degrees.transform(
        *((int(v[at]) + 0.5) * labels.grid.side for v in (labels.columns, labels.rows))
    )
    return [latitude, longitude]


def test_a_map_of_many_tiles_opens_and_answers(browser: Browser, many: Labels, many_page: Path) -> None:
    assert len(many) > 300_000
    assert many_page.stat().st_size < len(many) * 12
    page, seen = opened(browser, many_page)
    assert page.evaluate("geoclass.page.whole") is True
    assert f"{len(many):,} tiles" in page.inner_text("#gc-sub")
    random = np.random.default_rng(6)
    for at in [
        0,
        len(many) - 1,
        webmap.CHUNK_TILES - 1,
        webmap.CHUNK_TILES,
        *random.integers(0, len(many), 60).tolist(),
    ]:
        answer = page.evaluate(ANSWER, centre(many, at))
        assert answer["id"] == many.grid.tile_id(int(many.columns[at]), int(many.rows[at]))
        assert answer["kind"] == many.class_index[at]
        assert np.abs(np.array(answer["probabilities"]) - many.probabilities[at]).max() < 0.01
        assert abs(answer["confidence"] - many.confidence[at]) < 0.01
        assert abs(answer["valid"] - many.valid_fraction[at]) < 0.01
    at = len(many) // 3
    place = centre(many, at)
    page.evaluate("place => geoclass.map.setView(place, 14, { animate: false })", place)
    assert page.evaluate(PIXEL, place) == [*many.scheme.classes[many.class_index[at]].rgb, 255]
    page.evaluate("geoclass.map.panBy([900, 300], { animate: false }).panBy([-900, -300], { animate: false })")
    x, y = page.evaluate("place => { const p = geoclass.map.latLngToContainerPoint(place); return [p.x, p.y] }", place)
    page.mouse.click(x, y)
    page.wait_for_selector("#gc-bars li")
    assert many.scheme.names[many.class_index[at]] in page.inner_text("#gc-card-class")
    assert many.grid.tile_id(int(many.columns[at]), int(many.rows[at])) in page.inner_text("#gc-facts")
    assert page.locator("#gc-bars li").count() == len(many.scheme)
    page.check("input[value=confidence]")
    assert "Half of the tiles reach" in page.inner_text("#gc-median")
    assert seen == []
    page.context.close()


def commonest(labels: Labels, per: int) -> np.ndarray[Any, Any]:
    """The class index that leads in each square of `per` × `per` places, from the north-west; -1 where no tile is."""
    tiles = labels.range
    down, across = (tiles.top - 1 - labels.rows) // per, (labels.columns - tiles.left) // per
    counts = np.zeros((down.max() + 1, across.max() + 1, len(labels.scheme)), int)
    np.add.at(counts, (down, across, labels.class_index), 1)
    return np.where(counts.any(axis=2), counts.argmax(axis=2), -1)


def test_far_out_the_commonest_class_is_drawn(browser: Browser, many: Labels, many_page: Path) -> None:
    page, seen = opened(browser, many_page)
    assert page.evaluate("geoclass.page.whole") is True
    page.evaluate("geoclass.map.setZoom(geoclass.map.getZoom() - 2, { animate: false })")
    assert page.evaluate("geoclass.page.classes._chosen().per") in (2, 4)
    for per in (2, 4, 8):
        kinds = page.evaluate(f"[...geoclass.page.tiles.commonest({per}).kinds]")
        expected = commonest(many, per)
        np.testing.assert_array_equal(np.reshape(kinds, expected.shape), np.where(expected < 0, 255, expected))
    coarse = page.evaluate("({ ...geoclass.page.tiles.coarse, kinds: [...geoclass.page.tiles.coarse.kinds] })")
    expected = commonest(many, coarse["per"])
    assert len(coarse["kinds"]) <= webmap.COARSE_CELLS
    np.testing.assert_array_equal(np.reshape(coarse["kinds"], expected.shape), np.where(expected < 0, 255, expected))
    # A class alone is drawn from all tiles: where it is nowhere the commonest it would be gone.
    page.locator("#gc-classes input").first.uncheck()
    page.mouse.move(200, 100)
    assert page.evaluate("geoclass.page.classes._chosen().per") is None
    assert seen == []
    page.context.close()


def test_a_browser_that_cannot_inflate_shows_the_coarse_picture(
    browser: Browser, many: Labels, many_page: Path
) -> None:
    page, seen = opened(browser, many_page, script="delete window.DecompressionStream")
    assert page.evaluate("geoclass.page.whole") is False
    assert "too old" in page.inner_text("#gc-foot")
    assert page.evaluate("place => geoclass.tileAt(...place)", centre(many, 5000)) is None
    colours = [[*item.rgb] for item in many.scheme.classes]
    got = page.evaluate(PIXEL, centre(many, len(many) // 2))
    assert got[3] == 255 and got[:3] in colours
    assert seen == []
    page.context.close()


def test_what_the_page_holds_is_json_and_deflated_lines(many: Labels) -> None:
    made_map = webmap.build_map(many)
    values = json.loads(made_map.values)
    assert "probability" not in values["tiles"]
    assert len(made_map.page.later.split("\n")) == 2 + -(-len(many) // webmap.CHUNK_TILES)
    assert len(made_map.values) < 400_000


def test_writing_a_page_hardly_copies_what_it_holds(tmp_path: Path, many: Labels) -> None:
    made_map = webmap.build_map(many)
    made_map.page.later = held = "held\n" * 4_000_000
    tracemalloc.start()
    try:
        write_page(tmp_path / "page.html", made_map, overwrite=False)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 2 * len(held)
    text = (tmp_path / "page.html").read_bytes().decode()
    assert text == made_map.page.render()
    assert text.count(f'type="text/plain" id="{made_map.get_name()}-later">{held}</script>') == 1
