"""Networks whose classifier also reads what earlier stages saw: textures beside the objects of the last stage.

The last features of a network trained on photographs say what things there are. Land is told by texture and colour as
much, which earlier stages still hold: of those at an 8th and a 16th of the input's side, the mean and the deviation of each
channel over the tile stand beside the last features (statistics pooling: Snyder et al. 2018, "X-vectors", ICASSP; of
convolutional layers: Karras et al. 2019, StyleGAN, and Huang & Belongie 2017, "Arbitrary style transfer"). Means and
deviations over hundreds of places hardly move when a file is stored or resampled anew.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from .errors import BundleError

SUFFIX = "+stages"
"""What follows the name of a backbone whose classifier reads earlier stages, too."""

INNER = "network."
"""What the names of the backbone's own tensors begin with in such a network."""

REDUCTIONS = (8, 16)
LEAST_VARIANCE = 1e-4
"""Added to variances: the deviation of a channel that hardly varies would otherwise tell rounding from rounding."""


def plain(name: str) -> str:
    """The backbone's name without the suffix."""
    return name.removesuffix(SUFFIX)


def inner_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
    """The backbone's own tensors, without any classifier, of a state that is a `Stages` network's; None for any other."""
    others = {name for name in state if not name.startswith(INNER)}
    if others != {"classifier.weight", "classifier.bias"}:
        return None
    return {name.removeprefix(INNER): tensor for name, tensor in state.items() if name not in others}


class Stages(nn.Module):
    """One of timm's networks, (N, bands, H, W) → (N, classes): see the module.

    `network` loses its own classifier. Raises BundleError where it has no such stages.
    """

    def __init__(self, network: nn.Module, name: str, classes: int) -> None:
        super().__init__()
        stages = list(enumerate(getattr(network, "feature_info", [])))
        chosen = [(at, stage) for at, stage in stages if stage["reduction"] in REDUCTIONS]
        if len(chosen) != len(REDUCTIONS) or not hasattr(network, "forward_intermediates"):
            raise BundleError(f"{name} has no stages at an 8th and a 16th of a tile's side; leave {SUFFIX} out")
        network.reset_classifier(0)  # type: ignore[operator]  # every network of timm has it
        self.network = network
        self.at = [at for at, _ in chosen]
        width = int(network.head_hidden_size) + 2 * sum(stage["num_chs"] for _, stage in chosen)  # type: ignore[arg-type]  # a number, in all of timm's
        self.classifier = nn.Linear(width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        last, stages = self.network.forward_intermediates(images, indices=self.at)  # type: ignore[operator]  # timm's
        found = [self.network.forward_head(last, pre_logits=True)]  # type: ignore[operator]  # likewise
        for stage in stages:
            mean = stage.mean(dim=(2, 3), keepdim=True)
            variance = (stage - mean).square().mean(dim=(2, 3))
            found += [mean.flatten(1), (variance + LEAST_VARIANCE).sqrt()]
        answers: torch.Tensor = self.classifier(torch.cat(found, dim=1))
        return answers
