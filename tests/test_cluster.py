"""Dask clusters: the same result as one process gives, whatever is killed on the way, and one line for what cannot work."""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyogrio
import pytest
import rasterio
import torch
from click.testing import CliRunner
from conftest import assert_same_outputs, free_port, missing, write_coordinates
from PIL import Image

import geoclass as library
from geoclass.bundle import load_bundle, save_bundle
from geoclass.cli import main
from geoclass.cluster import block as blocks
from geoclass.cluster import crew
from geoclass.cluster import worker as at_work
from geoclass.cluster.classifying import job_of, told
from geoclass.datasets.store import read_tiles
from geoclass.errors import ClusterError, GeoclassError, SceneError
from geoclass.evaluation.assessment import predict_tiles
from geoclass.plan import Plan, make_plan
from geoclass.runtimes.settling import Settled, workload_of
from geoclass.runtimes.wanted import NEEDS, Choice
from geoclass.train import Method, train

try:
    import distributed
except ImportError:
    distributed = None  # every test says so

SIDE = 17
KILLS = 3
TORCH = Choice(runtime="torch", precision="fp32")
# One thread everywhere: torch's answers differ in the last bits by the number of threads.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module", autouse=True)
def dask() -> Iterator[None]:
    if distributed is None:
        missing("Dask is not installed: pip install 'geoclass[cluster]'")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def bundle(tiny_bundle) -> Path:
    """A bundle that looks at tiles at a small size, which is quick."""
    known = load_bundle(tiny_bundle)
    path = tiny_bundle.with_name("quick.pt")
    save_bundle(path, known.meta.model_copy(update={"input_px": 64}), known.state, overwrite=True)
    return path


def arguments(bundle: Path, out: object, *more: object, scene: str = "scene.tif") -> list[str]:
    return ["classify", scene, "--model", str(bundle), "-o", str(out), "--format", "csv", *map(str, more)]


def classify(here: Path, *args: object, **more: str) -> tuple[int, str]:
    """(exit code, what was said on standard error) of a run whose driver is this process."""
    with contextlib.chdir(here):
        result = CliRunner().invoke(main, arguments(*args, **more), prog_name="geoclass")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stderr


def start(here: Path, *args: object, **more: object) -> subprocess.Popen:
    """A run whose driver is a process of its own, as it can be killed."""
    words = [sys.executable, "-m", "geoclass", *arguments(*args)]
    return subprocess.Popen(
        words, cwd=here, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more
    )


def refused(here: Path, *args: object, **more: str) -> str:
    """The one line that a run says which cannot work."""
    code, said = classify(here, *args, **more)
    assert code == 2, said
    return error_line(said)


def error_line(said: str) -> str:
    assert "Traceback" not in said, said
    found = [line for line in said.splitlines() if line.startswith("geoclass: error: ")]
    assert len(found) == 1, said
    assert said.strip().endswith(found[0]), said
    assert ";" in found[0], f"no remedy: {found[0]}"
    return found[0]


@pytest.fixture(scope="module")
def here(tmp_path_factory, bundle) -> Path:
    """A scene of 17 × 17 tiles, and what one process makes of it."""
    folder = tmp_path_factory.mktemp("cluster")
    write_coordinates(folder / "scene.tif", width=SIDE * 224, height=SIDE * 224)
    code, said = classify(folder, bundle, "whole")
    assert code == 0, said
    return folder


def wait_for(here: Path, pattern: str, run: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not list(here.glob(pattern)) and run.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    assert list(here.glob(pattern)), run.stderr.read() if run.poll() is not None else f"no {pattern}"


def workers_of(run: subprocess.Popen) -> list[psutil.Process]:
    """The worker processes that a run has started."""
    found = []
    for child in psutil.Process(run.pid).children():
        try:
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def test_workers_killed_at_random(here, bundle):
    rng = random.Random(5)
    run = start(here, bundle, "killed", "--workers", 2)
    wait_for(here, "killed/.scene.journal/manifest.json", run)
    killed = 0
    end = time.monotonic() + 240
    while run.poll() is None and time.monotonic() < end:
        workers = workers_of(run)
        if workers and killed < KILLS:
            rng.choice(workers).kill()
            killed += 1
            time.sleep(rng.uniform(0.2, 2))  # less than a worker takes to start: the run cannot be done before the last
        time.sleep(0.05)
    said, warned = run.communicate(timeout=60)
    assert run.returncode == 0, warned
    assert killed == KILLS, warned
    assert f"{SIDE * SIDE} tiles classified" in said
    assert re.search(r"2 workers on this machine; dashboard: http://127\.0\.0\.1:\d+/status", warned)
    assert "Traceback" not in warned
    assert_same_outputs(here, "killed", SIDE * SIDE)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_workers_run_what_the_driver_chose(here, bundle, precision):
    """Another runtime than PyTorch, and a network that only the driver has calibrated."""
    names = [f"one-{precision}", f"two-{precision}"]
    for name, spread in zip(names, ([], ["--workers", 2]), strict=True):
        code, said = classify(here, bundle, name, "--runtime", "openvino", "--precision", precision, *spread)
        assert code == 0, said
        info = library.read_result(here / name / "scene.gpkg").info
        assert (info["runtime"], info["precision"]) == ("openvino", precision), info["runtime_note"]
    one, two = (pyogrio.read_dataframe(here / name / "scene.gpkg", layer="landcover") for name in names)
    assert one.equals(two)


def test_ctrl_c_ends_the_workers_and_the_same_command_goes_on(here, bundle):
    # As from a terminal: the whole group gets the signal, workers included.
    fresh = {"start_new_session": True, "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    run = start(here, bundle, "stopped", "--workers", 1, **fresh)
    wait_for(here, "stopped/.scene.journal/part-*", run)
    workers = workers_of(run)
    assert workers
    os.killpg(run.pid, signal.SIGINT)
    _, warned = run.communicate(timeout=60)
    assert run.returncode == 130, warned
    assert "run the same command again" in warned.strip().splitlines()[-1]
    assert "Traceback" not in warned
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    # It goes on in one process as well: what a block's part holds does not depend on who made it.
    code, said = classify(here, bundle, "stopped")
    assert code == 0, said
    assert_same_outputs(here, "stopped", SIDE * SIDE)


def test_a_damaged_block_is_told_and_the_rest_is_done(here, bundle):
    whole = (here / "scene.tif").read_bytes()
    with rasterio.open(here / "scene.tif") as dataset:
        # A block of the file near the south-east corner loses its content.
        at = int(dataset.get_tag_item("BLOCK_OFFSET_13_13", "TIFF", bidx=1))
    broken = bytearray(whole)
    broken[at : at + 400] = bytes(400)
    (here / "broken.tif").write_bytes(broken)
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as local,
        pytest.raises(SceneError) as caught,
    ):
        library.classify(here / "broken.tif", bundle, out=here / "poison", cluster=local)
    line = str(caught.value)
    assert "1 of the blocks of tiles failed 3 times, all others are done" in line
    assert re.search(rf"{here}/broken\.tif cannot be read at window \(column \d+, row \d+, \d+ x \d+\)", line)
    assert "Run the same command again" in line
    kept, total = map(int, re.search(r"\((\d+) of (\d+) blocks of tiles are kept", line).groups())
    assert kept == total - 1 == len(list(here.glob("poison/.broken.journal/part-*.arrow")))
    # The whole file in its place is another file, and its run begins anew.
    (here / "broken.tif").write_bytes(whole)
    result = library.classify(here / "broken.tif", bundle, out=here / "poison", overwrite=True)
    assert len(result.labels) == SIDE * SIDE


# With a scheduler of their own, as on a cluster.


@contextlib.contextmanager
def process(folder: Path, module: str, *words: object) -> Iterator[subprocess.Popen]:
    options = ["-m", f"distributed.cli.{module}", *map(str, words), "--no-dashboard"]
    with (folder / f"{module}-{time.monotonic_ns()}.log").open("w") as log:
        run = subprocess.Popen([sys.executable, *options], cwd=folder, env=ENVIRONMENT, stdout=log, stderr=log)
    try:
        yield run
    finally:
        # A worker's nanny ends its worker where it is asked to end, and cannot where it is killed.
        run.terminate()
        try:
            run.wait(timeout=20)
        except subprocess.TimeoutExpired:
            run.kill()
            run.wait()


@contextlib.contextmanager
def scheduler(folder: Path, port: int) -> Iterator[subprocess.Popen]:
    with process(folder, "dask_scheduler", "--host", "127.0.0.1", "--port", port) as run:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield run


@contextlib.contextmanager
def worker(folder: Path, port: int, *words: object) -> Iterator[subprocess.Popen]:
    where = ["--nthreads", 1, "--no-nanny", "--local-directory", folder, "--death-timeout", 60]
    with process(folder, "dask_worker", f"tcp://127.0.0.1:{port}", *where, *words) as run:
        yield run


def joined(port: int) -> None:
    with distributed.Client(f"tcp://127.0.0.1:{port}", set_as_default=False) as client:
        client.wait_for_workers(1, timeout=60)


def test_scheduler_killed_and_started_again(here, bundle, tmp_path):
    port = free_port()
    args = here, bundle, "lost", "--cluster", f"tcp://127.0.0.1:{port}"
    with scheduler(tmp_path, port) as boss, worker(tmp_path, port):
        killer = threading.Thread(target=lambda: (wait_for(here, "lost/.scene.journal/part-*", boss), boss.kill()))
        killer.start()
        line = refused(*args)
        killer.join()
    assert "scheduler was lost" in line
    kept = int(re.search(r"\((\d+) of \d+ blocks of tiles are kept in lost/", line)[1])
    assert kept >= 1
    with scheduler(tmp_path, port), worker(tmp_path, port):
        joined(port)
        code, said = classify(*args)
    assert code == 0, said
    assert "1 workers at tcp://127.0.0.1:" in said
    assert_same_outputs(here, "lost", SIDE * SIDE)


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[int]:
    """The port of a scheduler without workers."""
    port = free_port()
    with scheduler(tmp_path_factory.mktemp("boss"), port):
        yield port


@pytest.mark.parametrize(
    ("preload", "words"),
    [
        ("import geoclass; geoclass.__version__ = '9.9'", ["geoclass 9.9", r"here 0\.1\.0", "same versions"]),
        (
            "import sys; sys.modules['geoclass.cluster'] = None",
            ["has no geoclass 0.1.0", r"pip install 'geoclass\[cluster\]==0\.1\.0'"],
        ),
        ("import sys; sys.modules['timm'] = None", ["cannot make the model ready", "timm", socket.gethostname()]),
        # Its own folder is another: a path that leads to the scene here leads to nothing there.
        ("", [f"on {socket.gethostname()}", "does not see /proc/self/cwd/scene.tif", "No such file", "same path"]),
    ],
    ids=["another version", "no geoclass", "no timm", "no file"],
)
def test_unfit_workers(here, bundle, address, tmp_path, preload, words):
    (tmp_path / "preload.py").write_text(preload)
    scene = "scene.tif" if preload else "/proc/self/cwd/scene.tif"
    if not Path("/proc/self/cwd").exists():
        pytest.skip("needs /proc")
    with worker(tmp_path, address, "--preload", tmp_path / "preload.py"):
        joined(address)
        line = refused(here, bundle, tmp_path / "out", "--cluster", f"tcp://127.0.0.1:{address}", scene=scene)
    for word in words:
        assert re.search(word, line), line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device", "gpu"], "device 'gpu' is not supported; give --device cpu or cuda"),
        (["--device", "cuda", "--precision", "int8"], "--precision int8 runs on the CPU, not on cuda"),
        (["--device", "cuda", "--runtime", "openvino"], "--runtime openvino runs on the CPU, not on cuda"),
        (["--device", "cpu", "--precision", "fp16"], "--precision fp16 needs a CUDA device"),
    ],
)
def test_what_no_cluster_can(here, bundle, address, options, words):
    assert words in refused(here, bundle, "none", "--cluster", f"tcp://127.0.0.1:{address}", *options)


def test_no_scheduler(here, bundle, monkeypatch):
    monkeypatch.setattr(crew, "CONNECT_SECONDS", 1)
    line = refused(here, bundle, "none", "--cluster", f"tcp://127.0.0.1:{free_port()}")
    assert "no Dask scheduler answers" in line
    assert "dask scheduler" in line
    assert not (here / "none").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--workers", "0"], "--workers is 0; give 1 or more"),
        (["--workers", "-3"], "--workers is -3"),
        (["--workers", "1", "--cluster", "tcp://x:1"], "give one of them"),
        (["--workers", "1", "--readers", "2"], "--readers has no use"),
        (["--cluster", "host:8786"], "tcp://HOST:8786"),
        (["--cluster", "gone.json"], "no such scheduler file: gone.json"),
    ],
)
def test_wrong_options(here, bundle, options, words):
    assert words in refused(here, bundle, "wrong", *options)
    assert not (here / "wrong").exists()


def test_without_dask(here, bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert "pip install 'geoclass[cluster]'" in refused(here, bundle, "wrong", "--workers", 2)


# What a worker does, without Dask.


def job_for(plan: Plan, choice: Choice = TORCH) -> blocks.BlockJob:
    workload = workload_of(plan, torch.device("cpu"), None)
    return job_of(plan, workload, Settled(choice), thumbnail_px=8)


@pytest.fixture
def job(here, bundle):
    plan = make_plan([here / "scene.tif"], bundle)
    made = job_for(plan)
    yield plan, made
    at_work.forget(made.token)


def test_a_job_names_files_wherever_it_is_read(here, bundle, monkeypatch):
    monkeypatch.chdir(here)
    made = job_for(make_plan(["scene.tif"], bundle))
    assert made.mosaic.files == [str(here / "scene.tif")]
    assert [band.path for band in made.mosaic.scenes[0].bands] == [str(here / "scene.tif")] * 3


def test_a_worker_makes_itself_ready_once(job, monkeypatch):
    from geoclass import bundle as bundles

    plan, made = job
    loaded = []
    real = bundles.load_bundle
    monkeypatch.setattr(bundles, "load_bundle", lambda path: loaded.append(path) or real(path))
    for block in plan.blocks()[:2]:
        blocks.classify_block(made, block.number, block.columns[:1], block.rows[:1])
    assert len(loaded) == 1


def test_a_worker_without_the_runtime_says_so(here, bundle, monkeypatch):
    monkeypatch.setitem(NEEDS, "openvino", ("openvino_of_another_machine",))
    plan = make_plan([here / "scene.tif"], bundle)
    made, block = job_for(plan, Choice(runtime="openvino", precision="fp32")), plan.blocks()[0]
    with pytest.raises(ClusterError, match=r"the worker on .* cannot make the model ready.*pip install openvino"):
        blocks.classify_block(made, block.number, block.columns[:1], block.rows[:1])


def test_a_file_that_changed_is_another(job):
    _, made = job
    name = made.mosaic.files[0]
    with pytest.raises(ClusterError, match=r"sees another .*scene\.tif"):
        blocks.classify_block(replace(made, token="other", sizes={name: 7}), 0, np.array([1400]), np.array([20899]))


def test_what_is_no_fault_of_a_file_is_told_with_its_place(here, job):
    from distributed.scheduler import KilledWorker

    plan, _ = job
    block = plan.blocks()[0]
    left, bottom, _, _ = plan.grid.bounds(block.columns.min(), block.rows.min())
    place = rf"{here}/scene\.tif could not be classified at window {left:.0f} {bottom:.0f} \d+ \d+ \(EPSG:26919\): "
    assert re.match(place + "MemoryError: no more", told(plan, block, MemoryError("no more")))
    lost = KilledWorker("task", None, 3)
    assert re.match(place + "its workers were lost each time; .*--batch-size", told(plan, block, lost))


def test_versions_are_compared():
    ours = at_work.software()
    assert at_work.differences(ours, ours) == ""
    assert (
        at_work.differences({"torch": "2.6.0", "dask": "1"}, {"torch": "2.7.0", "dask": "1"})
        == "torch 2.7.0 (here 2.6.0)"
    )
    assert "not installed" in at_work.differences(ours, {})


# Labelled tiles: features to train on, and tiles to be scored.


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Class folders of two classes, told apart by their colour."""
    folder = tmp_path_factory.mktemp("folders")
    random = np.random.default_rng(0)
    for name, colour in (("Field", 60), ("Forest", 190)):
        (folder / name).mkdir()
        for number in range(20):
            pixels = random.normal(colour, 25, (64, 64, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def test_a_head_trained_on_features_of_workers_is_the_same(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("GEOCLASS_CACHE", str(tmp_path))
    method = Method(backbone="resnet18", weights=None, views=1)
    said: list[str] = []
    steps: list[tuple[str, int, int]] = []
    options = {"size_px": 64, "cache": False, "method": method}
    here = train(folders, **options)
    spread = crew.Spread(workers=2, say=said.append)
    there = train(folders, spread=spread, progress=lambda *step: steps.append(step), **options)
    assert all(torch.allclose(here.state[name], there.state[name], atol=1e-3) for name in here.state)
    assert here.meta.training["cross_validated_accuracy"] == there.meta.training["cross_validated_accuracy"] > 0.9
    assert said[0].startswith("2 workers on this machine") and ("features", 40, 40) in steps
    with pytest.raises(GeoclassError, match="a fine-tuning runs in one process"):
        train(folders, spread=spread, method=replace(method, head="finetune"))


def test_scores_of_workers_are_the_same(folders, tmp_path):
    bundle = train(folders, Method(backbone="resnet18", weights=None, views=1), size_px=64, cache=False)
    bundle.save(tmp_path / "m.pt")
    loaded, tiles = load_bundle(tmp_path / "m.pt"), read_tiles(folders, 64, bundle.meta.scheme, None, bundle.meta.bands)
    here = predict_tiles(tiles, loaded)
    there = predict_tiles(tiles, loaded, spread=crew.Spread(workers=2))
    assert np.allclose(here, there, atol=1e-6)
    words = ["evaluate", str(folders), "--model", str(tmp_path / "m.pt"), "--allow-leak", "--workers", "1"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "1 workers on this machine" in result.stderr
