"""The planner's report: one HTML page that needs no network, from the figures of a trend and the change behind it."""

from __future__ import annotations

import base64
import math
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from .. import __version__
from ..changes.posterior import Change
from ..changes.trend import Trend
from ..errors import ChangeError
from ..files import replacing
from .changeqml import CHANCES
from .changestyle import CATEGORIES, categories
from .colours import reader_colours
from .page import asset, whole_page
from .trendfigures import Line, Way, curve, histogram, sankey, ways
from .trendmaps import RGB, map_svg, photograph, place_at, scale_bar
from .trendrows import all_numbers, class_rows, estimate_table, largest_moves, ledger_rows, matrix_rows, place_rows
from .trendwords import headline, hectares, is_withheld, limits, listed, methods, percent, plural, signed

BINS = 20
MOST_NAMES = 12
"""Names of areas written on the maps; with more, only their outlines are drawn."""
HOT, COLD, NEITHER = "#b3330a", "#4a90c2", "#e5e5e5"
VERDICTS = {
    "quiet": "Quiet: the dates differ by no more than real change and chance explain.",
    "corrected": "Corrected: the images had drifted apart; after the correction they differ by no more than real change explains.",
    "withheld": "Withheld: the images differ by more than real change on the ground explains.",
}


def write_trend_report(
    path: Path,
    trend: Trend,
    change: Change,
    *,
    drift: Mapping[str, Any] | None = None,
    estimate: Mapping[str, Any] | None = None,
    pictures: Sequence[RGB | None] = (),
    title: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the report to `path` and return it. The page makes no request.

    drift: what the drift guard found, as `verdict` (`withheld` in it withholds the headline), `sentences`, `figures` (SVG
    texts or picture data URIs) and a table's `rows` (with their `head`); estimate: what `geoclass estimate` wrote, in place
    of the trend's own; pictures: an RGB (h, w, 3) of `series.range` for
    each date, or None. Raises OutputError, and ChangeError for pictures that are not one a date.
    """
    if pictures and len(pictures) != len(trend.dates):
        raise ChangeError(f"{len(pictures)} pictures for {len(trend.dates)} dates; give one for each, or None")
    found = estimate if estimate is not None else trend.estimate
    contents = _contents(trend, change, drift, found, pictures, title)
    body = _template().render(contents)
    text = whole_page(contents["title"], body, ["report.css", "trendreport.css"], ["trendreport.js"])
    with replacing(path, overwrite) as temporary:
        temporary.write_bytes(text.encode("utf-8", "replace"))
    return path


@cache
def _template() -> jinja2.Template:
    made = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    return made.from_string(asset("trendreport.html"))


def _contents(
    trend: Trend,
    change: Change,
    drift: Mapping[str, Any] | None,
    estimate: Mapping[str, Any] | None,
    pictures: Sequence[RGB | None],
    title: str | None,
) -> dict[str, Any]:
    series, scheme = change.series, trend.scheme
    first, last = trend.dates[0], trend.dates[-1]
    estimated = _new_built(estimate)
    return {
        "version": __version__,
        "title": title or f"Urban growth {first} to {last}",
        "facts": [
            f"{plural(len(series), 'tile')} of {series.grid.side_m:g} m",
            f"{hectares(trend.places[0].covered_ha)} ha covered on {'both' if len(trend.dates) == 2 else 'all'} dates",
            f"dates {listed(trend.dates)}",
            f"classes {scheme.title or scheme.name}",
        ],
        "first": first,
        "last": last,
        "dates": trend.dates,
        "built": listed(trend.built),
        "open": listed(series.open),
        "classes": [
            {"name": item.name, "colour": colour}
            for item, colour in zip(scheme.classes, reader_colours(scheme), strict=True)
        ],
        "scheme_source": scheme.source,
        "sentence": headline(trend, drift, estimated),
        "withheld": is_withheld(drift),
        "estimated": estimated,
        "figures": _figures(trend),
        **_charts(trend, change, estimated),
        "class_rows": class_rows(trend),
        **_maps(trend, change, pictures),
        "people": any(not math.isnan(number) for place in trend.places for number in place.people),
        "places": place_rows(trend),
        "matrix": matrix_rows(trend, series.members(series.open)),
        "moves": largest_moves(trend),
        "matrix_totals": [hectares(float(v)) for v in trend.whole.matrices[0].sum(axis=0)],
        **estimate_table(estimate),
        **ledger_rows(trend),
        "drift": _drift(drift),
        "limits": limits(trend, change, estimated is not None),
        "methods": methods(trend, change, estimated is not None),
        **all_numbers(trend),
    }


# ---- in short


def _new_built(estimate: Mapping[str, Any] | None) -> dict[str, float] | None:
    """The estimate of newly built-up land, in hectares, with its interval; None without one."""
    row = estimate.get("new_built") if estimate is not None else None
    return None if row is None else {key: float(row[f"{key}_ha"]) for key in ("area", "low", "high")}


def _figures(trend: Trend) -> list[dict[str, str]]:
    step, built = trend.whole, trend.built_ha[0]
    moved, sdg = trend.built_exchange(step), trend.consumption(0, step)
    first, last = trend.dates[0], trend.dates[-1]
    shares = trend.shares(trend.built_ha)[0]
    return [
        {
            "name": f"Built-up in {first}, ha",
            "value": hectares(float(built[0])),
            "hint": f"{percent(float(shares[0]))} of the ground",
        },
        {
            "name": f"Built-up in {last}, ha",
            "value": hectares(float(built[-1])),
            "hint": f"{percent(float(shares[-1]))} of the ground",
        },
        {
            "name": "Net change, ha",
            "value": signed(float(moved.net[0])),
            "hint": f"{hectares(float(moved.gain[0]))} gained, {hectares(float(moved.loss[0]))} lost",
        },
        {
            "name": "Growth a year",
            "value": percent(trend.growth(0, step), 1, sign=True),
            "hint": f"compound, over {step.years:.1f} years",
        },
        {
            "name": "Tiles called new",
            "value": f"{trend.new_tiles:,}",
            "hint": f"{hectares(float(trend.new_mapped_ha[0]))} ha; by probability {hectares(float(trend.new_expected_ha[0]))} ha",
        },
        {
            "name": "Land consumption rate",
            "value": percent(sdg.lcr, 2, sign=True),
            "hint": f"a year, SDG 11.3.1 (2021 form); logarithmic form {percent(sdg.lcr_log, 2, sign=True)}",
        },
    ]


# ---- charts


def _charts(trend: Trend, change: Change, estimated: Mapping[str, float] | None) -> dict[str, Any]:
    built = trend.is_built
    lines = [
        Line("All dates together", trend.built_ha[0], "joint"),
        Line("By probability", np.asarray(trend.expected_ha[0][:, built].sum(axis=1)), "expected"),
        Line("Each date alone", np.asarray(trend.single_ha[0][:, built].sum(axis=1)), "single"),
    ]
    found = [
        Way("Mapped, all dates together", float(trend.new_mapped_ha[0])),
        Way("Expected, by probability", float(trend.new_expected_ha[0])),
        Way("First and last date compared alone", float(trend.new_single_ha[0])),
    ]
    if estimated is not None:
        found.insert(0, Way("Estimated from the checked sample", *(estimated[k] for k in ("area", "low", "high"))))
    counts = np.histogram(change.p_new_built, BINS, (0, 1))[0]
    doubtful = int(((change.p_new_built >= 0.2) & (change.p_new_built < 0.8)).sum())
    steps = trend.steps[: len(trend.dates) - 1]
    flows, hidden = sankey(
        trend.dates,
        trend.mapped_ha[0],
        [step.matrices[0] for step in steps],
        trend.scheme.names,
        reader_colours(trend.scheme),
    )
    return {
        "curve": curve(trend.years, trend.dates, lines),
        "ways": ways(found),
        "histogram": histogram(counts.tolist(), change.threshold, int(counts[0])),
        "histogram_note": (
            f"{plural(int(counts[0]), 'tile')} below {percent(1 / BINS, 0)} are left out of the figure. The clearer the two "
            f"ends, the less hangs on where the line is drawn; {plural(doubtful, 'tile')} "
            f"{'lies' if doubtful == 1 else 'lie'} between 20 and 80 %: look at these first."
        ),
        "sankey": flows,
        "hidden": hectares(hidden) if hidden > 0 else "",
    }


# ---- where


def _maps(trend: Trend, change: Change, pictures: Sequence[RGB | None]) -> dict[str, Any]:
    series, grid, tiles = change.series, change.series.grid, change.series.range
    places = [place for place in trend.places[1:] if place.geometry is not None]
    shapes = [place.geometry for place in places]
    length, bar = scale_bar(tiles, grid)
    spots = [(place.name, place_at(place.geometry, tiles, grid)) for place in places]

    def drawn(
        title: str, colours: Sequence[str], values: npt.NDArray[np.intp], label: str, **more: Any
    ) -> dict[str, Any]:
        table = np.array([[*bytes.fromhex(colour[1:]), 255] for colour in colours], np.uint8)
        svg = map_svg(series.image(table[values]), tiles, grid, shapes, label)
        return {"title": title, "svg": svg, "photo": None, "names": True, "scale": True, **more}

    which = categories(change)
    level = trend.hotspots.level.astype(np.intp) + 1
    edges = np.array([upper for upper, _ in CHANCES[:-1]])
    photos = [None if not pictures or p is None else photograph(p) for p in (pictures or [None] * len(trend.dates))]
    hot = trend.hotspots.hot
    part = float(change.p_new_built[hot] @ series.areas_m2[hot]) / 10_000
    whole = float(trend.new_expected_ha[0])
    return {
        "maps": {
            "wide": round(tiles.columns / tiles.rows, 4),
            "length": length,
            "bar": round(100 * bar, 2),
            "names": [
                {
                    "name": textwrap.shorten(name, 28, placeholder="…") if " " in name else name[:28],
                    "x": round(100 * at[0], 2),
                    "y": round(100 * at[1], 2),
                }
                for name, at in spots
                if at is not None and len(spots) <= MOST_NAMES
            ],
        },
        "class_maps": [
            drawn(
                date,
                reader_colours(series.scheme),
                change.classes[:, t],
                f"Land cover in {date}",
                photo=photos[t],
                names=False,
            )
            for t, date in enumerate(trend.dates)
        ],
        "change_map": drawn(
            f"Change {trend.dates[0]} to {trend.dates[-1]}", [c.colour for c in CATEGORIES], which, "Change"
        ),
        "chance_map": drawn(
            "Probability of new building",
            [colour for _, colour in CHANCES],
            np.searchsorted(edges, change.p_new_built, side="right"),
            "Probability of being newly built-up",
        ),
        "spot_map": drawn("Hot spots of new building", [COLD, NEITHER, HOT], level, "Hot spots"),
        "categories": [
            {"label": c.label, "colour": c.colour, "tiles": f"{int((which == k).sum()):,}"}
            for k, c in enumerate(CATEGORIES)
        ],
        "chances": [
            {"label": f"{low * 100:.0f} to {high * 100:.0f} %", "colour": colour}
            for low, (high, colour) in zip((0.0, *edges), CHANCES, strict=True)
        ],
        "spots": [
            {"label": words, "colour": colour, "tiles": f"{int((level == value).sum()):,}"}
            for words, colour, value in (("hot spot", HOT, 2), ("cold spot", COLD, 0), ("neither", NEITHER, 1))
        ],
        "spot_note": (
            f"A hot spot is a tile whose neighbourhood of nine has more new building than chance would put there; at most "
            f"{percent(trend.hotspots.fdr, 0)} of them are expected to be false. {plural(int(hot.sum()), 'tile')} "
            f"{'is' if hot.sum() == 1 else 'are'}, with {hectares(part)} of the {hectares(whole)} ha expected by probability."
        ),
    }


def _drift(drift: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if drift is None:
        return None
    return {
        "verdict": VERDICTS.get(str(drift.get("verdict", "")).lower(), str(drift.get("verdict", ""))),
        "sentences": [str(text) for text in drift.get("sentences", ())],
        "figures": [_figure(str(text)) for text in drift.get("figures", ())],
        "head": [str(cell) for cell in drift.get("head", ())],
        "rows": [[str(cell) for cell in row] for row in drift.get("rows", ())],
    }


def _figure(text: str) -> Markup:
    """A picture that can run no script: SVG is shown as an image too."""
    source = text if text.startswith("data:image/") else ""
    if text.lstrip().startswith("<"):
        source = "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode("ascii")
    return Markup('<img alt="" src="{}"/>').format(source)
