"""Rows of the trend report's tables, as text ready for the page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..changes.posterior import ENDPOINT, FLICKER, KINDS, STABLE, SUSTAINED
from ..changes.trend import Trend
from .trendtables import BUILT, trend_table
from .trendwords import hectares, listed, percent, plural, signed

MOST_ROWS = 1500
"""Rows of the table of all numbers; with more, the page has those of the whole ground only."""
MOST_MOVES = 7
HEAT = (213, 94, 0)
"""The darkest colour of the transition matrix."""
KIND_WORDS = {
    STABLE: "one class on every date",
    SUSTAINED: "a new class, seen on the last two dates or more",
    ENDPOINT: "a new class, seen on the last date only",
    FLICKER: "single dates differ, but all dates together say that nothing changed",
}


def estimate_table(estimate: Mapping[str, Any] | None) -> dict[str, Any]:
    if estimate is None:
        return {"estimate_rows": [], "estimate_said": []}
    new, net = estimate.get("new_built"), estimate.get("net_built")
    rows = [("New built-up land", new, hectares), ("Net gain of built-up land", net, signed)]
    rows += [
        (row["name"], row, hectares) for row in estimate.get("areas", ()) if new is None or row["name"] != new["name"]
    ]
    found = [
        {
            "name": name,
            "new": row is new,
            "mapped": write(float(row["mapped_ha"])) if row.get("mapped_ha") is not None else "–",
            **{key: write(float(row[f"{key}_ha"])) for key in ("area", "low", "high")},
        }
        for name, row, write in rows
        if row is not None
    ]
    said = [estimate.get("unit"), estimate.get("method"), *estimate.get("warnings", ())]
    return {"estimate_rows": found, "estimate_said": [str(text).rstrip(".") + "." for text in said if text]}


def ledger_rows(trend: Trend) -> dict[str, Any]:
    whole = trend.ledgers[-1]
    held = sum(item.dropped for item in trend.ledgers[: len(trend.dates) - 1])
    raw = sum(item.raw for item in trend.ledgers[: len(trend.dates) - 1])
    share = f", {percent(held / raw, 0)}" if raw else ""
    return {
        "ledger_sentence": (
            f"Comparing dates one by one, {plural(raw, 'change')} of class would have been reported. All dates together hold "
            f"back {held:,} of them{share}, as flicker of the classification rather than of the land."
        ),
        "ledger": [
            {
                "name": f"{trend.dates[item.before]} to {trend.dates[item.after]}",
                "cells": [
                    {"count": f"{n:,}", "share": percent(n / max(1, whole.tiles))}
                    for n in (item.raw, item.dropped, item.joint)
                ],
            }
            for item in trend.ledgers
        ],
        "kinds": [{"name": k, "count": f"{trend.kinds[k]:,}", "words": KIND_WORDS[k]} for k in KINDS],
    }


def place_rows(trend: Trend) -> list[dict[str, Any]]:
    """Rows of the table of areas; empty without areas."""
    step, built = trend.whole, trend.built_ha
    share, net = trend.shares(built), trend.built_exchange(step).net
    most = max((float(v) for v in trend.new_mapped_ha[1:]), default=0.0)
    people = any(not math.isnan(number) for place in trend.places for number in place.people)
    rows = []
    for a, place in enumerate(trend.places[1:], start=1):
        sdg, known = trend.consumption(a, step), place.tiles > 0
        new = float(trend.new_mapped_ha[a])
        cells = [
            _cell(place.covered_ha, hectares),
            _cell(float(built[a, 0]), hectares),
            _cell(float(built[a, -1]), hectares),
            _cell(float(share[a, -1]), percent),
            _cell(float(net[a]), signed),
            _cell(new, hectares),
            {"bar": round(100 * new / most, 1) if most > 0 else 0},
            _cell(float(trend.new_expected_ha[a]), hectares),
            _cell(trend.growth(a, step), percent),
            *([_cell(sdg.pgr, percent), _cell(sdg.ratio, _ratio)] if people else []),
            _cell(int(trend.hot_tiles[a]), lambda x: f"{x:,.0f}"),
        ]
        part = place.covered_share
        note = "not covered" if not known else f"{percent(part, 0)} covered" if part < 0.99 else ""
        rows.append({"name": place.name, "note": note, "cells": cells if known else [_blank(c) for c in cells]})
    return rows


def _cell(value: float, write: Any) -> dict[str, Any]:
    return {"value": value, "text": write(value) if math.isfinite(value) else "–"}


def _ratio(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def _blank(cell: dict[str, Any]) -> dict[str, Any]:
    return {"bar": 0} if "bar" in cell else {"value": "", "text": "–"}


def class_rows(trend: Trend) -> list[dict[str, Any]]:
    step = trend.whole
    moved, built = trend.exchange(step), trend.built_exchange(step)
    share = trend.shares(trend.mapped_ha)[0, -1]
    rows: list[dict[str, Any]] = [
        {
            "k": k,
            "name": name,
            "total": False,
            "stock": [hectares(float(v)) for v in trend.mapped_ha[0, :, k]],
            "cells": [
                percent(float(share[k])),
                *(hectares(float(v[0, k])) for v in (moved.gain, moved.loss)),
                signed(float(moved.net[0, k])),
                hectares(float(moved.swap[0, k])),
                percent(trend.growth(0, step, trend.mapped_ha[:, :, k]), 1, sign=True),
            ],
        }
        for k, name in enumerate(trend.scheme.names)
    ]
    total = {
        "k": None,
        "name": f"Built-up ({listed(trend.built)})",
        "total": True,
        "stock": [hectares(float(v)) for v in trend.built_ha[0]],
        "cells": [
            percent(float(trend.shares(trend.built_ha)[0, -1])),
            *(hectares(float(v[0])) for v in (built.gain, built.loss)),
            signed(float(built.net[0])),
            hectares(float(built.swap[0])),
            percent(trend.growth(0, step), 1, sign=True),
        ],
    }
    return [*rows, total]


def matrix_rows(trend: Trend, open_: npt.NDArray[np.bool_]) -> list[dict[str, Any]]:
    matrix, built = trend.whole.matrices[0], trend.is_built
    moved = matrix - np.diag(np.diag(matrix))
    top = float(moved.max()) or 1.0
    rows = []
    for i, row in enumerate(matrix):
        cells = []
        for j, value in enumerate(row):
            heat = math.sqrt(float(moved[i, j]) / top)
            colour = "#" + "".join(f"{round(255 + (part - 255) * heat * 0.9):02x}" for part in HEAT)
            kind = "stay" if i == j else "none" if value <= 0 else "new" if open_[i] and built[j] else ""
            # White on the darkest orange has less contrast than black.
            cells.append(
                {
                    "text": hectares(float(value)),
                    "kind": kind,
                    "colour": colour if i != j and value > 0 else "",
                    "ink": "#1c2629",
                }
            )
        rows.append({"cells": cells, "total": hectares(float(row.sum()))})
    return rows


def largest_moves(trend: Trend) -> list[dict[str, Any]]:
    """The largest transitions from one class to another over the whole time."""
    matrix = trend.whole.matrices[0] * ~np.eye(len(trend.scheme), dtype=bool)
    order = np.argsort(-matrix, axis=None, kind="stable")[:MOST_MOVES]
    found = [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, matrix.shape), strict=True)]
    return [{"i": i, "j": j, "text": hectares(float(matrix[i, j]))} for i, j in found if matrix[i, j] > 0]


def all_numbers(trend: Trend) -> dict[str, Any]:
    table = trend_table(trend)
    cut = len(table) > MOST_ROWS
    chosen = table[table["area"] == trend.places[0].name] if cut else table
    rows = [
        [
            row["area"],
            row["date"],
            row["class"] if row["level"] == "class" else f"{BUILT} in all",
            hectares(row["mapped_ha"]),
            percent(row["mapped_share"]),
            hectares(row["expected_ha"]),
            hectares(row["single_date_ha"]),
            signed(row["net_ha_since_previous"]),
            percent(row["growth_per_year_since_previous"], 1, sign=True),
        ]
        for row in chosen.to_dict("records")
    ]
    return {"numbers": rows, "cut": cut}
