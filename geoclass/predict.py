"""From pixels to class probabilities: batches of tiles through a bundle's network on one device."""

from __future__ import annotations

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
from .runtimes.answers import Runner, TorchRunner
from .sensors import Sensor
from .tones import Tone

DEFAULT_BATCH = {"cpu": 32, "cuda": 256}
SHOWN_AT_ONCE = 64


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
    if batch.dtype not in (np.uint8, np.int16, np.uint16, np.float32):
        batch = batch.astype(np.float32)
    values = torch.from_numpy(batch).to(device).to(torch.float32)
    scale, offset = sensor.scale.affine()
    if batch.dtype == np.uint8 and (scale, offset) == (1.0, 0.0):
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


class Predictor:
    """A bundle's network made ready for a device, and the way from stored numbers to probabilities.

    `sensor` is the scene's: its scaling turns stored numbers into brightness, on the device. `runner` is what the network
    runs on, PyTorch where none is given: in half precision on CUDA, else in fp32. With `tone` (of the bundle's bands) the
    network sees brightness through its curves; thumbnails show it as it is. A batch is halved, once, when memory runs out.
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
        self.tone = tone
        names = list(meta.bands)
        rgb = [names.index(name) for name in ("red", "green", "blue") if name in names]
        self.rgb = rgb if len(rgb) == 3 else [min(k, bands - 1) for k in range(3)]
        self.classes = len(meta.scheme)

    @torch.inference_mode()
    def __call__(self, tiles: Sequence[Pixels]) -> Prediction:
        """Classify N tiles of (bands, size, size) in stored numbers."""
        start = perf_counter()
        probabilities = np.empty((len(tiles), self.classes), np.float32)
        thumbnails = np.empty((len(tiles), self.thumbnail_px, self.thumbnail_px, 3), np.uint8)
        at = 0
        while at < len(tiles):
            part = tiles[at : at + self.batch_size]
            try:
                brightness = brightness_of(np.stack(part), self.sensor, self.device)
                thumbnails[at : at + len(part)] = self._thumbnails(brightness)
                if self.tone is not None:
                    brightness = toned(brightness, torch.from_numpy(self.tone.curves).to(self.device))
                probabilities[at : at + len(part)] = self._probabilities(brightness)
            except torch.cuda.OutOfMemoryError:
                if self.batch_size == 1:
                    raise
                self.batch_size //= 2
                torch.cuda.empty_cache()
                continue
            at += len(part)
        return Prediction(probabilities, thumbnails, perf_counter() - start)

    def _thumbnails(self, brightness: torch.Tensor) -> ByteArray:
        # Every step-th pixel will do for a picture this small, and costs a fraction.
        step = max(1, min(4, brightness.shape[-1] // (2 * self.thumbnail_px)))
        small = torch.nn.functional.adaptive_avg_pool2d(brightness[:, self.rgb, ::step, ::step], self.thumbnail_px)
        return np.asarray(small.round_().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())

    def _probabilities(self, brightness: torch.Tensor) -> FloatArray:
        answers = self.runner(brightness)
        if self.forest is not None:
            shares = forest.probabilities(self.forest, answers.float().cpu().numpy(), self.classes)
            answers = torch.from_numpy(shares).log() / self.temperature
        return np.asarray(torch.softmax(answers.float(), dim=1).cpu().numpy())
