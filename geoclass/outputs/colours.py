"""Colours that readers with a colour-vision deficiency can tell apart, and a measure of whether given ones are such."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..schemes import ClassScheme

# Sixteen colours found by a search for the largest smallest distance in OKLab, seen with normal vision and through
# each of VISIONS, around five that were kept for their meaning (woods, water, crops, built-up, grass): no two come
# nearer than 10, 8 for the rare tritan vision.
SAFE = (
    "#08452b", "#479df5", "#fcd036", "#d2440f", "#caf0ac", "#778888", "#771199", "#55ccff",
    "#ff7700", "#440066", "#4466ee", "#aacc99", "#555566", "#00ffff", "#8855aa", "#99aaaa",
)  # fmt: skip
TOO_NEAR = 5.0
"""OKLab distance (×100) under which two legend colours are hard to tell apart."""

# Machado, Oliveira & Fernandes 2009, "A Physiologically-based Model for Simulation of Color Vision Deficiency",
# IEEE TVCG 15(6), severity 1.0, on linear RGB: normal, protan, deutan, tritan vision.
VISIONS = np.array(
    [
        np.eye(3),
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ]
)
# Ottosson 2020, "A perceptual color space for image processing" (OKLab): linear RGB to cones, cube root, to Lab.
_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)

Doubles = npt.NDArray[np.float64]


def reader_colours(scheme: ClassScheme) -> tuple[str, ...]:
    """A colour for each class that colour-blind readers can tell from the others.

    The scheme's own where they already are far enough apart, or where there are more classes than SAFE has
    colours; otherwise each class gets one of SAFE, near to its own. The same scheme always gets the same.
    """
    own = tuple(item.colour for item in scheme.classes)
    if len(own) > len(SAFE) or nearest_pair(own) >= TOO_NEAR:
        return own
    cost = np.zeros((len(SAFE), len(SAFE)))  # rows past the classes are the colours nobody takes, at no cost
    # Lightness counts half: a reader looks for water among the blues, light or dark.
    cost[: len(own)] = np.linalg.norm((_oklab(own)[0][:, None] - _oklab(SAFE)[0][None]) * (0.5, 1, 1), axis=2)
    chosen = list(range(len(SAFE)))
    improved = True
    while improved:  # exchange two colours for as long as that brings classes nearer to their own
        improved = False
        for a in range(len(SAFE)):
            for b in range(a):
                gain = cost[a, chosen[a]] + cost[b, chosen[b]] - cost[a, chosen[b]] - cost[b, chosen[a]]
                if gain > 1e-9:
                    chosen[a], chosen[b], improved = chosen[b], chosen[a], True
    return tuple(SAFE[k] for k in chosen[: len(own)])


def nearest_pair(colours: tuple[str, ...]) -> float:
    """Smallest OKLab distance (×100) between two of `colours` in normal, protan, deutan and tritan vision."""
    lab = _oklab(colours)
    gap = np.linalg.norm(lab[:, :, None] - lab[:, None], axis=3)
    first, second = np.triu_indices(len(colours), 1)
    return float(gap[:, first, second].min())


def _oklab(colours: tuple[str, ...]) -> Doubles:
    """(visions, colours, 3) OKLab ×100 of `colours` (#rrggbb) as each of VISIONS sees them."""
    stored = np.array([list(bytes.fromhex(colour[1:])) for colour in colours]) / 255
    linear = np.where(stored <= 0.04045, stored / 12.92, ((stored + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.einsum("vij,cj->vci", VISIONS, linear), 0, 1)
    lab: Doubles = 100 * np.cbrt(seen @ _TO_CONES.T) @ _TO_LAB.T
    return lab
