"""The interactive map: one HTML file that draws tiles from arrays and needs no network."""

from __future__ import annotations

import math
import re
from pathlib import Path, PurePath
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
from PIL import Image

from ..grid import slices
from ..labels import Labels
from .colours import reader_colours
from .lattice import Lattice
from .offline import (
    OfflineMap,
    as_bytes,
    deflated,
    icons,
    in_base64,
    in_cells,
    outlines,
    picture_data,
    placed,
    write_page,
)
from .offline import require_drawable as require_drawable
from .style import plain, require_tiles

PACKED_FROM = 200_000
"""From this many tiles on a page holds them deflated and draws a coarse picture first."""
CHUNK_TILES = 1 << 16
COARSE_CELLS = 1 << 16
COARSE_COUNTS = 1 << 22
NONE = 255

Order = npt.NDArray[np.intp]

# Names, address, attribution, and whether the server answers only pages that a web server sent (OpenStreetMap's
# tile policy asks for a Referer header, which a page opened from disk cannot send).
BASEMAPS: tuple[dict[str, str | bool], ...] = (
    {
        "name": "Esri topographic",
        "url": "https://server.arcgisonline.com/ArcGIS/rest/services/World_Topo_Map/MapServer/tile/{z}/{y}/{x}",
        "attribution": "Tiles © Esri, HERE, Garmin, FAO, NOAA, USGS, © OpenStreetMap contributors, GIS User Community",
        "served": False,
    },
    {
        "name": "Esri World Imagery",
        "url": "https://server.arcgisonline.com/ArcGIS/rest/services/World_Imagery/MapServer/tile/{z}/{y}/{x}",
        "attribution": "Tiles © Esri, Maxar, Earthstar Geographics, and the GIS User Community",
        "served": False,
    },
    {
        "name": "OpenStreetMap",
        "url": "https://tile.openstreetmap.org/{z}/{x}/{y}.png",
        "attribution": '© <a href="https://www.openstreetmap.org/copyright">OpenStreetMap</a> contributors',
        "served": True,
    },
)


def build_map(
    labels: Labels,
    *,
    preview: Image.Image | None = None,
    aois: gpd.GeoDataFrame | None = None,
    basemap: bool = False,
    title: str | None = None,
    opacity: float = 0.6,
    note: str | None = None,
) -> OfflineMap:
    """The map of one result, for a notebook or a page.

    preview: RGB picture that covers `labels.range` exactly, north up, any size; black is see-through in tiles that
    lack data. aois: outlines in any CRS, named by their column `name`. basemap: offer online background maps.
    opacity: of the classes, 0–1; with nothing beneath they are opaque. note: a sentence for the foot of the legend.
    `labels.info` may hold `name`, `date`, `inputs`, `synthetic`, `below_min_valid` and `min_valid`.

    Raises OutputError if there are no tiles, they lie too far apart for a canvas, or beyond 85° of latitude.
    """
    require_tiles(labels, PurePath("the map"))
    require_drawable(labels.range)
    info = plain(labels.info)
    heading = title or str(info.get("name") or "") or "Land cover"
    synthetic = bool(info.get("synthetic"))
    lattice = Lattice.over(labels.grid, labels.range)
    order, where = in_cells(labels.grid, labels.range, labels.columns, labels.rows)
    many = len(labels) >= PACKED_FROM
    page = {
        "title": heading,
        "synthetic": synthetic,
        "facts": _facts(labels, info),
        "notes": _notes(info, note),
        "opacity": min(1.0, max(0.0, opacity)) if preview is not None or basemap else 1.0,
        "floor": math.floor(20 / len(labels.scheme)) / 20,
        "classes": _classes(labels),
        "tiles": {**where, **(_coarse(labels) if many else _tiles(labels, order))},
        "lattice": placed(lattice),
        "preview": picture_data(preview, labels.image(labels.valid_fraction > 0.999)) if preview is not None else None,
        "aois": outlines(aois, labels.grid, lattice) if aois is not None else [],
        "basemaps": list(BASEMAPS) if basemap else [],
        "icons": icons(),
    }
    heading += " (synthetic imagery)" if synthetic else ""
    later = _packed(labels, order) if many else ""
    return OfflineMap("webmap", page, heading, later=later, parts=("webmap_tiles",))


def write_map(
    path: Path,
    labels: Labels,
    *,
    preview: Image.Image | None = None,
    aois: gpd.GeoDataFrame | None = None,
    basemap: bool = False,
    title: str | None = None,
    opacity: float = 0.6,
    note: str | None = None,
    overwrite: bool = True,
) -> None:
    """Write the map as one HTML file, arguments as in `build_map`. A policy in the page forbids it all requests
    but those of online background maps, where they were asked for. Raises OutputError."""
    made = build_map(labels, preview=preview, aois=aois, basemap=basemap, title=title, opacity=opacity, note=note)
    hosts = sorted({"https://" + str(item["url"]).split("/")[2] for item in BASEMAPS}) if basemap else []
    write_page(path, made, overwrite, hosts)


# ---- what the page holds


def _facts(labels: Labels, info: dict[str, Any]) -> list[str]:
    day = str(info.get("date") or "")
    tiles = f"{len(labels):,} {'tile' if len(labels) == 1 else 'tiles'} of {labels.grid.side_m:g} m"
    return [day, tiles] if day else [tiles]


def _notes(info: dict[str, Any], note: str | None) -> list[str]:
    notes = [note] if note else []
    notes.append("Mapped areas are pixel counts, not estimates: the map's own errors are still in them.")
    if left_out := int(info.get("below_min_valid") or 0):
        share = info.get("min_valid")
        under = f"with less than {float(share):.0%} data" if share else "with too little data"
        notes.append(f"{left_out:,} {'tile' if left_out == 1 else 'tiles'} {under} left out.")
    if names := _input_names(info.get("inputs")):
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        notes.append(f"Imagery: {', '.join(names[:3])}{more}.")
    return notes


def _input_names(inputs: Any) -> list[str]:
    """File names, without folders, of what `info["inputs"]` may be: a path, a list of them, or of objects with one."""
    items = inputs if isinstance(inputs, list) else [inputs] if inputs else []
    paths = [item.get("path") or item.get("name") if isinstance(item, dict) else item for item in items]
    return [re.split(r"[/\\]", str(path).rstrip("/\\"))[-1] for path in paths if path]


def _classes(labels: Labels) -> list[dict[str, str | float]]:
    areas, safe = labels.areas_m2(), reader_colours(labels.scheme)
    return [
        {"name": item.name, "colour": item.colour, "safe": colour, "hectares": areas[item.name] / 10_000}
        for item, colour in zip(labels.scheme.classes, safe, strict=True)
    ]


def _tiles(labels: Labels, order: Order) -> dict[str, str]:
    """The values of each tile."""
    return {
        "kind": in_base64(labels.class_index[order], "u1"),
        "probability": in_base64(as_bytes(labels.probabilities[order]), "u1"),
        "valid": in_base64(as_bytes(labels.valid_fraction[order]), "u1"),
    }


# ---- many tiles


def _packed(labels: Labels, order: Order) -> str:
    """The values of each tile, deflated, a line a piece: all classes, all confidences, and of every CHUNK_TILES tiles
    valid fractions (n,), then probabilities (n, K)."""
    pieces = [labels.class_index.astype(np.uint8)[order].tobytes(), as_bytes(labels.confidence)[order].tobytes()]
    found = [deflated(piece) for piece in pieces]
    for part in slices(len(order), CHUNK_TILES):
        at = order[part]
        values = (as_bytes(labels.valid_fraction[at]), as_bytes(labels.probabilities[at]))
        found.append(deflated(b"".join(array.tobytes() for array in values)))
    return "\n".join(found)


def _coarse(labels: Labels) -> dict[str, Any]:
    """A picture of few cells for the first drawing: the commonest class in squares of places, NONE without a tile."""
    tiles, classes = labels.range, len(labels.scheme)
    per = math.ceil(math.sqrt(len(tiles) / min(COARSE_CELLS, COARSE_COUNTS // classes)))
    wide, high = math.ceil(tiles.columns / per), math.ceil(tiles.rows / per)
    square = (tiles.top - 1 - labels.rows) // per * wide + (labels.columns - tiles.left) // per
    counts = np.bincount(square * classes + labels.class_index, minlength=wide * high * classes).reshape(-1, classes)
    kinds = np.where(counts.any(axis=1), counts.argmax(axis=1), NONE)
    return {"chunk": CHUNK_TILES, "coarse": {"per": per, "columns": wide, "kinds": in_base64(kinds, "u1")}}
