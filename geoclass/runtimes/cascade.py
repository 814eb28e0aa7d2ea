"""A quick network, which rounds or looks from few sides or both, and asks the exact one again about tiles it is unsure of.

Rounding, and leaving views out, changes a label only where two classes were close already. A tile whose margin between the
first two is smaller than what that does to margins is therefore classified again, in fp32 from all sides: a cascade of
a quick network and an exact one (Park et al. 2015, "Big/little deep neural network for ultra low power inference", whose
measure is the same margin).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from ..bundle import Bundle
from .answers import Images, Pending, combined, prepared_parts
from .openvino_cpu import OpenvinoRunner

COVERED = 0.95
"""The share of tiles whose margin the quick network changes by less than the margin below which fp32 is asked."""

QUICK_VIEWS = 2
"""Upright, and turned by a quarter. Of a county's labels these two alone leave 98.4 to 99.2 % as all four have them, a tile and
its half turn 97.3 to 98.1 %, one view 95.8 to 97.5 %."""


class Cascade:
    """A runner: answers of `quick`, and of `exact` for tiles whose first two classes are less than `margin` apart.

    margin: difference of logits divided by the temperature, the logarithm of the two probabilities' ratio; views: `quick`
    looks at the first so many of the bundle's, at all if 0. `quick` may be `exact`, which then looks twice.
    """

    runtime = "openvino"

    def __init__(self, quick: OpenvinoRunner, exact: OpenvinoRunner, margin: float, views: int = 0) -> None:
        self.quick, self.exact, self.margin = quick, exact, margin
        self.precision = quick.precision
        self.bundle = quick.bundle
        self.views = views or quick.bundle.meta.views
        self.tiles = self.asked_again = 0

    def __call__(self, brightness: torch.Tensor) -> torch.Tensor:
        return self.begin([brightness])()

    @torch.inference_mode()
    def begin(self, brightness: Iterable[torch.Tensor]) -> Pending:
        """Give `quick` a batch, see `AheadRunner`; `exact` is asked when the answers are."""
        images = prepared_parts(brightness, self.bundle.meta)
        quick = self.quick.begin_images(images, self.views)

        def answers() -> torch.Tensor:
            found = combined(quick(), self.bundle, self.views)
            unsure = first_two(found)[0] < self.margin
            self.tiles += len(images)
            self.asked_again += int(unsure.sum())
            if unsure.any():
                found[unsure] = answers_of(self.exact, images[unsure.numpy()])
            return found

        return answers

    @property
    def share_asked_again(self) -> float:
        """Of all tiles so far, the share that both networks looked at."""
        return self.asked_again / max(1, self.tiles)


def numbers_of_views(bundle: Bundle) -> list[int]:
    """How many of the bundle's views a quick network may look at, the quickest first. One whose answers a forest reads has
    no margin to tell by whether it is sure, and looks at all."""
    every = bundle.meta.views
    return [QUICK_VIEWS, every] if every > QUICK_VIEWS and bundle.forest is None else [every]


def margin_for(quick: OpenvinoRunner, right: torch.Tensor, images: Images, views: int = 0) -> float:
    """The margin, see `Cascade`, by less than which `quick` with so many views moves the first two classes of COVERED of
    the prepared images (N, C, side, side) towards or away from each other.

    right: what the exact network answers to them, from all sides (N, K). 0 where answers are no logits, but what a forest
    reads. The images may be turned: it is much the same whichever two sides are seen first.
    """
    if quick.bundle.forest is not None:
        return 0.0
    margins, pairs = first_two(answers_of(quick, images, views))
    pair = right.gather(1, pairs)
    return float(np.quantile((margins - (pair[:, 0] - pair[:, 1])).abs().numpy(), COVERED))


def first_two(answers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of logits (N, K ≥ 2): how far the first is above the second (N,), and which these are (N, 2)."""
    found = answers.topk(2, dim=1)
    return found.values[:, 0] - found.values[:, 1], found.indices


def answers_of(runner: OpenvinoRunner, images: Images, views: int = 0) -> torch.Tensor:
    """A runner's answers (N, K) to prepared images (N, C, side, side), from the first `views` sides, all if 0."""
    return combined(runner.begin_images(images, views)(), runner.bundle, views)
