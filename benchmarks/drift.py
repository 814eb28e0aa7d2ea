"""Strength of a colour cast against the verdict of the drift guard, and against what the cast does to the labels.

    python benchmarks/drift.py COUNTY [COUNTY ...] --rows 12 --columns 16

A COUNTY is a folder that holds county_A.tif, county_B.tif, truth.gpkg (cells with class_A, class_B) and m.pt, a model
trained for it. The second date is made anew from county_B.tif: its own cast is undone, then one of each strength is put on
it; strength 0 is the first date's sensor, so that only the land differs, 1 is the county's own. For each strength it prints
how often the guard fires before and after correction, the distance it measured, and the accuracy of the labels.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
from rasterio.windows import Window

import geoclass
from geoclass.change import Options, guard
from geoclass.changes.inference import infer
from geoclass.changes.series import align

GAIN, GAMMA, HUE = 0.92, 0.85, np.array([1.06, 0.97, 0.88])
"""The cast of strength 1, as the county's second date has it."""
STRENGTHS = (0, 0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
MARGIN_PX = 80


@dataclass(frozen=True)
class Run:
    """One run: how far the dates were apart before and after correction, the verdicts, and accuracies of the second date."""

    strength: float
    distance: float
    limit: float
    fired: bool
    verdict: str
    accuracy: float
    corrected_accuracy: float
    modelled_change: float


def cast(pixels: np.ndarray, strength: float) -> np.ndarray:
    """(3, h, w) uint8 with the county's own cast undone and one of `strength` put on."""
    plain = (pixels / 255.0 / (GAIN * HUE[:, None, None])).clip(0, 1) ** (1 / GAMMA)
    gamma = max(0.2, 1 + (GAMMA - 1) * strength)
    hue = (1 + (HUE - 1) * strength).clip(0.05)[:, None, None]
    return np.clip(255 * plain**gamma * max(0.05, 1 + (GAIN - 1) * strength) * hue, 1, 255).astype(np.uint8)


def run(
    county: Path, folder: Path, first: Path, truth: dict[tuple[int, int], str], strength: float, window: Window
) -> Run:
    second = folder / f"second_{strength:g}.tif"
    with rasterio.open(county / "county_B.tif") as source:
        profile = source.profile | {
            "width": window.width,
            "height": window.height,
            "transform": source.window_transform(window),
        }
        pixels = cast(source.read(window=window), strength)
    with rasterio.open(second, "w", **profile) as made:
        made.write(pixels)
    out = folder / f"out_{strength:g}"
    geoclass.classify(second, county / "m.pt", out=out, name="second", date="2016")
    paths = [first, out / "second.gpkg"]
    series = align([geoclass.read_result(path) for path in paths], paths=paths)
    _, found = guard(series, (), Options(correct=False))
    mended, drift = guard(series, (), Options())
    names = np.asarray(series.scheme.names)
    there = np.array([truth[place] for place in zip(series.columns.tolist(), series.rows.tolist(), strict=True)])
    before = found.comparisons[0]
    return Run(
        strength,
        before.distance,
        before.max_change + before.noise,
        before.drifted,
        drift.verdict,
        float((names[series.classes[:, 1]] == there).mean()),
        float((names[mended.classes[:, 1]] == there).mean()),
        float(infer(series).p_change.mean()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counties", nargs="+", type=Path)
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--columns", type=int, default=16)
    options = parser.parse_args()
    size = 224
    window = Window(MARGIN_PX, MARGIN_PX, options.columns * size, options.rows * size)
    runs: list[Run] = []
    start = time.perf_counter()
    for county in options.counties:
        cells = gpd.read_file(county / "truth.gpkg")
        left, bottom = (cells.geometry.bounds[side].to_numpy() / size for side in ("minx", "miny"))
        truth = dict(
            zip(zip(left.round().astype(int), bottom.round().astype(int), strict=True), cells["class_B"], strict=True)
        )
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with rasterio.open(county / "county_A.tif") as source, rasterio.open(
                folder / "first.tif", "w", **source.profile | {
                    "width": window.width, "height": window.height, "transform": source.window_transform(window)
                },
            ) as made:  # fmt: skip
                made.write(source.read(window=window))
            geoclass.classify(folder / "first.tif", county / "m.pt", out=folder / "out", name="first", date="2010")
            first = folder / "out" / "first.gpkg"
            for strength in STRENGTHS:
                runs.append(run(county, folder, first, truth, strength, window))
                print(county.name, runs[-1], flush=True)
    print(f"{len(runs)} runs in {(time.perf_counter() - start) / 60:.1f} min")
    print("| strength | distance | limit | fires | after correction | accuracy | corrected | modelled change |")
    print("|---|---|---|---|---|---|---|---|")
    for strength in STRENGTHS:
        some = [item for item in runs if item.strength == strength]
        verdicts = ", ".join(f"{sum(r.verdict == v for r in some)} {v}" for v in ("quiet", "corrected", "withheld"))
        mean = {
            name: float(np.mean([getattr(item, name) for item in some]))
            for name in ("distance", "limit", "accuracy", "corrected_accuracy", "modelled_change")
        }
        print(
            f"| {strength:g} | {mean['distance']:.2f} | {mean['limit']:.2f} | {sum(r.fired for r in some)} of {len(some)} | "
            f"{verdicts} | {mean['accuracy']:.3f} | {mean['corrected_accuracy']:.3f} | {mean['modelled_change']:.3f} |"
        )


if __name__ == "__main__":
    main()
