"""classify on a GPU: is it right, does anything wait that should not, and how near does it come to the bare network?

    python benchmarks/gpu.py [--tiles 20000] [--network efficientnet_lite0:112:4] [--device cuda] [--batch 256]

Needs nothing but geoclass, a CUDA build of PyTorch and a GPU; exits 2 with one line where there is none. The imagery (a
JPEG COG of tiles of seven textures) is made, the bundle fitted to it. A network is NAME:INPUT_PX:VIEWS.

1. Right: 576 tiles on the GPU against the CPU in fp32: labels, and the change of probabilities. Exits 1 below 99.9 %
   for fp32 and fp16 (99 % for bf16, which rounds more).
2. Waiting: whether giving the GPU a block makes the host wait for it anywhere (`torch.cuda.set_sync_debug_mode`).
3. Speed: the network alone in fp16, channels last, on tensors that are on the GPU; reading alone, with as many threads as
   classify; then classify from the file to the labels in memory, with and without CUDA graphs. Rounds alternate.
"""

import argparse
import copy
import os
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from made import fitted_bundle, make_cog

import geoclass
from geoclass.blocks import read_ahead, read_block
from geoclass.bundle import Bundle
from geoclass.plan import make_plan
from geoclass.predict import DEFAULT_BATCH, Predictor
from geoclass.runtimes import settling
from geoclass.runtimes.answers import TorchRunner, input_side
from geoclass.runtimes.lanes import devices_of

NEVER = 1 << 60
LEAST = {"fp32": 0.999, "fp16": 0.999, "bf16": 0.99}


def right(scene: Path, bundle: Bundle, device: str) -> bool:
    """Print how the GPU's answers differ from the CPU's in fp32; whether they are near enough."""
    exact = geoclass.classify(scene, bundle, device="cpu", runtime="torch", precision="fp32", force=True).labels
    fine = True
    print(f"\n{'precision':<12}{'graph':>6}{'labels':>10}{'mean |dp|':>12}{'max |dp|':>12}{'thumbnails':>12}")
    for precision in LEAST:
        for graph in (False, True):
            settling.REPLAYED_FROM_TILES = 0 if graph else NEVER
            # A small batch, so that blocks hold several of one shape, which is when a graph is recorded.
            found = geoclass.classify(
                scene, bundle, device=device, precision=precision, batch_size=32, force=True
            ).labels
            change = np.abs(found.probabilities - exact.probabilities)
            agree = float((found.probabilities.argmax(1) == exact.probabilities.argmax(1)).mean())
            assert found.thumbnails is not None and exact.thumbnails is not None
            same = float((np.abs(found.thumbnails.astype(int) - exact.thumbnails) <= 1).mean())
            fine &= agree >= LEAST[precision] and same > 0.999 and found.tile_ids == exact.tile_ids
            print(
                f"{precision:<12}{graph!s:>6}{agree:>10.2%}{change.mean():>12.1e}{change.max():>12.1e}{same:>12.2%}",
                flush=True,
            )
    return fine


def waits(scene: Path, bundle: Bundle, device: torch.device, batch: int) -> str:
    """Whether the host waits while it gives the GPU a block."""
    plan = make_plan([str(scene)], bundle)
    predictor = Predictor(bundle, plan.mosaic.sensor, device=device, batch_size=batch)
    block = plan.blocks()[0]
    with plan.mosaic.reader(plan.grid, plan.bands) as reader:
        pixels = read_block(reader, plan.grid, block).whole
    assert pixels is not None  # the blocks of a scene like this are whole
    size = plan.grid.size_px
    for turn in range(3):  # the first turns take memory and choose kernels, which may wait
        torch.cuda.set_sync_debug_mode("error" if turn == 2 else "default")
        try:
            there = predictor.lane.send(pixels)
            begun = predictor.begin([there[:, :size, k * size : (k + 1) * size] for k in range(there.shape[2] // size)])
        except RuntimeError as error:
            return f"yes: {' '.join(str(error).split())[:100]}"
        finally:
            torch.cuda.set_sync_debug_mode("default")
        predictor.finish(begun)
    return "no"


@torch.inference_mode()
def bare(bundle: Bundle, device: torch.device, batch: int, tiles: int) -> float:
    """Tiles a second of the network alone on one GPU: as many passes of a batch as the bundle has views."""
    answers = TorchRunner(bundle, device, "fp16").answers
    network, side = copy.deepcopy(answers.network).half(), input_side(bundle.meta)
    images = torch.randn(batch, len(bundle.meta.bands), side, side, device=device, dtype=torch.float16)
    images = images.contiguous(memory_format=torch.channels_last)
    passes = max(8, min(tiles, 20_000) // batch) * bundle.meta.views
    for _ in range(8):
        network(images)
    torch.cuda.synchronize(device)
    start = perf_counter()
    for _ in range(passes):
        network(images)
    torch.cuda.synchronize(device)
    return passes / bundle.meta.views * batch / (perf_counter() - start)


def reading(scene: Path, bundle: Bundle, gpus: int) -> float:
    """Tiles a second of reading alone."""
    plan = make_plan([str(scene)], bundle)
    threads = min(8 * gpus, max(8, os.cpu_count() or 1))
    start = perf_counter()
    tiles = sum(len(pixels.block) for pixels in read_ahead(plan.mosaic, plan.grid, plan.bands, plan.blocks(), threads))
    return tiles / (perf_counter() - start)


def whole(scene: Path, bundle: Bundle, device: str, batch: int, graph: bool) -> float:
    """Tiles a second of classify, from the path of the file to the labels in memory."""
    settling.REPLAYED_FROM_TILES = 0 if graph else NEVER
    start = perf_counter()
    result = geoclass.classify(scene, bundle, device=device, batch_size=batch, force=True)
    return len(result.labels) / (perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=20_000)
    parser.add_argument("--network", default="efficientnet_lite0:112:4")
    parser.add_argument("--device", default="cuda", help="cuda (all that are visible) or cuda:N")
    parser.add_argument("--batch", type=int, default=DEFAULT_BATCH["cuda"])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            "no CUDA device is seen here; run this on a machine with a GPU and a CUDA build of torch", file=sys.stderr
        )
        sys.exit(2)
    devices = devices_of(torch.device(options.device))
    side = max(24, round(options.tiles**0.5))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "small").mkdir()
        small, scene = make_cog(folder / "small", 24), make_cog(folder, side)
        bundle = fitted_bundle(folder / "m.pt", options.network)
        names = ", ".join(torch.cuda.get_device_name(device) for device in devices)
        print(f"{names}; torch {torch.__version__}, {os.cpu_count()} cores; {options.network}, batch {options.batch}")
        fine = right(small, bundle, options.device)
        print(f"\nthe host waits while it gives the GPU a block: {waits(small, bundle, devices[0], options.batch)}")
        print(f"\n{side * side} tiles, {scene.stat().st_size / 1e6:.0f} MB; tiles a second")
        print(f"{'round':>6}{'bare':>10}{'reading':>10}{'classify':>10}{'ratio':>8}{'with graph':>12}{'ratio':>8}")
        for number in range(options.rounds):
            alone = sum(bare(bundle, device, options.batch, side * side) for device in devices)
            read = reading(scene, bundle, len(devices))
            plain, graph = (whole(scene, bundle, options.device, options.batch, on) for on in (False, True))
            print(
                f"{number + 1:>6}{alone:>10.0f}{read:>10.0f}{plain:>10.0f}{plain / min(alone, read):>8.2f}"
                f"{graph:>12.0f}{graph / min(alone, read):>8.2f}",
                flush=True,
            )
        print("ratio: to the lesser of bare and reading")
    sys.exit(0 if fine else "the GPU's labels differ from the CPU's by more than they may")


if __name__ == "__main__":
    main()
