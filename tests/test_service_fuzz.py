"""Uploads and requests that nobody sends on purpose: no crash, no 5xx, nothing undeclared, memory bounded.

GEOCLASS_FUZZ and GEOCLASS_EXAMPLES say how many; scripts/fuzz-service runs 10,000 and 5,000.
"""

import gzip
import io
import logging
import os
import random
import struct
import subprocess
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import rasterio
from geoclass_process import HEADERS, TOKEN, Process, serving
from PIL import Image
from rasterio.transform import from_origin

UPLOADS = int(os.environ.get("GEOCLASS_FUZZ", "300"))
EXAMPLES = int(os.environ.get("GEOCLASS_EXAMPLES", "100"))
OPERATIONS = 24
LONG = 500
RUN_VIEW = "run_county_2021_07_14"
GROWTH_BYTES = 600 << 20

log = logging.getLogger(__name__)

logging.getLogger("httpx").setLevel(logging.WARNING)  # a line a request

Make = Callable[[random.Random], bytes]


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest):
    """In the long version with a database too, which holds the run that the OpenAPI document has as its example."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "scenes").mkdir()
    options, more = ["--allow-root", str(folder / "scenes")], {}
    if EXAMPLES > LONG:
        from postgresql_server import PASSWORD, PLANNER
        from test_postgis import made

        from geoclass.database.loading import load_result

        postgis = request.getfixturevalue("postgis")
        name = postgis.create()
        assert load_result(made(name="county", date="2021-07-14"), postgis.address(name)).run_view == RUN_VIEW
        options += ["--database", f"postgresql://{PLANNER}@127.0.0.1:{postgis.port}/{name}"]
        more = {"PGPASSWORD": PASSWORD}
    with serving(tiny_bundle, folder / "data", *options, **more) as process:
        yield process


# --- What is sent --------------------------------------------------------------------------------------------------


def sound(form: str, side: int = 96) -> bytes:
    pixels = np.random.default_rng(len(form)).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    options = {"progressive": True} if form == "JPEG" else {"compression": "tiff_deflate"} if form == "TIFF" else {}
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def geotiff() -> bytes:
    with rasterio.MemoryFile() as memory:
        profile = {"driver": "GTiff", "width": 64, "height": 64, "count": 3, "dtype": "uint8", "crs": "EPSG:26919"}
        with memory.open(**profile, transform=from_origin(313600, 4681600, 1, 1), compress="deflate") as dataset:
            dataset.write(np.arange(3 * 64 * 64, dtype=np.uint8).reshape(3, 64, 64))
        return bytes(memory.read())


SOUND = [sound("JPEG"), sound("PNG"), sound("TIFF"), geotiff()]


def truncated(rng: random.Random) -> bytes:
    body = rng.choice(SOUND)
    return body[: rng.randrange(len(body))]


def flipped(rng: random.Random) -> bytes:
    body = bytearray(rng.choice(SOUND))
    for _ in range(rng.choice((1, 3, 30))):
        place = rng.randrange(min(len(body), rng.choice((64, 400, 10**9))))
        body[place] = rng.randrange(256)
    return bytes(body)


def spliced(rng: random.Random) -> bytes:
    a, b = rng.choice(SOUND), rng.choice(SOUND)
    return a[: rng.randrange(len(a))] + b[rng.randrange(len(b)) :]


def headed(rng: random.Random) -> bytes:
    magic = rng.choice(
        (b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0", b"\xff\x4f\xff\x51")
    )
    return magic + rng.randbytes(rng.choice((0, 4, 60, 3000)))


def foreign(rng: random.Random) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("x.tif", b"\0" * 5_000_000)
    return rng.choice(
        (
            b"", b"\0", b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", b"%PDF-1.7\n",
            b"<!doctype html><html><body>404</body></html>", b"GIF89a\xff\xff\xff\xff\x00\x00\x00", b"\x80\x04\x95cos\nsystem\n.",
            b"<VRTDataset rasterXSize='1' rasterYSize='1'><SourceFilename>/etc/passwd</SourceFilename></VRTDataset>",
            gzip.compress(b"\0" * 5_000_000), archive.getvalue(), b"BM" + b"\xff" * 60, b"SIMPLE  =                    T",
            b"CDF\x01" + b"\0" * 40, b"\x89HDF\r\n\x1a\n" + b"\0" * 80, b"P6 99999 99999 255\n", rng.randbytes(500),
        )
    )  # fmt: skip


def png(width: int, height: int, data: bytes, *more: tuple[bytes, bytes]) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + header + b"".join(chunk(*c) for c in more) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def tiff(width: int, height: int, rows: int, data: bytes, compression: int = 8, bands: int = 3) -> bytes:
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1), (273, 4, 1, 8),
        (277, 3, 1, bands), (278, 4, 1, rows), (279, 4, 1, len(data)),
    ]  # fmt: skip
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + b"\0\0\0\0"
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


ZEROS = zlib.compress(b"\0" * 40_000_000, 9)


def bomb(rng: random.Random) -> bytes:
    far = rng.choice((5_001, 60_000, 2**31 - 1, 0))
    return rng.choice(
        (
            png(far, far, ZEROS), png(200, 200, ZEROS), png(64, 64, b"", (b"zTXt", b"k\0\0" + ZEROS)),
            png(64, 64, b"", (b"iCCP", b"k\0\0" + ZEROS)), tiff(far, far, far or 1, ZEROS), tiff(4_000, 4_000, 4_000, ZEROS),
            tiff(far, 1, 1, b"x", 1), tiff(64, 64, 64, ZEROS, bands=65_535), tiff(64, 64, 2**32 - 1, ZEROS),
            SOUND[0][:-2] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" * 5_000 + SOUND[0][-2:],
            SOUND[0].replace(b"\x00\x60\x00\x60\x03", b"\xff\xff\xff\xff\x03", 1),
        )
    )  # fmt: skip


KINDS: tuple[tuple[Make, int], ...] = (
    (truncated, 4), (flipped, 6), (spliced, 2), (headed, 3), (foreign, 3), (bomb, 1), (lambda rng: rng.choice(SOUND), 1),
)  # fmt: skip


def upload(seed: int) -> tuple[str, dict[str, str], bytes]:
    """(path, headers, body) of one request."""
    rng = random.Random(seed)
    make = rng.choices([make for make, _ in KINDS], [weight for _, weight in KINDS])[0]
    path = rng.choice(("/v1/predict", "/v1/predict", "/v1/predict", "/v1/classify"))
    if rng.random() < 0.1:
        media = rng.choice(
            ("image/jpeg", "image/png", "image/tiff", "application/json", "text/html", "", "multipart/form-data")
        )
        return path, {"content-type": media}, make(rng)
    name = rng.choice(
        ("x.tif", "../../x.tif", "x.svg", "\u2603.png", "x" * 300, "", "a\x00b", "con.jpg", "/etc/passwd")
    )
    parts = [
        b"--b\r\n"
        + f'Content-Disposition: form-data; name="file"; filename="{name}"'.encode()
        + b"\r\n\r\n"
        + make(rng)
        + b"\r\n"
        for _ in range(rng.choice((1, 1, 1, 2, 5)))
    ]
    if rng.random() < 0.1:
        parts.append(b'--b\r\nContent-Disposition: form-data; name="gsd_m"\r\n\r\n' + rng.randbytes(5) + b"\r\n")
    body = b"".join(parts) + b"--b--\r\n"
    if rng.random() < 0.05:
        body = body[: rng.randrange(len(body))]
    return path, {"content-type": "multipart/form-data; boundary=b"}, body


def test_no_upload_harms_the_service(server: Process) -> None:
    process = psutil.Process(server.process.pid)
    with httpx.Client(base_url=server.url, headers=HEADERS, timeout=120) as http:
        for body in SOUND[:3]:
            assert http.post("/v1/predict", files={"file": body}).status_code == 200
        before = process.memory_info().rss
        statuses: Counter[int] = Counter()

        def send(seed: int) -> None:
            path, headers, body = upload(seed)
            answer = http.post(path, headers=headers, content=body)
            statuses[answer.status_code] += 1
            assert answer.status_code in (200, 202, 400, 413, 415, 422, 429), f"upload {seed}: {answer.text}"
            if answer.status_code == 202:
                job = answer.json()["id"]
                http.post(f"/v1/jobs/{job}/cancel")
                assert http.delete(f"/v1/jobs/{job}").status_code == 204
            elif answer.status_code >= 400:
                assert set(answer.json()) == {"error", "remedy"}, f"upload {seed}: {answer.text}"

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(send, range(UPLOADS)))
        assert process.is_running() and http.get("/healthz").status_code == 200
        assert statuses[200] and statuses[415] and statuses[422], statuses
        assert http.get("/v1/jobs").json()["jobs"] == []
    grown = process.memory_info().rss - before
    assert grown < GROWTH_BYTES, f"{grown:,} bytes more after {statuses}"
    data = Path(server.process.args[server.process.args.index("--data") + 1])
    assert not list((data / "incoming").iterdir()) and not list((data / "jobs").iterdir())
    assert not [line for line in server.log if "Traceback" in line], "".join(server.log)[-3000:]
    log.info("%s uploads: %s, %s MiB before, %s more after", UPLOADS, dict(statuses), before >> 20, grown >> 20)


# --- Requests made up from the OpenAPI document --------------------------------------------------------------------

# Left out: `positive_data_acceptance`, since bytes that fit "a string of binary" are seldom a picture.
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "unsupported_method", "ignored_auth", "negative_data_rejection",
)  # fmt: skip


def test_the_openapi_document_is_kept_to(server: Process, tmp_path: Path) -> None:
    each = max(1, EXAMPLES * 3 // 2 // OPERATIONS)  # some operations have fewer different requests than that
    found = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", "--header", f"Authorization:Bearer {TOKEN}",
            "--checks", ",".join(CHECKS), "--max-examples", str(each), "--seed", "1", "--no-color",
            "--phases", "examples,coverage,fuzzing" if EXAMPLES > LONG else "examples,fuzzing", "--warnings", "off",
            "--suppress-health-check", "all", "--continue-on-failure", "--generation-database", "none",
        ],
        capture_output=True, text=True, cwd=tmp_path, timeout=3600,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]
    log.info(found.stdout[-1500:])


def test_every_operation_is_described(server: Process) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    operations = [
        (path, method, each) for path, methods in document["paths"].items() for method, each in methods.items()
    ]
    assert len(operations) == OPERATIONS, [item[:2] for item in operations]
    for path, method, each in operations:
        assert each["summary"] and each["description"] and each["security"] is not None, (path, method)
        for code, answer in each["responses"].items():
            assert answer["description"], (path, method, code)
            if code >= "400":
                assert answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Problem"}
        if method != "get":
            assert each["security"] == [{"token": []}]
    for name in ("JobFacts", "Problem", "Health", "Answer", "RunFacts", "RunOverview", "RunClass"):
        schema = document["components"]["schemas"][name]
        assert "examples" in schema or any("examples" in field for field in schema["properties"].values()), name
