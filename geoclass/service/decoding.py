"""Pictures of a request to tiles: measured by their headers first, then decoded, JPEG and PNG by Pillow in threads, TIFF
by the examiner."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..bundle import Bundle, BundleMeta
from ..datasets.pictures import Picture, read_picture, squared
from ..errors import GeoclassError
from .examining import Examiner
from .kinds import JPEG, PICTURES, TIFF, Kind, kind_of
from .receiving import Received
from .refusal import Refusal, refused

SCANS = 100
"""A progressive JPEG has ten scans or so; each of thousands would be decoded over the whole picture."""

THREADS = 2


class Decoder:
    """Turns received files into tiles of a bundle. `pixels`: the most of one picture."""

    def __init__(self, examiner: Examiner, pixels: int) -> None:
        self.examiner = examiner
        self.pixels = pixels
        self._threads = ThreadPoolExecutor(THREADS, "decode")

    async def __call__(self, item: Received, bundle: Bundle) -> Picture:
        """The middle square of a picture, (bands, size, size) in stored numbers. Raises Refusal for what is no picture."""
        meta = bundle.meta
        kind = kind_of(item.path, item.name, PICTURES)
        if kind is TIFF:
            sensor = meta.sensor.model_dump_json()
            with _suffixed(item, kind) as named:
                array = await self.examiner.picture(named, item.name, meta.bands, sensor, meta.size_px)
            try:
                return np.asarray(np.load(array, allow_pickle=False))
            finally:
                array.unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, decode, item, kind, meta, self.pixels)

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)


def decode(item: Received, kind: Kind, meta: BundleMeta, pixels: int) -> Picture:
    """A JPEG or PNG as a tile. Raises Refusal."""
    _check_header(item, kind, pixels)
    with _suffixed(item, kind) as named:
        try:
            picture, _ = read_picture(named, meta.bands, meta.sensor, None)
        except GeoclassError as error:
            found = refused(error)
            raise Refusal(422, found.what.replace(str(named), item.name), found.remedy) from error
    if picture is None:
        raise Refusal(422, f"{item.name} cannot be read as a picture", "send a TIFF, JPEG or PNG that is whole")
    return squared(picture, meta.size_px)


@contextmanager
def _suffixed(item: Received, kind: Kind) -> Iterator[Path]:
    """The file under a name with the suffix of its kind, by which it is read, for as long as this lasts."""
    named = item.path.with_suffix(kind.suffix)
    item.path.rename(named)
    try:
        yield named
    finally:
        named.rename(item.path)


def _check_header(item: Received, kind: Kind, pixels: int) -> None:
    try:
        with Image.open(item.path, formats=[kind.name]) as image:
            wide, high = image.size
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Refusal(422, f"{item.name} cannot be read as a picture", "send one that is whole and smaller") from error
    if wide * high > pixels:
        raise Refusal(413, f"{item.name} has {wide:,} × {high:,} pixels, more than {pixels:,}", "send a smaller one")
    if kind is JPEG and _scans(item.path) > SCANS:
        raise Refusal(422, f"{item.name} has more than {SCANS} scans", "save it again as a plain JPEG")


def _scans(path: Path) -> int:
    # In the coded data a byte of 255 is always followed by 0, so this finds markers only (and those of a thumbnail).
    return path.read_bytes().count(b"\xff\xda")
