"""How pixels come to a device and answers back, while the device computes.

All that only CUDA has stands in `Lane`: a stream beside the computing one, pinned memory, events. On a CPU a lane hands
on what it is given, so that both go one road.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..reader import Pixels

KNOWN = (np.uint8, np.int16, np.uint16, np.float32)
"""Stored types that are scaled on the device as they are; others become float32 before."""


class Lane:
    """One device, and on CUDA the stream on which pixels travel to it while it computes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.side = stream_on(device) if device.type == "cuda" else None

    def send(self, pixels: Pixels) -> torch.Tensor:
        """Pixels of any shape on the device. What is computed from now on waits for them there; the caller does not.

        On a CPU, and until they have travelled, the memory is the caller's.
        """
        stored = as_tensor(pixels)
        if self.side is None:
            return stored
        with torch.cuda.stream(self.side):
            there = stored.contiguous().pin_memory().to(self.device, non_blocking=True)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self.side)
        there.record_stream(computing)  # the memory was taken on one stream, and is used on another
        return there

    def fetch(self, found: torch.Tensor) -> torch.Tensor:
        """What was found, on its way to the CPU; it is there once what `mark` then gives has been waited for."""
        return found.to("cpu", non_blocking=True)  # from CUDA into pinned memory, which torch takes for it

    def mark(self) -> torch.cuda.Event | None:
        """The place that the device's work has been queued up to; None where all of it is done by now."""
        return None if self.side is None else torch.cuda.current_stream(self.device).record_event()


def devices_of(device: torch.device) -> list[torch.device]:
    """The devices that a run on `device` is spread over: all that are visible for `cuda`, else the one that is named."""
    if device.type != "cuda" or device.index is not None:
        return [device]
    return [torch.device("cuda", number) for number in range(torch.cuda.device_count())]


def as_tensor(pixels: Pixels) -> torch.Tensor:
    """Stored numbers as a tensor on the CPU, in the same memory where it may be written to and PyTorch knows the type."""
    if pixels.dtype not in KNOWN:
        pixels = pixels.astype(np.float32)
    return torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())


def stacked(tiles: Sequence[torch.Tensor]) -> torch.Tensor:
    """N tiles (C, H, W) as (N, C, H, W)."""
    if tiles[0].dtype != torch.uint16:
        return torch.stack(list(tiles))
    # PyTorch has few kernels for uint16, and all for int16, which are the same bytes.
    return torch.stack([tile.view(torch.int16) for tile in tiles]).view(torch.uint16)


def stream_on(device: torch.device) -> torch.cuda.Stream:
    """A new stream of a CUDA device."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch says no types for it
