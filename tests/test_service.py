"""The service as its callers meet it: a real server process on localhost."""

import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import rasterio
from conftest import write_coordinates
from geoclass_process import HEADERS, TOKEN, Process, serving, wait_for
from PIL import Image

from geoclass.bundle import load_bundle
from geoclass.client import Client
from geoclass.errors import OutputError, ServiceError
from geoclass.single import classify_pictures


def picture(seed: int, form: str = "PNG", size: tuple[int, int] = (224, 224)) -> bytes:
    """A picture that no other seed makes."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    small.save(buffer, form)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An allowed folder with a scene, things that lead out of it, and a file outside."""
    folder = tmp_path_factory.mktemp("places")
    (folder / "open").mkdir()
    (folder / "secret").mkdir()
    write_coordinates(folder / "open" / "scene.tif")
    write_coordinates(folder / "secret" / "other.tif")
    (folder / "open" / "link.tif").symlink_to(folder / "secret" / "other.tif")
    (folder / "open" / "up").symlink_to(folder / "secret")
    (folder / "open" / "scene.vrt").write_text(
        '<VRTDataset rasterXSize="9" rasterYSize="9"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f"<SourceFilename>{folder / 'secret' / 'other.tif'}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    return folder


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, places: Path, tmp_path_factory: pytest.TempPathFactory):
    data = tmp_path_factory.mktemp("service") / "data"
    with serving(
        tiny_bundle, data, "--allow-root", str(places / "open"), "--allow-url", "https://imagery.example/open/"
    ) as process:
        yield process


@pytest.fixture(scope="module")
def http(server: Process):
    with httpx.Client(base_url=server.url, headers=HEADERS, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def client(server: Process):
    with Client(server.url, TOKEN) as client:
        yield client


def refused(answer: httpx.Response, status: int, *words: str) -> None:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error", "remedy"} and all(body.values())
    assert "\n" not in answer.text
    for word in words:
        assert word in f"{body['error']}; {body['remedy']}", answer.text


# --- Pictures ------------------------------------------------------------------------------------------------------


def test_answers_are_those_of_the_command_line(client: Client, tiny_bundle: Path, tmp_path: Path) -> None:
    paths = []
    for number, (form, suffix) in enumerate([("PNG", "png"), ("JPEG", "jpg"), ("TIFF", "tif"), ("PNG", "png")]):
        paths.append(tmp_path / f"{number}.{suffix}")
        paths[-1].write_bytes(picture(number, form, (300, 224 + number)))
    answers = client.predict(paths)
    expected = classify_pictures(paths, load_bundle(tiny_bundle), runtime="torch")
    names = load_bundle(tiny_bundle).meta.scheme.names
    assert [answer.name for answer in answers] == [path.name for path in paths]
    for answer, row in zip(answers, expected.probabilities, strict=True):
        assert np.allclose([answer.probabilities[name] for name in names], row, atol=2e-6)
        assert answer.label == names[row.argmax()]


def test_callers_at_once_get_their_own_answers(http: httpx.Client) -> None:
    bodies = [picture(seed) for seed in range(24)]
    alone = [http.post("/v1/predict", files={"file": ("x", body)}).json()["answers"][0] for body in bodies]

    def ask(number: int) -> dict:
        name = f"{number}.png"
        found = http.post("/v1/predict", files=[("file", (name, bodies[number]))]).json()["answers"]
        assert [item["name"] for item in found] == [name]
        return found[0]

    with ThreadPoolExecutor(24) as pool:
        together = list(pool.map(ask, list(range(24)) * 2))
    for number, answer in enumerate(together):
        one = alone[number % 24]
        assert answer["probabilities"] == pytest.approx(one["probabilities"], abs=1e-4)
    assert len({json.dumps(answer["probabilities"]) for answer in alone}) == 24, (
        "pictures must differ to tell them apart"
    )
    batches = re.search(r'geoclass_batch_tiles_bucket\{le="1.0"\} ([\d.]+)', http.get("/metrics").text)
    count = re.search(r"geoclass_batch_tiles_count ([\d.]+)", http.get("/metrics").text)
    assert 'geoclass_requests_total{route="/v1/predict",status="200"}' in http.get("/metrics").text
    assert batches and count and float(count[1]) > float(batches[1]), "no two callers shared a batch"


def test_a_picture_alone_is_the_body(http: httpx.Client) -> None:
    answer = http.post("/v1/predict", content=picture(1), headers={"content-type": "image/png"})
    assert answer.status_code == 200
    found = answer.json()["answers"]
    assert len(found) == 1 and found[0]["class"] in found[0]["probabilities"]


def test_bands_of_a_tiff_are_read_by_their_names(http: httpx.Client, tmp_path: Path, server: Process) -> None:
    """Also with a fourth band, and in another order than red, green and blue."""
    pixels = np.asarray(Image.open(io.BytesIO(picture(5)))).transpose(2, 0, 1)
    found = []
    for order in ((0, 1, 2), (2, 1, 0), (1, 3, 0, 2)):
        bands = [pixels[band] if band < 3 else pixels[0] // 2 for band in order]
        path = tmp_path / "x.tif"
        with rasterio.open(
            path, "w", driver="GTiff", width=224, height=224, count=len(bands), dtype="uint8"
        ) as dataset:
            dataset.write(np.stack(bands))
            dataset.descriptions = tuple(("red", "green", "blue", "nir")[band] for band in order)
        found.append(http.post("/v1/predict", files={"file": ("x.tif", path.read_bytes())}).json()["answers"][0])
    for other in found[1:]:
        assert other["probabilities"] == pytest.approx(found[0]["probabilities"], abs=1e-5)
    assert not list(incoming_of(server).iterdir())


def incoming_of(server: Process) -> Path:
    return Path(server.process.args[server.process.args.index("--data") + 1]) / "incoming"


def test_what_is_no_picture_is_told(http: httpx.Client, tiny_bundle: Path) -> None:
    def sent(body: bytes, name: str = "x.jpg") -> httpx.Response:
        return http.post("/v1/predict", files={"file": (name, body)})

    refused(sent(b""), 422, "x.jpg is empty", "0 bytes")
    refused(sent(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "x.svg"), 415, "x.svg")
    refused(sent(b"<!doctype html><p>not found", "x.tif"), 415)
    refused(sent(picture(1)[:300]), 422, "whole")
    refused(sent(picture(1, "TIFF")[:3000], "x.tif"), 422, "x.tif")
    refused(sent(tiny_bundle.read_bytes()[:100_000], "m.pt"), 415)
    refused(http.post("/v1/predict", files={"other": (None, "x")}), 422, "no picture")
    refused(http.post("/v1/predict", json={}), 415, "multipart/form-data")
    refused(http.post("/v1/predict?model=none", files={"file": picture(1)}), 404, "no model", tiny_bundle.stem)
    many = http.post("/v1/predict", files=[("file", ("x.png", b"x"))] * 65)
    refused(many, 413, "64 files")
    two = http.post("/v1/predict", files=[("file", ("good.png", picture(1))), ("file", ("bad.png", picture(1)[:99]))])
    refused(two, 422, "bad.png")


def test_huge_pictures_are_refused_by_their_headers(http: httpx.Client, server: Process) -> None:
    buffer = io.BytesIO()
    Image.new("L", (8000, 8000)).save(buffer, "PNG", compress_level=9)
    assert len(buffer.getvalue()) < 100_000
    refused(http.post("/v1/predict", files={"file": ("bomb.png", buffer.getvalue())}), 413, "8,000 × 8,000")
    forged = bytearray(picture(1))
    forged[16:24] = (2**31 - 1).to_bytes(4, "big") * 2
    refused(http.post("/v1/predict", files={"file": ("forged.png", bytes(forged))}), 422)
    jpeg = picture(1, "JPEG")
    scans = jpeg[:-2] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" * 200 + jpeg[-2:]
    refused(http.post("/v1/predict", files={"file": ("scans.jpg", scans)}), 422, "scans")


def test_parts_with_endless_headers_are_refused(http: httpx.Client) -> None:
    """What stands before a part's content is kept in memory, so it is bounded; python-multipart does so too, since 0.0.27."""
    form = {"content-type": "multipart/form-data; boundary=b"}
    start = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.png"\r\n'
    for header in (b"X: " + b"a" * 200_000, b"x" * 200_000 + b": a", b"X: a\r\n" * 5000):
        answer = http.post("/v1/predict", content=start + header + b"\r\n\r\nx\r\n--b--\r\n", headers=form)
        assert answer.status_code in (400, 413), answer.text


def test_only_the_needed_drivers_open_what_is_sent(http: httpx.Client, places: Path, tmp_path: Path) -> None:
    """A JPEG whose comment is a virtual raster, and a TIFF that names another file as its smaller copy."""
    from geoclass.service.kinds import PICTURES, SCENES

    assert {kind.driver for kind in (*PICTURES, *SCENES)} == {"GTiff", "JPEG", "PNG", "JP2OpenJPEG"}
    virtual = (places / "open" / "scene.vrt").read_bytes().ljust(257, b" ")
    jpeg = picture(1, "JPEG")
    both = jpeg[:2] + b"\xff\xfe" + (len(virtual) + 2).to_bytes(2, "big") + virtual + jpeg[2:]
    refused(http.post("/v1/classify", files={"file": ("x.jpg", both)}), 415, "none of TIFF, JPEG 2000")
    answer = http.post("/v1/predict", files={"file": ("x.jpg", both)})
    assert answer.status_code == 200, "to Pillow it is a JPEG and nothing else"
    pointing = write_coordinates(tmp_path / "x.tif")
    with rasterio.open(pointing, "r+") as dataset:
        dataset.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=str(places / "secret" / "other.tif"))
    for path in ("/v1/classify", "/v1/predict"):
        refused(http.post(path, files={"file": ("x.tif", pointing.read_bytes())}), 415, "refers to other files")


def test_a_full_disk_is_told(small_disk: Callable[[Path, int], Path], tmp_path: Path) -> None:
    """An upload larger than what is left on a real disk: 507, and nothing of it stays."""
    import asyncio

    from starlette.requests import Request

    from geoclass.service.receiving import received
    from geoclass.service.refusal import Refusal

    disk = small_disk(tmp_path / "disk", 256)

    async def pieces() -> dict[str, object]:
        return {"type": "http.request", "body": b"x" * 100_000, "more_body": True}

    async def scenario() -> None:
        request = Request({"type": "http", "headers": [(b"content-type", b"image/png")]}, pieces)
        async with received(request, disk, 1, alone=("image/",)):
            raise AssertionError("the disk is not full")

    with pytest.raises(Refusal, match="disk is full") as refusal:
        asyncio.run(scenario())
    assert refusal.value.status == 507 and not list(disk.iterdir())


def test_a_body_that_dawdles_is_cut_off() -> None:
    import asyncio

    from geoclass.service.gate import Body
    from geoclass.service.refusal import Refusal

    async def silence() -> dict[str, object]:
        await asyncio.sleep(60)
        return {}

    async def drip() -> dict[str, object]:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def whole(body: Body) -> None:
        while True:
            await body()

    for body in (Body(silence, 100, 60, 0.05), Body(drip, 10_000, 0.1, 60)):
        with pytest.raises(Refusal) as refusal:
            asyncio.run(whole(body))
        assert refusal.value.status == 408
    with pytest.raises(Refusal) as refusal:
        asyncio.run(whole(Body(drip, 3, 60, 60)))
    assert refusal.value.status == 413


# --- The gate ------------------------------------------------------------------------------------------------------


def test_tokens(server: Process) -> None:
    body = {"file": ("x.png", picture(1))}
    for given in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": f"Bearer {TOKEN}x"},
    ):
        for method, path in (
            ("POST", "/v1/predict"),
            ("POST", "/v1/classify"),
            ("DELETE", "/v1/jobs/0"),
            ("POST", "/nowhere"),
        ):
            answer = httpx.request(method, server.url + path, headers=given, files=body if method == "POST" else None)
            refused(answer, 401, "token")
            assert answer.headers["www-authenticate"] == "Bearer"
    assert httpx.get(f"{server.url}/v1/jobs").status_code == 200, "reading on the machine itself needs none"
    assert httpx.get(f"{server.url}/healthz").json()["status"] == "ok"
    for name in ("x-forwarded-for", "forwarded", "via", "x-real-ip"):
        refused(httpx.get(f"{server.url}/v1/jobs", headers={name: "203.0.113.7"}), 401)
    assert not any(TOKEN in line for line in server.log)


def test_pages_of_other_sites_are_kept_out(server: Process, http: httpx.Client) -> None:
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "http://[", "http://localhost.evil.example"):
        refused(http.get("/v1/jobs", headers={"origin": origin}), 403, "another site")
    assert http.get("/v1/jobs", headers={"origin": server.url}).status_code == 200
    refused(http.post("/v1/classify", json={}, headers={"sec-fetch-site": "cross-site"}), 403)
    for host in ("evil.example", f"evil.example:{server.port}", "127.0.0.1.evil.example", ""):
        refused(http.get("/v1/jobs", headers={"host": host}), 400, "Host")
    answer = http.options("/v1/jobs", headers={"origin": server.url, "access-control-request-method": "POST"})
    assert answer.status_code == 405
    for answer in (http.get("/v1/jobs"), http.get("/nowhere"), httpx.post(f"{server.url}/v1/classify")):
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_unknown_paths_and_methods(http: httpx.Client) -> None:
    refused(http.get("/nowhere"), 404)
    refused(http.get("/docs"), 404)
    refused(http.get("/v1/runs"), 404, "no database is set")
    refused(http.get("/v1/runs/x/results/gpkg"), 404, "no database is set")
    refused(http.post("/v1/classify", json={"sources": ["scene.tif"], "to_database": True}), 422, "no database is set")
    refused(http.get("/static/../../pyproject.toml"), 404)
    refused(http.put("/v1/predict"), 405)
    assert http.put("/v1/predict").headers["allow"] == "POST"


def test_sizes_are_checked_before_bodies_are_read(server: Process) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as line:
        line.sendall(
            f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
            "Content-Type: image/png\r\nContent-Length: 99999999999\r\n\r\n".encode()
        )
        assert b" 413 " in line.recv(1000)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as line:
        line.sendall(
            f"POST /v1/jobs/0/cancel HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        assert b" 404 " in line.recv(1000), "a route that needs no body answers without it"


def test_a_json_body_of_unknown_length_that_is_too_large_is_told() -> None:
    """Without a process, whose end of the connection may be closed before the whole body is sent."""
    from typing import Any

    from fastapi import Body, FastAPI
    from starlette.testclient import TestClient

    from geoclass.service.gate import Gate
    from geoclass.service.metrics import Metrics
    from geoclass.service.problems import answer_errors
    from geoclass.service.settings import Settings

    app = FastAPI()
    answer_errors(app)

    @app.post("/v1/jobs/0/statistics")
    def take(area: Any = Body()) -> None: ...  # noqa: B008  (FastAPI's way)

    gate = Gate(app, Settings((Path("m.pt"),), token=TOKEN), Metrics())
    caller = TestClient(gate, base_url="http://localhost", headers=HEADERS)
    pieces = (b" " * 65_536 for _ in range(40))
    answer = caller.post("/v1/jobs/0/statistics", content=pieces, headers={"content-type": "application/json"})
    refused(answer, 413, "larger than 2,097,152 bytes")


def test_a_connection_cut_in_the_middle_leaves_nothing(server: Process, http: httpx.Client, places: Path) -> None:
    incoming = next(iter(Path(arg) for arg in server.process.args if arg.endswith("/data"))) / "incoming"
    for path in ("/v1/predict", "/v1/classify"):
        line = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 500000\r\n\r\n"
            '--b\r\nContent-Disposition: form-data; name="file"; filename="x.tif"\r\n\r\n'
        ).encode()
        line.sendall(head + b"II*\0" + b"x" * 100_000)
        wait_for(lambda: any(incoming.iterdir()))
        line.close()
        wait_for(lambda: not any(incoming.iterdir()))
    assert http.get("/healthz").status_code == 200


# --- Paths and URLs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "../secret/other.tif", "link.tif", "up/other.tif", "/etc/passwd", "{secret}/other.tif", "..", "x/../../secret/other.tif",
        "~/x.tif", "\x00", "", "/vsizip/x.zip/y.tif", "vsicurl/http://127.0.0.1/", "/vsimem/x", "/VSIS3/x/y", "file:///etc/passwd",
        "<VRTDataset/>", "GTIFF_DIR:1:/etc/passwd", "a" * 999, "http://169.254.169.254/latest/meta-data",
        "https://imagery.example.evil/open/x.tif", "https://imagery.example@evil/open/x.tif", "https://imagery.example/open/../x",
        "https://imagery.example/open/%2e%2e/x", "https://imagery.example/opened/x.tif", "http://imagery.example/open/x.tif",
        "https://imagery.example:444/open/x.tif", "https://imagery.example/open/%252e%252e/x", "https://[::1/open/x",
        "s3://bucket/x.tif", "https://imagery.example\\@evil/open/x",
    ],
)  # fmt: skip
def test_nothing_outside_the_allowed_places_is_read(http: httpx.Client, places: Path, source: str) -> None:
    source = source.replace("{secret}", str(places / "secret"))
    answer = http.post("/v1/classify", json={"sources": [source]})
    assert answer.status_code in (403, 404, 422), answer.text
    assert answer.status_code != 422 or source == "", answer.text
    assert "VRT" not in answer.text and str(places) not in answer.text


@pytest.mark.parametrize("beside", [".ovr", ".msk", ".aux.xml"])
def test_links_beside_a_scene_are_followed(
    http: httpx.Client, places: Path, tmp_path: Path, tiny_bundle: Path, beside: str
) -> None:
    """GDAL would open what lies beside a scene, wherever a link there leads."""
    from geoclass.service.refusal import Refusal
    from geoclass.service.settings import Limits
    from geoclass.service.worker import Task, _scene

    scene = write_coordinates(places / "open" / f"beside{beside}.tif".replace(".", "_", 1))
    target = places / "secret" / f"target{beside}"
    if beside == ".aux.xml":
        target.write_text("<PAMDataset><Metadata><MDI key='a'>b</MDI></Metadata></PAMDataset>")
    else:
        write_coordinates(target)
    link = scene.with_name(scene.name + beside)
    link.symlink_to(target)
    task = Task(
        tmp_path, [scene.name], False, str(tiny_bundle), "x", {}, [str(scene.parent)], [], "cpu", "torch", Limits()
    )
    with pytest.raises(Refusal, match="leads out") as refusal:
        _scene(task, 0, scene.name, lambda **event: None)
    assert refusal.value.status == 403
    refused(http.post("/v1/classify", json={"sources": [scene.name]}), 403, f"a file beside {scene.name} leads out")
    link.unlink()
    target.rename(link)
    assert _scene(task, 0, scene.name, lambda **event: None) == scene, "a file of its own is taken"


def test_virtual_rasters_are_refused(http: httpx.Client, places: Path) -> None:
    refused(http.post("/v1/classify", json={"sources": ["scene.vrt"]}), 415, "scene.vrt")
    body = (places / "open" / "scene.vrt").read_bytes()
    refused(http.post("/v1/classify", files={"file": ("scene.tif", body)}), 415, "scene.tif")
    refused(http.post("/v1/predict", files={"file": ("scene.tif", body)}), 415)


def test_options_are_checked(http: httpx.Client) -> None:
    for options in (
        {"sensor": "/etc/passwd.toml"}, {"crs": "+init=epsg:4326"}, {"name": "../x"}, {"name": "a/b"}, {"min_valid": 2}, {"gsd_m": 0},
        {"date": "yesterday"}, {"smooth": "much"}, {"unknown": 1}, {"gsd_m": 1e9},
    ):  # fmt: skip
        refused(http.post("/v1/classify", json={"sources": ["scene.tif"], **options}), 422, next(iter(options)))
        form = {key: str(value) for key, value in options.items()}
        refused(http.post("/v1/classify", data=form, files={"file": picture(1)}), 422, next(iter(options)))
    refused(http.post("/v1/classify", json={"sources": []}), 422)
    refused(http.post("/v1/classify", json={"sources": ["scene.tif"], "model": "none"}), 404)
    for broken in (b"", b"{", b"[" * 100_000, b'{"sources": "\xff"}', b"null", b'{"sources": ["\\ud800"]}'):
        answer = http.post("/v1/classify", content=broken, headers={"content-type": "application/json"})
        assert answer.status_code in (403, 422), answer.text


# --- The client ----------------------------------------------------------------------------------------------------


def test_the_client_says_in_one_line_what_is_wrong(server: Process, client: Client, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("no picture")
    (tmp_path / "there.gpkg").touch()
    with Client(server.url, "wrong") as stranger, Client("http://127.0.0.1:9", TOKEN) as lost:
        for call, words in (
            (lambda: stranger.predict(tmp_path / "x.txt"), "token"),
            (lambda: lost.jobs(), "does not answer"),
            (lambda: client.predict(tmp_path / "x.txt"), "x.txt is none of"),
            (lambda: client.predict(tmp_path / "missing.png"), "cannot be read"),
            (lambda: client.predict([]), "no file"),
            (lambda: client.job("0123456789abcdef"), "no job"),
            (lambda: client.delete("../x"), "no id"),
            (lambda: client.run("../x"), "no id or view"),
            (lambda: client.runs(), "no database is set"),
            (lambda: client.classify("../secret/other.tif", upload=False), "allowed folder"),
            (lambda: client.download("0123456789abcdef", "gpkg", tmp_path / "new.gpkg"), "no job"),
        ):
            with pytest.raises(ServiceError, match=words) as error:
                call()
            assert "; " in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(OutputError, match="exists"):
        client.download("0123456789abcdef", "gpkg", tmp_path / "there.gpkg")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["there.gpkg", "x.txt"]
    assert client.models()[0]["size_px"] == 224


# --- Starting ------------------------------------------------------------------------------------------------------


def test_two_services_on_one_folder(server: Process, tiny_bundle: Path) -> None:
    data = server.process.args[server.process.args.index("--data") + 1]
    again = run("--model", str(tiny_bundle), "--data", data)
    assert again.returncode == 2 and "another service uses" in again.stderr and len(again.stderr.splitlines()) == 1


def test_a_folder_of_somebodys_own_files_is_refused_and_kept(tmp_path: Path) -> None:
    from geoclass.service.folder import claim

    for name in ("incoming", "jobs/old", "lock.d"):
        data = tmp_path / name.partition("/")[0] / "data"
        (data / name).mkdir(parents=True)
        (data / name / "mine.tif").write_bytes(b"mine")
        data.chmod(0o755)
        with (
            pytest.raises(ServiceError, match="not the service's; give an empty or new folder with --data"),
            claim(data),
        ):
            pass
        assert (data / name / "mine.tif").read_bytes() == b"mine" and [each.name for each in data.iterdir()] == [
            name.partition("/")[0]
        ]
        assert data.stat().st_mode & 0o777 == 0o755, "not even its mode changes"
    new = tmp_path / "new"
    for _ in range(2):  # again, as after a start that was killed before it had a table of jobs
        with claim(new):
            assert (new / "lock").exists()
    (new / "jobs.sqlite").touch()
    (new / "incoming").mkdir()
    with claim(new):
        pass


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "no model"),
        (["--model", "missing.pt"], "no such model bundle"),
        (["--model", "m.pt", "--token", "short"], "token is refused"),
        (["--model", "m.pt", "--allow-url", "ftp://x"], "--allow-url"),
        (["--model", "m.pt", "--allow-url", "https://x:99999/"], "no beginning of a URL"),
        (["--model", "m.pt", "--allow-url", "https://[x/"], "no beginning of a URL"),
        (["--model", "m.pt", "--allow-root", "missing"], "--allow-root"),
        (["--model", "m.pt", "--data", "/proc/x"], "choose another folder with --data"),
        (["--model", "m.pt", "--host", "203.0.113.1"], "cannot listen"),
    ],
)
def test_a_service_that_cannot_start_says_why(tmp_path: Path, options: list[str], words: str) -> None:
    found = run(*options, cwd=tmp_path)
    assert found.returncode == 2 and words in found.stderr and len(found.stderr.splitlines()) == 1, found.stderr


def run(*options: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "GEOCLASS_TOKEN"}
    command = [sys.executable, "-m", "geoclass", "serve", "--port", "0", *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=60)


def test_off_loopback_everything_needs_the_token(tmp_path: Path) -> None:
    """Without a process: how the gate decides, for addresses that a test cannot come from."""
    from geoclass.service.gate import Gate
    from geoclass.service.metrics import Metrics
    from geoclass.service.refusal import Refusal
    from geoclass.service.settings import Settings

    async def app(*_: object) -> None: ...

    def status(settings: Settings, client: str, method: str = "GET", path: str = "/v1/jobs", **headers: str) -> int:
        raw = [(name.encode(), value.encode()) for name, value in {"host": "127.0.0.1:8000", **headers}.items()]
        scope = {"type": "http", "method": method, "path": path, "headers": raw, "client": (client, 1)}
        try:
            Gate(app, settings, Metrics())._admit(scope)
        except Refusal as refusal:
            return refusal.status
        return 200

    model = (tmp_path / "m.pt",)
    near, far = Settings(model), Settings(model, host="0.0.0.0", hosts=("maps.example",))
    proxied = Settings(model, hosts=("maps.example",))
    token = {"authorization": f"Bearer {far.token}"}
    assert status(near, "127.0.0.1") == 200
    assert status(near, "127.0.0.1", "POST") == 401
    assert status(near, "192.0.2.5") == 401
    assert status(far, "127.0.0.1") == 401, "not even from the machine itself: a proxy may stand there"
    assert status(proxied, "127.0.0.1") == 401
    assert status(far, "192.0.2.5", host="maps.example") == 401
    assert status(far, "192.0.2.5", host="maps.example", **token) == 200
    assert status(far, "192.0.2.5", host="evil.example", **token) == 400
    assert status(far, "192.0.2.5", path="/healthz") == 200
    assert near.token != far.token and len(near.token) > 30 and near.token not in repr(near)


def test_silent_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's own settings, in this process: no request, half of one, half of a second one, and one too many."""
    import asyncio

    from uvicorn import Config
    from uvicorn.server import ServerState

    from geoclass.service import connection, serving

    configs: list[Config] = []

    class Server:
        def __init__(self, config: Config, ready: object) -> None:
            configs.append(config)

        def run(self, sockets: object) -> None: ...

    async def app(scope: dict, receive: Callable, send: Callable) -> None:
        await asyncio.sleep(0.5 if scope["path"] == "/slow" else 0)  # longer than a header may take
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    monkeypatch.setattr(serving, "_Server", Server)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving.answer(app, listener, "127.0.0.1", lambda address: None, "error")
    config = configs[0]
    config.load()
    assert 1 <= connection.most_connections() <= connection.MOST
    monkeypatch.setattr(connection, "HEADER_S", 0.3)
    monkeypatch.setattr(connection, "MOST", 5)
    whole = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

    async def scenario() -> None:
        state = ServerState()
        server = await asyncio.get_running_loop().create_server(
            lambda: config.http_protocol_class(config, state, {}), "127.0.0.1", 0
        )

        async def said(*pieces: bytes) -> tuple[bytes, float]:
            """What comes back, and after how many seconds the connection is closed."""
            begun = asyncio.get_running_loop().time()
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0.05)
            try:
                found = await asyncio.wait_for(reader.read(), 20)
            except ConnectionError:
                found = b"reset"
            writer.close()
            return found, asyncio.get_running_loop().time() - begun

        slow = whole.replace(b"/ ", b"/slow ").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        found = await asyncio.gather(said(), said(whole[:20]), said(whole, whole[:20]), said(slow))
        assert [b"200 OK" in answer for answer, _ in found] == [False, False, True, True]
        assert all(seconds < 10 for _, seconds in found)
        assert not state.connections
        crowd = [asyncio.create_task(said(b"")) for _ in range(5)]
        await asyncio.sleep(0.1)
        answer, seconds = await said(whole)
        assert b"200" not in answer and seconds < 0.2, "the sixth is closed at once"
        await asyncio.gather(*crowd)
        server.close()

    asyncio.run(scenario())


def test_a_full_queue_answers_429() -> None:
    import asyncio

    from geoclass.service.batching import Batcher
    from geoclass.service.refusal import Refusal

    go = threading.Event()

    def network(tiles):
        go.wait()
        return np.array([[float(tile[0])] for tile in tiles], np.float32)

    async def scenario() -> None:
        seen: list[int] = []
        batcher = Batcher(network, 4, 10, lambda tiles, _: seen.append(tiles))
        asked = [asyncio.create_task(batcher([np.array([n])])) for n in range(10)]
        await asyncio.sleep(0.1)
        with pytest.raises(Refusal) as refusal:
            await batcher([np.array([99])])
        assert refusal.value.status == 429 and int(refusal.value.headers["retry-after"]) >= 1
        asked[7].cancel()
        go.set()
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert [float(item[0, 0]) for n, item in enumerate(found) if n != 7] == [n for n in range(10) if n != 7]
        assert isinstance(found[7], asyncio.CancelledError)
        assert max(seen) <= 4 and sum(seen) == 9 and batcher.waiting == 0
        batcher.close()

    asyncio.run(scenario())
