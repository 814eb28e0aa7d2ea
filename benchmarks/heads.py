"""Accuracy of every head on RSSCN7: half of each class to train on, half to test on, mean over seeded splits.

    python benchmarks/heads.py ../shared/data/rsscn7_224 --backbone efficientnet_lite0 --input-px 224 --splits 5
    python benchmarks/heads.py ../shared/data/rsscn7_224 --head finetune --input-px 160 --splits 2

Heads: features of all tiles are computed once, then every head is fitted to the training half of each split and scored on
the other, for one view a tile and for the mean over 4 and 8. Fine-tuning trains anew for each split.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
import torch
from sklearn.model_selection import train_test_split

from geoclass import backbones
from geoclass.bundle import Bundle
from geoclass.datasets.tileset import TEST, TRAIN, TileSet, read_class_folders
from geoclass.evaluation.assessment import predict_tiles
from geoclass.forest import probabilities
from geoclass.learning.features import extract_features
from geoclass.learning.finetune import Recipe
from geoclass.learning.heads import Labelled, fit_head
from geoclass.predict import brightness_of
from geoclass.runtimes.answers import keep_large_buffers
from geoclass.runtimes.shrinking import resampled
from geoclass.train import Method, train
from geoclass.views import dihedral

VIEWS = (1, 4, 8)


def split(tiles: TileSet, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return train_test_split(np.arange(len(tiles)), test_size=0.5, random_state=seed, stratify=tiles.classes)


@torch.inference_mode()
def dihedral_features(network: torch.nn.Module, tiles: TileSet, side: int, norm: backbones.Normalisation) -> np.ndarray:
    """(N, 8, F) features of the eight turns and mirrored turns."""
    frozen = backbones.feature_network(network)
    ready = backbones.place(backbones.fuse(frozen, torch.zeros(2, 3, side, side)), torch.device("cpu"))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (norm.mean, norm.std))
    found = []
    for start in range(0, len(tiles), 32):
        pixels = tiles.read(np.arange(start, min(len(tiles), start + 32)))
        x = (resampled(brightness_of(pixels, tiles.sensor, torch.device("cpu")), side) - mean) / std
        views = dihedral(x, 8)
        found.append(torch.stack([ready(v.contiguous(memory_format=torch.channels_last)) for v in views], 1))
    return torch.cat(found).numpy()


def heads(tiles: TileSet, backbone: str, side: int, splits: int, kinds: list[str]) -> None:
    network, norm = backbones.build(backbone, classes=2), backbones.normalisation(backbone)
    start = time.perf_counter()
    features = extract_features(network, tiles, norm, input_px=side, cache=False)
    seconds = (time.perf_counter() - start) / 2  # the training half's share
    judged = dihedral_features(network, tiles, side, norm)
    for kind in kinds:
        for averaged in (False, True):
            scores: dict[int, list[float]] = {count: [] for count in VIEWS}
            fitting = []
            for seed in range(splits):
                fit, test = split(tiles, seed)
                start = time.perf_counter()
                labelled = Labelled(features[fit], tiles.classes[fit], len(tiles.scheme))
                head = fit_head(kind, labelled, averaged=averaged, seed=seed)
                fitting.append(time.perf_counter() - start)
                for count in VIEWS:
                    logits = judged[test, :count].mean(axis=1) @ head.weight.T + head.bias
                    if head.forest is not None:
                        logits = probabilities(head.forest, logits.astype(np.float32), len(tiles.scheme))
                    scores[count].append(float((logits.argmax(axis=1) == tiles.classes[test]).mean()))
            minutes = (seconds + float(np.mean(fitting))) / 60
            told = ", ".join(f"{c} views {100 * np.mean(s):.1f} ± {100 * np.std(s):.1f}" for c, s in scores.items())
            chosen = "mean of views" if averaged else "one view"
            print(f"{backbone} {side} px {kind}, strength by {chosen}: {told}; {minutes:.1f} min", flush=True)


def tuned(tiles: TileSet, backbone: str, side: int, splits: int, epochs: int) -> None:
    for seed in range(splits):
        fit, test = split(tiles, seed)
        start = time.perf_counter()
        method = Method(head="finetune", backbone=backbone, input_px=side, views=1, recipe=Recipe(epochs=epochs))
        whole = replace(tiles, split=np.where(np.isin(np.arange(len(tiles)), fit), TRAIN, TEST))
        trained = train(whole, method, on_epoch=lambda epoch: print(epoch, flush=True))
        minutes = (time.perf_counter() - start) / 60
        told = []
        for count in VIEWS:
            meta = trained.meta.model_copy(update={"views": count})
            answers = predict_tiles(tiles.take(np.sort(test)), Bundle(meta, trained.state, ""))
            accuracy = (answers.argmax(axis=1) == tiles.classes[np.sort(test)]).mean()
            told.append(f"{count} views {100 * accuracy:.1f}")
        print(f"{backbone} {side} px fine-tuned, split {seed}: {', '.join(told)}; {minutes:.1f} min", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="RSSCN7 as class folders")
    parser.add_argument("--backbone", default=backbones.DEFAULT)
    parser.add_argument("--input-px", type=int, default=224)
    parser.add_argument("--head", choices=("logistic", "svm", "forest", "all", "finetune"), default="all")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    keep_large_buffers()
    tiles = read_class_folders(options.folder)
    if options.head == "finetune":
        tuned(tiles, options.backbone, options.input_px, options.splits, options.epochs)
    else:
        kinds = ["logistic", "svm", "forest"] if options.head == "all" else [options.head]
        heads(tiles, options.backbone, options.input_px, options.splits, kinds)


if __name__ == "__main__":
    main()
