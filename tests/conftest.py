"""Fixtures for the parts a test needs that not every machine has.

Where such a part is missing the test skips and says why; with GEOCLASS_REQUIRE_ALL=1 it fails instead, so that
a full run cannot pass by skipping.
"""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from postgresql_server import Server

# Two networks with a thread for every core each are many times slower than one: the cores wait for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


def missing(reason: str) -> None:
    if os.environ.get("GEOCLASS_REQUIRE_ALL") == "1":
        pytest.fail(f"{reason} (GEOCLASS_REQUIRE_ALL=1 forbids skipping)")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real imagery that GEOCLASS_TEST_DATA names."""
    named = os.environ.get("GEOCLASS_TEST_DATA")
    if not named:
        missing("GEOCLASS_TEST_DATA is unset: no real imagery to test on")
    folder = Path(str(named))
    if not folder.is_dir():
        missing(f"GEOCLASS_TEST_DATA names {folder}, which is no folder")
    return folder


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium to drive."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    missing("no Chromium on this machine: apt-get install chromium")
    raise AssertionError


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator["Browser"]:
    """That Chromium, for all tests of a module; it asks for nothing by itself."""
    from playwright.sync_api import sync_playwright

    quiet = ("quic", "background-networking", "component-update", "sync")
    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", *(f"--disable-{name}" for name in quiet)]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def qgis_python() -> str:
    """A Python that can import QGIS (Debian's own)."""
    python = "/usr/bin/python3"
    if not Path(python).exists() or subprocess.run([python, "-c", "import qgis.core"], capture_output=True).returncode:
        missing("no QGIS for Python on this machine: apt-get install python3-qgis qgis-providers")
    return python


@pytest.fixture(scope="session")
def postgis() -> Iterator["Server"]:
    """A PostgreSQL server with PostGIS of this run's own."""
    from postgresql_server import binaries, has_postgis, running

    folder = binaries()
    if folder is None or not has_postgis(folder):
        missing("no PostgreSQL with PostGIS on this machine: apt-get install postgresql postgresql-postgis")
    with running(Path(str(folder))) as server:
        yield server


@pytest.fixture()
def small_disk() -> Iterator[Callable[[Path, int], Path]]:
    """Makes folders that are disks of a few KiB, really: (path, KiB) → that path. Only where a test may mount."""
    made: list[Path] = []

    def disk(path: Path, kibibytes: int) -> Path:
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k,mode=777", "geoclass-test", str(path)]
        if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a small disk needs the right to mount one")
        made.append(path)
        return path

    yield disk
    for path in made:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def coordinate_pixels(left_px: int, top_line: int, width: int, height: int) -> np.ndarray:
    """(3, height, width) uint8 whose values tell each pixel's place on the lattice, never 0.

    Red counts columns and green lines, each modulo a prime; blue tells how often they wrapped.
    """
    column = np.arange(left_px, left_px + width)[None, :] + np.zeros((height, 1), int)
    line = np.arange(top_line, top_line + height)[:, None] + np.zeros((1, width), int)
    wraps = (column // 251 * 7 + line // 241 * 13) % 199
    return np.stack([column % 251 + 1, line % 241 + 1, wraps + 1]).astype(np.uint8)


def write_coordinates(
    path: Path, left: float = 1400 * 224, top: float = 20900 * 224, width: int = 700, height: int = 500, **profile: Any
) -> Path:
    """A 1 m GeoTIFF of `coordinate_pixels` with its upper left corner at (left, top), EPSG:26919 unless told."""
    pixels = coordinate_pixels(round(left), round(-top), width, height)
    options = {
        "driver": "GTiff", "width": width, "height": height, "count": 3, "dtype": "uint8", "crs": "EPSG:26919",
        "transform": from_origin(left, top, 1, 1), "tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate",
    }  # fmt: skip
    with rasterio.open(path, "w", **{**options, **profile}) as dataset:
        dataset.write(pixels)
    return path


def assert_same_outputs(here: Path, name: str, tiles: int) -> None:
    """The run into `name` left what that into `whole` did: GeoPackage and CSV row by row, rasters, and nothing else."""
    import pyogrio

    whole, other = (
        pyogrio.read_dataframe(here / folder / "scene.gpkg", layer="landcover") for folder in ("whole", name)
    )
    assert len(whole) == tiles
    assert whole.equals(other)
    assert (here / "whole" / "scene.csv").read_bytes() == (here / name / "scene.csv").read_bytes()
    for raster in ("scene.tif", "scene.preview.tif"):
        with rasterio.open(here / "whole" / raster) as a, rasterio.open(here / name / raster) as b:
            assert np.array_equal(a.read(), b.read())
    assert not [path for path in (here / name).iterdir() if path.name.startswith(".")], "something is left behind"


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the default backbone with random weights: for what does not depend on accuracy."""
    from geoclass import backbones
    from geoclass.bundle import BundleMeta, save_bundle
    from geoclass.schemes import load_scheme
    from geoclass.sensors import load_sensor

    scheme = load_scheme("rsscn7")
    network = backbones.build("efficientnet_lite0", classes=len(scheme), weights=None)
    norm = backbones.normalisation("efficientnet_lite0", 3)
    meta = BundleMeta(
        backbone="efficientnet_lite0", scheme=scheme, sensor=load_sensor("rgb8"), bands=("red", "green", "blue"), size_px=224,
        gsd_m=None, mean=norm.mean, std=norm.std, brightness=None, training={}, created="2020-01-01T00:00:00+00:00",
        geoclass_version="0.1.0",
    )  # fmt: skip
    path = tmp_path_factory.mktemp("bundle") / "tiny.pt"
    save_bundle(path, meta, dict(network.state_dict()))
    return path


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Features are cached in a folder of this run, never in the user's."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("GEOCLASS_CACHE")
    os.environ["GEOCLASS_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["GEOCLASS_CACHE"]
    else:
        os.environ["GEOCLASS_CACHE"] = before


TEXTURES = ("checks", "noise", "stripes")
TEXTURE_PX = 64


def texture(kind: str, rng: np.random.Generator) -> np.ndarray:
    """(64, 64, 3) uint8 of one kind, each with colours, spacing and place of its own."""
    lines, columns = np.mgrid[:TEXTURE_PX, :TEXTURE_PX] + rng.integers(0, 20, (2, 1, 1))
    spacing = int(rng.integers(5, 9))
    if kind == "checks":
        pattern = (lines // spacing + columns // spacing) % 2
    elif kind == "stripes":
        pattern = lines // spacing % 2
    else:
        pattern = rng.random((TEXTURE_PX, TEXTURE_PX))
    low, high = rng.integers(0, 100, 3), rng.integers(140, 256, 3)
    return (low + np.asarray(pattern)[..., None] * (high - low)).astype(np.uint8)


def write_textures(root: Path, count: int, seed: int = 0, kinds: tuple[str, ...] = TEXTURES) -> Path:
    """Class folders of `count` textures each, as PNG; kinds that are no texture are noise."""
    rng = np.random.default_rng(seed)
    for kind in kinds:
        (root / kind).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(texture(kind, rng)).save(root / kind / f"{number:03}.png")
    return root
