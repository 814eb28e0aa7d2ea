"""Charts of the trend report as inline SVG: their text stays text, and the page's style sheet sizes it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

from .trendwords import hectares

Doubles = npt.NDArray[np.float64]

LEAST_FLOW = 0.0005
"""Flows between classes below this share of the ground are not drawn; the caption says how much that is."""
LABEL = 17
"""Letters of a class name beside the flows; the rest is in its tooltip."""


@dataclass(frozen=True)
class Line:
    """A line of the curve: its label, its values (T,) in hectares, and the class that draws it."""

    label: str
    values: Doubles
    style: str


@dataclass(frozen=True)
class Way:
    """One way to arrive at a figure: its name, the hectares, and the ends of its interval where it has one."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


def _ticks(top: float, most: int = 5) -> list[float]:
    """Round values from 0 to at least `top`."""
    if not top > 0:
        return [0.0, 1.0]
    raw = top / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    return [k * step for k in range(math.ceil(top / step - 1e-9) + 1)]


def curve(years: Doubles, dates: Sequence[str], lines: Sequence[Line], labelled: int = 0) -> Markup:
    """Hectares over time from 0 upwards; the points of `lines[labelled]` carry their figures."""
    width, height, left, right, top, bottom = 560, 320, 76, 40, 26, 44
    ticks = _ticks(max(float(line.values.max()) for line in lines) * 1.06)
    span = float(years[-1] - years[0])

    def x(k: int) -> float:
        return left + 26 + (width - left - right - 26) * (float(years[k] - years[0]) / span if span else 0.5)

    def y(value: float) -> float:
        return height - bottom - (height - top - bottom) * value / ticks[-1]

    parts = [
        f'<line class="grid" x1="{left}" x2="{width - right + 14}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
        f'<text x="{left - 10}" y="{y(t):.1f}" dy=".35em" text-anchor="end">{t:,.6g}</text>'
        for t in ticks
    ]
    parts += [
        f'<text x="{x(k):.1f}" y="{height - bottom + 26}" text-anchor="middle">{escape(date)}</text>'
        for k, date in enumerate(dates)
    ]
    for line in reversed(lines):
        points = " ".join(f"{x(k):.1f},{y(float(v)):.1f}" for k, v in enumerate(line.values))
        parts.append(f'<g class="{line.style}"><polyline points="{points}"/>')
        parts += [
            f'<circle cx="{x(k):.1f}" cy="{y(float(v)):.1f}" r="4.5"><title>{escape(line.label)}, {escape(dates[k])}: '
            f"{hectares(float(v))} ha</title></circle>"
            for k, v in enumerate(line.values)
        ]
        parts.append("</g>")
    chosen = lines[labelled].values
    parts += [
        f'<text class="label" x="{x(k):.1f}" y="{y(float(v)) - 13:.1f}" text-anchor="middle">{hectares(float(v))}</text>'
        for k, v in enumerate(chosen)
    ]
    words = "; ".join(
        f"{line.label}: " + ", ".join(f"{d} {hectares(float(v))} ha" for d, v in zip(dates, line.values, strict=True))
        for line in lines
    )
    return _svg("curve", width, height, parts, f"Built-up land over time. {words}")


def ways(found: Sequence[Way]) -> Markup:
    """The same figure by several ways, as dots on one scale, with intervals where there are any."""
    width, row, left, right = 560, 58, 14, 36
    height = row * len(found) + 40
    top = max(way.high if way.high is not None else way.value for way in found)
    ticks = _ticks(top * 1.04, 4)

    def x(value: float) -> float:
        return left + (width - left - right) * value / ticks[-1]

    parts = [
        f'<line class="grid" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="8" y2="{height - 30}"/>'
        f'<text x="{x(t):.1f}" y="{height - 10}" text-anchor="middle">{t:,.6g}</text>'
        for t in ticks
    ]
    for k, way in enumerate(found):
        y = row * k + 44
        kind = "way" if way.low is None else "way sure"
        parts.append(f'<g class="{kind}"><text class="label" x="{left}" y="{y - 18}">{escape(way.name)}</text>')
        if way.low is not None and way.high is not None:
            low, high = x(max(0.0, way.low)), x(way.high)
            parts.append(f'<line class="interval" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>')
        else:
            parts.append(f'<line class="stem" x1="{left}" x2="{x(way.value):.1f}" y1="{y}" y2="{y}"/>')
        at = x(way.value)
        anchor, shift = ("end", -12) if at > width * 0.8 else ("start", 12)
        beyond = x(way.high) + 10 if way.high is not None and anchor == "start" else at + shift
        if beyond > width - 90 and anchor == "start":
            anchor, beyond = "end", (x(max(0.0, way.low)) - 10 if way.low is not None else at - 12)
        parts.append(f'<circle cx="{at:.1f}" cy="{y}" r="6.5"/>')
        parts.append(
            f'<text class="label value" x="{beyond:.1f}" y="{y}" dy=".35em" text-anchor="{anchor}">'
            f"{hectares(way.value)} ha</text></g>"
        )
    words = "; ".join(
        f"{way.name}: {hectares(way.value)} ha"
        + (f", {hectares(way.low)} to {hectares(way.high)} ha" if way.low is not None and way.high is not None else "")
        for way in found
    )
    return _svg("ways", width, height, parts, f"New built-up land by several ways. {words}")


def histogram(counts: Sequence[int], threshold: float, below: int) -> Markup:
    """Tiles by probability in equal bins; the first bin, with `below` tiles, is cut off and says so."""
    width, height, left, right, top, bottom = 560, 300, 70, 16, 34, 54
    shown = list(counts[1:])
    ticks = _ticks(max(1, *shown) * 1.08, 4)
    whole = len(counts)

    def x(share: float) -> float:
        return left + (width - left - right) * share

    def y(value: float) -> float:
        return height - bottom - (height - top - bottom) * value / ticks[-1]

    parts = [
        f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y(t):.1f}" y2="{y(t):.1f}"/>'
        f'<text x="{left - 10}" y="{y(t):.1f}" dy=".35em" text-anchor="end">{t:,.6g}</text>'
        for t in ticks
        if t == int(t)
    ]
    for k, value in enumerate(shown, start=1):
        a, b = x(k / whole), x((k + 1) / whole)
        kind = "bin on" if k / whole >= threshold - 1e-9 else "bin"
        parts.append(
            f'<rect class="{kind}" x="{a + 1:.1f}" width="{b - a - 2:.1f}" y="{y(value):.1f}" '
            f'height="{max(0.0, y(0) - y(value)):.1f}"><title>{100 * k / whole:.0f} to {100 * (k + 1) / whole:.0f} %: '
            f"{value:,} tiles</title></rect>"
        )
    parts += [
        f'<text x="{x(share):.1f}" y="{height - bottom + 24}" text-anchor="middle">{100 * share:.0f} %</text>'
        for share in (0, 0.25, 0.5, 0.75, 1)
    ]
    parts.append(f'<line class="mark" x1="{x(threshold):.1f}" x2="{x(threshold):.1f}" y1="{top - 8}" y2="{y(0):.1f}"/>')
    anchor = "start" if threshold < 0.6 else "end"
    near = x(threshold) + (8 if anchor == "start" else -8)
    parts.append(f'<text class="label" x="{near:.1f}" y="{top}" text-anchor="{anchor}">called new</text>')
    words = f"{below:,} tiles below {100 / whole:.0f} % are not drawn; " + ", ".join(
        f"{100 * k / whole:.0f} %: {value:,}" for k, value in enumerate(shown, start=1) if value
    )
    return _svg("histogram", width, height, parts, f"Tiles by probability of being newly built-up. {words}")


# ---- flows


def sankey(
    dates: Sequence[str], stocks: Doubles, matrices: Sequence[Doubles], names: Sequence[str], colours: Sequence[str]
) -> tuple[Markup, float]:
    """Flows between classes: `stocks` (T, K) hectares, `matrices` (K, K) for each pair of consecutive dates.

    Ground that kept its class is pale; what moved has the colour of the class it became. Returns the figure and how many
    hectares of moved ground are in flows too thin to draw.
    """
    width, top, height, gap, bar, side = 760, 34, 460, 9, 16, 138
    used = [k for k in range(len(names)) if stocks[:, k].max() > 0]
    whole = float(stocks[0].sum())
    scale = (height - top - gap * max(0, len(used) - 1) - 8) / whole if whole > 0 else 0.0
    columns = [side + (width - 2 * side - bar) * t / (len(dates) - 1) for t in range(len(dates))]
    starts = []
    for t in range(len(dates)):
        y, found = float(top), {}
        for k in used:
            found[k] = y
            y += stocks[t, k] * scale + gap
        starts.append(found)
    flows, hidden = _flows(columns, starts, matrices, used, names, dates, colours, scale, whole, bar)
    nodes = [
        f'<rect class="node" x="{columns[t]:.1f}" y="{starts[t][k]:.1f}" width="{bar}" '
        f'height="{max(1.0, stocks[t, k] * scale):.1f}" fill="{colours[k]}"><title>{escape(names[k])}, {escape(dates[t])}: '
        f"{hectares(float(stocks[t, k]))} ha</title></rect>"
        for t in range(len(dates))
        for k in used
    ]
    heads = [
        f'<text class="label" x="{columns[t] + bar / 2:.1f}" y="18" text-anchor="middle">{escape(date)}</text>'
        for t, date in enumerate(dates)
    ]
    ends = _side(stocks[0], starts[0], used, names, scale, columns[0] - 9, "end")
    ends += _side(stocks[-1], starts[-1], used, names, scale, columns[-1] + bar + 9, "start")
    low = max(start[used[-1]] + stocks[t, used[-1]] * scale for t, start in enumerate(starts)) if used else height
    words = f"Flows of land between classes from {dates[0]} to {dates[-1]}; the table beside has the figures."
    return _svg("sankey", width, math.ceil(low + 14), [*flows, *nodes, *heads, *ends], words), hidden


def _flows(
    columns: Sequence[float],
    starts: Sequence[dict[int, float]],
    matrices: Sequence[Doubles],
    used: Sequence[int],
    names: Sequence[str],
    dates: Sequence[str],
    colours: Sequence[str],
    scale: float,
    whole: float,
    bar: float,
) -> tuple[list[str], float]:
    pale: list[str] = []
    vivid: list[str] = []
    hidden = 0.0
    for t, matrix in enumerate(matrices):
        leave, arrive = dict(starts[t]), dict(starts[t + 1])
        x0, x1 = columns[t] + bar, columns[t + 1]
        middle = (x0 + x1) / 2
        for i in used:
            for j in used:
                area = float(matrix[i, j])
                thick, y0, y1 = area * scale, leave[i], arrive[j]
                leave[i] += thick
                arrive[j] += thick
                if area <= 0 or (i != j and area < LEAST_FLOW * whole):
                    hidden += area if i != j else 0.0
                    continue
                thick = max(thick, 1.2)
                words = f"{names[i]} → {names[j]}" if i != j else f"{names[i]} stayed"
                shape = (
                    f"M{x0:.1f} {y0:.1f}C{middle:.1f} {y0:.1f} {middle:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"
                    f"v{thick:.2f}C{middle:.1f} {y1 + thick:.1f} {middle:.1f} {y0 + thick:.1f} {x0:.1f} {y0 + thick:.1f}Z"
                )
                kind = "flow moved" if i != j else "flow"
                drawn = (
                    f'<path class="{kind}" d="{shape}" fill="{colours[j]}"><title>{escape(words)}, {escape(dates[t])} to '
                    f"{escape(dates[t + 1])}: {hectares(area)} ha</title></path>"
                )
                (vivid if i != j else pale).append(drawn)
    return pale + vivid, hidden


def _side(
    stock: Doubles,
    start: dict[int, float],
    used: Sequence[int],
    names: Sequence[str],
    scale: float,
    x: float,
    anchor: str,
) -> list[str]:
    """Names beside the nodes, pushed apart where these are thin."""
    texts, last = [], -100.0
    for k in used:
        y = max(start[k] + stock[k] * scale / 2, last + 17)
        last = y
        short = names[k] if len(names[k]) <= LABEL else names[k][: LABEL - 1] + "…"
        texts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" dy=".35em" text-anchor="{anchor}">{escape(short)}'
            f"<title>{escape(names[k])}: {hectares(float(stock[k]))} ha</title></text>"
        )
    return texts


def _svg(kind: str, width: int, height: int, parts: Sequence[str], label: str) -> Markup:
    inside = "".join(parts)
    return Markup(
        f'<svg class="chart {kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{inside}</svg>'
    )
