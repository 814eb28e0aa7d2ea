"""Results in a real PostGIS as the service shows them: whole, in parts, stored by a job, and when the database is not there."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psycopg
import pytest
import shapely
from conftest import write_coordinates
from gateway import Gateway
from geoclass_process import HEADERS, TOKEN, Process, serving, wait_for
from postgresql_server import ENCODED, PASSWORD, PLANNER, Server
from test_postgis import FULL, assert_same, change, made, rows

from geoclass.client import Client
from geoclass.database.browsing import tiles_page
from geoclass.database.loading import load_result
from geoclass.errors import DatabaseError, GridError, ServiceError
from geoclass.labels import Labels
from geoclass.outputs.summary import summarise
from geoclass.results import read_result
from geoclass.schemes import load_scheme
from geoclass.service import worker
from geoclass.service.settings import Limits
from geoclass.service.worker import Task


@pytest.fixture(scope="module")
def labels() -> Labels:
    """Six columns, five rows."""
    return made(6, 5, load_scheme("nlcd6"), date="2019")


@pytest.fixture(scope="module")
def place(postgis: Server, labels: Labels) -> str:
    """The address of a database with two runs, for the test itself."""
    address = postgis.address(postgis.create())
    load_result(labels, address)
    load_result(made(6, 5, load_scheme("nlcd6"), date="2021", seed=1), address)
    return address


@pytest.fixture(scope="module")
def gateway(postgis: Server) -> Iterator[Gateway]:
    between = Gateway(postgis.port)
    yield between
    between.close()


@pytest.fixture(scope="module")
def server(
    tiny_bundle: Path, place: str, gateway: Gateway, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Process]:
    """Speaks to the database through the gateway, and has the password from its environment."""
    options = "?connect_timeout=2&options=-clock_timeout%3D300ms"
    address = f"postgresql://{PLANNER}@127.0.0.1:{gateway.port}/{place.rpartition('/')[2]}{options}"
    folder = tmp_path_factory.mktemp("runs")
    with serving(tiny_bundle, folder / "data", "--database", address, PGPASSWORD=PASSWORD) as process:
        yield process


@pytest.fixture(scope="module")
def client(server: Process) -> Iterator[Client]:
    with Client(server.url, TOKEN) as client:
        yield client


@pytest.fixture()
def way(gateway: Gateway) -> Iterator[Gateway]:
    """The gateway, open again afterwards."""
    yield gateway
    gateway.state = "open"


def test_runs_are_listed_and_described(client: Client, server: Process, labels: Labels) -> None:
    runs = client.runs()
    assert [run.date for run in runs] == ["2021", "2019"]
    assert [run.date for run in client.runs(limit=1, offset=1)] == ["2019"]
    about = client.run(runs[1].view)
    assert about == client.run(runs[1].id)
    assert about["tiles"] == 30 and about["crs"] == "EPSG:26919" and about["tile_side_m"] == 224
    expected = {item["name"]: item for item in summarise(labels)["classes"]}
    for found in about["classes"]:
        assert found["tiles"] == expected[found["name"]]["tiles"]
        assert found["area_ha"] == pytest.approx(expected[found["name"]]["area_ha"], abs=1e-3)
    west, south, east, north = about["bounds"]
    frame = labels.to_gdf().to_crs(4326)
    np.testing.assert_allclose((west, south, east, north), frame.total_bounds, atol=1e-6)
    for link in about["links"].values():
        assert httpx.get(server.url + link).status_code == 200, link


def test_tiles_come_page_by_page_and_by_rectangle(client: Client, server: Process, labels: Labels) -> None:
    view = client.runs()[1].view
    frame = labels.to_gdf().to_crs(4326).set_index("tile_id")
    whole = list(client.tiles(view, page=7))
    assert [item["id"] for item in whole] == sorted(frame.index), "each once, whatever the pages"
    for item, (_, row) in zip(whole, frame.loc[[item["id"] for item in whole]].iterrows(), strict=True):
        ring = np.array(item["geometry"]["coordinates"][0])
        np.testing.assert_allclose(ring, np.array(row.geometry.exterior.coords), atol=1e-6)
        assert shapely.is_ccw(shapely.LinearRing(ring)), "as RFC 7946 asks"
        assert item["properties"]["class"] == row["class"] and item["properties"]["date"] == "2019"
        chances = item["properties"]["probabilities"]
        np.testing.assert_allclose(list(chances.values()), [row[f"p_{name}"] for name in chances], atol=1e-6)
    # The middle of one tile is in that tile alone.
    wanted = frame.index[8]
    point = frame.geometry[wanted].centroid
    around = (point.x - 1e-5, point.y - 1e-5, point.x + 1e-5, point.y + 1e-5)
    assert [item["id"] for item in client.tiles(view, bbox=around)] == [wanted]
    assert list(client.tiles(view, bbox=(0, 0, 1, 1))) == []
    assert len(list(client.tiles(view, bbox=(-180, -90, 180, 90), page=30))) == 30
    first = httpx.get(f"{server.url}/v1/runs/{view}/tiles", params={"limit": 10})
    assert first.headers["content-type"] == "application/geo+json"
    link = first.headers["link"]
    assert link.endswith('>; rel="next"')
    second = httpx.get(server.url + link[1 : link.index(">")])
    assert second.json()["features"][0]["id"] == whole[10]["id"]


def test_results_are_sent_whole(client: Client, server: Process, labels: Labels, tmp_path: Path) -> None:
    run = client.runs()[1]
    assert_same(read_result(client.download_run(run.id, "gpkg", tmp_path / "a.gpkg")), labels)
    features = json.loads(client.download_run(run.view, "geojson", tmp_path / "a.geojson").read_text())["features"]
    assert {item["properties"]["tile_id"] for item in features} == set(labels.tile_ids)
    assert json.loads(client.download_run(run.id, "summary", tmp_path / "a.json").read_text())["summary"]["tiles"] == 30
    answer = httpx.get(f"{server.url}/v1/runs/{run.id}/results/gpkg", headers={"range": "bytes=0-5"})
    assert (answer.status_code, answer.content) == (206, b"SQLite")
    assert f'filename="{run.view}.gpkg"' in answer.headers["content-disposition"]
    data = Path(server.process.args[server.process.args.index("--data") + 1])
    wait_for(lambda: not any((data / "incoming").iterdir()))


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("none", 404, "holds no run"), ("none/tiles", 404, "holds no run"), ("none/results/gpkg", 404, "holds no run"),
        ("%00", 404, "holds no run"), ("'; drop table runs; --/tiles", 404, "holds no run"), ("{run}/results/cog", 422, "kind"),
        ("{run}/tiles?bbox=1,2,3", 422, "bbox"), ("{run}/tiles?bbox=nan,0,1,1", 422, "bbox"),
        ("{run}/tiles?bbox=1e999,0,1,1", 422, "bbox"), ("{run}/tiles?bbox=10,0,5,1", 422, "no rectangle"),
        ("{run}/tiles?bbox=0,0,181,1", 422, "no rectangle"), ("{run}/tiles?limit=0", 422, "limit"),
        ("{run}/tiles?limit=10001", 422, "limit"), ("{run}/tiles?after=%27", 422, "after"), ("{run}/tiles?after=%00", 422, "after"),
    ],
)  # fmt: skip
def test_what_is_asked_wrongly_is_told(client: Client, server: Process, path: str, status: int, words: str) -> None:
    answer = httpx.get(f"{server.url}/v1/runs/{path.format(run=client.runs()[0].id)}")
    assert answer.status_code == status, answer.text
    assert words in answer.text and set(answer.json()) == {"error", "remedy"}


def test_a_database_that_is_down_or_silent(server: Process, way: Gateway, client: Client) -> None:
    """503 with a remedy, soon; all else goes on, and when the database is back so are the results."""
    questions = [("GET", f"/v1/runs{rest}", None) for rest in ("", "/x", "/x/tiles", "/x/results/gpkg")]
    questions.append(("POST", "/v1/classify", {"sources": ["x.tif"], "to_database": True}))

    def ask(question: tuple[str, str, Any]) -> httpx.Response:
        method, path, body = question
        return httpx.request(method, server.url + path, json=body, headers=HEADERS, timeout=30)

    for state, words in (("shut", "cannot connect to"), ("silent", "does not answer")):
        way.state = state
        with ThreadPoolExecutor(len(questions)) as pool:
            asked = [pool.submit(ask, question) for question in questions]
            assert httpx.get(f"{server.url}/v1/models").status_code == 200
            answers = [each.result() for each in asked]
        for answer in answers:
            assert answer.status_code == 503 and words in answer.json()["error"], answer.text
            assert answer.json()["remedy"] and answer.headers["retry-after"] and "\n" not in answer.text
            assert PASSWORD not in answer.text
    way.state = "open"
    assert len(client.runs()) == 2
    assert not any(PASSWORD in line or ENCODED in line for line in server.log)


def test_a_database_that_is_slow_or_busy(server: Process, place: str, client: Client) -> None:
    """Its tables locked by somebody else: not waited for longer than the limit."""
    with psycopg.connect(place) as connection:
        connection.execute("LOCK geoclass.runs")
        answer = httpx.get(f"{server.url}/v1/runs", timeout=30)
        assert answer.status_code == 503 and "try again" in answer.json()["remedy"], answer.text
    assert len(client.runs()) == 2


def test_a_job_stores_its_result_all_or_nothing(server: Process, client: Client, place: str, tmp_path: Path) -> None:
    """First into a database whose disk is full: the job fails, keeps its files, and stores them when it is resumed."""
    scene = write_coordinates(tmp_path / "town.tif", width=2 * 224, height=224)
    change(
        place, FULL,
        "CREATE TRIGGER fault BEFORE INSERT ON geoclass.tiles_26919 FOR EACH ROW EXECUTE FUNCTION geoclass.fault()",
    )  # fmt: skip
    with pytest.raises(ServiceError, match=r"failed: the disk of .* is full"):
        client.classify(scene, name="town", to_database=True, wait=True)
    job = client.jobs()[0]
    assert job.state == "failed" and job.run is None and "gpkg" in job.results and len(client.runs()) == 2
    own = read_result(client.download(job.id, "gpkg", tmp_path / "own.gpkg"))
    change(place, "DROP TRIGGER fault ON geoclass.tiles_26919")
    client.resume(job.id)
    done = client.wait(job.id)
    assert done.state == "done" and done.run and client.run(done.run)["tiles"] == 2
    assert not any("classifying" in line for line in done.log)
    assert_same(read_result(client.download_run(done.run, "gpkg", tmp_path / "stored.gpkg")), own)
    assert rows(place, "SELECT DISTINCT run FROM geoclass.tiles WHERE run = %s", (done.run,)) == [(done.run,)]
    spec = (Path(server.process.args[server.process.args.index("--data") + 1]) / "jobs.sqlite").read_bytes()
    assert PASSWORD.encode() not in spec


def test_a_job_is_refused_before_it_classifies_where_it_could_not_store(postgis: Server, tmp_path: Path) -> None:
    """The worker's own part, in this process: a database that lacks PostGIS."""
    bare = postgis.address(postgis.create(postgis=False))
    task = Task(tmp_path, ["x.tif"], True, "m.pt", "x", {}, [], [], "cpu", "torch", Limits(), True, bare)
    said: list[dict[str, object]] = []
    with pytest.raises(DatabaseError, match="has no PostGIS"):
        worker.carry_out(task, lambda **event: said.append(event))
    with pytest.raises(ServiceError, match="no database is set"):
        worker.carry_out(dataclasses.replace(task, database=None), lambda **event: said.append(event))
    assert said == []


def test_a_rectangle_that_the_crs_cannot_hold(postgis: Server) -> None:
    """A CRS that does not say where it is of use, and a rectangle at the other end of the world."""
    address = postgis.address(postgis.create())
    gnomonic = "+proj=gnom +lat_0=40 +lon_0=-75 +datum=WGS84 +units=m"
    loaded = load_result(made(crs=gnomonic, left=-2, top=3), address)
    assert len(tiles_page(address, loaded.run, bbox=(-76, 39, -74, 41))["features"]) == 20
    with pytest.raises(GridError, match=r"beyond .*; give a smaller one"):
        tiles_page(address, loaded.run, bbox=(100, -60, 120, -40))


def test_a_password_in_the_address_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "geoclass", "serve", "--model", "m.pt", "--port", "0"]
    done = subprocess.run(
        [*command, "--database", "postgresql://u:hunter2@h/db"], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "GEOCLASS_TOKEN": TOKEN}, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2 and "PGPASSWORD" in done.stderr and "hunter2" not in done.stdout + done.stderr
