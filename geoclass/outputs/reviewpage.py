"""The review page: before and after pictures of tiles, answered by keyboard, in one HTML file that needs no network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyproj

from .. import __version__
from ..changes.candidates import Candidates, google_link, map_link, openstreetmap_link
from ..changes.chips import Chips
from ..changes.posterior import Change
from ..errors import ChangeError
from ..files import replacing
from ..grid import IntArray, TileGrid
from ..schemes import ClassScheme
from .colours import reader_colours
from .page import asset, whole_page

Purpose = Literal["estimation", "candidates", "reference", "labelling"]
STYLES = ["page.css", "answering.css", "reviewpage.css"]
ASKS_CLASSES: tuple[Purpose, ...] = ("reference", "labelling")
"""Pages that ask for the class on each date, and not whether a tile became built-up."""
PURPOSES: dict[Purpose, tuple[str, str]] = {
    "estimation": (
        "Random sample, for estimating areas",
        "These tiles were drawn at random by a design, and so they stand for all the others: your answers become areas "
        "with error bars. Answer every one, the dull ones too, and without looking at the map. Ranked candidates are "
        "kept on a page of their own: they were picked because the model suspects them, and mixed in here they would "
        "make the estimate wrong.",
    ),
    "candidates": (
        "Ranked candidates, for finding and retraining",
        "These tiles were picked because the model suspects new building there, likeliest and largest clusters first. "
        "Your answers find new development and correct the model. They cannot say how much was built: a picked list "
        "misses what the model missed. For areas, answer the random sample, which is kept on a page of its own.",
    ),
    "reference": (
        "Random sample, for judging a map",
        "These tiles were drawn at random by a design, and so they stand for all the others: your answers become the "
        "map's accuracy and areas with error bars. Answer every one, the dull ones too, and without looking at the map.",
    ),
    "labelling": (
        "Labels, for training a model",
        "What you say here is what a model learns. Name what covers most of the outlined square on each date, and "
        "leave out what you cannot tell. Tiles that train a model cannot also test it: judge it by the random sample.",
    ),
}


@dataclass(frozen=True)
class Entry:
    """One tile on the page: its centre in WGS 84 degrees; facts: short texts that may be seen before answering;
    model: lines of what the model says, not shown before."""

    tile_id: str
    longitude: float
    latitude: float
    facts: tuple[str, ...] = ()
    model: tuple[str, ...] = ()


def entries_of_tiles(grid: TileGrid, columns: IntArray, rows: IntArray) -> list[Entry]:
    """Entries of tiles that no model has seen."""
    to_degrees = pyproj.Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    longitude, latitude = to_degrees.transform((columns + 0.5) * grid.side, (rows + 0.5) * grid.side)
    places = zip(grid.tile_ids(columns, rows), longitude.tolist(), latitude.tolist(), strict=True)
    return [Entry(tile, x, y) for tile, x, y in places]


def entries_of_change(change: Change, index: npt.NDArray[np.intp]) -> list[Entry]:
    """Entries of the tiles at these positions of a change, with the model's answer to hold back, in this order."""
    series = change.series
    names = series.scheme.names
    entries = entries_of_tiles(series.grid, series.columns[index], series.rows[index])
    found = []
    for entry, at in zip(entries, index.tolist(), strict=True):
        kinds = change.classes[at].tolist()
        lines = [
            f"{date}: {names[kind]} ({change.posterior[at, t, kind]:.0%})"
            for t, (date, kind) in enumerate(zip(series.dates, kinds, strict=True))
        ]
        lines.append(f"Chance of new built-up land: {change.p_new_built[at]:.0%}")
        found.append(replace(entry, model=tuple(line.replace("%", "\u00a0%") for line in lines)))
    return found


def entries_of_candidates(candidates: Candidates) -> list[Entry]:
    """Entries of the ranked tiles, best first, with their rank and cluster in view."""
    entries = entries_of_change(candidates.change, candidates.index)
    numbers = zip(
        candidates.cluster.tolist(), candidates.cluster_tiles.tolist(), candidates.cluster_ha.tolist(), strict=True
    )
    return [
        replace(entry, facts=(f"Rank {k} of {len(entries):,}", _cluster(cluster, tiles, hectares)))
        for k, (entry, (cluster, tiles, hectares)) in enumerate(zip(entries, numbers, strict=True), 1)
    ]


def _cluster(number: int, tiles: int, hectares: float) -> str:
    return f"Cluster {number}: " + (f"{tiles:,} tiles" if tiles > 1 else "this tile alone") + f", {hectares:,.1f} ha"


def page_id(purpose: Purpose, tile_ids: Sequence[str], dates: Sequence[str]) -> str:
    """A short id of what is asked, for a page of tiles that come from no sample: the same question, the same id."""
    text = "\n".join((purpose, *dates, "", *tile_ids))
    return f"{purpose}-{hashlib.blake2b(text.encode(), digest_size=5).hexdigest()}"


def write_review(
    path: Path,
    entries: Sequence[Entry],
    chips: Chips,
    *,
    purpose: Purpose,
    scheme: ClassScheme | None = None,
    built: Sequence[str] = (),
    sample_id: str | None = None,
    title: str | None = None,
    question: str | None = None,
    hint: str | None = None,
    map_page: str | None = None,
    notes: Sequence[str] = (),
    overwrite: bool = False,
) -> int:
    """Write the page for these tiles; return its size in bytes (200 tiles on two dates stay below 8 MB).

    estimation, candidates: a tile is answered y, n or ? and, where a `scheme` is given, may get a class on each date;
    reference, labelling: each date gets a class. built: names of the built-up classes, for the sentence that explains the question.
    sample_id: under which the browser keeps the answers and which the CSV carries (`page_id` where there is none).
    map_page: name of the change map beside the page, to link to. notes: warnings to show. Answers stay in the browser
    until saved as CSV: `sample_id,tile_id,answer,class_<date>…,reviewer,note,purpose,time`, or for classes one row a
    tile and date, `sample_id,tile_id,date,class,reviewer,note,purpose,time`. The page makes no request.

    Raises ChangeError without tiles or dates, for a tile without a chip, a tile named twice, and for labelling without
    a scheme, OutputError where it cannot be written.
    """
    _require(entries, chips, purpose, scheme)
    known = sample_id or page_id(purpose, [entry.tile_id for entry in entries], chips.dates)
    name, why = PURPOSES[purpose]
    contents = {
        "id": known,
        "purpose": purpose,
        "purpose_name": name,
        "why": why,
        "title": title or _title(purpose, chips.dates),
        "question": question or _question(purpose, chips.dates),
        "hint": _hint(purpose, chips.dates, built) if hint is None else hint,
        "dates": list(chips.dates),
        "views": [f"{view.date}: {view.words}" for view in chips.views],
        "coarse": [view.date for view in chips.views if view.origin == "preview"],
        "classes": [] if scheme is None else _classes(scheme),
        "context": chips.context,
        "notes": list(notes),
        "tiles": _tiles(entries, chips, map_page),
        "version": __version__,
    }
    title = f"{contents['title']} – review"
    text = whole_page(title, asset("reviewpage.html"), STYLES, ["reviewpage.js"], contents)
    whole = text.encode("utf-8", "replace")
    with replacing(path, overwrite) as temporary:
        temporary.write_bytes(whole)
    return len(whole)


def _require(entries: Sequence[Entry], chips: Chips, purpose: Purpose, scheme: ClassScheme | None) -> None:
    if not entries or not chips.views:
        raise ChangeError("there is no tile to review; draw a sample, or lower the floor of the candidates")
    if purpose in ASKS_CLASSES and scheme is None:
        raise ChangeError("a page for labelling needs classes to choose from; name a --scheme")
    tiles = [entry.tile_id for entry in entries]
    if len(set(tiles)) < len(tiles):
        twice = next(tile for tile in tiles if tiles.count(tile) > 1)
        raise ChangeError(f"tile {twice} is named twice; name each tile of the page once")
    if missing := sorted(set(tiles) - set(chips.tile_ids)):
        raise ChangeError(f"tile {missing[0]} has no picture; make the chips of the same tiles")


# ---- what the page says


def _span(dates: Sequence[str]) -> str:
    return dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"


def _title(purpose: Purpose, dates: Sequence[str]) -> str:
    words = {
        "estimation": "Review of a sample",
        "reference": "Review of a sample",
        "candidates": "Candidates for new built-up land",
    }
    return f"{words.get(purpose, 'Tiles to label')}, {_span(dates)}"


def _question(purpose: Purpose, dates: Sequence[str]) -> str:
    if purpose in ASKS_CLASSES:
        return "What covers most of the outlined square?"
    return f"Did this tile become built-up between {dates[0]} and {dates[-1]}?"


def _hint(purpose: Purpose, dates: Sequence[str], built: Sequence[str]) -> str:
    if purpose in ASKS_CLASSES:
        return "One class for each date. The ground around the square is there to help, and does not count."
    means = f" Built-up is {_listed(built)}." if built else ""
    return (
        f"Yes if most of the outlined square was open land in {dates[0]} and most of it is built-up in {dates[-1]}. "
        f"The ground around it does not count.{means}"
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _classes(scheme: ClassScheme) -> list[dict[str, str]]:
    colours = reader_colours(scheme)
    return [{"name": item.name, "colour": colour} for item, colour in zip(scheme.classes, colours, strict=True)]


def _tiles(entries: Sequence[Entry], chips: Chips, map_page: str | None) -> list[dict[str, Any]]:
    place = {tile: k for k, tile in enumerate(chips.tile_ids)}
    return [
        {
            "id": entry.tile_id,
            "at": [round(entry.latitude, 6), round(entry.longitude, 6)],
            "osm": openstreetmap_link(entry.longitude, entry.latitude),
            "google": google_link(entry.longitude, entry.latitude),
            "map": map_link(entry.tile_id, map_page) if map_page else None,
            "facts": list(entry.facts),
            "model": list(entry.model),
            "pictures": [_base64(picture) for picture in chips.pictures[place[entry.tile_id]]],
        }
        for entry in entries
    ]


def _base64(picture: bytes | None) -> str | None:
    return None if picture is None else base64.b64encode(picture).decode("ascii")
