"""What the desk knows by learning: features of all tiles, computed once in the background, and the head of the labels
so far."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .. import backbones
from ..bundle import Bundle
from ..errors import BundleError, DatasetError, GeoclassError
from ..learning.features import extract_features
from ..train import Method
from ..views import TURNS
from .heads import Fitted, fit, space_of
from .queue import UNKNOWN
from .tiles import Tiles

Stage = Literal["features", "ready", "failed"]
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Learned:
    """A head in use. probabilities: (N, K) of all tiles; accuracy: on the `judged` held-out tiles, None where there are
    none; own_accuracy: in cross-validation on its `labels` tiles, None for the model that the desk began with."""

    name: str
    probabilities: Scores
    labels: int
    accuracy: float | None
    own_accuracy: float | None
    judged: int


@dataclass(frozen=True)
class Retrained:
    """A head after the one `before` it (None: there was none), and the seconds it took."""

    before: Learned | None
    after: Learned
    seconds: float


class Learner:
    """Features and heads of a desk's tiles. `model` gives the backbone and the first head; without it the default
    backbone.

    Raises BundleError for a model of other classes or bands.
    """

    def __init__(self, tiles: Tiles, model: Bundle | None = None, *, device: str = "cpu") -> None:
        if model is not None:
            require_fitting(model, tiles)
        self.tiles = tiles
        self.model = model
        self.device = device
        self.stage: Stage = "features"
        self.done = 0
        self.problem = ""
        self.learned: Learned | None = None
        self.points: npt.NDArray[np.float32] | None = None
        self._training = threading.Lock()
        self._thread = threading.Thread(target=self._prepare, name="features", daemon=True)

    def start(self) -> None:
        """Begin to compute the features; `stage` and `done` say how far it is."""
        self._thread.start()

    def wait(self) -> None:
        """Until the features are there, or cannot be."""
        self._thread.join()

    def _prepare(self) -> None:
        try:
            features, first = self._features()
            self.points = space_of(features)
            self.learned = first
            self.stage = "ready"
        except Exception as error:  # the desk goes on without a head, and says why
            self.problem = str(error) if isinstance(error, GeoclassError) else f"{type(error).__name__}: {error}"
            self.stage = "failed"

    def _features(self) -> tuple[npt.NDArray[np.float32], Learned | None]:
        tiles = self.tiles.pictures

        def progress(_: str, done: int, __: int) -> None:
            self.done = done

        if self.model is None:
            method = Method().settled(tiles.size_px)  # as `train` has it, which finds these features in the cache
            network = backbones.build(method.backbone, classes=2, bands=tiles.bands)
            norm, side = backbones.normalisation(method.backbone, len(tiles.bands)), method.input_px
        else:
            meta, network = self.model.meta, self.model.network()
            norm, side = backbones.Normalisation(meta.mean, meta.std), meta.input_px or meta.size_px
        found = extract_features(network, tiles, norm, input_px=side, device=self.device, progress=progress)
        return found, self._judged_model(network, found)

    def _judged_model(self, network: Any, features: npt.NDArray[np.float32]) -> Learned | None:
        """What the model itself says of the tiles, from the features; nothing where its head is a forest."""
        if self.model is None or self.model.forest is not None:
            return None
        meta = self.model.meta
        layer = network.get_submodule(backbones.classifier_name(network))
        weight, bias = (part.detach().numpy().astype(np.float64) for part in (layer.weight, layer.bias))
        logits = (features[:, : min(meta.views, TURNS)].mean(axis=1) @ weight.T + bias) / meta.temperature
        exps = np.exp(logits - logits.max(axis=1, keepdims=True))
        answers = exps / exps.sum(axis=1, keepdims=True)
        columns = [meta.scheme.names.index(name) for name in self.tiles.scheme.names]
        answers = answers[:, columns]
        return self._learned("the model", answers / answers.sum(axis=1, keepdims=True).clip(1e-12), 0, None)

    def _learned(self, name: str, probabilities: Scores, labels: int, own: float | None) -> Learned:
        judged = self.tiles.judged
        right = probabilities.argmax(axis=1)[judged] == self.tiles.known[judged]
        accuracy = float(right.mean()) if judged.any() else None
        return Learned(name, probabilities, labels, accuracy, own, int(judged.sum()))

    def retrain(self, labels: Mapping[int, int]) -> Retrained:
        """A head of `labels`, position → class, put to use. Raises DatasetError where it cannot be fitted (yet)."""
        if self.stage == "failed":
            raise DatasetError(f"no head can be trained: {self.problem}; restart the desk once that is mended")
        if self.points is None:
            raise DatasetError(
                f"the features of {self.done:,} of {len(self.tiles):,} tiles are ready; retrain when all are"
            )
        if not self._training.acquire(blocking=False):
            raise DatasetError("the head is being trained already; wait for it to finish")
        try:
            began = perf_counter()
            at = np.array(sorted(labels), np.intp)
            classes = np.array([labels[k] for k in at.tolist()], np.int64)
            fitted: Fitted = fit(self.points, at, classes, len(self.tiles.scheme))
            before = self.learned
            after = self._learned("the head", fitted.probabilities(self.points), len(at), fitted.accuracy)
            self.learned = after
            return Retrained(before, after, perf_counter() - began)
        finally:
            self._training.release()


def require_fitting(model: Bundle, tiles: Tiles) -> None:
    """Raise BundleError where a model does not know the classes that the desk asks for, or sees other bands."""
    meta = model.meta
    unknown = [name for name in tiles.scheme.names if name not in meta.scheme.names]
    if unknown:
        raise BundleError(
            f"the model knows {', '.join(meta.scheme.names)}, and the desk asks for {unknown[0]!r} as well; "
            "give a model of these classes, or leave --model out"
        )
    if tuple(meta.bands) != tuple(tiles.pictures.bands):
        raise BundleError(
            f"the model sees {', '.join(meta.bands)}, the tiles have {', '.join(tiles.pictures.bands)}; give another --model"
        )


def labels_of(tiles: Tiles, labels: Mapping[str, str], with_known: bool) -> dict[int, int]:
    """position → class of what the head learns from: people's labels (id → class), with `with_known` the data's own
    where nobody answered; never of a tile that the head is judged on."""
    place = {name: k for k, name in enumerate(tiles.ids)}
    index = {name: k for k, name in enumerate(tiles.scheme.names)}
    found = {}
    if with_known:
        found = {int(k): int(tiles.known[k]) for k in tiles.positions if tiles.known[k] != UNKNOWN}
    for tile, label in labels.items():
        if tile in place and label in index and not tiles.judged[place[tile]]:
            found[place[tile]] = index[label]
    return found
