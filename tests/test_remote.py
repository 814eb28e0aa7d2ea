"""Imagery over a network gives what the same file gives locally, fetched once, whatever the network does."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import rasterio
import shapely
import torch
from conftest import missing
from rangeserver import RangeServer, serving
from rasterio.transform import from_origin

from geoclass import blocks
from geoclass.blocks import plan_blocks, read_ahead
from geoclass.bundle import load_bundle
from geoclass.classify import classify
from geoclass.describe import describe
from geoclass.errors import SceneError
from geoclass.grid import TileGrid
from geoclass.mosaic import open_mosaic
from geoclass.plan import make_plan
from geoclass.reader import LatticeWindow
from geoclass.remote import held, opening
from geoclass.remote.failures import failure_of
from geoclass.remote.held import HeldBlocks, Rectangle, Source, rectangles
from geoclass.remote.names import gdal_name, redacted, shown, stem, unsigned
from geoclass.runtimes.sampling import sampled
from geoclass.runtimes.settling import workload_of
from geoclass.scene import open_dataset
from geoclass.sensors import load_sensor
from geoclass.tile import tile
from geoclass.tileindex import read_index, select_tiles

CRS = "EPSG:26919"
LEFT, TOP = 1400 * 224, 20900 * 224
NAIP = load_sensor("naip")
RGB = ("red", "green", "blue")
SECRET = "sig=TopSecret0123456789"


def landscape(width: int, height: int, bands: int = 4, seed: int = 0) -> np.ndarray:
    """(bands, height, width) uint8 from 1: patches with noise, so that blocks do not compress to nothing."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(30, 220, (bands, -(-height // 32), -(-width // 32))).repeat(32, 1).repeat(32, 2)
    return (patches[:, :height, :width] + rng.integers(0, 24, (bands, height, width))).astype(np.uint8)


def write(path: Path, width: int, height: int, driver: str = "GTiff", **profile: object) -> Path:
    layout = {"tiled": True, "blockxsize": 256, "blockysize": 256} if driver == "GTiff" else {"blocksize": 256}
    options = {
        "driver": driver, "width": width, "height": height, "count": 4, "dtype": "uint8", "crs": CRS,
        "transform": from_origin(LEFT, TOP, 1, 1), "compress": "deflate", "interleave": "pixel", **layout, **profile,
    }  # fmt: skip
    with rasterio.open(path, "w", **options) as dataset:
        dataset.write(landscape(width, height, int(options["count"])))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NAME: 10 x 8 tiles in blocks of 256; cog.tif: the same as a COG; SMALL: 5 x 3 tiles; warped.tif: pixels of 0.6 m."""
    root = tmp_path_factory.mktemp("served")
    write(root / NAME, 2240, 1792)
    write(root / SMALL, 1120, 672)
    write(root / "cog.tif", 2240, 1792, "COG")
    write(root / "warped.tif", 1500, 1200, transform=from_origin(LEFT, TOP, 0.6, 0.6), photometric="RGB", alpha="YES")
    return root


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    """A server of `folder`, met with short pauses."""
    monkeypatch.setattr(opening, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.01")
    with serving(folder) as running:
        yield running


BAD_LUCK = (503, "cut", None, None)
"""Half of the answers fail, in turn as a busy server and by a cut connection."""

NAME, SMALL = "m_3607717_sw_18_1_20160620.tif", "m_3607824_se_17_1_20160620.tif"


def everything(name: str, threads: int = 1, bands: tuple[str, ...] = RGB) -> tuple[np.ndarray, np.ndarray]:
    """All tiles of a scene and their valid fractions, as a run reads them."""
    mosaic = open_mosaic(name, NAIP)
    grid = TileGrid(pyproj.CRS(CRS), 224, 1.0)
    columns, rows = select_tiles(mosaic, grid)
    planned = plan_blocks(mosaic, grid, len(bands), columns, rows)
    read = list(read_ahead(mosaic, grid, bands, planned, threads))
    return np.stack([t for r in read for t in r.tiles]), np.concatenate([r.valid_fraction for r in read])


def compressed_bytes(path: Path, box: tuple[float, float, float, float] | None = None) -> int:
    """Bytes of the compressed blocks under `box` (map coordinates), or of all."""
    with rasterio.open(path) as dataset:
        down, across = dataset.block_shapes[0]
        window = dataset.window(*box).round_offsets().round_lengths() if box else None
        top, left = (int(window.row_off), int(window.col_off)) if window else (0, 0)
        bottom = min(top + int(window.height), dataset.height) if window else dataset.height
        right = min(left + int(window.width), dataset.width) if window else dataset.width
        return sum(
            int(dataset.get_tag_item(f"BLOCK_SIZE_{column}_{row}", "TIFF", bidx=1))
            for row in range(max(0, top) // down, -(-bottom // down))
            for column in range(max(0, left) // across, -(-right // across))
        )


# --- Equal to the local file ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [NAME, "cog.tif", "warped.tif"])
@pytest.mark.parametrize("threads", [1, 4])
def test_pixels_over_http_equal_those_of_the_file(folder, server, name, threads):
    expected, shares = everything(str(folder / name))
    pixels, fractions = everything(f"{server.url}/{name}", threads)
    assert np.array_equal(pixels, expected)
    assert np.array_equal(fractions, shares)


@pytest.mark.parametrize(
    "profile",
    [
        {"tiled": False, "blockxsize": None, "blockysize": 16},
        {"compress": "jpeg", "photometric": "ycbcr", "count": 3},
        {"interleave": "band"},
        {"blockxsize": 4096, "blockysize": 4096},
        {"count": 4, "photometric": "RGB", "alpha": "YES"},
    ],
    ids=["striped", "jpeg", "band by band", "one block", "alpha"],
)
def test_every_layout_is_read_alike(tmp_path, profile, monkeypatch):
    path = write(tmp_path / "layout.tif", 900, 700, **{k: v for k, v in profile.items() if v is not None})
    if profile.get("compress") == "jpeg":  # with a mask inside, as aerial COGs have
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
            mask = np.full((700, 900), 255, np.uint8)
            mask[:300, 450:] = 0
            dataset.write_mask(mask)
    rgb = load_sensor("rgb8")
    monkeypatch.setattr(held, "LARGEST_BLOCK_BYTES", 8 << 20)
    with serving(tmp_path) as running:
        local, far = (open_mosaic(str(name), rgb) for name in (path, f"{running.url}/layout.tif"))
        grid = TileGrid(pyproj.CRS(CRS), 224, 1.0)
        columns, rows = select_tiles(local, grid)
        for one, two in zip(
            *(read_ahead(m, grid, RGB, plan_blocks(m, grid, 3, columns, rows)) for m in (local, far)), strict=True
        ):
            assert all(np.array_equal(a, b) for a, b in zip(one.tiles, two.tiles, strict=True))
            assert np.array_equal(one.valid_fraction, two.valid_fraction)
    assert one.valid_fraction.min() < 1


def labels_of(source: object, bundle: Path, **options: Any) -> tuple[list[str], np.ndarray]:
    result = classify(str(source), bundle, sensor="naip", runtime="torch", precision="fp32", force=True, **options)
    labels = result.labels
    return list(labels.grid.tile_ids(labels.columns, labels.rows)), labels.probabilities


def test_a_run_over_http_equals_the_local_run_and_fetches_blocks_once(folder, server, tiny_bundle, tmp_path):
    """The doctor's sample, the preparation and the run together: no block is fetched twice."""
    ids, probabilities = labels_of(folder / NAME, tiny_bundle)
    far = labels_of(f"{server.url}/{NAME}", tiny_bundle, out=tmp_path / "out")
    assert far[0] == ids
    assert np.array_equal(far[1], probabilities)
    needed = compressed_bytes(folder / NAME)
    assert needed <= server.traffic.body_bytes <= 1.2 * needed
    assert needed > 10 << 20


def test_an_aoi_fetches_only_its_blocks(folder, server, tiny_bundle, tmp_path):
    grid = TileGrid(pyproj.CRS(CRS), 224, 1.0)
    left, bottom, right, top = LEFT + 2 * 224, TOP - 5 * 224, LEFT + 5 * 224, TOP - 3 * 224
    aoi = tmp_path / "aoi.geojson"
    shape = shapely.box(left + 9, bottom + 9, right - 9, top - 9)
    gpd.GeoDataFrame(geometry=[shape], crs=CRS).to_file(aoi)
    local = labels_of(folder / NAME, tiny_bundle, aoi=aoi)
    far = labels_of(f"{server.url}/{NAME}", tiny_bundle, aoi=aoi)
    assert len(far[0]) == 6
    assert far[0] == local[0]
    assert np.array_equal(far[1], local[1])
    needed = compressed_bytes(folder / NAME, (left, bottom, right, top))
    assert needed <= server.traffic.body_bytes <= 1.2 * needed
    assert grid.side_m == 224


WARPED = {
    "NAIP with infrared tagged alpha": {"photometric": "RGB", "alpha": "YES"},
    "half see-through": {"photometric": "RGB", "alpha": "YES", "sensor": "rgb8"},
    "no-data value": {"nodata": 40, "sensor": "rgb8"},
    "neither": {"sensor": "rgb8"},
    "mask inside": {"sensor": "rgb8", "count": 3, "mask": True},
    "band by band": {"interleave": "band"},
}


@pytest.mark.parametrize("crs", [CRS, "EPSG:26918"])
@pytest.mark.parametrize("kind", WARPED)
def test_a_file_that_is_warped_while_it_is_read_is_warped_alike(tmp_path, kind, crs, monkeypatch):
    """The warper sees a stand-in with the pixels that were fetched, not the file."""
    profile = dict(WARPED[kind])
    sensor, masked = load_sensor(str(profile.pop("sensor", "naip"))), profile.pop("mask", False)
    path = write(tmp_path / "far.tif", 1200, 900, transform=from_origin(LEFT + 40, TOP - 60, 0.6, 0.6), **profile)
    if masked:
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
            dataset.write_mask(np.pad(np.full((600, 700), 255, np.uint8), ((0, 300), (0, 500))))
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 4 * 3 * 224**2)
    with serving(tmp_path) as running:
        near, far = (open_mosaic(str(name), sensor) for name in (path, f"{running.url}/far.tif"))
        grid = TileGrid(pyproj.CRS(crs), 224, 1.0)
        columns, rows = select_tiles(near, grid)
        planned = plan_blocks(near, grid, 3, columns, rows)
        assert len(planned) > 2
        running.forget()
        pairs = list(zip(read_ahead(near, grid, RGB, planned, 1), read_ahead(far, grid, RGB, planned, 4), strict=True))
        sent = running.traffic.body_bytes
        for one, two in pairs:
            assert all(np.array_equal(a, b) for a, b in zip(one.tiles, two.tiles, strict=True))
            assert np.array_equal(one.valid_fraction, two.valid_fraction)
        if not masked:
            assert sent <= 1.2 * compressed_bytes(path) * (4 if kind == "band by band" else 1)


def test_a_failing_network_changes_nothing_where_a_file_is_warped(folder, server):
    expected, _ = everything(str(folder / "warped.tif"))
    server.fail(*BAD_LUCK)
    assert np.array_equal(everything(f"{server.url}/warped.tif", threads=2)[0], expected)


def test_ranges_of_neighbouring_blocks_are_one_request(folder, server):
    with open_dataset(f"{server.url}/cog.tif") as dataset:
        server.forget()
        dataset.read([1, 2, 3], window=((256, 1024), (0, 1024)))
    asked = [item for item in server.traffic.requests if item[2] >= 0]
    assert len(asked) <= 3  # twelve blocks in three rows


# --- Failures ---------------------------------------------------------------------------------------------------------


def test_a_failing_network_changes_nothing(folder, server):
    expected, _ = everything(str(folder / NAME))
    server.fail(*BAD_LUCK)
    pixels, _ = everything(f"{server.url}/{NAME}", threads=2)
    assert np.array_equal(pixels, expected)
    assert 503 in server.traffic.statuses


def test_a_burst_of_errors_longer_than_gdals_patience_is_outlasted(folder, server):
    server.fail(503, times=12)
    pixels, _ = everything(f"{server.url}/{NAME}")
    assert np.array_equal(pixels, everything(str(folder / NAME))[0])


@pytest.mark.parametrize("fault", ["cut", 500, 429])
def test_a_read_that_gdal_gives_up_is_read_again_from_a_new_handle(folder, server, fault):
    mosaic = open_mosaic(f"{server.url}/{NAME}", NAIP)
    grid = TileGrid(pyproj.CRS(CRS), 224, 1.0)
    columns, rows = select_tiles(mosaic, grid)
    planned = plan_blocks(mosaic, grid, 3, columns, rows)
    server.forget()
    server.fail(fault, times=9)
    with mosaic.reader(grid, RGB) as reader:
        read = [blocks.read_block(reader, grid, block) for block in planned]
    assert np.array_equal(np.stack([t for r in read for t in r.tiles]), everything(str(folder / NAME))[0])
    assert len(server.traffic.requests) > 9


def test_a_server_that_falls_silent_is_given_up_and_asked_again(folder, server, monkeypatch):
    monkeypatch.setenv("GDAL_HTTP_LOW_SPEED_TIME", "1")
    server.fail(None, None, None, "stall", times=4)
    pixels, _ = everything(f"{server.url}/{SMALL}")
    assert np.array_equal(pixels, everything(str(folder / SMALL))[0])


def test_a_run_with_faults_equals_one_without(folder, server, tiny_bundle, tmp_path):
    server.fail(*BAD_LUCK)
    far = labels_of(f"{server.url}/{SMALL}", tiny_bundle, out=tmp_path / "out")
    local = labels_of(folder / SMALL, tiny_bundle)
    assert far[0] == local[0]
    assert np.array_equal(far[1], local[1])


def test_a_network_that_stays_away_is_told_with_file_and_window(server):
    mosaic = open_mosaic(f"{server.url}/{NAME}?{SECRET}", NAIP)
    grid = TileGrid(pyproj.CRS(CRS), 224, 1.0)
    columns, rows = select_tiles(mosaic, grid)
    first = plan_blocks(mosaic, grid, 3, columns, rows)[0]
    _, _, width, height = grid.pixel_window(first.range)
    window = rf"\(column 0, row 0, {width} x {height}\)"
    with mosaic.reader(grid, RGB) as reader:
        server.fail("cut")
        with pytest.raises(SceneError, match=rf"{NAME} at window {window}.*8 tries") as told:
            blocks.read_block(reader, grid, first)
        server.fail(503)
        with pytest.raises(SceneError, match=r"out of order \(HTTP 503\); run the same command again") as busy:
            blocks.read_block(reader, grid, first)
    assert "TopSecret" not in f"{told.value}{busy.value}"
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("fault", "words"),
    [(404, "there is no such file .HTTP 404.; check the address"), (403, "access is refused .HTTP 403.; give")],
)
def test_what_will_not_pass_is_told_at_once(server, fault, words, monkeypatch):
    monkeypatch.setattr(opening, "pause", lambda attempt: pytest.fail("there is nothing to wait for"))
    server.fail(fault)
    with pytest.raises(SceneError, match=words) as told:
        open_mosaic(f"{server.url}/{NAME}?{SECRET}&x={fault}", NAIP)
    assert len(server.traffic.requests) <= 3
    assert "TopSecret" not in str(told.value)
    server.fail()  # and it is found once it is there
    open_mosaic(f"{server.url}/{NAME}?{SECRET}&x={fault}", NAIP)


def test_a_file_that_goes_away_during_the_run_is_told_so(folder, server):
    mosaic = open_mosaic(f"{server.url}/{NAME}", NAIP)
    grid = TileGrid(pyproj.CRS(CRS), 224, 1.0)
    columns, rows = select_tiles(mosaic, grid)
    with mosaic.reader(grid, RGB) as reader:
        server.fail(404)
        with pytest.raises(SceneError, match=r"there is no such file \(HTTP 404\)"):
            blocks.read_block(reader, grid, plan_blocks(mosaic, grid, 3, columns, rows)[0])


def test_a_server_without_ranges_is_refused(server):
    server.without_ranges()
    with pytest.raises(SceneError, match=r"whole files only.*download the file and name it by its path"):
        open_mosaic(f"{server.url}/{NAME}?plain", NAIP)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("http://no-such-host.invalid/a.tif", "its host is not known; check the address and this machine's network"),
        ("http://127.0.0.1:9/a.tif", "connect.*check the network, then run the same command again"),
    ],
)
def test_a_host_that_is_not_there(name, words, monkeypatch):
    monkeypatch.setattr(opening, "FIRST_PAUSE_S", 0.0)
    with pytest.raises(SceneError, match=words):
        open_mosaic(name)


def test_a_page_is_no_raster(tmp_path):
    (tmp_path / "page.tif").write_text("<html>Sign in</html>" * 100)
    with (
        serving(tmp_path) as running,
        pytest.raises(SceneError, match=r"page.tif: it is no raster; give the address of a"),
    ):
        open_mosaic(f"{running.url}/page.tif")


# --- Latency ----------------------------------------------------------------------------------------------------------


def test_reading_ahead_keeps_many_requests_on_the_way(server, monkeypatch):
    """Each answer takes 50 ms: what is asked at once takes them once. Counted at the server, not timed."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 4 * 3 * 224**2)
    server.slow(0.05)
    serial = open_mosaic(f"{server.url}/{NAME}", NAIP)
    grid = TileGrid(pyproj.CRS(CRS), 224, 1.0)
    columns, rows = select_tiles(serial, grid)
    planned = plan_blocks(serial, grid, 3, columns, rows)
    assert len(planned) > 16
    rounds = {}
    for threads in (1, opening.READERS):
        mosaic = open_mosaic(f"{server.url}/{NAME}", NAIP)
        server.forget()
        for _ in read_ahead(mosaic, grid, RGB, planned, threads):
            pass
        rounds[threads] = server.traffic.most_at_once, server.traffic.rounds
    assert rounds[opening.READERS][0] >= 6
    assert rounds[1][1] >= 3 * rounds[opening.READERS][1]


def test_a_sample_keeps_many_requests_on_the_way(folder, server, tiny_bundle):
    bundle = load_bundle(tiny_bundle)
    near = make_plan([str(folder / NAME)], bundle, sensor=NAIP)
    far = make_plan([f"{server.url}/{NAME}"], bundle, sensor=NAIP)
    server.slow(0.05)
    server.forget()
    tiles = workload_of(far, torch.device("cpu"), None)
    assert tiles.remote
    assert not workload_of(near, torch.device("cpu"), None).remote
    sample = tiles.sample(40)
    assert server.traffic.most_at_once >= 6
    assert len(sample) == 40
    assert all(np.array_equal(a, b) for a, b in zip(sample, sampled(near, 40), strict=True))


# --- Held blocks ------------------------------------------------------------------------------------------------------


def test_rectangles():
    places = [(0, 0), (0, 1), (0, 3), (1, 0), (1, 1), (2, 1)]
    assert rectangles(places) == [Rectangle(0, 2, 0, 2), Rectangle(0, 1, 3, 4), Rectangle(2, 3, 1, 2)]
    assert Rectangle(0, 1, 0, 1).halves() == (Rectangle(0, 1, 0, 1),)


def source_of(dataset: Any, fetch: Any = None, failed: Any = None) -> Source:
    return Source(
        "opening", "name", (2, 1), dataset.block_shapes[0], dataset.height, dataset.width, np.dtype("uint8"),
        fetch or (lambda window: dataset.read([2, 1], window=window)), failed or (lambda failures, error: pytest.fail("failed")),
    )  # fmt: skip


def test_held_blocks_stay_within_their_budget_and_give_what_the_file_has(folder):
    with rasterio.open(folder / NAME) as dataset:
        whole = dataset.read([2, 1])
        few = HeldBlocks(budget=5 * 2 * 256 * 256)
        rng = np.random.default_rng(1)
        for _ in range(60):
            top, left = int(rng.integers(0, 1700)), int(rng.integers(0, 2200))
            height, width = int(rng.integers(1, 1793 - top)), int(rng.integers(1, 2241 - left))
            read = few.read(source_of(dataset), rasterio.windows.Window(left, top, width, height))
            assert np.array_equal(read, whole[:, top : top + height, left : left + width])
            assert sum(block.nbytes for block in few._blocks.values()) == few._bytes <= few.budget
        assert not few._coming


def test_what_is_held_of_a_scene_goes_with_it(server):
    mosaic = open_mosaic(f"{server.url}/{SMALL}", NAIP)
    opening = mosaic.scenes[0].opening
    grid = TileGrid(pyproj.CRS(CRS), 224, 1.0)
    with mosaic.reader(grid, RGB) as reader:
        reader.read(LatticeWindow(LEFT, -TOP, 300, 300))
    assert sum(key[0] == opening for key in held.held._blocks) == 4
    del mosaic, reader
    gc.collect()
    assert not any(key[0] == opening for key in held.held._blocks)
    assert held.held._bytes == sum(block.nbytes for block in held.held._blocks.values())


def test_a_large_read_that_fails_goes_on_in_halves(folder):
    with rasterio.open(folder / NAME) as dataset:
        asked, failures = [], []

        def fetch(window: rasterio.windows.Window) -> np.ndarray:
            asked.append((window.width // 256, window.height // 256))
            if len(asked) in (1, 2, 5):
                raise OSError("cut")
            return dataset.read([2, 1], window=window)

        source = source_of(dataset, fetch, lambda before, error: failures.append(before))
        read = HeldBlocks().read(source, rasterio.windows.Window(0, 0, 1024, 1024))
        assert np.array_equal(read, dataset.read([2, 1], window=((0, 1024), (0, 1024))))
    assert asked == [(4, 4), (4, 2), (4, 1), (4, 1), (4, 2), (4, 1), (4, 1)]
    assert failures == [0, 1, 1]


def test_a_block_that_one_thread_fails_to_fetch_is_fetched_by_the_other(folder):
    with rasterio.open(folder / NAME) as dataset:
        shared, began, go = HeldBlocks(), threading.Event(), threading.Event()
        window = rasterio.windows.Window(10, 10, 300, 300)

        def broken(_: object) -> np.ndarray:
            began.set()
            go.wait(10)
            raise OSError("cut")

        def failed(_: int, error: BaseException) -> None:
            raise SceneError(str(error))

        told: list[str] = []

        def failing() -> None:
            with pytest.raises(SceneError, match="cut"):
                shared.read(source_of(dataset, broken, failed), window)
            told.append("cut")

        got: list[np.ndarray] = []
        threads = [
            threading.Thread(target=failing),
            threading.Thread(target=lambda: got.append(shared.read(source_of(dataset), window))),
        ]
        threads[0].start()
        assert began.wait(10)
        threads[1].start()
        go.set()
        for thread in threads:
            thread.join(10)
        assert told == ["cut"]
        assert np.array_equal(got[0], dataset.read([2, 1], window=window))


# --- Names and secrets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("https://host/a/b.tif?sig=x&se=1#f", "https://host/a/b.tif"),
        ("https://me:pw@host/b.tif", "https://host/b.tif"),
        ("pc+https://host/b.tif", "https://host/b.tif"),
        ("s3://bucket/key.tif", "s3://bucket/key.tif"),
        ("/vsicurl/https://u:p@host/b.tif?token=1", "/vsicurl/https://host/b.tif"),
        ("/vsicurl?sig=1&url=x", "/vsicurl"),
        ("what?.tif", "what?.tif"),
    ],
)
def test_names_are_shown_without_secrets(name, seen):
    assert shown(name) == seen


def test_names():
    assert gdal_name("s3://b/k.tif") == "/vsis3/b/k.tif"
    assert gdal_name("https://h/k.tif?a=1") == "/vsicurl/https://h/k.tif?a=1"
    assert gdal_name("/vsis3/b/k.tif") == "/vsis3/b/k.tif"
    assert stem("https://h/p/k.v2.tif?sig=a.b/c") == "k.v2"
    assert unsigned("https://h/k.tif?X-Amz-Signature=1&v=2") == "https://h/k.tif"
    assert unsigned("https://h/k?file=a.tif") == "https://h/k?file=a.tif"
    text = "'/vsicurl/https://u:p@h/k.tif?sig=a%2Fb' not recognized, https://h/x?y=1; z"
    assert redacted(text) == "'/vsicurl/https://h/k.tif' not recognized, https://h/x; z"


def holding(folder: Path, text: str) -> list[str]:
    """Files under `folder` that have `text` in them or in their names."""
    return [str(p) for p in folder.rglob("*") if text in p.name or (p.is_file() and text.encode() in p.read_bytes())]


def test_a_signature_in_a_url_is_used_and_written_nowhere(folder, server, tiny_bundle, tmp_path, caplog):
    caplog.set_level("DEBUG")
    server.ask_for(SECRET)
    name = f"{server.url}/{SMALL}?{SECRET}"
    result = classify(
        name, tiny_bundle, sensor="naip", out=tmp_path / "out", runtime="torch", precision="fp32", force=True,
        formats=["parquet", "csv", "geojson"],
    )  # fmt: skip
    tile([name], out=tmp_path, sensor="naip")
    assert result.labels.info["inputs"] == [f"{server.url}/{SMALL}"]
    assert result.labels.info["name"] == Path(SMALL).stem
    assert "TopSecret" not in f"{describe(name, 'naip')}{caplog.text}{result.labels.info}"
    assert len(list((tmp_path / "out").iterdir())) >= 8
    assert not holding(tmp_path, "TopSecret")
    with pytest.raises(SceneError, match="give the address with its signature"):
        read_index(next(tmp_path.glob("*.tiles.gpkg")))


def test_addresses_that_differ_in_what_they_ask_for_have_fingerprints_of_their_own(server):
    """Else a run that continues would mix two dates. A signature that was renewed is no other address."""
    queries = "", "?date=2010", "?date=2016", "?sig=TopSecret1", "?sig=TopSecret2"
    plain, first, second, signed, renewed = (
        open_mosaic(f"{server.url}/{SMALL}{query}", NAIP).fingerprints()[f"{server.url}/{SMALL}"] for query in queries
    )
    assert len({plain, first, second}) == 3
    assert plain == signed == renewed
    assert "date" not in first
    both = [open_mosaic([f"{server.url}/{SMALL}?date={year}" for year in years], NAIP) for years in ((1, 2), (1, 3))]
    assert both[0].fingerprints() != both[1].fingerprints()


def test_a_tile_index_of_a_url_leads_to_it_again(folder, server, tmp_path):
    made = tile([f"{server.url}/{NAME}"], out=tmp_path, sensor="naip")
    index, mosaic = read_index(made.path)
    assert len(index) == 80
    assert mosaic.files == [f"{server.url}/{NAME}"]
    assert mosaic.remote


def test_a_long_signature_is_not_shown_by_its_end():
    url = f"https://h.example/scene.tif?sv=2024-05-04&{'x' * 300}&sig=S3cretSignature%3D"
    told = str(failure_of(f"{url}, band 1: IReadBlock failed at X offset 0", url).error(url))
    assert "S3cret" not in told and "IReadBlock failed" in told


def test_journal_keeps_no_signature(folder, server, tiny_bundle, tmp_path, monkeypatch):
    """An interrupted run leaves its journal behind."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 5 * 3 * 224**2)
    server.ask_for(SECRET)
    mosaic = open_mosaic(f"{server.url}/{SMALL}?{SECRET}", NAIP)
    assert "TopSecret" not in str(mosaic.fingerprints())
    seen = []

    def stop(stage: str, done: int, total: int) -> None:
        if done > 4:
            seen.append(done)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        classify(
            f"{server.url}/{SMALL}?{SECRET}", tiny_bundle, sensor="naip", out=tmp_path, force=True, runtime="torch",
            precision="fp32", progress=stop,
        )  # fmt: skip
    assert seen
    assert list(tmp_path.rglob("part-*.arrow"))
    assert not holding(tmp_path, "TopSecret")


# --- S3 ---------------------------------------------------------------------------------------------------------------


@contextmanager
def s3_service(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    service = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    service.start()
    host, port = service.get_host_and_port()
    for name, value in {
        "AWS_S3_ENDPOINT": f"{host}:{port}", "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE",
        "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "TopSecretKey", "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull, "CPL_AWS_CREDENTIALS_FILE": os.devnull, "AWS_EC2_METADATA_DISABLED": "true",
        "CPL_AWS_AUTODETECT_EC2": "NO",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    try:
        yield f"http://{host}:{port}"
    finally:
        service.stop()


def test_s3_equals_the_file_and_credentials_are_named_not_told(folder, monkeypatch, tmp_path, tiny_bundle):
    if find_spec("moto") is None:
        missing("no moto here: pip install geoclass[test]")
    import boto3

    with s3_service(monkeypatch) as url:
        bucket = f"imagery-{os.getpid()}"
        client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
        client.create_bucket(Bucket=bucket)
        client.upload_file(str(folder / SMALL), bucket, f"naip/{SMALL}")
        name = f"s3://{bucket}/naip/{SMALL}"
        assert np.array_equal(everything(name, threads=4)[0], everything(str(folder / SMALL))[0])
        far = labels_of(name, tiny_bundle, out=tmp_path / "out")
        assert np.array_equal(far[1], labels_of(folder / SMALL, tiny_bundle)[1])
        assert not holding(tmp_path, "TopSecretKey")
        with pytest.raises(SceneError, match=rf"{bucket}/naip/no.tif: there is no such object; check bucket and key"):
            open_mosaic(f"s3://{bucket}/naip/no.tif")
        for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(variable)
        with pytest.raises(SceneError, match=r"no credentials.*AWS_SECRET_ACCESS_KEY.*AWS_NO_SIGN_REQUEST=YES") as told:
            open_mosaic(f"s3://{bucket}/naip/other.tif")
        assert "TopSecret" not in str(told.value)
        monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
        client.put_object_acl(Bucket=bucket, Key=f"naip/{SMALL}", ACL="public-read")
        assert np.array_equal(everything(name)[0], everything(str(folder / SMALL))[0])
