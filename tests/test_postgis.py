"""Results in a real PostgreSQL with PostGIS, which the tests start, read back by SQL, by geoclass and by QGIS."""

import dataclasses
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
import shapely
from click.testing import CliRunner
from conftest import write_coordinates
from postgresql_server import ADMIN, ENCODED, PASSWORD, PLANNER, Server
from psycopg import sql

import geoclass
from geoclass import smoothing
from geoclass.cli import main
from geoclass.database.address import parse_address
from geoclass.database.copying import HEADER, TRAILER, pack, unpack
from geoclass.database.loading import load_result, require_database, run_id
from geoclass.database.reading import list_runs, read_run
from geoclass.database.tables import LOCK
from geoclass.database.views import probability_columns
from geoclass.errors import DatabaseError
from geoclass.grid import TileGrid, TileRange, cells, parse_crs
from geoclass.labels import Labels
from geoclass.outputs import vector
from geoclass.outputs.changevector import LAYER as CHANGED
from geoclass.results import read_result
from geoclass.schemes import ClassScheme, LandClass, load_scheme

NAMED = ClassScheme(
    name="awkward",
    title='Names with commas, slashes & "quotes"',
    classes=(
        LandClass(id=11, name="Open Water", colour="#466b9f"),
        LandClass(id=21, name="Developed, Open Space", colour="#dec5c5"),
        LandClass(id=22, name="developed open space.", colour="#d99282"),
        LandClass(id=95, name='Wald/Gebüsch <50% & "Heide"', colour="#6c9fb8"),
        LandClass(id=96, name="水面", colour="#000080"),
    ),
)
MANY = ClassScheme(
    name="many", classes=tuple(LandClass(id=k, name=f"class {k}", colour=f"#{k * 65_793:06x}") for k in range(1, 256))
)
CUSTOM_CRS = "+proj=aea +lat_1=37 +lat_2=39 +lat_0=38 +lon_0=-80 +x_0=1000 +y_0=2000 +datum=NAD83 +units=m"


def made(
    columns: int = 5, rows: int = 4, scheme: ClassScheme = NAMED, crs: str = "EPSG:26919", left: int = 1800, top: int = 21_000,
    gsd_m: float = 1.0, seed: int = 0, date: str = "2021-07-01", **info: Any,
) -> Labels:  # fmt: skip
    """Labels of a block of tiles with random probabilities."""
    chance = np.random.default_rng(seed)
    at_columns, at_rows = cells(TileRange(left, top - rows, left + columns, top))
    probabilities = chance.dirichlet(np.full(len(scheme), 0.3), len(at_columns)).astype(np.float32)
    valid = chance.uniform(0.5, 1, len(at_columns)).astype(np.float32)
    about = {"name": "Ellis County", "date": date, "inputs": [f"{date}.tif"], "bundle": "0a1b", "model": "m.pt"}
    grid = TileGrid(parse_crs(crs), 224, gsd_m)
    return Labels(grid, scheme, at_columns, at_rows, probabilities, valid, info={**about, **info})


@pytest.fixture(scope="module")
def database(postgis: Server) -> str:
    return postgis.address(postgis.create())


@pytest.fixture()
def address(database: str) -> Iterator[str]:
    """A database with PostGIS and nothing of ours, whose owner is no administrator."""
    yield database
    clear(database)


def clear(address: str) -> None:
    own = "SELECT nspname FROM pg_namespace WHERE nspowner = current_user::regrole"
    schemas = [sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)) for (name,) in rows(address, own)]
    change(address, *schemas, "DROP TABLE IF EXISTS public.layer_styles")


def rows(address: str, query: Any, values: Any = None) -> list[tuple[Any, ...]]:
    with psycopg.connect(address) as connection:
        return connection.execute(query, values).fetchall()


def one(address: str, query: Any, values: Any = None) -> Any:
    return rows(address, query, values)[0][0]


def change(address: str, *statements: Any) -> None:
    with psycopg.connect(address) as connection:
        for statement in statements:
            connection.execute(statement)


def assert_same(found: Labels, expected: Labels) -> None:
    assert found.grid == expected.grid
    assert found.scheme == expected.scheme
    assert dict(found.info) == json.loads(json.dumps(dict(expected.info)))
    for name in ("columns", "rows", "probabilities", "valid_fraction", "raw"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        if theirs is None:
            assert ours is None
        else:
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


CASES: dict[str, dict[str, Any]] = {
    "awkward names": {},
    "one tile": {"columns": 1, "rows": 1},
    "negative columns and rows": {"left": -3, "top": 2},
    "255 classes": {"scheme": MANY},
    "0.6 m pixels": {"gsd_m": 0.6, "left": 3001, "top": 35_003},
    "CRS without a code": {"crs": CUSTOM_CRS, "left": -40, "top": 12},
    "US survey feet": {"crs": "EPSG:2263", "left": 1340, "top": 280},
    "more than a chunk": {"columns": 150, "rows": 80, "scheme": load_scheme("nlcd6")},
    "no word of where from": {"name": None, "date": None, "inputs": None, "bundle": None},
}


@pytest.fixture(scope="module")
def shared(postgis: Server) -> str:
    return postgis.address(postgis.create())


@pytest.mark.parametrize("name", CASES)
def test_what_is_loaded_is_read_back(shared: str, name: str) -> None:
    """All in one database: several grids, reference systems and class schemes beside each other."""
    labels = made(**CASES[name])
    loaded = load_result(labels, shared)
    assert (loaded.tiles, loaded.written, loaded.notes) == (len(labels), len(labels), ())
    assert_same(read_result(f"{shared}?run={loaded.run}"), labels)
    assert_same(geoclass.read_result(f"{shared}?run={loaded.run_view}"), labels)
    frame = labels.to_gdf()
    found = rows(
        shared,
        f"SELECT tile_id, class, class_id, confidence, ST_AsBinary(geom), ST_SRID(geom), date FROM geoclass.{loaded.table} "
        "WHERE run = %s ORDER BY tile_row DESC, tile_column",
        (loaded.run,),
    )
    ids, classes, numbers, confidence, squares, srids, dates = zip(*found, strict=True)
    assert list(ids) == list(frame["tile_id"])
    assert list(classes) == list(frame["class"])
    assert list(numbers) == list(frame["class_id"])
    np.testing.assert_array_equal(np.array(confidence, np.float32), frame["confidence"])
    ours, theirs = (shapely.normalize(part) for part in (shapely.from_wkb(list(squares)), frame.geometry.to_numpy()))
    assert shapely.equals_exact(ours, theirs, 0).all()
    declared = one(shared, "SELECT srid FROM geometry_columns WHERE f_table_name = %s", (loaded.table,))
    assert set(srids) == {declared}
    assert declared == (labels.grid.crs.to_epsg() or declared)
    assert set(dates) == {labels.info["date"]}
    assert one(shared, f"SELECT count(*) FROM geoclass.{loaded.run_view}") == len(labels)
    assert len(read_run(shared, loaded.run)) == one(
        shared, "SELECT count(*) FROM geoclass.tiles WHERE run = %s", (loaded.run,)
    )


def test_smoothed_results_keep_what_the_model_said(address: str) -> None:
    labels = smoothing.smooth(made(12, 12, load_scheme("nlcd6")), "plurality")
    loaded = load_result(labels, address)
    assert_same(read_run(address), labels)
    plain = load_result(labels.unsmoothed(), address)
    assert plain.run != loaded.run
    assert one(address, "SELECT count(*) FROM geoclass.runs") == 2


def test_a_second_load_changes_nothing(address: str) -> None:
    labels = made()
    first = load_result(labels, address)
    kept = rows(address, f"SELECT id, ctid::text, xmin::text, tile_id FROM geoclass.{first.table} ORDER BY id")
    again = load_result(labels, address)
    assert (again.run, again.written, again.run_view) == (first.run, 0, first.run_view)
    assert rows(address, f"SELECT id, ctid::text, xmin::text, tile_id FROM geoclass.{first.table} ORDER BY id") == kept
    assert one(address, "SELECT count(*) FROM geoclass.runs") == 1
    assert one(address, "SELECT count(*) FROM layer_styles") == 3


def test_a_load_brings_a_run_up_to_date(address: str) -> None:
    """Tiles that differ are changed under their id, those that are gone go, and new ones come."""
    labels = made()
    loaded = load_result(labels, address)
    ids = dict(rows(address, f"SELECT tile_id, id FROM geoclass.{loaded.table}"))
    probabilities = labels.probabilities[1:].copy()
    probabilities[0] = probabilities[0][::-1]
    newer = dataclasses.replace(
        labels, columns=labels.columns[1:], rows=labels.rows[1:], probabilities=probabilities,
        valid_fraction=labels.valid_fraction[1:],
    )  # fmt: skip
    assert load_result(newer, address).written == 1
    assert_same(read_run(address), newer)
    now = dict(rows(address, f"SELECT tile_id, id FROM geoclass.{loaded.table}"))
    assert now == {tile: number for tile, number in ids.items() if tile != labels.tile_ids[0]}
    assert load_result(labels, address).written == 2
    assert_same(read_run(address), labels)


def test_another_date_bundle_or_area_is_another_run(address: str) -> None:
    labels = made()
    others = [{"date": "2023"}, {"bundle": "ffff"}, {"aois": ["POLYGON ((0 0, 1 0, 1 1, 0 0))"]}, {"inputs": ["b.tif"]}]
    ids = {run_id(made(**other)) for other in others} | {run_id(labels), run_id(made(gsd_m=0.6))}
    assert len(ids) == 6
    assert run_id(made(runtime="onnx")) == run_id(labels)
    views = [load_result(item, address).run_view for item in (labels, made(bundle="ffff"), made(date="2023"))]
    assert views == ["run_ellis_county_2021_07_01", "run_ellis_county_2021_07_01_2", "run_ellis_county_2023"]


def test_views_name_classes_and_give_hectares(address: str) -> None:
    early, late = made(date="2019"), made(date="2021", seed=1)
    loaded = [load_result(item, address) for item in (early, late)]
    assert probability_columns(NAMED) == [
        "p_open_water", "p_developed_open_space", "p_developed_open_space_2", "p_wald_gebusch_50_heide", "p_96",
    ]  # fmt: skip
    view = loaded[0].scheme_view
    assert view == loaded[1].scheme_view == "landcover_awkward_26919"
    found = dict(rows(address, f"SELECT class, sum(area_ha) FROM geoclass.{view} WHERE date = '2019' GROUP BY class"))
    for name, area in early.areas_m2().items():
        assert found.get(name, 0) == pytest.approx(area / 1e4)
    named = rows(
        address, f"SELECT {', '.join(probability_columns(NAMED))} FROM geoclass.{loaded[1].run_view} ORDER BY id"
    )
    found_rows, expected = np.array(named, np.float32), late.probabilities
    np.testing.assert_array_equal(np.sort(found_rows, axis=0), np.sort(expected, axis=0))
    moved = one(
        address,
        f"SELECT count(*) FROM geoclass.{loaded[0].run_view} a JOIN geoclass.{loaded[1].run_view} b USING (tile_id) "
        "WHERE a.class <> b.class",
    )
    assert moved == (early.class_index != late.class_index).sum() > 0


def test_schemes_of_one_name_have_views_of_their_own(address: str) -> None:
    other = NAMED.model_copy(update={"classes": NAMED.classes[:2]})
    views = [load_result(made(scheme=scheme), address).scheme_view for scheme in (NAMED, other, NAMED)]
    assert views == ["landcover_awkward_26919", "landcover_awkward_2_26919", "landcover_awkward_26919"]


def test_views_use_the_spatial_index(address: str) -> None:
    loaded = load_result(made(60, 60), address)
    box = "ST_MakeEnvelope(403200, 4698000, 403300, 4698100, 26919)"
    for view in (loaded.run_view, loaded.scheme_view):
        with psycopg.connect(address) as connection:
            connection.execute("SET enable_seqscan = off")
            plan = connection.execute(f"EXPLAIN SELECT id FROM geoclass.{view} WHERE geom && {box}").fetchall()
        assert f"{loaded.table}_geom_idx" in str(plan)


def test_deleting_a_run_deletes_its_tiles(address: str) -> None:
    kept, gone = load_result(made(), address), load_result(made(date="2019"), address)
    change(address, f"DELETE FROM geoclass.runs WHERE id = '{gone.run}'")
    assert rows(address, "SELECT DISTINCT run FROM geoclass.tiles") == [(kept.run,)]
    assert [run.id for run in list_runs(address)] == [kept.run]


def test_a_name_that_a_deleted_run_had_shows_the_new_run(address: str) -> None:
    """The old run's view is still there, and shows nothing."""
    first = load_result(made(), address)
    change(address, f"DELETE FROM geoclass.runs WHERE id = '{first.run}'")
    other = load_result(made(bundle="ffff"), address)
    assert one(address, f"SELECT count(*) FROM geoclass.{other.run_view}") == other.tiles
    again = load_result(made(), address)
    assert again.run_view == first.run_view != other.run_view
    assert one(address, f"SELECT count(*) FROM geoclass.{again.run_view}") == again.tiles


def test_who_may_only_read_can_read(postgis: Server) -> None:
    database = postgis.create()
    labels = made()
    load_result(labels, postgis.address(database))
    with postgis.admin(database) as admin:
        admin.execute(f"CREATE ROLE reader_{database} LOGIN PASSWORD '{PASSWORD}'")
        admin.execute(f"GRANT USAGE ON SCHEMA geoclass TO reader_{database}")
        admin.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA geoclass TO reader_{database}")
    reader = postgis.address(database, f"reader_{database}")
    assert_same(read_run(reader), labels)
    with pytest.raises(DatabaseError, match=r"user reader_.* may not do that .*GRANT CREATE ON DATABASE"):
        load_result(labels, reader)
    with postgis.admin(database) as admin:
        admin.execute(f"REVOKE SELECT ON geoclass.tiles FROM reader_{database}")
    with pytest.raises(
        DatabaseError, match=r"user reader_.* may not read .*GRANT SELECT ON ALL TABLES IN SCHEMA geoclass"
    ):
        read_run(reader)


LOADER = """
import os, sys
from test_postgis import made
from geoclass.database.loading import load_result
from geoclass.schemes import load_scheme
labels = made(150, 100, load_scheme("nlcd6"))
import psycopg, geoclass.database.views
for line in sys.stdin:
    if child := os.fork():
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    else:
        load_result(labels, sys.argv[1])
        os._exit(0)
"""


def test_a_load_killed_at_any_moment_leaves_nothing(address: str) -> None:
    folder = Path(__file__).parent
    paths = os.pathsep.join(filter(None, [str(folder), str(folder.parent), os.environ.get("PYTHONPATH", "")]))
    loader = subprocess.Popen(
        [sys.executable, "-c", LOADER, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert loader.stdin
    assert loader.stdout

    def load(kill_after: float | None) -> tuple[int, float]:
        loader.stdin.write("go\n")
        loader.stdin.flush()
        child, started = int(loader.stdout.readline()), time.perf_counter()
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)
        return int(loader.stdout.readline()), time.perf_counter() - started

    def wait_for_the_server() -> None:
        until = time.monotonic() + 60
        while one(address, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'geoclass'"):
            assert time.monotonic() < until
            time.sleep(0.02)

    try:
        code, seconds = load(None)
        assert code == 0
        clear(address)
        dice, killed = random.Random(7), 0
        for _ in range(40):
            if killed == 4:
                break
            code, took = load(dice.random() * seconds)
            if code == 0:
                seconds = min(seconds, took)
            wait_for_the_server()
            there = one(
                address, "SELECT to_regclass('geoclass.runs') IS NOT NULL AND EXISTS (SELECT 1 FROM geometry_columns)"
            )
            tiles = one(address, "SELECT count(*) FROM geoclass.tiles") if there else 0
            runs = [run.tiles for run in list_runs(address)]
            assert (tiles, runs) in ((0, []), (15_000, [15_000]))
            killed += code == -signal.SIGKILL and not tiles
            if tiles:
                clear(address)
        assert killed == 4
        assert load(None)[0] == 0
    finally:
        loader.stdin.close()
        loader.wait(timeout=30)
    assert_same(read_run(address), made(150, 100, load_scheme("nlcd6")))


QGIS = textwrap.dedent(
    """
    import json, os, sys
    from qgis.core import QgsApplication, QgsDataSourceUri, QgsFeatureRequest, QgsRectangle, QgsVectorLayer
    QgsApplication.setPrefixPath("/usr", True)
    application = QgsApplication([], False)
    application.initQgis()
    host, port, database, user, password = sys.argv[1:6]
    found = {}
    for entry in sys.argv[6:]:
        table, key = entry.split(":")
        uri = QgsDataSourceUri()
        uri.setConnection(host, port, database, user, password)
        uri.setDataSource("geoclass", table, "geom", "", key)
        layer = QgsVectorLayer(uri.uri(False), table, "postgres")
        _, styled = layer.loadDefaultStyle()
        about = {"valid": layer.isValid(), "styled": styled, "tiles": layer.featureCount(), "crs": layer.crs().authid()}
        if layer.isValid():
            renderer = layer.renderer()
            about["renderer"] = renderer.type()
            about["scale"] = layer.crs().toProj()
            if renderer.type() == "categorizedSymbol":
                about["classes"] = [[c.value(), c.label(), c.symbol().color().name()] for c in renderer.categories()]
            box = layer.extent()
            corner = QgsRectangle(box.xMinimum() + 1, box.yMinimum() + 1, box.xMinimum() + 2, box.yMinimum() + 2)
            about["corner"] = [f["tile_id"] for f in layer.getFeatures(QgsFeatureRequest(corner))]
        found[table] = about
    print(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # QGIS's own teardown can crash after the work is done
    """
)


def look_with_qgis(python: str, address: str, *layers: str) -> dict[str, dict[str, Any]]:
    """What QGIS makes of layers, each given as table:key."""
    at = parse_address(address).parameters
    done = subprocess.run(
        [python, "-c", QGIS, *(at[key] for key in ("host", "port", "dbname", "user", "password")), *layers],
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen", "PYTHONPATH": ""}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_qgis_opens_views_and_table_in_the_schemes_colours(address: str, qgis_python: str) -> None:
    scheme = load_scheme("rsscn7")
    labels = made(20, 10, scheme)
    loaded = load_result(labels, address)
    load_result(made(20, 10, scheme, date="2019"), address)
    odd = load_result(made(crs=CUSTOM_CRS, left=-40, top=12), address)
    layers = [f"{loaded.run_view}:id", f"{loaded.scheme_view}:id", f"{loaded.table}:", f"{odd.run_view}:id"]
    found = look_with_qgis(qgis_python, address, *layers)
    for name, tiles in ((loaded.run_view, 200), (loaded.scheme_view, 400), (loaded.table, 400)):
        about = found[name]
        assert about["valid"]
        assert about["styled"]
        assert about["renderer"] == "categorizedSymbol"
        assert about["classes"] == [[item.name, item.name, item.colour] for item in scheme.classes]
        assert len(about["classes"]) == 7
        assert about["crs"] == "EPSG:26919"
        assert about["tiles"] == tiles
    assert found[loaded.run_view]["corner"] == [labels.grid.tile_id(1800, 20_990)]
    assert found[odd.run_view]["valid"]
    assert found[odd.run_view]["tiles"] == 20
    assert "+proj=aea" in found[odd.run_view]["scale"]


def test_the_questions_in_the_documentation_have_answers(address: str) -> None:
    for date in ("2019", "2021"):
        load_result(made(30, 20, load_scheme("nlcd6"), date=date, seed=int(date), name="county"), address)
    change(
        address,
        "CREATE SCHEMA mine",
        "CREATE TABLE mine.districts AS SELECT 'north' AS name, ST_Transform(ST_SetSRID(ST_Extent(geom)::geometry, 26919), 4326) "
        "AS geom FROM geoclass.tiles_26919",
    )
    text = (Path(__file__).parent.parent / "docs" / "how-to" / "postgis.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 7
    with psycopg.connect(address) as connection:
        connection.execute("SET search_path = mine, public")
        for block in blocks:
            for statement in filter(str.strip, block.split(";")):
                done = connection.execute(statement)
                assert done.description is None or done.fetchall(), statement


def test_a_style_changed_in_qgis_stays(address: str) -> None:
    loaded = load_result(made(), address)
    change(
        address,
        "UPDATE layer_styles SET description = 'mine', useasdefault = false",
        "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, stylename, useasdefault) "
        f"VALUES (current_database(), 'geoclass', '{loaded.scheme_view}', 'geom', 'my own', true)",
    )
    load_result(made(date="2019"), address)
    found = rows(
        address,
        "SELECT stylename, useasdefault, description FROM layer_styles WHERE f_table_name = %s ORDER BY id",
        (loaded.scheme_view,),
    )
    assert found == [("awkward", False, "mine"), ("my own", True, None)]


def test_tiles_are_loaded_where_styles_may_not_be_stored(postgis: Server) -> None:
    database = postgis.create()
    with postgis.admin(database) as admin:
        admin.execute(f"ALTER SCHEMA public OWNER TO {ADMIN}")
        admin.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    loaded = load_result(made(), postgis.address(database))
    assert len(loaded.notes) == 1
    assert f"GRANT CREATE ON SCHEMA public TO {PLANNER}" in loaded.notes[0]
    assert len(read_run(postgis.address(database))) == loaded.tiles


def test_postgis_may_live_in_another_schema(postgis: Server) -> None:
    database = postgis.create(postgis=False)
    with postgis.admin(database) as admin:
        admin.execute("CREATE SCHEMA extensions")
        admin.execute("CREATE EXTENSION postgis SCHEMA extensions")
        admin.execute(f"GRANT USAGE ON SCHEMA extensions TO {PLANNER}")
    load_result(made(), postgis.address(database))
    assert_same(read_run(postgis.address(database)), made())


def test_postgis_is_added_by_who_may(postgis: Server) -> None:
    database = postgis.create(postgis=False)
    require_database(postgis.address(database, ADMIN))
    assert not rows(postgis.address(database, ADMIN), "SELECT 1 FROM pg_extension WHERE extname = 'postgis'")
    load_result(made(), postgis.address(database, ADMIN))
    assert len(read_run(postgis.address(database, ADMIN))) == 20


def refused(address: str, words: str, *, schema: str | None = None) -> str:
    """The one line with which a load into `address` is refused; it never has the password."""
    with pytest.raises(DatabaseError, match=words) as caught:
        load_result(made(), address, schema=schema)
    text = str(caught.value)
    assert "\n" not in text
    for secret in (PASSWORD, ENCODED, "wrong"):
        assert secret not in text
    return text


def test_a_server_that_is_down(postgis: Server) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        text = refused(
            f"postgresql://u:{ENCODED}@127.0.0.1:{taken.getsockname()[1]}/db", "no PostgreSQL server answers"
        )
    assert "u:***@127.0.0.1" in text
    refused("postgresql://u@/db?host=/nowhere/at/all", "no PostgreSQL server answers")
    refused("postgresql://u@no-such-host.invalid/db", "cannot connect to postgresql://u@no-such-host.invalid/db")


def test_a_server_that_never_answers() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        refused(
            f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/db?connect_timeout=2",
            "does not answer; .*connect_timeout",
        )


def test_who_is_not_let_in(postgis: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))
    refused(postgis.address("postgres", password="wrong"), "refuses the password of user planner; check PGPASSWORD")
    bare = f"postgresql://{PLANNER}@127.0.0.1:{postgis.port}/postgres"
    refused(bare, "asks for a password; give it in PGPASSWORD")
    refused(postgis.address("atlantis"), "no database atlantis; make it with createdb")


def test_the_password_may_come_from_the_environment_or_a_file(
    postgis: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bare = f"postgresql://{PLANNER}@127.0.0.1:{postgis.port}/{postgis.create()}"
    with monkeypatch.context() as patch:
        patch.setenv("PGPASSWORD", PASSWORD)
        require_database(bare)
    file = tmp_path / "pgpass"
    escaped = PASSWORD.replace(":", "\\:")
    file.write_text(f"127.0.0.1:{postgis.port}:*:{PLANNER}:{escaped}\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))
    assert load_result(made(), bare).address == bare


def test_a_database_without_postgis(postgis: Server) -> None:
    database = postgis.create(postgis=False)
    text = refused(postgis.address(database), "has no PostGIS, and user planner may not add it")
    assert f'psql -d {database} -c "CREATE EXTENSION postgis"' in text


def test_a_server_without_postgis(postgis: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a server looks that lacks the package: the view of what can be installed is shadowed by an empty one."""
    database = postgis.create(postgis=False)
    change(
        postgis.address(database),
        "CREATE SCHEMA lacking",
        "CREATE VIEW lacking.pg_available_extensions AS SELECT ''::text AS name WHERE false",
    )
    shadowed = postgis.address(database) + "?options=-csearch_path%3Dlacking,pg_catalog"
    refused(shadowed, "has no PostGIS; install it there .*postgresql-postgis")


def test_no_right_to_make_the_schema(postgis: Server) -> None:
    database = postgis.create()
    with postgis.admin(database) as admin:
        admin.execute(f"ALTER DATABASE {database} OWNER TO {ADMIN}")
    refused(postgis.address(database), f"may not do that .*GRANT CREATE ON DATABASE {database} TO {PLANNER}")


def test_a_crs_that_may_not_be_entered(postgis: Server) -> None:
    database = postgis.create()
    with postgis.admin(database) as admin:
        admin.execute(f"REVOKE INSERT ON spatial_ref_sys FROM {PLANNER}")
    with pytest.raises(DatabaseError, match=f"spatial_ref_sys.*GRANT INSERT ON public.spatial_ref_sys TO {PLANNER}"):
        load_result(made(crs=CUSTOM_CRS, left=-40, top=12), postgis.address(database))
    assert list_runs(postgis.address(database)) == []


@pytest.mark.parametrize("name", ["runs", "tiles", "tiles_26919", "landcover_awkward_26919"])
def test_a_table_that_is_not_ours(address: str, name: str) -> None:
    if name not in ("runs", "tiles"):
        load_result(made(crs="EPSG:2263", left=1340, top=280), address)
    change(
        address,
        "CREATE SCHEMA IF NOT EXISTS geoclass",
        f"CREATE TABLE geoclass.{name} (mine integer)",
        f"INSERT INTO geoclass.{name} VALUES (1)",
    )
    refused(address, f"a table {name} that geoclass did not make; choose another schema with --schema")
    assert rows(address, f"SELECT * FROM geoclass.{name}") == [(1,)]
    assert load_result(made(), address, schema="other").schema == "other"


def test_tables_of_another_layout(address: str) -> None:
    load_result(made(), address)
    change(address, "UPDATE geoclass.geoclass_layout SET version = 99")
    refused(address, "are of layout 99, and this geoclass knows 1")
    with pytest.raises(DatabaseError, match="layout 99"):
        read_run(address)


FULL = """CREATE FUNCTION geoclass.fault() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
RAISE EXCEPTION USING ERRCODE = '53100', MESSAGE = 'could not extend file "base/1/2": No space left on device'; END $$"""
GONE = """CREATE FUNCTION geoclass.fault() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$"""
SLOW = """CREATE FUNCTION geoclass.fault() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
PERFORM pg_sleep(5); RETURN NEW; END $$"""


@pytest.mark.parametrize(
    ("fault", "options", "words"),
    [
        (FULL, "", "the disk of .* is full .*No space left on device.*nothing was stored"),
        (GONE, "", "lost the connection to .*try again"),
        (SLOW, "?options=-cstatement_timeout%3D200ms", "was too slow, so nothing was stored"),
    ],
    ids=["full", "gone", "slow"],
)
def test_a_load_that_fails_midway_leaves_nothing(address: str, fault: str, options: str, words: str) -> None:
    """The server really raises these, at a tile somewhere in the middle."""
    load_result(made(date="2019"), address)
    change(
        address,
        fault,
        "CREATE TRIGGER fault BEFORE INSERT ON geoclass.tiles_26919 FOR EACH ROW WHEN (NEW.tile_column = 1803) EXECUTE FUNCTION geoclass.fault()",
    )
    refused(address + options, words)
    assert [run.date for run in list_runs(address)] == ["2019"]
    assert rows(address, "SELECT DISTINCT date FROM geoclass.tiles") == [("2019",)]
    assert rows(address, "SELECT table_name FROM information_schema.views WHERE table_name LIKE 'run%%'") == [
        ("run_ellis_county_2019",)
    ]


def test_a_disk_that_really_fills_up(postgis: Server, small_disk: Callable[[Path, int], Path]) -> None:
    """A tablespace of 3 MB on a disk of its own: PostgreSQL itself says that it is full."""
    database = postgis.create()
    address = postgis.address(database)
    load_result(made(date="2019"), address)
    disk = small_disk(postgis.folder / "disk", 3072)
    space = disk / "space"
    space.mkdir()
    shutil.chown(space, *owner(postgis))
    with postgis.admin(database) as admin:
        admin.execute(f"CREATE TABLESPACE little LOCATION '{space}'")
        admin.execute("ALTER TABLE geoclass.tiles_26919 SET TABLESPACE little")
    try:
        with pytest.raises(DatabaseError, match=r"the disk of .* is full .*nothing was stored: free some space"):
            load_result(made(150, 100, load_scheme("nlcd6")), address)
        assert [run.date for run in list_runs(address)] == ["2019"]
        assert_same(read_run(address), made(date="2019"))
    finally:
        with postgis.admin() as admin:
            admin.execute(f"DROP DATABASE {database} WITH (FORCE)")
            admin.execute("DROP TABLESPACE little")


def owner(server: Server) -> tuple[int, int]:
    found = (server.folder / "data").stat()
    return found.st_uid, found.st_gid


def test_two_loads_at_a_time_wait_for_each_other(address: str) -> None:
    with psycopg.connect(address) as connection:
        connection.execute(LOCK)
        refused(address + "?options=-clock_timeout%3D300ms", "another load into .* is under way")
    load_result(made(), address)


def test_a_database_whose_encoding_lacks_the_letters(postgis: Server) -> None:
    database = postgis.create(postgis=False, options="ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
    with postgis.admin(database) as admin:
        admin.execute("CREATE EXTENSION postgis")
    refused(postgis.address(database), "cannot hold a name in its encoding .*UTF8")


@pytest.mark.parametrize(
    "text",
    [
        "mysql://u:hunter2@h/db", "host=h password=hunter2", "postgresql://u:hunter2@x@h/db", "postgresql://u:hun/ter2@h/db",
        "postgresql://u:%zzhunter2@h/db", "postgresql://u:hunter2@h/db?hunter2", "out/county.gpkg",
    ],
)  # fmt: skip
def test_addresses_that_cannot_be_read(text: str) -> None:
    with pytest.raises(DatabaseError, match="address") as caught:
        load_result(made(), text)
    assert "hun" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_addresses_are_shown_without_the_password() -> None:
    for text, shown in {
        "postgresql://u:hunter2@h:5433/db?schema=s&run=r&sslmode=require": "postgresql://u:***@h:5433/db",
        "postgres://u@h/db?password=hunter2": "postgresql://u:***@h/db",
        "postgresql:///db": "postgresql:///db",
    }.items():
        at = parse_address(text)
        assert at.shown == shown
        assert "hunter2" not in repr(at)
    at = parse_address("postgresql://u:hun?ter2@h/db?schema=s&run=r%20&sslmode=require", "other")
    assert (at.schema, at.run) == ("s", "r ")
    assert at.parameters == {"user": "u", "password": "hun?ter2", "host": "h", "dbname": "db", "sslmode": "require"}
    for name in ("pg_x", "x" * 64, "a\0b"):
        with pytest.raises(DatabaseError, match="cannot name a schema"):
            parse_address("postgresql://h/db", name)


def test_without_psycopg_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(DatabaseError, match=r"geoclass\[postgis\]"):
        load_result(made(), "postgresql://h/db")


def test_which_run_is_read(address: str) -> None:
    with pytest.raises(DatabaseError, match="holds no results; load one with geoclass load"):
        read_result(address)
    load_result(made(), address)
    assert_same(read_result(address), made())
    load_result(made(date="2019"), address)
    with pytest.raises(DatabaseError, match=r"holds 2 results .*\?run="):
        read_result(address)
    with pytest.raises(DatabaseError, match="holds no run 'run_mars'; it has run_ellis_county_2019"):
        read_result(address + "?run=run_mars")
    assert [run.date for run in list_runs(address)] == ["2019", "2021-07-01"]


DAMAGE = {
    "UPDATE geoclass.tiles SET probabilities = '{1,2}' WHERE tile_column = 1801": "has not 5 probabilities",
    "UPDATE geoclass.tiles SET probabilities[2] = NULL": "has not 5 probabilities",
    "UPDATE geoclass.tiles SET probabilities[2] = 7": "do not sum to 1",
    "UPDATE geoclass.tiles SET probabilities[2] = 'NaN'": "do not sum to 1",
    "UPDATE geoclass.tiles SET valid_fraction = -1": "not from 0 to 1",
    "UPDATE geoclass.tiles SET tile_column = 1": "comes twice",
    "UPDATE geoclass.runs SET grid = '{}'": "description is wrong",
    "UPDATE geoclass.schemes SET definition = '{}'": "description is wrong",
}


@pytest.fixture(scope="module")
def damaged(postgis: Server) -> Iterator[str]:
    database = postgis.create()
    load_result(made(), postgis.address(database))
    yield postgis.address(database)


@pytest.mark.parametrize("statement", DAMAGE)
def test_rows_edited_by_hand_are_noticed(damaged: str, statement: str) -> None:
    change(damaged, statement)
    with pytest.raises(DatabaseError, match=f"is damaged: .*{DAMAGE[statement]}"):
        read_run(damaged)
    change(damaged, "DELETE FROM geoclass.runs", "DELETE FROM geoclass.schemes")
    load_result(made(), damaged)
    assert_same(read_run(damaged), made())


def test_binary_rows_are_unpacked_as_packed() -> None:
    labels = made(30, 20)
    rows_ = pack(
        labels.columns,
        labels.rows,
        labels.class_index + 1,
        labels.valid_fraction,
        labels.probabilities,
        labels.probabilities[:, ::-1],
    )
    found = unpack(HEADER + rows_ + TRAILER, 5, True)
    assert found is not None
    np.testing.assert_array_equal(found["raw"]["value"], labels.probabilities[:, ::-1])
    assert unpack(HEADER + rows_ + TRAILER, 4, True) is None
    assert unpack(HEADER + rows_[:-1] + TRAILER, 5, True) is None
    assert unpack(b"", 5, True) is None


Invoke = Callable[..., tuple[int, str]]


@pytest.fixture()
def geoclass_command() -> Invoke:
    def invoke(*arguments: str | Path) -> tuple[int, str]:
        done = CliRunner().invoke(main, [str(item) for item in arguments])
        assert PASSWORD not in done.output
        assert ENCODED not in done.output
        return done.exit_code, " ".join(done.output.split())

    return invoke


def test_load_from_the_command_line(address: str, postgis: Server, geoclass_command: Invoke, tmp_path: Path) -> None:
    paths = [tmp_path / "a.gpkg", tmp_path / "b [odd] name.gpkg"]
    for path, date in zip(paths, ("2019", "2021"), strict=True):
        vector.write_gpkg(made(date=date), path)
    code, text = geoclass_command("load", *paths, "--to", address, "--schema", "Land Cover")
    assert code == 0, text
    assert "20 tiles in postgresql://planner:***@127.0.0.1" in text
    assert [run.date for run in list_runs(address, "Land Cover")] == ["2021", "2019"]
    code, text = geoclass_command("load", paths[0])
    assert code == 2
    assert "no database named" in text
    # A database that is down does not keep the result from the others.
    code, text = geoclass_command("load", paths[1], "--to", "postgresql://u@127.0.0.1:1/db", "--to", address)
    assert code == 2
    assert "20 tiles in" in text
    assert f"geoclass load '{paths[1]}' --to postgresql://u@127.0.0.1:1/db" in text
    assert geoclass_command("load", tmp_path / "none.gpkg", "--to", address)[0] == 2
    made().to_gdf()[["tile_id", "geometry"]].to_file(tmp_path / "change.gpkg", layer=CHANGED)
    code, text = geoclass_command("load", tmp_path / "change.gpkg", "--to", address)
    assert code == 2
    assert "is a result of geoclass change" in text


def test_a_file_that_is_no_result_does_not_keep_the_others_out(
    address: str, geoclass_command: Invoke, tmp_path: Path
) -> None:
    paths = [tmp_path / name for name in ("a.gpkg", "none.gpkg", "b.gpkg", "other.gpkg")]
    for path, date in ((paths[0], "2019"), (paths[2], "2021")):
        vector.write_gpkg(made(date=date), path)
    code, text = geoclass_command("load", *paths, "--to", address)
    assert code == 2
    assert [run.date for run in list_runs(address)] == ["2021", "2019"]
    assert str(paths[1]) in text and "1 more failed" in text and "is kept in" not in text


def classify(invoke: Invoke, folder: Path, bundle: Path, *more: str) -> tuple[int, str]:
    scene = write_coordinates(folder / "scene.tif")
    options = ("--model", bundle, "--runtime", "torch", "--precision", "fp32", "--force", "-o", folder / "out")
    return invoke("classify", scene, *options, *more)


def test_classify_loads_what_it_wrote(
    address: str, postgis: Server, geoclass_command: Invoke, tiny_bundle: Path, tmp_path: Path
) -> None:
    second = postgis.address(postgis.create())
    code, text = classify(geoclass_command, tmp_path, tiny_bundle, "--to", address, "--to", second)
    assert code == 0, text
    for place in (address, second):
        assert_same(read_run(place), read_result(tmp_path / "out" / "scene.gpkg"))
    for path in (tmp_path / "out").rglob("*"):
        assert not path.is_file() or not re.search(b"s3cret|planner", path.read_bytes())


def test_classify_keeps_its_files_when_the_database_fails(
    address: str, geoclass_command: Invoke, tiny_bundle: Path, tmp_path: Path
) -> None:
    """A database that is there before the run and full after it."""
    load_result(made(), address)
    change(
        address, FULL,
        "CREATE TRIGGER fault BEFORE INSERT ON geoclass.runs FOR EACH ROW EXECUTE FUNCTION geoclass.fault()",
    )  # fmt: skip
    code, text = classify(geoclass_command, tmp_path, tiny_bundle, "--to", address)
    assert code == 2
    result = tmp_path / "out" / "scene.gpkg"
    assert (
        f"the result is kept in {result}, to be loaded with: geoclass load {result} --to 'postgresql://planner:***@"
        in text
    )
    assert len(read_result(result))
    change(address, "DROP TRIGGER fault ON geoclass.runs")
    assert geoclass_command("load", result, "--to", address)[0] == 0


def test_classify_asks_the_database_first(geoclass_command: Invoke, tiny_bundle: Path, tmp_path: Path) -> None:
    code, text = classify(geoclass_command, tmp_path, tiny_bundle, "--to", "postgresql://u@127.0.0.1:1/db")
    assert code == 2
    assert "no PostgreSQL server answers" in text
    assert not (tmp_path / "out").exists()
