"""A raster that says it is a whole file, of which only a window is there, in memory.

The warper asks a file for its source pixels piece by piece, and from several threads for the same ones. Here it is shown
the file's own size and place on the ground, with the pixels that were fetched before: what it makes of them is, bit for
bit, what it would make of the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt
import pyproj
import rasterio
import rasterio.enums
import rasterio.io
import rasterio.windows

EDGE_POINTS = 21
MARGIN_PX = 16
KERNEL_PX = 4
"""Source pixels that a kernel reaches beyond its place, for each source pixel in the width of a target pixel."""

_TYPES = {
    "uint8": "Byte",
    "uint16": "UInt16",
    "int16": "Int16",
    "uint32": "UInt32",
    "int32": "Int32",
    "float32": "Float32",
}


def vrt_of(
    dataset: rasterio.DatasetReader, source: str, *, tagged: bool, window: rasterio.windows.Window | None = None
) -> str:
    """A GDAL VRT of all bands of `dataset`, whose pixels are in the file `source`, or `window` of them alone.

    `tagged` keeps the tag of an alpha band and the no-data value; the warper would take both for a mask.
    """
    crs = escape(dataset.crs.to_wkt())
    transform = ", ".join(repr(float(value)) for value in dataset.transform.to_gdal())
    place = window or rasterio.windows.Window(0, 0, dataset.width, dataset.height)
    size = f'xSize="{place.width}" ySize="{place.height}"'
    rectangles = f'<SrcRect xOff="0" yOff="0" {size}/><DstRect xOff="{place.col_off}" yOff="{place.row_off}" {size}/>'
    bands = "".join(
        f'<VRTRasterBand dataType="{_TYPES.get(dataset.dtypes[0], "Float64")}" band="{index}">{_tags(dataset, index) if tagged else ""}'
        f'<SimpleSource><SourceFilename relativeToVRT="0">{escape(source)}</SourceFilename><SourceBand>{index}</SourceBand>'
        f"{rectangles}</SimpleSource></VRTRasterBand>"
        for index in dataset.indexes
    )
    return (
        f'<VRTDataset rasterXSize="{dataset.width}" rasterYSize="{dataset.height}"><SRS>{crs}</SRS>'
        f"<GeoTransform>{transform}</GeoTransform>{bands}</VRTDataset>"
    )


def _tags(dataset: rasterio.DatasetReader, index: int) -> str:
    nodata = dataset.nodatavals[index - 1]
    alpha = dataset.colorinterp[index - 1] == rasterio.enums.ColorInterp.alpha
    value = "" if nodata is None else f"<NoDataValue>{nodata!r}</NoDataValue>"
    return value + ("<ColorInterp>Alpha</ColorInterp>" if alpha else "")


@contextmanager
def standing_in(
    dataset: rasterio.DatasetReader, window: rasterio.windows.Window, pixels: npt.NDArray[Any], *, tagged: bool
) -> Iterator[rasterio.DatasetReader]:
    """A dataset like `dataset` with `pixels` (all bands, height, width) in `window`, and nothing elsewhere."""
    profile = {"driver": "GTiff", "count": len(pixels), "dtype": pixels.dtype, "transform": dataset.transform}
    with rasterio.io.MemoryFile(ext=".tif") as memory:
        with memory.open(width=pixels.shape[2], height=pixels.shape[1], **profile) as part:
            part.write(pixels)
        with rasterio.open(vrt_of(dataset, memory.name, tagged=tagged, window=window)) as whole:
            yield whole


def source_window(
    dataset: rasterio.DatasetReader,
    crs: pyproj.CRS,
    own: pyproj.CRS,
    transform: rasterio.Affine,
    target: rasterio.windows.Window,
) -> rasterio.windows.Window:
    """The pixels of `dataset` (in CRS `own`) that warping `target` needs, a window of the lattice that `transform` and
    `crs` describe; at least one pixel, even where they have no ground in common."""
    x, y = np.meshgrid(
        np.linspace(target.col_off, target.col_off + target.width, EDGE_POINTS),
        np.linspace(target.row_off, target.row_off + target.height, EDGE_POINTS),
    )
    east, north = transform.a * x + transform.b * y + transform.c, transform.d * x + transform.e * y + transform.f
    if own != crs:
        east, north = pyproj.Transformer.from_crs(crs, own, always_xy=True).transform(east, north)
    back = ~dataset.transform
    columns, rows = back.a * east + back.b * north + back.c, back.d * east + back.e * north + back.f
    wide = _span(columns, target.width, dataset.width)
    high = _span(rows, target.height, dataset.height)
    return rasterio.windows.Window.from_slices(high, wide)


def _span(places: npt.NDArray[np.float64], target_px: float, size_px: int) -> tuple[int, int]:
    finite = places[np.isfinite(places)]
    if not len(finite):
        return 0, size_px
    low, high = float(finite.min()), float(finite.max())
    margin = MARGIN_PX + KERNEL_PX * math.ceil(max(1.0, (high - low) / target_px))
    first = min(max(0, math.floor(low) - margin), size_px - 1)
    return first, max(first + 1, min(size_px, math.ceil(high) + margin))
