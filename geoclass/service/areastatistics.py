"""Area and share of each class inside areas that a client drew, from the tiles of a result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import shapely

from ..grid import TileRange
from ..labels import Labels
from .clipping import overlaps

M2_PER_HA = 10_000


def statistics(labels: Labels, name: str, area: shapely.Geometry, check: Callable[[], None]) -> dict[str, Any]:
    """What lies in `area` (valid, in the grid's CRS) as plain values; areas in m² and hectares on the grid's plane.

    Tiles on the outline count with the part inside, and every tile with its share of pixels with data, so that an area
    around everything gives what the result's summary says. `unmapped_m2` is the rest of the area: ground without a label.
    """
    within, shares = _inside(labels, area, check)
    weight = shares * labels.grid.tile_area_m2
    mapped = weight * labels.valid_fraction[within].astype(np.float64)
    kinds = labels.class_index[within]
    by_class = np.bincount(kinds, mapped, len(labels.scheme))
    tiles = np.bincount(kinds, minlength=len(labels.scheme))
    total, whole = float(by_class.sum()), float(shapely.area(area)) * labels.grid.metres_per_unit**2
    confidence = float(np.average(labels.confidence[within], weights=mapped)) if total > 0 else None
    return {
        "name": name,
        **_both("area", whole),
        **_both("mapped", total),
        **_both("unmapped", max(0.0, whole - total)),
        "tiles": len(within),
        "mean_confidence": confidence,
        "classes": [
            {
                "id": item.id,
                "name": item.name,
                "colour": item.colour,
                "tiles": int(tiles[k]),
                **_both("area", float(by_class[k])),
                "share": float(by_class[k]) / total if total > 0 else 0.0,
            }
            for k, item in enumerate(labels.scheme.classes)
        ],
    }


def _both(name: str, area_m2: float) -> dict[str, float]:
    return {f"{name}_m2": area_m2, f"{name}_ha": area_m2 / M2_PER_HA}


def _inside(
    labels: Labels, area: shapely.Geometry, check: Callable[[], None]
) -> tuple[np.ndarray[Any, np.dtype[np.intp]], np.ndarray[Any, np.dtype[np.float64]]]:
    """(M,) which labels share area with `area`, and (M,) how much of each."""
    there, wanted = labels.range, labels.grid.range_over(tuple(shapely.bounds(area)))
    tiles = TileRange(
        max(there.left, wanted.left),
        max(there.bottom, wanted.bottom),
        min(there.right, wanted.right),
        min(there.top, wanted.top),
    )
    near = np.flatnonzero(
        (labels.columns >= tiles.left)
        & (labels.columns < tiles.right)
        & (labels.rows >= tiles.bottom)
        & (labels.rows < tiles.top)
    )
    if not len(near):
        return near, np.empty(0)
    found = overlaps(area, labels.grid, tiles, check)
    shares = found[tiles.top - 1 - labels.rows[near], labels.columns[near] - tiles.left]
    return near[shares > 0], shares[shares > 0]
