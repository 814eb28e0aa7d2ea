"""What a trend report says in sentences: its headline, and what the data behind it cannot say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..changes.posterior import ENDPOINT, Change
from ..changes.trend import Trend

COARSE_M, MEDIUM_M = 30.0, 5.0
"""Pixels wider than these show no single house or street; no single small house."""
NB = "\u00a0"
WITHHELD = "withheld"
"""The verdict of a drift guard under which no trend is stated."""


def hectares(value: float) -> str:
    """`1,235` from a hundred on, `56.8` below; a dash for NaN."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:,.1f}"
    return "0" if text in ("0.0", "-0.0") else text.replace("-", "−")


def signed(value: float) -> str:
    """As `hectares`, with its sign."""
    text = hectares(value)
    return f"+{text}" if value > 0 and text not in ("0", "–") else text


def percent(value: float, digits: int = 1, sign: bool = False) -> str:
    """0.0312 as `3.1 %`; a dash for NaN."""
    if not math.isfinite(value):
        return "–"
    text = f"{100 * value:{'+' if sign else ''},.{digits}f}".replace("-", "−")
    return f"{text}{NB}%"


def plural(count: int, word: str) -> str:
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def listed(names: tuple[str, ...] | list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def is_withheld(drift: Mapping[str, Any] | None) -> bool:
    return drift is not None and WITHHELD in str(drift.get("verdict", "")).lower()


def headline(trend: Trend, drift: Mapping[str, Any] | None, estimated: Mapping[str, float] | None) -> str:
    """The one sentence a reader takes home.

    An estimate from a random sample comes first, drift or not: it rests on what was seen by eye, not on the map.
    """
    first, last = trend.dates[0], trend.dates[-1]
    if estimated is not None:
        return (
            f"Between {first} and {last} an estimated {hectares(estimated['area'])}{NB}ha of open land were built up; "
            f"the 95{NB}% interval runs from {hectares(estimated['low'])} to "
            f"{hectares(estimated['high'])}{NB}ha."
        )
    if is_withheld(drift):
        return (
            f"No trend from {first} to {last} can be stated: the images differ by more than real change on the ground "
            "can explain."
        )
    if trend.new_tiles == 0:
        return (
            f"The map shows no newly built-up land between {first} and {last}; how sure that is has not been measured."
        )
    return (
        f"The map shows {hectares(float(trend.new_mapped_ha[0]))}{NB}ha of newly built-up land between {first} and {last}; "
        "how far that may be off has not been measured."
    )


def limits(trend: Trend, change: Change, estimated: bool) -> list[tuple[str, str]]:
    """What the data cannot say: (subject, sentence), each from the data at hand."""
    return [
        *_of_size(change),
        *_of_time(trend, change),
        *_of_ground(trend, change),
        *_of_figures(trend, change, estimated),
    ]


def _of_size(change: Change) -> list[tuple[str, str]]:
    grid = change.series.grid
    tile_ha = grid.tile_area_m2 / 10_000
    said = [
        (
            "Small developments",
            f"A tile is {grid.side_m:g}{NB}m wide, {hectares(tile_ha)}{NB}ha, and gets one class for all of its ground. "
            f"Building on less than about half a tile, {hectares(tile_ha / 2)}{NB}ha, can stay invisible; where it does "
            "show, the whole tile is counted.",
        ),
        (
            "Denser building",
            "What was built on tiles that were built-up already does not show, be it one house or a hundred.",
        ),
    ]
    gsd = grid.gsd_m
    if gsd > COARSE_M:
        said.insert(
            1,
            (
                "Houses and streets",
                f"A pixel is {gsd:g}{NB}m wide: single houses and streets cannot be seen at all, and the edge of a town is "
                f"known to a tile ({grid.side_m:g}{NB}m) at best. Only whole built-up areas can be told from open land.",
            ),
        )
    elif gsd > MEDIUM_M:
        said.insert(
            1,
            ("Single houses", f"A pixel is {gsd:g}{NB}m wide: single houses and narrow streets cannot be told apart."),
        )
    return said


def _of_time(trend: Trend, change: Change) -> list[tuple[str, str]]:
    dates, years = trend.dates, trend.whole.years
    said = []
    if len(dates) == 2:
        said.append(
            (
                "The course between the dates",
                f"Two dates, {years:.1f} years apart, show a before and an after. When it was built, and whether building "
                "gets faster or slower, they do not show.",
            )
        )
    else:
        gap = max(step.years for step in trend.steps[:-1])
        said.append(
            (
                "The course between the dates",
                f"Between the {len(dates)} dates, up to {gap:.1f} years apart, nothing is known; lines in the figures only "
                "join what was seen.",
            )
        )
    ends = int(trend.kinds.get(ENDPOINT, 0))
    if ends:
        said.append(
            (
                "Changes seen once",
                f"{plural(ends, 'tile')} {'has' if ends == 1 else 'have'} a new class on the last date only, with no later "
                "image to confirm it.",
            )
        )
    if any(len(date) == 4 for date in dates):
        said.append(
            (
                "Season",
                "Some dates are known by their year alone. Images of different seasons differ (bare fields, leafless woods, "
                "high water), and that can look like change.",
            )
        )
    elif len({date[5:7] for date in dates}) > 1:
        said.append(("Season", "The images are of different months; seasonal differences can look like change."))
    return said


def _of_ground(trend: Trend, change: Change) -> list[tuple[str, str]]:
    said = [
        (
            "Use, ownership, permits",
            "Images show what covers the ground. What it is used or zoned for, who owns it, and whether it was permitted, "
            "they do not show.",
        )
    ]
    missing = len(change.series.uncovered)
    if missing:
        ground = missing * change.series.grid.tile_area_m2 / 10_000
        said.append(
            (
                "Ground not covered",
                f"{plural(missing, 'tile')} (about {hectares(ground)}{NB}ha) of {missing + len(change):,} lack data on at "
                "least one date and are in no figure.",
            )
        )
    if any(not math.isnan(number) for place in trend.places for number in place.people):
        said.append(
            (
                "Comparison with other cities",
                "SDG 11.3.1 is meant for cities as they are delineated by the degree of urbanisation; within other borders "
                "its values are not comparable with published ones.",
            )
        )
    return said


def _of_figures(trend: Trend, change: Change, estimated: bool) -> list[tuple[str, str]]:
    said = []
    covered = f"{len(change.series.uncovered):,} of "  # said in its own sentence, with its hectares
    warnings = [text for text in trend.warnings if not text.startswith(covered)]
    if not estimated:
        said.append(
            (
                "How far off the hectares are",
                "The mapped hectares have no interval: nobody has yet checked a random sample of tiles by eye. Treating tiles "
                "as independent draws would give an interval, but one that is much too narrow, since a model errs alike on "
                "similar ground.",
            )
        )
    lost = float(trend.built_exchange(trend.whole).loss[0])
    if lost > 0:
        said.append(
            (
                "Built-up land that vanished",
                f"The map also turns {hectares(lost)}{NB}ha of built-up land into something else. Towns seldom shrink: take "
                "that as a hint at how large the errors are, in either direction.",
            )
        )
    return said + [("Also", text[0].upper() + text[1:] + "." * (text[-1] not in ".!?")) for text in warnings]


def methods(trend: Trend, change: Change, estimated: bool) -> list[tuple[str, str]]:
    """How the figures were made, and the papers they come from: (subject, text)."""
    series = change.series
    files = [str(source.path.name) if source.path else str(source.info.get("name") or "") for source in series.sources]
    named = [f"{date}: {name}" if name else date for date, name in zip(trend.dates, files, strict=False)]
    said = [
        (
            "Ground",
            f"Tiles of {series.grid.side_m:g} m on a permanent grid ({series.grid.crs.name}), the same ground on every date; "
            f"pixels of {series.grid.gsd_m:g} m. A tile counts with its area less the share without data. Results: "
            f"{'; '.join(named)}.",
        ),
        (
            "All dates together",
            "Each tile’s classes over time are a Markov chain that mostly stays; each date’s classifier gives evidence, and "
            "the forward–backward algorithm joins them (Rabiner 1989, Proceedings of the IEEE 77:257–286). A tile is called "
            f"newly built-up from a probability of {percent(change.threshold, 0)} on.",
        ),
        (
            "By probability",
            "Expected hectares add up probability times ground. They are model-based: right on average only if the model’s "
            "probabilities are right for this ground and these images.",
        ),
        (
            "Gain, loss, net, swap",
            "Pontius, Shusas & McEachern 2004, Agriculture, Ecosystems & Environment 101:251–268. Growth a year is compound: "
            "(last / first)^(1 / years) − 1.",
        ),
        (
            "SDG 11.3.1",
            "Land consumption rate (V_present − V_past) / V_past / t, as in the indicator’s metadata since March 2021; before, "
            "it was ln(Urb_t+n / Urb_t) / y. Population growth rate ln(Pop_t+n / Pop_t) / y. The indicator is their ratio "
            "(UN-Habitat 2021, SDG indicator metadata 11.3.1). Both forms are in trend.json.",
        ),
        (
            "Hot spots",
            "Gi* of the probability of new building over each tile and its eight neighbours (Getis & Ord 1992, Geographical "
            "Analysis 24:189–206; Ord & Getis 1995, 27:286–306), normal p-values, false discovery rate after Benjamini & "
            "Hochberg 1995. With few new tiles the normal scores are rough: read them as a guide to where to look.",
        ),
    ]
    if estimated:
        said.append(
            (
                "Estimate with interval",
                "Stratified random sample of tiles, looked at by eye; stratified estimator of areas and their standard errors "
                "(Olofsson et al. 2014, Remote Sensing of Environment 148:42–57).",
            )
        )
    return said
