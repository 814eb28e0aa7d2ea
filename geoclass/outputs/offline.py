"""Map pages that need no network: one HTML file with Leaflet inside, tiles as arrays, pictures as data."""

from __future__ import annotations

import base64
import html
import io
import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
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
from ..grid import IntArray, TileGrid, TileRange, slices
from .lattice import Lattice
from .page import asset, assets, in_script, policy

MAX_CELLS = 4096 * 4096
"""The largest canvas that every browser grants, phones included. Pictures keep to it as well."""
MAX_SIDE = 16_384
BLACK = 16
"""Brightness up to which a pixel without data counts as black: JPEG's black is not quite 0."""


class _Verbatim(Element):
    """Text that reaches the page as it is. branca's own elements would run `{{ … }}` in it as a template, whoever
    wrote it: a class name, a title."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def render(self, **kwargs: Any) -> str:
        return self.text


class _Page(Figure):
    """A whole page, where branca's own has no language and an unescaped title.

    `later` is put where its mark stands once the rest is there: each element copies the text of those in it.
    """

    later = ""
    mark = "<!-- later -->"

    def pieces(self, **kwargs: Any) -> tuple[str, str, str]:
        """The page's text before `later`, `later`, and the text after it."""
        for child in self._children.values():
            child.render(**kwargs)
        header, body, script = (part.render(**kwargs) for part in (self.header, self.html, self.script))
        before, _, after = body.partition(self.mark)
        return (
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{header}\n<title>{html.escape(self.title or "")}</title>\n</head>\n'
            f"<body>\n{before}",
            self.later,
            f"{after}\n<script>\n{script}\n</script>\n</body>\n</html>\n",
        )

    def render(self, **kwargs: Any) -> str:
        return "".join(self.pieces(**kwargs))


class OfflineMap(folium.Map):
    """A folium map that holds all it needs. Layers added to it appear above the tiles.

    kind: the page's HTML, CSS and script are this package's `<kind>.html`, `.css` and `.js`, which starts at
    `geoclassStart.<kind>(id)`; values: what the script reads first, as plain values; later: text that it reads only
    when needed; parts: further scripts of this package, by name, that come before it. folium's own popups and awesome markers need scripts from a network and are not part of it.
    """

    def __init__(
        self, kind: str, values: Mapping[str, Any], title: str, later: str = "", parts: Sequence[str] = ()
    ) -> None:
        super().__init__(tiles=None)
        self._name = "GeoclassMap"
        self.kind = kind
        self.values = in_script(values)
        self.parts = ("webmap_grid", "webmap_page", *parts, kind)
        self.page = _Page(height="640px", title=title)
        self.page.later = later
        self.page.add_child(self)

    def render(self, **kwargs: Any) -> str:
        """Put the page's parts where folium puts a map's, then the layers that were added."""
        name, page = self.get_name(), self.get_root()
        styles = leaflet_css() + "\n" + assets(f"{sheet}.css" for sheet in dict.fromkeys(("webmap", self.kind)))
        scripts = leaflet_js() + "\n" + assets(f"{part}.js" for part in self.parts)
        held = f'<script type="application/json" id="{name}-data">{self.values}</script>'
        if self.page.later:
            held += f'<script type="text/plain" id="{name}-later">{self.page.mark}</script>'
        parts = {
            "header": '<meta name="viewport" content="width=device-width, initial-scale=1" />\n<link rel="icon" href="data:," />'
            f"\n<style>{styles}</style>\n<script>{scripts}</script>",
            "html": asset(f"{self.kind}.html").replace("MAP_ID", name) + held,
            "script": f'var {name} = geoclassStart.{self.kind}("{name}");',
        }
        for place, text in parts.items():
            getattr(page, place).add_child(_Verbatim(text), name=name)
        for child in self._children.values():
            child.render(**kwargs)
        return ""  # the page holds it all


def write_page(path: Path, made: OfflineMap, overwrite: bool, hosts: Iterable[str] = ()) -> None:
    """Write a map as one HTML file. A policy in the page forbids it all requests but of pictures from `hosts`."""
    made.page.header.add_child(Element(policy(hosts)), "policy", 0)
    pieces = made.page.pieces()
    with replacing(path, overwrite) as temporary, temporary.open("wb") as stream:
        for piece in pieces:
            stream.write(piece.encode("utf-8", "replace"))


def require_drawable(tiles: TileRange) -> None:
    """Raise OutputError for a range of tiles that is too large for a canvas."""
    if len(tiles) > MAX_CELLS or max(tiles.columns, tiles.rows) > MAX_SIDE:
        raise OutputError(
            f"the map cannot draw tiles spread over {tiles.columns} × {tiles.rows} places (at most {MAX_CELLS:,}); "
            "classify the scenes that lie far apart one by one, or narrow the area with --aoi"
        )


# ---- arrays


def in_cells(
    grid: TileGrid, tiles: TileRange, columns: IntArray, rows: IntArray
) -> tuple[npt.NDArray[np.intp], dict[str, str | int]]:
    """The order from the north-west, line by line, in which a page holds tiles, and their places in that order.

    Places are runs of consecutive cells of `tiles`, counted line by line: first cell and length of each.
    """
    cells = (tiles.top - 1 - rows) * tiles.columns + (columns - tiles.left)
    order = np.argsort(cells, kind="stable")
    cells = cells[order]
    starts = np.flatnonzero(np.diff(cells, prepend=-2) != 1)
    runs = np.stack([cells[starts], np.diff(starts, append=len(cells))], axis=1)
    return order, {
        "prefix": grid.prefix,
        "left": tiles.left,
        "top": tiles.top,
        "columns": tiles.columns,
        "rows": tiles.rows,
        "runs": in_base64(runs, "<u4"),
    }


def as_bytes(shares: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Shares from 0 to 1 in 255 steps: at most 0.2 % off."""
    steps = np.empty(shares.shape, np.uint8)
    for part in slices(len(shares)):  # what comes between is four times as large
        steps[part] = np.rint(np.clip(np.nan_to_num(shares[part]), 0, 1) * 255)
    return steps


def in_base64(values: npt.NDArray[Any], dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes()).decode("ascii")


def deflated(values: bytes) -> str:
    """Bytes as the page inflates them: base64 text of a zlib stream."""
    return base64.b64encode(zlib.compress(values, 6)).decode("ascii")


# ---- where things lie


def placed(lattice: Lattice) -> dict[str, Any]:
    """The lattice as the page reads it."""
    return {"steps": lattice.steps, "points": in_base64(lattice.points, "<f8")}


def outlines(aois: gpd.GeoDataFrame, grid: TileGrid, lattice: Lattice) -> list[dict[str, Any]]:
    """Name, lines and a place for the name of each area, in [latitude, longitude], thinned to a tenth of a tile.

    Areas without an outline are left out. Raises OutputError where the areas have no CRS.
    """
    if aois.crs is None:
        raise OutputError("the areas of interest have no CRS, so the map cannot place them; set one: .set_crs(4326)")
    thin = aois.geometry.to_crs(grid.crs).simplify(grid.side / 10).to_crs(4326)
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


def picture_data(picture: Image.Image, whole: npt.NDArray[np.bool_], most_px: int = MAX_CELLS) -> str:
    """`picture` as a WebP data URI of at most `most_px` pixels, see-through where it is black and data is missing.

    whole: (rows, columns) which tiles are full of data, north up, over the same ground.
    """
    picture = picture.convert("RGB")
    shrink = max(math.sqrt(picture.width * picture.height / most_px), max(picture.size) / 16_000)
    if shrink > 1:
        size = (max(1, int(picture.width / shrink)), max(1, int(picture.height / shrink)))
        picture = picture.resize(size, Image.Resampling.BOX)
    full = Image.fromarray(whole.astype(np.uint8) * 255)
    known = np.asarray(full.resize(picture.size, Image.Resampling.NEAREST))
    seen = np.maximum(known, np.asarray(picture).max(axis=2)) > BLACK
    if not seen.all():
        picture.putalpha(Image.fromarray(seen.astype(np.uint8) * 255))
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=80, method=1)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


# ---- Leaflet

_ICONS = {"icon": "icon", "iconRetina": "icon-2x", "shadow": "shadow"}


def icons() -> dict[str, str]:
    """The pictures of Leaflet's markers, for those that a notebook adds."""
    return {f"{key}Url": _image(f"marker-{name}.png") for key, name in _ICONS.items()}


def _leaflet(name: str) -> bytes:
    return resources.files("js_lib_leaflet").joinpath("static", "js_lib_leaflet", *name.split("/")).read_bytes()


@cache
def leaflet_js() -> str:
    return re.sub(r"(?m)^//# sourceMappingURL=.*$", "", _leaflet("leaflet.js").decode("utf-8"))


@cache
def leaflet_css() -> str:
    return re.sub(r"images/([\w.-]+\.png)", lambda found: _image(found[1]), _leaflet("leaflet.css").decode("utf-8"))


@cache
def _image(name: str) -> str:
    return "data:image/png;base64," + base64.b64encode(_leaflet(f"images/{name}")).decode("ascii")
