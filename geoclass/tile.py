"""Make a tile index of scenes, and chips where asked."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import rasterio
from affine import Affine
from PIL import Image

from .aoi import outlines_as_text, read_aoi
from .blocks import BlockPixels
from .errors import GridError
from .files import replacing, require_absent, require_plain_folder, require_plain_name, require_writable, write_errors
from .grid import AoiRule, TileGrid, parse_crs
from .mosaic import Mosaic, open_mosaic
from .reader import Pixels
from .sensors import Sensor, load_sensor
from .tileindex import INDEX_SUFFIX, MIN_VALID, TileIndex, build_index, write_index

ChipFormat = Literal["png", "tif"]


@dataclass(frozen=True)
class Tiled:
    """A tile index, the file it is in, and the folder of chips, if any."""

    index: TileIndex
    path: Path
    chips: Path | None


def tile(
    inputs: Sequence[str | Path],
    *,
    out: Path = Path(),
    name: str | None = None,
    sensor: str | Path | Sensor | None = None,
    size_px: int | None = None,
    gsd_m: float | None = None,
    crs: str | None = None,
    min_valid: float | None = None,
    aoi: str | Path | None = None,
    aoi_rule: AoiRule = "touches",
    chips: ChipFormat | None = None,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Tiled:
    """Write `NAME.tiles.gpkg` for scenes of one date into the folder `out` (or to `out`, if it ends so).

    `chips` also writes each tile, georeferenced, into `NAME.chips/`: `tif` with the stored numbers of all bands, `png`
    as 8-bit brightness of the bands on display with a world file. Raises GeoclassError.
    """
    if size_px is not None and size_px < 1:
        raise GridError(f"--size is {size_px}; give the side of a tile in pixels, 1 or more")
    mosaic = open_mosaic(inputs, load_sensor(sensor) if isinstance(sensor, str | Path) else sensor)
    grid = mosaic.default_grid(224 if size_px is None else size_px, gsd_m, parse_crs(crs) if crs else None)
    area = read_aoi(aoi, grid.crs) if aoi is not None else None
    named = name or mosaic.name
    require_plain_name(named)
    require_plain_folder(out)
    path = out if out.name.endswith(INDEX_SUFFIX) else out / f"{named}{INDEX_SUFFIX}"
    folder = path.with_name(path.name.removesuffix(INDEX_SUFFIX) + ".chips") if chips else None
    require_absent([item for item in (path, folder) if item], overwrite)
    require_writable(path.parent)
    writer = None if folder is None or chips is None else _ChipWriter(mosaic, grid, folder, chips, min_valid)
    try:
        index = build_index(
            mosaic,
            grid,
            aoi=area,
            rule=aoi_rule,
            min_valid=min_valid,
            bands=None if writer is None else writer.bands,
            on_block=writer,
            progress=(lambda done, total: progress("reading", done, total)) if progress else None,
        )
        if area is not None:
            info = {"aois": outlines_as_text(area, grid.res * 4), "aoi_rule": aoi_rule}
            index = TileIndex(**{**vars(index), "info": info})
        write_index(index, path, mosaic, overwrite)
        if writer:
            writer.finish()
    finally:
        if writer:
            writer.discard()
    return Tiled(index, path, folder)


class _ChipWriter:
    """Writes the tiles of each block into a temporary folder, moved into place by `finish`."""

    def __init__(self, mosaic: Mosaic, grid: TileGrid, folder: Path, kind: ChipFormat, min_valid: float | None) -> None:
        self.mosaic, self.grid, self.folder, self.kind = mosaic, grid, folder, kind
        self.bands = mosaic.display_bands if kind == "png" else mosaic.scenes[0].band_names
        self.least = MIN_VALID if min_valid is None else min_valid
        self.temporary = folder.with_name(f".{folder.name}-part")
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir(parents=True)

    def __call__(self, read: BlockPixels) -> None:
        places = zip(read.block.columns.tolist(), read.block.rows.tolist(), strict=True)
        for (column, row), pixels, share in zip(places, read.tiles, read.valid_fraction, strict=True):
            if share >= self.least and share > 0:
                with write_errors(self.folder):
                    self._write(column, row, pixels)

    def _write(self, column: int, row: int, pixels: Pixels) -> None:
        path = self.temporary / f"{self.grid.tile_id(column, row)}.{self.kind}"
        left, _, _, top = self.grid.bounds(column, row)
        transform = Affine(self.grid.res, 0, left, 0, -self.grid.res, top)
        if self.kind == "tif":
            profile = {"driver": "GTiff", "compress": "deflate", "crs": rasterio.crs.CRS.from_user_input(self.grid.crs)}
            size = {
                "width": self.grid.size_px,
                "height": self.grid.size_px,
                "count": len(pixels),
                "dtype": pixels.dtype,
            }
            with rasterio.open(path, "w", transform=transform, **profile, **size) as chip:
                chip.write(pixels)
                chip.descriptions = self.bands
            return
        a, b = self.mosaic.sensor.scale.affine()
        brightness = np.clip(pixels.astype(np.float32) * a + b, 0, 255).round().astype(np.uint8)
        shown = brightness.transpose(1, 2, 0) if len(brightness) == 3 else brightness[0]
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(shown)).save(buffer, "PNG")
        path.write_bytes(buffer.getvalue())
        half = self.grid.res / 2
        world = (transform.a, 0.0, 0.0, transform.e, left + half, top - half)
        path.with_suffix(".pgw").write_text("".join(f"{value:.12g}\n" for value in world))

    def finish(self) -> None:
        """Move the chips into place; with png, one .prj tells the CRS of them all to whoever looks."""
        if self.kind == "png":
            with replacing(self.temporary / "CRS.prj") as path:
                path.write_text(self.grid.crs.to_wkt("WKT1_ESRI"))
        shutil.rmtree(self.folder, ignore_errors=True)
        self.temporary.rename(self.folder)

    def discard(self) -> None:
        """Remove what was not moved into place."""
        shutil.rmtree(self.temporary, ignore_errors=True)
