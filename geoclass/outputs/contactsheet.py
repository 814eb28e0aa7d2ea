"""The contact sheet: a dataset on one HTML page that needs no network, to look at before a model learns from it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from .. import __version__
from ..datasets.corrections import Suspect, read_suspects
from ..datasets.images import shown
from ..datasets.pictures import RGB, read_picture
from ..datasets.store import LAYER, SHARE, SPLITS, TABLE, Dataset, DatasetMeta, read_dataset
from ..errors import GeoclassError
from ..files import replacing
from .page import asset, whole_page
from .style import qml

PAGE = "index.html"
PICTURE_PX = 128
A_CLASS = 60
"""Most pictures of one class on the page."""
ALL_CLASSES = 720
"""Most pictures of all classes, so that a page of many classes stays at a few MB."""
MOST_SUSPECTS = 120
BINS = 20
READERS = 4
RULES = {
    "majority": "the class with the largest share of a tile",
    "nine-points": "nine regular points of a tile that agree",
    "soft": "the share of every class, the largest as the label",
    "folders": "the folder a picture lies in",
}
WAYS = {
    "blocks": "square blocks of ground, a tile's width apart",
    "random": "tiles drawn at random, class by class",
    "by-scene": "whole scenes",
    "by-field": "whole areas of a field",
}


def write_contact_sheet(folder: str | Path) -> Path:
    """Write `index.html` into a dataset folder, and `tiles.qml`, by which QGIS colours the tiles; return the page.

    The page shows up to 60 pictures of each class, evenly drawn, counts, purity, the splits on a map where places are
    known, and the suspects of `suspects.csv`. It makes no request. Raises DatasetError and OutputError.
    """
    data = read_dataset(folder)
    contents = _contents(data)
    title = f"{contents['title']} – contact sheet"
    text = whole_page(
        title, asset("contactsheet.html"), ["page.css", "contactsheet.css"], ["contactsheet.js"], contents
    )
    with replacing(data.folder / PAGE) as temporary:
        temporary.write_bytes(text.encode("utf-8", "replace"))
    with replacing(data.folder / TABLE.replace(".gpkg", ".qml")) as temporary:
        # The style's renderer looks at `class`, the column of a result; the column of a dataset is `label`.
        temporary.write_text(qml(data.meta.scheme).replace('attr="class"', 'attr="label"'), encoding="utf-8")
    return data.folder / PAGE


# ---- what the page holds


def _contents(data: Dataset) -> dict[str, Any]:
    meta, table = data.meta, data.table
    found = read_suspects(data.folder)
    doubted = [item for item in found or () if (table["key"] == item.key).any()][:MOST_SUSPECTS]
    shown = _evenly(table, meta)
    at = dict(zip(table["key"], range(len(table)), strict=True))
    wanted = sorted({*shown, *(at[item.key] for item in doubted)})
    return {
        "title": meta.name,
        "folder": data.folder.name or meta.name,
        "facts": _facts(data),
        "classes": [{"name": item.name, "colour": item.colour} for item in meta.scheme.classes],
        "splits": list(SPLITS),
        "counts": [[meta.counts[name][split] for split in SPLITS] for name in meta.scheme.names],
        "purity": _purity(table, meta),
        "left_out": [[reason, count] for reason, count in meta.left_out.items() if count],
        "notes": list(meta.notes),
        "method": _method(meta),
        "map": _map(table, meta),
        "tiles": _tiles(data, wanted),
        "suspects": None if found is None else _suspects(doubted, len(found), {k: n for n, k in enumerate(wanted)}, at),
        "version": __version__,
    }


def _facts(data: Dataset) -> list[str]:
    meta = data.meta
    size = f"{meta.size_px * meta.gsd_m:g} m" if meta.gsd_m else f"{meta.size_px} px"
    dates = sorted({source.date for source in meta.sources if source.date})
    used = sum(any(counts.values()) for counts in meta.counts.values())
    when = [] if not dates else [dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"]
    return [f"{len(data):,} tiles of {size}", f"{used} classes of scheme {meta.scheme.name}", *when]


def _evenly(table: pd.DataFrame, meta: DatasetMeta) -> list[int]:
    """Positions of the tiles on the sheets: of each class as many as fit, evenly drawn over splits and places."""
    most = min(A_CLASS, ALL_CLASSES // max(1, table["label"].nunique()))
    rank = table["split"].map({split: k for k, split in enumerate(SPLITS)})
    order = table.assign(rank=rank, at=range(len(table))).sort_values(["rank", "scene", "key"], kind="stable")
    chosen: list[int] = []
    for _, group in order.groupby("label", sort=False):
        picks = np.unique(np.linspace(0, len(group) - 1, min(most, len(group))).round().astype(int))
        chosen += group["at"].to_numpy()[picks].tolist()
    return chosen


def _tiles(data: Dataset, wanted: Sequence[int]) -> list[dict[str, Any]]:
    """What the page knows of each tile on it, its picture included, in table order within the splits."""
    meta, table = data.meta, data.table
    with ThreadPoolExecutor(READERS) as pool:
        pictures = list(pool.map(partial(_picture, meta=meta), [data.paths[k] for k in wanted]))
    shares = [name for name in meta.scheme.names if f"{SHARE}{name}" in table.columns]
    rows = []
    for k, picture in zip(wanted, pictures, strict=True):
        row = table.iloc[k]
        parts = [[meta.scheme.index(name), round(float(row[f"{SHARE}{name}"]), 4)] for name in shares]
        rows.append({
            "key": row["key"], "class": meta.scheme.index(row["label"]), "split": _split(row["split"]),
            "purity": _number(row["purity"]), "labelled": _number(row["labelled"]), "scene": row["scene"],
            "shares": sorted((part for part in parts if part[1] > 0), key=lambda part: -part[1]),
            "picture": picture, "file": row["image"],
        })  # fmt: skip
    return rows


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else round(float(value), 4)


def _split(name: str) -> int:
    return SPLITS.index(name) if name in SPLITS else -1


def _picture(path: Path, meta: DatasetMeta) -> str | None:
    """A small RGB picture as a data URI: red, green and blue where there are, else the first bands."""
    bands = RGB if set(RGB) <= set(meta.bands) else meta.bands[:3] if len(meta.bands) >= 3 else meta.bands[:1]
    try:
        stored, _ = read_picture(path, bands, meta.sensor, PICTURE_PX)
    except GeoclassError:
        stored = None
    if stored is None:
        return None
    rgb = shown(stored, meta.sensor, tuple(bands))
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _suspects(found: Sequence[Suspect], count: int, place: Mapping[int, int], at: Mapping[str, int]) -> dict[str, Any]:
    rows = [[place[at[item.key]], item.label, item.suggested, round(item.probability, 4)] for item in found]
    return {"count": count, "rows": rows}


def _purity(table: pd.DataFrame, meta: DatasetMeta) -> dict[str, Any] | None:
    """Counts of tiles in 20 steps of purity from 0 to 1, and the medians of all and of each class."""
    values = table["purity"].to_numpy(float)
    if np.isnan(values).all():
        return None
    counts, _ = np.histogram(values[~np.isnan(values)], bins=BINS, range=(0, 1))
    medians = table.groupby("label")["purity"].median()
    return {
        "bins": counts,
        "median": float(np.nanmedian(values)),
        "classes": [_number(medians.get(name)) for name in meta.scheme.names],
        "least": meta.labels.min_purity,
    }


def _map(table: Any, meta: DatasetMeta) -> dict[str, Any] | None:
    """Each placed tile as column and row from the south-west, its class and split, and the outlines of blocks."""
    placed = table[~table.geometry.isna()]
    if placed.empty or meta.gsd_m is None:
        return None
    bounds = placed.geometry.bounds.to_numpy()
    side = float(np.median(bounds[:, 2] - bounds[:, 0]))
    cells = np.rint(bounds[:, :2] / side).astype(np.int64)
    blocks = _blocks(cells, placed, meta)
    corners = np.concatenate([cells, cells + 1, blocks[:, :2], blocks[:, :2] + blocks[:, 2:3]])
    low, high = corners.min(axis=0), corners.max(axis=0)
    columns, rows = (cells - low).T
    kinds = {name: k for k, name in enumerate(meta.scheme.names)}
    return {
        "prefix": str(placed["tile_id"].iloc[0]).rsplit("_", 2)[0],
        "left": int(low[0]),
        "bottom": int(low[1]),
        "columns": int(high[0] - low[0]),
        "rows": int(high[1] - low[1]),
        "side_m": meta.size_px * meta.gsd_m,
        "x": _base64(columns, "<u4"),
        "y": _base64(rows, "<u4"),
        "kind": _base64(placed["label"].map(kinds).to_numpy(), "u1"),
        "split": _base64(placed["split"].map(_split).to_numpy(), "u1"),
        "blocks": blocks - [*low, 0, 0],
    }


def _blocks(cells: npt.NDArray[np.int64], placed: pd.DataFrame, meta: DatasetMeta) -> npt.NDArray[np.int64]:
    """(B, 4) column and row of each block's south-west tile, its side in tiles, its split; none without blocks."""
    if meta.split.rule != "blocks" or not meta.split.block_m or not meta.gsd_m:
        return np.empty((0, 4), np.int64)
    side = round(meta.split.block_m / (meta.size_px * meta.gsd_m))  # blocks count from the CRS origin, as tiles do
    corners = cells // side * side
    frame = pd.DataFrame({"x": corners[:, 0], "y": corners[:, 1], "side": side, "split": placed["split"].map(_split)})
    return frame.drop_duplicates(["x", "y"]).to_numpy(np.int64)


def _base64(values: npt.NDArray[Any], dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype=dtype).tobytes()).decode("ascii")


def _method(meta: DatasetMeta) -> list[list[str]]:
    """How it was made, as pairs of a word and a sentence."""
    labels, split = meta.labels, meta.split
    rule = RULES.get(labels.rule, labels.rule)
    shares = " / ".join(f"{share:.0%}" for share in split.shares)
    least = f"; at least {labels.min_purity:.0%} of a tile" if labels.min_purity else ""
    way = WAYS.get(split.rule, split.rule)
    sides = f", {split.block_m:,.0f} m wide" if split.block_m and split.rule == "blocks" else ""
    reach = f"; neighbours resemble each other up to {split.range_m:,.0f} m" if split.range_m else ""
    balance = {
        "cap": "the larger classes cut to the smallest",
        "weights": "all tiles kept, classes weighted in training",
    }
    rows = [
        ["Labels", f"{labels.source}: {rule}{least}"],
        ["Split", f"{way}{sides} ({shares} train, validation, test; seed {split.seed}){reach}"],
        ["Balance", balance.get(meta.balance, "classes as common as they are")],
        ["Imagery", f"sensor {meta.sensor.name}, bands {', '.join(meta.bands)}, {meta.size_px} px"],
    ]
    if meta.gsd_m:
        rows[-1][1] += f" of {meta.gsd_m:g} m"
    if meta.crs:
        rows.append(["CRS", meta.crs if meta.crs.startswith("EPSG:") else meta.crs.split('"')[1]])
    if meta.sources:
        rows.append(
            ["Scenes", "; ".join(source.name for source in meta.sources[:6]) + (" …" if len(meta.sources) > 6 else "")]
        )
    if split.groups:
        rows.append(["Groups", "; ".join(f"{name}: {part}" for name, part in split.groups.items())])
    if meta.corrected:
        rows.append(["Corrections", f"{meta.corrected:,} tiles relabelled by hand"])
    return [
        *rows,
        [
            "Table",
            f"{TABLE}, layer {LAYER}; digest {meta.digest}, made {meta.created[:10]} by geoclass {meta.geoclass_version}",
        ],
    ]
