"""Write the tiles of a dataset as pictures, block by block, so that memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from PIL import Image

from ..blocks import plan_blocks, read_ahead
from ..files import write_errors
from ..grid import IntArray, TileGrid
from ..mosaic import Mosaic
from ..sensors import Sensor
from .pictures import RGB, Picture

READERS = 2


@dataclass(frozen=True)
class Written:
    """A tile that was read: its place, the share of it that has data, its file (None: too little data) and pixels."""

    column: int
    row: int
    valid_fraction: float
    path: Path | None
    pixels: Picture


def as_png(mosaic: Mosaic, bands: tuple[str, ...]) -> bool:
    """Whether tiles of these bands lose nothing as 8-bit RGB pictures."""
    return bands == RGB and (mosaic.dtype == "uint8" or mosaic.sensor.scale.affine() == (1.0, 0.0))


def write_images(
    mosaic: Mosaic,
    grid: TileGrid,
    bands: tuple[str, ...],
    columns: IntArray,
    rows: IntArray,
    folder: Path,
    min_valid: float,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Written]:
    """Read the tiles and write `<tile id>.png` (8-bit RGB) or `.tif` (stored numbers) of those with enough data.

    A GeoTIFF names its bands and lies in place. `progress` is told how many tiles are done. Raises SceneError where a
    file cannot be read, OutputError where one cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    suffix = ".png" if as_png(mosaic, bands) else ".tif"
    done = 0
    for read in read_ahead(mosaic, grid, bands, plan_blocks(mosaic, grid, len(bands), columns, rows), READERS):
        places = zip(read.block.columns.tolist(), read.block.rows.tolist(), strict=True)
        for (column, row), pixels, share in zip(places, read.tiles, read.valid_fraction.tolist(), strict=True):
            path = folder / f"{grid.tile_id(column, row)}{suffix}" if share >= min_valid and share > 0 else None
            if path is not None:
                with write_errors(path):
                    _write(path, pixels, bands, grid, column, row)
            yield Written(column, row, share, path, pixels)
        done += len(read.block)
        if progress:
            progress(done)


def _write(path: Path, pixels: Picture, bands: tuple[str, ...], grid: TileGrid, column: int, row: int) -> None:
    if path.suffix == ".png":
        whole = pixels if pixels.dtype == np.uint8 else np.clip(pixels, 0, 255).round().astype(np.uint8)
        Image.fromarray(np.ascontiguousarray(whole.transpose(1, 2, 0))).save(path, "PNG")
        return
    left, _, _, top = grid.bounds(column, row)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        compress="deflate",
        width=grid.size_px,
        height=grid.size_px,
        count=len(pixels),
        dtype=pixels.dtype,
        crs=rasterio.crs.CRS.from_user_input(grid.crs),
        transform=Affine(grid.res, 0, left, 0, -grid.res, top),
    ) as picture:
        picture.write(pixels)
        picture.descriptions = bands


def shown(pixels: Picture, sensor: Sensor, bands: tuple[str, ...]) -> npt.NDArray[np.uint8]:
    """(height, width, 3) brightness as people see it: red, green, blue where there are, else the first bands."""
    names = RGB if set(RGB) <= set(bands) else bands[:3] if len(bands) >= 3 else (bands[0],) * 3
    gain, offset = sensor.scale.affine()
    chosen = pixels[[bands.index(name) for name in names]].astype(np.float32) * gain + offset
    return np.ascontiguousarray(np.clip(chosen, 0, 255).round().astype(np.uint8).transpose(1, 2, 0))
