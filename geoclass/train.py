"""Train the default head: a linear classifier on a backbone's frozen features, folded into its last layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from torch import nn

from . import __version__, backbones
from .bundle import Bundle, BundleMeta, State, now, save_bundle
from .errors import GeoclassError
from .files import require_absent
from .schemes import ClassScheme, load_scheme, scheme_for_names
from .sensors import Sensor, load_sensor

Progress = Callable[[str, int, int], None]
Images = npt.NDArray[np.uint8]
Features = npt.NDArray[np.float32]

SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff"}
MOST_UNREADABLE = 0.05
VIEWS = 4
PENALTIES = (0.03, 0.1, 0.3)
FOLDS = 4


@dataclass(frozen=True)
class LabelledTiles:
    """N pictures of `size_px` (N, H, W, 3) uint8, the class index of each (N,), and what was skipped or resized."""

    pictures: Images
    classes: npt.NDArray[np.int64]
    scheme: ClassScheme
    skipped: tuple[str, ...] = ()
    resized: int = 0


def read_class_folders(folder: str | Path, size_px: int = 224, scheme: ClassScheme | None = None) -> LabelledTiles:
    """Read a folder that holds a folder of pictures for each class.

    Without `scheme` a shipped one that has all the folders' names is taken, else one is made of them. Grey, palette,
    CMYK and transparent pictures become RGB; other sizes are resized. Pictures that cannot be read are skipped and
    counted. Raises GeoclassError where there are fewer than two classes with two pictures, where more than 5 % cannot
    be read, and for 16-bit pictures, whose scale is not known.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise GeoclassError(f"no such folder: {folder}; give a folder that holds a folder of pictures for each class")
    groups = {
        path.name: sorted(item for item in path.iterdir() if item.suffix.lower() in SUFFIXES)
        for path in sorted(folder.iterdir())
        if path.is_dir() and not path.name.startswith(".")
    }
    if len(groups) < 2:
        raise GeoclassError(f"{folder} holds {len(groups)} class folders; training needs two or more, each named as its class")
    empty = [name for name, files in groups.items() if len(files) < 2]
    if empty:
        raise GeoclassError(f"class folder {folder / empty[0]} holds fewer than 2 pictures; add some, or remove the folder")
    chosen = scheme or scheme_for_names(list(groups))
    index = {_folded(name): chosen.index(_match(name, chosen, folder)) for name in groups}
    named = [(path, index[_folded(name)]) for name, files in groups.items() for path in files]
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(partial(_read_picture, size_px=size_px), [path for path, _ in named]))
    skipped = tuple(str(path) for (path, _), (picture, _) in zip(named, read, strict=True) if picture is None)
    if len(skipped) > MOST_UNREADABLE * len(named):
        raise GeoclassError(f"{len(skipped)} of {len(named)} pictures cannot be read, first {skipped[0]}; mend or remove them")
    kept = [(picture, label) for (picture, _), (_, label) in zip(read, named, strict=True) if picture is not None]
    counts = Counter(label for _, label in kept)
    few = [chosen.names[label] for label in set(index.values()) if counts[label] < 2]
    if few:
        raise GeoclassError(f"class {few[0]} of {folder} has fewer than 2 pictures that can be read; add some")
    return LabelledTiles(
        np.stack([picture for picture, _ in kept]),
        np.array([label for _, label in kept], np.int64),
        chosen,
        skipped,
        sum(changed for picture, changed in read if picture is not None),
    )


def _folded(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def _match(name: str, scheme: ClassScheme, folder: Path) -> str:
    for known in scheme.names:
        if _folded(known) == _folded(name):
            return known
    raise GeoclassError(f"{folder / name} is no class of scheme {scheme.name!r} ({', '.join(scheme.names)}); rename or remove it")


def _read_picture(path: Path, size_px: int) -> tuple[Images | None, bool]:
    """(picture or None where it cannot be read, whether it was resized)."""
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise GeoclassError(f"{path} is not an 8-bit picture; convert it with one fixed rule: gdal_translate -ot Byte -scale")
            rgb = image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None, False
    resized = rgb.size != (size_px, size_px)
    if resized:
        rgb = rgb.resize((size_px, size_px), Image.Resampling.BILINEAR)
    return np.asarray(rgb), resized


def train(
    folder: str | Path,
    *,
    backbone: str = backbones.DEFAULT,
    weights: str | Path = "pretrained",
    sensor: Sensor | str | Path = "rgb8",
    scheme: ClassScheme | str | Path | None = None,
    size_px: int = 224,
    gsd_m: float | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> tuple[BundleMeta, State]:
    """Train on class folders; see the module's head for the method. Raises GeoclassError of every fitting kind."""
    start = perf_counter()
    chosen = scheme if isinstance(scheme, ClassScheme) or scheme is None else load_scheme(scheme)
    imagery = sensor if isinstance(sensor, Sensor) else load_sensor(sensor)
    tiles = read_class_folders(folder, size_px, chosen)
    norm = backbones.normalisation(backbone)
    network = backbones.build(backbone, classes=len(tiles.scheme), weights=weights)
    features = extract_features(network, tiles.pictures, norm, device=device, progress=progress)
    if progress:
        progress("fitting", 0, 1)
    head = fit_head(features, tiles.classes, len(tiles.scheme), seed=seed)
    if progress:
        progress("fitting", 1, 1)
    backbones.set_classifier(network, torch.from_numpy(head.weight), torch.from_numpy(head.bias))
    counts = np.bincount(tiles.classes, minlength=len(tiles.scheme))
    record: dict[str, Any] = {
        "source": Path(folder).resolve().name,
        "tiles": int(counts.sum()),
        "tiles_per_class": {name: int(count) for name, count in zip(tiles.scheme.names, counts, strict=True)},
        "skipped": len(tiles.skipped),
        "resized": tiles.resized,
        "head": "logistic regression on frozen features",
        "views": VIEWS,
        "penalty": head.penalty,
        "cross_validated_accuracy": round(head.accuracy, 4),
        "folds": head.folds,
        "seed": seed,
        "seconds": round(perf_counter() - start, 1),
    }
    meta = BundleMeta(
        backbone=backbone,
        scheme=tiles.scheme,
        sensor=imagery,
        bands=("red", "green", "blue"),
        size_px=size_px,
        gsd_m=gsd_m,
        mean=norm.mean,
        std=norm.std,
        brightness=_brightness(tiles.pictures),
        training=record,
        created=now(),
        geoclass_version=__version__,
    )
    return meta, dict(network.state_dict())


def train_to_file(folder: Path, out: Path, *, overwrite: bool = False, **options: Any) -> Bundle:
    """`train`, written to `out`. An existing file is found before the work, not after it. Raises OutputError besides."""
    require_absent([out], overwrite)
    meta, state = train(folder, **options)
    return save_bundle(out, meta, state, overwrite)


def _brightness(pictures: Images) -> tuple[tuple[float, ...], ...]:
    """For each band the shares of 32 equal steps of brightness, as `BundleMeta.brightness` has them."""
    counts = [np.bincount(pictures[:, ::4, ::4, band].ravel() // 8, minlength=32) for band in range(3)]
    return tuple(tuple(float(f"{share:.6g}") for share in count / count.sum()) for count in counts)


@torch.inference_mode()
def extract_features(
    network: nn.Module,
    pictures: Images,
    norm: backbones.Normalisation,
    *,
    device: str = "cpu",
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Features:
    """(N, VIEWS, F) features of each picture turned by 0, 90, 180 and 270 degrees: from above there is no upright."""
    size = pictures.shape[1]
    frozen = backbones.fuse(backbones.feature_network(network), torch.zeros(2, 3, size, size))
    frozen = frozen.to(device=torch.device(device), memory_format=torch.channels_last)
    mean = torch.tensor(norm.mean, device=device).view(1, 3, 1, 1)
    std = torch.tensor(norm.std, device=device).view(1, 3, 1, 1)
    found = []
    for start in range(0, len(pictures), batch_size):
        values = torch.from_numpy(pictures[start : start + batch_size]).to(device).permute(0, 3, 1, 2).float()
        batch = (values - mean) / std
        turned = [torch.rot90(batch, turn, (2, 3)).contiguous(memory_format=torch.channels_last) for turn in range(VIEWS)]
        found.append(torch.stack([frozen(view) for view in turned], dim=1).float().cpu())
        if progress:
            progress("features", min(len(pictures), start + batch_size), len(pictures))
    return np.asarray(torch.cat(found).numpy())


@dataclass(frozen=True)
class Head:
    """A linear layer: `weight` (K, F), `bias` (K,), the penalty it was fitted with and its cross-validated accuracy."""

    weight: Features
    bias: Features
    penalty: float
    accuracy: float
    folds: int


def fit_head(features: Features, classes: npt.NDArray[np.int64], count: int, *, seed: int = 0) -> Head:
    """Fit a linear classifier to (N, V, F) features of V views a picture, with the penalty chosen by cross-validation.

    Features are first rescaled so that directions in which the views of one picture differ count for less: with S the
    mean covariance of views about their picture's mean, features are multiplied by (S + tr(S)/F I)^-1/2, which is
    within-class covariance normalisation (Hatch, Kajarekar & Stolcke 2006, Interspeech) with a picture for a class.
    Then multinomial logistic regression with penalty λ/2 |W|² beside the mean log loss. Both fold into one layer.
    Folds are stratified and keep the views of a picture together; accuracy is that of one view a picture.
    """
    folds = min(FOLDS, int(np.bincount(classes).min(initial=len(classes), where=np.bincount(classes) > 0)))
    splits = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(features, classes))
    scores = {
        penalty: float(np.mean([_fold_accuracy(features, classes, count, fit, test, penalty) for fit, test in splits]))
        for penalty in PENALTIES
    }
    best = max(PENALTIES, key=lambda penalty: scores[penalty])
    weight, bias = _fit_linear(features, classes, count, best)
    return Head(weight, bias, best, scores[best], folds)


def _fold_accuracy(
    features: Features,
    classes: npt.NDArray[np.int64],
    count: int,
    fit: npt.NDArray[np.int64],
    test: npt.NDArray[np.int64],
    penalty: float,
) -> float:
    weight, bias = _fit_linear(features[fit], classes[fit], count, penalty)
    return float(((features[test, 0] @ weight.T + bias).argmax(axis=1) == classes[test]).mean())


def _fit_linear(features: Features, classes: Sequence[int] | npt.NDArray[np.int64], count: int, penalty: float) -> tuple[Features, Features]:
    pictures, views, width = features.shape
    flat = features.reshape(-1, width).astype(np.float64)
    centre = flat.mean(axis=0)
    apart = (features - features.mean(axis=1, keepdims=True)).reshape(-1, width).astype(np.float64)
    values, vectors = np.linalg.eigh(apart.T @ apart / len(apart))
    ridge = max(float(values.clip(min=0).mean()), 1e-12)
    rescale = (vectors * (values.clip(min=0) + ridge) ** -0.5) @ vectors.T
    scaled = (flat - centre) @ rescale
    spread = float(np.sqrt(scaled.var(axis=0).mean())) or 1.0
    targets = np.repeat(np.asarray(classes), views)
    model = LogisticRegression(C=1 / (penalty * len(targets)), max_iter=300, tol=1e-4)
    model.fit((scaled / spread).astype(np.float32), targets)
    # With two classes scikit-learn keeps one row; a softmax needs both.
    coefficients, intercepts = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        coefficients, intercepts = np.vstack([-coefficients, coefficients]) / 2, np.hstack([-intercepts, intercepts]) / 2
    weight, bias = np.zeros((count, width)), np.full(count, -1e4)
    weight[model.classes_] = coefficients @ rescale / spread
    bias[model.classes_] = intercepts - weight[model.classes_] @ centre
    return weight.astype(np.float32), bias.astype(np.float32)
