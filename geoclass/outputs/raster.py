"""The result as an image of one pixel a tile: a Cloud Optimized GeoTIFF with its colours and class names."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.crs
import rasterio.enums
import rasterio.io
import rasterio.transform

from ..errors import OutputError
from ..files import write_errors
from ..grid import crs_text
from ..labels import ByteArray, Labels
from ..schemes import NO_CLASS, ClassScheme
from . import style

MAX_CELLS = 1 << 30
"""Largest image that is built, in tiles; it is held in memory at two bytes a tile."""


def write_raster(labels: Labels, path: Path) -> list[Path]:
    """Write `path`, a .tif, with the files that belong to it; return all of them.

    Over `labels.range`, north up: band 1 holds the class id (uint8, 0 where there is no label, also declared as
    no-data), band 2 the confidence × 100 (uint8, 1–100, 0 where there is no label). `NAME.qml` gives QGIS the class
    names and colours, `NAME.tif.aux.xml` gives GDAL and ArcGIS the names: TIFF itself has no place for them.
    Raises OutputError.
    """
    style.require_tiles(labels, path)
    if len(labels.range) > MAX_CELLS:
        raise OutputError(
            f"the tiles lie so far apart that {path.name} would have {len(labels.range):,} pixels; "
            "classify the areas one by one"
        )
    names, looks = path.with_name(path.name + ".aux.xml"), path.with_suffix(".qml")
    with write_errors(path):
        _write_cog(labels, path)
    with write_errors(names):
        names.write_text(_pam(labels.scheme), encoding="utf-8")
    with write_errors(looks):
        looks.write_text(style.qml(labels.scheme), encoding="utf-8")
    return [path, names, looks]


def confidence_percent(labels: Labels) -> ByteArray:
    """(N,) confidence × 100, at least 1, so that 0 always means no label."""
    percent: npt.NDArray[np.float32] = np.rint(labels.confidence * np.float32(100))
    return np.clip(percent, 1, 100).astype(np.uint8)


def _write_cog(labels: Labels, path: Path) -> None:
    tiles, side = labels.range, labels.grid.side
    profile = {
        "driver": "COG",
        "width": tiles.columns,
        "height": tiles.rows,
        "count": 2,
        "dtype": "uint8",
        "nodata": NO_CLASS,
        "crs": rasterio.crs.CRS.from_user_input(crs_text(labels.grid.crs)),
        "transform": rasterio.transform.Affine(side, 0, tiles.left * side, 0, -side, tiles.top * side),
        "compress": "DEFLATE",
        "level": 9,
        # The commonest class of the pixels below: an average of class ids would be another class.
        "overview_resampling": "MODE",
    }
    # Made in memory first: when the disk fills up, GDAL may lose the last bytes of a TIFF without a word.
    with rasterio.io.MemoryFile() as memory:
        with memory.open(**profile) as target:
            _fill(target, labels)
        path.write_bytes(memory.getbuffer())


def _fill(target: rasterio.io.DatasetWriter, labels: Labels) -> None:
    target.write(labels.image(labels.class_ids, NO_CLASS), 1)
    target.write(labels.image(confidence_percent(labels)), 2)
    target.write_colormap(1, style.palette(labels.scheme))
    target.colorinterp = (rasterio.enums.ColorInterp.palette, rasterio.enums.ColorInterp.undefined)
    target.descriptions = ("class id", "confidence × 100")
    target.update_tags(
        TIFFTAG_IMAGEDESCRIPTION=f"{style.title(labels)}. {style.description(labels)}",
        **style.metadata(labels),
    )


def _pam(scheme: ClassScheme) -> str:
    """GDAL's side file: band 1's category names, and the same as a raster attribute table, which ArcGIS reads."""
    root = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
    by_id = {item.id: item.name for item in scheme.classes} | {NO_CLASS: style.NO_CLASS_NAME}
    categories = ElementTree.SubElement(band, "CategoryNames")
    for value in range(max(by_id) + 1):
        ElementTree.SubElement(categories, "Category").text = by_id.get(value, "")
    _attribute_table(band, scheme)
    ElementTree.indent(root)
    return ElementTree.tostring(root, "unicode") + "\n"


def _attribute_table(band: ElementTree.Element, scheme: ClassScheme) -> None:
    # GDALRATFieldType: 0 integer, 2 string; GDALRATFieldUsage: 5 MinMax (the value), 2 Name, 6 to 8 red, green, blue.
    fields = (("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8))
    table = ElementTree.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for index, (name, kind, usage) in enumerate(fields):
        field = ElementTree.SubElement(table, "FieldDefn", index=str(index))
        for tag, text in (("Name", name), ("Type", kind), ("Usage", usage)):
            ElementTree.SubElement(field, tag).text = str(text)
    for index, item in enumerate(scheme.classes):
        row = ElementTree.SubElement(table, "Row", index=str(index))
        for value in (item.id, item.name, *item.rgb):
            ElementTree.SubElement(row, "F").text = str(value)
