"""Tiles as a stream of Arrow batches: what a vector file is written from and read into, a few thousand tiles at a time.

A polygon as an object costs some 500 bytes and an id as text 80, so a million tiles held as such are half a gigabyte.
Nothing here makes an object a tile: squares are written as well-known binary from one array, ids and class names joined
by Arrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyogrio

from .grid import BATCH_TILES, IntArray, TileGrid, slices

HONEST_READER = "OGR_GPKG_STREAM_BASE_IMPL"
"""GDAL's quick way to read a GeoPackage into Arrow trusts the number of rows that the file announces, and repeats rows
where it is wrong (GDAL 3.12); with this it reads what is there."""

Values = npt.NDArray[Any]
Columns = Callable[[slice], Mapping[str, Values | pa.Array]]
"""Makes the columns of some tiles, so that no more than a batch of them is in memory."""

# A polygon of one ring of five points, as OGC 06-103r4 (simple feature access) lays it out.
_SQUARE = np.dtype([("order", "u1"), ("kind", "<u4"), ("rings", "<u4"), ("points", "<u4"), ("xy", "<f8", (5, 2))])
_LITTLE_ENDIAN, _POLYGON = 1, 3


def stream(count: int, columns: Columns) -> pa.RecordBatchReader:
    """Batches of the columns of `count` tiles, made as they are asked for."""

    def batch(part: slice) -> pa.RecordBatch:
        return pa.RecordBatch.from_pydict(dict(columns(part)))

    return pa.RecordBatchReader.from_batches(batch(slice(0, 0)).schema, map(batch, slices(count)))


def places(grid: TileGrid, columns: IntArray, rows: IntArray) -> dict[str, Values | pa.Array]:
    """The columns that say where tiles are: id, column, row."""
    return {"tile_id": tile_ids(grid, columns, rows), "column": columns, "row": rows}


def tile_ids(grid: TileGrid, columns: IntArray, rows: IntArray) -> pa.Array:
    """(N,) ids, equal to `TileGrid.tile_ids`."""
    numbers = [pa.array(values).cast(pa.string()) for values in (columns, rows)]
    return pc.binary_join_element_wise(grid.prefix, *numbers, "_")


def words(at: npt.NDArray[np.integer[Any]], names: Sequence[str]) -> pa.Array:
    """(N,) the name at each position in `names`."""
    return pa.array(names, pa.string()).take(pa.array(at))


def corners(grid: TileGrid, columns: IntArray, rows: IntArray) -> npt.NDArray[np.float64]:
    """(N, 5, 2) x and y of each square's ring, in the order of `shapely.box`: anticlockwise from the south-east."""
    side = grid.side
    left, bottom, right, top = columns * side, rows * side, (columns + 1) * side, (rows + 1) * side
    x = np.stack([right, right, left, left, right], axis=1)
    y = np.stack([bottom, top, top, bottom, bottom], axis=1)
    return np.stack([x, y], axis=2)


def polygons(ring: npt.NDArray[np.float64]) -> pa.Array:
    """(N,) well-known binary of polygons from their rings (N, 5, 2)."""
    made = np.empty(len(ring), _SQUARE)
    made["order"], made["kind"], made["rings"], made["points"] = _LITTLE_ENDIAN, _POLYGON, 1, ring.shape[1]
    made["xy"] = ring
    ends = np.arange(len(ring) + 1, dtype=np.int32) * _SQUARE.itemsize
    return pa.Array.from_buffers(pa.binary(), len(ring), [None, pa.py_buffer(ends), pa.py_buffer(made)])


@contextmanager
def gdal_option(name: str, value: str | int) -> Iterator[None]:
    """Set an option of the GDAL that pyogrio brings, and put back what it was."""
    before = pyogrio.get_gdal_config_option(name)
    pyogrio.set_gdal_config_options({name: value})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({name: before})


def read_columns(path: Path, layer: str, wanted: Sequence[str], grid: TileGrid) -> tuple[dict[str, Values], bool]:
    """The numbers in columns `wanted` of a layer of tiles, `column` and `row` before them, and whether each tile's id is
    that of its column and row.

    Missing numbers are NaN, and text stays text. Raises what pyogrio, Arrow and NumPy raise for a damaged file.
    """
    names = ["column", "row", *wanted]
    found: dict[str, list[Values]] = {name: [] for name in names}
    alike = True
    with (
        gdal_option(HONEST_READER, "YES"),
        np.errstate(over="ignore"),  # a garbled number too large for float32 becomes inf, which callers refuse
        pyogrio.open_arrow(
            path,
            layer=layer,
            columns=["tile_id", *names],
            read_geometry=False,
            batch_size=BATCH_TILES,
            use_pyarrow=True,
        ) as (_, batches),
    ):
        for batch in batches:
            for name in names:
                found[name].append(batch[name].to_numpy(zero_copy_only=False).copy())
            at = [batch[name] for name in ("column", "row")]
            alike = alike and all(pa.types.is_integer(item.type) and not item.null_count for item in at)
            alike = alike and bool(
                batch["tile_id"].equals(tile_ids(grid, *(found[name][-1] for name in ("column", "row"))))
            )
    empty = [np.empty(0, np.int64)]
    return {name: np.concatenate(found.pop(name) or empty) for name in names}, alike
