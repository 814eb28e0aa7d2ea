"""What a file is by its first bytes: the only kinds that are taken from clients. Names and media types are not believed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .refusal import Refusal

HEAD_BYTES = 16


@dataclass(frozen=True)
class Kind:
    """A kind of file: the suffix it is kept under, and the GDAL driver that alone may open it."""

    name: str
    suffix: str
    driver: str


TIFF = Kind("TIFF", ".tif", "GTiff")
JPEG = Kind("JPEG", ".jpg", "JPEG")
PNG = Kind("PNG", ".png", "PNG")
JP2 = Kind("JPEG 2000", ".jp2", "JP2OpenJPEG")

MAGIC = (
    (b"\xff\xd8\xff", JPEG),
    (b"\x89PNG\r\n\x1a\n", PNG),
    (b"II*\0", TIFF),
    (b"MM\0*", TIFF),
    (b"II+\0", TIFF),
    (b"MM\0+", TIFF),
    (b"\0\0\0\x0cjP  \r\n\x87\n", JP2),
)
PICTURES = (JPEG, PNG, TIFF)
# Both have a zero byte among their first four: no driver that looks for its own mark in a text (as GDAL's virtual rasters do)
# takes them for its own. JPEG and bare JPEG 2000 streams can hold such a text near their beginning.
SCENES = (TIFF, JP2)


def kind_of(path: Path, name: str, allowed: tuple[Kind, ...]) -> Kind:
    """The kind of the file at `path`, which its sender calls `name`. Raises Refusal (415, 422) for others than allowed."""
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    if not head:
        raise Refusal(422, f"{name} is empty (0 bytes)", "send the whole file")
    kind = next((kind for magic, kind in MAGIC if head.startswith(magic)), None)
    if kind is None or kind not in allowed:
        raise Refusal(415, f"{name} is none of {', '.join(k.name for k in allowed)}", "convert it, then send it again")
    return kind


def plain(text: str) -> str:
    """A text as the name of files: letters, digits, - and _."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_-")[:64] or "scene"
