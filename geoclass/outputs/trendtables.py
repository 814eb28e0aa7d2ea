"""The figures of a trend as files: a table of hectares, one of transitions, all of it as JSON, areas as GeoPackage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyogrio

from .. import __version__
from ..changes.rates import Consumption, exchange
from ..changes.series import Series
from ..changes.trend import Step, Trend
from ..files import replacing, require_absent
from ..grid import crs_text
from .geopackage import GEOMETRY, GPKG_VERSION, finish
from .style import to_json

BUILT = "built-up"
"""What the rows of all built-up classes together are called; their `level` is `group`, that of classes `class`."""
AREAS_LAYER = "trend"
DIGITS = 6


def write_trend_tables(folder: Path, trend: Trend, series: Series, *, overwrite: bool = False) -> list[Path]:
    """Write transitions.csv, trend.csv and trend.json into `folder`, and trend.gpkg if there are areas; return these.

    They are moved into place together once all are written. Raises OutputError.
    """
    paths = [folder / name for name in ("transitions.csv", "trend.csv", "trend.json")]
    areas = [folder / "trend.gpkg"] if len(trend.places) > 1 else []
    require_absent([*paths, *areas], overwrite)
    texts = (
        transitions_table(trend).to_csv(index=False, lineterminator="\n"),
        trend_table(trend).to_csv(index=False, lineterminator="\n"),
        to_json(trend_dict(trend, series), indent=1) + "\n",
    )
    with ExitStack() as stack:
        for path, text in zip(paths, texts, strict=True):
            stack.enter_context(replacing(path, overwrite)).write_bytes(text.encode("utf-8", "replace"))
        for path in areas:
            _write_areas(stack.enter_context(replacing(path, overwrite)), areas_frame(trend, series))
    return paths + areas


def trend_table(trend: Trend) -> pd.DataFrame:
    """One row for each area, date and class, and for built-up land as a whole.

    mapped_ha, expected_ha, single_date_ha and their shares of the covered ground; then, since the date before
    (`_since_previous`) and since the first (`_since_first`): gain, loss, net and swap in hectares, growth as a share a
    year, and for built-up land `lcr`, `lcr_log`, `pgr` and `ratio` of SDG 11.3.1. Empty where there is no figure.
    """
    frame = pd.DataFrame(list(_rows(trend)))
    figures = frame.select_dtypes("number").columns
    return frame.assign(**{name: frame[name].round(DIGITS) for name in figures})


def _rows(trend: Trend) -> Iterator[dict[str, Any]]:
    for a, place in enumerate(trend.places):
        for t, date in enumerate(trend.dates):
            since = {"previous": _step_to(trend, t, t - 1), "first": _step_to(trend, t, 0)}
            for k, name in enumerate((*trend.scheme.names, BUILT)):
                group = k == len(trend.scheme)
                members = trend.is_built if group else np.arange(len(trend.scheme)) == k
                yield {
                    "area": place.name,
                    "date": date,
                    "level": "group" if group else "class",
                    "class": name,
                    **_stock(trend, a, t, members),
                    **{
                        f"{figure}_since_{name}": value
                        for name, step in since.items()
                        for figure, value in _flow(trend, a, step, members, group).items()
                    },
                }


def _step_to(trend: Trend, after: int, before: int) -> Step | None:
    """The step between two dates, made from the matrices there are; None where `before` is not earlier.

    Only consecutive dates and the whole have a matrix, so that of the first date to one in between is None.
    """
    return next((step for step in trend.steps if (step.before, step.after) == (before, after)), None)


def _stock(trend: Trend, a: int, t: int, members: npt.NDArray[np.bool_]) -> dict[str, float]:
    whole = trend.places[a].covered_ha
    found = {}
    for name, hectares in (
        ("mapped", trend.mapped_ha),
        ("expected", trend.expected_ha),
        ("single_date", trend.single_ha),
    ):
        value = float(hectares[a, t, members].sum()) if whole > 0 else float("nan")
        found[f"{name}_ha"] = value
        found[f"{name}_share"] = value / whole if whole > 0 else float("nan")
    return found


def _flow(
    trend: Trend, a: int, step: Step | None, members: npt.NDArray[np.bool_], group: bool
) -> dict[str, float | None]:
    names = ("gain_ha", "loss_ha", "net_ha", "swap_ha", "growth_per_year", "lcr", "lcr_log", "pgr", "ratio")
    if step is None or not trend.places[a].tiles:
        return dict.fromkeys(names)
    matrix = step.matrices[a]
    rest = ~members
    two = np.array([[matrix[np.ix_(i, j)].sum() for j in (members, rest)] for i in (members, rest)])
    found = exchange(two)
    sdg = trend.consumption(a, step) if group else None
    values = (
        *(float(part[0]) for part in (found.gain, found.loss, found.net, found.swap)),
        trend.growth(a, step, np.asarray(trend.mapped_ha[:, :, members].sum(axis=2))),
        *([sdg.lcr, sdg.lcr_log, sdg.pgr, sdg.ratio] if sdg else [None] * 4),
    )
    return dict(zip(names, values, strict=True))


def transitions_table(trend: Trend) -> pd.DataFrame:
    """One row for each area, step and pair of classes: mapped hectares that went from one to the other (or stayed), and
    their share of what the earlier class had. Steps are between consecutive dates, then from the first to the last."""
    names = np.asarray(trend.scheme.names, dtype=object)
    count = len(names)
    parts = []
    for step in trend.steps:
        had = step.matrices.sum(axis=2, keepdims=True)
        share = np.divide(step.matrices, had, out=np.full(step.matrices.shape, np.nan), where=had > 0)
        parts.append(
            pd.DataFrame(
                {
                    "area": np.repeat([place.name for place in trend.places], count * count),
                    "from_date": trend.dates[step.before],
                    "to_date": trend.dates[step.after],
                    "from_class": np.tile(np.repeat(names, count), len(trend.places)),
                    "to_class": np.tile(names, count * len(trend.places)),
                    "hectares": step.matrices.ravel().round(DIGITS),
                    "share_of_from": share.ravel().round(DIGITS),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def trend_dict(trend: Trend, series: Series) -> dict[str, Any]:
    """Everything as plain values for JSON: dates, places, ledgers, kinds, hot spots, SDG 11.3.1, and the tables' figures."""
    names = trend.scheme.names
    return {
        "geoclass": __version__,
        "crs": crs_text(series.grid.crs),
        "tile_side_m": series.grid.side_m,
        "tiles": len(series),
        "tiles_not_covered_on_every_date": len(series.uncovered),
        "scheme": trend.scheme.name,
        "classes": names,
        "built": trend.built,
        "dates": trend.dates,
        "years": trend.years,
        "estimate": trend.estimate,
        "kinds": trend.kinds,
        "new_built_tiles": trend.new_tiles,
        "hotspots": {"tiles": int(trend.hotspots.hot.sum()), "false_discovery_rate": trend.hotspots.fdr},
        "ledger": [
            {
                "from": trend.dates[item.before],
                "to": trend.dates[item.after],
                "tiles": item.tiles,
                "changed_by_single_dates": item.raw,
                "changed_by_all_dates": item.joint,
                "changed_by_both": item.both,
                "taken_for_flicker": item.dropped,
            }
            for item in trend.ledgers
        ],
        "areas": [_area(trend, a) for a in range(len(trend.places))],
        "warnings": trend.warnings,
    }


def _area(trend: Trend, a: int) -> dict[str, Any]:
    place, names = trend.places[a], trend.scheme.names
    return {
        "name": place.name,
        "area_ha": place.area_ha,
        "covered_ha": place.covered_ha,
        "tiles": place.tiles,
        "people": dict(zip(trend.dates, place.people, strict=True)),
        "dates": [
            {
                "date": date,
                "built_ha": trend.built_ha[a, t],
                "built_expected_ha": trend.expected_ha[a, t, trend.is_built].sum(),
                "classes": {
                    name: {
                        "mapped_ha": trend.mapped_ha[a, t, k],
                        "expected_ha": trend.expected_ha[a, t, k],
                        "single_date_ha": trend.single_ha[a, t, k],
                    }
                    for k, name in enumerate(names)
                },
            }
            for t, date in enumerate(trend.dates)
        ],
        "steps": [_step(trend, a, step) for step in trend.steps] if place.tiles else [],
        "new_built_mapped_ha": trend.new_mapped_ha[a],
        "new_built_expected_ha": trend.new_expected_ha[a],
        "new_built_single_dates_ha": trend.new_single_ha[a],
        "hotspot_tiles": int(trend.hot_tiles[a]),
    }


def _step(trend: Trend, a: int, step: Step) -> dict[str, Any]:
    moved = trend.built_exchange(step)
    return {
        "from": trend.dates[step.before],
        "to": trend.dates[step.after],
        "years": step.years,
        "built_gain_ha": moved.gain[a],
        "built_loss_ha": moved.loss[a],
        "built_net_ha": moved.net[a],
        "built_growth_per_year": trend.growth(a, step),
        "sdg_11_3_1": consumption_dict(trend.consumption(a, step)),
        "matrix_ha": step.matrices[a],
    }


def consumption_dict(found: Consumption) -> dict[str, float]:
    return {
        "land_consumption_rate": found.lcr,
        "land_consumption_rate_log": found.lcr_log,
        "population_growth_rate": found.pgr,
        "ratio": found.ratio,
        "ratio_log": found.ratio_log,
    }


def areas_frame(trend: Trend, series: Series) -> gpd.GeoDataFrame:
    """One row for each area of interest, in the grid's CRS, with the main figures as columns."""
    step = trend.whole
    moved, built = trend.built_exchange(step), trend.built_ha
    expected = trend.expected_ha[:, :, trend.is_built].sum(axis=2)
    rows = []
    for a, place in enumerate(trend.places[1:], start=1):
        sdg = trend.consumption(a, step)
        known = place.tiles > 0
        rows.append(
            {
                "name": place.name,
                "area_ha": place.area_ha,
                "covered_ha": place.covered_ha,
                "tiles": place.tiles,
                **{f"built_ha_{date}": built[a, t] if known else None for t, date in enumerate(trend.dates)},
                **{f"expected_ha_{date}": expected[a, t] if known else None for t, date in enumerate(trend.dates)},
                "gain_ha": moved.gain[a] if known else None,
                "loss_ha": moved.loss[a] if known else None,
                "net_ha": moved.net[a] if known else None,
                "growth_per_year": trend.growth(a, step),
                **consumption_dict(sdg),
                "new_built_ha": trend.new_mapped_ha[a] if known else None,
                "new_built_expected_ha": trend.new_expected_ha[a] if known else None,
                "hotspot_tiles": int(trend.hot_tiles[a]),
            }
        )
    shapes = [place.geometry for place in trend.places[1:]]
    return gpd.GeoDataFrame(pd.DataFrame(rows), geometry=shapes, crs=series.grid.crs)


def _write_areas(path: Path, frame: gpd.GeoDataFrame) -> None:
    pyogrio.write_dataframe(
        frame,
        path,
        layer=AREAS_LAYER,
        driver="GPKG",
        promote_to_multi=True,
        GEOMETRY_NAME=GEOMETRY,
        SPATIAL_INDEX="YES",
        VERSION=GPKG_VERSION,
        IDENTIFIER="Trend of built-up land by area",
        DESCRIPTION="Mapped hectares have no interval; shares and rates are a year, 0.01 for one per cent.",
    )
    finish(path, AREAS_LAYER, len(frame), ())


def hotspot_columns(trend: Trend) -> dict[str, npt.NDArray[Any]]:
    """Columns for the change layer, (N,) each: hotspot_z (Gi*), and hotspot 1 for hot, -1 for cold, 0 for neither."""
    return {"hotspot_z": trend.hotspots.z.astype(np.float32), "hotspot": trend.hotspots.level.astype(np.int32)}
