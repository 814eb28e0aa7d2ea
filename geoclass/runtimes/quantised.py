"""int8 networks: calibrated on tiles of a scene by NNCF, and kept beside the bundle."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..bundle import Bundle
from ..errors import BundleError, OutputError
from . import kept
from .answers import IMAGES_AT_ONCE, Images, input_side, prepared, viewed
from .openvino_cpu import load
from .wanted import release

CALIBRATION = 300
"""Tiles that the ranges of the layers are measured on: NNCF's own habit, and more changed nothing."""

FIRST_IN_FP32 = 3
"""Convolutions at the start that stay in fp32, as does the classifier. On 1,026 tiles of a county this halved the change
of probabilities of `efficientnet_lite0` (0.020 → 0.010) and cost 2 % of the speed."""

LAYERS = ("Convolution", "GroupConvolution", "MatMul")


def key_of(bundle: Bundle, images: Images) -> str:
    """The key of the int8 network of `bundle` that is calibrated on these prepared images: 12 hex digits."""
    digest = hashlib.blake2b(f"{bundle.digest} {release('openvino')} {release('nncf')}".encode(), digest_size=6)
    digest.update(images)  # type: ignore[arg-type]  # an array of numbers is a buffer
    return digest.hexdigest()


def calibration_images(bundle: Bundle, batches: Iterable[torch.Tensor], count: int) -> Images:
    """Prepared images (M, C, side, side) of `count` tiles' brightness in batches, each in another view than the one before."""
    meta = bundle.meta
    found = np.empty((count, len(meta.bands), input_side(meta), input_side(meta)), np.float32)
    each = (image for part in batches for image in prepared(part, meta).numpy())
    for number, (place, image) in enumerate(zip(found, each, strict=True)):
        place[:] = viewed(image, number % meta.views)
    return found


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
