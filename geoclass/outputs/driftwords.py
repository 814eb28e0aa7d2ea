"""The drift guard's findings in words, a table and small charts, for the report, the summary and the terminal."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

from ..changes.drift import Comparison, Drift
from ..schemes import ClassScheme

REMEDY = (
    "train the model on tiles of both dates (geoclass dataset with both images, or geoclass train --head finetune --augment sensor), "
    "classify both dates with it, and compare again"
)
VERDICTS = {
    "quiet": "Quiet: the dates differ no more than real change and chance explain",
    "corrected": "Corrected: a date had drifted, and after correction the dates differ no more than real change explains",
    "withheld": "Withheld: the dates differ by more than real change can explain, so no trend is stated",
}
OVERRULED = "Overruled: the dates differ by more than real change can explain; the trend is stated on demand (--force)"
BANDS = ("red", "green", "blue")
LARGE_SHIFT = 0.5
"""A shift of colours by this part of the spread between tiles is worth a word."""
WIDTH, LINE = 440, 26
FONT = 'font-family="system-ui, sans-serif" font-size="14"'


def drift_report(drift: Drift, scheme: ClassScheme, told: bool = True) -> dict[str, Any]:
    """`verdict`, `sentences`, `figures` (SVG texts), and the `head` and `rows` of a table; `told`: the trend is stated."""
    return {
        "verdict": OVERRULED if told and drift.withheld else VERDICTS[drift.verdict],
        "sentences": sentences(drift, scheme),
        "figures": [_distances(drift), *(_shares(item, scheme) for item in drift.comparisons)],
        "head": ["Dates", "Difference", "By chance", "By change", "Tiles changed", "Confidence", "Colour shift"],
        "rows": [_row(item) for item in drift.comparisons],
    }


def drift_dict(drift: Drift, scheme: ClassScheme) -> dict[str, Any]:
    """The findings as plain values, for JSON."""
    return {
        "verdict": drift.verdict,
        "sentences": sentences(drift, scheme),
        "comparisons": [_values(item, scheme) for item in drift.comparisons],
        "corrections": [
            {"what": item.words, "before": _values(item.before, scheme), "after": _values(item.after, scheme)}
            for item in drift.corrections
        ],
    }


def sentences(drift: Drift, scheme: ClassScheme) -> list[str]:
    """What was found, tried and concluded, a sentence each."""
    said = [
        f"{item.before.date}: {item.words}; the difference went from {item.before.distance:.0%} to "
        f"{item.after.distance:.0%} of the tiles."
        for item in drift.corrections
    ]
    for item in drift.comparisons:
        limit = f"{item.max_change:.0%} by real change and {item.noise:.0%} by chance"
        said.append(
            f"{item.reference} and {item.date}: what the model says differs on {item.distance:.0%} of the tiles in "
            f"sum; {limit} can be explained" + (", the rest cannot." if item.shifted else ".")
        )
        if item.scattered:
            said.append(
                f"Tile by tile, {item.modelled:.0%} would have changed from {item.reference} to {item.date}, more than the "
                f"{item.max_change:.0%} that can have: check that both images lie on the same ground (georeference, CRS)."
            )
        if item.shifted:
            k = int(abs(item.shares[1] - item.shares[0]).argmax())
            said.append(
                f"The largest shift is in class {scheme.names[k]}: {item.shares[0][k]:.0%} of the ground in "
                f"{item.reference}, {item.shares[1][k]:.0%} in {item.date}. Mean confidence went from "
                f"{item.confidence[0]:.2f} to {item.confidence[1]:.2f}."
            )
        shift = item.colour_shift
        if shift is not None and shift > LARGE_SHIFT:
            said.append(
                f"The colours of {item.date} differ from those of {item.reference} by up to {shift:.1f} times the spread "
                "between tiles: another season, light, sensor or processing."
            )
    if drift.withheld:
        said.append(f"To go on: {REMEDY}. If so much really changed, say so with --max-change.")
    return said


def _row(item: Comparison) -> list[str]:
    shift = item.colour_shift
    return [
        f"{item.reference} – {item.date}",
        f"{item.distance:.1%}",
        f"{item.noise:.1%}",
        f"{item.max_change:.1%}",
        f"{item.modelled:.1%}",
        f"{item.confidence[0]:.2f} → {item.confidence[1]:.2f}",
        "no picture" if shift is None else f"{shift:.2f}",
    ]


def _values(item: Comparison, scheme: ClassScheme) -> dict[str, Any]:
    return {
        "reference": item.reference,
        "date": item.date,
        "distance": item.distance,
        "noise": item.noise,
        "modelled_change": item.modelled,
        "max_change": item.max_change,
        "drifted": item.drifted,
        "confidence": list(item.confidence),
        "shares": {name: [float(item.shares[0][k]), float(item.shares[1][k])] for k, name in enumerate(scheme.names)},
        "colour_shift": item.colour_shift,
        "colours": None
        if item.colours is None
        else {
            band: {"mean": item.colours[:, k, 0].tolist(), "spread": item.colours[:, k, 1].tolist()}
            for k, band in enumerate(BANDS)
        },
    }


def _distances(drift: Drift) -> str:
    """Each date's difference from the reference as a bar, with what can be explained as a mark."""
    states = [
        *((f"{c.before.date} before correction", c.before) for c in drift.corrections),
        *((f"{item.date}", item) for item in drift.comparisons),
    ]
    top = max(0.3, *(max(item.distance, item.max_change + item.noise) for _, item in states)) * 1.1
    left, right = 14, 70
    scale = (WIDTH - left - right) / top
    parts = []
    for k, (name, item) in enumerate(states):
        y = 54 + 46 * k
        mark = left + (item.max_change + item.noise) * scale
        colour = "#d55e00" if item.drifted else "#0072b2"
        parts += [
            _text(left, y - 6, name),
            f'<rect x="{left}" y="{y}" width="{item.distance * scale:.1f}" height="14" fill="{colour}"/>',
            f'<line x1="{mark:.1f}" x2="{mark:.1f}" y1="{y - 5}" y2="{y + 19}" stroke="#222" stroke-width="2"/>',
            _text(max(left + item.distance * scale, mark) + 8, y + 12, f"{item.distance:.0%}"),
        ]
    title = "Difference; mark: what can be explained"
    return _svg(54 + 46 * len(states), title, parts)


def _shares(item: Comparison, scheme: ClassScheme) -> str:
    """The share of each class on the two dates, as pairs of bars."""
    top = max(0.05, float(item.shares.max())) * 1.1
    left, right = 116, 92
    scale = (WIDTH - left - right) / top
    parts = []
    for k, known in enumerate(scheme.classes):
        y = 40 + (LINE + 8) * k
        parts.append(_text(left - 8, y + 17, known.name[:16], "end"))
        for side, opacity in ((0, 0.45), (1, 1.0)):
            share = float(item.shares[side][k])
            parts.append(
                f'<rect x="{left}" y="{y + 13 * side}" width="{share * scale:.1f}" height="11" fill="{known.colour}" '
                f'fill-opacity="{opacity}" stroke="#444" stroke-width=".6"/>'
            )
        ends = [f"{share:.0%}" for share in item.shares[:, k]]
        parts.append(_text(left + float(item.shares[:, k].max()) * scale + 7, y + 17, f"{ends[0]} → {ends[1]}"))
    title = f"Classes, {item.reference} (pale) and {item.date}"
    return _svg(44 + (LINE + 8) * len(scheme), title, parts)


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#222" {FONT}>{escape(words)}</text>'


def _svg(height: int, title: str, parts: list[str], width: int = WIDTH) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f'<rect width="100%" height="100%" fill="#fff"/>{_text(14, 22, title)}{"".join(parts)}</svg>'
    )
