"""From pixels to class probabilities: batches of tiles through a bundle's network on one device."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch

from . import backbones
from .bundle import Bundle
from .errors import UnfitError
from .labels import ByteArray, FloatArray
from .reader import Pixels
from .sensors import Sensor

DEFAULT_BATCH = {"cpu": 32, "cuda": 256}


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


class Predictor:
    """A bundle's network made ready for a device: convolutions fused with their normalisation, channels last.

    `sensor` is the scene's: its scaling turns stored numbers into brightness, on the device. On CUDA the network runs
    in half precision under autocast and gives float32 probabilities. A batch is halved, once, when memory runs out.
    """

    def __init__(
        self,
        bundle: Bundle,
        sensor: Sensor,
        *,
        device: torch.device,
        batch_size: int | None = None,
        thumbnail_px: int = 8,
    ) -> None:
        self.device = device
        self.batch_size = batch_size or DEFAULT_BATCH[device.type]
        self.thumbnail_px = thumbnail_px
        meta = bundle.meta
        bands = len(meta.bands)
        network = bundle.network()
        example = torch.zeros(2, bands, meta.size_px, meta.size_px)
        self.network = backbones.place(backbones.fuse(network, example), device)
        self.scale, self.offset = sensor.scale.affine()
        self.mean, self.std = meta.mean, meta.std
        self.temperature = meta.temperature
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
                brightness = self._brightness(np.stack(part))
                thumbnails[at : at + len(part)] = self._thumbnails(brightness)
                probabilities[at : at + len(part)] = self._probabilities(brightness)
            except torch.cuda.OutOfMemoryError:
                if self.batch_size == 1:
                    raise
                self.batch_size //= 2
                torch.cuda.empty_cache()
                continue
            at += len(part)
        return Prediction(probabilities, thumbnails, perf_counter() - start)

    def _brightness(self, batch: Pixels) -> torch.Tensor:
        """(N, C, H, W) float32 brightness in 0–255 on the device; stored numbers travel there, not floats."""
        if batch.dtype not in (np.uint8, np.int16, np.uint16, np.float32):
            batch = batch.astype(np.float32)
        values = torch.from_numpy(batch).to(self.device).to(torch.float32)
        if batch.dtype == np.uint8 and (self.scale, self.offset) == (1.0, 0.0):
            return values
        return values.mul_(self.scale).add_(self.offset).clamp_(0, 255)

    def _thumbnails(self, brightness: torch.Tensor) -> ByteArray:
        # Every step-th pixel will do for a picture this small, and costs a fraction.
        step = max(1, min(4, brightness.shape[-1] // (2 * self.thumbnail_px)))
        small = torch.nn.functional.adaptive_avg_pool2d(brightness[:, self.rgb, ::step, ::step], self.thumbnail_px)
        return np.asarray(small.round_().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())

    def _probabilities(self, brightness: torch.Tensor) -> FloatArray:
        for band in range(brightness.shape[1]):
            brightness[:, band].sub_(self.mean[band]).div_(self.std[band])
        x = brightness.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
            logits = self.network(x)
        return np.asarray(torch.softmax(logits.float() / self.temperature, dim=1).cpu().numpy())


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
