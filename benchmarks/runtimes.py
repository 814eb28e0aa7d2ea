"""Runtimes × precisions × networks × batch sizes, each against the same network as PyTorch builds it (eager fp32).

    python benchmarks/runtimes.py [--networks efficientnet_lite0:112:4 resnet18:224:1] [--batch 8 32] [--rounds 3]

A network is NAME:INPUT_PX:VIEWS. Every way gets the same float32 brightness (N, 3, 224, 224), already in memory, and
does all that lies between it and the answers: resampling, normalisation, views. In each round every way has its turn,
so that all meet the same machine; the table gives the quickest round, and its ratio to eager's quickest. `cpu ms` is
processor time a tile over all threads, which other programs disturb less. Weights are random; int8 is calibrated on the
tiles it is timed on, without looking at its answers.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import torch
from made import make_bundle

from geoclass.bundle import Bundle, load_bundle
from geoclass.runtimes import cpu, openvino_cpu, quantised
from geoclass.runtimes.answers import TorchRunner, prepared
from geoclass.runtimes.measuring import open_fp32
from geoclass.runtimes.wanted import installed
from geoclass.views import dihedral

Way = Callable[[torch.Tensor], torch.Tensor]


def eager(bundle: Bundle) -> Way:
    """The network as it is built: nothing fused, in PyTorch's own memory layout."""
    network = bundle.network()

    @torch.inference_mode()
    def run(brightness: torch.Tensor) -> torch.Tensor:
        views = dihedral(prepared(brightness, bundle.meta), bundle.meta.views)
        return torch.stack([network(view.contiguous()) for view in views]).mean(dim=0) / bundle.meta.temperature

    return run


def ways_of(bundle: Bundle, brightness: torch.Tensor) -> dict[str, Way]:
    ways: dict[str, Way] = {"eager fp32": eager(bundle), "torch fp32": TorchRunner(bundle, torch.device("cpu"))}
    for name in ("openvino", "onnx"):
        if installed(name):
            ways[f"{name} fp32"] = open_fp32(bundle, name)
    if installed("openvino") and cpu.has(cpu.AMX):
        ways["openvino bf16"] = openvino_cpu.OpenvinoRunner(bundle, openvino_cpu.translated(bundle), "bf16")
    if installed("openvino") and installed("int8"):
        images = quantised.calibration_images(bundle, [brightness.clone()], len(brightness))
        _, stored = quantised.network(bundle, openvino_cpu.translated(bundle), images, None)
        ways["openvino int8"] = openvino_cpu.OpenvinoRunner(bundle, stored, "int8")
    return ways


def timed(ways: dict[str, Way], brightness: torch.Tensor, batch: int, rounds: int) -> dict[str, np.ndarray]:
    """For each way (rounds, 2): wall and processor seconds a tile."""
    found = {name: np.zeros((rounds, 2)) for name in ways}
    for way in ways.values():
        way(brightness[:batch].clone())
    for number in range(rounds):
        for name, way in ways.items():
            parts = [part.clone() for part in brightness.split(batch)]
            wall, processor = perf_counter(), process_time()
            for part in parts:
                way(part)
            found[name][number] = perf_counter() - wall, process_time() - processor
    return {name: seconds / len(brightness) for name, seconds in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["efficientnet_lite0:112:4", "resnet18:224:1"])
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--tiles", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (options.tiles, 3, 28, 28)).repeat(8, axis=2).repeat(8, axis=3)
    brightness = torch.from_numpy(coarse.astype(np.float32))
    print(f"{cpu.name()}, {torch.get_num_threads()} threads, load before {os.getloadavg()[0]:.1f}")
    print(
        f"{'network':<28}{'batch':>6}  {'way':<15}{'tiles/s':>9}{'x eager':>9}{'cpu ms':>8}{'x eager':>9}{'differs':>10}"
    )
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GEOCLASS_CACHE"] = folder
        for spec in options.networks:
            name, side, views = spec.split(":")
            bundle = load_bundle(make_bundle(Path(folder) / "m.pt", name, int(side), int(views)))
            ways = ways_of(bundle, brightness)
            exact = ways["eager fp32"](brightness[:8].clone()).softmax(dim=1)
            for batch in options.batch:
                seconds = timed(ways, brightness, batch, options.rounds)
                base = seconds["eager fp32"].min(axis=0)
                for way, run in ways.items():
                    wall, processor = seconds[way].min(axis=0)
                    differs = float((run(brightness[:8].clone()).softmax(dim=1) - exact).abs().max())
                    print(
                        f"{spec:<28}{batch:>6}  {way:<15}{1 / wall:>9.1f}{base[0] / wall:>9.2f}"
                        f"{processor * 1000:>8.2f}{base[1] / processor:>9.2f}{differs:>10.1e}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
