"""A frozen backbone made ready to give the features of pictures."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from .. import backbones
from ..datasets.pictures import Picture
from ..errors import GeoclassError
from ..predict import brightness_of
from ..runtimes.answers import keep_large_buffers
from ..runtimes.shrinking import resampled
from ..sensors import Sensor
from ..views import VIEWS, views_of

log = logging.getLogger(__name__)

Halves = npt.NDArray[np.float16]


class FrozenNetwork:
    """Pictures (n, bands, H, W) in stored numbers of `sensor` → features (n, VIEWS, F), one for each of `views_of`.

    `frozen` gives features (see `backbones.feature_network`) of pictures resampled to `side`. Once GPU memory ran out,
    half a batch goes together. Raises GeoclassError where memory does not suffice for that either.
    """

    def __init__(
        self,
        frozen: nn.Module,
        norm: backbones.Normalisation,
        sensor: Sensor,
        *,
        side: int,
        device: torch.device,
        batch_size: int,
    ) -> None:
        keep_large_buffers()
        self.network = backbones.place(backbones.fuse(frozen, torch.zeros(2, len(norm.mean), side, side)), device)
        self.mean = torch.tensor(norm.mean, device=device).view(1, -1, 1, 1)
        self.std = torch.tensor(norm.std, device=device).view(1, -1, 1, 1)
        self.sensor, self.side, self.device = sensor, side, device
        self.batch_size = self.at_once = batch_size

    @torch.no_grad()
    def __call__(self, pictures: Picture) -> Halves:
        try:
            starts = range(0, len(pictures), self.at_once)
            return np.concatenate([self._features(pictures[start : start + self.at_once]) for start in starts])
        except torch.cuda.OutOfMemoryError as error:
            if self.at_once < self.batch_size or self.at_once == 1:
                raise GeoclassError(
                    f"out of GPU memory at a batch of {self.at_once}; lower --input-size, or use --device cpu"
                ) from error
        torch.cuda.empty_cache()
        self.at_once //= 2
        log.warning("out of GPU memory: going on with a batch of %d", self.at_once)
        return self(pictures)

    def _features(self, pictures: Picture) -> Halves:
        made = []
        for view in views_of(brightness_of(pictures, self.sensor, self.device)):
            x = (resampled(view.float(), self.side) - self.mean) / self.std
            made.append(self.network(x.contiguous(memory_format=torch.channels_last)))
        assert len(made) == VIEWS
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and training refuses it
            return np.asarray(torch.stack(made, dim=1).float().cpu().numpy(), np.float16)
