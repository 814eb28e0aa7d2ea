"""Jobs of the service: accepted ones finish, whatever is killed, and results are those of the command line."""

import gzip
import http.server
import signal
import sqlite3
import threading
from contextlib import chdir
from pathlib import Path

import httpx
import numpy as np
import psutil
import pyogrio
import pytest
import rasterio
from conftest import write_coordinates
from fastapi import FastAPI
from geoclass_process import HEADERS, TOKEN, Process, serving, wait_for
from starlette.testclient import TestClient

from geoclass.classify import classify
from geoclass.client import Client
from geoclass.errors import GeoclassError, ServiceError
from geoclass.results import read_result
from geoclass.service import worker
from geoclass.service.crew import Crew, Pace
from geoclass.service.jobs import ATTEMPTS, Job, Jobs
from geoclass.service.problems import answer_errors
from geoclass.service.refusal import Refusal
from geoclass.service.settings import Limits, Settings
from geoclass.service.worker import Task

SIDE = 224


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen tiles."""
    return write_coordinates(tmp_path_factory.mktemp("scene") / "county.tif", width=4 * SIDE, height=4 * SIDE)


@pytest.fixture(scope="module")
def slow_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand tiles: long enough to be killed on the way. All the same, which is quickly made."""
    path = tmp_path_factory.mktemp("slow") / "slow.tif"
    write_coordinates(path, width=SIDE, height=SIDE)
    with rasterio.open(path) as dataset:
        profile = {**dataset.profile, "width": 32 * SIDE, "height": 32 * SIDE, "zlevel": 1}
        pixels = np.tile(dataset.read(), (1, 32, 32))
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(pixels)
    return path


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, scene: Path, slow_scene: Path, tmp_path_factory: pytest.TempPathFactory):
    roots = ["--allow-root", str(scene.parent), "--allow-root", str(slow_scene.parent)]
    with serving(tiny_bundle, tmp_path_factory.mktemp("jobs") / "data", *roots) as process:
        yield process


@pytest.fixture(scope="module")
def client(server: Process):
    with Client(server.url, TOKEN) as client:
        yield client


def test_a_scene_sent_becomes_a_map(
    client: Client, scene: Path, tiny_bundle: Path, server: Process, tmp_path: Path
) -> None:
    told: list[tuple[str, int, int]] = []
    job = client.classify(scene, name="town", wait=True, progress=lambda *step: told.append(step))
    assert (job.state, job.done, job.total, job.progress, job.eta_s) == ("done", 16, 16, 1.0, None)
    assert "accepted" in job.log[0] and any("16 tiles" in line for line in job.log)
    kinds = ("gpkg", "cog", "geojson", "map", "summary", "preview")
    assert tuple(job.results) == kinds
    files = {kind: client.download(job.id, kind, tmp_path / kind) for kind in kinds}
    result = classify(scene, tiny_bundle, out=tmp_path / "own", name="town", formats=("geojson",), runtime="torch")
    own = read_result(result.files["town.gpkg"])
    theirs = read_result(files["gpkg"].rename(tmp_path / "their.gpkg"))
    assert own.tile_ids == theirs.tile_ids
    assert abs(own.probabilities - theirs.probabilities).max() < 1e-5
    assert len(pyogrio.read_dataframe(files["geojson"])) == 16
    with rasterio.open(files["cog"]) as a, rasterio.open(result.files["town.tif"]) as b:
        assert (a.read() == b.read()).all()
    assert files["map"].read_text().lstrip().lower().startswith("<!doctype html>")
    page = httpx.get(f"{server.url}{job.results['map']}")
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["content-security-policy"].startswith("sandbox allow-scripts;")
    part = httpx.get(f"{server.url}{job.results['cog']}", headers={"range": "bytes=0-3"})
    assert part.status_code == 206 and part.content == files["cog"].read_bytes()[:4]
    assert httpx.get(f"{server.url}{job.results['cog']}", headers={"range": "bytes=99999999-"}).status_code == 416
    client.delete(job.id)
    with pytest.raises(ServiceError, match="no job"):
        client.job(job.id)
    assert httpx.get(f"{server.url}{job.results['cog']}").status_code == 404


def test_a_scene_that_does_not_fit_is_told_without_the_services_folders(tiny_bundle: Path, tmp_path: Path) -> None:
    """The worker's own part, in this process."""
    (tmp_path / "in").mkdir()
    write_coordinates(tmp_path / "in" / "nowhere.tif", crs=None)
    task = Task(tmp_path, ["nowhere.tif"], True, str(tiny_bundle), "x", {}, [], [], "cpu", "torch", Limits())
    with pytest.raises(GeoclassError) as error, chdir(tmp_path):
        worker.carry_out(task, lambda **event: None)
    found = worker.as_seen(error.value, task)
    assert str(found).startswith("nowhere.tif has no CRS; ") and "gdal_edit" in str(found)
    assert str(tmp_path) not in str(found)
    unexpected = worker.as_seen(ValueError(f"{tmp_path}/in/nowhere.tif"), task)
    assert "ValueError: nowhere.tif" in str(unexpected) and "please report it" in str(unexpected)


def test_a_running_job_is_cancelled_resumed_and_kept_from_deletion(client: Client, server: Process) -> None:
    job = client.classify("slow.tif", upload=False)
    wait_for(lambda: client.job(job.id).stage == "classifying" and client.job(job.id).done > 0)
    waiting = client.classify("county.tif", upload=False)
    with pytest.raises(ServiceError, match="is running; cancel it first"):
        client.delete(job.id)
    with pytest.raises(ServiceError, match="no results yet"):
        client.download(job.id, "gpkg", "x.gpkg")
    assert client.cancel(waiting.id).state == "cancelled"
    workers = children(server, "geoclass.service.worker")
    assert len(workers) == 1
    assert client.cancel(job.id).state == "cancelled"
    assert not any(worker.is_running() and worker.status() != "zombie" for worker in workers)
    with pytest.raises(ServiceError, match="the job is cancelled"):
        client.cancel(job.id)
    client.delete(waiting.id)
    assert client.resume(job.id).state in ("queued", "running")
    # What kills a job's process leaves the service alone, and the job goes on.
    wait_for(lambda: bool(children(server, "geoclass.service.worker")))
    children(server, "geoclass.service.worker")[0].send_signal(signal.SIGSEGV)
    wait_for(lambda: any("SIGSEGV" in line for line in client.job(job.id).log))
    assert client.job(job.id).state in ("queued", "running")
    client.cancel(job.id)
    client.delete(job.id)


def children(server: Process, module: str) -> list[psutil.Process]:
    found = psutil.Process(server.process.pid).children()
    return [child for child in found if child.status() != "zombie" and module in " ".join(child.cmdline())]


def test_killed_under_load_and_started_again(tiny_bundle: Path, scene: Path, slow_scene: Path, tmp_path: Path) -> None:
    """kill -9 while jobs run, wait and arrive, and pictures are asked about: every accepted job finishes."""
    data = tmp_path / "data"
    roots = ["--allow-root", str(slow_scene.parent)]
    server = Process("serve", "--runtime", "torch", "--model", str(tiny_bundle), "--data", str(data), *roots)
    accepted: list[str] = []

    def send() -> None:
        with httpx.Client(base_url=server.url, headers=HEADERS, timeout=30) as http:
            while not accepted:
                try:
                    answer = http.post("/v1/classify", files={"file": ("county.tif", scene.read_bytes())})
                except httpx.HTTPError:
                    return
                if answer.status_code == 202:
                    accepted.append(answer.json()["id"])

    with Client(server.url, TOKEN) as client:
        slow = client.classify("slow.tif", upload=False, name="slow")
        wait_for(lambda: client.job(slow.id).done > 0)
    process = children(server, "geoclass.service.worker")[0]
    sender = threading.Thread(target=send)
    sender.start()
    wait_for(lambda: bool(accepted))
    server.kill()
    sender.join()
    wait_for(lambda: not process.is_running() or process.status() == "zombie")
    parts = list((data / "jobs" / slow.id / "out").glob(".slow.journal/part-*"))
    assert parts, "what was done is kept"
    (data / "jobs" / "0123456789abcdef").mkdir()  # as left by a kill between an upload and its acceptance
    (data / "incoming" / "half").write_bytes(b"x")
    with serving(tiny_bundle, data, *roots) as again, Client(again.url, TOKEN) as client:
        assert not (data / "jobs" / "0123456789abcdef").exists() and not list((data / "incoming").iterdir())
        assert {job.id for job in client.jobs()} >= {slow.id, *accepted}
        first = client.job(slow.id)
        assert first.state in ("running", "queued")
        client.cancel(slow.id)  # a thousand tiles take too long for a test; that the run goes on shows in its log
        assert any("it goes on where it stopped" in line for line in first.log)
        for job in accepted:
            found = client.wait(job, timeout_s=120)
            assert found.state == "done"
        assert {job.id for job in client.jobs("done")} == set(accepted)


def test_jobs_of_a_service_that_ended_in_order_go_on(tmp_path: Path) -> None:
    """The table alone: states, tries, order."""
    jobs = Jobs(tmp_path / "jobs.sqlite")
    for name in ("a", "b"):
        jobs.add(name, "m", {}, name * 16)
    first = jobs.claim()
    assert first and first.id == "a" * 16 and first.attempts == 1
    jobs.requeue_all("the service ended")
    assert jobs.counts() == {"queued": 2, "running": 0, "done": 0, "failed": 0, "cancelled": 0}
    for number in range(1, ATTEMPTS + 1):
        again = jobs.claim()
        assert again and again.id == "a" * 16 and again.attempts == number, "its place in the queue is kept"
        jobs.requeue(again.id, "its process ended by itself (SIGKILL)")
    failed = jobs.get("a" * 16)
    assert failed and failed.state == "failed" and f"{ATTEMPTS} times" in str(failed.error)
    assert not jobs.cancel("a" * 16) and jobs.resume("a" * 16)
    running = jobs.claim()
    assert running and not jobs.delete(running.id)
    assert jobs.cancel(running.id)
    jobs.finish(running.id, {"gpkg": "x"})
    cancelled = jobs.get(running.id)
    assert cancelled and cancelled.state == "cancelled", "a result that comes too late changes nothing"
    assert jobs.delete(running.id) and jobs.get(running.id) is None and jobs.log(running.id) == []
    for number in range(300):
        jobs.say("b" * 16, f"line {number}\nof two")
    assert len(jobs.log("b" * 16)) == 200 and jobs.log("b" * 16)[-1][1] == "line 299 of two"
    jobs.close()
    (tmp_path / "broken.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(ServiceError, match="no database of jobs"):
        Jobs(tmp_path / "broken.sqlite")
    with sqlite3.connect(tmp_path / "jobs.sqlite") as db:
        assert db.execute("pragma journal_mode").fetchone() == ("wal",)


class Full(Jobs):
    """A table on a disk that is full as long as `full` says so, and when the first job is to be taken up."""

    full = False
    claims = 0

    def claim(self) -> Job | None:
        self.claims += 1
        if self.claims == 1:
            raise sqlite3.OperationalError("database or disk is full")
        return super().claim()

    def _do(self, command: str, *values: object) -> list[sqlite3.Row]:
        if self.full and not command.startswith("select"):
            raise sqlite3.OperationalError("database or disk is full")
        return super()._do(command, *values)


@pytest.mark.parametrize("fault", [ValueError("x"), sqlite3.OperationalError("database or disk is full")])
def test_jobs_go_on_once_a_full_disk_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    """The threads of the crew alone: the disk is full when a job is to be taken up, and when its end is to be written."""
    jobs = Full(tmp_path / "jobs.sqlite")
    for name in ("a", "b"):
        jobs.add(name, "m", {}, name * 16)
    ran: list[str] = []

    def run(self: Crew, job: Job) -> None:
        ran.append(job.id)
        if len(ran) == 1:
            jobs.full = True
            raise fault
        jobs.finish(job.id, {})

    monkeypatch.setattr(Crew, "_run", run)
    monkeypatch.setattr("geoclass.service.crew.REST_S", 0.01)
    crew = Crew(jobs, tmp_path / "jobs", Settings((tmp_path / "m.pt",)))
    crew.start()
    wait_for(lambda: jobs.full)
    jobs.full = False
    wait_for(lambda: jobs.counts()["queued"] + jobs.counts()["running"] == 0)
    states = {job.id[0]: job.state for job in jobs.page(None, 9, 0)}
    assert states == {"a": "failed" if isinstance(fault, ValueError) else "done", "b": "done"}
    crew.stop()
    jobs.close()


def test_a_job_is_accepted_whole_or_not_at_all(tmp_path: Path) -> None:
    """Where the disk is full the caller is told so (507), and no half of a job stays."""
    jobs = Jobs(tmp_path / "jobs.sqlite")
    jobs._db.execute(
        "create trigger full before insert on log begin select raise(abort, 'database or disk is full'); end"
    )
    with pytest.raises(sqlite3.Error):
        jobs.add("a", "m", {}, "a" * 16)
    assert jobs.ids() == set()
    jobs.close()
    app = FastAPI()
    answer_errors(app)

    @app.get("/")
    def full() -> None:
        raise sqlite3.OperationalError("database or disk is full")

    answer = TestClient(app, raise_server_exceptions=False).get("/")
    assert answer.status_code == 507 and answer.json()["error"] == "the service's disk is full"


def test_the_time_left_is_told_from_this_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("geoclass.service.crew.monotonic", lambda: now[0])
    pace = Pace()
    assert pace.eta_s("classifying", 600, 1000) is None, "600 were done by an earlier process"
    now[0] = 110.0
    assert pace.eta_s("classifying", 700, 1000) == 30.0
    assert pace.eta_s("writing", 1000, 1000) is None


def test_children_do_not_see_the_token(server: Process, client: Client) -> None:
    client.classify("slow.tif", upload=False)
    wait_for(lambda: bool(children(server, "geoclass.service.worker")))
    for child in psutil.Process(server.process.pid).children():
        assert TOKEN not in child.environ().values() and TOKEN not in " ".join(child.cmdline())
    assert Path(server.process.args[server.process.args.index("--data") + 1]).stat().st_mode & 0o077 == 0
    for job in client.jobs():
        if not job.over:
            client.cancel(job.id)


def test_urls_are_fetched_without_redirects_and_within_limits(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's own part, in this process: what it reads from an allowed address, and what it refuses."""

    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = scene.read_bytes() if "county" in self.path else b"<html>not found</html>"
            self.send_response(302 if "moved" in self.path else 404 if "missing" in self.path else 200)
            self.send_header("location", "http://127.0.0.1:9/county.tif")
            if "packed" in self.path or "gzip" in self.headers.get("accept-encoding", ""):
                body = gzip.compress(body)
                self.send_header("content-encoding", "gzip")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    monkeypatch.chdir(tmp_path)
    site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{site.server_port}/open"
    said: list[dict] = []

    def read(url: str, limits: Limits = Limits()) -> Path:  # noqa: B008  (frozen)
        task = Task(tmp_path, [url], False, "m.pt", "x", {}, [], [base], "cpu", "torch", limits)
        return worker._scene(task, 0, url, lambda **event: said.append(event))

    try:
        found = read(f"{base}/county.tif?signature=secret")
        assert found == Path("in/county-1.tif") and found.read_bytes() == scene.read_bytes()
        assert read(f"{base}/county.tif?signature=secret") == found and len(said) == 1, "it is fetched once"
        found.unlink()
        for url, words in (
            (f"{base}/county-moved.tif", "302"), (f"{base}/missing.tif", "404"), (f"{base}/page.tif", "none of"), (f"{base}/county-packed.tif", "compressed"),
            (f"{base}x/county.tif", "not on the service's list"), ("http://127.0.0.1:9/county.tif", "not on the service's list"),
        ):  # fmt: skip
            with pytest.raises(Refusal, match=words) as refusal:
                read(f"{url}?signature=secret")
            assert "secret" not in str(refusal.value)
        with pytest.raises(Refusal, match="larger than 1,000"):
            read(f"{base}/county.tif", Limits(upload_bytes=1000))
        with pytest.raises(Refusal, match="blocks of"):
            read(f"{base}/county-blocks.tif", Limits(block_bytes=1000))
        with pytest.raises(Refusal, match="pixels, more than"):
            read(f"{base}/county-pixels.tif", Limits(scene_pixels=1000))
        assert "secret" not in str(said)
    finally:
        site.shutdown()
