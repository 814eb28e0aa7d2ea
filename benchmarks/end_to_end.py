"""classify, from a GeoTIFF to all its outputs, against the bare forward pass of the same network.

    python benchmarks/end_to_end.py [--tiles 20000] [--backbone efficientnet_lite0] [--rounds 1] [--runtimes torch openvino]

For each runtime in fp32: the bare pass has its normalised float32 batches already in memory, at the network's side, and uses
the same (fused or translated) network, threads and batch size, in the same process. Of PyTorch it takes turns with the run,
between blocks of tiles: the machine's speed changes from minute to minute. OpenVINO's requests are under way between
blocks, so that its bare pass comes before and after the run, and the quicker counts. End to end is by the clock, from the
call of `classify` until all outputs are there, less the bare passes in between. Starting and writing weigh more in shorter
runs. int8's bare pass would be that of the network calibrated for the scene, and is not measured here.
"""

import argparse
import tempfile
from pathlib import Path
from time import perf_counter

import torch
from made import make_bundle, make_scene

from geoclass.bundle import BundleMeta, load_bundle
from geoclass.classify import classify
from geoclass.predict import DEFAULT_BATCH
from geoclass.runtimes.answers import Runner, TorchRunner, keep_large_buffers
from geoclass.runtimes.measuring import open_fp32
from geoclass.runtimes.openvino_cpu import OpenvinoRunner

BEFORE_AND_AFTER = 4096
"""Of longer runs OpenVINO's bare pass has so many tiles each time."""
TURN = 640
"""After so many tiles of a run PyTorch's bare pass has its turn; of short runs in their midst."""
BATCHES = 4
"""Of each turn of the bare pass."""


class Bare:
    """The network alone: as many passes of a batch as the bundle has views, at its input side."""

    def __init__(self, runner: Runner, meta: BundleMeta, batch_size: int) -> None:
        self.batch_size = batch_size
        side = meta.input_px or meta.size_px
        batch = torch.randn(batch_size, 3, side, side)
        if isinstance(runner, TorchRunner):
            network, views = runner.answers.network, meta.views
            batch = batch.contiguous(memory_format=torch.channels_last)

            def run(batches: int) -> None:
                keep_large_buffers()  # as it was made with: a run of classify ends with the usual ones
                for _ in range(batches * views):
                    network(batch)
        else:
            assert isinstance(runner, OpenvinoRunner)
            images = batch.numpy()

            def run(batches: int) -> None:
                pending = [runner.begin_images(images) for _ in range(batches)]
                pending[-1]()  # requests end in the order they were begun

        self.run = run

    @torch.inference_mode()
    def seconds(self, batches: int) -> float:
        """What so many batches take, after one that does not count."""
        self.run(1)
        start = perf_counter()
        self.run(batches)
        return perf_counter() - start

    def tiles_per_second(self, tiles: int) -> float:
        batches = max(1, tiles // self.batch_size)
        return batches * self.batch_size / self.seconds(batches)


class Turns:
    """Told of a run's progress, it lets the bare pass have its turn after so many tiles."""

    def __init__(self, bare: Bare, every: int) -> None:
        self.bare = bare
        self.every = every
        self.number = 0
        self.seconds = 0.0
        self.kept_waiting = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage == "classifying" and done >= (self.number + 1) * self.every:
            start = perf_counter()
            self.seconds += self.bare.seconds(BATCHES)
            self.number += 1
            self.kept_waiting += perf_counter() - start

    @property
    def tiles_per_second(self) -> float:
        return self.number * BATCHES * self.bare.batch_size / self.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=20_000)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--input-px", type=int, default=112)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--runtimes", nargs="+", default=["torch", "openvino"], choices=["torch", "openvino"])
    options = parser.parse_args()
    side = max(2, round(options.tiles**0.5))
    tiles = side * side
    with tempfile.TemporaryDirectory() as folder:
        scene = make_scene(Path(folder) / "scene.tif", side, side)
        bundle = load_bundle(make_bundle(Path(folder) / "m.pt", options.backbone, options.input_px, options.views))
        batch_size = DEFAULT_BATCH["cpu"]
        runners = {name: open_fp32(bundle, name) for name in options.runtimes}
        print(
            f"{tiles} tiles, {options.backbone}, {options.input_px} px, {options.views} views, {torch.get_num_threads()} threads, batch {batch_size}"
        )
        print(
            f"{'round':>6} {'runtime':<9}{'bare tiles/s':>14}{'end to end':>12}{'ratio':>8}{'reading s':>11}{'network s':>11}{'other s':>9}"
        )
        for number in range(options.rounds):
            for name, runner in runners.items():
                bare = Bare(runner, bundle.meta, batch_size)
                turns = Turns(bare, min(TURN, tiles // 2)) if name == "torch" else None
                some = min(tiles, BEFORE_AND_AFTER)
                before = bare.tiles_per_second(some) if turns is None else 0
                start = perf_counter()
                out = Path(folder) / f"{name}{number}"
                t = classify(scene, bundle, out=out, runtime=name, precision="fp32", progress=turns).timings
                seconds = perf_counter() - start - (turns.kept_waiting if turns else 0)
                reference = turns.tiles_per_second if turns else max(before, bare.tiles_per_second(some))
                print(
                    f"{number + 1:>6} {name:<9}{reference:>14.1f}{tiles / seconds:>12.1f}{tiles / seconds / reference:>8.3f}"
                    f"{t['seconds_reading']:>11.1f}{t['seconds_network']:>11.1f}{seconds - t['seconds_network']:>9.1f}"
                )


if __name__ == "__main__":
    main()
