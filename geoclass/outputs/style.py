"""What all outputs share: the QGIS style, the colours as a palette, and the words and metadata that go along."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import PurePath
from typing import Any
from xml.etree import ElementTree

import numpy as np

from .. import __version__
from ..errors import OutputError
from ..grid import crs_text
from ..labels import Labels
from ..schemes import NO_CLASS, ClassScheme

LAYER = "landcover"
INFO_KEY, SCHEME_KEY, GRID_KEY = "GEOCLASS_INFO", "GEOCLASS_SCHEME", "GEOCLASS_GRID"

NO_CLASS_NAME = "No label"
OUTLINE_MM = 0.2
"""Width of a tile's outline, in its own colour. Without one, QGIS's anti-aliasing leaves pale seams between tiles
of one class (a third of the way to the background); at 0.1 mm they still show, at 0.2 mm they are gone."""


def qml(scheme: ClassScheme) -> str:
    """A QGIS style that colours tiles as polygons (by attribute `class`) and as a raster (band 1, by class id).

    QGIS looks for `county.qml` whichever of county.tif, county.fgb or county.geojson it opens, so one file must
    suit all: a vector layer reads `renderer-v2` and skips `pipe`, a raster layer the other way round. The same
    text is the style inside the GeoPackage. Symbols are written as QGIS 3.18 and later read them.
    """
    root = ElementTree.Element("qgis", version="3.22.0", styleCategories="Symbology")
    root.append(_vector_renderer(scheme))
    root.append(_raster_pipe(scheme))
    _child(root, "blendMode").text = "0"
    # 2 is a polygon: QGIS then refuses the style for a layer of points rather than drawing nothing.
    _child(root, "layerGeometryType").text = "2"
    ElementTree.indent(root)
    return "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n" + ElementTree.tostring(root, "unicode") + "\n"


def _child(parent: ElementTree.Element, tag: str, **attributes: str) -> ElementTree.Element:
    return ElementTree.SubElement(parent, tag, attributes)


def _vector_renderer(scheme: ClassScheme) -> ElementTree.Element:
    renderer = ElementTree.Element(
        "renderer-v2",
        {"type": "categorizedSymbol", "attr": "class", "forceraster": "0", "symbollevels": "0", "enableorderby": "0"},
    )
    categories, symbols = _child(renderer, "categories"), _child(renderer, "symbols")
    for number, item in enumerate(scheme.classes):
        _child(
            categories, "category", value=item.name, label=item.name, type="string", symbol=str(number), render="true"
        )
        _fill_symbol(symbols, str(number), item.rgb)
    return renderer


def _fill_symbol(symbols: ElementTree.Element, name: str, rgb: tuple[int, int, int]) -> None:
    colour = ",".join(str(part) for part in (*rgb, 255))
    symbol = _child(symbols, "symbol", type="fill", name=name, alpha="1", clip_to_extent="1", force_rhr="0")
    layer = _child(symbol, "layer", **{"class": "SimpleFill", "enabled": "1", "locked": "0", "pass": "0"})
    options = _child(layer, "Option", type="Map")
    values = {
        "color": colour,
        "style": "solid",
        "outline_color": colour,
        "outline_style": "solid",
        "outline_width": str(OUTLINE_MM),
        "outline_width_unit": "MM",
        "joinstyle": "miter",
    }
    for key, value in values.items():
        _child(options, "Option", type="QString", name=key, value=value)


def _raster_pipe(scheme: ClassScheme) -> ElementTree.Element:
    pipe = ElementTree.Element("pipe")
    renderer = _child(pipe, "rasterrenderer", type="paletted", band="1", alphaBand="-1", opacity="1", nodataColor="")
    palette = _child(renderer, "colorPalette")
    for item in scheme.classes:
        _child(palette, "paletteEntry", value=str(item.id), color=item.colour, alpha="255", label=item.name)
    return pipe


def palette(scheme: ClassScheme) -> dict[int, tuple[int, int, int, int]]:
    """Red, green, blue and alpha (0–255) of each class id; ground without a label is transparent."""
    return {NO_CLASS: (0, 0, 0, 0)} | {item.id: (*item.rgb, 255) for item in scheme.classes}


def title(labels: Labels) -> str:
    """One line for people: what, where, when, as far as `labels.info` knows (its keys `name` and `date`)."""
    name, day = labels.info.get("name"), labels.info.get("date")
    return "Land cover" + (f" of {name}" if name else "") + (f", {day}" if day else "")


def description(labels: Labels) -> str:
    """A sentence for people: how many tiles, of which grid and classes, written by what."""
    grid, scheme = labels.grid, labels.scheme
    return (
        f"{len(labels):,} tiles of {grid.side_m:g} m on the permanent grid of {_crs_name(labels)}, "
        f"classes of scheme {scheme.name} ({'; '.join(scheme.names)}). Written by geoclass {__version__}."
    )


def _crs_name(labels: Labels) -> str:
    text = crs_text(labels.grid.crs)
    return text if text.startswith("EPSG:") else str(labels.grid.crs.name)


def metadata(labels: Labels) -> dict[str, str]:
    """What a program needs to read the result back: `info`, class scheme and grid, each as JSON text."""
    return {
        INFO_KEY: to_json(labels.info),
        SCHEME_KEY: labels.scheme.model_dump_json(),
        GRID_KEY: to_json(labels.grid.to_dict()),
    }


def to_json(value: object, indent: int | None = None) -> str:
    """`value` as JSON that any reader takes: numpy numbers, dates and paths become plain, NaN becomes null."""
    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False, indent=indent)


def plain(value: Any) -> Any:
    """`value` made of dict, list, str, int, float, bool and None only. Numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if isinstance(value, Iterable) and not isinstance(value, PurePath | bytes):
        return [plain(item) for item in value]
    return str(value)


def require_tiles(labels: Labels, path: PurePath) -> None:
    """Raise OutputError if there is nothing to write."""
    if not len(labels):
        raise OutputError(
            f"no tile was classified, so {path.name} is not written; check the area, or lower --min-valid"
        )
