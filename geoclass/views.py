"""Renderings of a tile that show the same ground: what differs between them is not land cover."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import nn

VIEWS = 8
TURNS = 4
"""The first TURNS of the views are turned by quarter circles; the first of all is the tile as it is."""
COPIED = (0, 1, 0, 0)
"""Of each of the other views the turn that it is a copy of."""


def views_of(brightness: torch.Tensor) -> list[torch.Tensor]:
    """VIEWS renderings of each tile (N, C, H, W), brightness in 0–255, each of the same shape.

    Turned by 0, 90, 180 and 270 degrees, since from above there is no upright; moved by half a pixel either way, as any
    resampling may; stored as JPEG of quality 75, as imagery often is; and through pixels of another shape, as when
    imagery comes in degrees.
    """
    turned = [torch.rot90(brightness, turn, (2, 3)) for turn in range(TURNS)]
    copies: list[Callable[[torch.Tensor], torch.Tensor]] = [moved, moved, as_jpeg, reshaped]
    return [*turned, *(copy(turned[turn]) for copy, turn in zip(copies, COPIED, strict=True))]


def dihedral(tiles: torch.Tensor, count: int) -> list[torch.Tensor]:
    """The first `count` of the eight turns and mirrored turns of tiles (N, C, H, W), the tile as it is among them."""
    turned = [torch.rot90(tiles, turn, (2, 3)) for turn in range(min(count, TURNS))]
    return [*turned, *(view.flip(3) for view in turned[: max(0, count - TURNS)])]


def moved(brightness: torch.Tensor) -> torch.Tensor:
    """Moved by half a pixel down and right."""
    padded = nn.functional.pad(brightness.float(), (0, 1, 0, 1), mode="replicate")
    return nn.functional.avg_pool2d(padded, 2, 1)


def as_jpeg(brightness: torch.Tensor, quality: int = 75) -> torch.Tensor:
    """Through a JPEG file, as colour where there are three bands, else band by band."""
    tiles = brightness.round().clamp(0, 255).to(torch.uint8).cpu()
    pictures = tiles if tiles.shape[1] == 3 else tiles.flatten(0, 1).unsqueeze(1)
    stored = np.stack([_jpeg(picture.permute(1, 2, 0).squeeze(2).numpy(), quality) for picture in pictures])
    back = torch.from_numpy(stored)
    back = back.permute(0, 3, 1, 2) if back.ndim == 4 else back
    return back.reshape(tiles.shape).to(brightness.device)


def _jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as image:
        return np.array(image)


def reshaped(brightness: torch.Tensor, across: float = 0.84, down: float = 1.13) -> torch.Tensor:
    """Through pixels `across` × `down` times as large, which is what 1 m pixels are in degrees at 42° north."""
    high, wide = brightness.shape[-2:]
    size = (max(1, round(high / down)), max(1, round(wide / across)))
    between = nn.functional.interpolate(brightness.float(), size=size, mode="bilinear")
    return nn.functional.interpolate(between, size=(high, wide), mode="bilinear")
