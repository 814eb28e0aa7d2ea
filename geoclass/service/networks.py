"""The models a service answers with: their bundles, each made ready on the runtime that is the fastest here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..bundle import Bundle, load_bundle
from ..datasets.pictures import Picture
from ..errors import ServiceError
from ..history.registry import accuracy_of, resolve
from ..labels import FloatArray
from ..predict import DEFAULT_BATCH
from ..reader import Pixels
from ..runtimes.answers import IMAGES_AT_ONCE
from ..runtimes.settling import MEASURED_FROM_TILES, Workload, device_for, open_runner, settle
from ..runtimes.wanted import Wanted
from .batching import Batcher
from .settings import Settings

ROUNDS = 4
LEAST_BATCH = 8


@dataclass(frozen=True)
class Served:
    """One model: the name requests call it by, its file, its bundle, what it runs on, and the way into its network."""

    name: str
    path: Path
    bundle: Bundle
    runtime: str
    batcher: Batcher

    @property
    def accuracy(self) -> float | None:
        """What its training record says, from 0 to 1."""
        return accuracy_of(self.bundle.meta.training)


def open_models(settings: Settings, observe: Callable[[int, float], None]) -> dict[str, Served]:
    """Every model by its name; the first is the default. Raises GeoclassError for what is no bundle, or two of a name."""
    found: dict[str, Served] = {}
    for named in settings.models:
        path = resolve(named).resolve()
        name = path.stem
        if name in found:
            raise ServiceError(f"{named} and {found[name].path} are both called {name!r}; rename one of the files")
        found[name] = _open(name, path, settings, observe)
    return found


def _open(name: str, path: Path, settings: Settings, observe: Callable[[int, float], None]) -> Served:
    bundle = load_bundle(path)
    wanted = Wanted(settings.runtime, "auto")
    device = device_for(settings.device, wanted)
    if device.type == "cpu":  # int8 is calibrated on the tiles of a scene, and there is none
        wanted = Wanted(settings.runtime, "fp32")
    batch = batch_of(device.type, bundle.meta.views)
    workload = Workload(
        bundle, bundle.meta.sensor, device, batch, MEASURED_FROM_TILES, lambda count: grain(bundle, count)
    )
    settled = settle(workload, wanted)
    predictor = workload.predictor(settled.runner or open_runner(bundle, settled.choice, device))

    def network(tiles: Sequence[Picture]) -> FloatArray:
        return predictor(tiles).probabilities

    network(grain(bundle, 1))  # the first pass is slow, and shall not be a caller's
    return Served(
        name, path, bundle, settled.choice.words, Batcher(network, batch, settings.limits.waiting_tiles, observe)
    )


def batch_of(device: str, views: int) -> int:
    """Pictures that go through the network together: on a GPU as many as ever, on CPUs just enough to keep all cores at work.

    There a larger batch is no faster, and whoever came when it had just begun waits for all of it. ROUNDS requests of
    images for each core's stream, every picture being `views` images.
    """
    if device != "cpu":
        return DEFAULT_BATCH[device]
    enough = ROUNDS * torch.get_num_threads() * IMAGES_AT_ONCE // max(1, views)
    return min(DEFAULT_BATCH[device], max(LEAST_BATCH, enough))


def grain(bundle: Bundle, count: int) -> list[Pixels]:
    """Tiles of noise in stored numbers, to measure runtimes with."""
    meta, random = bundle.meta, np.random.default_rng(0)
    scale, offset = meta.sensor.scale.affine()
    brightness = random.uniform(0, 255, (count, len(meta.bands), meta.size_px, meta.size_px))
    return list(((brightness - offset) / scale).astype(meta.sensor.dtypes[0]))
