"""The demonstration: the whole road on a synthetic county at two dates, with its known truth beside the result."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio

from .classify import Result, classify
from .county import County, make_county
from .errors import GeoclassError
from .files import require_absent, require_writable
from .tile import tile
from .train import train_to_file

Progress = Callable[[str, int, int], None]

PURE = 0.8
"""A tile is called pure when this share of its ground has one class."""

MADE = (
    "README.md",
    "m.pt",
    "results",
    "training",
    "truth.gpkg",
    "county_*",
    "nlcd_*",
    ".county_*",
    ".nlcd_*",
    ".truth*",
    ".m-*",
)
"""What a demo's folder holds."""

README = """# The geoclass demo: a synthetic county

Nothing here is a real place. The county is drawn by geoclass from a seed, so that its true land cover is known
everywhere; accuracy measured on it shows that the tool works, and says nothing of accuracy on real imagery.

| file | what it is |
|---|---|
| `results/county_{b}.html` | **open this in a browser**: the map of {b}; it needs no network |
| `results/county_{b}.gpkg` | **load this into QGIS**: tiles with class and probabilities, styled; beside it {a} |
| `results/county_{b}.tif` | the classes as a raster of one pixel a tile, styled too |
| `results/county_{b}.preview.tif` | the imagery at a few pixels a tile |
| `results/county_{b}.json` | areas, timings, what was run |
| `{scene_a}`, `{scene_b}` | the imagery: 1 m, three bands, EPSG:26919, two dates with another season and sensor response |
| `{labels_a}`, `{labels_b}` | the truth as an NLCD-like label raster at 30 m |
| `{truth}` | the truth for every tile: class at both dates, purity, changed |
| `{training}/` | the training tiles, one folder a class, drawn at another place |
| `m.pt` | the model bundle trained on them |
| `county_{a}.tiles.gpkg` | the tile index that `geoclass tile` made |

The same by hand, in this folder:

    geoclass train {training} -o m.pt --gsd 1
    geoclass doctor {scene_a} --model m.pt
    geoclass tile {scene_a} --name county_{a}
    geoclass classify --model m.pt -o results
    geoclass classify {scene_b} --model m.pt -o results --name county_{b}

| date | tiles | accuracy | of pure tiles | Developed, truth | Developed, mapped |
|---|---|---|---|---|---|
{scores}

Differences between the two mapped areas are not a trend: they mix real growth with the model's errors.
"""


@dataclass(frozen=True)
class Score:
    """Agreement with the truth at one date: tiles compared, share right, share right of pure tiles, hectares built-up."""

    date: str
    tiles: int
    accuracy: float
    pure_accuracy: float
    built_truth_ha: float
    built_mapped_ha: float


@dataclass(frozen=True)
class Demo:
    """What the demonstration left: the county, a score a date, and the files to look at, oldest date first."""

    county: County
    scores: tuple[Score, ...]
    results: tuple[Path, ...]
    maps: tuple[Path, ...]
    readme: Path


def demo(
    out: Path,
    *,
    rows: int = 24,
    columns: int = 32,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Demo:
    """Make a county of `rows` × `columns` tiles in `out`, train, classify both dates and score them.

    Raises OutputError where `out` exists (unless `overwrite`), GeoclassError for a size that is no county.
    """
    if rows < 2 or columns < 2 or rows * columns > 1_000_000:
        raise GeoclassError(
            f"a county of {rows} x {columns} tiles cannot be made; give --rows and --columns of 2 or more"
        )
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        require_absent([out], overwrite)
        _clear(out)
    require_writable(out)
    county = make_county(out, rows=rows, columns=columns, seed=seed, tiles_per_class=40, progress=progress)
    bundle = train_to_file(county.training, out / "m.pt", gsd_m=county.grid.gsd_m, seed=seed, progress=progress)
    results: list[Result] = []
    for number, date in enumerate(county.dates):
        inputs = county.scenes[date]
        name = f"county_{date}"
        if number == 0:
            # The road with a tile index for the first date, the one without for the second.
            inputs = tile([inputs], out=out, name=name, progress=progress).path
        results.append(classify(inputs, bundle, out=out / "results", name=name, date=date, progress=progress))
    scores = tuple(score(result, county, date) for result, date in zip(results, county.dates, strict=True))
    readme = out / "README.md"
    readme.write_text(_readme(county, scores), encoding="utf-8")
    folder = out / "results"
    return Demo(
        county,
        scores,
        tuple(folder / f"county_{date}.gpkg" for date in county.dates),
        tuple(folder / f"county_{date}.html" for date in county.dates),
        readme,
    )


def score(result: Result, county: County, date: str) -> Score:
    """Compare a result with the truth, tile by tile, by tile id."""
    truth = pyogrio.read_dataframe(county.truth, layer="truth")
    labels: gpd.GeoDataFrame = result.to_gdf()
    both = labels.merge(truth.drop(columns="geometry"), on="tile_id", suffixes=("", "_truth"))
    right = (both["class"] == both[f"class_{date}"]).to_numpy()
    pure = (both[f"purity_{date}"] >= PURE).to_numpy()
    built = result.labels.scheme.groups["built"]
    area_ha = both["valid_fraction"].to_numpy() * county.grid.tile_area_m2 / 1e4
    return Score(
        date,
        len(both),
        float(right.mean()),
        float(right[pure].mean()) if pure.any() else float("nan"),
        float(area_ha[np.isin(both[f"class_{date}"], built)].sum()),
        float(area_ha[np.isin(both["class"], built)].sum()),
    )


def _clear(out: Path) -> None:
    """Remove an earlier demo, whole or interrupted: a folder in which everything is called as the demo calls it."""
    if not out.is_dir() or not any(out.glob("county_*.tif")):
        raise GeoclassError(f"{out} is there but is no earlier demo; choose another folder with -o")
    foreign = sorted(path.name for path in out.iterdir() if not any(path.match(known) for known in MADE))
    if foreign:
        raise GeoclassError(f"{out} holds {foreign[0]}, which the demo did not make; move it, or choose another -o")
    shutil.rmtree(out)


def _readme(county: County, scores: tuple[Score, ...]) -> str:
    a, b = county.dates
    inside = {
        "scene_a": county.scenes[a],
        "scene_b": county.scenes[b],
        "labels_a": county.labels[a],
        "labels_b": county.labels[b],
        "truth": county.truth,
        "training": county.training,
    }
    lines = [
        f"| {s.date} | {s.tiles:,} | {s.accuracy:.1%} | {s.pure_accuracy:.1%} | {s.built_truth_ha:,.0f} ha | {s.built_mapped_ha:,.0f} ha |"
        for s in scores
    ]
    names = {key: path.relative_to(county.folder).as_posix() for key, path in inside.items()}
    return README.format(a=a, b=b, scores="\n".join(lines), **names)
