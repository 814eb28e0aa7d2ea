"""int8 networks: calibrated on tiles of a scene by NNCF, kept beside the bundle, and compared with fp32 before use."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from ..bundle import Bundle
from ..errors import BundleError, OutputError
from ..labels import FloatArray
from ..reader import Pixels
from . import kept
from .answers import IMAGES_AT_ONCE, Images, prepared, viewed
from .openvino_cpu import load
from .wanted import Agreement, release

CALIBRATION = 300
"""Tiles that the ranges of the layers are measured on: NNCF's own habit, and more changed nothing."""

HELD_OUT = 400
"""Tiles, others than these, that int8 is compared with fp32 on."""

FEWEST = 100
"""Held-out tiles below which a share of 99 % says nothing, and int8 is not used."""

LEAST_AGREEMENT = 0.99
MOST_MEAN_DP = 0.02
"""int8 is used where at least this share of the labels is fp32's, and the probability of fp32's class changes by at
most this much on average."""

LEAST_SPEEDUP = 1.1

MOST_ASKED_AGAIN = 0.5
"""Where fp32 has to be asked about more of the tiles, int8 does not know the network's classes apart."""

FIRST_IN_FP32 = 3
"""Convolutions at the start that stay in fp32, as does the classifier. On 1,026 tiles of a county this halved the change
of probabilities of `efficientnet_lite0` (0.020 → 0.010) and cost 2 % of the speed."""

LAYERS = ("Convolution", "GroupConvolution", "MatMul")

Classifier = Callable[[Sequence[Pixels]], FloatArray]
"""Tiles (C, H, W) in stored numbers → probabilities (N, K)."""


def key_of(bundle: Bundle, images: Images) -> str:
    """The key of the int8 network of `bundle` that is calibrated on these prepared images: 12 hex digits."""
    digest = hashlib.blake2b(f"{bundle.digest} {release('openvino')} {release('nncf')}".encode(), digest_size=6)
    digest.update(images.tobytes())
    return digest.hexdigest()


def calibration_images(bundle: Bundle, batches: Iterable[torch.Tensor]) -> Images:
    """Prepared images (M, C, side, side) of brightness in batches, each tile in another view than the one before."""
    each = (image for part in batches for image in prepared(part, bundle.meta).numpy())
    return np.stack([viewed(image.copy(), number % bundle.meta.views) for number, image in enumerate(each)])


def network(bundle: Bundle, fp32: kept.Stored, images: Images, model_file: Path | None) -> tuple[str, kept.Stored]:
    """The int8 network calibrated on `images`, and its key: from its file, or made now and kept.

    Raises GeoclassError without NNCF, BundleError where the network cannot be quantised.
    """
    key = key_of(bundle, images)
    found = find(bundle, key, model_file)
    if found is not None:
        return key, found
    stored = _quantise(bundle, fp32, images, key)
    for path in places(bundle, key, model_file):
        try:
            kept.write_network(path, stored)
            break
        except OutputError:
            continue  # beside the bundle if that may be written, else in the cache
    return key, stored


def find(bundle: Bundle, key: str, model_file: Path | None) -> kept.Stored | None:
    """The int8 network `key` of this bundle, None where it is in neither place."""
    for path in places(bundle, key, model_file):
        stored = kept.read_network(path)
        if stored is not None and (stored.about.get("bundle"), stored.about.get("key")) == (bundle.digest, key):
            return stored
    return None


def places(bundle: Bundle, key: str, model_file: Path | None) -> list[Path]:
    """Where the int8 network `key` may be: beside the bundle's file, and in the cache folder."""
    beside = [] if model_file is None else [model_file.with_name(f"{model_file.stem}.int8-{key}.zip")]
    return [*beside, kept.folder() / f"{bundle.digest}.int8-{key}.zip"]


def _quantise(bundle: Bundle, fp32: kept.Stored, images: Images, key: str) -> kept.Stored:
    nncf = _nncf()
    try:
        core = load("openvino").Core()
        model = core.read_model(fp32.graph, fp32.weights)
        model.reshape([1, *images.shape[1:]])
        # NNCF draws progress bars on standard output, which belongs to the caller.
        with contextlib.redirect_stdout(io.StringIO()):
            # Symmetric ranges: the mixed ones are slower, and broke a network of the examples.
            quantised = nncf.quantize(
                model,
                nncf.Dataset(list(images[:, None])),
                preset=nncf.QuantizationPreset.PERFORMANCE,
                subset_size=len(images),
                ignored_scope=nncf.IgnoredScope(names=_sensitive(model)),
            )
        quantised.reshape([IMAGES_AT_ONCE, *images.shape[1:]])
        about = {"bundle": bundle.digest, "key": key, "tiles": len(images), "nncf": release("nncf")}
        return kept.packed(quantised, about)
    except Exception as error:  # NNCF raises many types for graphs it cannot change
        reason = " ".join(str(error).split())[:120]
        raise BundleError(f"{bundle.meta.backbone} cannot be quantised ({reason}); give --precision fp32") from error


def _sensitive(model: Any) -> list[str]:
    """The layers next to the picture and next to the answer, whose rounding costs most and whose speed matters least."""
    layers = [node.get_friendly_name() for node in model.get_ordered_ops() if node.get_type_name() in LAYERS]
    return [*dict.fromkeys([*layers[:FIRST_IN_FP32], *layers[-1:]])]


def _nncf() -> Any:
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    nncf = load("nncf")
    # Its own set_log_level also silences the handlers of the program that uses geoclass.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf


def compare(fp32: Classifier, int8: Classifier, tiles: Sequence[Pixels], batch: int) -> Agreement:
    """Both networks' answers to the same tiles, in batches by turns so that both meet the same machine."""
    seconds = np.zeros(2)
    agreed, moved = 0, 0.0
    for way in (fp32, int8):
        way(tiles[:batch])  # the first pass of each also makes its buffers
    for start in range(0, len(tiles), batch):
        answers = []
        for number, way in enumerate((fp32, int8)):
            began = perf_counter()
            answers.append(way(tiles[start : start + batch]))
            seconds[number] += perf_counter() - began
        exact, quick = answers
        classes = exact.argmax(axis=1)
        every = np.arange(len(classes))
        agreed += int((quick.argmax(axis=1) == classes).sum())
        moved += float(np.abs(quick[every, classes] - exact[every, classes]).sum())
    count = max(1, len(tiles))
    speedup = float(seconds[0] / max(1e-9, seconds[1]))
    return Agreement(tiles=len(tiles), labels=agreed / count, mean_dp=moved / count, speedup=speedup)


def objection(agreement: Agreement, slow_too: bool) -> str:
    """Why int8 must not be used, empty where it may. `slow_too`: whether being slow counts."""
    if agreement.tiles < FEWEST:
        return f"only {agreement.tiles} tiles to compare int8 with fp32 on, {FEWEST} are needed"
    if agreement.labels < LEAST_AGREEMENT:
        return (
            f"int8 gives {agreement.labels:.1%} of {agreement.tiles} held-out tiles fp32's class, "
            f"{LEAST_AGREEMENT:.0%} are needed"
        )
    if agreement.asked_again > MOST_ASKED_AGAIN:
        return f"int8 is unsure of {agreement.asked_again:.0%} of {agreement.tiles} held-out tiles, {MOST_ASKED_AGAIN:.0%} at most will do"
    if agreement.mean_dp > MOST_MEAN_DP:
        return f"int8 changes the probability of fp32's class by {agreement.mean_dp:.3f} on average, at most {MOST_MEAN_DP} will do"
    if slow_too and agreement.speedup < LEAST_SPEEDUP:
        return f"int8 is only {agreement.speedup:.2f} times as fast here"
    return ""
