"""From pixels to class probabilities: batches of tiles through a bundle's network on one device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import numpy.typing as npt
import torch

from . import forest
from .bundle import Bundle
from .datasets.tileset import TileSet
from .errors import UnfitError
from .labels import ByteArray, FloatArray
from .reader import Pixels
from .runtimes.answers import AheadRunner, Pending, Runner, TorchRunner
from .runtimes.lanes import Lane, as_tensor, stacked
from .sensors import Sensor
from .tones import Tone

DEFAULT_BATCH = {"cpu": 32, "cuda": 256}
SHOWN_AT_ONCE = 64
SEEN_AT_ONCE = 8
"""Tiles that are made ready together for a runner that takes a batch in parts: as quick as a whole batch, and where they
become float32 a quarter of its memory."""


@dataclass(frozen=True)
class Prediction:
    """For N tiles: probabilities (N, K), thumbnails (N, k, k, 3) in 0–255, and the seconds it took."""

    probabilities: FloatArray
    thumbnails: ByteArray
    seconds: float


def choose_device(name: str = "auto") -> torch.device:
    """`auto` is CUDA where there is one, else the CPU. Raises UnfitError for a device that this machine lacks."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UnfitError(f"unknown device {name!r}; give --device cpu, cuda or cuda:1") from error
    if device.type not in ("cpu", "cuda"):
        raise UnfitError(f"device {name!r} is not supported; give --device cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UnfitError("no CUDA device is seen here; use --device cpu, or install a driver and a CUDA build of torch")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UnfitError(
            f"there is no {name}; this machine has {torch.cuda.device_count()} CUDA devices, counted from 0"
        )
    return device


def brightness_of(batch: Pixels, sensor: Sensor, device: torch.device) -> torch.Tensor:
    """(N, C, H, W) float32 brightness in 0–255 on the device; stored numbers travel there, not floats."""
    return scaled(as_tensor(batch).to(device), sensor)


def scaled(stored: torch.Tensor, sensor: Sensor) -> torch.Tensor:
    """Stored numbers of any shape as float32 brightness in 0–255, in memory of its own."""
    values = stored.to(torch.float32, copy=True)
    scale, offset = sensor.scale.affine()
    if stored.dtype == torch.uint8 and (scale, offset) == (1.0, 0.0):
        return values
    return values.mul_(scale).add_(offset).clamp_(0, 255)


def seen(tiles: Sequence[Pixels], sensor: Sensor, device: torch.device, tone: Tone | None = None) -> torch.Tensor:
    """Tiles of (bands, H, W) in stored numbers as the network is shown them: brightness (N, C, H, W) on the device."""
    brightness = brightness_of(np.stack(tiles), sensor, device)
    return brightness if tone is None else toned(brightness, torch.from_numpy(tone.curves).to(device))


def toned(brightness: torch.Tensor, curves: torch.Tensor) -> torch.Tensor:
    """Brightness (N, C, H, W) through a curve a band, (C, 256), linear between levels; see `tones.Tone`."""
    last = curves.shape[1] - 1
    below = brightness.clamp(0, last).floor()
    share = brightness - below
    found = torch.empty_like(brightness)
    for band, curve in enumerate(curves):
        at = below[:, band].long()
        found[:, band] = torch.lerp(curve[at], curve[(at + 1).clamp_(max=last)], share[:, band])
    return found


def shown(tiles: TileSet) -> Iterator[npt.NDArray[np.uint8]]:
    """Each tile as (H, W, 3) uint8 brightness of its first three bands."""
    for start in range(0, len(tiles), SHOWN_AT_ONCE):
        at = np.arange(start, min(len(tiles), start + SHOWN_AT_ONCE))
        brightness = brightness_of(tiles.read(at), tiles.sensor, torch.device("cpu")).round().to(torch.uint8)
        bands = [min(k, brightness.shape[1] - 1) for k in range(3)]
        yield from np.ascontiguousarray(brightness[:, bands].permute(0, 2, 3, 1).numpy())


@dataclass(frozen=True)
class Begun:
    """N tiles that a device was given to classify: their probabilities (or what a forest reads) and thumbnails, batch by
    batch, which are there once `done` has been waited for; `seconds` is what it took to say so."""

    answers: list[Pending]
    thumbnails: list[torch.Tensor]
    done: torch.cuda.Event | None
    seconds: float


class Predictor:
    """A bundle's network made ready for a device, and the way from stored numbers to probabilities.

    `sensor` is the scene's: its scaling turns stored numbers into brightness, on the device. `runner` is what the network
    runs on, PyTorch where none is given: in half precision on CUDA, else in fp32. With `tone` (of the bundle's bands) the
    network sees brightness through its curves; thumbnails show it as it is. A batch is halved when memory runs out.
    """

    def __init__(
        self,
        bundle: Bundle,
        sensor: Sensor,
        *,
        device: torch.device,
        batch_size: int | None = None,
        thumbnail_px: int = 8,
        tone: Tone | None = None,
        runner: Runner | None = None,
    ) -> None:
        self.device = device
        self.lane = Lane(device)
        self.batch_size = batch_size or DEFAULT_BATCH[device.type]
        self.thumbnail_px = thumbnail_px
        meta = bundle.meta
        bands = len(meta.bands)
        self.runner = runner or TorchRunner(bundle, device, "fp16" if device.type == "cuda" else "fp32")
        self.forest = None
        if bundle.forest is not None:
            fit = {"inputs": meta.projection, "classes": len(meta.scheme)}
            self.forest = forest.load_forest(bundle.forest, "the bundle", **fit)
        self.temperature = meta.temperature
        self.sensor = sensor
        # Made here, once: a number sent in the midst of the work would have to wait for all that is queued before it.
        self.curves = None if tone is None else torch.from_numpy(tone.curves).to(device)
        names = list(meta.bands)
        rgb = [names.index(name) for name in ("red", "green", "blue") if name in names]
        self.rgb = torch.tensor(rgb if len(rgb) == 3 else [min(k, bands - 1) for k in range(3)], device=device)
        self.classes = len(meta.scheme)

    @property
    def works_ahead(self) -> bool:
        """Whether it is at work after `begin` has returned, as a GPU is."""
        return self.device.type == "cuda" or isinstance(self.runner, AheadRunner)

    def __call__(self, tiles: Sequence[Pixels]) -> Prediction:
        """Classify N tiles of (bands, size, size) in stored numbers. Raises UnfitError where a single one needs more
        memory than the GPU has."""
        return self.finish(self.begin([as_tensor(tile) for tile in tiles]))

    @torch.inference_mode()
    def begin(self, tiles: Sequence[torch.Tensor]) -> Begun:
        """Give the device N tiles of (bands, size, size) in stored numbers; nothing here waits for CUDA where they are
        there already (see `Lane.send`). Raises UnfitError as above."""
        start = perf_counter()
        answers: list[Pending] = []
        thumbnails: list[torch.Tensor] = []
        at = 0
        while at < len(tiles):
            batches = math.ceil(len(tiles) / self.batch_size)
            part = tiles[at : at + math.ceil(len(tiles) / batches)]  # of one size: a small batch costs more a tile
            try:
                found = self._begin(part)
            except torch.OutOfMemoryError as error:
                if self.batch_size == 1:
                    raise UnfitError(
                        f"{self.device} has no memory left for a single tile; end what else runs on it, or give --device cpu"
                    ) from error
                self.batch_size //= 2
                torch.cuda.empty_cache()
                continue
            answers.append(found[0])
            thumbnails.append(found[1])
            at += len(part)
        return Begun(answers, thumbnails, self.lane.mark(), perf_counter() - start)

    @torch.inference_mode()
    def finish(self, begun: Begun) -> Prediction:
        """Wait for what was begun. `seconds` leaves out what passed in between."""
        start = perf_counter()
        if begun.done is not None:
            begun.done.synchronize()
        probabilities, thumbnails = np.empty((0, self.classes), np.float32), self._no_thumbnails()
        if begun.answers:
            probabilities = np.concatenate([self._probabilities(answers()) for answers in begun.answers])
            thumbnails = np.concatenate([small.numpy() for small in begun.thumbnails])
        return Prediction(probabilities, thumbnails, begun.seconds + perf_counter() - start)

    def _begin(self, tiles: Sequence[torch.Tensor]) -> tuple[Pending, torch.Tensor]:
        """Answers and thumbnails of one batch, on their way to the CPU."""
        if isinstance(self.runner, AheadRunner):
            parts = [tiles[at : at + SEEN_AT_ONCE] for at in range(0, len(tiles), SEEN_AT_ONCE)]
            small: list[torch.Tensor] = []
            pending = self.runner.begin(self._seen(part, small) for part in parts)
            return (lambda: self._readable(pending())), torch.cat(small)
        small = []
        answers = self.lane.fetch(self._readable(self.runner(self._seen(tiles, small))))
        return (lambda: answers), small[0]

    def _seen(self, tiles: Sequence[torch.Tensor], thumbnails: list[torch.Tensor]) -> torch.Tensor:
        """Brightness (N, C, H, W) as the network is shown it; what it looks like is added to the thumbnails."""
        stored = stacked(tiles).to(self.device)
        brightness = stored if self._is_brightness(stored) else scaled(stored, self.sensor)
        thumbnails.append(self.lane.fetch(self._thumbnails(brightness)))
        return brightness if self.curves is None else toned(brightness, self.curves)

    def _is_brightness(self, stored: torch.Tensor) -> bool:
        """Whether stored numbers can be shown to the network as they are: on a CPU that is quicker than as float32."""
        return (
            self.device.type == "cpu"
            and stored.dtype == torch.uint8
            and self.curves is None
            and self.sensor.scale.affine() == (1.0, 0.0)
        )

    def _readable(self, answers: torch.Tensor) -> torch.Tensor:
        """Answers as probabilities, or as the forest reads them."""
        return answers.float() if self.forest is not None else torch.softmax(answers.float(), dim=1)

    def _thumbnails(self, brightness: torch.Tensor) -> torch.Tensor:
        # Every step-th pixel will do for a picture this small, and costs a fraction.
        step = max(1, min(4, brightness.shape[-1] // (2 * self.thumbnail_px)))
        few = brightness[:, self.rgb, ::step, ::step].float()
        small = torch.nn.functional.adaptive_avg_pool2d(few, self.thumbnail_px)
        return small.round_().to(torch.uint8).permute(0, 2, 3, 1)

    def _no_thumbnails(self) -> ByteArray:
        return np.empty((0, self.thumbnail_px, self.thumbnail_px, 3), np.uint8)

    def _probabilities(self, answers: torch.Tensor) -> FloatArray:
        if self.forest is not None:
            shares = forest.probabilities(self.forest, answers.numpy(), self.classes)
            answers = torch.softmax((torch.from_numpy(shares).log() / self.temperature).float(), dim=1)
        return np.asarray(answers.numpy())
