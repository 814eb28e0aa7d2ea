"""Mosaics that GDAL describes as a VRT, taken apart where they do nothing but put files side by side.

GDAL reads a VRT by windows, and decodes a file's block for each window that touches it. Where the files are known, each
block is decoded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import rasterio

PLAIN_BAND = {"ColorInterp", "NoDataValue", "Description", "Metadata", "SimpleSource", "ComplexSource", "Histograms"}
PLAIN_SOURCE = {"SourceFilename", "SourceBand", "SourceProperties", "SrcRect", "DstRect", "NODATA"}

Rect = tuple[int, int, int, int]
"""(column, row, width, height) in pixels."""


@dataclass(frozen=True)
class Placed:
    """Bands `indexes` of a file, of which the pixels from (column, row) on, `width` × `height`, lie at (left, top) of the
    VRT; where they are `nodata` the pixels beneath are kept."""

    path: str
    indexes: tuple[int, ...]
    column: int
    row: int
    left: int
    top: int
    width: int
    height: int
    nodata: float | None


def placed_files(dataset: rasterio.DatasetReader, path: str, indexes: Sequence[int]) -> list[Placed] | None:
    """The files of which a VRT's bands are made, each laid over those before it. None where it does more than that, as
    scale, resample, mask or compute, or is not a local file."""
    if dataset.driver != "VRT" or not Path(path).is_file():
        return None
    try:
        root = ElementTree.parse(path).getroot()
        if root.tag != "VRTDataset" or root.get("subClass") or root.find("MaskBand") is not None:
            return None
        bands = {int(band.get("band", number)): band for number, band in enumerate(root.iter("VRTRasterBand"), start=1)}
        columns = [_sources(bands[index], Path(path).parent) for index in indexes]
    except (ElementTree.ParseError, KeyError, ValueError, TypeError):
        return None
    if len({len(column) for column in columns}) != 1:
        return None
    found = [_together(item) for item in zip(*columns, strict=True)]
    placed = [item for item in found if item is not None]
    return placed if len(placed) == len(found) and placed else None


def _sources(band: ElementTree.Element, folder: Path) -> list[Placed]:
    """A band's sources. Raises ValueError, KeyError or TypeError where one is not plain."""
    if band.get("subClass") or {child.tag for child in band} - PLAIN_BAND:
        raise ValueError(band.tag)
    return [_source(item, folder) for item in band if item.tag in ("SimpleSource", "ComplexSource")]


def _source(item: ElementTree.Element, folder: Path) -> Placed:
    parts = {child.tag: child for child in item}
    if set(parts) - PLAIN_SOURCE or len(parts) != len(item):
        raise ValueError(item.tag)
    name, rect, into = parts["SourceFilename"], _rect(parts["SrcRect"]), _rect(parts["DstRect"])
    if rect[2:] != into[2:] or min(rect[:2]) < 0 or not name.text:
        raise ValueError(name.text)
    path = str(folder / name.text) if name.get("relativeToVRT") == "1" else name.text
    nodata = parts["NODATA"].text if "NODATA" in parts else None
    return Placed(
        path,
        (int(str(parts["SourceBand"].text)),),
        rect[0],
        rect[1],
        into[0],
        into[1],
        rect[2],
        rect[3],
        None if nodata is None else float(nodata),
    )


def _rect(item: ElementTree.Element) -> Rect:
    """Raises ValueError where a side is no whole number of pixels."""
    sides = [float(item.attrib[name]) for name in ("xOff", "yOff", "xSize", "ySize")]
    if any(side != int(side) for side in sides):
        raise ValueError(item.tag)
    return int(sides[0]), int(sides[1]), int(sides[2]), int(sides[3])


def _together(sources: Sequence[Placed]) -> Placed | None:
    """One file's bands as one, where all bands of the VRT place it alike."""
    first = sources[0]
    indexes = tuple(index for source in sources for index in source.indexes)
    alike = {Placed(s.path, indexes, s.column, s.row, s.left, s.top, s.width, s.height, s.nodata) for s in sources}
    return next(iter(alike)) if len(alike) == 1 and first.nodata == first.nodata else None
