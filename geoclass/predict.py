"""From pixels to class probabilities: batches of tiles through a bundle's network on one device."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from . import backbones, forest
from .bundle import Bundle
from .datasets.tileset import TileSet
from .errors import UnfitError
from .labels import ByteArray, FloatArray
from .reader import Pixels
from .sensors import Sensor
from .tones import Tone
from .views import dihedral

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


class Answers(nn.Module):
    """A bundle's whole way from brightness to answers, as one network.

    Takes brightness (N, bands, H, W) in 0–255 and gives logits (N, K), divided by the bundle's temperature; where the
    head is a forest, the (N, P) numbers that the forest reads. Tiles are resampled to the network's input side,
    normalised in place (the brightness given is overwritten: a copy would cost as much as a layer), and answers
    averaged over the bundle's views.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        meta = bundle.meta
        self.side_px = meta.input_px or meta.size_px
        self.views = meta.views
        self.temperature = 1.0 if bundle.forest is not None else meta.temperature
        self.network = backbones.fuse(bundle.network(), torch.zeros(2, len(meta.bands), self.side_px, self.side_px))
        self.mean, self.std = meta.mean, meta.std

    def forward(self, brightness: torch.Tensor) -> torch.Tensor:
        x = resampled(brightness, self.side_px)
        for band, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            x[:, band].sub_(mean).div_(std)
        views = dihedral(x, self.views)
        answers = [self.network(view.contiguous(memory_format=torch.channels_last)).float() for view in views]
        return (answers[0] if len(answers) == 1 else torch.stack(answers).mean(dim=0)) / self.temperature


def resampled(tiles: torch.Tensor, side_px: int) -> torch.Tensor:
    """Tiles (N, C, H, W) as (N, C, side, side), averaged where they shrink."""
    if tiles.shape[-1] == side_px and tiles.shape[-2] == side_px:
        return tiles
    return nn.functional.interpolate(tiles, size=(side_px, side_px), mode="bilinear", antialias=True)


def brightness_of(batch: Pixels, sensor: Sensor, device: torch.device) -> torch.Tensor:
    """(N, C, H, W) float32 brightness in 0–255 on the device; stored numbers travel there, not floats."""
    if batch.dtype not in (np.uint8, np.int16, np.uint16, np.float32):
        batch = batch.astype(np.float32)
    values = torch.from_numpy(batch).to(device).to(torch.float32)
    scale, offset = sensor.scale.affine()
    if batch.dtype == np.uint8 and (scale, offset) == (1.0, 0.0):
        return values
    return values.mul_(scale).add_(offset).clamp_(0, 255)


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
    """A bundle's network made ready for a device: convolutions fused with their normalisation, channels last.

    `sensor` is the scene's: its scaling turns stored numbers into brightness, on the device. On CUDA the network runs
    in half precision under autocast and gives float32 probabilities. With `tone` (of the bundle's bands) the network sees
    brightness through its curves; thumbnails show it as it is. A batch is halved, once, when memory runs out.
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
    ) -> None:
        self.device = device
        self.batch_size = batch_size or DEFAULT_BATCH[device.type]
        self.thumbnail_px = thumbnail_px
        meta = bundle.meta
        bands = len(meta.bands)
        self.answers = Answers(bundle)
        backbones.place(self.answers, device)
        self.forest = None
        if bundle.forest is not None:
            fit = {"inputs": meta.projection, "classes": len(meta.scheme)}
            self.forest = forest.load_forest(bundle.forest, "the bundle", **fit)
        self.temperature = meta.temperature
        self.sensor = sensor
        self.curves = None if tone is None else torch.from_numpy(tone.curves).to(device)
        names = list(meta.bands)
        rgb = [names.index(name) for name in ("red", "green", "blue") if name in names]
        self.rgb = rgb if len(rgb) == 3 else [min(k, bands - 1) for k in range(3)]
        self.classes = len(meta.scheme)
        keep_large_buffers()

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
                if self.curves is not None:
                    brightness = toned(brightness, self.curves)
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
        with torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
            answers = self.answers(brightness)
        if self.forest is not None:
            shares = forest.probabilities(self.forest, answers.float().cpu().numpy(), self.classes)
            answers = torch.from_numpy(shares).log() / self.temperature
        return np.asarray(torch.softmax(answers.float(), dim=1).cpu().numpy())


def keep_large_buffers() -> None:
    """Let glibc reuse large buffers instead of returning each to the system after every layer.

    A forward pass frees and takes the same tens of megabytes again and again; the page faults cost more than the
    arithmetic of a small network. Elsewhere than on glibc this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
        m_trim_threshold, m_mmap_threshold = -1, -3
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)
    except (OSError, AttributeError):
        return
