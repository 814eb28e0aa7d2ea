"""Reading does no work twice and none in vain, and tells where a scene changes under it."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from click.testing import CliRunner
from conftest import coordinate_pixels, write_coordinates
from hypothesis import given
from hypothesis import strategies as st
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin

from geoclass import blocks as blocks_module
from geoclass import filereader, gdal
from geoclass.blocks import TileBlock, plan_blocks, read_ahead, window_of
from geoclass.cli import main
from geoclass.errors import SceneError
from geoclass.grid import TileGrid, TileRange, cells
from geoclass.lattice import LatticeWindow
from geoclass.mosaic import Mosaic, open_mosaic
from geoclass.reader import SceneReader, _shift
from geoclass.sharing import SharedBlocks

GRID = TileGrid("EPSG:26919")
LEFT, TOP = 1400 * 224 + 37, 20900 * 224 - 101
BANDS = ("red", "green", "blue")
WIDE, HIGH = 1900, 1500


class Watched:
    """A dataset that notes every window that pixels are read of."""

    def __init__(self, dataset, name, noted):
        self._dataset, self._name, self._noted = dataset, name, noted

    def __getattr__(self, name):
        return getattr(self._dataset, name)

    def read(self, indexes, window, **options):
        self._noted.append((self._name, window, self._dataset.block_shapes[0]))
        return self._dataset.read(indexes, window=window, **options)


@pytest.fixture
def noted(monkeypatch):
    """(file, window, block shape) of all reads of pixels."""
    found: list = []
    honest = filereader.open_dataset
    monkeypatch.setattr(
        filereader, "open_dataset", lambda path, *rest: Watched(honest(path, *rest), Path(path).name, found)
    )
    return found


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 2 × 2 tiles or so."""
    monkeypatch.setattr(blocks_module, "BLOCK_BYTES", 4 * 224 * 224 * 3)


def decoded(noted) -> Counter:
    """How often each compressed block of each file was decoded."""
    counted: Counter = Counter()
    for name, window, (high, wide) in noted:
        for row in range(int(window.row_off) // high, -(-int(window.row_off + window.height) // high)):
            for column in range(int(window.col_off) // wide, -(-int(window.col_off + window.width) // wide)):
                counted[name, row, column] += 1
    return counted


TILED = {"tiled": True, "blockxsize": 256, "blockysize": 256, "interleave": "pixel"}
FORMATS = {
    "cog-jpeg": ("COG", {"COMPRESS": "JPEG", "QUALITY": 90, "BLOCKSIZE": 512, "OVERVIEWS": "NONE"}),
    "deflate": ("GTiff", {**TILED, "compress": "deflate", "predictor": 2}),
    "planar": ("GTiff", {**TILED, "compress": "deflate", "interleave": "band"}),
    "zstd": ("GTiff", {**TILED, "compress": "zstd"}),
    "lzw": ("GTiff", {**TILED, "compress": "lzw"}),
    "stripes": ("GTiff", {"compress": "deflate", "interleave": "pixel", "blockysize": 48}),
    "jp2": ("JP2OpenJPEG", {"QUALITY": 100, "REVERSIBLE": "YES", "BLOCKXSIZE": 400, "BLOCKYSIZE": 400}),
    "vrt": ("COG", {"COMPRESS": "DEFLATE", "BLOCKSIZE": 256, "OVERVIEWS": "NONE"}),
}


def made(folder: Path, kind: str) -> Path:
    """Coordinates in a format; a VRT is of four overlapping quads."""
    driver, options = FORMATS[kind]
    if kind != "vrt":
        source = write_coordinates(folder / "source.tif", LEFT, TOP, WIDE, HIGH, photometric="rgb")
        path = folder / ("a.jp2" if kind == "jp2" else "a.tif")
        rasterio.shutil.copy(source, path, driver=driver, **options)
        return path
    places = [(0, 0), (900, 0), (0, 700), (900, 700)]
    for number, (left, top) in enumerate(places):
        source = write_coordinates(folder / "source.tif", LEFT + left, TOP - top, 1000, 800)
        rasterio.shutil.copy(source, folder / f"q{number}.tif", driver=driver, **options)
    return write_vrt(folder / "a.vrt", [(f"q{n}.tif", *place) for n, place in enumerate(places)])


def write_vrt(path: Path, files, size=(1000, 800), kind="SimpleSource", more="", band_more="", scale=1) -> Path:
    """A VRT as gdalbuildvrt writes it, of files of `size` at (left, top)."""
    wide, high = size
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}">{band_more}'
        + "".join(
            f'<{kind}><SourceFilename relativeToVRT="1" shared="0">{name}</SourceFilename><SourceBand>{band}</SourceBand>'
            f'<SrcRect xOff="0" yOff="0" xSize="{wide}" ySize="{high}"/>'
            f'<DstRect xOff="{left}" yOff="{top}" xSize="{wide * scale}" ySize="{high * scale}"/>{more}</{kind}>'
            for name, left, top in files
        )
        + "</VRTRasterBand>"
        for band in (1, 2, 3)
    )
    path.write_text(
        f'<VRTDataset rasterXSize="{WIDE}" rasterYSize="{HIGH}"><SRS>EPSG:26919</SRS>'
        f"<GeoTransform>{LEFT}, 1, 0, {TOP}, 0, -1</GeoTransform>{bands}</VRTDataset>"
    )
    return path


def read_all(mosaic: Mosaic, threads: int = 1, keep=None, overlap: bool = False):
    """{(column, row): (tile, valid fraction)} of all tiles, or of those that `keep` picks."""
    columns, rows = cells(GRID.range_over(mosaic.outline_in(GRID.crs).bounds))
    if keep is not None:
        columns, rows = columns[keep(len(columns))], rows[keep(len(columns))]
    found = {}
    todo = plan_blocks(mosaic, GRID, 3, columns, rows)
    for read in read_ahead(mosaic, GRID, BANDS, todo, threads, overlap):
        for place, tile, share in zip(
            zip(read.block.columns.tolist(), read.block.rows.tolist(), strict=True),
            read.tiles,
            read.valid_fraction.tolist(),
            strict=True,
        ):
            found[place] = tile.copy(), share
    return found


def assert_in_place(tiles, exact: bool = True) -> None:
    assert any(share == 1 for _, share in tiles.values())
    for (column, row), (tile, share) in tiles.items():
        if share == 1:
            truth = coordinate_pixels(column * 224, -(row + 1) * 224, 224, 224)
            assert (tile == truth).all() or (not exact and abs(tile.astype(int) - truth).mean() < 8)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", FORMATS)
def test_each_compressed_block_is_decoded_once(tmp_path, noted, small_blocks, kind, threads):
    path = made(tmp_path, kind)
    mosaic = open_mosaic([path])
    noted.clear()
    tiles = read_all(mosaic, threads)
    counted = decoded(noted)
    assert set(counted.values()) == {1}
    expected = 0
    for name in ["q0.tif", "q1.tif", "q2.tif", "q3.tif"] if kind == "vrt" else [path.name]:
        with rasterio.open(tmp_path / name) as dataset:
            expected += len(list(dataset.block_windows(1)))
    assert len(counted) == expected
    assert len(tiles) == len(cells(GRID.range_over(mosaic.scenes[0].bounds))[0])
    assert_in_place(tiles, exact=kind != "cog-jpeg")


@pytest.mark.parametrize("room", [0, 1 << 20, 64 << 20])
@pytest.mark.parametrize("overlap", [False, True])
def test_tiles_with_gaps_are_read_right_whatever_is_kept(tmp_path, monkeypatch, small_blocks, room, overlap):
    """Tiles drawn by chance, three threads, and room for none, some or all of the blocks that they share."""
    monkeypatch.setattr(blocks_module, "SharedBlocks", lambda windows, _: SharedBlocks(windows, limit=room))
    mosaic = open_mosaic([made(tmp_path, "deflate")])
    keep = lambda count: np.sort(np.random.default_rng(3).permutation(count)[: count // 2])  # noqa: E731
    tiles = read_all(mosaic, 3, keep, overlap)
    assert_in_place(tiles)
    whole = read_all(mosaic)
    assert all((tile == whole[place][0]).all() and share == whole[place][1] for place, (tile, share) in tiles.items())


def test_nothing_is_kept_once_all_is_read(tmp_path, small_blocks):
    mosaic = open_mosaic([made(tmp_path, "deflate")])
    columns, rows = cells(GRID.range_over(mosaic.scenes[0].bounds))
    todo = plan_blocks(mosaic, GRID, 3, columns, rows)
    shared = SharedBlocks([window_of(GRID, block) for block in todo])
    most = 0
    with mosaic.reader(GRID, BANDS, shared) as reader:
        for block in todo:
            reader.read(window_of(GRID, block))
            most = max(most, shared.nbytes)
    assert shared.nbytes == 0
    # At most the blocks across one border from end to end, and one more across.
    assert 0 < most <= (WIDE // 256 + 4) * 256 * 256 * 3


def test_wide_scenes_are_read_in_groups_that_fit(tmp_path, monkeypatch, small_blocks):
    """Blocks of tiles go on below before more lies across their lower border than may be kept."""
    monkeypatch.setattr(blocks_module, "BORDER_BYTES", 512 * 448 * 3 * 2)
    mosaic = open_mosaic([write_coordinates(tmp_path / "a.tif", LEFT, TOP, WIDE, HIGH)])
    columns, rows = cells(GRID.range_over(mosaic.scenes[0].bounds))
    todo = plan_blocks(mosaic, GRID, 3, columns, rows)
    lefts = [block.range.left // 2 // 2 for block in todo]
    assert lefts == sorted(lefts)
    assert len(set(lefts)) > 1


def test_where_there_is_no_room_for_all_those_stay_that_are_needed_next():
    shared = SharedBlocks([LatticeWindow(10 * k, 0, 10, 10) for k in range(5)], limit=200)
    pixels = np.zeros(100, np.uint8)
    for key, waiting in (("next", {1, 4}), ("last", {4}), ("soon", {2})):
        claim = shared.claim(key, waiting)
        assert claim is not None and claim.mine
        shared.give(claim, pixels)
        assert claim.pixels.result() is pixels  # whoever waits has it, kept or not
    assert shared.nbytes == 200
    again = {key: shared.claim(key, {3}) for key in ("next", "soon", "last")}
    assert {key: claim.mine for key, claim in again.items() if claim} == {"next": False, "soon": False, "last": True}
    for number in range(5):
        shared.close(number)
    assert shared.nbytes == 0


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=60),
    st.integers(1, 4),
)
def test_blocks_that_are_read_together(sizes, threads):
    """Each once, the first that is left among them, and no more than whole ones for all threads."""
    blocks = [TileBlock(number, *cells(TileRange(0, 0, wide, high))) for number, (wide, high) in enumerate(sizes)]
    most = threads * max((len(block) for block in blocks), default=0)
    left = list(range(len(blocks)))
    for turn in blocks_module._turns(blocks, threads):
        assert sum(len(block) for block in turn) <= most
        assert left[0] in {block.number for block in turn}
        for block in turn:
            left.remove(block.number)
    assert left == []


def test_threads_get_blocks_of_one_size():
    sizes = [4, 9, 9, 9, 9, 4, 4, 9, 9, 9, 9, 4]
    blocks = [TileBlock(number, *cells(TileRange(0, 0, size, 9))) for number, size in enumerate(sizes)]
    turns = [[len(block) // 9 for block in turn] for turn in blocks_module._turns(blocks, 2)]
    assert turns == [[4, 4], [9, 9], [9, 9], [4, 4], [9, 9], [9, 9]]
    assert [len(turn) for turn in blocks_module._turns(blocks, 1)] == [1] * 12  # one thread reads them as they come


@pytest.mark.parametrize(("tiles", "wide"), [(2, {3}), (4, {4, 5}), (5, {9}), (18, {9})])
def test_a_striped_scene_is_cut_across_into_equal_parts(tmp_path, monkeypatch, tiles, wide):
    """Blocks of `tiles` tiles, twice as many where lines are then whole: the scene is 9 tiles wide."""
    monkeypatch.setattr(blocks_module, "BLOCK_BYTES", tiles * 224 * 224 * 3)
    path = made(tmp_path, "stripes")
    mosaic = open_mosaic([path])
    columns, rows = cells(GRID.range_over(mosaic.scenes[0].bounds))
    blocks = plan_blocks(mosaic, GRID, 3, columns, rows)
    assert len(np.unique(columns)) == 9 and {block.range.columns for block in blocks} == wide
    assert max(block.range.rows for block in blocks) == (2 if tiles == 18 else 1)


def test_lines_without_compression_are_read_once(tmp_path, monkeypatch, noted):
    monkeypatch.setattr(blocks_module, "BLOCK_BYTES", 5 * 224 * 224 * 3)
    source = write_coordinates(tmp_path / "source.tif", LEFT, TOP, WIDE, HIGH)
    rasterio.shutil.copy(source, tmp_path / "a.tif", driver="GTiff", interleave="pixel", blockysize=1)
    mosaic = open_mosaic([tmp_path / "a.tif"])
    noted.clear()
    assert_in_place(read_all(mosaic, 2))
    counted = decoded(noted)
    assert len(counted) == HIGH and set(counted.values()) == {1}


def test_a_block_whose_reader_failed_is_read_by_who_waits(tmp_path, small_blocks):
    """A damaged part of a file ends the run in an error, not in threads that wait for each other."""
    path = made(tmp_path, "deflate")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    mosaic = open_mosaic([path])
    said = []

    def run() -> None:
        with pytest.raises(SceneError, match=r"a\.tif cannot be read at window") as error:
            read_all(mosaic, 3)
        said.append(str(error.value))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert said


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="bytes read are counted by Linux")
def test_a_file_is_read_from_disk_once(tmp_path):
    """With a block cache of next to nothing, so that nothing is decoded again unseen."""
    noise = np.random.default_rng(0).integers(0, 255, (3, HIGH, WIDE), np.uint8)
    path = write_coordinates(tmp_path / "source.tif", LEFT, TOP, WIDE, HIGH, photometric="rgb", compress="none")
    with rasterio.open(path, "r+") as dataset:
        dataset.write(noise)
    names = ("cog-jpeg", "deflate", "stripes")
    for kind in names:
        driver, options = FORMATS[kind]
        rasterio.shutil.copy(path, tmp_path / f"{kind}.tif", driver=driver, **options)
    code = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_reading as t
t.blocks_module.BLOCK_BYTES = 4 * 224 * 224 * 3
found = {}
def read(path):
    before = int(Path("/proc/self/io").read_text().split()[1])
    t.read_all(t.open_mosaic([path]), 2)
    return (int(Path("/proc/self/io").read_text().split()[1]) - before) / path.stat().st_size
for kind in sys.argv[3:]:
    path = Path(sys.argv[1]) / f"{kind}.tif"
    read(path)  # the first time the tables of coordinate systems are read too
    found[kind] = read(path)
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path), str(Path(__file__).parent), *names],
        env={**os.environ, "GDAL_CACHEMAX": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert set(found) == set(names)
    # Each handle reads the header; reading what lies across borders twice would add a half and more.
    assert max(found.values()) < 1.15, found
    assert min(found.values()) > 0.95, found


def masked(folder: Path, **profile) -> Path:
    """Coordinates of which the left part has no data, as a mask says."""
    path = write_coordinates(folder / "source.tif", LEFT, TOP, WIDE, HIGH, photometric="rgb")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
        mask = np.full((HIGH, WIDE), 255, np.uint8)
        mask[:, :1000] = 0
        mask[700:720, 1500:1600] = 0
        dataset.write_mask(mask)
    rasterio.shutil.copy(path, folder / "a.tif", driver="COG", COMPRESS="DEFLATE", BLOCKSIZE=256, **profile)
    return folder / "a.tif"


def test_what_a_mask_says_is_no_data_is_not_decoded(tmp_path, noted, small_blocks):
    mosaic = open_mosaic([masked(tmp_path)])
    assert mosaic.scenes[0].validity == "mask"
    tiles = read_all(mosaic, 2)
    counted = decoded(noted)
    assert set(counted.values()) == {1}
    assert min(column for _, _, column in counted) == 1000 // 256
    assert_in_place(tiles)
    edge = GRID.tile_at(LEFT + 1000, TOP - 500)
    tile, share = tiles[edge]
    assert share == pytest.approx(((edge[0] + 1) * 224 - LEFT - 1000) / 224)
    truth = coordinate_pixels(edge[0] * 224, -(edge[1] + 1) * 224, 224, 224)
    inside = LEFT + 1000 - edge[0] * 224
    assert (tile[:, :, inside:] == truth[:, :, inside:]).all()
    # What has no data is the tile's mean, as everywhere.
    assert (tile[0, :, :inside] == int(truth[0, :, inside:].mean())).all()


def test_blocks_that_a_file_does_not_store_are_not_read(tmp_path, noted, small_blocks):
    profile = {
        "driver": "GTiff",
        "width": WIDE,
        "height": HIGH,
        "count": 3,
        "dtype": "uint8",
        "crs": "EPSG:26919",
        "nodata": 0,
    }
    with rasterio.open(
        tmp_path / "a.tif", "w", transform=from_origin(LEFT, TOP, 1, 1), sparse_ok=True, compress="deflate", **TILED, **profile
    ) as dataset:  # fmt: skip
        right = coordinate_pixels(LEFT + 1024, -TOP, 512, 1024)
        dataset.write(right, window=rasterio.windows.Window(1024, 0, 512, 1024))
    tiles = read_all(open_mosaic([tmp_path / "a.tif"]))
    assert_in_place(tiles)
    assert all(not tile.any() for tile, share in tiles.values() if share == 0)
    columns = [column for _, _, column in decoded(noted)]
    assert min(columns) >= 2  # blocks that share a window with what is stored, and no others
    assert len(columns) < 30


def plane(folder: Path, kind: str) -> Path:
    """Brightness is a plane over the map; a COG, a JPEG 2000, or a COG whose fourth band, all dark, is tagged alpha."""
    side, count = 2048, 4 if kind == "alpha-tagged" else 3
    x, y = np.arange(side)[None, :] + 0.5, np.arange(side)[:, None] + 0.5
    bands = [4000 + x * 10 + 0 * y, 4000 + y * 10 + 0 * x, 900 + 0 * x + 0 * y, 0 * x + 0 * y]
    profile = {"driver": "GTiff", "width": side, "height": side, "count": count, "dtype": "uint16", "crs": "EPSG:26919"}
    with rasterio.open(folder / "s.tif", "w", transform=from_origin(LEFT, TOP, 1, 1), **profile) as dataset:
        dataset.write(np.stack(bands[:count]).astype(np.uint16))
        if count == 4:
            dataset.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
    if kind == "jp2":
        path, options = folder / "a.jp2", {"driver": "JP2OpenJPEG", "QUALITY": 100, "REVERSIBLE": "YES"}
    else:
        path = folder / ("m_3211605_ne_11_060_20200415.tif" if count == 4 else "a.tif")
        options = {"driver": "COG", "COMPRESS": "DEFLATE", "RESAMPLING": "AVERAGE", "BLOCKSIZE": 256}
    rasterio.shutil.copy(folder / "s.tif", path, **options)
    return path


@pytest.mark.parametrize(
    ("kind", "gsd", "level"),
    [
        ("COG", 1.5, None),
        ("COG", 2.0, 0),
        ("COG", 5.0, 1),
        ("COG", 10.0, 2),
        # Their overviews are not where GDAL says, or not of what they seem.
        ("jp2", 5.0, None),
        ("alpha-tagged", 5.0, None),
    ],
)
def test_a_coarse_grid_reads_an_overview(tmp_path, monkeypatch, kind, gsd, level):
    """A shift by a twentieth of the grid's pixel would be told."""
    opened = []
    honest = filereader.open_dataset
    monkeypatch.setattr(
        filereader,
        "open_dataset",
        lambda path, overview_level=None: opened.append(overview_level) or honest(path, overview_level),
    )
    mosaic = open_mosaic([plane(tmp_path, kind)])
    grid = mosaic.default_grid(gsd_m=gsd)
    column, line = int(LEFT // gsd) + 20, int(-TOP // gsd) + 20
    with mosaic.reader(grid, BANDS) as reader:
        assert reader.warped == 1
        pixels, valid = reader.read(LatticeWindow(column, line, 100, 100))
    assert [found for found in opened if found is not None] == ([] if level is None else [level])
    assert valid.all()
    east = (column + np.arange(100) + 0.5) * gsd - LEFT
    south = TOP + (line + np.arange(100) + 0.5) * gsd
    for found, metres in ((pixels[0], east[None, :]), (pixels[1], south[:, None])):
        shift_px = (found.astype(float) - 4000 - 10 * metres) / (10 * gsd)
        assert abs(shift_px.mean()) < 0.03
        assert abs(shift_px).max() < 0.35


def test_an_overview_keeps_the_mask(tmp_path):
    mosaic = open_mosaic([masked(tmp_path, RESAMPLING="AVERAGE")])
    grid = mosaic.default_grid(gsd_m=4.0)
    with mosaic.reader(grid, BANDS) as reader:
        _, valid = reader.read(LatticeWindow(LEFT // 4, -TOP // 4 + 2, 460, 360))
    edge = (LEFT + 1000) / 4 - LEFT // 4
    assert not valid[:, : int(edge) - 1].any()
    assert valid[:150, int(edge) + 2 :].all()


def test_gdal_is_set_once_and_the_user_has_the_last_word():
    code = "import geoclass.scene, os, json; print(json.dumps(dict(os.environ)))"

    def seen(**more: str) -> dict[str, str]:
        bare = {name: value for name, value in os.environ.items() if name not in gdal.OPTIONS}
        done = subprocess.run([sys.executable, "-c", code], env={**bare, **more}, capture_output=True, check=True)
        return {name: value for name, value in json.loads(done.stdout).items() if name in gdal.OPTIONS}

    assert seen() == gdal.OPTIONS
    assert int(gdal.OPTIONS["GDAL_CACHEMAX"]) <= 128  # megabytes, not a share of the machine
    assert seen(GDAL_CACHEMAX="500") == {**gdal.OPTIONS, "GDAL_CACHEMAX": "500"}
    page = (Path(__file__).parents[1] / "docs" / "reference" / "gdal.md").read_text()
    assert all(f"`{name}`" in page and f"`{value}`" in page for name, value in gdal.OPTIONS.items())


@pytest.mark.parametrize(("name", "when"), [("GTIFF_DIRECT_IO", "before"), ("GTIFF_VIRTUAL_MEM_IO", "while")])
def test_a_users_own_settings_do_not_hide_that_a_file_is_cut_short(tmp_path, name, when):
    source = write_coordinates(tmp_path / "source.tif", LEFT, TOP, WIDE, HIGH)
    rasterio.shutil.copy(source, tmp_path / "a.tif", driver="GTiff", interleave="pixel")
    code = f"""
import os
from geoclass.errors import SceneError
from geoclass.grid import TileGrid
from geoclass.lattice import LatticeWindow
from geoclass.mosaic import open_mosaic
size = os.path.getsize("a.tif")
if {when!r} == "before":
    os.truncate("a.tif", size // 2)
with open_mosaic(["a.tif"]).reader(TileGrid("EPSG:26919"), {BANDS}) as reader:
    reader.read(LatticeWindow({LEFT}, {-TOP}, 300, 300))
    if {when!r} == "while":
        os.truncate("a.tif", size // 2)
    try:
        reader.read(LatticeWindow({LEFT}, {-TOP} + {HIGH} - 300, 300, 300))
    except SceneError as error:
        print("told:", error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, name: "YES"}, capture_output=True, text=True, cwd=tmp_path, check=True
    )  # fmt: skip
    assert done.stdout.startswith("told: a.tif "), done.stdout


def test_sidecars_are_found_though_folders_are_not_listed(tmp_path):
    """In a process of its own: overviews, mask and world file beside the file."""
    path = write_coordinates(tmp_path / "a.tif", LEFT, TOP, 1000, 800, tiled=False, compress="none")
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4])
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(np.full((800, 1000), 255, np.uint8))
    assert {item.name for item in tmp_path.iterdir()} >= {"a.tif", "a.tif.ovr", "a.tif.msk"}
    code = (
        "import sys; from geoclass.scene import open_dataset; d = open_dataset(sys.argv[1]); "
        "print(d.overviews(1), d.mask_flag_enums[0])"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert "[2, 4]" in done.stdout
    assert "per_dataset" in done.stdout


@pytest.mark.parametrize("how", ["touched", "rewritten", "removed"])
def test_a_scene_that_changes_is_told(tmp_path, monkeypatch, small_blocks, tiny_bundle, how):
    """One line, exit 2, and the blocks so far are kept."""
    monkeypatch.chdir(tmp_path)
    path = write_coordinates(tmp_path / "a.tif", width=2400, height=700)
    honest, calls = SceneReader.read_into, []

    def change() -> None:
        if how == "removed":
            path.unlink()
        elif how == "rewritten":
            path.write_bytes(path.read_bytes()[:-1000])
        else:
            os.utime(path, (1e9, 1e9))

    def read_into(self, window, out):
        calls.append(window)
        if len(calls) == 4:
            change()
        return honest(self, window, out)

    monkeypatch.setattr(SceneReader, "read_into", read_into)
    monkeypatch.setattr("geoclass.plan.SMALL_RUN_TILES", 0)
    args = [
        "classify",
        "a.tif",
        "--model",
        str(tiny_bundle),
        "--runtime",
        "torch",
        "--precision",
        "fp32",
        "--readers",
        "1",
        "--force",
    ]
    result = CliRunner().invoke(main, args, prog_name="geoclass")
    assert result.exit_code == 2
    said = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(said) == 1
    assert "a.tif is gone" in said[0] if how == "removed" else "a.tif has changed" in said[0]
    assert "blocks of tiles are kept" in said[0]
    assert len(list((tmp_path / "out" / ".a.journal").glob("part-*.arrow"))) == 3


def test_workers_compare_with_the_file_as_they_opened_it(tmp_path):
    """A copy on another machine has another time; only a change after it was opened counts."""
    from geoclass.cluster.classifying import _absolute

    path = write_coordinates(tmp_path / "a.tif")
    mosaic = _absolute(open_mosaic([path]))
    os.utime(path, (1e9, 1e9))
    with mosaic.reader(GRID, BANDS) as reader:
        window = LatticeWindow(1400 * 224, -20900 * 224, 224, 224)
        reader.read(window)
        os.utime(path, (1.1e9, 1.1e9))
        with pytest.raises(SceneError, match="has changed"):
            reader.read(window)


def test_a_vrt_of_files_with_nodata_reads_as_gdal_does(tmp_path):
    """Overlapping files, each with a hole: beneath the hole the one before it is seen."""
    places = [(0, 0), (500, 300), (850, 650)]
    for number, (left, top) in enumerate(places):
        path = write_coordinates(tmp_path / f"q{number}.tif", LEFT + left, TOP - top, 1000, 800, nodata=0)
        with rasterio.open(path, "r+") as dataset:
            dataset.write(np.zeros((3, 200, 300), np.uint8), window=rasterio.windows.Window(100, 50, 300, 200))
            dataset.write(np.zeros((1, 90, 90), np.uint8), [2], window=rasterio.windows.Window(700, 500, 90, 90))
    path = write_vrt(
        tmp_path / "a.vrt",
        [(f"q{n}.tif", *place) for n, place in enumerate(places)],
        kind="ComplexSource",
        more="<NODATA>0</NODATA>",
        band_more="<NoDataValue>0</NoDataValue>",
    )
    with rasterio.open(path) as dataset:
        truth, opened = dataset.read(), dataset.dataset_mask() > 0
    mosaic = open_mosaic([path])
    with mosaic.reader(GRID, BANDS, SharedBlocks([])) as reader:
        assert isinstance(reader._readers[0]._files[0]._blocks, filereader._PlacedBlocks)
        pixels, valid = reader.read(LatticeWindow(LEFT, -TOP, WIDE, HIGH))
    assert (valid == truth.any(axis=0)).all()
    assert (pixels == truth).all()
    assert opened.shape == valid.shape


@pytest.mark.parametrize("what", ["scaled", "lut", "unknown band element", "fraction"])
def test_a_vrt_that_does_more_is_left_to_gdal(tmp_path, what):
    write_coordinates(tmp_path / "q.tif", LEFT, TOP, 1000, 800)
    options = {
        "scaled": {"scale": 2},
        "lut": {"kind": "ComplexSource", "more": "<LUT>0:255,255:0</LUT>"},
        "unknown band element": {"band_more": "<UnitType>m</UnitType>"},
        "fraction": {},
    }[what]
    path = write_vrt(tmp_path / "a.vrt", [("q.tif", 0.5 if what == "fraction" else 0, 0)], **options)
    with rasterio.open(path) as dataset:
        truth = dataset.read()
    with open_mosaic([path]).reader(GRID, BANDS) as reader:
        assert not isinstance(reader._readers[0]._files[0]._blocks, filereader._PlacedBlocks)
        pixels, _ = reader.read(LatticeWindow(LEFT, -TOP, WIDE, HIGH))
    assert (pixels == truth).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
@pytest.mark.parametrize("offset", [-1000, -3, 0, 250, 40000])
def test_an_offset_stays_within_the_type(dtype, offset):
    limits = np.iinfo(dtype)
    values = np.array(
        [limits.min, limits.min + 1, 5, 200, limits.max - 300 if limits.max > 300 else 7, limits.max], dtype
    )
    shifted = values.copy()
    _shift(shifted, offset)
    assert (shifted == np.clip(values.astype(np.int64) + offset, limits.min, limits.max)).all()
