"""Random changes to training tiles that leave their land cover as it is: place, scale, light, haze and compression."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from ..views import as_jpeg

Augmentation = Literal["overhead", "sensor", "turns", "none"]
AUGMENTATIONS: tuple[str, ...] = get_args(Augmentation)

VEIL = 220.0
"""The grey that haze veils towards."""


@dataclass(frozen=True)
class Strength:
    """How far tiles are changed: zoom either way, gain of a band, exponent of brightness, share of haze, share as JPEG."""

    scale: float
    gain: float
    gamma: float
    haze: float
    jpeg: float


STRENGTHS = {
    "overhead": Strength(1.05, 0.02, 0.05, 0.03, 0.4),
    "sensor": Strength(1.25, 0.15, 0.25, 0.2, 0.25),
}


def augmented(brightness: torch.Tensor, kind: Augmentation, random: torch.Generator) -> torch.Tensor:
    """Tiles (N, C, H, W), brightness in 0–255, changed at random; `random` is a CPU generator.

    `turns` gives each tile one of the eight turns and mirrored turns; `overhead` besides zooms a little, moves by parts
    of a pixel, stores a share as JPEG, and changes light a little: a gain a band, a gamma, and haze. `sensor` does so as
    much as another sensor, season or day would, for models that must travel.
    """
    if kind == "none":
        return brightness
    if kind == "turns":
        return _placed(brightness, random, 1.0)
    strength, tiles = STRENGTHS[kind], brightness.clone()
    stored = torch.rand(len(tiles), generator=random) < strength.jpeg
    if stored.any():
        quality = int(torch.randint(40, 95, (1,), generator=random))
        tiles[stored] = as_jpeg(tiles[stored], quality).to(tiles.dtype)
    return _lit(_placed(tiles, random, strength.scale), strength, random)


def _placed(tiles: torch.Tensor, random: torch.Generator, scale: float) -> torch.Tensor:
    """Turned, mirrored, zoomed and moved, by one resampling; what comes in from outside is mirrored."""
    count, size = len(tiles), tiles.shape[-1]
    turn = torch.randint(4, (count,), generator=random) * (math.pi / 2)
    mirror = 1.0 - 2.0 * torch.randint(2, (count,), generator=random)
    if scale == 1.0:
        turned = [torch.rot90(tile, int(k), (1, 2)) for tile, k in zip(tiles, turn / (math.pi / 2) + 0.5, strict=True)]
        return torch.stack([tile.flip(2) if m < 0 else tile for tile, m in zip(turned, mirror, strict=True)])
    zoom = torch.exp((2 * torch.rand(count, generator=random) - 1) * math.log(scale))
    shift = (2 * torch.rand(count, 2, generator=random) - 1) * (2 / size)
    cosine, sine = torch.cos(turn) * zoom, torch.sin(turn) * zoom
    rows = [torch.stack([cosine * mirror, -sine, shift[:, 0]], 1), torch.stack([sine * mirror, cosine, shift[:, 1]], 1)]
    theta = torch.stack(rows, 1).to(tiles.device)
    grid = nn.functional.affine_grid(theta, list(tiles.shape), align_corners=False)
    return nn.functional.grid_sample(tiles, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _lit(tiles: torch.Tensor, strength: Strength, random: torch.Generator) -> torch.Tensor:
    count, bands = tiles.shape[:2]

    def draw(shape: tuple[int, ...], low: float, high: float) -> torch.Tensor:
        return (low + (high - low) * torch.rand(shape, generator=random)).to(tiles.device)

    gain = draw((count, bands, 1, 1), 1 - strength.gain, 1 + strength.gain)
    gamma = draw((count, 1, 1, 1), 1 - strength.gamma, 1 + strength.gamma)
    haze = draw((count, 1, 1, 1), 0, strength.haze) * (draw((count, 1, 1, 1), 0, 1) < 0.5)
    light = 255 * (tiles.clamp(0, 255) / 255) ** gamma * gain
    return (light * (1 - haze) + VEIL * haze).clamp(0, 255)
