"""Train the default head: a linear classifier on a backbone's frozen features, folded into its last layer."""

from __future__ import annotations

import io
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
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from torch import nn

from . import __version__, backbones
from .bundle import Bundle, BundleMeta, State, class_position, now, save_bundle
from .errors import GeoclassError
from .files import require_absent, require_writable
from .predict import keep_large_buffers
from .schemes import ClassScheme, load_scheme, scheme_for_names
from .sensors import Sensor, load_sensor, require_bands

Progress = Callable[[str, int, int], None]
Images = npt.NDArray[np.uint8]
Features = npt.NDArray[np.float32]

SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff"}
BANDS = ("red", "green", "blue")
MOST_UNREADABLE = 0.05
VIEWS = 8
PENALTIES = (0.3, 0.1, 0.03)  # from the strongest, where the fit is quickest to find
FOLDS = 3
NEVER = -1e4  # the logit of a class of the scheme that has no tiles


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
        raise GeoclassError(
            f"{folder} holds {len(groups)} class folders; training needs two or more, each named as its class"
        )
    empty = [name for name, files in groups.items() if len(files) < 2]
    if empty:
        raise GeoclassError(
            f"class folder {folder / empty[0]} holds fewer than 2 pictures; add some, or remove the folder"
        )
    chosen = scheme or scheme_for_names(list(groups))
    index = {name: _position(name, chosen, folder) for name in groups}
    named = [(path, index[name]) for name, files in groups.items() for path in files]
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(partial(_read_picture, size_px=size_px), [path for path, _ in named]))
    skipped = tuple(str(path) for (path, _), (picture, _) in zip(named, read, strict=True) if picture is None)
    if len(skipped) > MOST_UNREADABLE * len(named):
        raise GeoclassError(
            f"{len(skipped)} of {len(named)} pictures cannot be read, first {skipped[0]}; mend or remove them"
        )
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


def _position(name: str, scheme: ClassScheme, folder: Path) -> int:
    position = class_position(scheme, name)
    if position is None:
        known = ", ".join(scheme.names)
        raise GeoclassError(f"{folder / name} is no class of scheme {scheme.name!r} ({known}); rename or remove it")
    return position


def _read_picture(path: Path, size_px: int) -> tuple[Images | None, bool]:
    """(picture or None where it cannot be read, whether it was resized)."""
    try:
        with Image.open(path) as image:
            # Pillow opens 16-bit colour as RGB and keeps the high bytes: only the raw mode of its parts tells.
            if image.mode.startswith(("I", "F")) or any(";16" in str(part[3]) for part in getattr(image, "tile", ())):
                raise GeoclassError(
                    f"{path} is not an 8-bit picture; convert it with one fixed rule: gdal_translate -ot Byte -scale"
                )
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
    if size_px < 1 or (gsd_m is not None and not gsd_m > 0):
        raise GeoclassError(f"tiles of {size_px} px at {gsd_m} m cannot be; give --size and --gsd above 0")
    with torch.device("meta"):  # an unknown name is told before the pictures are read
        backbones.classifier_name(backbones.build(backbone, classes=2, weights=None))
    chosen = scheme if isinstance(scheme, ClassScheme) or scheme is None else load_scheme(scheme)
    imagery = sensor if isinstance(sensor, Sensor) else load_sensor(sensor)
    require_bands(imagery, BANDS, str(folder))
    tiles = read_class_folders(folder, size_px, chosen)
    norm = backbones.normalisation(backbone)
    network = backbones.build(backbone, classes=len(tiles.scheme), weights=weights)
    backbones.require_size(network, backbone, len(BANDS), size_px)
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
        bands=BANDS,
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
    require_writable(Path(out).parent)
    meta, state = train(folder, **options)
    return save_bundle(out, meta, state, overwrite)


def _brightness(pictures: Images) -> tuple[tuple[float, ...], ...]:
    """For each band the shares of 32 equal steps of brightness, as `BundleMeta.brightness` has them."""
    counts = [np.bincount(pictures[:, ::4, ::4, band].ravel() // 8, minlength=32) for band in range(3)]
    return tuple(tuple(float(f"{share:.6g}") for share in count / count.sum()) for count in counts)


def views_of(pictures: Images) -> list[torch.Tensor]:
    """VIEWS renderings of each picture (N, H, W, 3) that show the same ground, each (N, 3, H, W) in 0–255.

    Turned by 0, 90, 180 and 270 degrees, since from above there is no upright; moved by half a pixel either way, as any
    resampling may; stored as JPEG of quality 75, as imagery often is; and through pixels of another shape, as when
    imagery comes in degrees. What differs between them is not land cover.
    """
    upright = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    turned = [torch.rot90(upright, turn, (2, 3)) for turn in range(4)]
    return [*turned, _moved(turned[0]), _moved(turned[1]), _as_jpeg(pictures), _reshaped(turned[0])]


def _moved(pictures: torch.Tensor) -> torch.Tensor:
    padded = nn.functional.pad(pictures.float(), (0, 1, 0, 1), mode="replicate")
    return nn.functional.avg_pool2d(padded, 2, 1)


def _as_jpeg(pictures: Images, quality: int = 75) -> torch.Tensor:
    stored = []
    for picture in pictures:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
        with Image.open(buffer) as image:
            stored.append(np.array(image))
    return torch.from_numpy(np.stack(stored)).permute(0, 3, 1, 2)


def _reshaped(pictures: torch.Tensor, across: float = 0.84, down: float = 1.13) -> torch.Tensor:
    """Through pixels `across` × `down` times as large, which is what 1 m pixels are in degrees at 42° north."""
    high, wide = pictures.shape[-2:]
    size = (max(1, round(high / down)), max(1, round(wide / across)))
    between = nn.functional.interpolate(pictures.float(), size=size, mode="bilinear")
    return nn.functional.interpolate(between, size=(high, wide), mode="bilinear")


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
    """(N, VIEWS, F) features of pictures (N, H, W, 3), one for each of `views_of`; the first is the picture as it is."""
    keep_large_buffers()
    size = pictures.shape[1]
    frozen = backbones.place(
        backbones.fuse(backbones.feature_network(network), torch.zeros(2, 3, size, size)), torch.device(device)
    )
    mean = torch.tensor(norm.mean, device=device).view(1, 3, 1, 1)
    std = torch.tensor(norm.std, device=device).view(1, 3, 1, 1)
    found = []
    for start in range(0, len(pictures), batch_size):
        views = [
            ((view.to(device).float() - mean) / std).contiguous(memory_format=torch.channels_last)
            for view in views_of(pictures[start : start + batch_size])
        ]
        found.append(torch.stack([frozen(view) for view in views], dim=1).float().cpu())
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
    Folds are stratified and keep the views of a picture together; the penalty of the least log loss is taken, on one view
    a picture, and the accuracy recorded is of one view too. The rescaling knows no labels and is taken from all pictures
    at once.
    """
    scaled, matrix, centre = _rescaled(features)
    folds = min(FOLDS, int(np.bincount(classes).min(initial=len(classes), where=np.bincount(classes) > 0)))
    right, loss = np.zeros(len(PENALTIES)), np.zeros(len(PENALTIES))
    for fit, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(scaled, classes):
        for k, (weight, bias) in enumerate(_fit_path(scaled[fit], classes[fit], count, PENALTIES)):
            logits = scaled[test, 0] @ weight.T + bias
            right[k] += (logits.argmax(axis=1) == classes[test]).sum()
            loss[k] += (logsumexp(logits, axis=1) - logits[np.arange(len(test)), classes[test]]).sum()
    best = int(loss.argmin())
    weight, bias = _fit_path(scaled, classes, count, PENALTIES[best : best + 1])[0]
    folded = weight.astype(np.float64) @ matrix
    offset = bias - folded @ centre
    accuracy = float(right[best] / len(classes))
    return Head(folded.astype(np.float32), offset.astype(np.float32), PENALTIES[best], accuracy, folds)


def _rescaled(features: Features) -> tuple[Features, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(N, V, F) `features` as (features − centre) @ matrix, with that matrix (F, F), symmetric, and centre (F,)."""
    pictures, views, width = features.shape
    centre = features.mean(axis=(0, 1), dtype=np.float64)
    apart = (features - features.mean(axis=1, keepdims=True)).reshape(-1, width)
    values, vectors = np.linalg.eigh((apart.T @ apart).astype(np.float64) / len(apart))
    values = values.clip(min=0)
    matrix = (vectors * (values + max(float(values.mean()), 1e-12)) ** -0.5) @ vectors.T
    flat = (features - centre.astype(np.float32)).reshape(-1, width) @ matrix.astype(np.float32)
    spread = float(np.sqrt(flat.var(axis=0).mean())) or 1.0
    return (flat / np.float32(spread)).reshape(pictures, views, width), matrix / spread, centre


def _fit_path(
    scaled: Features, classes: npt.NDArray[np.int64], count: int, penalties: Sequence[float]
) -> list[tuple[Features, Features]]:
    """(weight (K, F), bias (K,)) for each penalty, each fit starting from the one before."""
    targets = np.repeat(classes, scaled.shape[1])
    flat = scaled.reshape(len(targets), -1)
    model = LogisticRegression(max_iter=300, tol=1e-4, warm_start=True)
    found = []
    for penalty in penalties:
        model.set_params(C=1 / (penalty * len(targets))).fit(flat, targets)
        coefficients, intercepts = model.coef_, model.intercept_
        if len(model.classes_) == 2:
            # With two classes scikit-learn keeps one row; a softmax needs both.
            coefficients = np.vstack([-coefficients, coefficients]) / 2
            intercepts = np.hstack([-intercepts, intercepts]) / 2
        weight = np.zeros((count, flat.shape[1]), np.float32)
        bias = np.full(count, NEVER, np.float32)
        weight[model.classes_], bias[model.classes_] = coefficients, intercepts
        found.append((weight, bias))
    return found
