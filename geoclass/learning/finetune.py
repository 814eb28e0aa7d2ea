"""Fine-tune a network on labelled tiles: augmentation, a warm-up and cosine schedule, averaged weights, early stopping."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from .. import backbones
from ..datasets.pictures import Picture
from ..datasets.tileset import TileSet
from ..errors import BundleError, GeoclassError
from ..files import replacing
from ..predict import brightness_of
from ..runtimes.answers import keep_large_buffers
from ..runtimes.shrinking import resampled
from ..stages import INNER, Stages
from .augment import Augmentation, augmented
from .heads import NEVER, start_layer

Progress = Callable[[str, int, int], None]
Epoch = dict[str, float]
"""What is known after an epoch: epoch, loss, accuracy (training), validation_loss, validation_accuracy, learning_rate."""

KEPT_BYTES = 1 << 30
"""Pictures up to this are kept in memory between epochs."""
AT_ONCE = 64
HEAD_RATE = 2.0
WARM_UP = 0.1
CLIP = 5.0
SPARING = "lower --batch-size or --input-size, or use --device cpu"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """How a network is fine-tuned. `layers` "last" trains the last stage and the classifier only.

    layer_decay: factor of the learning rate from each stage to the one before it (Howard & Ruder 2018, discriminative
    fine-tuning); mixup: α of Beta(α, α) (Zhang et al. 2018), 0 for none; consistency:
    weight of the divergence between the answers to a tile that was only turned and to the same tile augmented (after
    R-Drop, Liang et al. 2021), 0 for the augmented one alone at half the time; ema: weight of the past in the averaged weights
    that are kept, 0 for none; patience: epochs without a better validation loss before stopping, 0 for never.
    """

    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 5e-4
    weight_decay: float = 0.02
    layers: Literal["all", "last"] = "all"
    layer_decay: float = 0.95
    dropout: float = 0.0
    smoothing: float = 0.0
    mixup: float = 0.0
    consistency: float = 2.0
    augmentation: Augmentation = "overhead"
    ema: float = 0.99
    patience: int = 4

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or not self.learning_rate > 0:
            raise GeoclassError("--epochs and --batch-size must be 1 or more, --learning-rate above 0")
        if not (0 <= self.smoothing < 1 and 0 <= self.dropout < 1 and 0 <= self.ema < 1):
            raise GeoclassError("--label-smoothing, --dropout and --ema must be 0 or more, below 1")
        amounts = (self.mixup, self.weight_decay, self.patience, self.consistency)
        if not (all(amount >= 0 for amount in amounts) and 0 < self.layer_decay <= 1):
            raise GeoclassError(
                "--mixup, --weight-decay, --patience and --consistency must be 0 or more, --layer-decay above 0, up to 1"
            )


@dataclass(frozen=True)
class Tuned:
    """The best state of a fine-tuned network, its (M, K) logits on the M validation tiles, and how it got there."""

    state: dict[str, torch.Tensor]
    logits: npt.NDArray[np.float32]
    history: tuple[Epoch, ...]
    note: str = ""


def finetune(
    network: nn.Module,
    train: TileSet,
    validation: TileSet,
    norm: backbones.Normalisation,
    recipe: Recipe,
    *,
    input_px: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    checkpoint: Path | None = None,
    identity: str = "",
    progress: Progress | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Tuned:
    """Train `network` (brightness normalised by `norm` → logits) on `train`, judged on `validation` after every epoch.

    With `checkpoint` an interrupted training continues after its last whole epoch, if `identity` (of data and options)
    is the same. The same seed gives the same result on a CPU. Where the loss stops being a number the best state so far
    is kept and `note` says so; GeoclassError is raised where there is none yet.
    """
    keep_large_buffers()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            run = _Run(network, train, validation, norm, recipe, input_px or train.size_px, seed, torch.device(device))
            run.resume(checkpoint, identity)
            while run.epoch < recipe.epochs and not run.done():
                try:
                    record = run.one_epoch(progress)
                except _NotANumberError:
                    return run.stopped_by_nan()
                except torch.cuda.OutOfMemoryError:
                    run.halve_batch()
                    continue
                if on_epoch:
                    on_epoch(record)
                run.save(checkpoint, identity)
            return run.tuned()
        except torch.cuda.OutOfMemoryError as error:
            raise GeoclassError(f"out of GPU memory; {SPARING}") from error
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise GeoclassError(
                "a batch of one tile is too small to normalise by; give --batch-size 2 or more"
            ) from error


class _NotANumberError(Exception):
    pass


class _Run:
    """A training under way."""

    def __init__(
        self, network: nn.Module, train: TileSet, validation: TileSet, norm: backbones.Normalisation, recipe: Recipe,
        side: int, seed: int, device: torch.device,
    ) -> None:  # fmt: skip
        self.train, self.validation, self.recipe, self.side, self.device = train, validation, recipe, side, device
        self.seed, self.batch_size = seed, recipe.batch_size
        self.network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        _set_dropout(self.network, recipe.dropout)
        self.mean = torch.tensor(norm.mean, device=device).view(1, -1, 1, 1)
        self.std = torch.tensor(norm.std, device=device).view(1, -1, 1, 1)
        self.optimiser = torch.optim.AdamW(_parameter_groups(self.network, recipe))
        self.base_rates = [group["lr"] for group in self.optimiser.param_groups]
        self.scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
        self.epoch, self.step = 0, 0
        self.history: list[Epoch] = []
        self.best: dict[str, torch.Tensor] | None = None
        self.best_loss = math.inf
        self.pictures = _Pictures(train)
        self.held = _Pictures(validation)
        weights = train.class_weights
        self.class_weights = None if weights is None else torch.tensor(weights, dtype=torch.float32, device=device)
        self.targets = _targets(train)
        self._start_head()
        self.average = copy.deepcopy(self.network).eval()

    def _start_head(self) -> None:
        """Begin with the classifier that suits the features as they are.

        From a random one, the first steps would spoil the features (Kumar et al. 2022, ICLR, "Fine-tuning can distort
        pretrained features and underperform out-of-distribution").
        """
        features = self._forward(backbones.feature_network(self.network), self.pictures)
        weight, bias = start_layer(features, self.train.classes, len(self.train.scheme))
        backbones.set_classifier(self.network, torch.from_numpy(weight), torch.from_numpy(bias))

    @property
    def steps(self) -> int:
        return max(1, len(self.train) // self.batch_size)

    def done(self) -> bool:
        losses = [record["validation_loss"] for record in self.history]
        patience = self.recipe.patience
        return bool(patience and losses and len(losses) - 1 - int(np.argmin(losses)) >= patience)

    def one_epoch(self, progress: Progress | None) -> Epoch:
        random = np.random.default_rng([self.seed, self.epoch])
        draws = torch.Generator().manual_seed(int(random.integers(2**62)))
        torch.manual_seed(int(random.integers(2**62)))
        order = random.permutation(len(self.train))
        self.network.train()
        _freeze(self.network, self.recipe)
        total, right, seen = 0.0, 0, 0
        for k in range(self.steps):
            at = order[k * self.batch_size : (k + 1) * self.batch_size]
            loss, hits = self._one_step(at, random, draws)
            total, right, seen = total + loss * len(at), right + hits, seen + len(at)
            if progress:
                progress("training", self.epoch * self.steps + k + 1, self.recipe.epochs * self.steps)
        if not all(bool(tensor.isfinite().all()) for tensor in self.average.parameters()):
            raise _NotANumberError  # the last step broke them, and no loss has told yet
        logits = self.answers(self.average)
        loss = _log_loss(logits, self.validation.classes)
        if not math.isfinite(loss):
            raise _NotANumberError
        self.epoch += 1
        record = {
            "epoch": float(self.epoch),
            "loss": total / seen,
            "accuracy": right / seen,
            "validation_loss": loss,
            "validation_accuracy": float((logits.argmax(axis=1) == self.validation.classes).mean()),
            "learning_rate": float(self.optimiser.param_groups[-1]["lr"]),
        }
        self.history.append(record)
        if loss < self.best_loss:
            self.best_loss = loss
            self.best = {name: tensor.cpu().clone() for name, tensor in self.average.state_dict().items()}
        return record

    def _one_step(
        self, at: npt.NDArray[np.intp], random: np.random.Generator, draws: torch.Generator
    ) -> tuple[float, int]:
        self._set_rate()
        plain, twice = self._brightness(self.pictures, at), self.recipe.consistency > 0
        renderings = [augmented(plain, self.recipe.augmentation, draws)]
        if twice:
            renderings.append(augmented(plain, "turns", draws))
        targets = self.targets[at].to(self.device)
        if self.recipe.mixup > 0:
            share = float(random.beta(self.recipe.mixup, self.recipe.mixup))
            renderings = [share * tiles + (1 - share) * tiles.flip(0) for tiles in renderings]
            targets = share * targets + (1 - share) * targets.flip(0)
        with torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
            answers = self.network(self._normalised(torch.cat(renderings))).float()
            loss = nn.functional.cross_entropy(
                answers,
                targets.repeat(len(renderings), 1),
                weight=self.class_weights,
                label_smoothing=self.recipe.smoothing,
            )
            logits = answers[: len(at)]
            if twice:
                loss = loss + self.recipe.consistency * _divergence(logits, answers[len(at) :])
        if not torch.isfinite(loss):
            raise _NotANumberError
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.unscale_(self.optimiser)
        nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.step += 1
        self._average()
        return float(loss.detach()), int((logits.argmax(dim=1) == targets.argmax(dim=1)).sum())

    def _set_rate(self) -> None:
        """Linear warm-up, then half a cosine to zero (Loshchilov & Hutter 2017, SGDR without restarts)."""
        whole = self.recipe.epochs * self.steps
        warm = max(1, round(WARM_UP * whole))
        done = (self.step - warm) / max(1, whole - warm)
        factor = (self.step + 1) / warm if self.step < warm else 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        for group, rate in zip(self.optimiser.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor

    @torch.no_grad()
    def _average(self) -> None:
        keep = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        for past, now in zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True):
            if past.dtype.is_floating_point:
                past.lerp_(now, 1 - keep)
            else:
                past.copy_(now)

    def answers(self, network: nn.Module) -> npt.NDArray[np.float32]:
        """(M, K) logits of the validation tiles."""
        return self._forward(network, self.held)

    @torch.no_grad()
    def _forward(self, network: nn.Module, pictures: _Pictures) -> npt.NDArray[np.float32]:
        """(n, …) what the network says of pictures as they are."""
        example = torch.zeros(2, len(self.train.bands), self.side, self.side, device=self.device)
        ready = backbones.place(backbones.fuse(network, example), self.device)
        size = min(AT_ONCE, 2 * self.batch_size)
        batches = [np.arange(start, min(len(pictures), start + size)) for start in range(0, len(pictures), size)]
        found = [ready(self._normalised(self._brightness(pictures, at))).float().cpu() for at in batches]
        return np.asarray(torch.cat(found).numpy())

    def _brightness(self, pictures: _Pictures, at: npt.NDArray[np.intp]) -> torch.Tensor:
        return brightness_of(pictures.read(at), self.train.sensor, self.device)

    def _normalised(self, brightness: torch.Tensor) -> torch.Tensor:
        x = (resampled(brightness, self.side) - self.mean) / self.std
        return x.contiguous(memory_format=torch.channels_last)

    def halve_batch(self) -> None:
        """Half the batch from here on, once. Raises GeoclassError the second time."""
        if self.batch_size < self.recipe.batch_size or self.batch_size == 1:
            raise GeoclassError(f"out of GPU memory at a batch of {self.batch_size}; {SPARING}")
        self.batch_size //= 2
        self.step = self.epoch * self.steps
        torch.cuda.empty_cache()
        log.warning("out of GPU memory: going on with a batch of %d", self.batch_size)

    def stopped_by_nan(self) -> Tuned:
        remedy = "lower --learning-rate, or check the labels"
        if self.best is None:
            raise GeoclassError(f"the loss became NaN in epoch {self.epoch + 1}; nothing could be kept; {remedy}")
        note = f"the loss became NaN in epoch {self.epoch + 1}; the best state before it is kept; {remedy}"
        log.warning(note)
        return self.tuned(note)

    def tuned(self, note: str = "") -> Tuned:
        assert self.best is not None
        self._forbid_unseen(self.best)
        self.average.load_state_dict(self.best)
        if self.batch_size < self.recipe.batch_size:
            note = f"GPU memory ran out, and the batch was halved to {self.batch_size}; {note}".removesuffix("; ")
        return Tuned(self.best, self.answers(self.average), tuple(self.history), note)

    def _forbid_unseen(self, state: dict[str, torch.Tensor]) -> None:
        """A class of the scheme without training tiles is never answered, as with the other heads."""
        unseen = self.targets.sum(dim=0) == 0
        classifier = backbones.classifier_name(self.network)
        state[f"{classifier}.weight"][unseen] = 0
        state[f"{classifier}.bias"][unseen] = NEVER

    def save(self, path: Path | None, identity: str) -> None:
        """Write all that a continuation needs."""
        if path is None:
            return
        parts = {
            "identity": identity,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "best": self.best,
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "history": self.history,
            "counts": [self.epoch, self.step, self.batch_size],
            "best_loss": self.best_loss,
        }
        with replacing(path) as temporary:
            torch.save(parts, temporary)

    def resume(self, path: Path | None, identity: str) -> None:
        """Take up an interrupted training of the same data and options; any other is left behind."""
        if path is None or not path.is_file():
            return
        try:
            parts: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
            if parts["identity"] != identity:
                log.warning("%s is of another training and is not continued", path)
                return
            self.network.load_state_dict(parts["network"])
            self.average.load_state_dict(parts["average"])
            self.optimiser.load_state_dict(parts["optimiser"])
            self.scaler.load_state_dict(parts["scaler"])
            self.best, self.best_loss, self.history = parts["best"], parts["best_loss"], parts["history"]
            self.epoch, self.step, self.batch_size = parts["counts"]
        except Exception as error:  # whatever a damaged file makes torch raise
            raise BundleError(f"{path}, an interrupted training, cannot be read; remove it to begin anew") from error
        log.warning("going on after epoch %d of an interrupted training", self.epoch)


class _Pictures:
    """Pictures of a tile set, kept in memory where they are few."""

    def __init__(self, tiles: TileSet) -> None:
        self.tiles = tiles
        self.kept: Picture | None = None
        if not len(tiles):
            return
        one = tiles.read([0])
        if one.nbytes * len(tiles) <= KEPT_BYTES:
            self.kept = np.empty((len(tiles), *one.shape[1:]), one.dtype)
            for start in range(0, len(tiles), 256):
                at = np.arange(start, min(len(tiles), start + 256))
                self.kept[at] = tiles.read(at)

    def __len__(self) -> int:
        return len(self.tiles)

    def read(self, at: npt.NDArray[np.intp]) -> Picture:
        return self.tiles.read(at) if self.kept is None else self.kept[at]


def _divergence(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The mean of the two Kullback–Leibler divergences between the answers that logits (N, K) stand for."""
    p, q = first.log_softmax(dim=1), second.log_softmax(dim=1)
    return 0.5 * ((p.exp() - q.exp()) * (p - q)).sum(dim=1).mean()


def _targets(tiles: TileSet) -> torch.Tensor:
    """(N, K) shares of each class: one-hot, or the fractions of soft labels."""
    if tiles.fractions is None:
        return nn.functional.one_hot(torch.from_numpy(tiles.classes), len(tiles.scheme)).float()
    return torch.from_numpy(tiles.fractions / tiles.fractions.sum(axis=1, keepdims=True).clip(1e-6)).float()


def _log_loss(logits: npt.NDArray[np.float32], classes: npt.NDArray[np.int64]) -> float:
    return float(nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(classes)))


def stages(network: nn.Module) -> list[list[str]]:
    """The names of the parameters, from the input to the classifier, by stage: every block of blocks is one."""
    found: dict[str, list[str]] = {}
    within = INNER if isinstance(network, Stages) else ""
    for name, _ in network.named_parameters():
        parts = name.removeprefix(within).split(".")
        key = ".".join(parts[:2]) if len(parts) > 2 and parts[1].isdigit() else parts[0]
        found.setdefault(key, []).append(name)
    return list(found.values())


def _parameter_groups(network: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """A group a stage, twice: filters decay, biases and normalisations do not."""
    named = dict(network.named_parameters())
    classifier = {f"{backbones.classifier_name(network)}.{part}" for part in ("weight", "bias")}
    groups = []
    ordered = stages(network)
    for depth, names in enumerate(ordered):
        rate = recipe.learning_rate * recipe.layer_decay ** (len(ordered) - 1 - depth)
        for decays in (True, False):
            chosen = [named[name] for name in names if name not in classifier and (named[name].ndim > 1) == decays]
            if chosen:
                groups.append({"params": chosen, "lr": rate, "weight_decay": recipe.weight_decay if decays else 0.0})
    head = [named[name] for name in named if name in classifier]
    groups.append({"params": head, "lr": recipe.learning_rate * HEAD_RATE, "weight_decay": recipe.weight_decay})
    return groups


def _freeze(network: nn.Module, recipe: Recipe) -> None:
    """With layers "last", keep all but the last stage before the classifier, and the classifier, as they are."""
    if recipe.layers == "all":
        return
    classifier = backbones.classifier_name(network)
    ordered = [names for names in stages(network) if not names[0].startswith(classifier)]
    filters = [names for names in ordered if any(dict(network.named_parameters())[name].ndim > 1 for name in names)]
    first = ordered.index(filters[-1])
    frozen = {name for names in ordered[:first] for name in names}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in frozen)
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and f"{name}.weight" in frozen:
            module.eval()


def _set_dropout(network: nn.Module, share: float) -> None:
    """Dropout before the classifier, and nowhere else: some networks have layers for it, some a number, ResNets none."""
    classifier = backbones.classifier_name(network)
    parent = classifier.rpartition(".")[0]
    layers = list(network.named_modules())
    # Layers of the head stand beside the classifier, behind the last filters of the body.
    body = [k for k, (name, module) in enumerate(layers) if name.rpartition(".")[0] != parent and _has_filters(module)]
    head = layers[max(body, default=0) :]
    found = [item for name, item in head if isinstance(item, nn.Dropout) and name.rpartition(".")[0] == parent]
    for module in found:
        module.p = share
    if not found and not hasattr(network, "drop_rate"):
        layer = network.get_submodule(classifier)
        layer.register_forward_pre_hook(partial(_drop, share))
    if hasattr(network, "drop_rate"):
        network.drop_rate = share  # type: ignore[assignment]  # timm's plain attribute, which nn.Module's stub does not know


def _has_filters(module: nn.Module) -> bool:
    return any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))


def _drop(share: float, layer: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
    return nn.functional.dropout(inputs[0], share, layer.training)
