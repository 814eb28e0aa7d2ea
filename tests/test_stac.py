"""From a search of a STAC API to a map: items over real and made files, on localhost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import rasterio
import rasterio.warp
import shapely
from click.testing import CliRunner
from rangeserver import RangeServer, serving
from rasterio.transform import from_origin
from stacapi import StacApi, stac_api

import geoclass
from geoclass import backbones
from geoclass.bundle import BundleMeta, save_bundle
from geoclass.classify import classify
from geoclass.cli import main
from geoclass.describe import describe
from geoclass.errors import GeoclassError, OutputError, SceneError
from geoclass.grid import TileGrid
from geoclass.mosaic import open_mosaic
from geoclass.reader import LatticeWindow
from geoclass.remote import opening
from geoclass.schemes import load_scheme
from geoclass.sensors import load_sensor
from geoclass.stac import documents
from geoclass.stac.assets import band_files, value_offset
from geoclass.stac.documents import Item, is_document, read_listing
from geoclass.stac.search import mgrs_tile, search, unwrapped, write_items
from geoclass.tile import tile
from geoclass.tileindex import read_index

CRS, LEFT, TOP, SIDE_PX = "EPSG:32633", 300160, 5600000, 64
WIDTH, HEIGHT = 8 * SIDE_PX, 6 * SIDE_PX
RGB = ("red", "green", "blue")
KEYS = {"red": "B04", "green": "B03", "blue": "B02"}
L2A = load_sensor("sentinel2-l2a")
TOKEN = "TopSecretToken"


def outline(left: float, top: float, width_m: float, height_m: float, crs: str = CRS) -> dict[str, Any]:
    """A GeoJSON rectangle in degrees."""
    box = shapely.box(left, top - height_m, left + width_m, top)
    return rasterio.warp.transform_geom(crs, "EPSG:4326", shapely.geometry.mapping(box))


def sentinel_item(
    url: str, name: str, cloud: float, day: str, earth_search: bool = True, **more: Any
) -> dict[str, Any]:
    """An item as Earth Search describes one, or as the Planetary Computer does."""
    assets: dict[str, Any] = {
        "thumbnail": {"href": f"{url}/{name}/thumb.jpg", "type": "image/jpeg", "roles": ["thumbnail"]},
        "visual": {
            "href": f"{url}/{name}/TCI.tif", "type": "image/tiff; application=geotiff", "roles": ["data"],
            "eo:bands": [{"name": b, "common_name": b} for b in RGB],
        },
    }  # fmt: skip
    for band, key in KEYS.items():
        asset: dict[str, Any] = {
            "href": f"{url}/{name}/{key}.tif", "roles": ["data"], "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "eo:bands": [{"name": band if earth_search else key, "common_name": band}],
        }  # fmt: skip
        if earth_search:
            asset["raster:bands"] = [{"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": -0.1}]
            assets[f"{band}-jp2"] = {**asset, "href": f"{url}/{name}/{key}.jp2", "type": "image/jp2"}
        assets[band if earth_search else key] = asset
    assets["scl" if earth_search else "SCL"] = {
        "href": f"{url}/{name}/SCL.tif", "roles": ["data"], "type": "image/tiff; application=geotiff",
    }  # fmt: skip
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": name, "collection": "sentinel-2-l2a", "assets": assets, "links": [],
        "geometry": outline(LEFT, TOP, WIDTH * 10, HEIGHT * 10), "bbox": [0, 0, 1, 1],
        "properties": {
            "datetime": f"{day}T10:00:00Z", "eo:cloud_cover": cloud, "grid:code": "MGRS-33UUU", "s2:processing_baseline": "05.09",
            **more,
        },
    }  # fmt: skip


def write_sentinel(folder: Path, seed: int, cloudy: tuple[slice, slice] | None) -> dict[str, np.ndarray]:
    """Bands of 10 m and a scene classification of 20 m, of vegetation (4) but for one cloud (9)."""
    folder.mkdir(parents=True)
    rng, made = np.random.default_rng(seed), {}
    layout = {
        "driver": "GTiff",
        "count": 1,
        "crs": CRS,
        "tiled": True,
        "blockxsize": 128,
        "blockysize": 128,
        "compress": "deflate",
    }
    for band, key in KEYS.items():
        made[band] = rng.integers(1500, 3500, (HEIGHT, WIDTH)).astype(np.uint16)
        with rasterio.open(
            folder / f"{key}.tif", "w", width=WIDTH, height=HEIGHT, dtype="uint16", nodata=0,
            transform=from_origin(LEFT, TOP, 10, 10), **layout,
        ) as dataset:  # fmt: skip
            dataset.write(made[band], 1)
    codes = np.full((HEIGHT // 2, WIDTH // 2), 4, np.uint8)
    if cloudy is not None:
        codes[cloudy] = 9
    with rasterio.open(
        folder / "SCL.tif",
        "w",
        width=WIDTH // 2,
        height=HEIGHT // 2,
        dtype="uint8",
        transform=from_origin(LEFT, TOP, 20, 20),
        **layout,
    ) as dataset:
        dataset.write(codes, 1)
    return made


CLOUD_A = (slice(0, 64), slice(0, 80))
"""Of A's SCL: 128 lines and 160 columns of 10 m pixels, so 2 x 2.5 tiles."""


@pytest.fixture(scope="module")
def imagery(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, np.ndarray]]]:
    root = tmp_path_factory.mktemp("imagery")
    made = {
        "S2_A": write_sentinel(root / "S2_A", 1, CLOUD_A),
        "S2_B": write_sentinel(root / "S2_B", 2, (slice(0, 192), slice(128, 256))),
    }
    return root, made


@pytest.fixture
def server(imagery: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    monkeypatch.setattr(opening, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.01")
    with serving(imagery[0]) as running:
        yield running


@pytest.fixture
def api(server: RangeServer) -> Iterator[StacApi]:
    """Three items of one tile: A (5 % cloud), B (40 %), C (90 %), and one elsewhere."""
    with stac_api() as running:
        running.add(sentinel_item(server.url, "S2_B", 40.0, "2024-06-11"))
        running.add(sentinel_item(server.url, "S2_A", 5.0, "2024-06-06"))
        running.add(sentinel_item(server.url, "S2_C", 90.0, "2024-06-01"))
        far = running.add(sentinel_item(server.url, "S2_far", 1.0, "2024-06-06"))
        far["geometry"] = outline(LEFT + 500_000, TOP, 1000, 1000)
        yield running


@pytest.fixture(scope="module")
def sentinel_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scheme = load_scheme("rsscn7")
    network = backbones.build("efficientnet_lite0", classes=len(scheme), weights=None)
    norm = backbones.normalisation("efficientnet_lite0", 3)
    meta = BundleMeta(
        backbone="efficientnet_lite0", scheme=scheme, sensor=L2A, bands=RGB, size_px=SIDE_PX, gsd_m=10.0, mean=norm.mean,
        std=norm.std, brightness=None, training={}, created="2020-01-01T00:00:00+00:00", geoclass_version="0.1.0",
    )  # fmt: skip
    path = tmp_path_factory.mktemp("bundle") / "s2.pt"
    save_bundle(path, meta, dict(network.state_dict()))
    return path


@pytest.fixture
def aoi(tmp_path: Path) -> Path:
    path = tmp_path / "aoi.geojson"
    shape = shapely.box(LEFT + 100, TOP - HEIGHT * 10 + 100, LEFT + WIDTH * 10 - 100, TOP - 100)
    gpd.GeoDataFrame(geometry=[shape], crs=CRS).to_crs(4326).to_file(path)
    return path


def fetched(api: StacApi, aoi: Path, path: Path, *more: str, date: str = "2024-06") -> str:
    command = [
        "fetch",
        "--collection",
        "sentinel-2-l2a",
        "--aoi",
        str(aoi),
        "--date",
        date,
        "--api",
        f"{api.url}/",
        "-o",
        str(path),
    ]
    result = CliRunner().invoke(main, [*command, *more])
    assert result.exit_code == 0, result.output
    return result.output


def ids(path: Path) -> list[str]:
    return [item["id"] for item in json.loads(path.read_text())["features"]]


def pixels_of(source: Any) -> tuple[np.ndarray, np.ndarray]:
    """All of a mosaic of the made tile, in red, green and blue."""
    mosaic = open_mosaic(source)
    grid = TileGrid(pyproj.CRS(CRS), SIDE_PX, 10.0)
    with mosaic.reader(grid, RGB) as reader:
        return reader.read(LatticeWindow(LEFT // 10, -TOP // 10, WIDTH, HEIGHT))


# --- Fetch ------------------------------------------------------------------------------------------------------------


def test_fetch_keeps_the_clearest_item_of_a_tile_and_says_what_it_found(api, aoi, tmp_path):
    told = fetched(api, aoi, tmp_path / "items.json")
    assert ids(tmp_path / "items.json") == ["S2_A"]
    assert "1 items of sentinel-2-l2a, 2024-06-06" in told
    assert "cloud: 5.0 to 5.0 %" in told
    assert "2 further items left out" in told
    assert "cover of the AOI: 100.0%" in told
    assert f"geoclass classify {tmp_path / 'items.json'} --model m.pt --aoi {aoi}" in told
    assert len(api.searches) == 2, "three items are two pages"
    assert api.searches[0]["datetime"] == "2024-06-01T00:00:00Z/2024-06-30T23:59:59Z"


def test_fetch_options(api, aoi, tmp_path):
    path = tmp_path / "items.json"
    fetched(api, aoi, path, "--per-tile", "3")
    assert ids(path) == ["S2_A", "S2_B", "S2_C"]
    fetched(api, aoi, path, "--per-tile", "3", "--max-cloud", "50", "--overwrite")
    assert ids(path) == ["S2_A", "S2_B"]
    assert api.searches[-1]["query"] == {"eo:cloud_cover": {"lte": 50.0}}
    told = fetched(api, aoi, path, "--limit", "1", "--overwrite")
    assert "there are more items than --limit" in told
    fetched(api, aoi, path, "--overwrite", date="2024-06-10/2024-06-12")
    assert ids(path) == ["S2_B"]
    assert json.loads(path.read_text())[documents.KEEP_CLOUDS] is False
    result = CliRunner().invoke(
        main,
        [
            "fetch",
            "--collection",
            "sentinel-2-l2a",
            "--aoi",
            str(aoi),
            "--date",
            "2024",
            "--api",
            api.url,
            "-o",
            str(path),
        ],
    )
    assert isinstance(result.exception, SystemExit)
    assert "exists and is kept" in result.output


def test_fetch_outlasts_a_busy_service(api, aoi, tmp_path):
    api.faults = [503, 502, 429]
    fetched(api, aoi, tmp_path / "items.json")
    assert ids(tmp_path / "items.json") == ["S2_A"]


def test_cover_is_the_share_of_the_aoi_that_items_show(api, tmp_path):
    path = tmp_path / "half.geojson"
    shape = shapely.box(LEFT + WIDTH * 5, TOP - 3000, LEFT + WIDTH * 15, TOP - 1000)
    gpd.GeoDataFrame(geometry=[shape], crs=CRS).to_file(path)
    told = fetched(api, path, tmp_path / "items.json")
    share = float(told.split("cover of the AOI: ")[1].split("%")[0])
    assert share == pytest.approx(50, abs=0.5)
    assert "the rest has no imagery" in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"date": "2031"}, "has no item of sentinel-2-l2a at 2031.*give other dates"),
        ({"date": "2024-06", "max_cloud": 1}, "with at most 1 % of cloud.*a larger --max-cloud"),
        ({"date": "June"}, "--date is 'June'; give 2016, 2016-07"),
        (
            {"date": "2024", "collection": "landsat-x", "api": None},
            "no STAC API is known here for the collection 'landsat-x'; name",
        ),
        (
            {"date": "2024", "api": "http://no-such-host.invalid/v1"},
            "no-such-host.invalid cannot be asked .*check --api",
        ),
    ],
)
def test_fetch_tells_what_is_wrong(api, aoi, arguments, words, monkeypatch):
    monkeypatch.setattr("geoclass.stac.search.TRIES", 0)
    asked = {"collection": "sentinel-2-l2a", "aoi": aoi, "api": api.url, **arguments}
    with pytest.raises(GeoclassError, match=words) as told:
        search(**asked)
    assert "\n" not in str(told.value)


def test_what_is_no_stac_api_is_told(server, aoi, api):
    with pytest.raises(SceneError, match=r"127.0.0.1 .*check --api"):
        search("naip", aoi, "2020", api=f"{server.url}/S2_A/SCL.tif")
    api.faults = [401]
    with pytest.raises(SceneError, match=r"refuses access \(HTTP 401\)"):
        search("naip", aoi, "2020", api=api.url)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            {"type": "Catalog", "id": "c", "stac_version": "1.0.0", "description": "static", "links": []},
            "has a catalog without a search; give --api the address of a STAC API",
        ),
        ({"type": "Feature", "id": "x", "properties": {}}, "does not answer as a STAC API .*check --api"),
        ({"a": 1}, "does not answer as a STAC API .*check --api"),
        ([1], "does not answer as a STAC API .*check --api"),
        ("text", "does not answer as a STAC API .*check --api"),
    ],
)
def test_other_json_than_a_stac_apis_is_told(aoi, tmp_path, answer, words):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "catalog.json").write_text(json.dumps(answer))
    with serving(tmp_path / "served") as running, pytest.raises(SceneError, match=words) as told:
        search("naip", aoi, "2020", api=f"{running.url}/catalog.json")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"properties": None}, r"gives item S2_A, .*: properties: .*; name another --api"),
        ({"assets": {"visual": {"type": "image/tiff"}}}, r"gives item S2_A, .*: assets.visual.href: Field required"),
        ({"assets": None}, r"gives item S2_A, .*: assets: "),
        ({"id": None}, r"gives item None, .*: id: "),
    ],
)
def test_an_answer_with_what_is_no_item_is_told(api, aoi, change, words, monkeypatch):
    item = {**next(item for item in api.items if item["id"] == "S2_A"), **change}
    monkeypatch.setattr(api, "found", lambda asked: [item])
    with pytest.raises(SceneError, match=words) as told:
        search("sentinel-2-l2a", aoi, "2024", api=api.url)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("date", "words"),
    [
        ("2015-02-29", "there is no such day; give a day of the calendar"),
        ("2016-13", "there is no such day; give a day of the calendar"),
        ("2016-04-31/..", "there is no such day; give a day of the calendar"),
        ("../2016-00", "there is no such day; give a day of the calendar"),
        ("2017/2016", "give the earlier of the two first"),
        ("2016-07-02/2016-07-01", "give the earlier of the two first"),
    ],
)
def test_dates_that_are_none_are_told_before_asking(api, aoi, tmp_path, date, words):
    command = ["fetch", "--collection", "sentinel-2-l2a", "--aoi", str(aoi), "--date", date, "--api", api.url]
    done = subprocess.run(
        [sys.executable, "-m", "geoclass", *command, "-o", str(tmp_path / "items.json")], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not api.searches


@pytest.mark.parametrize(
    "date", ["2024/2024-06", "2024-06-06/2024", "2024-06-06/..", "../2024-06-06", "2024-02-29/2024-06"]
)
def test_dates_of_different_lengths_go_together(api, aoi, date):
    item = next(item for item in api.items if item["id"] == "S2_A")
    api.found = lambda asked: [item]
    assert len(search("sentinel-2-l2a", aoi, date, api=api.url).items) == 1


@pytest.mark.parametrize("corners", [4, 2000])
def test_an_aoi_across_the_antimeridian_asks_for_both_its_sides(api, server, tmp_path, corners):
    """45 km on either side in UTM zone 1, with few corners, and with more than a question has."""
    middle = pyproj.Transformer.from_crs(4326, 32601, always_xy=True).transform(180, 52)[0]
    shape = shapely.box(middle - 45_000, 5_700_000, middle + 45_000, 5_790_000)
    shape = shapely.segmentize(shape, shape.length / corners)
    gpd.GeoDataFrame(geometry=[shape], crs="EPSG:32601").to_file(tmp_path / "aoi.gpkg")
    template = api.items[0]
    api.items.clear()
    for name, left in (("S2_both", middle - 50_000), ("S2_west", middle + 20_000), ("S2_far", middle + 500_000)):
        item = {**template, "id": name, "properties": {"datetime": "2024-06-06T00:00:00Z"}}
        ground = shapely.segmentize(shapely.box(left, 5_690_000, left + 100_000, 5_800_000), 9000)
        degrees = gpd.GeoSeries([ground], crs="EPSG:32601").to_crs(4326)[0]
        api.items.append({**item, "geometry": shapely.geometry.mapping(degrees)})
    api.found = lambda asked: api.items
    found = search("sentinel-2-l2a", tmp_path / "aoi.gpkg", "2024", api=api.url)
    asked = shapely.from_geojson(json.dumps(api.searches[0]["intersects"]))
    assert asked.is_valid
    assert {tuple(np.sign(part.bounds[::2])) for part in shapely.get_parts(asked)} == {(-1, -1), (1, 1)}
    assert all(part.bounds[2] - part.bounds[0] < 1 for part in shapely.get_parts(asked))
    assert [item["id"] for item in found.items] == ["S2_both", "S2_west"]
    assert found.cover == pytest.approx(1, abs=0.01)


def test_only_outlines_across_the_antimeridian_are_cut():
    for shape in (
        shapely.box(-180, -60, 180, 60),
        shapely.segmentize(shapely.box(-170, -60, 170, 60), 10),
        shapely.Polygon([(0, 80), (120, 70), (-120, 75)]),
        shapely.MultiPolygon([shapely.box(-180, 50, -170, 60), shapely.box(170, 50, 180, 60)]),
        shapely.Point(3, 4),
    ):
        assert unwrapped(shape).equals(shape)
    ring = [(179, 0), (-179, 0), (-179, 2), (179, 2)]
    hole = [(179.5, 0.5), (-179.5, 0.5), (-179.5, 1.5), (179.5, 1.5)]
    cut = unwrapped(shapely.MultiPolygon([shapely.Polygon(ring, [hole]), shapely.box(10, 10, 11, 11)]))
    assert cut.area == pytest.approx(4 - 1 + 1)
    assert cut.bounds == (-180, 0, 180, 11)


def test_a_list_is_written_whole_or_not_at_all(api, aoi, tmp_path, monkeypatch):
    found = search("sentinel-2-l2a", aoi, "2024-06", api=api.url)
    monkeypatch.setattr(
        Path, "write_text", lambda self, *a, **k: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OutputError, match="disk is full"):
        write_items(found, tmp_path / "items.json")
    assert not [p for p in tmp_path.iterdir() if "items" in p.name]


def test_extra_is_named_where_it_is_missing(aoi):
    code = (
        "import sys; sys.modules['pystac_client'] = None; sys.modules['planetary_computer'] = None\n"
        "from geoclass.cli import main\n"
        f"main(['fetch', '--collection', 'naip', '--aoi', {str(aoi)!r}, '--date', '2016'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(geoclass.__file__).parent.parent
    )
    assert done.returncode == 2
    assert "pip install 'geoclass[stac]'" in done.stderr


# --- Items as scenes --------------------------------------------------------------------------------------------------


def test_an_items_pixels_are_the_files_with_the_offset_and_without_clouds(api, aoi, imagery, tmp_path):
    fetched(api, aoi, tmp_path / "items.json")
    pixels, valid = pixels_of(tmp_path / "items.json")
    expected = np.stack([imagery[1]["S2_A"][band] for band in RGB]) - 1000
    cloud = np.zeros((HEIGHT, WIDTH), bool)
    cloud[:128, :160] = True
    assert np.array_equal(valid, ~cloud)
    assert np.array_equal(pixels[:, valid], expected[:, valid])
    mosaic = open_mosaic(tmp_path / "items.json")
    assert mosaic.date == "2024-06-06"
    assert mosaic.sensor.name == "sentinel2-l2a"
    assert mosaic.name == "S2_A"


def test_what_is_cloudy_in_one_item_is_taken_from_the_next(api, aoi, imagery, tmp_path):
    """B's own cloud does not matter where A is clear: the least cloudy item wins overlaps."""
    fetched(api, aoi, tmp_path / "items.json", "--per-tile", "2")
    pixels, valid = pixels_of(tmp_path / "items.json")
    a, b = (np.stack([imagery[1][name][band] for band in RGB]) - 1000 for name in ("S2_A", "S2_B"))
    expected = a.copy()
    expected[:, :128, :160] = b[:, :128, :160]
    assert valid.all()
    assert np.array_equal(pixels, expected)


def test_the_least_cloudy_item_of_several_documents_comes_first(imagery, tmp_path):
    """One item a file: neither the files' names nor their order decide."""
    for file, name, cloud in (("1.json", "S2_B", 40.0), ("2.json", "S2_A", 5.0)):
        (tmp_path / file).write_text(json.dumps(sentinel_item(str(imagery[0]), name, cloud, "2024-06-06")))
    for named in (str(tmp_path / "*.json"), [tmp_path / "1.json", tmp_path / "2.json", tmp_path / "1.json"]):
        assert [scene.name for scene in open_mosaic(named).scenes] == ["S2_A", "S2_B"]


def test_clouds_are_kept_on_request(api, aoi, imagery, tmp_path):
    fetched(api, aoi, tmp_path / "items.json", "--keep-clouds")
    pixels, valid = pixels_of(tmp_path / "items.json")
    assert valid.all()
    assert np.array_equal(pixels, np.stack([imagery[1]["S2_A"][band] for band in RGB]) - 1000)


def test_an_item_is_an_input_by_path_and_by_address_and_with_relative_assets(api, server, imagery, tmp_path):
    expected = pixels_of(f"{api.url}/collections/sentinel-2-l2a/items/S2_A")
    root = imagery[0]
    item = sentinel_item(".", "S2_A", 5.0, "2024-06-06", earth_search=False)
    (root / "item.json").write_text(json.dumps(item))
    for name in (root / "item.json", f"{server.url}/item.json"):
        pixels, valid = pixels_of(name)
        assert np.array_equal(pixels, expected[0])
        assert np.array_equal(valid, expected[1])


def test_a_run_over_stac_with_faults_equals_the_local_one_and_fetches_blocks_once(
    api, server, aoi, imagery, sentinel_bundle, tmp_path
):
    fetched(api, aoi, tmp_path / "items.json")
    server.forget()
    options: dict[str, Any] = {"runtime": "torch", "precision": "fp32", "force": True}
    far = classify(tmp_path / "items.json", sentinel_bundle, out=tmp_path / "out", aoi=aoi, **options).labels
    needed = sum((imagery[0] / "S2_A" / f"{key}.tif").stat().st_size for key in (*KEYS.values(), "SCL"))
    assert server.traffic.body_bytes <= 1.2 * needed
    assert 48 - len(far) == far.info["below_min_valid"] == 4, "tiles of which more than half is cloud"
    item = sentinel_item(".", "S2_A", 5.0, "2024-06-06")
    (imagery[0] / "local.json").write_text(json.dumps(item))
    near = classify(imagery[0] / "local.json", sentinel_bundle, aoi=aoi, **options).labels
    assert np.array_equal(near.probabilities, far.probabilities)
    server.fail(503, "cut", None, None)
    again = classify(tmp_path / "items.json", sentinel_bundle, aoi=aoi, **options).labels
    assert np.array_equal(again.probabilities, far.probabilities)
    assert far.info["inputs"] == [str(tmp_path / "items.json")]
    assert far.info["date"] == "2024-06-06"


def test_an_output_never_replaces_the_list(api, aoi, sentinel_bundle, tmp_path):
    fetched(api, aoi, tmp_path / "items.json")
    with pytest.raises(OutputError, match=r"items.json is an input of this run"):
        classify(tmp_path / "items.json", sentinel_bundle, out=tmp_path, name="items", overwrite=True, force=True)


def test_tile_info_and_index(api, aoi, tmp_path, sentinel_bundle):
    fetched(api, aoi, tmp_path / "items.json")
    made = tile([tmp_path / "items.json"], out=tmp_path, size_px=SIDE_PX)
    assert len(made.index) == 44
    index, mosaic = read_index(made.path)
    assert len(index) == 44
    assert mosaic.scenes[0].quality is not None
    assert mosaic.scenes[0].value_offset == -1000
    facts = describe(tmp_path / "items.json")
    assert facts["kind"] == "scene"
    assert "codes 0, 1, 3, 8, 9, 10" in facts["left out"]
    (tmp_path / "items.json").write_text((tmp_path / "items.json").read_text().replace("S2_A", "S2_B"))
    with pytest.raises(SceneError, match="has changed since"):
        read_index(made.path)


def test_doctor_takes_a_list(api, aoi, tmp_path, sentinel_bundle):
    fetched(api, aoi, tmp_path / "items.json")
    result = CliRunner().invoke(
        main, ["doctor", str(tmp_path / "items.json"), "--model", str(sentinel_bundle), "-o", str(tmp_path)]
    )
    assert "readable" in result.output
    assert "sentinel2-l2a" in result.output


@pytest.mark.parametrize(
    ("properties", "bands", "expected"),
    [
        ({"earthsearch:boa_offset_applied": True}, {"scale": 1e-4, "offset": -0.1}, 0),
        ({"s2:processing_baseline": "05.09"}, {"scale": 1e-4, "offset": -0.1}, -1000),
        ({"s2:processing_baseline": "05.09"}, {"scale": 1e-4, "offset": 0}, 0),
        ({"s2:processing_baseline": "02.14"}, {"scale": 1e-4, "offset": -0.1}, 0),
        ({"s2:processing_baseline": "05.09"}, {}, -1000),
        ({"s2:processing_baseline": "03.01", "datetime": "2023-01-01T00:00:00Z"}, {}, 0),
        ({"datetime": "2023-01-01T00:00:00Z"}, {}, -1000),
        ({"datetime": "2021-01-01T00:00:00Z"}, {}, 0),
    ],
)
def test_offset_of_sentinel_2(properties, bands, expected):
    asset = {"href": "B04.tif", "type": "image/tiff", "raster:bands": [bands] if bands else []}
    item = Item.model_validate({"id": "x", "properties": properties, "assets": {"B04": asset}})
    assert value_offset(item, L2A, band_files(item, L2A))[0] == expected


def test_a_scale_that_is_not_the_sensors_is_refused():
    asset = {"href": "B04.tif", "type": "image/tiff", "raster:bands": [{"scale": 2e-4}]}
    item = Item.model_validate({"id": "x", "properties": {}, "assets": {"B04": asset}})
    with pytest.raises(SceneError, match=r"item x: its numbers have the scale 0.0002, those of sentinel2-l2a 0.0001"):
        value_offset(item, L2A, band_files(item, L2A))


def test_bands_of_all_the_ways_in_use():
    naip = load_sensor("naip")
    image = {
        "href": "a.tif", "type": "image/tiff; application=geotiff; profile=cloud-optimized", "roles": ["data"],
        "eo:bands": [{"name": n, "common_name": n.lower()} for n in ("Red", "Green", "Blue", "NIR")],
    }  # fmt: skip
    item = Item.model_validate({"id": "n", "properties": {}, "assets": {"image": image, "metadata": {"href": "a.txt"}}})
    assert {name: band.index for name, band in band_files(item, naip).items()} == {
        "red": 1,
        "green": 2,
        "blue": 3,
        "nir": 4,
    }
    earth = Item.model_validate(sentinel_item("u", "a", 1, "2024-01-01"))
    assert {name: band.path for name, band in band_files(earth, L2A).items()} == {
        "blue": "u/a/B02.tif", "green": "u/a/B03.tif", "red": "u/a/B04.tif",
    }  # fmt: skip
    newer = {
        "href": "a.tif", "type": "image/tiff", "bands": [{"name": "B05", "eo:common_name": "rededge", "raster:scale": 1e-4}],
    }  # fmt: skip
    item = Item.model_validate({"id": "n", "properties": {}, "assets": {"r": newer}})
    assert band_files(item, L2A)["rededge1"].info.scale == 1e-4


@pytest.mark.parametrize(
    ("properties", "tile"),
    [
        ({"grid:code": "MGRS-5QKB"}, "05QKB"),
        ({"s2:mgrs_tile": "33UUU"}, "33UUU"),
        ({"mgrs:utm_zone": 33, "mgrs:latitude_band": "U", "mgrs:grid_square": "UU"}, "33UUU"),
        ({}, None),
    ],
)
def test_tiles_of_sentinel_2(properties, tile):
    assert mgrs_tile(properties) == tile


# --- Bad input --------------------------------------------------------------------------------------------------------


def test_an_item_without_the_sensors_assets_is_named(api, imagery, tmp_path, sentinel_bundle):
    item = sentinel_item(str(imagery[0]), "S2_A", 5.0, "2024-06-06")
    lacking = {
        **item,
        "assets": {k: v for k, v in item["assets"].items() if not k.startswith("blue") and k != "visual"},
    }
    path = tmp_path / "item.json"
    path.write_text(json.dumps(lacking))
    with pytest.raises(
        SceneError, match=r"item S2_A of .*item.json has no asset for blue as sensor 'sentinel2-l2a', only for"
    ):
        classify(path, sentinel_bundle)
    path.write_text(
        json.dumps({**item, "assets": {"thumbnail": item["assets"]["thumbnail"], "scl": item["assets"]["scl"]}})
    )
    with pytest.raises(
        SceneError, match=r"item S2_A of .* has no asset of a band of sentinel2-l2a .*only thumbnail, scl"
    ):
        open_mosaic(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not valid JSON"),
        ("[1]", "is no STAC item or list"),
        ('{"type": "FeatureCollection", "features": []}', "lists no item; run geoclass fetch"),
        ('{"type": "Feature", "geometry": null, "properties": {}}', "holds a Feature without assets"),
        ('{"type": "Catalog", "id": "x"}', "holds a Catalog without assets"),
        (
            '{"type": "Feature", "id": "x", "properties": {}, "assets": {"a": {}}}',
            r"item x of .*assets.a.href: Field required",
        ),
        ('{"type": "Feature", "id": "x", "properties": 3, "assets": {}}', "item x of .*properties"),
    ],
)
def test_what_is_no_list_is_told(tmp_path, text, words):
    (tmp_path / "items.json").write_text(text)
    with pytest.raises(SceneError, match=words) as told:
        open_mosaic(tmp_path / "items.json")
    assert "\n" not in str(told.value)


def test_a_list_that_is_not_there(api, tmp_path):
    with pytest.raises(SceneError, match=r"no such file or folder: .*gone.json"):
        open_mosaic(tmp_path / "gone.json")
    with pytest.raises(SceneError, match=r"S2_gone: there is no such file \(HTTP 404\)"):
        read_listing(f"{api.url}/collections/sentinel-2-l2a/items/S2_gone")
    api.faults = [503, 503]
    assert read_listing(f"{api.url}/collections/sentinel-2-l2a/items/S2_A").items[0].id == "S2_A"


def test_a_list_whose_connection_is_cut_is_fetched_again(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "FIRST_PAUSE_S", 0.01)
    (tmp_path / "item.json").write_text(json.dumps(sentinel_item("u", "S2_A", 5.0, "2024-06-06")))
    with serving(tmp_path) as running:
        running.fail("cut", times=2)
        assert read_listing(f"{running.url}/item.json").items[0].id == "S2_A"
        assert len(running.traffic.requests) == 3
        running.fail("cut")
        with pytest.raises(
            SceneError, match=r"item.json: the connection was cut after .* bytes; check the net"
        ) as told:
            read_listing(f"{running.url}/item.json")
    assert "\n" not in str(told.value)


class Chunked(BaseHTTPRequestHandler):
    """Answers in two chunks, and is cut after the first as often as `cuts` says."""

    cuts = 0
    body = json.dumps(sentinel_item("u", "S2_A", 5.0, "2024-06-06")).encode()
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        middle = len(self.body) // 2
        self._chunk(self.body[:middle])
        if self.cuts:
            type(self).cuts -= 1
            self.close_connection = True
        else:
            self._chunk(self.body[middle:])
            self._chunk(b"")

    def _chunk(self, part: bytes) -> None:
        self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")

    def log_message(self, *_: Any) -> None:
        """Tests are quiet."""


def test_a_chunked_list_whose_connection_is_cut_is_fetched_again(monkeypatch):
    monkeypatch.setattr(opening, "FIRST_PAUSE_S", 0.01)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Chunked)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        monkeypatch.setattr(Chunked, "cuts", 2)
        name = f"http://127.0.0.1:{server.server_address[1]}/item.json"
        assert read_listing(name).items[0].id == "S2_A"
        Chunked.cuts = 9
        with pytest.raises(SceneError, match=r"item.json: the connection was cut .*; check the network"):
            read_listing(name)
    finally:
        server.shutdown()
        server.server_close()


def test_an_asset_that_is_gone_is_named_at_once(api, aoi, tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "pause", lambda attempt: pytest.fail("there is nothing to wait for"))
    item = json.loads(json.dumps(api.items[1]).replace("B04.tif", "gone.tif").replace("B02.tif", "gone.tif"))
    (tmp_path / "item.json").write_text(json.dumps(item))
    with pytest.raises(SceneError, match=r"S2_A/gone.tif: there is no such file \(HTTP 404\)"):
        open_mosaic(tmp_path / "item.json")


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("items.json", True), ("a/b.GEOJSON", True), ("https://h/v1/collections/c/items/x", True),
        ("https://h/item.json?sig=1", True), ("a.tif", False), ("https://h/items.tif", False), ("<VRTDataset>", False),
        ("https://h/items/scene.TIF?sig=1", False), ("s3://bucket/items/scene", False), ("https://h/items/S2A.2016.v1", True),
    ],
)  # fmt: skip
def test_documents_are_told_by_their_names(name, is_one):
    assert is_document(name) is is_one


# --- Planetary Computer -----------------------------------------------------------------------------------------------


@pytest.fixture
def planetary(imagery: Any, server: RangeServer, api: StacApi, monkeypatch: pytest.MonkeyPatch) -> StacApi:
    """The API as the Planetary Computer: it signs, and its storage refuses who has no signature.

    Its storage's host leads to the server of files by way of a proxy. GDAL remembers addresses: each test has its own.
    """
    sas = pytest.importorskip("planetary_computer.sas")
    monkeypatch.setenv("PC_SDK_SAS_URL", f"{api.url}/token")
    monkeypatch.setenv("GDAL_HTTP_PROXY", server.url.removeprefix("http://"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    sas.Settings.get.cache_clear()
    sas.TOKEN_CACHE.clear()
    api.items.clear()
    item = sentinel_item(
        f"http://s2l2a{server.port}.blob.core.windows.net", "S2_A", 5.0, "2024-06-06", earth_search=False
    )
    api.add(item)
    server.ask_for(api.token.format(1))
    return api


def holding(folder: Path, text: str) -> list[str]:
    return [str(p) for p in folder.rglob("*") if text in p.name or (p.is_file() and text.encode() in p.read_bytes())]


def test_signatures_are_used_and_written_nowhere(planetary, aoi, imagery, sentinel_bundle, tmp_path, caplog):
    caplog.set_level("DEBUG")
    told = fetched(planetary, aoi, tmp_path / "items.json")
    pixels, valid = pixels_of(tmp_path / "items.json")
    assert np.array_equal(pixels[:, valid], (np.stack([imagery[1]["S2_A"][b] for b in RGB]) - 1000)[:, valid])
    assert planetary.tokens_given == 1
    result = classify(
        tmp_path / "items.json", sentinel_bundle, out=tmp_path / "out", runtime="torch", precision="fp32", force=True,
        formats=["parquet", "csv", "geojson", "fgb"],
    )  # fmt: skip
    tile([tmp_path / "items.json"], out=tmp_path, size_px=SIDE_PX)
    assert TOKEN not in f"{told}{caplog.text}{describe(tmp_path / 'items.json')}{result.labels.info}"
    assert len(list((tmp_path / "out").iterdir())) >= 9
    assert not holding(tmp_path, TOKEN)


def test_a_signature_that_runs_out_is_renewed(planetary, server, aoi, imagery, tmp_path):
    planetary.lasts = timedelta(seconds=61)
    fetched(planetary, aoi, tmp_path / "items.json")
    mosaic = open_mosaic(tmp_path / "items.json")
    grid = TileGrid(pyproj.CRS(CRS), SIDE_PX, 10.0)
    with mosaic.reader(grid, RGB) as reader:
        reader.read(LatticeWindow(LEFT // 10, -TOP // 10, 64, 64))
        from planetary_computer import sas

        sas.TOKEN_CACHE.clear()  # as if its minute had passed
        server.ask_for(planetary.token.format(planetary.tokens_given + 1))
        pixels, _ = reader.read(LatticeWindow(LEFT // 10 + 256, -TOP // 10 + 256, 64, 64))
    assert np.array_equal(pixels[0], imagery[1]["S2_A"]["red"][256:320, 256:320] - 1000)


def test_only_the_services_own_items_are_signed(planetary, tmp_path):
    item = json.loads(json.dumps(planetary.items[0]))
    item["links"] = [{"rel": "self", "href": "https://elsewhere.example/items/x"}]
    (tmp_path / "item.json").write_text(json.dumps(item))
    with pytest.raises(SceneError, match=r"access is refused \(HTTP 403\)"):
        open_mosaic(tmp_path / "item.json")
    assert planetary.tokens_given == 0


def test_a_service_that_gives_no_signature_is_told(planetary, server, aoi, tmp_path, monkeypatch):
    monkeypatch.setattr("geoclass.stac.signing.TRIES", 0)
    fetched(planetary, aoi, tmp_path / "items.json")
    planetary.faults = [403] * 9
    with pytest.raises(SceneError, match=r"gives no signature \(HTTP 403\)") as told:
        open_mosaic(tmp_path / "items.json")
    assert "?" not in str(told.value)
    planetary.faults = []
    server.ask_for("another")
    with pytest.raises(SceneError, match=r"access is refused .HTTP 403.; its owner allows") as told:
        open_mosaic(tmp_path / "items.json")
    assert TOKEN not in str(told.value)


def test_a_signed_list_is_saved_unsigned(api, server, aoi, tmp_path):
    for item in api.items:
        for asset in item["assets"].values():
            asset["href"] += "?se=2030&sig=TopSecretToken"
    fetched(api, aoi, tmp_path / "items.json")
    assert TOKEN not in (tmp_path / "items.json").read_text()


# --- Real files -------------------------------------------------------------------------------------------------------


def test_real_naip_and_sentinel_2_through_items(test_data, tmp_path):
    """A real NAIP quad whose infrared is tagged alpha, and a real Sentinel-2 product of JPEG 2000 bands."""
    naip = test_data / "naip_1m" / "m_3211605_ne_11_060_20200415.tif"
    bands = test_data / "sentinel2_l1c_T33UUU"
    served = tmp_path / "served"
    served.mkdir()
    shutil.copy(naip, served)
    for path in bands.glob("*.jp2"):
        shutil.copy(path, served)
    names = {key: next(served.glob(f"*{key}.jp2")).name for key in ("B02", "B03", "B04", "B11")}
    with serving(served) as running:
        image = {
            "href": f"{running.url}/{naip.name}", "type": "image/tiff; application=geotiff", "roles": ["data"],
            "eo:bands": [{"name": n} for n in ("Red", "Green", "Blue", "NIR")],
        }  # fmt: skip
        item = {
            "type": "Feature", "id": "real", "collection": "naip", "assets": {"image": image}, "geometry": None, "links": [],
            "properties": {"datetime": "2020-04-15T00:00:00Z"},
        }  # fmt: skip
        (tmp_path / "naip.json").write_text(json.dumps(item))
        assets = {
            key: {"href": f"{running.url}/{name}", "type": "image/jp2", "eo:bands": [{"name": key}]}
            for key, name in names.items()
        }
        item |= {"id": "s2", "collection": "sentinel-2-l1c", "assets": assets}
        item["properties"] = {"datetime": "2017-02-16T10:21:01Z"}
        (tmp_path / "s2.json").write_text(json.dumps(item))
        pairs = [
            (tmp_path / "naip.json", naip, ("red", "nir"), 1.0),
            (tmp_path / "s2.json", bands, ("red", "swir16"), 10.0),
        ]
        for listed, local, wanted, gsd in pairs:
            far, near = open_mosaic(listed), open_mosaic(local)
            assert far.sensor == near.sensor
            assert far.date == near.date
            grid = near.default_grid(64, gsd)
            left, bottom, right, top = near.outline_in(grid.crs).bounds
            window = LatticeWindow(round(left / grid.res) - 5, -round(top / grid.res) - 5, 180, 140)
            with far.reader(grid, wanted) as one, near.reader(grid, wanted) as two:
                for a, b in zip(one.read(window), two.read(window), strict=True):
                    assert np.array_equal(a, b)
                    assert a.any()
            assert right > left
            assert top > bottom
