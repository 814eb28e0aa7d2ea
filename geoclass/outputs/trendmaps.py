"""Maps of the trend report: tiles as an exact picture, outlines over it, and what a map needs to be read."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import shapely
from markupsafe import Markup, escape
from PIL import Image

from ..grid import TileGrid, TileRange

RGB = npt.NDArray[np.uint8]

PICTURE_PX = 900
"""The longest side of a picture of the ground."""


def map_svg(colours: RGB, tiles: TileRange, grid: TileGrid, outlines: Sequence[shapely.Geometry], label: str) -> Markup:
    """A map of tiles as a picture, (rows, columns, 3 or 4), with outlines (in the grid's CRS) over it."""
    paths = "".join(f'<path d="{_path(shape, tiles, grid)}"/>' for shape in outlines)
    return Markup(
        f'<svg class="map" viewBox="0 0 {tiles.columns} {tiles.rows}" role="img" aria-label="{escape(label)}">'
        f'<image width="{tiles.columns}" height="{tiles.rows}" preserveAspectRatio="none" href="{png(colours)}"/>'
        f'<g class="outlines halo">{paths}</g><g class="outlines">{paths}</g></svg>'
    )


def png(colours: RGB) -> str:
    """A picture as a data URI, exact."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(colours, np.uint8)).save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def photograph(picture: RGB) -> str:
    """A picture of the ground, (h, w, 3), as a data URI of a JPEG of at most PICTURE_PX."""
    image = Image.fromarray(np.ascontiguousarray(picture[..., :3], np.uint8))
    image.thumbnail((PICTURE_PX, PICTURE_PX))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _path(shape: shapely.Geometry, tiles: TileRange, grid: TileGrid) -> str:
    """The outline's lines in tiles from the north-west corner, thinned to a twentieth of one."""
    parts = []
    for part in shapely.get_parts(shapely.simplify(shape, grid.side / 20)):
        for ring in shapely.get_rings(part):
            x, y = shapely.get_coordinates(ring).T
            points = np.stack([x / grid.side - tiles.left, tiles.top - y / grid.side], axis=1)
            parts.append("M" + "L".join(f"{a:.2f} {b:.2f}" for a, b in points) + "Z")
    return "".join(parts)


def place_at(shape: shapely.Geometry, tiles: TileRange, grid: TileGrid) -> tuple[float, float] | None:
    """Where to write an area's name, in shares of the map from its north-west corner; None where it lies outside."""
    spot = shapely.point_on_surface(shape)
    x = (spot.x / grid.side - tiles.left) / max(1, tiles.columns)
    y = (tiles.top - spot.y / grid.side) / max(1, tiles.rows)
    return (x, y) if 0 < x < 1 and 0 < y < 1 else None


def scale_bar(tiles: TileRange, grid: TileGrid) -> tuple[str, float]:
    """A round length of about a quarter of the map's width, in words, and its share of that width."""
    width = tiles.columns * grid.side_m
    goal = width / 4
    power = 10.0 ** math.floor(math.log10(goal))
    length = max(step * power for step in (1, 2, 5) if step * power <= goal)
    return (f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"), length / width
