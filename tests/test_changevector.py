"""The change GeoPackage: what GDAL, SQLite and QGIS find in it, and the same Change read back."""

import json
import os
import sqlite3
import subprocess
import textwrap
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import PIL.Image
import pyogrio
import pytest

from geoclass.changes.posterior import KINDS, Change, Prior
from geoclass.changes.series import Series, Source, Uncovered
from geoclass.changes.stored import read_change, read_info
from geoclass.errors import ChangeError, OutputError
from geoclass.grid import TileGrid, TileRange, cells, parse_crs
from geoclass.outputs.changeqml import CHANCES
from geoclass.outputs.changestyle import CATEGORIES, categories
from geoclass.outputs.changevector import write_change_gpkg
from geoclass.outputs.colours import TOO_NEAR, nearest_pair
from geoclass.schemes import ClassScheme, LandClass

SCHEME = ClassScheme(
    name="awkward",
    classes=(
        LandClass(id=11, name="Open Water", colour="#466b9f"),
        LandClass(id=21, name="Developed, Open Space", colour="#dec5c5"),
        LandClass(id=95, name='Wald/Gebüsch <50% & "Heide"', colour="#6c9fb8"),
    ),
    groups={"built": ("Developed, Open Space",), "water": ("Open Water",)},
)
WATER, BUILT, WOOD = range(3)
DATES = ("2010", "2016-07-14", "2022")


def make_change(
    columns: int = 12,
    rows: int = 9,
    dates: tuple[str, ...] = DATES,
    scheme: ClassScheme = SCHEME,
    crs: str = "EPSG:26919",
    lost: int = 5,
    seed: int = 0,
) -> Change:
    """Random probabilities, over a block of tiles of which every seventh is left out."""
    random = np.random.default_rng(seed)
    at_columns, at_rows = cells(TileRange(1800, 21_000 - rows, 1800 + columns, 21_000))
    keep = np.arange(len(at_columns)) % 7 != 3 if len(at_columns) > 3 else np.ones(len(at_columns), bool)
    count, times, classes = int(keep.sum()), len(dates), len(scheme)
    raw, posterior = (
        random.dirichlet(np.full(classes, 0.4), (count, times)).astype(np.float32) for _ in ("raw", "posterior")
    )
    covered = random.random((lost, times)) < 0.5
    series = Series(
        TileGrid(parse_crs(crs)),
        scheme,
        dates,
        at_columns[keep],
        at_rows[keep],
        raw,
        random.uniform(0.5, 1, (count, times)).astype(np.float32),
        tuple(Source(None, {"date": date, "bundle": "b" * 8}) for date in dates),
        Uncovered(np.arange(lost, dtype=np.int64) + 1700, np.full(lost, 20_990, np.int64), covered),
        built=(scheme.names[BUILT],),
        open=(scheme.names[WOOD],),
        warnings=('the sensors differ: "NAIP" & Landsat',) if lost else (),
    )
    prior = Prior(random.dirichlet(np.ones(classes)), random.dirichlet(np.ones(classes), (times - 1, classes)))
    first, last = posterior[:, 0], posterior[:, -1]
    p_change = (1 - (first * last).sum(axis=1)).astype(np.float32)
    return Change(series, prior, posterior, p_change, (first[:, WOOD] * last[:, BUILT]).astype(np.float32), 0.37)


def assert_same(found: Change, expected: Change) -> None:
    ours, theirs = found.series, expected.series
    for name in ("grid", "scheme", "dates", "sources", "built", "open", "warnings"):
        assert getattr(ours, name) == getattr(theirs, name), name
    pairs = [
        (getattr(ours, name), getattr(theirs, name)) for name in ("columns", "rows", "probabilities", "valid_fraction")
    ]
    pairs += [
        (getattr(ours.uncovered, name), getattr(theirs.uncovered, name)) for name in ("columns", "rows", "covered")
    ]
    pairs += [(getattr(found.prior, name), getattr(expected.prior, name)) for name in ("start", "transitions")]
    pairs += [(getattr(found, name), getattr(expected, name)) for name in ("posterior", "p_change", "p_new_built")]
    pairs += [
        (getattr(found, name), getattr(expected, name)) for name in ("classes", "kind", "new_built", "transition")
    ]
    for a, b in pairs:
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert found.threshold == expected.threshold
    assert categories(found).tolist() == categories(expected).tolist()


# ---- Categories ----


def test_category_colours_are_told_apart_by_every_reader() -> None:
    assert nearest_pair(tuple(item.colour for item in CATEGORIES)) > 2 * TOO_NEAR
    assert len({item.key for item in CATEGORIES}) == len({item.label for item in CATEGORIES}) == len(CATEGORIES)


@pytest.mark.parametrize(
    ("first", "middle", "last", "p_new_built", "expected"),
    [
        (WOOD, WOOD, BUILT, 0.8, "new_built"),
        (WOOD, BUILT, BUILT, 0.5, "new_built"),
        (BUILT, BUILT, BUILT, 0.5, "new_built"),  # classes add up: the decision is on the probability
        (WOOD, WOOD, BUILT, 0.49, "maybe_built"),
        (WATER, BUILT, BUILT, 0.0, "other"),  # water cannot become built-up in this scheme
        (BUILT, BUILT, WOOD, 0.0, "lost_built"),
        (WATER, WATER, WOOD, 0.0, "other"),
        (WOOD, BUILT, WOOD, 0.1, "flicker"),
        (WOOD, WOOD, WOOD, 0.1, "stable"),
    ],
)
def test_each_tile_has_the_category_its_history_asks_for(
    first: int, middle: int, last: int, p_new_built: float, expected: str
) -> None:
    made = make_change(columns=1, rows=1)
    sure = np.eye(3, dtype=np.float32)[[first, middle, last]][None]
    change = replace(
        made,
        series=replace(made.series, probabilities=sure),
        posterior=sure,
        p_new_built=np.array([p_new_built], np.float32),
        threshold=0.5,
    )
    assert CATEGORIES[categories(change)[0]].key == expected


# ---- What is in the file ----


@pytest.mark.parametrize(
    "change",
    [
        make_change(),
        make_change(lost=0),
        make_change(columns=1, rows=1, dates=("1999", "2001")),
        make_change(columns=200, rows=120, dates=("2010", "2016")),
        make_change(crs="EPSG:2263"),
        make_change(crs="+proj=aea +lat_1=37 +lat_2=39 +lat_0=38 +lon_0=-80 +datum=NAD83 +units=m"),
    ],
    ids=["three dates", "all covered", "one tile", "several batches", "US survey feet", "no EPSG code"],
)
def test_the_same_change_is_read_back(change: Change, tmp_path: Path) -> None:
    write_change_gpkg(change, tmp_path / "change.gpkg", info={"name": "Ellis", "group": None})
    assert_same(read_change(tmp_path / "change.gpkg"), change)
    assert read_info(tmp_path / "change.gpkg") == {"name": "Ellis", "group": None}


def test_columns_say_what_the_change_says(tmp_path: Path) -> None:
    change = make_change()
    hot = np.arange(len(change), dtype=np.float64)
    write_change_gpkg(change, tmp_path / "a.gpkg", info={"name": "Ellis"}, hot_spots=hot)
    table = gpd.read_file(tmp_path / "a.gpkg", layer="change")
    series, names = change.series, SCHEME.names
    assert list(table["tile_id"]) == series.tile_ids
    assert list(table["transition"]) == list(change.transition)
    assert any(" → " in text for text in table["transition"])
    assert list(table["kind"]) == [KINDS[k] for k in change.kind]
    assert list(table["change"]) == [CATEGORIES[k].label for k in categories(change)]
    assert table["new_built"].dtype == bool
    assert list(table["new_built"]) == list(change.p_new_built >= np.float32(0.37))
    for t, date in enumerate(DATES):
        assert list(table[f"class_{date}"]) == [names[k] for k in change.posterior[:, t].argmax(axis=1)]
        assert list(table[f"raw_class_{date}"]) == [names[k] for k in series.probabilities[:, t].argmax(axis=1)]
        for k, name in enumerate(names):
            assert np.array_equal(table[f"p_{name}_{date}"].astype(np.float32), change.posterior[:, t, k])
    assert np.array_equal(table["valid_fraction"].astype(np.float32), series.valid_fraction.min(axis=1))
    assert list(table["hot_spot"]) == list(hot)
    assert [tuple(box) for box in table.geometry.bounds.to_numpy()[:3]] == [
        series.grid.bounds(c, r) for c, r in zip(series.columns[:3], series.rows[:3], strict=True)
    ]
    lost = gpd.read_file(tmp_path / "a.gpkg", layer="uncovered")
    assert lost.crs == table.crs == "EPSG:26919"
    assert np.array_equal(lost[[f"covered_{date}" for date in DATES]].to_numpy(bool), series.uncovered.covered)


def test_metadata_and_styles(tmp_path: Path) -> None:
    change = make_change()
    write_change_gpkg(change, tmp_path / "a.gpkg", info={"name": "Ellis"})
    described = pyogrio.read_info(tmp_path / "a.gpkg", layer="change")
    about = json.loads(described["layer_metadata"]["GEOCLASS_CHANGE"])
    assert about["dates"] == list(DATES)
    assert about["built"] == ["Developed, Open Space"]
    assert about["threshold"] == 0.37
    assert about["warnings"] == ['the sensors differ: "NAIP" & Landsat']
    assert np.allclose(about["prior"]["transitions"], change.prior.transitions, rtol=0, atol=0)
    with closing(sqlite3.connect(tmp_path / "a.gpkg")) as database:
        styles = database.execute("SELECT f_table_name, styleName, useAsDefault FROM layer_styles").fetchall()
        title, text = database.execute(
            "SELECT identifier, description FROM gpkg_contents WHERE table_name = 'change'"
        ).fetchone()
    assert styles[0] == ("change", "change", 1)
    assert sum(default for layer, _, default in styles if layer == "change") == 1
    assert ("uncovered", "not covered", 1) in styles
    assert title == "Land-cover change of Ellis, 2010 to 2022"
    assert "tiles of 224 m on 3 dates" in text


def test_sources_are_found_from_wherever_the_reader_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change = make_change()
    named = tuple(Source(tmp_path / date / "county.gpkg", {}) for date in DATES)
    change = replace(change, series=replace(change.series, sources=named))
    (tmp_path / "trend" / "staged").mkdir(parents=True)
    write_change_gpkg(change, tmp_path / "trend" / "staged" / "a.gpkg", info={}, home=tmp_path / "trend")
    (tmp_path / "trend" / "staged" / "a.gpkg").rename(tmp_path / "trend" / "a.gpkg")
    assert str(tmp_path).encode() not in (tmp_path / "trend" / "a.gpkg").read_bytes()
    assert [s.path for s in read_change(tmp_path / "trend" / "a.gpkg").series.sources] == [s.path for s in named]
    monkeypatch.chdir(tmp_path / "trend")
    assert [s.path for s in read_change(Path("a.gpkg")).series.sources] == [
        Path("..") / date / "county.gpkg" for date in DATES
    ]


def test_a_county_of_three_dates_is_read_back_whole(tmp_path: Path) -> None:
    scheme = ClassScheme(
        name="six", classes=tuple(LandClass(id=k, name=f"class {k}", colour=f"#{k:06x}") for k in range(1, 7))
    )
    change = make_change(columns=300, rows=261, scheme=scheme)
    assert len(change) > 67_000
    write_change_gpkg(change, tmp_path / "a.gpkg", info={})
    found = read_change(tmp_path / "a.gpkg")
    assert np.array_equal(found.posterior, change.posterior)


# ---- Bad input ----


def edit(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        for (trigger,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f'DROP TRIGGER "{trigger}"')
        for statement in statements:
            database.execute(statement)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("DELETE FROM change WHERE fid = 3", "tiles were written"),
        ("DELETE FROM uncovered WHERE fid = 1", "tiles were written"),
        ("UPDATE change SET \"p_Open Water_2010\" = 0.9, \"p_Developed, Open Space_2010\" = 0.8 WHERE fid = 2", "sum to 1"),
        ("UPDATE change SET p_new_built = NULL WHERE fid = 2", "p_new_built"),
        ("UPDATE change SET p_change = -0.1 WHERE fid = 2", "p_change"),
        ("UPDATE change SET tile_id = 'x' WHERE fid = 2", "tile ids"),
        ("ALTER TABLE change DROP COLUMN valid_fraction_2022", "valid_fraction_2022"),
        ("UPDATE gpkg_metadata SET metadata = replace(metadata, 'threshold', 'treshold')", "threshold|Field required"),
        ("UPDATE gpkg_metadata SET metadata = replace(metadata, 'Open Water', 'Brine')", "damaged|no class"),
        ("UPDATE gpkg_metadata SET metadata = replace(metadata, 'GEOCLASS_CHANGE', 'OTHER')", "GEOCLASS_CHANGE"),
    ],
)  # fmt: skip
def test_damage_is_refused(tmp_path: Path, statement: str, reason: str) -> None:
    write_change_gpkg(make_change(), tmp_path / "a.gpkg", info={})
    edit(tmp_path / "a.gpkg", statement)
    with pytest.raises(ChangeError, match=reason):
        read_change(tmp_path / "a.gpkg")


def test_order_and_added_columns_do_not_matter(tmp_path: Path) -> None:
    change = make_change()
    write_change_gpkg(change, tmp_path / "a.gpkg", info={})
    edit(
        tmp_path / "a.gpkg",
        "ALTER TABLE change ADD COLUMN note TEXT",
        "UPDATE change SET fid = 1000 - fid, \"class_2010\" = 'edited'",
    )
    assert_same(read_change(tmp_path / "a.gpkg"), change)


def test_what_is_no_change_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ChangeError, match="no file"):
        read_change(tmp_path / "none.gpkg")
    (tmp_path / "text.gpkg").write_text("hello")
    with pytest.raises(ChangeError, match="cannot be read"):
        read_change(tmp_path / "text.gpkg")
    frame = gpd.GeoDataFrame({"a": [1]}, geometry=gpd.points_from_xy([0], [0]), crs="EPSG:26919")
    frame.to_file(tmp_path / "other.gpkg", layer="change")
    with pytest.raises(ChangeError, match="no change result"):
        read_change(tmp_path / "other.gpkg")
    write_change_gpkg(make_change(columns=60, rows=60), tmp_path / "cut.gpkg", info={})
    whole = (tmp_path / "cut.gpkg").read_bytes()
    for share in (0.3, 0.6, 0.9):
        (tmp_path / "cut.gpkg").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ChangeError):
            read_change(tmp_path / "cut.gpkg")


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    classes = tuple(LandClass(id=k, name=f"class {k}", colour=f"#{k:06x}") for k in range(1, 256))
    with pytest.raises(OutputError, match="--group"):
        write_change_gpkg(
            make_change(1, 1, tuple(str(y) for y in range(2000, 2004)), ClassScheme(name="many", classes=classes)),
            tmp_path / "a.gpkg",
            info={},
        )
    change = make_change()
    none = np.zeros(0, np.int64)
    empty = replace(
        change,
        series=replace(change.series, columns=none, rows=none, probabilities=np.zeros((0, 3, 3), np.float32)),
        posterior=np.zeros((0, 3, 3), np.float32),
    )
    with pytest.raises(OutputError, match="every date"):
        write_change_gpkg(empty, tmp_path / "a.gpkg", info={})
    assert not list(tmp_path.iterdir())


# ---- QGIS ----

QGIS = textwrap.dedent(
    """
    import json, os, sys
    from qgis.core import QgsApplication, QgsMapRendererSequentialJob, QgsMapSettings, QgsVectorLayer
    from qgis.PyQt.QtCore import QSize
    from qgis.PyQt.QtGui import QColor
    QgsApplication.setPrefixPath("/usr", True)
    application = QgsApplication([], False)
    application.initQgis()
    path, found, layers = sys.argv[1], {}, []
    for name in ("uncovered", "change"):
        layer = QgsVectorLayer(path + "|layername=" + name, name, "ogr")
        _, styled = layer.loadDefaultStyle()
        layers.append(layer)
        renderer = layer.renderer()
        found[name] = {"valid": layer.isValid(), "styled": styled, "renderer": renderer.type(), "tiles": layer.featureCount()}
        if renderer.type() == "categorizedSymbol":
            found[name]["attribute"] = renderer.classAttribute()
            found[name]["classes"] = [[c.value(), c.label(), c.symbol().color().name()] for c in renderer.categories()]

    def draw(path, layers):
        picture = QgsMapSettings()
        picture.setLayers(layers)
        picture.setDestinationCrs(layers[-1].crs())
        picture.setExtent(layers[-1].extent())
        picture.setOutputSize(QSize(240, 180))
        picture.setBackgroundColor(QColor("white"))
        job = QgsMapRendererSequentialJob(picture)
        job.start()
        job.waitForFinished()
        job.renderedImage().save(path)

    draw(path + ".png", layers[1:])
    draw(path + ".all.png", layers[:1])
    layer, styles = layers[1], {}
    count, ids, names, *_ = layer.listStylesInDatabase()
    for id, name in list(zip(ids, names))[:count]:
        text = layer.getStyleFromDatabase(id)[0]
        from qgis.PyQt.QtXml import QDomDocument
        document = QDomDocument()
        document.setContent(text)
        layer.importNamedStyle(document)
        renderer = layer.renderer()
        styles[name] = [renderer.type(), renderer.classAttribute()]
        if renderer.type() == "graduatedSymbol":
            styles[name] += [[r.lowerValue(), r.upperValue(), r.symbol().color().name()] for r in renderer.ranges()]
        draw(path + "." + renderer.type() + "." + renderer.classAttribute() + ".png", [layer])
    found["styles"] = styles
    print(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # QGIS's own teardown can crash after the work is done
    """
)


def test_qgis_draws_each_tile_in_the_colour_of_its_category(tmp_path: Path, qgis_python: str) -> None:
    change = make_change()
    path = tmp_path / "a.gpkg"
    write_change_gpkg(change, path, info={})
    done = subprocess.run(
        [qgis_python, "-c", QGIS, str(path)],
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["change"] == {
        "valid": True, "styled": True, "renderer": "categorizedSymbol", "tiles": len(change), "attribute": "change",
        "classes": [[item.label, item.label, item.colour] for item in CATEGORIES],
    }  # fmt: skip
    assert found["uncovered"] == {"valid": True, "styled": True, "renderer": "singleSymbol", "tiles": 5}
    styles = found["styles"]
    assert styles["change"] == ["categorizedSymbol", "change"]
    starts = [0, *(upper for upper, _ in CHANCES)]
    assert styles["chance of new built-up"][:2] == ["graduatedSymbol", "p_new_built"]
    assert styles["chance of new built-up"][2:] == [
        [low, high, colour] for low, (high, colour) in zip(starts, CHANCES, strict=False)
    ]
    assert [styles[f"classes {date}"] for date in DATES] == [["categorizedSymbol", f"class_{date}"] for date in DATES]
    series = change.series
    by_category = np.array([item.rgb for item in CATEGORIES], np.uint8)[categories(change)]
    assert_drawn(f"{path}.png", series, by_category)
    last = np.array([item.rgb for item in SCHEME.classes], np.uint8)[change.classes[:, 1]]
    assert_drawn(f"{path}.categorizedSymbol.class_2016-07-14.png", series, last)
    step = np.searchsorted([upper for upper, _ in CHANCES], change.p_new_built)
    chance = np.array([list(bytes.fromhex(colour[1:])) for _, colour in CHANCES], np.uint8)[step]
    assert_drawn(f"{path}.graduatedSymbol.p_new_built.png", series, chance)


def assert_drawn(picture: str, series: Series, colours: np.ndarray) -> None:
    """Every tile's centre has its colour; the picture is 20 px a tile."""
    with PIL.Image.open(picture) as image:
        centres = np.asarray(image.convert("RGB"))[10::20, 10::20]
    np.testing.assert_array_equal(centres, series.image(colours, 255), err_msg=picture)
