"""The interactive map: one HTML file that draws tiles from arrays and needs no network."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import re
from functools import cache
from importlib import resources
from pathlib import Path, PurePath
from typing import Any

import folium
import geopandas as gpd
import numpy as np
import numpy.typing as npt
import shapely
from branca.element import Element, Figure
from PIL import Image

from ..errors import OutputError
from ..files import replacing
from ..grid import TileRange
from ..labels import Labels
from .colours import reader_colours
from .lattice import Lattice
from .style import plain, require_tiles

MAX_CELLS = 4096 * 4096
"""The largest canvas that every browser grants, phones included. The preview keeps to it as well."""
MAX_SIDE = 16_384
BLACK = 16
"""Brightness up to which a pixel without data counts as black: JPEG's black is not quite 0."""

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


class _Verbatim(Element):
    """Text that reaches the page as it is. branca's own elements would run `{{ … }}` in it as a template, whoever
    wrote it: a class name, a title."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def render(self, **kwargs: Any) -> str:
        return self.text


class _Page(Figure):
    """A whole page, where branca's own has no language and an unescaped title."""

    def render(self, **kwargs: Any) -> str:
        for child in self._children.values():
            child.render(**kwargs)
        header, body, script = (part.render(**kwargs) for part in (self.header, self.html, self.script))
        return (
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{header}\n<title>{html.escape(self.title or "")}</title>\n</head>\n'
            f"<body>\n{body}\n<script>\n{script}\n</script>\n</body>\n</html>\n"
        )


class OfflineMap(folium.Map):
    """A folium map that holds all it needs. Layers added to it appear above the tiles.

    folium's own popups and awesome markers need scripts from a network and are not part of it.
    """

    def __init__(self, values: dict[str, Any], title: str) -> None:
        super().__init__(tiles=None)
        self._name = "GeoclassMap"
        # Inside a script element only "<" can end it; \u003c means the same to JSON.
        self.values = json.dumps(values, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
        self.page = _Page(height="640px", title=title)
        self.page.add_child(self)

    def render(self, **kwargs: Any) -> str:
        """Put the page's parts where folium puts a map's, then the layers that were added."""
        name, page = self.get_name(), self.get_root()
        skeleton = _asset("webmap.html").replace("MAP_ID", name)
        scripts = "\n".join((_leaflet_js(), _asset("webmap_grid.js"), _asset("webmap.js")))
        parts = {
            "header": '<meta name="viewport" content="width=device-width, initial-scale=1" />\n<link rel="icon" href="data:," />'
            f"\n<style>{_leaflet_css()}\n{_asset('webmap.css')}</style>\n<script>{scripts}</script>",
            "html": f'{skeleton}<script type="application/json" id="{name}-data">{self.values}</script>',
            "script": f'var {name} = geoclassMap("{name}");',
        }
        for place, text in parts.items():
            getattr(page, place).add_child(_Verbatim(text), name=name)
        for child in self._children.values():
            child.render(**kwargs)
        return ""  # the page holds it all


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
    page = {
        "title": heading,
        "synthetic": synthetic,
        "facts": _facts(labels, info),
        "notes": _notes(info, note),
        "opacity": min(1.0, max(0.0, opacity)) if preview is not None or basemap else 1.0,
        "floor": math.floor(20 / len(labels.scheme)) / 20,
        "classes": _classes(labels),
        "tiles": _tiles(labels),
        "lattice": {"steps": lattice.steps, "points": _base64(lattice.points, "<f8")},
        "preview": _preview(labels, preview) if preview is not None else None,
        "aois": _outlines(aois, labels, lattice) if aois is not None else [],
        "basemaps": list(BASEMAPS) if basemap else [],
        "icons": {f"{key}Url": _image(f"marker-{name}.png") for key, name in _ICONS.items()},
    }
    return OfflineMap(page, heading + (" (synthetic imagery)" if synthetic else ""))


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
    policy = (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
        f"img-src {' '.join(['data:', *hosts])}; base-uri 'none'; form-action 'none'"
    )
    element = Element(f'<meta http-equiv="Content-Security-Policy" content="{policy}" />')
    made.page.header.add_child(element, "policy", 0)
    text = made.page.render()
    with replacing(path, overwrite) as temporary:
        temporary.write_bytes(text.encode("utf-8", "replace"))


# ---- what the page holds


def require_drawable(tiles: TileRange) -> None:
    """Raise OutputError for a range of tiles that is too large for a canvas."""
    if len(tiles) > MAX_CELLS or max(tiles.columns, tiles.rows) > MAX_SIDE:
        raise OutputError(
            f"the map cannot draw tiles spread over {tiles.columns} × {tiles.rows} places (at most {MAX_CELLS:,}); "
            "classify the scenes that lie far apart one by one, or narrow the area with --aoi"
        )


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


def _tiles(labels: Labels) -> dict[str, str | int]:
    """Positions as runs of consecutive cells (counted from the north-west, line by line), values in that order."""
    tiles = labels.range
    cells = (tiles.top - 1 - labels.rows) * tiles.columns + (labels.columns - tiles.left)
    order = np.argsort(cells, kind="stable")
    cells = cells[order]
    starts = np.flatnonzero(np.diff(cells, prepend=-2) != 1)
    runs = np.stack([cells[starts], np.diff(starts, append=len(cells))], axis=1)
    return {
        "prefix": labels.grid.prefix,
        "left": tiles.left,
        "top": tiles.top,
        "columns": tiles.columns,
        "rows": tiles.rows,
        "runs": _base64(runs, "<u4"),
        "kind": _base64(labels.class_index[order], "u1"),
        "probability": _base64(_bytes(labels.probabilities[order]), "u1"),
        "valid": _base64(_bytes(labels.valid_fraction[order]), "u1"),
    }


def _bytes(shares: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Shares from 0 to 1 in 255 steps: at most 0.2 % off."""
    steps: npt.NDArray[Any] = np.rint(np.clip(np.nan_to_num(shares), 0, 1) * 255)
    return steps


def _base64(values: npt.NDArray[Any], dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes()).decode("ascii")


# ---- where things lie


def _outlines(aois: gpd.GeoDataFrame, labels: Labels, lattice: Lattice) -> list[dict[str, Any]]:
    """Name, lines and a place for the name of each area, in [latitude, longitude], thinned to a tenth of a tile."""
    if aois.crs is None:
        raise OutputError("the areas of interest have no CRS, so the map cannot place them; set one: .set_crs(4326)")
    thin = aois.geometry.to_crs(labels.grid.crs).simplify(labels.grid.side / 10).to_crs(4326)
    names = next((aois[name] for name in aois.columns if str(name).lower() == "name"), [""] * len(aois))
    middle = 360 * (float(lattice.points[lattice.steps // 2, lattice.steps // 2, 0]) - 0.5)
    found = []
    for name, shape in zip(names, thin, strict=True):
        lines = [part for part in shapely.get_parts(_lines(shape)) if part.geom_type in ("LineString", "LinearRing")]
        if lines:
            known = name is not None and name == name  # NaN, pandas' word for missing, is not itself
            found.append(
                {
                    "name": str(name) if known else "",
                    "lines": [_degrees(line, middle) for line in lines],
                    "at": _degrees(shapely.point_on_surface(shape), middle)[0],
                }
            )
    return found


def _degrees(shape: shapely.Geometry, middle: float) -> list[list[float]]:
    points = shapely.get_coordinates(shape)
    points[:, 0] -= 360 * np.round((points[:, 0] - middle) / 360)
    degrees: list[list[float]] = np.round(points[:, ::-1], 6).tolist()
    return degrees


def _lines(shape: shapely.Geometry | None) -> shapely.Geometry | None:
    return shape.boundary if shape is not None and shape.geom_type in ("Polygon", "MultiPolygon") else shape


# ---- pictures


def _preview(labels: Labels, picture: Image.Image) -> str:
    """`picture` as a WebP data URI, see-through where it is black and data is missing."""
    picture = picture.convert("RGB")
    shrink = max(math.sqrt(picture.width * picture.height / MAX_CELLS), max(picture.size) / 16_000)
    if shrink > 1:
        size = (max(1, int(picture.width / shrink)), max(1, int(picture.height / shrink)))
        picture = picture.resize(size, Image.Resampling.BOX)
    whole = Image.fromarray(labels.image((labels.valid_fraction > 0.999).astype(np.uint8) * 255))
    known = np.asarray(whole.resize(picture.size, Image.Resampling.NEAREST))
    seen = np.maximum(known, np.asarray(picture).max(axis=2)) > BLACK
    if not seen.all():
        picture.putalpha(Image.fromarray(seen.astype(np.uint8) * 255))
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=80, method=1)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


# ---- Leaflet and our own files

_ICONS = {"icon": "icon", "iconRetina": "icon-2x", "shadow": "shadow"}


@cache
def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _leaflet(name: str) -> bytes:
    return resources.files("js_lib_leaflet").joinpath("static", "js_lib_leaflet", *name.split("/")).read_bytes()


@cache
def _leaflet_js() -> str:
    return re.sub(r"(?m)^//# sourceMappingURL=.*$", "", _leaflet("leaflet.js").decode("utf-8"))


@cache
def _leaflet_css() -> str:
    return re.sub(r"images/([\w.-]+\.png)", lambda found: _image(found[1]), _leaflet("leaflet.css").decode("utf-8"))


@cache
def _image(name: str) -> str:
    return "data:image/png;base64," + base64.b64encode(_leaflet(f"images/{name}")).decode("ascii")
