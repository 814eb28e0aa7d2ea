"""The preview picture: the imagery itself at a few pixels a tile, as the map shows it and QGIS can open it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from PIL import Image

from ..errors import OutputError
from ..files import write_errors
from ..labels import Labels


def picture(labels: Labels) -> Image.Image:
    """The tiles' thumbnails as one RGB picture over `labels.range`, north up; black where no tile is."""
    if labels.thumbnails is None:
        raise OutputError("these labels carry no thumbnails; classify again to have a preview")
    mosaic = labels.image(labels.thumbnails)
    rows, columns, height, width, bands = mosaic.shape
    return Image.fromarray(mosaic.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, bands))


def write_preview(labels: Labels, path: Path) -> None:
    """Write `picture` as a georeferenced JPEG GeoTIFF. Raises OutputError."""
    image = np.asarray(picture(labels)).transpose(2, 0, 1)
    tiles, side = labels.range, labels.grid.side
    pixel = side * tiles.columns / image.shape[2]
    with (
        write_errors(path),
        rasterio.open(
            path,
            "w",
            driver="GTiff",
            width=image.shape[2],
            height=image.shape[1],
            count=3,
            dtype="uint8",
            crs=rasterio.crs.CRS.from_user_input(labels.grid.crs),
            transform=Affine(pixel, 0, tiles.left * side, 0, -pixel, tiles.top * side),
            compress="jpeg",
            photometric="ycbcr",
            jpeg_quality=85,
            tiled=min(image.shape[1:]) >= 256,
        ) as dataset,
    ):
        dataset.write(image)


def read_preview(path: Path) -> Image.Image | None:
    """A preview picture that lies beside a result, or None where there is none that can be read."""
    if not path.is_file():
        return None
    try:
        with rasterio.open(path) as dataset:
            return Image.fromarray(dataset.read().transpose(1, 2, 0))
    except (rasterio.errors.RasterioError, OSError, ValueError):
        return None
