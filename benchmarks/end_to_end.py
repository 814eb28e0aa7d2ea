"""classify, from a GeoTIFF to all its outputs, against the bare forward pass of the same network.

    python benchmarks/end_to_end.py [--tiles 1024] [--backbone efficientnet_lite0] [--rounds 3] [--runtime torch]

The bare pass is PyTorch's. It has its float32 batches already in memory, channels last, and uses the same fused network, the same
number of threads and the same batch size, in the same process; rounds alternate so that both meet the same host.
"""

import argparse
import tempfile
from pathlib import Path
from time import perf_counter

import torch
from made import make_bundle, make_scene

from geoclass.bundle import load_bundle
from geoclass.classify import classify
from geoclass.predict import DEFAULT_BATCH
from geoclass.runtimes.answers import TorchRunner, input_side


@torch.inference_mode()
def bare(runner: TorchRunner, tiles: int, batch_size: int) -> float:
    """Tiles a second of the network alone: as many passes of a batch as the bundle has views, at its input side."""
    answers = runner.answers
    side = input_side(answers.meta)
    batch = torch.randn(batch_size, 3, side, side).contiguous(memory_format=torch.channels_last)
    answers.network(batch)
    start = perf_counter()
    for _ in range(tiles // batch_size * answers.meta.views):
        answers.network(batch)
    return tiles // batch_size * batch_size / (perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=1024)
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--input-px", type=int, default=112)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    side = max(2, round(options.tiles**0.5))
    with tempfile.TemporaryDirectory() as folder:
        scene = make_scene(Path(folder) / "scene.tif", side, side)
        bundle = load_bundle(make_bundle(Path(folder) / "m.pt", options.backbone, options.input_px, options.views))
        runner, batch_size = TorchRunner(bundle, torch.device("cpu")), DEFAULT_BATCH["cpu"]
        print(
            f"{side * side} tiles, {options.backbone}, {options.input_px} px, {options.views} views, {torch.get_num_threads()} threads, batch {batch_size}"
        )
        print(
            f"{'round':>6}{'bare tiles/s':>14}{'end to end':>14}{'ratio':>8}{'reading s':>11}{'network s':>11}{'other s':>9}"
        )
        for number in range(options.rounds):
            before = bare(runner, side * side, batch_size)
            out = Path(folder) / f"out{number}"
            result = classify(scene, bundle, out=out, runtime=options.runtime, precision=options.precision)
            after = bare(runner, side * side, batch_size)
            t, reference = result.timings, (before + after) / 2
            other = t["seconds_total"] - t["seconds_network"]
            print(
                f"{number + 1:>6}{reference:>14.1f}{t['tiles_per_second']:>14.1f}{t['tiles_per_second'] / reference:>8.3f}"
                f"{t['seconds_reading']:>11.1f}{t['seconds_network']:>11.1f}{other:>9.1f}"
            )


if __name__ == "__main__":
    main()
