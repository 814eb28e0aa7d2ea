"""The demonstration: the whole road on a synthetic county at two dates, up to a trend, with its known truth beside it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio

from .areas.estimate import Estimate, estimate
from .areas.sample import Sample, write_sample
from .areas.sampling import draw_sample
from .areas.telling import write_estimate
from .change import ChangeResult, change
from .classify import Result, classify
from .county import County, make_county
from .errors import GeoclassError
from .files import require_absent, require_writable
from .tile import tile
from .train import train_to_file

Progress = Callable[[str, int, int], None]

PURE = 0.8
"""A tile is called pure when this share of its ground has one class."""
SAMPLED_SHARE = 0.3
"""Part of the tiles that the demo's reviewer, the truth itself, looks at."""
LEAST_SAMPLED = 30

MADE = (
    "README.md",
    "m.pt",
    "results",
    "training",
    "trend",
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
| `trend/report.html` | **open this in a browser**: what changed from {a} to {b}, where, how sure; it needs no network |
| `trend/change.html` | **and this**: the map of the change, with a swipe between the years |
| `trend/change.qgz` | **open this in QGIS**: the change and both years, styled |
| `trend/sample.gpkg`, `trend/answers.csv`, `trend/estimate.json` | the random sample, what the truth says of it, the estimate |
| `results/county_{b}.html` | the map of {b} |
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
    geoclass change results/county_{a}.gpkg results/county_{b}.gpkg --date {a} --date {b} -o trend
    geoclass sample trend/change.gpkg --allocation neyman --total {sampled} --min-per-stratum {least} -o trend/sample.gpkg
    geoclass estimate trend/sample.gpkg --map trend/change.gpkg --answers trend/answers.csv -o trend/estimate.json

| date | tiles | accuracy | of pure tiles | Developed, truth | Developed, mapped |
|---|---|---|---|---|---|
{scores}

Differences between the two mapped areas are not a trend: they mix real growth with the model's errors. This is one:

| new built-up land, {a} to {b} | hectares |
|---|---|
| truth | {true:,.0f} |
| comparing the two maps tile by tile | {single:,.0f} |
| mapped, where both dates together say so | {mapped:,.0f} |
| **estimated from {answered:,} sampled tiles** | **{value:,.0f} ± {half:,.0f}** (95 %); allowing for what may hide: {low:,.0f} to {high:,.0f} |

The sample was answered by the known truth, tile by tile; with real imagery somebody looks at the pictures, on the page that
`geoclass sample` writes.
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
class Growth:
    """New built-up land in hectares: in truth, by comparing the two maps tile by tile, as mapped by both dates together,
    and as estimated from a random sample of tiles, with its 95 % interval and the cautious one (see `areas.estimation`)."""

    truth_ha: float
    single_ha: float
    mapped_ha: float
    estimate: Estimate

    @property
    def interval_ha(self) -> tuple[float, float]:
        """The cautious interval, which the truth should lie in."""
        assert self.estimate.cautious_ha is not None
        return self.estimate.cautious_ha


@dataclass(frozen=True)
class Demo:
    """What the demonstration left: the county, a score a date, the growth, and the files to look at, oldest date first."""

    county: County
    scores: tuple[Score, ...]
    growth: Growth
    results: tuple[Path, ...]
    maps: tuple[Path, ...]
    trend: Path
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
    """Make a county of `rows` × `columns` tiles in `out`, train, classify both dates, tell the trend, and score all of it.

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
    model = out / "m.pt"
    train_to_file(county.training, model, gsd_m=county.grid.gsd_m, seed=seed, progress=progress)
    results: list[Result] = []
    for number, date in enumerate(county.dates):
        inputs = county.scenes[date]
        name = f"county_{date}"
        if number == 0:
            # The road with a tile index for the first date, the one without for the second.
            inputs = tile([inputs], out=out, name=name, progress=progress).path
        results.append(classify(inputs, model, out=out / "results", name=name, date=date, progress=progress))
    scores = tuple(score(result, county, date) for result, date in zip(results, county.dates, strict=True))
    folder = out / "results"
    growth = _growth(county, [folder / f"county_{date}.gpkg" for date in county.dates], out / "trend", seed, progress)
    readme = out / "README.md"
    readme.write_text(_readme(county, scores, growth), encoding="utf-8")
    return Demo(
        county,
        scores,
        growth,
        tuple(folder / f"county_{date}.gpkg" for date in county.dates),
        tuple(folder / f"county_{date}.html" for date in county.dates),
        out / "trend" / "report.html",
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


def _growth(county: County, results: list[Path], out: Path, seed: int, progress: Progress | None) -> Growth:
    """Compare the dates, draw a sample, let the truth answer it, and estimate."""
    found = change(results, out=out, dates=county.dates, progress=progress)
    map_, total = out / "change.gpkg", max(4 * LEAST_SAMPLED, round(SAMPLED_SHARE * len(found.change)))
    sample = draw_sample(map_, total=total, allocation="neyman", least=LEAST_SAMPLED, seed=seed)
    write_sample(sample, out / "sample.gpkg")
    answers = out / "answers.csv"
    truth = pyogrio.read_dataframe(county.truth, layer="truth")
    _answered(sample, truth, county).to_csv(answers, index=False)
    estimated = estimate(sample, map_, answers=[answers])
    write_estimate(estimated, out / "estimate.json")
    # Once more, with the estimate in the report.
    told = change(results, out=out, dates=county.dates, estimate=out / "estimate.json", overwrite=True)
    return _compared(told, truth, county, estimated)


def _answered(sample: Sample, truth: pd.DataFrame, county: County) -> pd.DataFrame:
    """The truth of each sampled tile, as a review page would have saved it."""
    known = truth.set_index("tile_id").loc[sample.tile_ids]
    return pd.DataFrame(
        {
            "sample_id": sample.design.sample_id,
            "tile_id": sample.tile_ids,
            **{f"class_{date}": known[f"class_{date}"].to_numpy() for date in county.dates},
            "reviewer": "truth",
        }
    )


def _compared(told: ChangeResult, truth: pd.DataFrame, county: County, estimated: Estimate) -> Growth:
    series, trend = told.change.series, told.trend
    known = truth.set_index("tile_id").loc[series.tile_ids]
    first, last = county.dates
    new = np.isin(known[f"class_{first}"], series.open) & np.isin(known[f"class_{last}"], series.built)
    mapped = float((told.change.new_built * series.areas_m2).sum() / 1e4)
    single = float(trend.new_single_ha[0]) if trend is not None else float("nan")
    return Growth(float((new * series.areas_m2).sum() / 1e4), single, mapped, estimated)


def _clear(out: Path) -> None:
    """Remove an earlier demo, whole or interrupted: a folder in which everything is called as the demo calls it."""
    if not out.is_dir() or not any(out.glob("county_*.tif")):
        raise GeoclassError(f"{out} is there but is no earlier demo; choose another folder with -o")
    foreign = sorted(path.name for path in out.iterdir() if not any(path.match(known) for known in MADE))
    if foreign:
        raise GeoclassError(f"{out} holds {foreign[0]}, which the demo did not make; move it, or choose another -o")
    shutil.rmtree(out)


def _readme(county: County, scores: tuple[Score, ...], growth: Growth) -> str:
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
    estimated, (low, high) = growth.estimate, growth.interval_ha
    assert estimated.new_built is not None
    return README.format(
        a=a,
        b=b,
        scores="\n".join(lines),
        true=growth.truth_ha,
        single=growth.single_ha,
        mapped=growth.mapped_ha,
        value=estimated.new_built.ha.value,
        half=estimated.new_built.ha.half,
        low=low,
        high=high,
        answered=sum(item.counted for item in estimated.strata),
        sampled=sum(item.drawn for item in estimated.strata),
        least=LEAST_SAMPLED,
        **names,
    )
