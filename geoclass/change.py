"""The road of a trend: results of several dates → series → guard → probability of change → outputs."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
from PIL import Image

from . import __version__
from .areas.strata import frame_of_change
from .bundle import load_bundle
from .changes.candidates import Candidates, rank
from .changes.chips import make_chips, views_of
from .changes.drift import (
    Comparison,
    Correction,
    Drift,
    compare,
    unchanged_tiles,
    with_probabilities,
    with_shares_of,
)
from .changes.inference import infer
from .changes.places import population_columns, read_named_aois
from .changes.posterior import THRESHOLD, Change
from .changes.series import Series, align, regrouped
from .changes.trend import Trend, trend
from .classify import Progress, Settings, run
from .errors import ChangeError, GeoclassError, OutputError, SceneError
from .files import require_absent, require_writable, spare_inputs, write_errors
from .grid import TileRange
from .history.registry import resolve
from .imagery import open_imagery
from .labels import FloatArray
from .matching import match_colours
from .outputs.candidatelist import add_candidates_layer, write_candidates_csv
from .outputs.changemap import Picture, build_change_map, write_change_map
from .outputs.changevector import write_change_gpkg
from .outputs.driftwords import drift_dict, drift_report
from .outputs.offline import OfflineMap, require_drawable
from .outputs.preview import read_preview
from .outputs.qgisproject import write_project
from .outputs.reviewpage import entries_of_candidates, write_review
from .outputs.style import to_json
from .outputs.trendreport import write_trend_report
from .outputs.trendtables import trend_dict, write_trend_tables
from .plan import Plan
from .results import read_result
from .schemes import load_scheme

REVIEWED = 100
"""Candidates on the review page; the CSV and the GeoPackage have more."""
WITHHELD = "the drift guard withholds the trend: see the report"
OVERRULED = "the drift guard would withhold this trend, which is told on demand (--force): see the report"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How dates are compared. See `change`."""

    reference: str | None = None
    max_change: float | None = None
    correct: bool = True
    model: str | Path | None = None
    device: str = "auto"
    threshold: float = THRESHOLD
    force: bool = False

    def __post_init__(self) -> None:
        for name, value in (("--max-change", self.max_change), ("--threshold", self.threshold)):
            if value is not None and not 0 <= value <= 1:
                raise ChangeError(f"{name} is {value:g}; give a number from 0 to 1")


@dataclass(frozen=True)
class ChangeResult:
    """What a comparison found. `trend` and `candidates` are None where the guard withholds them."""

    change: Change
    drift: Drift
    trend: Trend | None
    candidates: Candidates | None
    pictures: tuple[Picture | None, ...] = ()
    aois: gpd.GeoDataFrame | None = None
    files: Mapping[str, Path] = field(default_factory=dict)

    def explore(self, **options: Any) -> OfflineMap:
        """The change map, as a notebook shows it; options as for `changemap.build_change_map`."""
        return build_change_map(self.change, previews=self.pictures, aois=self.aois, **options)


def change(
    results: Sequence[str | Path],
    *,
    out: str | Path | None = None,
    dates: Sequence[str] = (),
    group: str | Path | None = None,
    built: Sequence[str] = (),
    aoi: str | Path | None = None,
    aoi_name: str | None = None,
    population: str | None = None,
    reference: str | None = None,
    max_change: float | None = None,
    correct: bool = True,
    model: str | Path | None = None,
    device: str = "auto",
    threshold: float = THRESHOLD,
    estimate: str | Path | None = None,
    title: str | None = None,
    force: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ChangeResult:
    """Compare results of two and more dates, oldest first, and with `out` write what came of it into that folder.

    dates: one for each result, in place of their own; group: a coarser scheme; built: names of the built-up classes, in
    place of the scheme's; aoi, aoi_name, population: areas to tell apart, the column of their names, and
    `2010=pop2010,…`; reference: the date that others are compared with by the guard (the first); max_change: share of the
    tiles that can really have changed since then (see `drift.plausible_change`); correct: bring a date that drifted to the reference's colours, where imagery and
    `model` (by default the one that the result names) are found; estimate: the JSON that `geoclass estimate` wrote, for
    the report;
    force: tell the trend whatever the guard says. Raises a GeoclassError for everything that bad input can cause.
    """
    options = Options(reference, max_change, correct, model, device, threshold, force)
    paths = [Path(path) for path in results]
    folder = Path(out) if out is not None else None
    if folder is not None:
        _require_free(folder, [*paths, aoi, estimate, model, group], overwrite)
    _say(progress, "reading", 0)
    if aoi is None and (aoi_name or population):
        raise ChangeError(
            "--aoi-name and --population name columns of an AOI file, and there is none; give one with --aoi"
        )
    coarse = load_scheme(group) if group is not None else None
    found = [read_result(path) for path in paths]
    ranges = [labels.range for labels in found]
    series = align(found, paths=paths, dates=dates, group=coarse, built=built)
    del found
    columns = population_columns(population) if population else {}
    require_drawable(series.range)
    aois = read_named_aois(aoi, series.grid.crs, aoi_name, tuple(columns.values())) if aoi is not None else None
    pictures = tuple(_picture(series, t, tiles) for t, tiles in enumerate(ranges))
    _say(progress, "comparing", 1)
    series, drift = guard(series, pictures, options, progress)
    told = force or not drift.withheld
    if drift.withheld:
        series = replace(series, warnings=(*series.warnings, OVERRULED if told else WITHHELD))
    joined = infer(series, threshold=threshold)
    estimated = _estimate(Path(estimate), joined) if estimate is not None else None
    result = ChangeResult(
        joined,
        drift,
        trend(joined, aois, columns, estimate=estimated),
        rank(joined) if told else None,
        pictures,
        aois,
    )
    _say(progress, "writing", 2)
    files = {}
    if folder is not None:
        files = _write(result, folder, title, Path(aoi) if aoi is not None else None, told, overwrite)
    _say(progress, "writing", 3)
    return replace(result, trend=result.trend if told else None, files=files)


def _require_free(folder: Path, inputs: Sequence[str | Path | None], overwrite: bool) -> None:
    """Check, before any work, that the outputs have a place that costs nothing that is there."""
    finals = [folder / name for name in _names(areas=True)]
    spare_inputs(finals, inputs)
    require_absent([path for path in finals if path.name != "trend.gpkg"], overwrite)
    for path in finals:
        if path.is_dir():
            raise OutputError(f"{path} is a folder and is kept; remove it, or give another -o")
    if folder.exists():
        require_writable(folder)


def _estimate(path: Path, found: Change) -> dict[str, Any]:
    """What `geoclass estimate` wrote of this very map. Raises ChangeError."""
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        of, new = told["design"]["map_digest"], told["new_built"]
        if not (
            isinstance(new, dict) and all(isinstance(new[key], int | float) for key in ("area_ha", "low_ha", "high_ha"))
        ):
            raise ValueError("it holds no estimate of new built-up land")
        by = told["design"]["strata_by"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ChangeError(
            f"{path} cannot be read as an estimate: {said}; give what geoclass estimate -o wrote"
        ) from error
    if frame_of_change(found, by).digest != of:
        raise ChangeError(f"{path} is an estimate of another map; draw a sample of this one and estimate from it")
    return told


def _say(progress: Progress | None, stage: str, done: int) -> None:
    if progress:
        progress(stage, done, 3)


# ---- the guard


def guard(
    series: Series, pictures: Sequence[Picture | None], options: Options, progress: Progress | None = None
) -> tuple[Series, Drift]:
    """Compare every date with the reference, correct those that drifted, and compare again."""
    reference = _reference(series, options.reference)
    shown = [None if picture is None else picture.over(series.range) for picture in pictures]
    comparisons, corrections = [], []
    for date in range(len(series.dates)):
        if date == reference:
            continue
        found = _compared(series, date, reference, shown, options)
        for words, mend in _remedies(series, date, reference, options, progress):
            if not found.drifted:
                break
            try:
                tried = with_probabilities(series, date, mend(series))
            except GeoclassError as error:
                log.warning("%s: could not be corrected (%s): %s", series.dates[date], words, error)
                continue
            after = _compared(tried, date, reference, shown, options)
            if after.distance < found.distance:
                corrections.append(Correction(words, found, after))
                series, found = tried, after
        comparisons.append(found)
    said = tuple(f"{item.before.date}: {item.words}" for item in corrections)
    return replace(series, warnings=(*series.warnings, *said)), Drift(tuple(comparisons), tuple(corrections))


def _reference(series: Series, date: str | None) -> int:
    if date is None:
        return 0
    if date not in series.dates:
        raise ChangeError(f"--reference {date} is none of the dates {', '.join(series.dates)}; name one of them")
    return series.dates.index(date)


def _compared(
    series: Series, date: int, reference: int, shown: Sequence[Image.Image | None], options: Options
) -> Comparison:
    return compare(series, date, reference=reference, max_change=options.max_change, pictures=shown)


Remedy = tuple[str, Callable[[Series], FloatArray]]


def _remedies(
    series: Series, date: int, reference: int, options: Options, progress: Progress | None
) -> Iterator[Remedy]:
    """What to try on a date, in words, and as a function of the series as it then is to the date's (N, K) probabilities."""
    if not options.correct:
        return
    known = series.dates[reference]
    try:
        plan = _plan(series, date, reference, options)
    except GeoclassError as error:
        log.warning("%s: its colours cannot be matched to those of %s: %s", series.dates[date], known, error)
    else:
        yield (
            f"colours matched to those of {known} and classified again",
            lambda now: _classified(now, plan, options, progress),
        )
    yield (
        f"class shares brought to those of {known} on the tiles presumed unchanged",
        lambda now: with_shares_of(now, date, reference=reference, max_change=options.max_change),
    )


def _plan(series: Series, date: int, reference: int, options: Options) -> Plan:
    """A run over the common tiles of one date, in the colours of the reference. Raises GeoclassError."""
    source, like = series.sources[date], series.sources[reference].path
    named = options.model or source.info.get("model")
    if source.path is None or like is None or not named:
        raise SceneError("the results do not say where imagery and model are; name the model with --model")
    bundle = load_bundle(resolve(named))
    if bundle.digest != source.info.get("bundle"):
        raise ChangeError(f"{named} is not the model that {source.path} was made with; name that with --model")
    mosaic = open_imagery(source.info, source.path)
    kept = unchanged_tiles(series, date, reference, options.max_change)
    plan = Plan(
        name=mosaic.name,
        mosaic=mosaic,
        bundle=bundle,
        grid=series.grid,
        columns=series.columns,
        rows=series.rows,
        min_valid=0.0,
        date=series.dates[date],
        aoi=None,
        aoi_rule="touches",
        model=str(named),
    )
    return match_colours(plan, like, unchanged=np.stack([series.columns[kept], series.rows[kept]], axis=1))


def _classified(series: Series, plan: Plan, options: Options, progress: Progress | None) -> FloatArray:
    """(N, K) the probabilities of the common tiles under `plan`, in the series' scheme."""
    labels = run(plan, Settings(device=options.device, force=True), progress).labels
    if labels.scheme.names != series.scheme.names:
        labels = regrouped(labels, series.scheme)
    if len(labels) != len(series):
        raise ChangeError(f"{plan.name} has lost ground since it was classified; classify it again")
    return labels.probabilities


# ---- what is written


def _names(areas: bool) -> list[str]:
    return [
        "change.gpkg",
        "change.json",
        "change.html",
        "report.html",
        "change.qgz",
        "transitions.csv",
        "candidates.csv",
        "review.html",
        "trend.csv",
        "trend.json",
        *(["trend.gpkg"] if areas else []),
    ]


def _picture(series: Series, date: int, tiles: TileRange) -> Picture | None:
    """The preview beside a date's result, over `tiles`, the range of that result's own."""
    path = series.sources[date].path
    image = read_preview(path.with_suffix(".preview.tif")) if path is not None else None
    return None if image is None else Picture(image, tiles)


def _write(
    result: ChangeResult, out: Path, title: str | None, aoi: Path | None, told: bool, overwrite: bool
) -> dict[str, Path]:
    """Write everything into a folder beside the outputs, then move it into place."""
    require_writable(out)
    with write_errors(out):
        staging = Path(tempfile.mkdtemp(prefix=".change-", dir=out))
    try:
        _write_into(staging, out, result, title, aoi, told)
        names = sorted(path.name for path in staging.iterdir())
        with write_errors(out):
            for name in _names(areas=True):
                # An older trend must not stay beside findings that withhold it.
                if overwrite and name not in names:
                    (out / name).unlink(missing_ok=True)
            for name in names:
                (staging / name).replace(out / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return {name: out / name for name in names}


def _write_into(
    folder: Path, home: Path, result: ChangeResult, title: str | None, aoi: Path | None, told: bool
) -> None:
    found, series = result.change, result.change.series
    assert result.trend is not None
    report = drift_report(result.drift, series.scheme, told=told)
    info = {"geoclass_version": __version__, "drift": result.drift.verdict}
    write_change_gpkg(
        found, folder / "change.gpkg", info=info, hot_spots=result.trend.hotspots.hot if told else None, home=home
    )
    write_change_map(folder / "change.html", found, previews=result.pictures, aois=result.aois, title=title)
    pictures = [_array(picture, series.range) for picture in result.pictures]
    write_trend_report(folder / "report.html", result.trend, found, drift=report, pictures=pictures, title=title)
    if told and result.candidates is not None:
        write_trend_tables(folder, result.trend, series)
        write_candidates_csv(result.candidates, folder / "candidates.csv")
        add_candidates_layer(result.candidates, folder / "change.gpkg")
        _write_candidates_page(folder / "review.html", rank(found, most=REVIEWED))
    write_project(folder / "change.qgz", found, folder / "change.gpkg", aoi=aoi, home=home)
    summary = {
        "geoclass": __version__,
        "dates": list(series.dates),
        "results": [str(source.path) for source in series.sources],
        "tiles": len(series),
        "uncovered_tiles": len(series.uncovered),
        "built": list(series.built),
        "open": list(series.open),
        "threshold": found.threshold,
        "prior": {"start": found.prior.start, "transitions": found.prior.transitions},
        "warnings": list(series.warnings),
        "drift": drift_dict(result.drift, series.scheme),
        "trend": trend_dict(result.trend, series) if told else None,
    }
    (folder / "change.json").write_text(to_json(summary, indent=1) + "\n", encoding="utf-8")


def _array(picture: Picture | None, tiles: TileRange) -> npt.NDArray[np.uint8] | None:
    return None if picture is None else np.asarray(picture.over(tiles), np.uint8)


def _write_candidates_page(path: Path, best: Candidates) -> None:
    """The review page of the best candidates; none where there is no candidate."""
    if not len(best):
        return
    series = best.change.series
    chips = make_chips(series.grid, series.columns[best.index], series.rows[best.index], views_of(series))
    write_review(
        path,
        entries_of_candidates(best),
        chips,
        purpose="candidates",
        scheme=series.scheme,
        built=series.built,
        map_page="change.html",
        notes=series.warnings,
    )
