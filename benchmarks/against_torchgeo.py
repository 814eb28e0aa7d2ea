"""classify against TorchGeo: its RasterDataset, GridGeoSampler and DataLoader, and the same network in eager PyTorch.

TorchGeo is no dependency of geoclass. An environment of its own for this:

    python -m venv /tmp/torchgeo && /tmp/torchgeo/bin/pip install . torchgeo
    OMP_NUM_THREADS=2 /tmp/torchgeo/bin/python benchmarks/against_torchgeo.py [--tiles 1600] [--rounds 2] [--int8] [--ways "TorchGeo, eager" …]

(an environment that has geoclass already can be lent to it: write its `site-packages` folder into a `.pth` file of the new one).

Both read the same JPEG COG, made here: tiles of seven kinds of texture, which the networks' classifiers were fitted to tell
apart, so that equal labels mean something. Both have the same weights, tile boundaries, batch size and number of threads.
TorchGeo's images are resampled, normalised and turned as the bundle says. `eager` is the network as it is built, as in
TorchGeo's own trainers; `fused` is geoclass's own network on TorchGeo's tiles, so that only what lies around it differs.
`bare` is geoclass's PyTorch network alone, on tensors in memory. Rounds alternate; the table gives each way's quickest.

A network is NAME:INPUT_PX:VIEWS. `whole` counts everything, from the path of the file to the labels in memory, for geoclass
also choosing a runtime (and calibrating int8); `tiles/s` counts from the first tile read. `cpu ms` is processor time a tile
over all threads and worker processes, after the choosing. Where TorchGeo is missing, exits 2 with one line.
"""

import argparse
import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from made import COLUMN, KINDS, ROW, SIDE, fitted_bundle, make_cog
from torch.utils.data import DataLoader

import geoclass
from geoclass.bundle import Bundle
from geoclass.predict import DEFAULT_BATCH
from geoclass.runtimes import settling
from geoclass.runtimes.answers import TorchRunner, input_side, prepared
from geoclass.views import dihedral


@dataclass
class Measured:
    """What one way took, in its quickest round, and its labels (rows, columns) from the north."""

    whole: float = float("inf")
    seconds: float = float("inf")
    processor: float = float("inf")
    labels: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    note: str = ""


def processor_seconds() -> float:
    both = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def keep_quickest(found: Measured, whole: float, seconds: float, processor: float, labels: np.ndarray) -> None:
    found.whole, found.seconds = min(found.whole, whole), min(found.seconds, seconds)
    found.processor, found.labels = min(found.processor, processor), labels


def torchgeo_batches(scene: Path, batch: int, workers: int) -> Iterator[torch.Tensor]:
    """float32 tiles (N, 3, 224, 224), line by line from the south, as TorchGeo's documentation says to make them."""
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import GridGeoSampler

    dataset = RasterDataset(scene)
    sampler = GridGeoSampler(dataset, size=SIDE, stride=SIDE)
    for samples in DataLoader(
        dataset, batch_size=batch, sampler=sampler, num_workers=workers, collate_fn=stack_samples
    ):
        yield samples["image"]


def eager(bundle: Bundle) -> Callable[[torch.Tensor], torch.Tensor]:
    network = bundle.network()

    def run(brightness: torch.Tensor) -> torch.Tensor:
        views = dihedral(prepared(brightness, bundle.meta), bundle.meta.views)
        return torch.stack([network(view.contiguous()) for view in views]).mean(dim=0)

    return run


@torch.inference_mode()
def by_torchgeo(
    scene: Path, run: Callable[[torch.Tensor], torch.Tensor], workers: int, side: int, into: Measured
) -> None:
    start, before = perf_counter(), processor_seconds()
    batches = torchgeo_batches(scene, DEFAULT_BATCH["cpu"], workers)
    found = [run(images).softmax(dim=1).argmax(dim=1) for images in batches]
    seconds, processor = perf_counter() - start, processor_seconds() - before
    keep_quickest(into, seconds, seconds, processor, torch.cat(found).numpy().reshape(side, side)[::-1])


def by_geoclass(scene: Path, model: Path, runtime: str, precision: str, side: int, into: Measured) -> None:
    began: list[tuple[float, float]] = []

    def progress(stage: str, done: int, _: int) -> None:
        if stage == "classifying" and not began:
            began.append((perf_counter(), processor_seconds()))

    start = perf_counter()
    # As many threads read as compute: TorchGeo reads in the computing thread, or in processes of its own.
    threads = torch.get_num_threads()
    result = geoclass.classify(
        scene, model, runtime=runtime, precision=precision, readers=threads, force=True, progress=progress
    )
    end, processor = perf_counter(), processor_seconds()
    labels = result.labels
    at = np.full((side, side), -1)
    at[ROW - 1 - labels.rows, labels.columns - COLUMN] = labels.probabilities.argmax(axis=1)
    way = f"{labels.info['runtime']} {labels.info['precision']} from {labels.info['quick_views'] or 'all'} sides"
    into.note = f"{way}; {labels.info['runtime_note']}".rstrip("; ")
    keep_quickest(into, end - start, end - began[0][0], processor - began[0][1], at)


@torch.inference_mode()
def bare(runner: TorchRunner, side: int, into: Measured) -> None:
    """The network alone, as many passes of a batch as the bundle has views."""
    answers, batch = runner.answers, DEFAULT_BATCH["cpu"]
    px = input_side(answers.meta)
    images = torch.randn(batch, 3, px, px).contiguous(memory_format=torch.channels_last)
    answers.network(images)
    passes = max(1, side * side // batch // 4)
    start, before = perf_counter(), processor_seconds()
    for _ in range(passes * answers.meta.views):
        answers.network(images)
    times = side * side / (passes * batch)
    seconds = (perf_counter() - start) * times
    keep_quickest(into, seconds, seconds, (processor_seconds() - before) * times, into.labels)


def ways_of(scene: Path, model: Path, bundle: Bundle, side: int, int8: bool) -> dict[str, Callable[[Measured], None]]:
    plain, runner = eager(bundle), TorchRunner(bundle, torch.device("cpu"))
    ways: dict[str, Callable[[Measured], None]] = {
        "TorchGeo, eager": lambda into: by_torchgeo(scene, plain, 0, side, into),
        "TorchGeo, eager, 2 workers": lambda into: by_torchgeo(scene, plain, 2, side, into),
        "TorchGeo, fused": lambda into: by_torchgeo(scene, runner, 0, side, into),
        "geoclass, torch fp32": lambda into: by_geoclass(scene, model, "torch", "fp32", side, into),
        "geoclass, auto fp32": lambda into: by_geoclass(scene, model, "auto", "fp32", side, into),
        "bare torch fp32": lambda into: bare(runner, side, into),
    }
    if int8:
        ways["geoclass, auto"] = lambda into: by_geoclass(scene, model, "auto", "auto", side, into)
    return ways


def measured(ways: dict[str, Callable[[Measured], None]], rounds: int) -> dict[str, Measured]:
    found = {name: Measured() for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            way(found[name])
    return found


def tell(spec: str, found: dict[str, Measured], tiles: int) -> bool:
    """Print a network's table. Whether all labels agree."""
    base = min((found[name] for name in found if name.startswith("TorchGeo, eager")), key=lambda one: one.seconds)
    least = min(one.processor for name, one in found.items() if name.startswith("TorchGeo, eager"))
    fine = True
    for name, one in found.items():
        agree = float((one.labels == base.labels).mean()) if one.labels.size else float("nan")
        fine &= not agree < 0.99
        print(
            f"{spec:<25}{name:<28}{tiles / one.whole:>9.1f}{tiles / one.seconds:>9.1f}{base.seconds / one.seconds:>8.2f}"
            f"{1000 * one.processor / tiles:>9.2f}{least / one.processor:>8.2f}{agree:>9.1%}  {one.note}",
            flush=True,
        )
    counts = np.bincount(base.labels.ravel(), minlength=KINDS)
    print(f"{'':<25}{base.labels.size} tiles by TorchGeo, of {int((counts > 0).sum())} classes", flush=True)
    return fine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["efficientnet_lite0:64:1", "resnet18:64:1", "efficientnet_lite0:112:4"])  # fmt: skip
    parser.add_argument("--tiles", type=int, default=1600)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--int8", action="store_true", help="auto may take int8, as in runs of more than a minute")
    parser.add_argument("--ways", nargs="+", default=[], help="only these, by their names in the table")
    options = parser.parse_args()
    try:
        import torchgeo
    except ImportError as error:
        print(f"TorchGeo cannot be loaded ({error}); see the beginning of {__file__}", file=sys.stderr)
        sys.exit(2)
    if options.int8:
        settling.QUICK_FROM_SECONDS = 0.0
    side, fine = max(2, round(options.tiles**0.5)), True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["GEOCLASS_CACHE"] = str(folder / "cache")
        scene = make_cog(folder, side)
        print(
            f"TorchGeo {torchgeo.__version__}, {side * side} tiles, {scene.stat().st_size / 1e6:.0f} MB, batch "
            f"{DEFAULT_BATCH['cpu']}, {torch.get_num_threads()} threads, load before {os.getloadavg()[0]:.1f}"
        )
        print(f"{'network':<25}{'way':<28}{'whole':>9}{'tiles/s':>9}{'ratio':>8}{'cpu ms':>9}{'ratio':>8}{'labels':>9}")
        for spec in options.networks:
            model = folder / f"{spec.replace(':', '-')}.pt"
            bundle = fitted_bundle(model, spec)
            ways = ways_of(scene, model, bundle, side, options.int8)
            ways = {name: way for name, way in ways.items() if not options.ways or name in options.ways}
            fine &= tell(spec, measured(ways, options.rounds), side * side)
    if not fine:
        sys.exit("labels differ in more than 1 % of the tiles")


if __name__ == "__main__":
    main()
