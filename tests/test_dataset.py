"""Datasets: labels against a brute-force count, splits that never touch, pictures that are the scene's own pixels,
look-alikes, corrections, suspects, and everything a user can get wrong."""

import json
import subprocess
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyogrio
import pyproj
import pytest
import rasterio
import shapely
from click.testing import CliRunner
from PIL import Image
from rasterio.transform import from_origin

from geoclass.cli import main
from geoclass.datasets.corrections import apply_corrections, read_suspects, suspects, write_suspects
from geoclass.datasets.making import build_dataset
from geoclass.datasets.store import Dataset, read_dataset, read_tiles
from geoclass.errors import DatasetError, GeoclassError, OutputError
from geoclass.grid import TileGrid
from geoclass.schemes import load_scheme
from geoclass.sensors import load_sensor

CODES = np.array([11, 22, 42, 82], np.uint8)  # water, developed, forest, cultivated of nlcd6
SIZE, GSD, TILES = 16, 10.0, 36
SIDE = SIZE * GSD
LEFT, TOP = 2000 * SIDE, 25_000 * SIDE
NAMES = dict(zip(CODES.tolist(), ("Water", "Developed", "Forest", "Cultivated"), strict=True))


def write_scene(
    path: Path, seed: int = 0, bands: int = 3, tiles: int = TILES, dtype: str = "uint8", **profile: Any
) -> Path:
    """Noise, so that no tile looks like another; never 0."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(1, 250 if dtype == "uint8" else 4000, (bands, tiles * SIZE, tiles * SIZE)).astype(dtype)
    options = {
        "driver": "GTiff", "width": tiles * SIZE, "height": tiles * SIZE, "count": bands, "dtype": dtype, "crs": "EPSG:32612",
        "transform": from_origin(LEFT, TOP, GSD, GSD), "tiled": True, "blockxsize": 128, "blockysize": 128,
    }  # fmt: skip
    with rasterio.open(path, "w", **{**options, **profile}) as dataset:
        dataset.write(pixels)
    return path


def write_labels(path: Path, codes: np.ndarray | None = None, west: float = 0.0) -> Path:
    """A raster of NLCD codes in Albers, 30 m pixels in patches of about 600 m, over the scene's ground."""
    to_albers = pyproj.Transformer.from_crs("EPSG:32612", "EPSG:5070", always_xy=True)
    x, y = to_albers.transform(LEFT + TILES * SIDE / 2, TOP - TILES * SIDE / 2)
    if codes is None:
        patches = np.random.default_rng(5).choice(CODES, (14, 14))
        codes = np.kron(patches, np.ones((20, 20), np.uint8))
    half = len(codes) * 15
    with rasterio.open(
        path, "w", driver="GTiff", width=len(codes), height=len(codes), count=1, dtype="uint8", crs="EPSG:5070",
        transform=from_origin(x - half - west, y + half, 30, 30),
    ) as dataset:  # fmt: skip
        dataset.write(codes, 1)
    return path


def counted_shares(labels: Path, tile_id: str, points: int = 64) -> dict[str, float]:
    """Share of each class in a tile, by asking the raster at 64 × 64 points of it."""
    column, row = map(int, tile_id.split("_")[2:])
    at = (np.arange(points) + 0.5) / points * SIDE
    x, y = np.meshgrid(column * SIDE + at, row * SIDE + at)
    moved = pyproj.Transformer.from_crs("EPSG:32612", "EPSG:5070", always_xy=True).transform(x.ravel(), y.ravel())
    with rasterio.open(labels) as dataset:
        codes = dataset.read(1)
        columns, lines = ~dataset.transform @ moved
    found = codes[np.floor(lines).astype(int), np.floor(columns).astype(int)]
    return {NAMES[int(code)]: float((found == code).mean()) for code in CODES}


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ground")
    write_scene(folder / "zion.tif")
    write_labels(folder / "nlcd.tif")
    return folder


def build(ground: Path, out: Path, **options: Any) -> Dataset:
    given = {"scheme": "nlcd6", "size_px": SIZE, "balance": "none", "out": out, **options}
    return build_dataset([ground / "zion.tif"], ground / "nlcd.tif", **given)


@pytest.fixture(scope="module")
def made(ground: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build(ground, tmp_path_factory.mktemp("made") / "data")


def copied(data: Dataset, folder: Path) -> Path:
    import shutil

    return Path(shutil.copytree(data.folder, folder / data.folder.name))


# ---- from imagery


def test_labels_are_what_a_count_finds(made: Dataset, ground: Path) -> None:
    checked = made.table.sample(80, random_state=0)
    for _, row in checked.iterrows():
        shares = counted_shares(ground / "nlcd.tif", row["tile_id"])
        for name, share in shares.items():
            assert row[f"f_{name}"] == pytest.approx(share, abs=0.04)
        best = sorted(shares.values())
        if best[-1] - best[-2] > 0.1:
            assert row["label"] == max(shares, key=lambda name: shares[name])
        assert row["purity"] >= 0.6 - 1e-6
        assert row["purity"] == pytest.approx(max(shares.values()), abs=0.04)


def test_every_tile_is_taken_or_counted(made: Dataset) -> None:
    assert len(made) + sum(made.meta.left_out.values()) == TILES**2
    assert sum(sum(counts.values()) for counts in made.meta.counts.values()) == len(made)


def test_splits_never_touch(made: Dataset) -> None:
    shapes = made.table.geometry.to_numpy()
    first, second = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    split = made.table["split"].to_numpy()
    assert set(split) == {"train", "validation", "test"}
    assert (split[first] == split[second]).all()
    assert made.meta.split.block_m and made.meta.split.range_m


def test_pictures_are_the_scene(made: Dataset, ground: Path) -> None:
    with rasterio.open(ground / "zion.tif") as dataset:
        scene = dataset.read()
    grid = TileGrid(pyproj.CRS("EPSG:32612"), SIZE, GSD)
    tiles = read_tiles(made.folder)
    assert tiles.size_px == SIZE and tiles.bands == ("red", "green", "blue") and tiles.gsd_m == GSD
    for k in range(0, len(tiles), 37):
        left, _, _, top = grid.bounds(*grid.parse_id(made.table["tile_id"][k]))
        line, column = round((TOP - top) / GSD), round((left - LEFT) / GSD)
        np.testing.assert_array_equal(tiles.read([k])[0], scene[:, line : line + SIZE, column : column + SIZE])


def test_tile_set_holds_what_the_table_says(made: Dataset) -> None:
    tiles = read_tiles(made.folder)
    table = made.table
    assert tiles.keys == tuple(table["key"]) and len(set(tiles.keys)) == len(tiles)
    assert all(key == f"zion/{tile}" for key, tile in zip(table["key"], table["tile_id"], strict=True))
    assert [tiles.scheme.names[k] for k in tiles.classes] == table["label"].tolist()
    assert tiles.fractions is not None and tiles.purity is not None
    np.testing.assert_allclose(tiles.purity, table["purity"], atol=1e-5)
    assert tiles.x_m is not None and tiles.blocks is not None and tiles.crs == "EPSG:32612"
    np.testing.assert_allclose(tiles.x_m, table.geometry.centroid.x)
    assert table["class_id"].tolist() == [tiles.scheme.ids[k] for k in tiles.classes]


def test_same_seed_same_dataset(made: Dataset, ground: Path, tmp_path: Path) -> None:
    assert build(ground, tmp_path / "again").digest == made.digest == made.meta.digest
    assert build(ground, tmp_path / "other", seed=9).digest != made.digest


def test_nine_points_and_soft(ground: Path, tmp_path: Path) -> None:
    nine = build(ground, tmp_path / "nine", rule="nine-points")
    assert (nine.table["label"] == nine.table["nine_points"]).all()
    soft = build(ground, tmp_path / "soft", rule="soft")
    shares = soft.table[[f"f_{name}" for name in soft.meta.scheme.names]].to_numpy()
    assert len(soft) > len(nine) and soft.table["purity"].min() < 0.5
    assert [soft.meta.scheme.names[k] for k in shares.argmax(axis=1)] == soft.table["label"].tolist()


def test_balance(ground: Path, tmp_path: Path) -> None:
    plain = build(ground, tmp_path / "plain", split="random")
    train = plain.table[plain.table["split"] == "train"]["label"].value_counts()
    capped = build(ground, tmp_path / "capped", split="random", balance="cap")
    after = capped.table[capped.table["split"] == "train"]["label"].value_counts()
    most = max(50, train.min())
    assert train.max() > most and (after == np.minimum(train, most)[after.index]).all()
    assert capped.meta.left_out["more than the smallest class has (balance)"] > 0
    assert len(list((capped.folder / "images").rglob("*.png"))) == len(capped)
    weighed = read_tiles(build(ground, tmp_path / "weighed", split="random", balance="weights").folder)
    assert weighed.class_weights is not None
    present = [k for k, name in enumerate(weighed.scheme.names) if name in train.index]
    products = weighed.class_weights[present] * train[[weighed.scheme.names[k] for k in present]].to_numpy()
    np.testing.assert_allclose(products, products[0], rtol=1e-9)
    assert weighed.class_weights[present].mean() == pytest.approx(1)


def test_classic_random_split_is_75_25(ground: Path, tmp_path: Path) -> None:
    data = build(ground, tmp_path / "data", split="random")
    for counts in data.meta.counts.values():
        total = sum(counts.values())
        assert counts["validation"] == 0 and counts["test"] == pytest.approx(total / 4, abs=1)


def test_more_bands_are_georeferenced_tiffs(ground: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "m_1234567_ne_12_1_20200101.tif", bands=4, tiles=12)
    bands = ("red", "green", "blue", "nir")
    data = build_dataset(
        [scene], ground / "nlcd.tif", out=tmp_path / "data", scheme="nlcd6", sensor="naip", bands=bands, size_px=SIZE,
        split="random", balance="none",
    )  # fmt: skip
    row = data.table.iloc[0]
    with rasterio.open(data.folder / row["image"]) as picture, rasterio.open(scene) as whole:
        assert picture.descriptions == bands and picture.crs.to_epsg() == 32612
        assert tuple(picture.bounds) == row.geometry.bounds
        np.testing.assert_array_equal(picture.read(), whole.read(window=whole.window(*picture.bounds)))
    assert read_tiles(data.folder).read([0]).shape == (1, 4, SIZE, SIZE)
    assert read_tiles(data.folder, bands=("nir",)).read([0]).shape == (1, 1, SIZE, SIZE)


def test_sixteen_bits_are_kept(ground: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "s2.tif", bands=3, tiles=12, dtype="uint16", nodata=0)
    with rasterio.open(scene, "r+") as dataset:
        dataset.descriptions = ("red", "green", "blue")
    data = build_dataset(
        [scene], ground / "nlcd.tif", out=tmp_path / "data", scheme="nlcd6", sensor="sentinel2-l2a", size_px=SIZE,
        split="random", balance="none",
    )  # fmt: skip
    pixels = read_tiles(data.folder).read([0])
    assert pixels.dtype == np.uint16 and pixels.max() > 255


def test_several_dates_share_ground_and_split(ground: Path, tmp_path: Path) -> None:
    for seed, year in enumerate((2015, 2018)):
        write_scene(tmp_path / f"m_3700000_ne_12_1_{year}0701.tif", seed=seed, bands=4, tiles=30)
    options = {"scheme": "nlcd6", "size_px": SIZE, "balance": "none", "sensor": "naip"}
    data = build_dataset([tmp_path], ground / "nlcd.tif", out=tmp_path / "blocks", **options)
    assert data.table["scene"].nunique() == 2 and data.table["key"].is_unique
    assert {source.date for source in data.meta.sources} == {"2015-07-01", "2018-07-01"}
    assert data.table["tile_id"].duplicated().any()
    assert (data.table.groupby("tile_id")["split"].nunique() == 1).all()
    apart = build_dataset(
        sorted(tmp_path.glob("*.tif")), ground / "nlcd.tif", out=tmp_path / "apart", split="by-scene", shares=(0.6, 0, 0.4),
        test_groups=["m_3700000_ne_12_1_20180701"], **options,
    )  # fmt: skip
    assert set(apart.table["split"]) == {"train", "test"}
    assert (apart.table["split"] == np.where(apart.table["scene"].str.contains("2018"), "test", "train")).all()
    assert (apart.table.groupby("tile_id")["split"].nunique() == 1).all()


def test_by_scene_and_by_field(ground: Path, tmp_path: Path) -> None:
    west = write_scene(tmp_path / "west.tif", 1, tiles=16)
    east = write_scene(tmp_path / "east.tif", 2, tiles=16, transform=from_origin(LEFT + 18 * SIDE, TOP, GSD, GSD))
    options = {"scheme": "nlcd6", "size_px": SIZE, "balance": "none", "shares": (0.5, 0, 0.5)}
    data = build_dataset(
        [west, east], ground / "nlcd.tif", out=tmp_path / "data", split="by-scene", test_groups=["east"], **options
    )
    assert (data.table["split"] == data.table["scene"].map({"west": "train", "east": "test"})).all()
    middle = LEFT + 17 * SIDE
    counties = gpd.GeoDataFrame(
        {"county": ["A", "B"]}, crs="EPSG:32612",
        geometry=[shapely.box(LEFT, TOP - 1e5, middle, TOP), shapely.box(middle, TOP - 1e5, LEFT + 1e5, TOP)],
    ).to_crs(4326)  # fmt: skip
    counties.to_file(tmp_path / "counties.gpkg")
    field = build_dataset(
        [west, east], ground / "nlcd.tif", out=tmp_path / "field", split="by-field", split_field="county", test_groups=["B"],
        aoi=tmp_path / "counties.gpkg", **options,
    )  # fmt: skip
    assert (field.table["split"] == np.where(field.table.geometry.centroid.x < middle, "train", "test")).all()
    assert field.meta.split.groups == {"A": "train", "B": "test"}


def test_holes_in_the_imagery_are_left_out(ground: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "hole.tif", tiles=12, nodata=0)
    with rasterio.open(scene, "r+") as dataset:
        pixels = dataset.read()
        pixels[:, 32:64, 32:64] = 0  # four whole tiles
        dataset.write(pixels)
    data = build_dataset(
        [scene],
        ground / "nlcd.tif",
        out=tmp_path / "data",
        scheme="nlcd6",
        size_px=SIZE,
        split="random",
        balance="none",
        min_purity=0,
    )
    assert data.meta.left_out["too little data in the imagery"] == 4
    assert len(data) == 12 * 12 - 4 == len(list((data.folder / "images").rglob("*.png")))


def test_real_nlcd_over_a_made_scene(test_data: Path, tmp_path: Path) -> None:
    with rasterio.open(test_data / "nlcd" / "nlcd2011.tif") as labels:
        codes, wkt, back = labels.read(1), labels.crs.to_wkt(), ~labels.transform
        x, y = pyproj.Transformer.from_crs(wkt, "EPSG:32612", always_xy=True).transform(*labels.transform @ (500, 600))
    left, top = x // SIDE * SIDE, y // SIDE * SIDE
    scene = write_scene(tmp_path / "made.tif", transform=from_origin(left, top, GSD, GSD))
    data = build_dataset(
        [scene], test_data / "nlcd" / "nlcd2011.tif", out=tmp_path / "data", scheme="nlcd16", size_px=SIZE, balance="none",
        split="random",
    )  # fmt: skip
    official = load_scheme("nlcd16")
    assert data.meta.scheme == official
    move = pyproj.Transformer.from_crs("EPSG:32612", wkt, always_xy=True)
    at = (np.arange(48) + 0.5) / 48 * SIDE
    for _, row in data.table.sample(40, random_state=1).iterrows():
        column, line = map(int, row["tile_id"].split("_")[2:])
        points = np.meshgrid(column * SIDE + at, line * SIDE + at)
        across, down = back @ move.transform(*[part.ravel() for part in points])
        found = codes[np.floor(down).astype(int), np.floor(across).astype(int)]
        for item in official.classes:
            assert row[f"f_{item.name}"] == pytest.approx((found == item.id).mean(), abs=0.05)


# ---- QGIS


def test_the_table_opens_in_qgis_with_its_colours(made: Dataset, qgis_python: str) -> None:
    from geoclass.outputs.contactsheet import write_contact_sheet

    write_contact_sheet(made.folder)
    code = f"""
import os, sys
os.environ["QT_QPA_PLATFORM"] = "offscreen"
from qgis.core import QgsApplication, QgsVectorLayer
app = QgsApplication([], False); app.initQgis()
layer = QgsVectorLayer({str(made.folder / "tiles.gpkg")!r} + "|layername=tiles", "tiles", "ogr")
renderer = layer.renderer()
print(layer.isValid(), layer.featureCount(), renderer.type(), renderer.classAttribute(), layer.crs().authid())
print([category.symbol().color().name() for category in renderer.categories()])
sys.stdout.flush(); os._exit(0)
"""
    shown = subprocess.run([qgis_python, "-c", code], capture_output=True, text=True, timeout=120).stdout.splitlines()
    assert shown[0] == f"True {len(made)} categorizedSymbol label EPSG:32612"
    assert shown[1] == str([item.colour for item in made.meta.scheme.classes])


# ---- class folders


def picture(seed: int, size: int = 32) -> Image.Image:
    cells = np.random.default_rng(seed).integers(0, 255, (9, 9, 3)).astype(np.uint8)
    return Image.fromarray(cells).resize((size, size), Image.Resampling.BICUBIC)


def write_folders(root: Path, count: int = 20, names: tuple[str, ...] = ("Field", "Forest", "Grass")) -> Path:
    for k, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for n in range(count):
            picture(1000 * k + n).save(root / name / f"{n:03d}.png")
    return root


def test_class_folders_become_a_dataset(tmp_path: Path) -> None:
    source = write_folders(tmp_path / "tiles")
    data = build_dataset([source], out=tmp_path / "data", size_px=32)
    assert len(data) == 60 and data.meta.scheme.names == ("Field", "Forest", "Grass")
    assert data.meta.split.rule == "random" and "flatter" in data.meta.notes[0]
    assert data.table["split"].value_counts().to_dict() == {"train": 36, "test": 15, "validation": 9}
    assert data.table.geometry.isna().all() and data.meta.crs is None
    assert "Field/000.png" in set(data.table["key"])
    assert (data.folder / "images/Field/000.png").read_bytes() == (source / "Field/000.png").read_bytes()
    tiles = read_tiles(data.folder)
    assert tiles.x_m is None and tiles.fractions is None and tiles.blocks is None
    assert read_tiles(source, 32).keys == tiles.keys


def test_chips_named_by_tile_get_their_place_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    places = [(column, row) for column in range(100, 124) for row in range(2000, 2024)]
    for n, (column, row) in enumerate(places):
        folder = tmp_path / "chips" / ("Field" if rng.random() < 0.5 else "Forest")
        folder.mkdir(parents=True, exist_ok=True)
        picture(n).save(folder / f"32612_160_{column}_{row}.png")
    data = build_dataset([tmp_path / "chips"], out=tmp_path / "data", size_px=32, balance="none")
    assert data.meta.split.rule == "blocks" and data.meta.crs == "EPSG:32612" and data.meta.gsd_m == 5
    row = data.table[data.table["tile_id"] == data.table["tile_id"].iloc[0]].iloc[0]
    column, line = map(int, row["tile_id"].split("_")[2:])
    assert row.geometry.bounds == (column * 160, line * 160, (column + 1) * 160, (line + 1) * 160)
    shapes, split = data.table.geometry.to_numpy(), data.table["split"].to_numpy()
    first, second = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    assert (split[first] == split[second]).all()


def test_planted_duplicates_are_removed_and_reported(tmp_path: Path) -> None:
    source = write_folders(tmp_path / "tiles", 30)
    for n in range(5):
        Image.open(source / "Field" / f"{n:03d}.png").save(source / "Field" / f"copy{n}.jpg", quality=80)
    Image.open(source / "Forest" / "007.png").save(source / "Grass" / "alien.png")
    data = build_dataset([source], out=tmp_path / "data", size_px=32, balance="none")
    assert data.meta.left_out["look-alikes of another tile"] == 6 and len(data) == 90
    assert any("different labels" in note for note in data.meta.notes)
    for n in range(5):
        assert {f"Field/{n:03d}.png", f"Field/copy{n}.jpg"} - set(data.table["key"])
    assert len([path for path in (data.folder / "images").rglob("*") if path.is_file()]) == 90
    kept = build_dataset([source], out=tmp_path / "kept", size_px=32, balance="none", keep_look_alikes=True)
    assert len(kept) == 96


def test_odd_pictures_are_read_and_few_broken_ones_counted(tmp_path: Path) -> None:
    source = write_folders(tmp_path / "tiles", 30)
    picture(7001).convert("L").save(source / "Field" / "grey.png")
    picture(7002).convert("CMYK").save(source / "Field" / "cmyk.jpg")
    picture(7003).convert("RGBA").save(source / "Field" / "clear.png")
    picture(7004, 3).save(source / "Field" / "tiny.png")
    (source / "Field" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    data = build_dataset([source], out=tmp_path / "data", size_px=32, balance="none")
    assert data.meta.left_out["pictures that cannot be read"] == 1
    assert any("broken.png" in note for note in data.meta.notes)
    keys = set(data.table["key"])
    assert {"Field/grey.png", "Field/cmyk.jpg", "Field/clear.png", "Field/tiny.png"} <= keys
    tiles = read_tiles(data.folder)
    assert tiles.read(np.arange(len(tiles))).shape == (len(tiles), 3, 32, 32)
    for n in range(10):
        (source / "Forest" / f"bad{n}.png").write_bytes(b"no")
    with pytest.raises(DatasetError, match="11 of 105 pictures cannot be read"):
        build_dataset([source], out=tmp_path / "more", size_px=32)
    assert not (tmp_path / "more").exists()


# ---- reading


def test_reading_in_another_scheme(made: Dataset) -> None:
    wider = load_scheme("nlcd6").model_copy(update={"name": "turned", "classes": load_scheme("nlcd6").classes[::-1]})
    tiles, own = read_tiles(made.folder, scheme=wider), read_tiles(made.folder)
    assert [wider.names[k] for k in tiles.classes] == [own.scheme.names[k] for k in own.classes]
    assert tiles.fractions is not None and own.fractions is not None
    np.testing.assert_array_equal(tiles.fractions, own.fractions[:, ::-1])
    with pytest.raises(DatasetError, match="which scheme 'rsscn7' has not"):
        read_tiles(made.folder, scheme=load_scheme("rsscn7"))
    with pytest.raises(DatasetError, match="cut from rgb8, not naip"):
        read_tiles(made.folder, sensor=load_sensor("naip"))
    with pytest.raises(DatasetError, match="not nir"):
        read_tiles(made.folder, bands=("nir",))


def test_damaged_datasets_say_so(made: Dataset, tmp_path: Path) -> None:
    folder = copied(made, tmp_path)
    (folder / made.table["image"][3]).unlink()
    with pytest.raises(DatasetError, match=r"1 of .* pictures of .* are gone"):
        read_tiles(folder)
    text = (folder / "dataset.json").read_text()
    (folder / "dataset.json").write_text(text[:200])
    with pytest.raises(DatasetError, match="damaged"):
        read_tiles(folder)
    (folder / "dataset.json").write_text(text.replace('"geoclass-dataset"', '"something"'))
    with pytest.raises(GeoclassError, match="format"):
        read_tiles(folder)
    (folder / "dataset.json").write_text(text)
    (folder / "tiles.gpkg").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"tiles.gpkg cannot be read"):
        read_tiles(folder)
    with pytest.raises(DatasetError, match="is no dataset"):
        read_dataset(tmp_path)


# ---- corrections and suspects


def test_corrections_round_trip(made: Dataset, tmp_path: Path) -> None:
    folder = copied(made, tmp_path)
    keys = made.table["key"].tolist()
    other = next(name for name in ("Water", "Forest") if name != made.table["label"][0])
    csv = tmp_path / "fixes.csv"
    csv.write_text(
        f"\ufeffkey,label\n{keys[0]},{other.lower()}\n{keys[1]},remove\n{keys[2]},\n{keys[3]},{made.table['label'][3]}\n"
    )
    write_suspects(folder, suspects(keys, *_planted(made)))
    done = apply_corrections(folder, csv)
    assert (done.relabelled, done.removed) == (1, 2)
    after = read_dataset(folder)
    assert len(after) == len(made) - 2 and after.digest == after.meta.digest != made.digest
    row = after.table.set_index("key").loc[keys[0]]
    assert row["label"] == other and row["class_id"] == after.meta.scheme.classes[after.meta.scheme.index(other)].id
    assert keys[1] not in set(after.table["key"]) and not (folder / made.table["image"][1]).exists()
    assert after.meta.left_out["removed by hand"] == 2 and after.meta.corrected == 1
    assert sum(sum(counts.values()) for counts in after.meta.counts.values()) == len(after)
    assert keys[0] not in {item.key for item in read_suspects(folder) or ()}
    assert not list(folder.glob(".*"))
    kept = after.table.set_index("key")
    rest = made.table.set_index("key").loc[keys[4:]]
    assert (kept.loc[keys[4:], "label"] == rest["label"]).all()
    assert list(after.table.columns) == list(made.table.columns)


def _planted(data: Dataset) -> tuple[np.ndarray, np.ndarray, Any]:
    """Probabilities that contradict the first tile."""
    scheme = data.meta.scheme
    classes = np.array([scheme.index(name) for name in data.table["label"]])
    shares = np.full((len(data), len(scheme)), 0.02)
    shares[np.arange(len(data)), classes] = 0.9
    shares[0] = 0.01
    shares[0, (classes[0] + 1) % len(scheme)] = 0.95
    used = (classes[0] + 1) % len(scheme)
    if not (classes == used).any():
        used = next(k for k in classes if k != classes[0])
        shares[0] = 0.01
        shares[0, used] = 0.95
    return classes, shares, scheme


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("nosuch/tile,Water", "names tile 'nosuch/tile'"),
        ("{key},Ocean", "use one of Water, Developed"),
        ("{key},Water\n{key},Forest", "two labels"),
    ],
)
def test_wrong_corrections_change_nothing(made: Dataset, tmp_path: Path, rows: str, said: str) -> None:
    csv = tmp_path / "fixes.csv"
    csv.write_text("key,label\n" + rows.format(key=made.table["key"][0]) + "\n")
    with pytest.raises(DatasetError, match=said):
        apply_corrections(made.folder, csv)
    assert read_dataset(made.folder).digest == made.digest
    csv.write_text("name,label\na,b\n")
    with pytest.raises(DatasetError, match="no column 'key'"):
        apply_corrections(made.folder, csv)
    with pytest.raises(DatasetError, match="no such file"):
        apply_corrections(made.folder, tmp_path / "none.csv")


def test_a_class_may_not_be_emptied(made: Dataset, tmp_path: Path) -> None:
    gone = made.table[made.table["label"] == "Water"]["key"]
    (tmp_path / "fixes.csv").write_text("key,label\n" + "".join(f"{key},remove\n" for key in gone))
    with pytest.raises(DatasetError, match="would leave class Water"):
        apply_corrections(made.folder, tmp_path / "fixes.csv")


def test_suspects_by_confident_learning() -> None:
    scheme = load_scheme("nlcd3").model_copy()
    keys = tuple("abcdefg")
    classes = np.array([0, 0, 0, 1, 1, 1, 1])
    # Mean self-confidence of class 0: (0.9 + 0.8 + 0.05) / 3 = 0.583; of class 1: (0.9 + 0.7 + 0.3 + 0.45) / 4 = 0.5875.
    first = np.array([0.9, 0.8, 0.05, 0.1, 0.3, 0.7, 0.55])
    shares = np.stack([first, 1 - first, np.zeros(7)], axis=1)
    found = suspects(keys, classes, shares, scheme)
    # c is called class 1 with 0.95 >= 0.5875; f class 0 with 0.7 >= 0.583; g only with 0.55, less than the threshold.
    assert [(item.key, item.label, item.suggested) for item in found] == [
        ("c", scheme.names[0], scheme.names[1]), ("f", scheme.names[1], scheme.names[0]),
    ]  # fmt: skip
    assert [item.probability for item in found] == pytest.approx([0.95, 0.7])


def test_suspects_are_kept_in_a_file(tmp_path: Path) -> None:
    assert read_suspects(tmp_path) is None
    scheme = load_scheme("nlcd3")
    shares = np.array([[0.9, 0.1, 0], [0.95, 0.05, 0], [0.2, 0.8, 0], [0.99, 0.01, 0]])
    found = suspects(("a", 'with "quotes", too', "c", "d"), np.array([0, 1, 1, 0]), shares, scheme)
    write_suspects(tmp_path, found)
    assert read_suspects(tmp_path) == found and len(found) == 1


# ---- interrupted, and bad input


def test_interrupted_build_leaves_nothing(ground: Path, made: Dataset, tmp_path: Path) -> None:
    def stop(stage: str, done: int, _: int) -> None:
        if stage == "cutting" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(ground, tmp_path / "data", progress=stop)
    assert not list(tmp_path.iterdir())
    folder = copied(made, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        build(ground, folder, overwrite=True, progress=stop)
    assert read_dataset(folder).digest == made.digest and [path.name for path in tmp_path.iterdir()] == ["data"]
    assert len(read_tiles(folder)) == len(made)


def test_what_is_there_is_kept(ground: Path, made: Dataset, tmp_path: Path) -> None:
    folder = copied(made, tmp_path)
    with pytest.raises(OutputError, match="exists and is kept"):
        build(ground, folder)
    (folder / "leftover.txt").write_text("of the old one")
    assert build(ground, folder, overwrite=True, seed=3).digest != made.digest
    assert not (folder / "leftover.txt").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="is no dataset, so it is not replaced"):
        build(ground, mine, overwrite=True)
    assert (mine / "thesis.txt").exists()


def run(*arguments: Any) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["dataset", *map(str, arguments)])
    return result.exit_code, result.output


def test_command_line(ground: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    code, said = run(
        ground / "zion.tif",
        "--labels",
        ground / "nlcd.tif",
        "--scheme",
        "nlcd6",
        "--size",
        SIZE,
        "-o",
        out,
        "--shares",
        "60,15,25",
    )
    assert code == 0, said
    assert (
        "in the buffer between blocks" in said and "blocks of" in said and "index.html" in said and "Cultivated" in said
    )
    assert (out / "index.html").is_file() and (out / "tiles.qml").is_file()
    assert read_dataset(out).meta.split.shares == (0.6, 0.15, 0.25)
    key = read_dataset(out).table["key"][0]
    (tmp_path / "fixes.csv").write_text(f"key,label\n{key},remove\n")
    code, said = run(out, "--corrections", tmp_path / "fixes.csv")
    assert code == 0 and "0 tiles relabelled, 1 removed" in said
    code, said = run(out, "--suspects")
    assert code == 0 and "index.html" in said


@pytest.fixture(scope="module")
def odd(ground: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What goes wrong, as files."""
    folder = tmp_path_factory.mktemp("odd")
    write_labels(folder / "far.tif", west=900_000)
    write_labels(folder / "codes.tif", np.full((280, 280), 77, np.uint8))
    write_labels(folder / "one.tif", np.full((280, 280), 42, np.uint8))
    (folder / "noise.txt").write_text("no labels")
    gpd.GeoDataFrame(
        {"cover": ["Water", "Forest"]}, crs="EPSG:32612", geometry=[shapely.box(LEFT, TOP - 900, LEFT + 900, TOP)] * 2
    ).to_file(folder / "polygons.gpkg")
    (folder / "empty").mkdir()
    write_folders(folder / "single", 5, ("Field",))
    write_folders(folder / "few", 5)
    write_folders(folder / "fewer", 3)
    for path in list((folder / "fewer" / "Grass").iterdir())[1:]:
        path.unlink()
    write_folders(folder / "deep", 3)
    Image.fromarray(np.zeros((32, 32), np.uint16)).save(folder / "deep" / "Field" / "deep.png")
    return folder


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{g}/zion.tif"], "imagery needs labels"),
        (["{o}/empty"], "holds 0 class folders"),
        (["{o}/single"], "holds 1 class folders"),
        (["{o}/fewer"], "fewer than 2 pictures"),
        (["{o}/nothing"], "no such folder"),
        (["{o}/deep"], "not an 8-bit picture"),
        (["{o}/few", "--scheme", "nlcd6"], "is no class of scheme 'nlcd6'"),
        (["{o}/few", "--split", "by-scene"], "class folders tell no scenes"),
        (["{o}/few", "--split", "by-field", "--split-field", "x"], "class folders tell no fields"),
        (["{g}/zion.tif", "--labels", "{o}/far.tif", "--scheme", "nlcd6"], "CRS"),
        (["{g}/zion.tif", "--labels", "{o}/codes.tif", "--scheme", "nlcd6"], "77"),
        (["{g}/zion.tif", "--labels", "{o}/one.tif", "--scheme", "nlcd6"], "are Forest; a dataset needs two classes"),
        (["{g}/zion.tif", "--labels", "{o}/noise.txt", "--scheme", "nlcd6"], "noise.txt"),
        (["{g}/zion.tif", "--labels", "{o}/none.tif", "--scheme", "nlcd6"], "none.tif"),
        (["{g}/zion.tif", "--labels", "{o}/polygons.gpkg"], "--class-field"),
        (["{g}/zion.tif", "--labels", "{o}/polygons.gpkg", "--class-field", "kind"], "kind"),
        (["{g}/zion.tif", "--labels", "{g}/nlcd.tif", "--scheme", "nosuch"], "unknown scheme"),
        (["{g}/zion.tif", "--labels", "{g}/nlcd.tif", "--scheme", "nlcd6", "--min-purity", "3"], "--min-purity"),
        (["{g}/zion.tif", "--labels", "{g}/nlcd.tif", "--scheme", "nlcd6", "--min-valid", "3"], "--min-valid"),
        (["{g}/zion.tif", "--labels", "{g}/nlcd.tif", "--scheme", "nlcd6", "--shares", "60,60,60"], "--shares"),
        (["{g}/zion.tif", "--labels", "{g}/nlcd.tif", "--scheme", "nlcd6", "--shares", "some"], "60,15,25"),
        (["{g}/zion.tif", "--labels", "{g}/nlcd.tif", "--scheme", "nlcd6", "--block-m", "-5"], "--block-m"),
        (["{g}/zion.tif", "--labels", "{g}/nlcd.tif", "--scheme", "nlcd6", "--block-m", "90000"], "block"),
        (["{g}/zion.tif", "--labels", "{g}/nlcd.tif", "--scheme", "nlcd6", "--split", "by-field"], "--split-field"),
        (["{g}/zion.tif", "--labels", "{g}/nlcd.tif", "--scheme", "nlcd6", "--split", "by-scene"], "too few"),
        (["{g}/zion.tif", "--labels", "{g}/nlcd.tif", "--scheme", "nlcd6", "--bands", "nir"], "nir"),
        (["{g}/zion.tif", "--labels", "{g}/nlcd.tif", "--scheme", "nlcd6", "--size", "5000"], "smaller than one tile"),
        (["{g}/none.tif", "--labels", "{g}/nlcd.tif", "--scheme", "nlcd6"], "none.tif"),
        (["--labels", "{g}/nlcd.tif", "--scheme", "nlcd6"], "no scene named"),
    ],
)
def test_bad_input_is_one_line(ground: Path, odd: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    given = [item.format(g=ground, o=odd) for item in arguments]
    sizes = [] if "--size" in given else ["--size", str(SIZE)]
    code, output = run(*given, *sizes, "-o", tmp_path / "data")
    lines = [line for line in output.splitlines() if line.strip()]
    assert code == 2 and len(lines) == 1 and said in lines[0], output
    assert not list(tmp_path.iterdir())


def test_command_line_needs_a_folder(ground: Path, made: Dataset) -> None:
    assert "name one with -o" in run(ground / "zion.tif", "--labels", ground / "nlcd.tif")[1]
    assert "is a dataset already" in run(made.folder, "-o", made.folder.parent / "x")[1]
    assert "name one dataset folder" in run("--suspects")[1]


def test_the_description_is_plain_json(made: Dataset) -> None:
    values = json.loads((made.folder / "dataset.json").read_text())
    assert values["format"] == "geoclass-dataset" and values["labels"]["source"] == "nlcd.tif"
    assert values["sources"][0]["name"] == "zion" and len(values["labels"]["digest"]) == 32
    assert str(made.folder.parent) not in values["labels"]["source"]
    assert pyogrio.list_layers(made.folder / "tiles.gpkg").tolist() == [["tiles", "Polygon"]]
