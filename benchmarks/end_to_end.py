"""classify, from a GeoTIFF to all its outputs, against the bare forward pass of the same network.

    python benchmarks/end_to_end.py [--tiles 20000] [--backbone efficientnet_lite0] [--rounds 1] [--runtimes torch openvino]

For each runtime in fp32: the bare pass has its normalised float32 batches already in memory, at the network's side, and uses
the same (fused or translated) network, threads and batch size, in the same process, before and after each run; the quicker
counts, since other programs only ever slow one down. Starting and writing weigh more in shorter runs. int8's bare pass would
be that of the network calibrated for the scene, and is not measured here.
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

BARE_TILES = 4096
"""Of longer runs the bare pass has so many tiles each time."""


@torch.inference_mode()
def bare(runner: Runner, meta: BundleMeta, tiles: int, batch_size: int) -> float:
    """Tiles a second of the network alone: as many passes of a batch as the bundle has views, at its input side."""
    side = meta.input_px or meta.size_px
    batch = torch.randn(batch_size, 3, side, side)
    if isinstance(runner, TorchRunner):
        keep_large_buffers()  # as it was made with: a run of classify ends with the usual ones
        batch = batch.contiguous(memory_format=torch.channels_last)

        def run(times: int) -> None:
            for _ in range(times * meta.views):
                runner.answers.network(batch)
    else:
        assert isinstance(runner, OpenvinoRunner)
        images = batch.numpy()

        def run(times: int) -> None:
            pending = [runner.begin_images(images) for _ in range(times)]
            pending[-1]()  # requests end in the order they were begun

    run(1)
    start = perf_counter()
    run(tiles // batch_size)
    return tiles // batch_size * batch_size / (perf_counter() - start)


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
    some = min(side * side, BARE_TILES)
    with tempfile.TemporaryDirectory() as folder:
        scene = make_scene(Path(folder) / "scene.tif", side, side)
        bundle = load_bundle(make_bundle(Path(folder) / "m.pt", options.backbone, options.input_px, options.views))
        batch_size = DEFAULT_BATCH["cpu"]
        runners = {name: open_fp32(bundle, name) for name in options.runtimes}
        print(
            f"{side * side} tiles, {options.backbone}, {options.input_px} px, {options.views} views, {torch.get_num_threads()} threads, batch {batch_size}"
        )
        print(
            f"{'round':>6} {'runtime':<9}{'bare tiles/s':>14}{'end to end':>12}{'ratio':>8}{'reading s':>11}{'network s':>11}{'other s':>9}"
        )
        for number in range(options.rounds):
            for name, runner in runners.items():
                before = bare(runner, bundle.meta, some, batch_size)
                out = Path(folder) / f"{name}{number}"
                t = classify(scene, bundle, out=out, runtime=name, precision="fp32").timings
                reference = max(before, bare(runner, bundle.meta, some, batch_size))
                other = t["seconds_total"] - t["seconds_network"]
                print(
                    f"{number + 1:>6} {name:<9}{reference:>14.1f}{t['tiles_per_second']:>12.1f}{t['tiles_per_second'] / reference:>8.3f}"
                    f"{t['seconds_reading']:>11.1f}{t['seconds_network']:>11.1f}{other:>9.1f}"
                )


if __name__ == "__main__":
    main()
