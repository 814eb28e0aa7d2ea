"""The road of blocks to a device, on the CPU: what CUDA alone does stands behind `Lane` and `record_graph`.

The road of a GPU is also walked with PyTorch's fake tensors, which know their device and compute nothing: they tell
where two devices meet in one operation, and where the work would stop to wait for a number from the GPU.
"""

import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_coordinates
from sklearn.ensemble import RandomForestClassifier
from test_runtimes import make_bundle
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from geoclass import doctor
from geoclass.blocks import BlockPixels, TileBlock
from geoclass.bundle import Bundle
from geoclass.classify import classify
from geoclass.errors import UnfitError
from geoclass.forest import dump_forest
from geoclass.parts import part_of, parts_of
from geoclass.predict import Predictor, choose_device
from geoclass.runtimes import lanes, settling
from geoclass.runtimes.answers import TorchRunner
from geoclass.runtimes.lanes import as_tensor, devices_of, stacked
from geoclass.runtimes.measuring import open_fp32
from geoclass.runtimes.replayed import Replayed
from geoclass.runtimes.settling import Settled, Workload, open_predictors
from geoclass.runtimes.wanted import Choice
from geoclass.sensors import load_sensor
from geoclass.tones import Tone

CPU = torch.device("cpu")
RGB8 = load_sensor("rgb8")
SIZE = 32


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("b") / "m.pt", "resnet18", input_px=24, views=2)


def block_of(number: int = 0, rows: int = 3, columns: int = 4, dtype: Any = np.uint8, seed: int = 0) -> BlockPixels:
    """A block at columns 100… and rows 50… without the tile in its middle; the first is half covered, the second not."""
    high = 255 if dtype == np.uint8 else 1 if np.dtype(dtype).kind == "f" else 10_000
    random = np.random.default_rng(seed + number)
    whole = (random.random((3, rows * SIZE, columns * SIZE)) * high).astype(dtype)
    places = [(r, c) for r in range(rows) for c in range(columns) if (r, c) != (1, 2)]
    down, across = np.array(places).T
    tiles = [whole[:, r * SIZE : (r + 1) * SIZE, c * SIZE : (c + 1) * SIZE] for r, c in places]
    valid = np.ones(len(places), np.float32)
    valid[:2] = 0.5, 0.0
    return BlockPixels(TileBlock(number, 100 + across, 50 + rows - 1 - down), tiles, valid, 0.25, whole)


def predictor_of(bundle: Bundle, **more: Any) -> Predictor:
    return Predictor(bundle, **{"sensor": RGB8, "device": CPU, "batch_size": 4, **more})


class TestOneRoad:
    @pytest.mark.parametrize(
        ("dtype", "sensor"),
        [(np.uint8, "rgb8"), (np.uint16, "sentinel2-l2a"), (np.int16, "sentinel2-l2a"), (np.float32, "rgb8"), (np.int32, "rgb8")],
    )  # fmt: skip
    def test_windows_of_a_block_are_answered_as_tiles_are(self, bundle, dtype, sensor):
        pixels = block_of(dtype=dtype)
        predictor = predictor_of(bundle, sensor=load_sensor(sensor))
        part = part_of(pixels, predictor, 0.4)
        kept = np.flatnonzero(pixels.valid_fraction >= 0.4)
        # One by one in memory of their own, as training and evaluation hand them in.
        expected = predictor([pixels.tiles[k].copy() for k in kept])
        assert np.array_equal(part.probabilities, expected.probabilities)
        assert np.array_equal(part.thumbnails, expected.thumbnails)
        assert np.ptp(expected.probabilities, axis=0).max() > 1e-5, "the tiles must not all be answered alike"
        assert part.classified.tolist() == [True, False] + [True] * 9

    @pytest.mark.parametrize(("batch_size", "sizes"), [(11, [11]), (10, [6, 5]), (4, [4, 4, 3]), (1, [1] * 11)])
    def test_batches_are_of_one_size(self, bundle, monkeypatch, batch_size, sizes):
        predictor = predictor_of(bundle, batch_size=batch_size)
        asked: list[int] = []
        runner = predictor.runner
        monkeypatch.setattr(predictor, "runner", lambda given: asked.append(len(given)) or runner(given))
        found = predictor(block_of().tiles)
        assert asked == sizes
        assert found.probabilities == pytest.approx(
            predictor_of(bundle, batch_size=3)(block_of().tiles).probabilities, abs=1e-5
        )

    def test_where_tiles_lie_apart(self, bundle):
        pixels = block_of()
        predictor = predictor_of(bundle)
        whole, apart = (part_of(one, predictor, 0.5) for one in (pixels, replace(pixels, whole=None)))
        assert np.array_equal(whole.probabilities, apart.probabilities)

    def test_nothing_is_sent_of_a_block_without_data(self, bundle, monkeypatch):
        pixels = block_of()
        pixels.valid_fraction[:] = 0
        predictor = predictor_of(bundle)
        monkeypatch.setattr(predictor.lane, "send", None)
        part = part_of(pixels, predictor, 0.0)
        assert part.probabilities.shape == (0, 7) and part.thumbnails.shape == (0, 8, 8, 3)

    def test_pixels_are_left_as_they_were(self, bundle):
        """On a CPU the block is not copied: nothing may be scaled or normalised in its place."""
        pixels = block_of(dtype=np.float32)
        before = pixels.whole.copy()
        part_of(pixels, predictor_of(bundle), 0.5)
        assert np.array_equal(pixels.whole, before)

    def test_of_a_forest_and_of_a_tone(self, tmp_path):
        random = np.random.default_rng(0)
        forest = RandomForestClassifier(20, random_state=0).fit(random.normal(size=(70, 16)), np.arange(70) % 7)
        archive = dump_forest(forest)
        bundle = make_bundle(tmp_path / "f.pt", "resnet18", None, archive, projection=16)
        curves = np.tile(np.linspace(255, 0, 256, dtype=np.float32), (3, 1))
        tone = Tone(("red", "green", "blue"), curves, "other.gpkg", 10)
        plain, toned = predictor_of(bundle), predictor_of(bundle, tone=tone)
        pixels = block_of()
        parts = [part_of(pixels, predictor, 0.5) for predictor in (plain, toned)]
        tiles = [pixels.tiles[k] for k in np.flatnonzero(parts[0].classified)]
        inverted = plain([255 - tile for tile in tiles])
        assert np.array_equal(parts[0].probabilities, plain(tiles).probabilities)
        assert parts[1].probabilities == pytest.approx(inverted.probabilities, abs=1e-5)
        assert np.array_equal(parts[1].thumbnails, parts[0].thumbnails), "thumbnails show the scene as it is"

    def test_read_only_and_unknown_types(self):
        fixed = np.frombuffer(bytes(range(12)), np.uint8).reshape(3, 2, 2)
        assert torch.equal(as_tensor(fixed), torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2))
        assert as_tensor(np.ones((1, 2, 2), np.uint32)).dtype == torch.float32
        high = np.array([[[0, 65_535]]], np.uint16)
        assert stacked([as_tensor(high)] * 2).tolist() == [[[[0, 65_535]]]] * 2


class TestSeveralDevices:
    def test_share_the_blocks_in_turn_and_answer_as_one(self, bundle):
        blocks = [block_of(number) for number in range(5)]
        one = list(parts_of(blocks, [predictor_of(bundle)], 0.5))
        sent: dict[int, list[int]] = {0: [], 1: []}
        predictors = [predictor_of(bundle), predictor_of(bundle)]
        for device, predictor in enumerate(predictors):
            send = predictor.lane.send

            def noted(pixels, device=device, send=send):
                sent[device].append(next(k for k, block in enumerate(blocks) if block.whole is pixels))
                return send(pixels)

            predictor.lane.send = noted
        two = list(parts_of(blocks, predictors, 0.5, ahead=2))
        assert sent == {0: [0, 2, 4], 1: [1, 3]}
        assert [number for number, _ in two] == [number for number, _ in one] == [0, 1, 2, 3, 4]
        for (_, part), (_, other) in zip(one, two, strict=True):
            assert np.array_equal(part.probabilities, other.probabilities)
            assert np.array_equal(part.columns, other.columns) and np.array_equal(part.thumbnails, other.thumbnails)

    @pytest.mark.parametrize("ahead", [0, 1, 3])
    def test_no_more_blocks_are_held_than_said(self, bundle, ahead):
        """Block n is waited for when n + ahead is begun: the next ones travel meanwhile, and memory stays flat."""
        pulled: list[int] = []

        def blocks():
            for number in range(6):
                pulled.append(number)
                yield block_of(number)

        for number, _ in parts_of(blocks(), [predictor_of(bundle)], 0.5, ahead=ahead):
            assert max(pulled) == min(5, number + ahead)

    @pytest.mark.parametrize(("runtime", "begun"), [("torch", [0]), ("openvino", [0, 1])])
    def test_a_cpu_looks_ahead_where_its_runtime_has_threads_of_its_own(self, bundle, runtime, begun):
        pulled = []
        blocks = (pulled.append(number) or block_of(number) for number in range(3))
        predictor = predictor_of(bundle, runner=open_fp32(bundle, runtime, 2))
        assert next(parts_of(blocks, [predictor], 0.5))[0] == 0
        assert pulled == begun

    def test_what_is_meant_by_a_name(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
        assert [str(device) for device in devices_of(choose_device("cuda"))] == ["cuda:0", "cuda:1", "cuda:2"]
        assert [str(device) for device in devices_of(choose_device("cuda:1"))] == ["cuda:1"]
        assert devices_of(choose_device("cpu")) == [CPU]
        assert choose_device("auto").index is None
        with pytest.raises(UnfitError, match="3 CUDA devices"):
            choose_device("cuda:3")
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
        assert "GPU 0, GPU 1, GPU 2" in doctor._device("cuda").finding

    def test_a_whole_run_on_two(self, bundle, tmp_path, monkeypatch):
        scene = write_coordinates(tmp_path / "s.tif", left=1400 * 32, top=20900 * 32, width=9 * 32, height=7 * 32)
        monkeypatch.setattr("geoclass.blocks.BLOCK_BYTES", 6 * 3 * 32 * 32)
        one = classify(scene, bundle, runtime="torch").labels
        opened = []
        monkeypatch.setattr(settling, "devices_of", lambda device: [device, device])
        monkeypatch.setattr(
            sys.modules["geoclass.classify"],  # the package's name `classify` is the function
            "parts_of",
            lambda blocks, predictors, min_valid: (
                opened.extend(predictors) or parts_of(blocks, predictors, min_valid, 2)
            ),
        )
        two = classify(scene, bundle, runtime="torch").labels
        assert len(opened) == 2 and opened[0].runner is not opened[1].runner
        assert len(one) == 63 and one.tile_ids == two.tile_ids
        assert np.array_equal(one.probabilities, two.probabilities)
        assert np.array_equal(one.thumbnails, two.thumbnails)


class Scarce:
    """A runner on a device with memory for `most` tiles."""

    runtime, precision = "torch", "fp32"

    def __init__(self, runner: TorchRunner, most: int) -> None:
        self.runner, self.most, self.batches = runner, most, []

    def __call__(self, brightness: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(brightness))
        if len(brightness) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.runner(brightness)


class TestMemory:
    def test_a_batch_is_halved_until_it_fits_and_stays_so(self, bundle):
        runner = Scarce(TorchRunner(bundle, CPU), 3)
        predictor = predictor_of(bundle, batch_size=8, runner=runner)
        parts = [part for _, part in parts_of([block_of(0), block_of(1)], [predictor], 0.5, ahead=1)]
        assert runner.batches == [5, 4, *[2] * 10]
        plain = [part_of(block_of(number), predictor_of(bundle, batch_size=2), 0.5) for number in range(2)]
        for part, other in zip(parts, plain, strict=True):
            assert part.probabilities == pytest.approx(other.probabilities, abs=1e-6)

    def test_that_does_not_do_for_one_tile_is_told_in_one_line(self, bundle):
        predictor = predictor_of(bundle, runner=Scarce(TorchRunner(bundle, CPU), 0))
        with pytest.raises(UnfitError, match=r"no memory left for a single tile; .*--device cpu"):
            part_of(block_of(), predictor, 0.5)


class TestReplayed:
    def recorder(self, log: list[tuple[int, ...]], fails: bool = False):
        def record(runner, example):
            log.append(tuple(example.shape))
            if fails:
                raise RuntimeError("operation not permitted when stream is capturing")
            given = example.clone()

            def replay(brightness):
                given.copy_(brightness)
                log.append(("replayed",))
                return runner(given).clone()

            return replay

        return record

    def test_the_shape_that_comes_twice(self, bundle):
        log: list[Any] = []
        predictor = predictor_of(bundle, runner=Replayed(TorchRunner(bundle, CPU), self.recorder(log)))
        pixels = block_of()  # ten tiles in batches of 4, 4 and 2
        for _ in range(2):
            part = part_of(pixels, predictor, 0.5)
            assert np.array_equal(part.probabilities, part_of(pixels, predictor_of(bundle), 0.5).probabilities)
        assert log == [(4, 3, 32, 32)] + [("replayed",)] * 3
        assert (predictor.runner.runtime, predictor.runner.precision) == ("torch", "fp32")

    def test_what_cannot_be_recorded_runs_as_ever(self, bundle):
        log: list[Any] = []
        predictor = predictor_of(bundle, runner=Replayed(TorchRunner(bundle, CPU), self.recorder(log, fails=True)))
        part = part_of(block_of(), predictor, 0.5)
        assert log == [(4, 3, 32, 32)], "it is tried once"
        assert np.array_equal(part.probabilities, part_of(block_of(), predictor_of(bundle), 0.5).probabilities)

    def test_long_runs_on_cuda_only(self, bundle, monkeypatch):
        monkeypatch.setattr(settling, "devices_of", lambda device: [torch.device("cuda:0"), torch.device("cuda:1")])
        monkeypatch.setattr(settling, "open_runner", lambda *_, **__: TorchRunner(bundle, CPU))
        monkeypatch.setattr(Workload, "predictor", lambda self, runner, thumbnail_px: (self.device, runner))
        workload = Workload(bundle, RGB8, torch.device("cuda"), 4, 40_000, lambda _: [])
        settled = Settled(Choice(runtime="torch", precision="fp16", device="cuda"))
        for tiles, wanted in ((39_999, TorchRunner), (40_000, Replayed)):
            found = open_predictors(workload, settled, 8, tiles)
            assert [(str(device), type(runner)) for device, runner in found] == [("cuda:0", wanted), ("cuda:1", wanted)]
        monkeypatch.setattr(settling, "devices_of", lambda device: [CPU])
        assert type(open_predictors(workload, settled, 8, 40_000)[0][1]) is TorchRunner


class FakeStream:
    """Notes what is asked of CUDA's streams, in order."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wait_stream(self, other: "FakeStream") -> None:
        self.log.append(f"{self.name} waits for {other.name}")

    def record_event(self) -> "FakeStream":
        self.log.append(f"{self.name} marked")
        return self

    def synchronize(self) -> None:
        self.log.append(f"host waits for {self.name}")

    def __enter__(self) -> None:
        self.log.append(f"on {self.name}")

    def __exit__(self, *_: object) -> None:
        self.log.append(f"off {self.name}")


class NothingWaits(TorchDispatchMode):
    """Fails where an operation on a CUDA tensor also takes one of the CPU: that one would travel now, and be waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        flat = [item for arg in args for item in (arg if isinstance(arg, list | tuple) else [arg])]
        kinds = {item.device.type for item in flat if isinstance(item, torch.Tensor)}
        assert kinds != {"cpu", "cuda"}, f"{func} mixes devices"
        found = func(*args, **(kwargs or {}))
        if kinds == {"cpu"} and isinstance(found, torch.Tensor):
            assert found.device.type == "cpu", f"{func} sends to the GPU in the midst of the work"
        return found


@pytest.fixture
def fake_cuda(monkeypatch):
    """CUDA's streams as notes in a list, its tensors as PyTorch's fake ones."""
    log: list[str] = []
    side, computing = FakeStream("side", log), FakeStream("computing", log)
    monkeypatch.setattr(lanes, "stream_on", lambda device: side)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: log.append("pinned") or self)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: log.append(f"kept for {stream.name}"))
    return log


def on_fake_cuda(runner: TorchRunner, device: torch.device) -> TorchRunner:
    """The runner with its weights as fake ones of a GPU."""
    runner.device = device
    for module in runner.answers.modules():
        for held in (module._parameters, module._buffers):
            for name, value in held.items():
                if value is not None:
                    held[name] = torch.empty_like(value, device=device)
    return runner


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
@pytest.mark.parametrize(("backbone", "dtype"), [("resnet18", np.uint8), ("efficientnet_lite0", np.uint16)])
def test_the_road_on_a_gpu_without_one(tmp_path, fake_cuda, backbone, dtype):
    bundle = make_bundle(tmp_path / "m.pt", backbone, size_px=SIZE, input_px=24, views=4)
    gpu = torch.device("cuda:0")
    runner = TorchRunner(bundle, CPU, "fp16")
    tone = Tone(("red", "green", "blue"), np.tile(np.arange(256, dtype=np.float32), (3, 1)), "other.gpkg", 10)
    pixels = block_of(dtype=dtype)
    with FakeTensorMode(allow_non_fake_inputs=True):
        predictor = predictor_of(bundle, device=gpu, tone=tone, runner=on_fake_cuda(runner, gpu))
        there = predictor.lane.send(pixels.whole)
        assert (
            there.device == gpu and there.shape == pixels.whole.shape and there.dtype.itemsize == pixels.whole.itemsize
        )
        with NothingWaits():
            begun = predictor.begin([there[:, :SIZE, :SIZE], there[:, SIZE : 2 * SIZE, :SIZE]] * 3)
    answers = [pending() for pending in begun.answers]
    assert [tuple(batch.shape) for batch in answers] == [(3, 7), (3, 7)]
    assert [tuple(small.shape) for small in begun.thumbnails] == [(3, 8, 8, 3), (3, 8, 8, 3)]
    assert {found.device.type for found in answers + begun.thumbnails} == {"cpu"}
    assert fake_cuda == [
        "on side", "pinned", "off side", "computing waits for side", "kept for computing", "computing marked",
    ], "nothing but the last mark is ever waited for"  # fmt: skip
    begun.done.synchronize()
    assert fake_cuda[-1] == "host waits for computing"


def test_the_benchmark_says_where_there_is_no_gpu(monkeypatch, capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    script = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
    monkeypatch.syspath_prepend(str(script.parent))
    monkeypatch.setattr(sys, "argv", [str(script)])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(script), run_name="__main__")
    said = capsys.readouterr()
    assert left.value.code == 2 and said.out == ""
    assert "CUDA" in said.err and len(said.err.strip().splitlines()) == 1
