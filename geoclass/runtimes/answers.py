"""A bundle's whole way from brightness to answers, and its own runtime, PyTorch."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from .. import backbones
from ..bundle import Bundle, BundleMeta
from ..views import dihedral
from .shrinking import resampled

Images = npt.NDArray[np.float32]

IMAGES_AT_ONCE = 4
"""Images in one request to a runtime that has a thread a request: little enough to stay in a core's cache."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Names of glibc's malloc.h."""

AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Runner(Protocol):
    """A bundle's network made ready: brightness (N, bands, H, W) in 0–255 on the runner's device → answers.

    Brightness is float32; on a CPU also uint8, where stored numbers are brightness as they are. It may be overwritten. The
    answers (N, K) are float32 logits divided by the bundle's temperature, or (N, P) what its forest reads; averaged over
    its views. In fp32 all runners agree within 1e-4.
    """

    runtime: str
    precision: str

    def __call__(self, brightness: torch.Tensor) -> torch.Tensor: ...


Pending = Callable[[], torch.Tensor]
"""Answers (N, K) that are on their way: to call it is to wait for them."""


@runtime_checkable
class AheadRunner(Runner, Protocol):
    """A runner that computes in threads of its own, while its caller makes the next batch ready."""

    def begin(self, brightness: Iterable[torch.Tensor]) -> Pending:
        """Give it a batch in parts, so that its float32 pixels need not all be there; it returns once only what can wait
        for the runner's threads is left to do."""
        ...


class Answers(nn.Module):
    """A bundle's whole way from brightness to answers, as one network; see `Runner`.

    Tiles are resampled to the network's input side, normalised in place (the brightness given is overwritten: a copy
    would cost as much as a layer), and answers averaged over the bundle's views.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.meta = bundle.meta
        side = input_side(self.meta)
        self.temperature = temperature(bundle)
        self.network = backbones.fuse(bundle.network(), torch.zeros(2, len(self.meta.bands), side, side))

    def forward(self, brightness: torch.Tensor) -> torch.Tensor:
        views = dihedral(prepared(brightness, self.meta), self.meta.views)
        answers = [self.network(view.contiguous(memory_format=torch.channels_last)).float() for view in views]
        return (answers[0] if len(answers) == 1 else torch.stack(answers).mean(dim=0)) / self.temperature


class TorchRunner:
    """PyTorch on any device. fp16 and bf16 run under autocast."""

    runtime = "torch"

    def __init__(self, bundle: Bundle, device: torch.device, precision: str = "fp32") -> None:
        self.precision = precision
        self.device = device
        self.answers = Answers(bundle)
        backbones.place(self.answers, device)
        keep_large_buffers()

    @torch.inference_mode()
    def __call__(self, brightness: torch.Tensor) -> torch.Tensor:
        dtype = AUTOCAST.get(self.precision)
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            answers: torch.Tensor = self.answers(brightness)
        return answers.float()


def input_side(meta: BundleMeta) -> int:
    """The side in pixels that the network sees tiles at."""
    return meta.input_px or meta.size_px


def temperature(bundle: Bundle) -> float:
    """What logits are divided by; 1 where a forest reads the answers."""
    return 1.0 if bundle.forest is not None else bundle.meta.temperature


def prepared_parts(brightness: Iterable[torch.Tensor], meta: BundleMeta) -> Images:
    """Parts of a batch `prepared`, together: (N, C, side, side)."""
    return torch.cat([prepared(part, meta) for part in brightness]).numpy()


def prepared(brightness: torch.Tensor, meta: BundleMeta) -> torch.Tensor:
    """Brightness (N, C, H, W) resampled to the network's side and normalised in place: (N, C, side, side)."""
    images = resampled(brightness, input_side(meta))
    for band, (mean, std) in enumerate(zip(meta.mean, meta.std, strict=True)):
        images[:, band].sub_(mean).div_(std)
    return images


def requests(images: Images, views: int) -> Iterator[tuple[slice, Images]]:
    """Every view of prepared images (N, C, side, side), tile after tile, IMAGES_AT_ONCE together.

    Yields their places among all N × views, and an array (IMAGES_AT_ONCE, C, side, side), the last filled up with zeros.
    """
    for places in request_places(len(images) * views):
        batch = np.zeros((IMAGES_AT_ONCE, *images.shape[1:]), np.float32)
        fill_request(batch, images, views, places)
        yield places, batch


def request_places(total: int) -> Iterator[slice]:
    """The places of `total` views, IMAGES_AT_ONCE together."""
    for start in range(0, total, IMAGES_AT_ONCE):
        yield slice(start, min(total, start + IMAGES_AT_ONCE))


def fill_request(batch: Images, images: Images, views: int, places: slice) -> None:
    """Put the views at these places, of prepared images (N, C, side, side), into the first of a request's."""
    for at, number in enumerate(range(places.start, places.stop)):
        batch[at] = viewed(images[number // views], number % views)


def viewed(image: Images, view: int) -> Images:
    """One of `views.dihedral` of an image (C, H, W), without copying."""
    turned = np.rot90(image, view % 4, (1, 2))
    return turned if view < 4 else turned[:, :, ::-1]


def combined(found: Images, bundle: Bundle, views: int = 0) -> torch.Tensor:
    """Answers to N × views images, (N × views, K), averaged over views (all of the bundle's if 0) and divided by the
    temperature: (N, K)."""
    views = views or bundle.meta.views
    return torch.from_numpy(found.reshape(-1, views, found.shape[1]).mean(axis=1) / np.float32(temperature(bundle)))


def noise(meta: BundleMeta) -> torch.Tensor:
    """IMAGES_AT_ONCE normalised images (C, side, side) of noise, always the same: to trace and to check a network with."""
    side = input_side(meta)
    random = torch.Generator().manual_seed(0)
    return torch.randn(IMAGES_AT_ONCE, len(meta.bands), side, side, generator=random)


def keep_large_buffers() -> None:
    """Let glibc reuse large buffers instead of returning each to the system after every layer.

    A forward pass frees and takes the same tens of megabytes again and again; the page faults cost more than the
    arithmetic of a small network. Elsewhere than on glibc this does nothing.
    """
    _tell_malloc({M_MMAP_THRESHOLD: 1 << 30, M_TRIM_THRESHOLD: (1 << 31) - 1})


def usual_buffers() -> None:
    """Undo `keep_large_buffers`, for a network that works in its own memory: what is kept piecemeal beside it came to 200 MB.

    The pixels of a block go back to the system once they are free. Under glibc's own bound, which moves up to
    32 MB (mallopt(3)), the gaps they leave came to another 100 MB. Elsewhere than on glibc this does nothing.
    """
    _tell_malloc({M_MMAP_THRESHOLD: 8 << 20, M_TRIM_THRESHOLD: 64 << 20})


def share_arenas() -> None:
    """Let glibc's threads share two arenas. Call it before threads are started.

    Each thread that finds the others' arenas in use gets one of its own, up to eight a core, and each keeps what its
    threads have freed. Ours take few and large pieces, so that they hardly wait for each other: a run with int8 holds
    100 MB less. Elsewhere than on glibc this does nothing.
    """
    _tell_malloc({M_ARENA_MAX: 2})


def give_back() -> None:
    """Return to the system what is no longer used: measuring and calibrating leave 50 MB and more, PyTorch's tracer rings of
    objects besides. See `trim`."""
    gc.collect()
    trim()


def trim() -> None:
    """Return to the system what glibc has kept of freed memory. Elsewhere than on glibc this does nothing."""
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def _tell_malloc(settings: Mapping[int, int]) -> None:
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for name, value in settings.items():
            libc.mallopt(name, value)
