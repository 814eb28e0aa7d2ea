"""Reference labels of ground, brought onto tiles: one front door for label rasters, polygons and points."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pydantic
import rasterio
import rasterio.errors

from ..errors import DatasetError
from ..grid import IntArray, TileGrid
from ..schemes import CATEGORICAL, NO_CLASS, ClassScheme, LandClass
from .fractions import MIN_LABELLED, MIN_PURITY, UNLABELLED, Ignore, TileFractions
from .labelraster import label_raster, raster_legend
from .labelvector import choose_layer, label_points, label_polygons

__all__ = [
    "MIN_LABELLED", "MIN_PURITY", "UNLABELLED", "Ignore", "TileFractions", "label_points", "label_polygons", "label_raster",
    "legend_scheme", "raster_legend", "read_reference", "reference_kind",
]  # fmt: skip

Kind = Literal["raster", "polygons", "points"]


def read_reference(
    path: str | Path,
    grid: TileGrid,
    columns: IntArray,
    rows: IntArray,
    scheme: ClassScheme | None = None,
    class_field: str | None = None,
    *,
    layer: str | None = None,
    band: int = 1,
    ignore: Ignore = (),
) -> tuple[ClassScheme, TileFractions]:
    """The scheme and what a label file of any kind and CRS says of the tiles at `columns`, `rows` (N,) of `grid`.

    Without a scheme, polygons and points get one from the values of `class_field`, a raster one from the class names
    that it carries. Raises DatasetError: no tiles, unreadable file, several layers and no choice, no CRS, no such field,
    codes or names outside the scheme that are not in `ignore`, no overlap with the tiles.
    """
    if len(columns) == 0:
        raise DatasetError("there are no tiles to label; give imagery with tiles of enough data")
    columns, rows = np.asarray(columns, np.int64), np.asarray(rows, np.int64)
    kind = reference_kind(path, layer)
    if kind == "raster":
        scheme = legend_scheme(path, band) if scheme is None else scheme
        return scheme, label_raster(path, grid, columns, rows, scheme, band=band, ignore=ignore)
    if class_field is None:
        raise DatasetError(f"{path} holds {kind}; name the field that holds their class with --class-field")
    read = label_polygons if kind == "polygons" else label_points
    return read(path, grid, columns, rows, scheme, class_field, layer=layer, ignore=ignore)


def reference_kind(path: str | Path, layer: str | None = None) -> Kind:
    """Whether `path` (its `layer`) is a raster, polygons or points. Raises DatasetError for what is neither."""
    if layer is None and _is_raster(path):
        return "raster"
    name, geometry = choose_layer(path, layer)
    if "Polygon" in geometry or "Surface" in geometry:
        return "polygons"
    if "Point" in geometry:
        return "points"
    if geometry in ("Unknown", "GeometryCollection"):
        return "polygons"
    raise DatasetError(f"layer {name!r} of {path} holds {geometry} shapes; labels are polygons, points or a raster")


def _is_raster(path: str | Path) -> bool:
    try:
        with rasterio.open(path) as source:
            return bool(source.count)
    except rasterio.errors.RasterioError:
        return False


def legend_scheme(path: str | Path, band: int = 1) -> ClassScheme:
    """A scheme of the classes that a label raster names itself, with its codes and colours. Raises DatasetError."""
    legend = {code: item for code, item in raster_legend(path, band).items() if item[0] and code != NO_CLASS}
    if len(legend) < 2:
        raise DatasetError(f"{path} does not name its classes; name the class scheme, as in --scheme nlcd16")
    small = all(1 <= code <= 255 for code in legend)
    try:
        classes = tuple(
            LandClass(
                id=code if small else number,
                name=name,
                colour=colour or CATEGORICAL[(number - 1) % len(CATEGORICAL)],
                codes=(code,),
            )
            for number, (code, (name, colour)) in enumerate(sorted(legend.items()), start=1)
        )
        return ClassScheme(name="custom", title=f"Classes named in {Path(path).name}", classes=classes)
    except pydantic.ValidationError as error:
        raise DatasetError(
            f"the class names in {path} make no scheme: {error.errors()[0]['msg']}; name one with --scheme"
        ) from error
