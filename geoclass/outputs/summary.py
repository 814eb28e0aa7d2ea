"""The result in numbers: tiles and mapped area of each class, how sure the model was, what was left out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..files import write_errors
from ..grid import crs_text
from ..labels import SMOOTHING_KEY, Labels
from . import style

M2_PER_HA = 10_000


def summarise(labels: Labels) -> dict[str, Any]:
    """Counts and areas as plain values, ready for JSON.

    Areas are in m² and hectares, and count a tile's share of pixels with data; `share` is a part of all mapped
    area, from 0 to 1. `classes` has every class of the scheme, in its order, with a mean confidence of None where
    no tile has it; `groups` the same for the scheme's groups. How many tiles were left out, and below which valid
    fraction, is taken from `labels.info` (`below_min_valid`, `min_valid`), None where it does not say.
    """
    classes = _classes(labels)
    area_m2 = sum(item["area_m2"] for item in classes)
    return {
        "crs": crs_text(labels.grid.crs),
        "tile_side_m": labels.grid.side_m,
        "scheme": labels.scheme.name,
        "tiles": len(labels),
        "tiles_partly_without_data": int(np.count_nonzero(labels.valid_fraction < 1)),
        "below_min_valid": style.plain(labels.info.get("below_min_valid")),
        "min_valid": style.plain(labels.info.get("min_valid")),
        "area_m2": area_m2,
        "area_ha": area_m2 / M2_PER_HA,
        "mean_confidence": _mean(labels.confidence) if len(labels) else None,
        "classes": classes,
        "groups": _groups(labels, classes),
        "notes": _notes(labels),
    }


def _classes(labels: Labels) -> list[dict[str, Any]]:
    areas = labels.areas_m2()
    total = sum(areas.values())
    index, confidence = labels.class_index, labels.confidence
    tiles = np.bincount(index, minlength=len(labels.scheme))
    return [
        {
            "id": item.id,
            "name": item.name,
            "colour": item.colour,
            "tiles": int(tiles[k]),
            **_area(areas[item.name], total),
            "mean_confidence": _mean(confidence[index == k]) if tiles[k] else None,
        }
        for k, item in enumerate(labels.scheme.classes)
    ]


def _groups(labels: Labels, classes: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    total = sum(item["area_m2"] for item in classes)
    found = {}
    for group, members in labels.scheme.groups.items():
        inside = [item for item in classes if item["name"] in members]
        area_m2 = sum(item["area_m2"] for item in inside)
        found[group] = {"tiles": sum(item["tiles"] for item in inside), **_area(area_m2, total)}
    return found


def _area(area_m2: float, total_m2: float) -> dict[str, float]:
    share = area_m2 / total_m2 if total_m2 else 0.0
    return {"area_m2": float(area_m2), "area_ha": float(area_m2) / M2_PER_HA, "share": float(share)}


def _mean(values: Any) -> float:
    return float(np.mean(values, dtype=np.float64))


def _notes(labels: Labels) -> list[str]:
    notes = ["Areas are counts of classified tiles, less the part of each without data; not an estimate with an error."]
    left_out, min_valid = labels.info.get("below_min_valid"), labels.info.get("min_valid")
    if left_out is not None:
        reason = f" because less than {float(min_valid):.0%} of their ground has data" if min_valid is not None else ""
        notes.append(
            f"{int(left_out):,} tiles were not classified{reason}; they have no polygon and are 0 in the raster."
        )
    if labels.raw is not None:
        moved = int(np.count_nonzero(labels.class_index != labels.raw.argmax(axis=1)))
        notes.append(
            f"Smoothed: {labels.info.get(SMOOTHING_KEY)}. {moved:,} tiles have another class by it; what the model said of each "
            "stands in raw_class and raw_p_<class>."
        )
    return notes


def write_summary(path: Path, labels: Labels, timings: Mapping[str, Any]) -> None:
    """Write `path`, a .json: what was run (`info`), what came of it (`summary`), and `timings`. Raises OutputError."""
    content = {
        "title": style.title(labels),
        "geoclass": __version__,
        "info": labels.info,
        "summary": summarise(labels),
        "timings": timings,
    }
    with write_errors(path):
        path.write_text(style.to_json(content, indent=2) + "\n", encoding="utf-8")
