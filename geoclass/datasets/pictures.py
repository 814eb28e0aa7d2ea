"""Read picture files: tiles that lie in folders as JPEG, PNG or TIFF, and photographs."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.enums
import rasterio.errors
from PIL import Image, UnidentifiedImageError

from ..errors import GeoclassError
from ..sensors import Sensor

RGB = ("red", "green", "blue")
TIFF = (".tif", ".tiff")
SUFFIXES = {".jpg", ".jpeg", ".png", *TIFF}
SCENES = (*TIFF, ".vrt", ".jp2", ".j2k", ".img", ".wld", ".pgw", ".pngw", ".jgw", ".jpgw", ".jpegw")
"""How files of imagery end, world files among them; a picture with one beside it has a place, and is a scene."""

TILE_ID = re.compile(r"(?P<crs>x?[0-9a-f]+)_(?P<side>\d+(?:\.\d+)?)_(?P<column>-?\d+)_(?P<row>-?\d+)")

Picture = npt.NDArray[Any]
"""(bands, height, width) in stored numbers."""


def picture_files(folder: Path) -> list[Path]:
    """The pictures in a folder and in its folders, sorted; not those in hidden ones."""
    found = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES]
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def is_pictures(folder: Path) -> bool:
    """Whether this is a folder of tiles as JPEG or PNG, in it or in its folders: pictures without a place, or named by tile ids.

    One with a world file beside it, and any other raster, is a scene.
    """
    found = picture_files(folder)
    if folder.suffix.upper() == ".SAFE" or not found or any(path.suffix.lower() in TIFF for path in found):
        return False
    if all(TILE_ID.fullmatch(path.stem) for path in found):
        return True
    return not any(path.suffix.lower() in SCENES for path in folder.rglob("*"))


def holds_class_folders(folder: Path) -> bool:
    """Whether a folder inside this one holds a picture."""
    return any(path.parent != folder for path in picture_files(folder))


@contextmanager
def unplaced() -> Iterator[None]:
    """Be silent about TIFFs that lie nowhere: pictures need no place. Filters are global, so not for use in threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield


def read_picture(path: Path, bands: Sequence[str], sensor: Sensor, size_px: int | None) -> tuple[Picture | None, bool]:
    """(bands, size, size) stored numbers of a picture file, or None where it cannot be read, and whether it was resized.

    Grey, palette, CMYK and transparent pictures become RGB. Other bands than RGB, and numbers of more than 8 bits where
    the sensor has them, are read from TIFF by band name, or by the sensor's order where the file names none. With
    `size_px` None the picture keeps its own size. Raises GeoclassError for a 16-bit picture of an 8-bit sensor, whose
    scale is not known, the reverse, and for a TIFF without the bands.
    """
    tiff = path.suffix.lower() in TIFF
    if tiff and (tuple(bands) != RGB or "uint8" not in sensor.dtypes or _tells_bands(path, bands, sensor)):
        return _read_bands(path, bands, sensor, size_px)
    if "uint8" not in sensor.dtypes and sensor.scale.affine() != (1.0, 0.0):
        raise GeoclassError(
            f"{path} holds 8-bit colours, sensor {sensor.name} has {', '.join(sensor.dtypes)}; give TIFFs, or check --sensor"
        )
    rgb = _read_rgb(path, size_px)
    if rgb is None:
        return None, False
    pixels, resized = rgb
    if tuple(bands) == RGB:
        return pixels, resized
    if set(bands) <= set(RGB):
        return pixels[[RGB.index(name) for name in bands]], resized
    raise GeoclassError(f"{path} holds red, green and blue, not {', '.join(bands)}; give TIFFs with these bands")


def squared(picture: Picture, size_px: int) -> Picture:
    """The middle square of a picture (C, H, W), as (C, size, size)."""
    _, high, wide = picture.shape
    if (high, wide) == (size_px, size_px):
        return picture
    side = min(high, wide)
    top, left = (high - side) // 2, (wide - side) // 2
    middle = picture[:, top : top + side, left : left + side].astype(np.float32)
    bands = [Image.fromarray(band).resize((size_px, size_px), Image.Resampling.BILINEAR) for band in middle]
    made = np.stack([np.asarray(band) for band in bands])
    return np.asarray(made if picture.dtype.kind == "f" else made.round(), picture.dtype)


def _tells_bands(path: Path, bands: Sequence[str], sensor: Sensor) -> bool:
    """Whether a TIFF says where each of the bands is (they may be in any order), or holds numbers Pillow cannot read."""
    try:
        with rasterio.open(path) as dataset:
            named = {sensor.band_for(label) for label in dataset.descriptions if label}
            return set(bands) <= named or (dataset.dtypes[0] != "uint8" and dataset.dtypes[0] in sensor.dtypes)
    except rasterio.errors.RasterioError:
        return False


def _read_rgb(path: Path, size_px: int | None) -> tuple[Picture, bool] | None:
    try:
        with Image.open(path) as image:
            # Pillow opens 16-bit colour as RGB and keeps the high bytes: only the raw mode of its parts tells.
            if image.mode.startswith(("I", "F")) or any(";16" in str(part[3]) for part in getattr(image, "tile", ())):
                raise GeoclassError(
                    f"{path} is not an 8-bit picture; convert it with one fixed rule: gdal_translate -ot Byte -scale"
                )
            rgb = image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    resized = size_px is not None and rgb.size != (size_px, size_px)
    if resized and size_px:
        rgb = rgb.resize((size_px, size_px), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(rgb).transpose(2, 0, 1)), resized


def _read_bands(path: Path, bands: Sequence[str], sensor: Sensor, size_px: int | None) -> tuple[Picture | None, bool]:
    try:
        with rasterio.open(path) as dataset:
            named = [sensor.band_for(label or "") for label in dataset.descriptions]
            known = named if any(named) else list(sensor.band_names)[: dataset.count]
            missing = [name for name in bands if name not in known]
            if missing:
                if dataset.count == 1:
                    raise GeoclassError(
                        f"{path} is a picture of one band, where {', '.join(bands)} are wanted; "
                        "take it out, or check --sensor and --bands"
                    )
                raise GeoclassError(
                    f"{path} has {dataset.count} bands, none of them {missing[0]}; check --sensor and --bands"
                )
            if dataset.dtypes[0] not in sensor.dtypes:
                raise GeoclassError(
                    f"{path} holds {dataset.dtypes[0]}, sensor {sensor.name} has {', '.join(sensor.dtypes)}; check --sensor"
                )
            resized = size_px is not None and (dataset.height, dataset.width) != (size_px, size_px)
            shape = (len(bands), size_px, size_px) if resized and size_px else None
            way = rasterio.enums.Resampling.bilinear
            return dataset.read([known.index(name) + 1 for name in bands], out_shape=shape, resampling=way), resized
    except rasterio.errors.RasterioError:
        return None, False
