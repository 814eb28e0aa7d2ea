"""The change map: one HTML file with every date's classes and imagery, a swipe between them, and what changed."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
from PIL import Image

from ..changes.places import tile_shares
from ..changes.posterior import ARROW, KINDS, Change
from ..changes.series import Series
from ..errors import OutputError
from ..grid import TileRange, slices
from .changestyle import CATEGORIES, categories
from .colours import reader_colours
from .lattice import Lattice
from .offline import (
    MAX_CELLS,
    OfflineMap,
    as_bytes,
    icons,
    in_base64,
    in_cells,
    outlines,
    picture_data,
    placed,
    require_drawable,
    write_page,
)  # fmt: skip
from .style import plain, require_tiles

KIND_WORDS = {
    "stable": "the same class, whichever date is asked",
    "sustained": "another class, seen on the last two dates or more",
    "endpoint": "another class, seen on the last date only: no later date confirms it",
    "flicker": "single dates differ, and all dates together say that the class stayed or came back",
}
AREA_NOTE = (
    "Hectares here are counts of mapped tiles, not estimates: the map's own errors are still in them. Estimates with "
    "their intervals are in the report, once a sample of tiles has been looked at."
)
FULL = 0.999


@dataclass(frozen=True)
class Picture:
    """Imagery of one date: an RGB picture that covers the tiles of `range` exactly, north up, of any size."""

    image: Image.Image
    range: TileRange

    def over(self, wanted: TileRange) -> Image.Image:
        """The part over the tiles of `wanted`, black where this picture does not reach."""
        across, down = self.image.width / self.range.columns, self.image.height / self.range.rows
        left, right = max(wanted.left, self.range.left), min(wanted.right, self.range.right)
        bottom, top = max(wanted.bottom, self.range.bottom), min(wanted.top, self.range.top)
        size = (max(1, round(wanted.columns * across)), max(1, round(wanted.rows * down)))
        found = Image.new("RGB", size)
        if left >= right or bottom >= top:
            return found
        box = (
            (left - self.range.left) * across,
            (self.range.top - top) * down,
            (right - self.range.left) * across,
            (self.range.top - bottom) * down,
        )
        part = (max(1, round((right - left) * across)), max(1, round((top - bottom) * down)))
        piece = self.image.convert("RGB").resize(part, Image.Resampling.BOX, box=box)
        found.paste(piece, (round((left - wanted.left) * across), round((wanted.top - top) * down)))
        return found


def build_change_map(
    change: Change,
    *,
    previews: Sequence[Picture | None] = (),
    aois: gpd.GeoDataFrame | None = None,
    title: str | None = None,
    opacity: float = 0.75,
) -> OfflineMap:
    """The map of a change, for a notebook or a page.

    previews: imagery of each date, or none; black is see-through in tiles that lack data. aois: outlines in any CRS,
    named by their column `name`. opacity: of tiles over imagery, 0–1. The page says `Series.warnings`.

    Raises OutputError if there are no tiles, they lie too far apart for a canvas or beyond 85° of latitude, or the
    number of previews is not that of the dates.
    """
    series = change.series
    _require_previews(series, previews)
    require_tiles(series.labels_at(0), PurePath("the map"))
    require_drawable(series.range)
    heading = title or f"Change {series.dates[0]} to {series.dates[-1]}"
    lattice = Lattice.over(series.grid, series.range)
    order, where = in_cells(series.grid, series.range, series.columns, series.rows)
    page = {
        "title": heading,
        "synthetic": any(plain(source.info).get("synthetic") for source in series.sources),
        "facts": [f"{series.dates[0]} to {series.dates[-1]}", f"{len(series):,} tiles of {series.grid.side_m:g} m"],
        "warnings": list(series.warnings),
        "notes": [AREA_NOTE],
        "opacity": min(1.0, max(0.0, opacity)),
        "dates": list(series.dates),
        "arrow": ARROW,
        "classes": _classes(series),
        "categories": [
            {"key": item.key, "name": item.label, "colour": item.colour, "words": item.words} for item in CATEGORIES
        ],
        "kinds": [{"name": name, "words": KIND_WORDS[name]} for name in KINDS],
        "threshold": change.threshold,
        "hectares": series.grid.tile_area_m2 / 10_000,
        "tiles": {**where, **_first(change, order)},
        "lattice": placed(lattice),
        "pictures": [_picture(series, date, picture) for date, picture in enumerate(previews or [None] * _dates(series))],
        "aois": _areas(aois, series, lattice, order) if aois is not None else [],
        "icons": icons(),
    }  # fmt: skip
    heading += " (synthetic imagery)" if page["synthetic"] else ""
    return OfflineMap("changemap", page, heading, later=_later(change, order), parts=("changemap_sides",))


def write_change_map(
    path: Path,
    change: Change,
    *,
    previews: Sequence[Picture | None] = (),
    aois: gpd.GeoDataFrame | None = None,
    title: str | None = None,
    opacity: float = 0.75,
    overwrite: bool = True,
) -> None:
    """Write the map as one HTML file that makes no request, arguments as in `build_change_map`. Raises OutputError.

    `path#tile=<tile id>` opens at that tile.
    """
    made = build_change_map(change, previews=previews, aois=aois, title=title, opacity=opacity)
    write_page(path, made, overwrite)


# ---- what the page holds


def _dates(series: Series) -> int:
    return len(series.dates)


def _require_previews(series: Series, previews: Sequence[Picture | None]) -> None:
    if previews and len(previews) != _dates(series):
        raise OutputError(
            f"{len(previews)} previews for {_dates(series)} dates; give one for each date, None where there is none"
        )


def _classes(series: Series) -> list[dict[str, str]]:
    colours = reader_colours(series.scheme)
    return [
        {"name": name, "colour": colour, "group": _group(series, name)}
        for name, colour in zip(series.scheme.names, colours, strict=True)
    ]


def _group(series: Series, name: str) -> str:
    return "built" if name in series.built else "open" if name in series.open else ""


def _first(change: Change, order: npt.NDArray[np.intp]) -> dict[str, str]:
    """What the page draws and counts, (N,) or (T, N): a byte a tile each."""
    worst = change.series.valid_fraction.min(axis=1)
    return {
        "classes": in_base64(change.classes[order].T, "u1"),
        "what": in_base64((categories(change) + 16 * change.kind)[order], "u1"),
        "change": in_base64(as_bytes(change.p_change[order]), "u1"),
        "built": in_base64(as_bytes(change.p_new_built[order]), "u1"),
        "valid": in_base64(as_bytes(worst[order]), "u1"),
    }


def _later(change: Change, order: npt.NDArray[np.intp]) -> str:
    """What the page reads when a tile is asked for, deflated: class of each date alone (N, T), then posterior (N, T, K)."""
    packer, found = zlib.compressobj(6), []
    for part in slices(len(order)):
        found.append(
            packer.compress(change.series.probabilities[order[part]].argmax(axis=2).astype(np.uint8).tobytes())
        )
    for part in slices(len(order)):
        found.append(packer.compress(as_bytes(change.posterior[order[part]]).tobytes()))
    return base64.b64encode(b"".join([*found, packer.flush()])).decode("ascii")


def _picture(series: Series, date: int, picture: Picture | None) -> str | None:
    if picture is None:
        return None
    whole = series.image(series.valid_fraction[:, date] > FULL)
    return picture_data(picture.over(series.range), whole, most_px=MAX_CELLS // max(2, _dates(series)) * 2)


def _areas(
    aois: gpd.GeoDataFrame, series: Series, lattice: Lattice, order: npt.NDArray[np.intp]
) -> list[dict[str, Any]]:
    """Outlines of the areas, and which tiles (by their number on the page) lie in each: runs, and each tile's share."""
    shapes = aois[aois.geometry.geom_type.isin(("Polygon", "MultiPolygon"))]
    found = outlines(shapes, series.grid, lattice)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    shares = tile_shares(series.grid, series.columns, series.rows, shapes.geometry.to_crs(series.grid.crs).to_numpy())
    for k, area in enumerate(found):
        part = slice(shares.indptr[k], shares.indptr[k + 1])
        tiles = place[shares.indices[part]]
        sorted_ = np.argsort(tiles)
        tiles = tiles[sorted_]
        starts = np.flatnonzero(np.diff(tiles, prepend=-2) != 1)
        runs = np.stack([tiles[starts], np.diff(starts, append=len(tiles))], axis=1)
        area["runs"] = in_base64(runs, "<u4")
        area["shares"] = in_base64(as_bytes(shares.data[part][sorted_]), "u1")
        area["box"] = _box(area["lines"])
    return found


def _box(lines: list[list[list[float]]]) -> list[list[float]]:
    """South-west and north-east corner of an outline, [latitude, longitude]."""
    points = np.concatenate([np.asarray(line) for line in lines])
    return [points.min(axis=0).tolist(), points.max(axis=0).tolist()]
