"""Does asking for the least certain tiles pay? Accuracy on RSSCN7 against the number of labels, mean over seeded
splits.

    python benchmarks/active_learning.py ../shared/data/rsscn7_224 --seeds 5 --out docs/images/active-learning

Features of all tiles are computed once (and cached) with the default packaged backbone. For each seed a quarter of each
class is held out, and the rest is the pool, whose labels are told when they are asked for. Ways to ask: `random`, the
same number of each class; `drawn`, tiles of the pool at random, as a person without a model would; `least certain`, the
desk's own queue (`geoclass.desk.queue`): a start spread over the features, then in batches those the head, fitted anew
after each, is least certain of. The head is the desk's (`geoclass.desk.heads`). Writes OUT.csv and OUT.svg, and prints
the table."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from matplotlib.figure import Figure
from sklearn.model_selection import train_test_split

from geoclass import backbones
from geoclass.datasets.tileset import TileSet, read_class_folders
from geoclass.desk.heads import fit, space_of
from geoclass.desk.queue import least_certain_first, spread_first
from geoclass.learning.features import extract_features
from geoclass.train import Method

PER_CLASS = (10, 20, 40, 60, 80, 100)
HELD_OUT = 0.25


@dataclass(frozen=True)
class Trial:
    """One seed's split: points of all tiles, their classes, positions of pool and held-out tiles."""

    points: np.ndarray
    classes: np.ndarray
    count: int
    pool: np.ndarray
    test: np.ndarray
    seed: int

    def judge(self, known: np.ndarray) -> tuple[float, np.ndarray]:
        """Accuracy on the held-out tiles of a head that knows the labels of `known`, and (N, K) its probabilities."""
        fitted = fit(self.points, known, self.classes[known], self.count, self.seed)
        answers = fitted.probabilities(self.points)
        return float((answers[self.test].argmax(axis=1) == self.classes[self.test]).mean()), answers


def points_of(tiles: TileSet) -> np.ndarray:
    method = Method().settled(tiles.size_px)
    network, norm = backbones.build(method.backbone, classes=2), backbones.normalisation(method.backbone)
    return space_of(extract_features(network, tiles, norm, input_px=method.input_px))


def stratified(trial: Trial) -> Iterator[tuple[int, float]]:
    random = np.random.default_rng(trial.seed)
    of_class = [random.permutation(trial.pool[trial.classes[trial.pool] == k]) for k in range(trial.count)]
    for number in PER_CLASS:
        known = np.concatenate([part[:number] for part in of_class])
        yield len(known), trial.judge(known)[0]


def drawn(trial: Trial) -> Iterator[tuple[int, float]]:
    order = np.random.default_rng(trial.seed).permutation(trial.pool)
    for number in PER_CLASS:
        yield number * trial.count, trial.judge(order[: number * trial.count])[0]


def least_certain(trial: Trial, start: int, batch: int, most: int) -> Iterator[tuple[int, float]]:
    """A start without a model, then batch after batch of what the head is least certain of."""
    pool = trial.pool
    known = pool[spread_first(trial.points[pool, 0], start, trial.seed)[:start]]
    while True:
        accuracy, answers = trial.judge(known)
        yield len(known), accuracy
        if len(known) >= most:
            return
        rest = np.setdiff1d(pool, known)
        asked = rest[least_certain_first(answers[rest])[: min(batch, most - len(known))]]
        known = np.concatenate([known, asked])


def measure(points: np.ndarray, tiles: TileSet, seeds: range, options: argparse.Namespace) -> list[dict[str, object]]:
    ways: dict[str, Callable[[Trial], Iterator[tuple[int, float]]]] = {
        "random": stratified,
        "drawn": drawn,
        "least certain": lambda trial: least_certain(trial, options.start, options.batch, options.most),
    }
    rows: list[dict[str, object]] = []
    for seed in seeds:
        pool, test = train_test_split(
            np.arange(len(tiles)), test_size=HELD_OUT, random_state=seed, stratify=tiles.classes
        )
        trial = Trial(points, tiles.classes, len(tiles.scheme), pool, test, seed)
        for name in options.ways.split(","):
            began = perf_counter()
            found = list(ways[name](trial))
            rows += [{"way": name, "seed": seed, "labels": n, "accuracy": round(a, 5)} for n, a in found]
            told = " ".join(f"{n}:{100 * a:.1f}" for n, a in found)
            print(f"seed {seed}, {name} ({perf_counter() - began:.0f} s): {told}", flush=True)
    return rows


def curve(rows: list[dict[str, object]], way: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of labels, and the mean and standard deviation of the accuracy over seeds."""
    labels = sorted({int(str(row["labels"])) for row in rows if row["way"] == way})
    found = [[float(str(r["accuracy"])) for r in rows if r["way"] == way and r["labels"] == n] for n in labels]
    return np.array(labels), np.array([np.mean(f) for f in found]), np.array([np.std(f) for f in found])


def verdict(rows: list[dict[str, object]], count: int) -> str:
    """At how many labels asking for the least certain reaches what 100 random ones of each class do."""
    labels, mean, spread = curve(rows, "random")
    target, sd = float(mean[-1]), float(spread[-1])
    asked, reached, _ = curve(rows, "least certain")
    there = asked[reached >= target]
    if not len(there):
        return f"{labels[-1]} random labels: {target:.1%} ± {sd:.1%}; least certain first: not reached with {asked[-1]}"
    share = there[0] / labels[-1]
    return (
        f"{labels[-1]} random labels ({labels[-1] // count} of each class): {target:.1%} ± {sd:.1%}; least certain first "
        f"reaches it with {there[0]} ({share:.0%} as many)"
    )


def draw(rows: list[dict[str, object]], path: Path) -> None:
    figure = Figure(figsize=(7.2, 4.3), layout="constrained")
    axes = figure.subplots()
    looks = {
        "least certain": ("least certain first", "#0a5c70"), "random": ("random, as many of each class", "#d55e00"),
        "drawn": ("random", "#77807f"),
    }  # fmt: skip
    for way, (title, colour) in looks.items():
        labels, mean, spread = curve(rows, way)
        if len(labels):
            axes.plot(labels, 100 * mean, color=colour, label=title, marker="o", markersize=3)
            axes.fill_between(
                labels, 100 * (mean - spread), 100 * (mean + spread), color=colour, alpha=0.13, linewidth=0
            )
    labels, mean, _ = curve(rows, "random")
    if len(labels):
        axes.axhline(100 * float(mean[-1]), color="#d55e00", linewidth=0.8, linestyle=":")
    axes.set(xlabel="labelled tiles", ylabel="accuracy on held-out tiles, %")
    axes.grid(color="#d8ddd8", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="RSSCN7 as class folders")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=35, help="labels before the first head")
    parser.add_argument("--batch", type=int, default=35, help="labels from one fit to the next")
    parser.add_argument("--most", type=int, default=560)
    parser.add_argument("--ways", default="random,drawn,least certain")
    parser.add_argument("--out", type=Path, default=Path("active-learning"), help="where .csv and .svg go")
    parser.add_argument("--add", action="store_true", help="keep the rows of OUT.csv, as of other seeds")
    options = parser.parse_args()
    tiles = read_class_folders(options.folder)
    points = points_of(tiles)
    path, rows = options.out.with_suffix(".csv"), []
    if options.add and path.is_file():
        with path.open(newline="") as stream:
            rows = [{**row, "labels": int(row["labels"]), "seed": int(row["seed"])} for row in csv.DictReader(stream)]
    rows += measure(points, tiles, range(options.first_seed, options.first_seed + options.seeds), options)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["way", "seed", "labels", "accuracy"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, options.out.with_suffix(".svg"))
    for way in dict.fromkeys(str(row["way"]) for row in rows):
        for n, mean, spread in zip(*curve(rows, way), strict=True):
            print(f"{way:<14}{n:>5} labels  {100 * mean:.1f} ± {100 * spread:.1f} %")
    print(verdict(rows, len(tiles.scheme)))


if __name__ == "__main__":
    main()
