"""A process of its own that opens clients' files with GDAL, so that a crash in there is its alone.

`python -m geoclass.service.examiner` reads a question a line and writes an answer a line, both JSON:

    {"do": "scene", "path", "name", "driver", "pixels", "block_bytes"}          → {"ok": {"width", "height", "bands", "files"}}
    {"do": "picture", "path", "name", "pixels", "bands", "sensor", "size_px"}    → {"ok": {"array": path of a .npy file}}

or {"error", "remedy", "status"} where the file is not fit.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.errors

from ..datasets.pictures import read_picture, squared, unplaced
from ..errors import GeoclassError
from ..sensors import Sensor
from .refusal import Refusal, refused

MEMORY_BYTES = 6 << 30
"""Address space of this process: a file that makes GDAL ask for more fails instead of taking the machine down."""

PICTURE_BLOCK_BYTES = 512 << 20

POINTING = ("OVERVIEWS", "GEOLOCATION")
"""Groups of tags that may name other files, which GDAL would open: smaller copies of the pixels, and where each pixel is."""


def describe(path: str, name: str, driver: str, pixels: int, block_bytes: int) -> dict[str, Any]:
    """Size of a raster, from its header, and the files that it is read from. Raises Refusal for one that is too large, that names other files, or that this
    driver cannot open."""
    try:
        with unplaced(), rasterio.open(path, driver=driver) as dataset:
            width, height, bands = dataset.width, dataset.height, dataset.count
            blocks = [
                high * wide * np.dtype(kind).itemsize
                for (high, wide), kind in zip(dataset.block_shapes, dataset.dtypes, strict=True)
            ]
            files = [str(each) for each in dataset.files]
            elsewhere = [name for name in dataset.tag_namespaces() if name.upper() in POINTING]
            together = sum(blocks) if dataset.interleaving in (None, rasterio.enums.Interleaving.pixel) else max(blocks)
    except (rasterio.errors.RasterioError, ValueError, TypeError) as error:
        raise Refusal(422, f"{name} cannot be read as a raster", "send a GeoTIFF or JP2 that is whole") from error
    if elsewhere:
        raise Refusal(415, f"{name} refers to other files ({elsewhere[0].lower()})", "convert it: gdal_translate -nomd")
    if width * height > pixels:
        raise Refusal(413, f"{name} has {width:,} × {height:,} pixels, more than {pixels:,}", "cut it into parts")
    if together > block_bytes:
        raise Refusal(
            413,
            f"{name} is stored in blocks of {together:,} bytes, more than {block_bytes:,}",
            "store it in tiles: gdal_translate -of COG",
        )
    return {"width": width, "height": height, "bands": bands, "files": files}


def picture(path: str, name: str, pixels: int, bands: list[str], sensor: str, size_px: int) -> dict[str, Any]:
    """A picture as a tile (bands, size, size), in a .npy file beside it."""
    describe(path, name, "GTiff", pixels, PICTURE_BLOCK_BYTES)
    try:
        with unplaced():
            read, _ = read_picture(Path(path), bands, Sensor.model_validate_json(sensor), None)
    except GeoclassError as error:
        raise Refusal(422, *_named(error, path, name)) from error
    if read is None:
        raise Refusal(422, f"{name} cannot be read as a picture", "send a TIFF, JPEG or PNG that is whole")
    target = f"{path}.npy"
    np.save(target, squared(read, size_px), allow_pickle=False)
    return {"array": target}


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """The answer to one question."""
    tasks: dict[str, Callable[..., dict[str, Any]]] = {"scene": describe, "picture": picture}
    task = tasks[question.pop("do")]
    try:
        return {"ok": task(**question)}
    except Refusal as refusal:
        return {**refusal.body, "status": refusal.status}
    except MemoryError:
        return {"error": f"{question['name']} needs too much memory", "remedy": "send a smaller one", "status": 413}


def _named(error: GeoclassError, path: str, name: str) -> tuple[str, str]:
    found = refused(error)
    return found.what.replace(path, name), found.remedy


def main() -> None:
    """Answer until standard input ends, which it does when the service does."""
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
