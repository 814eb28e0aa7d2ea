"""Before and after pictures of single tiles, with some ground around them, from the imagery or from its preview."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import GeoclassError
from ..grid import IntArray, TileGrid, TileRange
from ..imagery import open_imagery
from ..labels import ByteArray
from ..mosaic import Mosaic, open_mosaic
from ..reader import LatticeWindow, Mask, Pixels
from ..remote.names import is_remote
from ..sensors import Sensor, load_sensor
from ..stac.documents import is_document
from .series import Series, Source

SIZE_PX = 288
CONTEXT = 0.25
"""Ground shown on each side of a tile, as a share of its side: enough to see what a road or an edge belongs to."""
TOTAL_BYTES = 5_700_000
"""Bytes of all pictures of one page; as text inside it they take a third more, and the page stays below 8 MB."""
QUALITIES = (88, 82, 75, 68, 60, 52, 44)
"""JPEG qualities, of which a picture gets the first that keeps it within its share of TOTAL_BYTES."""
FINEST = 4
"""A tile is read in at most this many times the pixels that a picture is wide, then shrunk."""
LEAST_PX = 8
SMALLEST_PX = 96
"""Pictures of thousands of tiles are not made smaller than this, and their page grows."""
EMPTY = 196
"""Grey of ground without data."""

Origin = Literal["imagery", "preview", "none"]


@dataclass(frozen=True)
class View:
    """How one date is shown. mosaic: what to read, None where there is nothing; origin: what it is; words: for people."""

    date: str
    mosaic: Mosaic | None
    origin: Origin
    words: str


@dataclass(frozen=True)
class Chips:
    """Pictures of N tiles on T dates.

    pictures: N lists of T JPEG files, None where a date has no data; size_px: side of a picture; context: share of a
    tile's side that is shown on each of its sides; views: the T dates as they were read.
    """

    tile_ids: tuple[str, ...]
    views: tuple[View, ...]
    pictures: tuple[tuple[bytes | None, ...], ...]
    context: float

    def __len__(self) -> int:
        return len(self.tile_ids)

    @property
    def dates(self) -> tuple[str, ...]:
        return tuple(view.date for view in self.views)


# ---- what to read


def views_of(series: Series, folders: Sequence[str | Path] = ()) -> tuple[View, ...]:
    """How to show each date of a series: from the imagery its result names, else from the preview beside the result.

    Relative names are looked for in `folders`, in the result's folder and the two above it, then in the working folder.
    Imagery behind a network is not asked for. Two dates that lead to the same files would show one date twice, so
    neither is believed, and their previews are shown.
    """
    found = [_imagery(source, folders) for source in series.sources]
    files = [tuple(sorted(str(Path(name).resolve()) for name in mosaic.files)) if mosaic else () for mosaic in found]
    return tuple(
        _view(date, mosaic if files.count(own) == 1 else None, source)
        for date, mosaic, own, source in zip(series.dates, found, files, series.sources, strict=True)
    )


def view_in(date: str, source: Source) -> View:
    """How to show the one date of a result. See `views_of`."""
    return _view(date, _imagery(source, ()), source)


def _view(date: str, mosaic: Mosaic | None, source: Source) -> View:
    return View(date, mosaic, "imagery", _words(mosaic)) if mosaic else _preview(date, source)


def view_of(date: str, inputs: Sequence[str | Path], sensor: Sensor | str | None = None) -> View:
    """How to show scenes that no model has seen yet. Raises SceneError where they cannot be opened."""
    mosaic = open_mosaic(list(inputs), load_sensor(sensor) if isinstance(sensor, str) else sensor)
    return View(date, mosaic, "imagery", _words(mosaic))


def _words(mosaic: Mosaic) -> str:
    names = list(dict.fromkeys(Path(scene.files[0]).name for scene in mosaic.scenes))
    return f"imagery {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _imagery(source: Source, folders: Sequence[str | Path]) -> Mosaic | None:
    """The scenes of a date; None where they are gone, or would have to be asked for over a network."""
    inputs = source.info.get("inputs") or []
    names = [str(name) for name in ([inputs] if isinstance(inputs, str) else inputs)]
    if any(is_remote(name) or is_document(name) for name in names):
        return None
    try:
        return open_imagery(source.info, source.path, [Path(folder) for folder in folders])
    except GeoclassError:
        return None


def _preview(date: str, source: Source) -> View:
    path = source.path.with_suffix(".preview.tif") if source.path else None
    try:
        if path is not None and path.is_file():
            mosaic = open_mosaic(path, load_sensor("rgb8"))
            return View(date, mosaic, "preview", f"preview {path.name}, coarser than the imagery")
    except GeoclassError:
        pass
    return View(date, None, "none", "no picture: neither the imagery nor a preview was found")


# ---- the pictures


def make_chips(
    grid: TileGrid,
    columns: IntArray,
    rows: IntArray,
    views: Sequence[View],
    *,
    size_px: int = SIZE_PX,
    context: float = CONTEXT,
    total_bytes: int = TOTAL_BYTES,
) -> Chips:
    """JPEG pictures of these tiles on every date; together they take about `total_bytes` or less.

    A picture is as wide as a tile and `context` of it on each side, in at most `size_px` pixels and no more than the
    imagery has. Stored numbers become colours by the sensor's fixed rule (`Sensor.scale`), the same for every tile
    and date, so a pair differs where the ground or the light does, never by a stretch of its own. One tile is read
    at a time. A date whose files cannot be read any more shows nothing and says why in its view.
    """
    most = total_bytes // max(1, len(columns) * len(views))
    found: list[list[bytes | None]] = []
    said = []
    for view in views:
        pictures: list[bytes | None] = [None] * len(columns)
        try:
            for at, picture in read_tiles(grid, columns, rows, view, size_px=size_px, context=context):
                pictures[at] = _jpeg(picture, most)
        except GeoclassError as error:
            view = View(view.date, None, "none", f"no picture: {error}")
        found.append(pictures)
        said.append(view)
    tiles = tuple(grid.tile_ids(columns, rows))
    return Chips(tiles, tuple(said), tuple(zip(*found, strict=True)) if found else ((),) * len(tiles), context)


def read_tiles(
    grid: TileGrid, columns: IntArray, rows: IntArray, view: View, *, size_px: int = SIZE_PX, context: float = CONTEXT
) -> Iterator[tuple[int, ByteArray]]:
    """(position, picture (side, side, 3)) of each tile that has any data on one date, in an order that suits the file.

    A picture's middle `side / (1 + 2 × context)` pixels are the tile. Raises SceneError where a file cannot be read.
    """
    if view.mosaic is None or not len(columns):
        return
    fine = _lattice(grid, view.mosaic, size_px)
    edge = round(fine.size_px * context)
    with view.mosaic.reader(fine, view.mosaic.display_bands) as reader:
        # From the north-west in bands of four tiles, so that a block of the file is decoded once and kept until used up.
        for at in np.lexsort((columns, -rows, -rows // 4)).tolist():
            column, line, width, height = fine.pixel_window(
                TileRange(int(columns[at]), int(rows[at]), int(columns[at]) + 1, int(rows[at]) + 1)
            )
            window = LatticeWindow(column - edge, line - edge, width + 2 * edge, height + 2 * edge)
            pixels, valid = reader.read(window)
            if valid.any():
                yield at, _fitted(shown(pixels, valid, view.mosaic.sensor), size_px)


def _lattice(grid: TileGrid, mosaic: Mosaic, size_px: int) -> TileGrid:
    """The same tiles with the imagery's own pixels, or with coarser ones where these would be needlessly many."""
    own = round(grid.side_m / mosaic.default_gsd_m(grid.crs))
    side = max(LEAST_PX, min(own, FINEST * size_px))
    return TileGrid(grid.crs, side, grid.side_m / side)


def _fitted(picture: ByteArray, size_px: int) -> ByteArray:
    if len(picture) <= size_px:
        return picture
    return np.asarray(Image.fromarray(picture).resize((size_px, size_px), Image.Resampling.LANCZOS, reducing_gap=3))


def shown(pixels: Pixels, valid: Mask, sensor: Sensor) -> ByteArray:
    """(height, width, 3) colours of (bands, height, width) stored numbers, by the sensor's scale; grey without data.

    The first three bands are red, green and blue; of fewer, the last stands for those that lack.
    """
    gain, offset = sensor.scale.affine()
    bands = pixels[[min(k, len(pixels) - 1) for k in range(3)]].astype(np.float32)
    colours = np.clip(bands * gain + offset, 0, 255).round().astype(np.uint8).transpose(1, 2, 0)
    picture: ByteArray = np.where(valid[..., None], colours, np.uint8(EMPTY))
    return picture


def _jpeg(picture: npt.NDArray[np.uint8], most: int) -> bytes:
    """The JPEG of the best of QUALITIES that takes at most `most` bytes; where none does, of a smaller picture."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    while True:
        low, high, best, data = 0, len(QUALITIES) - 1, b"", b""
        while low <= high:
            middle = (low + high) // 2
            stream = io.BytesIO()
            image.save(stream, "JPEG", quality=QUALITIES[middle])
            data = stream.getvalue()
            if len(data) <= most:
                best, high = data, middle - 1
            else:
                low = middle + 1
        if best or image.width <= SMALLEST_PX:
            return best or data
        side = max(SMALLEST_PX, image.width * 3 // 4)
        image = image.resize((side, side), Image.Resampling.BOX)
