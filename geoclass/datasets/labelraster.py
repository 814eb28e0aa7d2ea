"""Reference labels from a raster of class codes, such as NLCD: shares of every class in each tile.

Sampling rule. Each tile is sampled at the centres of k × k equal squares, by nearest neighbour: a sample takes the code of
the label pixel that it falls in, located to a millionth of that pixel. Where the label pixels divide
the tile, in the grid's own CRS, k is their number a side, and the fractions count whole pixels. Otherwise k is the least number for
which four samples span a label pixel, from 8 to 64: 30 m labels put 30 × 30 samples in a 224 m tile.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import pyproj
import rasterio
import rasterio.enums
import rasterio.errors
import rasterio.io
import rasterio.shutil
import rasterio.vrt
import rasterio.windows
from affine import Affine

from ..errors import DatasetError, SceneError
from ..grid import IntArray, TileGrid, TileRange, bounding_range
from ..scene import crs_of, last_line, open_dataset
from ..schemes import NO_CLASS, ClassScheme, class_position
from .fractions import Ignore, TileFractions, code_positions, ignored, no_overlap, refuse_unknown, unanimous

BLOCK_SAMPLES = 1536
"""A block of tiles is read at about this many samples a side: 2.4 MB of codes, whatever the number of tiles."""
SAMPLES_A_PIXEL, LEAST_SAMPLES, MOST_SAMPLES = 4, 8, 64
LARGEST_CODE = 65_535
VOID = -(2**40)
"""Stands for what is not finite in a raster of floating point numbers."""

Legend = dict[int, tuple[str, str]]
"""Code → (name, or "" where the file gives none; colour #rrggbb, or "")."""
Codes = npt.NDArray[Any]


def label_raster(
    path: str | Path,
    grid: TileGrid,
    columns: IntArray,
    rows: IntArray,
    scheme: ClassScheme,
    *,
    band: int = 1,
    ignore: Ignore = (),
) -> TileFractions:
    """Shares of each class in the tiles at `columns`, `rows` (N,), from the codes of `band`; labels in any CRS.

    Codes become classes through the scheme (`code_positions`); values that are all ids of the scheme and none a code are
    taken as ids. 0 and the file's nodata value are unlabelled, unless 0 is a code of the scheme. Codes in `ignore` are
    unlabelled too. Tiles are read in blocks, so the memory for pixels does not grow with their number. Raises
    DatasetError for a file that is no such raster, has no CRS or no overlap with the tiles, and for codes outside the
    scheme; each says what to do.
    """
    path = str(path)
    with _opened(path, band) as source:
        unlabelled = _unlabelled_value(source, code_positions(scheme))
        per_side = samples_a_side(source, grid, columns, rows, path)
        nine = np.empty((len(columns), 9), np.int64)
        for tiles, codes in _sampled(source, path, band, grid, columns, rows, 3, unlabelled):
            nine[tiles] = codes
        plain = {unlabelled, NO_CLASS, VOID}
        meaning = _meaning(path, scheme, set(np.unique(nine).tolist()) - plain)
        table = _table({code: place for code, place in meaning.items() if not ignored(ignore, code)}, len(scheme))
        counts = np.zeros((len(columns), len(scheme) + 1), np.int64)
        strange: dict[int, int] = {}
        for tiles, codes in _sampled(source, path, band, grid, columns, rows, per_side, unlabelled):
            places = _places(table, codes)
            counts[tiles] = _counts(places, len(scheme) + 1)
            _count_strange(strange, codes, places == len(scheme), plain)
    counts = counts[:, :-1]
    total = max(1, int(counts.sum()) + sum(strange.values()))
    shares = {str(code): number / total for code, number in sorted(strange.items())}
    refuse_unknown(path, scheme, shares, "codes", ignore)
    if not counts.any():
        raise DatasetError(f"{path} holds ignored codes only; ignore fewer") if shares else no_overlap(path)
    fractions = counts / per_side**2
    return TileFractions(
        fractions.astype(np.float32),
        fractions.sum(axis=1).astype(np.float32),
        unanimous(_places(table, nine), len(scheme)),
        ignored=shares,
    )


def raster_legend(path: str | Path, band: int = 1) -> Legend:
    """The names and colours that a label raster carries: its colour table, category names and attribute table.

    A code is listed if it has a name, or, where the file names none, a colour other than plain black. Raises
    DatasetError where the file cannot be read.
    """
    with _opened(str(path), band) as source, rasterio.io.MemoryFile(ext=".vrt") as memory:
        # rasterio reads neither category names nor attribute tables; GDAL writes both into a VRT of the file.
        rasterio.shutil.copy(source, memory.name, driver="VRT")
        found = ElementTree.fromstring(memory.read()).find(f"VRTRasterBand[@band='{band}']")
        try:
            table = source.colormap(band)
        except ValueError:
            table = {}
    names = _names(found) if found is not None else {}
    colours = {code: "#{:02x}{:02x}{:02x}".format(*rgba[:3]) for code, rgba in table.items()}
    listed = names or {code: "" for code, rgba in table.items() if any(rgba[:3])}
    return {code: (name, colours.get(code, "")) for code, name in sorted(listed.items())}


def samples_a_side(source: rasterio.DatasetReader, grid: TileGrid, columns: IntArray, rows: IntArray, path: str) -> int:
    """k of the sampling rule (see the module's text), from the size of label pixels in the middle of the tiles."""
    over = bounding_range(columns, rows)
    x, y = (over.left + over.right) / 2 * grid.side, (over.bottom + over.top) / 2 * grid.side
    own = crs_of(source)
    move = pyproj.Transformer.from_crs(grid.crs, own, always_xy=True)
    at = np.array(move.transform([x, x + grid.side, x], [y, y, y + grid.side]))
    if not np.isfinite(at).all():
        raise no_overlap(path)
    inverse: Affine = ~source.transform
    across = [inverse.a * at[0] + inverse.b * at[1], inverse.d * at[0] + inverse.e * at[1]]
    (x0, x1, x2), (y0, y1, y2) = across
    pixels = math.sqrt(abs((x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)))
    if own == grid.crs and _divides(source.transform, grid.side):
        return round(pixels)
    return min(MOST_SAMPLES, max(LEAST_SAMPLES, math.ceil(SAMPLES_A_PIXEL * pixels - 1e-9)))


def _divides(t: Affine, side: float) -> bool:
    """Whether tiles hold whole label pixels: up to 512 a side, north up, with their edges on tile edges."""
    if t.b or t.d or t.a <= 0 or abs(t.a + t.e) > 1e-9 * t.a:
        return False
    pixels, x, y = side / t.a, t.c / t.a, t.f / t.a
    return all(abs(value - round(value)) < 1e-6 for value in (pixels, x, y)) and 1 <= round(pixels) <= 512


def _opened(path: str, band: int) -> Any:
    """The open raster, to be closed by `with`. Raises DatasetError for what holds no class codes."""
    try:
        source = open_dataset(path)
    except SceneError as error:
        raise DatasetError(str(error)) from error
    kind = source.dtypes[band - 1] if 1 <= band <= source.count else ""
    reason = ""
    if not kind:
        reason = f"{path} has {source.count} bands, not {band}; name one of them"
    elif kind.startswith("complex"):
        reason = f"{path} holds complex numbers; give a raster of class codes"
    elif {"red", "green", "blue"} <= {item.name for item in source.colorinterp}:
        reason = f"{path} is a picture (red, green, blue), not class codes; give the raster of codes it was drawn from"
    elif source.crs is None or crs_of(source) is None:
        reason = f"{path} has no CRS; assign the one it is in, as in: gdal_edit.py -a_srs EPSG:5070 {path}"
    elif source.transform == Affine.identity():
        reason = f"{path} has no geotransform; georeference it with gdal_translate -a_ullr"
    if reason:
        source.close()
        raise DatasetError(reason)
    return closing(source)


def _unlabelled_value(source: rasterio.DatasetReader, codes: Mapping[int, int]) -> int:
    """The value for ground outside the file: its nodata, else 0, or the type's last free value where 0 is a class."""
    nodata = source.nodata
    if nodata is not None and math.isfinite(nodata) and float(nodata).is_integer() and int(nodata) not in codes:
        return int(nodata)
    last = np.iinfo(source.dtypes[0]).max if np.dtype(source.dtypes[0]).kind in "iu" else LARGEST_CODE
    free: int = next(value for value in (NO_CLASS, *range(last, -1, -1)) if value not in codes)
    return free


def _sampled(
    source: rasterio.DatasetReader, path: str, band: int, grid: TileGrid, columns: IntArray, rows: IntArray,
    per_side: int, unlabelled: int,
) -> Iterator[tuple[IntArray, Codes]]:  # fmt: skip
    """Blocks of neighbouring tiles: (n,) positions in the arrays, (n, k · k) codes. One read of the labels a block."""
    side = max(1, BLOCK_SAMPLES // per_side)
    keys = np.stack([columns // side, rows // side])
    _, first, inverse = np.unique(keys, axis=1, return_index=True, return_inverse=True)
    order = np.argsort(inverse.ravel(), kind="stable")
    bounds = np.searchsorted(inverse.ravel()[order], np.arange(len(first) + 1))
    over = bounding_range(columns, rows)
    res = grid.side / per_side
    with rasterio.vrt.WarpedVRT(
        source,
        crs=rasterio.crs.CRS.from_user_input(grid.crs),
        transform=Affine(res, 0, over.left * grid.side, 0, -res, over.top * grid.side),
        width=over.columns * per_side,
        height=over.rows * per_side,
        resampling=rasterio.enums.Resampling.nearest,
        tolerance=1e-6,  # of a label pixel; GDAL's own default is an eighth, and rasterio 1.4 fails with 0
        src_nodata=unlabelled,
        nodata=unlabelled,
    ) as view:
        for start, end in itertools.pairwise(bounds):
            tiles = order[start:end].astype(np.int64)
            here = bounding_range(columns[tiles], rows[tiles])
            image = _read(view, path, band, here, over, per_side)
            stack = image.reshape(here.rows, per_side, here.columns, per_side).swapaxes(1, 2)
            chosen = stack[here.top - 1 - rows[tiles], columns[tiles] - here.left]
            yield tiles, chosen.reshape(len(tiles), -1)


def _read(view: Any, path: str, band: int, here: TileRange, over: TileRange, per_side: int) -> Codes:
    """(lines, columns) codes of a range of tiles. Raises DatasetError for a damaged file and for numbers that are no codes."""
    window = rasterio.windows.Window(
        (here.left - over.left) * per_side,
        (over.top - here.top) * per_side,
        here.columns * per_side,
        here.rows * per_side,
    )
    try:
        image: Codes = view.read(band, window=window)
    except (rasterio.errors.RasterioError, OSError) as error:
        raise DatasetError(
            f"{path} cannot be read ({last_line(error.__cause__ or error)}); the file is truncated or damaged, fetch it again"
        ) from error
    if image.dtype.kind == "f":
        image = np.where(np.abs(image) < -VOID, image, VOID)
        if (image != np.floor(image)).any():
            raise DatasetError(f"{path} holds fractional numbers, not class codes; give a raster of codes")
    return image.astype(np.int32) if image.dtype.itemsize < 4 else image.astype(np.int64)


def _meaning(path: str, scheme: ClassScheme, held: set[int]) -> dict[int, int]:
    """Code → class position: the scheme's codes, or its ids where the file holds ids only (a map made by geoclass)."""
    codes = code_positions(scheme)
    ids = {number: position for position, number in enumerate(scheme.ids)}
    if not held or held & set(codes) or not held <= set(ids):
        return codes
    legend = raster_legend(path)
    named = {value: legend[value][0] for value in held if legend.get(value, ("", ""))[0]}
    fits = all(class_position(scheme, name) == ids[value] for value, name in named.items())
    return ids if fits else codes


def _table(meaning: Mapping[int, int], classes: int) -> IntArray:
    """Code + 1 → class position, `classes` for every code without one; the first and last entry take what is out of range."""
    table = np.full(LARGEST_CODE + 3, classes, np.int64)
    for code, position in meaning.items():
        if 0 <= code <= LARGEST_CODE:
            table[code + 1] = position
    return table


def _places(table: IntArray, codes: Codes) -> IntArray:
    return np.asarray(table[np.clip(codes, -1, LARGEST_CODE + 1) + 1])


def _counts(places: IntArray, values: int) -> IntArray:
    """(n, values) how often each of `values` places stands in each line of (n, samples)."""
    keys = places + np.arange(len(places))[:, None] * values
    return np.bincount(keys.ravel(), minlength=len(places) * values).reshape(len(places), values)


def _count_strange(total: dict[int, int], codes: Codes, outside: npt.NDArray[np.bool_], plain: set[int]) -> None:
    """Add the samples of each code outside the scheme to `total`; `plain` values mean unlabelled."""
    if not outside.any():
        return
    for code, number in zip(*np.unique(codes[outside], return_counts=True), strict=True):
        if int(code) not in plain:
            total[int(code)] = total.get(int(code), 0) + int(number)


def _names(band: ElementTree.Element) -> dict[int, str]:
    """Code → name out of a VRT band's category names and attribute table (whose names win)."""
    categories = band.findall("CategoryNames/Category")
    names = {code: item.text.strip() for code, item in enumerate(categories) if item.text and item.text.strip()}
    table = band.find("GDALRasterAttributeTable")
    if table is None:
        return names
    fields = [
        (d.findtext("Name", "").lower(), d.findtext("Usage", "0"), d.findtext("Type", ""))
        for d in table.findall("FieldDefn")
    ]
    # GDAL's usages: 5 is the value of a class, 2 its name. ESRI's tables leave them out and are told by their headings.
    value = _column(fields, "5", ("value", "code", "id"))
    name = _column(
        fields, "2", ("class_name", "class", "name", "land_cover", "nlcd_land", "nlcd land cover class", "label")
    )
    if value is None or name is None:
        return names
    for row in table.findall("Row"):
        cells = [cell.text or "" for cell in row.findall("F")]
        if cells[name].strip():
            names[int(float(cells[value]))] = cells[name].strip()
    return names


def _column(fields: Sequence[tuple[str, str, str]], usage: str, headings: Sequence[str]) -> int | None:
    by_usage = [n for n, item in enumerate(fields) if item[1] == usage]
    by_heading = [n for heading in headings for n, item in enumerate(fields) if item[0] == heading]
    return next(iter(by_usage + by_heading), None)
