"""Runtimes: equal answers, the guard of int8, what `auto` remembers, and what is said where one is missing."""

import json
import logging
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import click.testing
import numpy as np
import pytest
import torch
from conftest import write_coordinates
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_sample_images
from sklearn.ensemble import RandomForestClassifier

from geoclass import backbones
from geoclass.bundle import Bundle, BundleMeta, load_bundle, save_bundle
from geoclass.classify import classify
from geoclass.cli import main
from geoclass.errors import BundleError, GeoclassError, OutputError, UnfitError
from geoclass.forest import dump_forest
from geoclass.journal import Journal
from geoclass.predict import Predictor, seen
from geoclass.results import read_result
from geoclass.runtimes import cascade, cpu, guard, kept, measuring, openvino_cpu, quantised, settling, wanted
from geoclass.runtimes.answers import IMAGES_AT_ONCE, TorchRunner, prepared, requests, viewed
from geoclass.runtimes.cascade import Cascade, first_two
from geoclass.runtimes.settling import Workload, device_for, open_runner, settle
from geoclass.runtimes.shrinking import resampled
from geoclass.runtimes.wanted import Agreement, Choice, Wanted
from geoclass.schemes import load_scheme
from geoclass.sensors import load_sensor
from geoclass.single import classify_pictures
from geoclass.views import dihedral

CPU = torch.device("cpu")
RGB8 = load_sensor("rgb8")
OTHERS = ("openvino", "onnx")


def make_bundle(path: Path, backbone: str, weights: str | None = None, forest: bytes | None = None, **more) -> Bundle:
    norm = backbones.normalisation(backbone)
    values = {
        "backbone": backbone, "scheme": load_scheme("rsscn7"), "sensor": RGB8, "bands": ("red", "green", "blue"),
        "size_px": 32, "mean": norm.mean, "std": norm.std, "created": "2020-01-01T00:00:00+00:00", "geoclass_version": "0.1.0",
    }  # fmt: skip
    meta = BundleMeta(**{**values, **more})
    outputs = meta.projection or len(meta.scheme)
    state = backbones.build(backbone, classes=outputs, weights=weights).state_dict()
    return save_bundle(path, meta, dict(state), overwrite=True, forest=forest)


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    """Tiles (3, 224, 224) cut from scikit-learn's two photographs."""
    tiles = []
    for picture in load_sample_images().images:
        rows, columns = range(0, picture.shape[0] - 223, 100), range(0, picture.shape[1] - 223, 69)
        tiles += [picture[r : r + 224, c : c + 224].transpose(2, 0, 1) for r in rows for c in columns]
    return tiles


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, photographs) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    usual = {"size_px": 224, "input_px": 112, "views": 4, "temperature": 0.8}
    read = make_bundle(folder / "p.pt", "efficientnet_lite0", "pretrained", projection=16, **usual)
    points = TorchRunner(read, CPU)(seen(photographs, RGB8, CPU)).numpy()
    forest = RandomForestClassifier(40, random_state=0).fit(points, np.arange(len(points)) % 7)
    return {
        "default": make_bundle(folder / "d.pt", "efficientnet_lite0", "pretrained", **usual),
        "resnet18": make_bundle(folder / "r.pt", "resnet18", size_px=224, views=1),
        "eight views": make_bundle(folder / "e.pt", "resnet18", size_px=224, input_px=64, views=8),
        "forest": make_bundle(
            folder / "f.pt", "efficientnet_lite0", "pretrained", dump_forest(forest), projection=16, **usual
        ),
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A bundle of tiles of 32 px."""
    path = tmp_path_factory.mktemp("small") / "m.pt"
    make_bundle(path, "resnet18", views=2)
    return path


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Path:
    """12 × 10 tiles of 32 px."""
    return write_coordinates(tmp_path_factory.mktemp("scene") / "scene.tif", width=12 * 32, height=10 * 32)


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("GEOCLASS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "runtimes"


def without(monkeypatch, *packages: str) -> None:
    monkeypatch.setattr(wanted, "find_spec", lambda name: None if name in packages else find_spec(name))


def noise_workload(bundle: Bundle, tiles: int = 120, **more) -> Workload:
    random = np.random.default_rng(0)
    size = bundle.meta.size_px
    pixels = list(random.integers(0, 255, (tiles, 3, 4, 4), np.uint8).repeat(size // 4, 2).repeat(size // 4, 3))
    return replace(Workload(bundle, RGB8, CPU, 16, tiles, lambda count: pixels[:count]), **more)


class TestEqualAnswers:
    @pytest.mark.parametrize(
        ("runtime", "name"),
        [("openvino", "default"), ("openvino", "resnet18"), ("openvino", "eight views"), ("onnx", "eight views")],
    )
    def test_in_fp32(self, bundles, photographs, runtime, name):
        bundle = bundles[name]
        tiles = photographs[:25]  # no multiple of the images in a request
        ours, theirs = (
            Predictor(bundle, RGB8, device=CPU, batch_size=16, runner=runner)(tiles)
            for runner in (TorchRunner(bundle, CPU), measuring.open_fp32(bundle, runtime))
        )
        assert np.ptp(ours.probabilities, axis=0).max() > 0.001, "the tiles must not all be answered alike"
        assert np.abs(ours.probabilities - theirs.probabilities).max() < 1e-4
        assert np.array_equal(ours.thumbnails, theirs.thumbnails)

    @pytest.mark.parametrize("runtime", OTHERS)
    def test_of_a_forest(self, bundles, photographs, runtime):
        """What the forest reads is equal; a tile at the very threshold of a tree may move by that tree's vote."""
        bundle = bundles["forest"]
        runners = TorchRunner(bundle, CPU), measuring.open_fp32(bundle, runtime)
        points = [runner(seen(photographs, RGB8, CPU)) for runner in runners]
        assert points[0].shape == (len(photographs), 16)
        assert (points[0] - points[1]).abs().max() < 1e-4
        found = [Predictor(bundle, RGB8, device=CPU, runner=runner)(photographs).probabilities for runner in runners]
        moved = np.abs(found[0] - found[1]).max(axis=1)
        assert np.quantile(moved, 0.9) < 1e-4 and moved.max() < 0.06

    def test_of_one_tile_and_of_none(self, bundles, photographs):
        predictor = Predictor(
            bundles["default"], RGB8, device=CPU, runner=measuring.open_fp32(bundles["default"], "openvino")
        )
        assert predictor(photographs[:1]).probabilities == pytest.approx(
            predictor(photographs[:2]).probabilities[:1], abs=1e-6
        )
        assert predictor([]).probabilities.shape == (0, 7)

    def test_views_are_the_dihedral_ones(self):
        image = torch.arange(2 * 3 * 6 * 6, dtype=torch.float32).reshape(2, 3, 6, 6)
        for number, view in enumerate(dihedral(image, 8)):
            assert np.array_equal(viewed(image[1].numpy(), number), view[1].numpy())

    @given(
        st.integers(1, 5), st.integers(1, 4), st.integers(2, 40), st.floats(0, 255, width=32), st.integers(0, 2**32 - 1)
    )
    def test_halved_as_torch_does(self, tiles, bands, side, level, seed):
        noise = torch.from_numpy(np.random.default_rng(seed).random((tiles, bands, 2 * side, 2 * side), np.float32))
        brightness = noise * 255 + level
        wanted = torch.nn.functional.interpolate(brightness, size=(side, side), mode="bilinear", antialias=True)
        found = resampled(brightness.clone(), side)
        assert found.shape == wanted.shape and found.is_contiguous()
        assert (found - wanted).abs().max() < 2e-4, "less than a millionth of the brightest"
        assert torch.equal(resampled(brightness[:1], side), found[:1]), "a tile is the same in any batch"

    @given(st.integers(1, 3), st.integers(1, 4), st.integers(2, 40), st.integers(0, 2**32 - 1))
    def test_halved_in_whole_numbers(self, tiles, bands, side, seed):
        random = np.random.default_rng(seed)
        levels = torch.from_numpy(
            random.choice([0, 1, 128, 254, 255], (tiles, 2 * side, 2 * side, bands)).astype(np.uint8)
        )
        levels = levels.permute(0, 3, 1, 2)  # as they may lie in a block
        wanted, found = resampled(levels.float(), side), resampled(levels, side)
        assert found.dtype == torch.float32 and found.is_contiguous()
        assert torch.equal(found[..., 1:-1, 1:-1], wanted[..., 1:-1, 1:-1])
        assert (found - wanted).abs().max() < 1e-4
        assert torch.equal(resampled(levels[:1], side), found[:1]), "a tile is the same in any batch"
        odd = 2 * side - 1
        assert torch.equal(resampled(levels, odd), resampled(levels.float(), odd))

    @pytest.mark.parametrize("sensor", ["rgb8", "sentinel2-l1c"])
    def test_stored_numbers_of_8_bit_are_shown_as_the_sensor_says(self, bundles, photographs, sensor):
        """As they are where they are brightness; scaled where they are not."""
        bundle, sensor = bundles["default"], load_sensor(sensor)
        runner = TorchRunner(bundle, CPU)
        found = Predictor(bundle, sensor, device=CPU, runner=runner)(photographs[:4])
        brightness = seen(photographs[:4], sensor, CPU)
        assert brightness.dtype == torch.float32
        assert np.allclose(found.probabilities, runner(brightness.clone()).softmax(1).numpy(), atol=1e-5)
        small = torch.nn.functional.adaptive_avg_pool2d(brightness[:, :, ::4, ::4], 8).round().permute(0, 2, 3, 1)
        assert np.array_equal(found.thumbnails, small.to(torch.uint8).numpy())

    @pytest.mark.parametrize(("tiles", "views"), [(1, 1), (3, 4), (5, 8), (7, 3)])
    def test_requests_hold_every_view_once(self, tiles, views):
        images = np.random.default_rng(0).random((tiles, 2, 5, 5), np.float32)
        found = np.concatenate([batch[: at.stop - at.start] for at, batch in requests(images, views)])
        every = torch.stack(dihedral(torch.from_numpy(images), views), dim=1).flatten(0, 1).numpy()
        assert np.array_equal(found, every)
        assert all(len(batch) == IMAGES_AT_ONCE for _, batch in requests(images, views))

    def test_with_one_thread(self, bundles, photographs):
        bundle = bundles["default"]
        one = openvino_cpu.OpenvinoRunner(bundle, openvino_cpu.translated(bundle), threads=1)
        two = openvino_cpu.OpenvinoRunner(bundle, openvino_cpu.translated(bundle), threads=2)
        given = seen(photographs[:9], RGB8, CPU)
        assert one(given.clone()) == pytest.approx(two(given), abs=1e-4)


class TestAhead:
    """Runners that compute in threads of their own, while the next batch is made ready."""

    @pytest.mark.parametrize("bytes_ahead", [0, 16 << 20])
    @pytest.mark.parametrize("threads", [1, 2])
    def test_answers_as_one_batch_after_the_other(self, bundles, photographs, monkeypatch, bytes_ahead, threads):
        monkeypatch.setattr(openvino_cpu, "AHEAD_BYTES", bytes_ahead)
        runner = measuring.open_fp32(bundles["eight views"], "openvino", threads)
        batches = [seen(photographs[start : start + 5], RGB8, CPU) for start in range(0, 20, 5)]
        wanted = [runner(batch.clone()) for batch in batches]
        pending = [runner.begin([batch]) for batch in batches]
        assert runner.at_work, "nothing is left to do while the caller goes on"
        assert len(runner.at_work) + len(runner.idle) == (1 if threads == 1 else 85 if bytes_ahead else 4)
        for number in (2, 0, 3, 1):
            assert torch.equal(pending[number](), wanted[number])
        assert not runner.at_work
        assert torch.equal(pending[1](), wanted[1]), "answers can be asked for again"

    def test_what_is_not_waited_for_is_in_nobodys_way(self, bundles, photographs):
        runner = measuring.open_fp32(bundles["default"], "openvino", 2)
        batches = [seen(photographs[start : start + 5], RGB8, CPU) for start in (0, 5)]
        wanted = runner(batches[1].clone())
        runner.begin([batches[0]])
        assert torch.equal(runner(batches[1]), wanted)

    def test_of_a_cascade(self, bundles, photographs):
        """The quick network is at work on the next batch while the exact one is asked about the last."""
        quick, exact = (measuring.open_fp32(bundles["default"], "openvino", 2) for _ in range(2))
        margins, _ = first_two(quick(seen(photographs, RGB8, CPU)))
        runner = Cascade(quick, exact, float(margins.median()))
        batches = [seen(photographs[start : start + 10], RGB8, CPU) for start in (0, 10)]
        wanted = [exact(batch.clone()) for batch in batches]
        pending = [runner.begin([batch]) for batch in batches]
        for batch, answers in zip(pending, wanted, strict=True):
            assert (batch() - answers).abs().max() < 1e-5
        assert 0 < runner.asked_again < runner.tiles == 20


class TestTranslation:
    def test_a_damaged_network_in_the_cache_is_made_again(self, small, fresh_cache):
        bundle = load_bundle(small)
        openvino_cpu.translated(bundle)
        (path,) = fresh_cache.glob("*.zip")
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        assert kept.read_network(path) is None
        assert openvino_cpu.translated(bundle).about["bundle"] == bundle.digest
        assert kept.read_network(path) is not None

    def test_a_cache_that_cannot_be_written_costs_time_only(self, small, fresh_cache):
        fresh_cache.parent.write_text("a file where the folder should be")
        bundle = load_bundle(small)
        assert openvino_cpu.translated(bundle).graph.startswith(b"<?xml")

    def test_a_network_that_says_something_else_is_refused(self, small, fresh_cache, monkeypatch):
        bundle = load_bundle(small)
        monkeypatch.setattr(openvino_cpu, "TOLERANCE", -1.0)
        with pytest.raises(
            BundleError, match=r"resnet18 says something else on OpenVINO than on torch.*--runtime torch"
        ):
            openvino_cpu.translated(bundle)
        assert not list(fresh_cache.glob("*.zip"))

    def test_the_cache_is_kept_small(self, fresh_cache, monkeypatch):
        fresh_cache.mkdir(parents=True)
        for number in range(6):
            (fresh_cache / f"{number}.zip").touch()
            os.utime(fresh_cache / f"{number}.zip", (number, number))
        monkeypatch.setattr(kept, "MOST_KEPT", 2)
        kept.prune()
        assert sorted(path.name for path in fresh_cache.iterdir()) == ["4.zip", "5.zip"]

    def test_openvino_reports_to_nobody(self, tmp_path):
        """Its telemetry makes a folder `intel` in the home at once, and threads that send."""
        code = (
            "import sys; from geoclass.runtimes.openvino_cpu import load; load('openvino').Core(); load('nncf'); "
            "print([name for name in sys.modules if name.startswith('openvino_telemetry')])"
        )
        home = {**os.environ, "HOME": str(tmp_path)}
        told = subprocess.run([sys.executable, "-c", code], env=home, capture_output=True, text=True, check=True)
        assert told.stdout.strip() == "[]"
        assert not (tmp_path / "intel").exists()


class TestAuto:
    def test_measures_once_and_remembers(self, small, fresh_cache, monkeypatch):
        monkeypatch.setattr(settling, "MEASURED_FROM_TILES", 100)
        job = noise_workload(load_bundle(small))
        first = settle(job, Wanted())
        (path,) = fresh_cache.glob("choice-*.json")
        stored = json.loads(path.read_text())
        assert set(stored["seconds_per_tile"]) == {"torch", "openvino"}
        assert stored["key"]["backbone"] == "resnet18" and stored["key"]["cpu"]
        monkeypatch.setattr(measuring, "measure", None)  # would fail if it were called
        assert settle(job, Wanted()).choice == first.choice
        assert settle(replace(job, tiles=1), Wanted()).choice == first.choice

    @pytest.mark.parametrize("quick", ["torch", "openvino"])
    def test_takes_the_quickest(self, small, fresh_cache, monkeypatch, quick):
        bundle = load_bundle(small)
        seconds = {"torch": 0.01, "openvino": 0.01, quick: 0.001}
        monkeypatch.setattr(measuring, "remembered", lambda *_: seconds)
        settled = settle(noise_workload(bundle), Wanted())
        assert (settled.choice.runtime, settled.choice.precision, settled.choice.note) == (quick, "fp32", "")
        assert settled.runner.runtime == quick

    def test_a_small_job_does_not_measure(self, small, fresh_cache):
        settled = settle(noise_workload(load_bundle(small)), Wanted())
        assert settled.choice.runtime == "torch"
        assert not fresh_cache.exists()

    @pytest.mark.parametrize(
        "content", ["", "[]", '{"seconds_per_tile": {"torch": 0}}', '{"seconds_per_tile": {"else": 1.0}}']
    )
    def test_what_is_damaged_is_measured_again(self, small, fresh_cache, content, monkeypatch):
        monkeypatch.setattr(settling, "MEASURED_FROM_TILES", 100)
        bundle = load_bundle(small)
        path = fresh_cache / f"choice-{measuring._digest(measuring.key_of(bundle, 16))}.json"
        path.parent.mkdir(parents=True)
        path.write_text(content)
        assert measuring.remembered(bundle, 16) is None
        settle(noise_workload(bundle), Wanted(precision="fp32"))
        assert set(measuring.remembered(bundle, 16)) == {"torch", "openvino"}

    def test_falls_back_where_a_network_cannot_be_translated(self, small, fresh_cache, monkeypatch):
        def fails(_):
            raise BundleError("resnet18 cannot be translated for OpenVINO")

        monkeypatch.setattr(measuring, "remembered", lambda *_: {"torch": 1.0, "openvino": 0.1})
        monkeypatch.setattr(openvino_cpu, "translated", fails)
        choice = settle(noise_workload(load_bundle(small)), Wanted()).choice
        assert choice.runtime == "torch" and "instead of openvino: resnet18 cannot be translated" in choice.note

    @pytest.fixture
    def tried(self, monkeypatch) -> list[tuple[int, list[str]]]:
        """How many tiles the jobs have that networks which round were tried for, and in which precisions."""
        found: list[tuple[int, list[str]]] = []

        def first_that_holds(job, settled, precisions, must_be_faster):
            found.append((job.tiles, list(precisions)))
            return settled

        monkeypatch.setattr(measuring, "remembered", lambda *_: {"torch": 0.2, "openvino": 0.1})
        monkeypatch.setattr(settling, "_first_that_holds", first_that_holds)
        monkeypatch.setattr(cpu, "has", lambda features: features != cpu.AMX)
        return found

    def test_tries_to_round_only_where_it_pays(self, small, fresh_cache, tried):
        job = noise_workload(load_bundle(small))
        settle(replace(job, tiles=500), Wanted())
        settle(replace(job, tiles=700), Wanted(precision="fp32"))
        settle(replace(job, tiles=700), Wanted(runtime="torch"))
        assert tried == []
        settle(replace(job, tiles=700), Wanted())
        assert tried == [(700, ["int8"])]

    def test_tries_bf16_first_where_this_machine_has_amx_and_classifies(self, small, fresh_cache, tried, monkeypatch):
        monkeypatch.setattr(cpu, "has", lambda features: True)
        job = replace(noise_workload(load_bundle(small)), tiles=700)
        settle(job, Wanted())
        settle(replace(job, elsewhere=True), Wanted())
        without(monkeypatch, "nncf")
        settle(job, Wanted())
        assert [precisions for _, precisions in tried] == [["bf16", "int8"], ["int8"], ["bf16"]]

    def test_does_not_fetch_a_sample_besides(self, small, fresh_cache, tried):
        job = replace(noise_workload(load_bundle(small)), remote=True)
        choice = settle(replace(job, tiles=13_999), Wanted()).choice
        assert tried == []
        assert choice.note == "int8 was not tried: its sample would be fetched besides; --precision int8 tries it"
        settle(replace(job, tiles=14_000), Wanted())
        settle(replace(job, tiles=700), Wanted(precision="int8"))
        settle(replace(job, tiles=700, remote=False), Wanted())
        assert tried == [(14_000, ["int8"]), (700, ["int8"]), (700, ["int8"])]

    def test_declines_int8_with_a_reason(self, small, fresh_cache, monkeypatch):
        monkeypatch.setattr(measuring, "remembered", lambda *_: {"torch": 2.0, "openvino": 1.0})
        job = noise_workload(load_bundle(small))
        monkeypatch.setattr(cpu, "has", lambda features: False)
        assert "no VNNI" in settle(job, Wanted()).choice.note
        monkeypatch.setattr(cpu, "has", lambda features: True)
        without(monkeypatch, "nncf")
        assert "pip install 'geoclass[int8]'" in settle(job, Wanted()).choice.note


class TestMissing:
    @pytest.mark.parametrize(
        ("asked", "package", "remedy"),
        [
            (Wanted("openvino"), "openvino", "pip install openvino"),
            (Wanted("onnx"), "onnxruntime", "pip install 'geoclass[onnx]'"),
            (Wanted(precision="int8"), "nncf", "pip install 'geoclass[int8]'"),
            (Wanted(precision="int8"), "openvino", "pip install openvino"),
        ],
    )
    def test_is_told_with_the_command(self, small, monkeypatch, asked, package, remedy):
        without(monkeypatch, package)
        with pytest.raises(GeoclassError) as told:
            settle(noise_workload(load_bundle(small)), asked)
        assert remedy in str(told.value) and package in str(told.value)

    def test_auto_takes_what_is_there(self, small, fresh_cache, monkeypatch):
        monkeypatch.setattr(settling, "MEASURED_FROM_TILES", 100)
        without(monkeypatch, "openvino", "onnxruntime")
        assert settle(noise_workload(load_bundle(small)), Wanted()).choice.runtime == "torch"
        without(monkeypatch, "openvino")
        assert measuring.candidates() == ["torch", "onnx"]

    def test_a_worker_without_it_says_so(self, small, monkeypatch):
        without(monkeypatch, "openvino")
        with pytest.raises(GeoclassError, match="pip install openvino"):
            open_runner(load_bundle(small), Choice(runtime="openvino", precision="fp32"), CPU)

    def test_an_installation_that_cannot_be_loaded(self, monkeypatch):
        def broken(_):
            raise ImportError("libtbb.so: no such file")

        monkeypatch.setattr(openvino_cpu, "import_module", broken)
        with pytest.raises(GeoclassError, match=r"openvino, which cannot be loaded \(libtbb.so"):
            openvino_cpu.load("openvino")


class TestRounded:
    @pytest.fixture
    def few(self, monkeypatch) -> None:
        """Few tiles do, so that a test takes seconds."""
        monkeypatch.setattr(quantised, "CALIBRATION", 32)
        monkeypatch.setattr(guard, "HELD_OUT", 64)
        monkeypatch.setattr(guard, "FEWEST", 30)

    @pytest.fixture
    def lenient(self, monkeypatch) -> None:
        monkeypatch.setattr(guard, "LEAST_AGREEMENT", 0.0)
        monkeypatch.setattr(guard, "MOST_MEAN_DP", 1.0)
        monkeypatch.setattr(guard, "MOST_ASKED_AGAIN", 1.0)

    def test_is_used_recorded_and_kept_beside_the_bundle(
        self, small, scene, few, lenient, tmp_path, fresh_cache, monkeypatch
    ):
        result = classify(scene, small, out=tmp_path / "a", precision="int8")
        info = read_result(tmp_path / "a" / "scene.gpkg").info
        assert (info["runtime"], info["precision"]) == ("openvino", "int8")
        assert info["agreement_with_fp32"]["tiles"] == 64
        assert json.loads((tmp_path / "a" / "scene.json").read_text())["info"]["precision"] == "int8"
        (network,) = small.parent.glob("m.int8-*.zip")
        with zipfile.ZipFile(network) as parts:
            assert b"FakeQuantize" in parts.read("network.xml") or b'"i8"' in parts.read("network.xml")
        monkeypatch.setattr(quantised, "_quantise", None)  # would fail if it were called again
        again = classify(scene, small, precision="int8")
        assert again.labels.probabilities == pytest.approx(result.labels.probabilities, abs=1e-6)
        exact = classify(scene, small, precision="fp32")
        assert not np.array_equal(exact.labels.probabilities, again.labels.probabilities)
        network.unlink()

    def test_falls_back_where_it_disagrees(self, scene, few, tmp_path, fresh_cache):
        """Squeeze-and-excitation and swish quantise badly, and random weights leave nothing between the classes."""
        make_bundle(tmp_path / "b0.pt", "efficientnet_b0")
        fallen = classify(scene, tmp_path / "b0.pt", precision="int8")
        info = fallen.labels.info
        assert (info["runtime"], info["precision"]) == ("openvino", "fp32")
        agreement = Agreement.model_validate(info["agreement_with_fp32"])
        assert agreement.asked_again > guard.MOST_ASKED_AGAIN
        # Which of the guard's reasons comes first hangs on a tile, and so on the processor's own int8.
        reason = guard.objection(agreement, slow_too=False)
        assert re.search(r"(unsure of|gives) \d+(\.\d)?% of 64 held-out tiles", reason)
        assert f"not int8: {reason}" in info["runtime_note"]
        exact = classify(scene, tmp_path / "b0.pt", runtime="openvino", precision="fp32")
        assert np.array_equal(fallen.labels.probabilities, exact.labels.probabilities)

    def test_unsure_tiles_are_asked_again_in_fp32(self, small, few, lenient, fresh_cache):
        bundle = load_bundle(small)
        job = noise_workload(bundle)
        settled = settle(job, Wanted(precision="int8"))
        brightness = job.see(job.sample(64))
        quick, exact = settled.runner.quick, settled.runner.exact
        rounded, right = quick(brightness.clone()), exact(brightness.clone())
        for share in (0.0, 0.4, 1.0):
            margins, _ = cascade.first_two(rounded)
            margin = float(margins.sort().values[int(share * 63)]) + (1e-3 if share == 1 else 0)
            both = cascade.Cascade(quick, exact, margin)
            found = both(brightness.clone())
            unsure = margins < margin
            assert unsure.float().mean() == pytest.approx(share, abs=0.02) == both.share_asked_again
            assert torch.allclose(found[unsure], right[unsure], atol=1e-5)
            assert torch.allclose(found[~unsure], rounded[~unsure], atol=1e-5)
        # A margin covers what rounding does to nearly all margins, so that hardly a label beyond it can change.
        images = prepared(brightness.clone(), bundle.meta).numpy()
        margin = cascade.margin_for(quick, cascade.answers_of(exact, images), images)
        pair = right.gather(1, cascade.first_two(rounded)[1])
        moved = (cascade.first_two(rounded)[0] - (pair[:, 0] - pair[:, 1])).abs()
        assert (moved <= margin).float().mean() == pytest.approx(cascade.COVERED, abs=0.03)
        assert settled.choice.margin > 0
        again = open_runner(bundle, settled.choice, CPU, network=settled.network)
        assert torch.allclose(again(brightness.clone()), settled.runner(brightness.clone()), atol=1e-6)

    def test_few_sides_do_where_it_is_sure(self, bundles, photographs):
        bundle = bundles["default"]
        quick, exact = (measuring.open_fp32(bundle, "openvino", 2) for _ in range(2))
        brightness = seen(photographs, RGB8, CPU)
        network = bundle.network()
        with torch.inference_mode():
            images = prepared(brightness.clone(), bundle.meta)
            two = sum(network(view.contiguous()) for view in dihedral(images, 2)) / 2 / bundle.meta.temperature
        margins, _ = cascade.first_two(two)
        runner = Cascade(quick, exact, float(margins.median()), 2)
        found, every = runner(brightness.clone()), exact(brightness.clone())
        unsure = margins < margins.median()
        assert torch.allclose(found[unsure], every[unsure], atol=1e-4)
        assert torch.allclose(found[~unsure], two[~unsure], atol=1e-4)
        assert (every - two)[~unsure].abs().max() > 0.01, "two sides must say something else"
        # Without rounding, too, leaving two sides out moves the margins.
        right = cascade.answers_of(exact, images.numpy())
        assert cascade.margin_for(quick, right, images.numpy(), 2) > 0.01
        assert cascade.margin_for(quick, right, images.numpy()) == pytest.approx(0, abs=1e-4)
        assert cascade.numbers_of_views(bundle) == [2, 4] and cascade.numbers_of_views(bundles["eight views"]) == [2, 8]
        assert cascade.numbers_of_views(bundles["resnet18"]) == [1]
        assert cascade.numbers_of_views(bundles["forest"]) == [4], "a forest's answers have no margin"

    def test_of_one_network_in_two_batches(self, bundles, photographs):
        """What is asked again waits in line behind the next batch, whichever is waited for first."""
        exact = measuring.open_fp32(bundles["default"], "openvino", 2)
        brightness = seen(photographs, RGB8, CPU)
        margins, _ = cascade.first_two(
            cascade.answers_of(exact, prepared(brightness.clone(), exact.bundle.meta).numpy(), 2)
        )
        runner = Cascade(exact, exact, float(margins.median()), 2)
        wanted = runner(brightness.clone())
        for order in ((0, 1), (1, 0)):
            pending = [runner.begin([brightness[:10].clone()]), runner.begin([brightness[10:].clone()])]
            found = {number: pending[number]() for number in order}
            assert torch.allclose(torch.cat([found[0], found[1]]), wanted, atol=1e-5)

    @pytest.fixture
    def four_views(self, tmp_path) -> Workload:
        return noise_workload(make_bundle(tmp_path / "m.pt", "resnet18", views=4))

    def test_as_few_sides_as_hold(self, four_views, few, lenient, fresh_cache, monkeypatch):
        monkeypatch.setattr(settling, "SELDOM", 1.0)
        settled = settle(four_views, Wanted(precision="int8"))
        assert (settled.runner.views, settled.choice.views, settled.choice.agreement.views) == (2, 2, 2)
        assert " int8 from 2 sides (" in settled.choice.words and "fp32 from all)" in settled.choice.words
        brightness = four_views.see(four_views.sample(64))
        again = open_runner(four_views.bundle, settled.choice, CPU, network=settled.network)
        assert torch.allclose(again(brightness.clone()), settled.runner(brightness.clone()), atol=1e-6)
        monkeypatch.setattr(guard, "objection", lambda found, slow: "no" if found.views == 2 else "")
        settled = settle(four_views, Wanted(precision="int8"))
        assert (settled.runner.views, settled.choice.views, settled.choice.agreement.views) == (4, 0, 0)
        assert (settled.choice.precision, settled.choice.note) == ("int8", "") and "sides" not in settled.choice.words
        monkeypatch.setattr(guard, "objection", lambda found, slow: "no")
        settled = settle(four_views, Wanted(precision="int8"))
        assert (settled.choice.precision, settled.choice.note) == ("fp32", "not int8 from 2 sides: no; not int8: no")
        assert not settled.choice.views and isinstance(settled.runner, openvino_cpu.OpenvinoRunner)

    @pytest.fixture
    def without_vnni(self, monkeypatch) -> None:
        monkeypatch.setattr(measuring, "remembered", lambda *_: {"torch": 2.0, "openvino": 1.0})
        monkeypatch.setattr(cpu, "has", lambda features: False)
        monkeypatch.setattr(guard, "LEAST_SPEEDUP", 0.0)

    def test_auto_looks_from_few_sides_in_fp32_where_it_cannot_round(
        self, four_views, few, lenient, fresh_cache, without_vnni
    ):
        settled = settle(four_views, Wanted())
        assert settled.runner.quick is settled.runner.exact
        assert (settled.choice.precision, settled.choice.agreement.views) == ("fp32", 2)
        assert settled.choice.note == "not int8: this CPU has no VNNI, without which int8 is slower"
        assert settled.choice.words.startswith("openvino fp32 from 2 sides (")
        brightness = four_views.see(four_views.sample(64))
        found = settled.runner(brightness.clone())
        again = open_runner(four_views.bundle, settle(four_views, Wanted(), settled.choice).choice, CPU)
        assert torch.allclose(again(brightness.clone()), found, atol=1e-6)
        every = measuring.open_fp32(four_views.bundle, "openvino")(brightness)
        assert 0 < (found != every).any(dim=1).float().mean() < 1
        with pytest.raises(OutputError, match="interrupted run was begun with --runtime auto --precision auto; repeat"):
            settle(four_views, Wanted(precision="fp32"), settled.choice)

    def test_not_from_few_sides_where_that_does_not_hold(self, four_views, few, fresh_cache, without_vnni, monkeypatch):
        monkeypatch.setattr(guard, "objection", lambda found, slow: f"{found.name} does not do")
        settled = settle(four_views, Wanted())
        assert isinstance(settled.runner, openvino_cpu.OpenvinoRunner) and not settled.choice.margin
        assert "not fp32 from 2 sides: fp32 from 2 sides does not do" in settled.choice.note
        assert settled.choice.agreement is None and settled.choice.serves(Wanted(precision="fp32"))
        small = settle(replace(four_views, sample=lambda count: four_views.sample(50)), Wanted()).choice
        assert small.note.startswith("not fp32 from few sides: only 50 tiles to make and compare it with, 60 are")
        remote = settle(replace(four_views, remote=True), Wanted()).choice
        assert remote.note == "not int8: this CPU has no VNNI, without which int8 is slower", (
            "nothing is fetched for it"
        )

    @pytest.mark.parametrize(("speedups", "views"), [((4.0, 3.0), 2), ((3.0, 4.0), 4)])
    def test_more_sides_where_they_are_quicker(self, four_views, few, fresh_cache, monkeypatch, speedups, views):
        """As they are where a network that saw few is often unsure."""
        tried = []

        def compared(workload, fp32, quick, tiles):
            tried.append(quick.views)
            again, speedup = (0.3, speedups[0]) if quick.views == 2 else (0.1, speedups[1])
            return Agreement(
                precision="int8", tiles=400, labels=1.0, mean_dp=0.0, speedup=speedup, asked_again=again, views=0
            )

        monkeypatch.setattr(settling, "_compared", compared)
        settled = settle(four_views, Wanted(precision="int8"))
        assert settled.runner.views == views
        assert tried == [2, 4]
        again = open_runner(four_views.bundle, settled.choice, CPU, network=settled.network)
        assert (again.views, again.margin) == (views, settled.runner.margin)
        monkeypatch.setattr(settling, "SELDOM", 0.3)
        assert settle(four_views, Wanted(precision="int8")).runner.views == 2
        assert tried == [2, 4, 2]

    def test_auto_takes_bf16_where_it_holds_else_int8(self, small, few, lenient, fresh_cache, monkeypatch):
        """The way is the same where the machine has no AMX, only slow."""
        monkeypatch.setattr(measuring, "remembered", lambda *_: {"torch": 2.0, "openvino": 1.0})
        monkeypatch.setattr(cpu, "has", lambda features: True)
        monkeypatch.setattr(guard, "LEAST_SPEEDUP", 0.0)
        bundle = load_bundle(small)
        job = noise_workload(bundle)
        settled = settle(job, Wanted())
        choice = settled.choice
        assert (choice.runtime, choice.precision, choice.agreement.precision) == ("openvino", "bf16", "bf16")
        assert "held-out tiles have fp32's class" in choice.words
        assert choice.margin > 0 and not choice.network
        brightness = job.see(job.sample(64))
        rounded, exact = settled.runner(brightness.clone()), settled.runner.exact(brightness.clone())
        assert not torch.equal(rounded, exact)
        assert torch.allclose(rounded.softmax(1), exact.softmax(1), atol=0.05)
        begun = settle(job, Wanted(), choice)
        again = open_runner(bundle, begun.choice, CPU, network=begun.network)
        assert torch.allclose(again(brightness.clone()), rounded, atol=1e-6)
        right = guard.objection
        monkeypatch.setattr(
            guard, "objection", lambda found, slow: "no" if found.precision == "bf16" else right(found, slow)
        )
        other = settle(job, Wanted())
        assert (other.choice.precision, other.choice.note) == ("int8", "not bf16: no")
        assert other.choice.network and other.network is not None

    def test_too_few_tiles(self, small, scene):
        info = classify(scene, small, precision="int8").labels.info
        assert info["precision"] == "fp32" and "not int8: only 120 tiles" in info["runtime_note"]

    def test_goes_to_the_cache_where_the_bundle_may_not_be_joined(self, small, few, lenient, fresh_cache, monkeypatch):
        write = kept.write_network

        def refuses(path, stored):
            if path.parent == small.parent:
                raise OutputError("may not write")
            write(path, stored)

        monkeypatch.setattr(kept, "write_network", refuses)
        job = noise_workload(load_bundle(small), model_file=small)
        choice = settle(job, Wanted(precision="int8")).choice
        assert choice.precision == "int8"
        assert len(list(fresh_cache.glob("*.int8-*.zip"))) == 1
        assert settle(job, Wanted(precision="int8"), choice).network is not None

    def test_leaves_the_log_of_its_caller_alone(self, caplog):
        quantised._nncf()
        logging.getLogger("caller").warning("still heard")
        assert "still heard" in caplog.text

    def test_of_a_network_that_cannot_be_quantised(self, small, few, fresh_cache, monkeypatch):
        class Nothing:
            def __getattr__(self, name):
                raise RuntimeError("unsupported graph")

        monkeypatch.setattr(quantised, "_nncf", Nothing)
        choice = settle(noise_workload(load_bundle(small)), Wanted(precision="int8")).choice
        assert choice.precision == "fp32" and "resnet18 cannot be quantised (unsupported graph)" in choice.note

    @pytest.mark.parametrize(
        ("figures", "slow_too", "said"),
        [
            ((400, 0.995, 0.01, 2.0), True, ""),
            ((400, 0.99, 0.02, 1.0), False, ""),
            ((400, 0.9875, 0.01, 2.0), False, "98.8% of 400 held-out tiles"),
            ((400, 1.0, 0.03, 2.0), False, "changes the probability"),
            ((400, 1.0, 0.01, 1.05), True, "only 1.05 times as fast"),
            ((99, 1.0, 0.0, 2.0), False, "only 99 tiles"),
        ],
    )
    def test_objections(self, figures, slow_too, said):
        names = ("tiles", "labels", "mean_dp", "speedup")
        found = guard.objection(Agreement(precision="int8", **dict(zip(names, figures, strict=True))), slow_too)
        assert said in found and bool(said) == bool(found)

    def test_agreement_counts_labels_and_the_probability_of_fp32s_class(self):
        exact = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.5, 0.5]], np.float32)
        quick = np.array([[0.8, 0.2], [0.4, 0.6], [0.2, 0.8], [0.5, 0.5]], np.float32)
        tiles = [np.array([number]) for number in range(4)]
        found = guard.compare(
            "int8", lambda part: exact[np.concatenate(part)], lambda part: quick[np.concatenate(part)], tiles, 3
        )
        assert (found.tiles, found.labels) == (4, 0.75)
        assert found.mean_dp == pytest.approx((0.1 + 0.2) / 4, abs=1e-6)


class TestResume:
    @pytest.fixture
    def interrupted(self, small, scene, tmp_path, monkeypatch) -> Path:
        """The output folder of a run on OpenVINO that stopped after its only block, before its outputs."""
        monkeypatch.setattr(Journal, "stage", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            classify(scene, small, out=tmp_path / "out", runtime="openvino")
        monkeypatch.undo()
        return tmp_path / "out"

    @pytest.mark.parametrize("runtime", ["auto", "openvino"])
    def test_keeps_the_runtime(self, small, scene, interrupted, runtime):
        info = classify(scene, small, out=interrupted, runtime=runtime).labels.info
        assert info["runtime"] == "openvino"

    def test_refuses_another(self, small, scene, interrupted):
        with pytest.raises(OutputError, match=r"begun with --runtime openvino --precision fp32; repeat that command"):
            classify(scene, small, out=interrupted, runtime="torch")
        info = classify(scene, small, out=interrupted, runtime="torch", overwrite=True).labels.info
        assert info["runtime"] == "torch"

    def test_the_same_command_continues_what_fell_back(self, small, scene, tmp_path):
        out = tmp_path / "out"
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Journal, "stage", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
            classify(scene, small, out=out, precision="int8")
        with pytest.raises(OutputError, match="--precision fp32"):
            classify(scene, small, out=out, runtime="torch", precision="fp32")
        info = classify(scene, small, out=out, precision="int8").labels.info
        assert info["precision"] == "fp32" and "not int8" in info["runtime_note"]

    @pytest.mark.parametrize("change", [{"model": "another"}, {"inputs": {"other.tif": "1"}}, {}])
    def test_with_overwrite_only_a_run_of_the_same_is_continued(self, small, scene, interrupted, change):
        """The choice of a run of another scene or model says nothing of this one, nor one that cannot be gone on with."""
        path = next(interrupted.glob(".*.journal")) / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["network"] |= {"precision": "int8", "network": "0123456789ab", "asked": ["auto", "auto"]}
        path.write_text(json.dumps({**manifest, **change}))
        info = classify(scene, small, out=interrupted, overwrite=True).labels.info
        assert (info["precision"], info["agreement_with_fp32"]) == ("fp32", None)

    def test_an_int8_network_that_is_gone(self, small):
        choice = Choice(runtime="openvino", precision="int8", network="0123456789ab")
        workload = noise_workload(load_bundle(small), model_file=small)
        with pytest.raises(OutputError, match=r"m.int8-0123456789ab.zip.*--overwrite"):
            settle(workload, Wanted(), choice)

    def test_one_begun_on_another_device(self, small):
        choice = Choice(runtime="torch", precision="fp16", device="cuda")
        with pytest.raises(OutputError, match=r"begun on cuda; give --device cuda"):
            settle(noise_workload(load_bundle(small)), Wanted(), choice)


class TestOptions:
    @pytest.mark.parametrize(
        ("runtime", "precision", "said"),
        [
            ("tensorrt", "auto", "--runtime is 'tensorrt'; choose from auto, torch"),
            ("auto", "int4", "--precision is 'int4'"),
            ("torch", "int8", "--runtime torch has no int8"),
            ("onnx", "bf16", "--runtime onnx has no bf16"),
            ("openvino", "fp16", "--runtime openvino has no fp16"),
        ],
    )
    def test_bad_values(self, small, scene, runtime, precision, said):
        with pytest.raises(GeoclassError, match=said):
            classify(scene, small, runtime=runtime, precision=precision)
        with pytest.raises(GeoclassError, match=said):
            classify_pictures([scene], load_bundle(small), runtime=runtime, precision=precision)

    def test_what_this_machine_cannot(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(UnfitError, match="fp16 needs a CUDA device"):
            device_for("auto", Wanted(precision="fp16"))
        monkeypatch.setattr(cpu, "has", lambda features: features != cpu.AMX)
        with pytest.raises(UnfitError, match="no AMX"):
            device_for("cpu", Wanted(precision="bf16"))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        assert device_for("auto", Wanted("openvino")) == CPU
        with pytest.raises(UnfitError, match="--runtime openvino runs on the CPU, not on cuda"):
            device_for("cuda", Wanted("openvino"))
        job = noise_workload
        assert settle(replace(job(_nothing()), device=torch.device("cuda")), Wanted()).choice.precision == "fp16"

    def test_bf16_with_amx(self, small, fresh_cache, monkeypatch):
        """The way is the same where the machine has no AMX, only slow."""
        bundle = load_bundle(small)
        choice = settle(noise_workload(bundle), Wanted(precision="bf16")).choice
        assert (choice.runtime, choice.precision) == ("openvino", "bf16")
        assert open_runner(bundle, choice, CPU).precision == "bf16"

    def test_pictures(self, bundles, photographs, tmp_path):
        from PIL import Image

        Image.fromarray(photographs[0].transpose(1, 2, 0)).save(tmp_path / "a.png")
        ours, theirs = (
            classify_pictures([tmp_path / "a.png"], bundles["default"], runtime=name).probabilities
            for name in ("torch", "openvino")
        )
        assert ours == pytest.approx(theirs, abs=1e-4)
        with pytest.raises(GeoclassError, match="int8 is calibrated on the tiles of a scene"):
            classify_pictures([tmp_path / "a.png"], bundles["default"], precision="int8")

    def test_the_command_line_tells_what_ran(self, small, scene, tmp_path):
        arguments = ["classify", str(scene), "--model", str(small), "-o", str(tmp_path), "--runtime", "openvino"]
        told = click.testing.CliRunner().invoke(main, [*arguments, "--precision", "int8"])
        assert told.exit_code == 0, told.output
        assert "network: openvino fp32; not int8: only 120 tiles" in told.output
        refused = click.testing.CliRunner().invoke(main, [*arguments, "--precision", "fp16", "--name", "b"])
        assert refused.exit_code == 2 and "--runtime openvino has no fp16" in refused.output


def _nothing() -> Bundle:
    norm = backbones.normalisation("resnet18")
    meta = BundleMeta(
        backbone="resnet18", scheme=load_scheme("rsscn7"), sensor=RGB8, bands=("red", "green", "blue"), size_px=32, mean=norm.mean,
        std=norm.std, created="2020-01-01T00:00:00+00:00", geoclass_version="0.1.0",
    )  # fmt: skip
    return Bundle(meta, {}, "0" * 32)
