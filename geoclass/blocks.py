"""Which tiles are read together, and threads that read ahead of the network.

The unit of work is a *block* of tiles that lie together: it is read by one request per scene, its batches never
reach into another block, and it is what the journal keeps and a cluster would send. Results therefore depend
neither on where a run was interrupted nor on how many threads read.
"""

from __future__ import annotations

import math
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import numpy.typing as npt

from .grid import IntArray, TileGrid, TileRange, bounding_range
from .mosaic import Mosaic, MosaicReader
from .reader import LatticeWindow, Pixels

BLOCK_BYTES = 24 << 20
"""Pixels of one block of tiles: enough to read files by whole blocks, little enough to hold several."""


@dataclass(frozen=True)
class TileBlock:
    """Tiles read together: `columns` and `rows` (N,) in reading order, numbered from 0 within a plan."""

    number: int
    columns: IntArray
    rows: IntArray

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def range(self) -> TileRange:
        return bounding_range(self.columns, self.rows)


@dataclass(frozen=True)
class BlockPixels:
    """What was read for a block: `tiles` are (bands, size, size) views, `valid_fraction` (N,) in 0–1.

    `whole` are the pixels (bands, rows × size, columns × size) of the block's range, which the tiles are windows of; None
    where they lie apart.
    """

    block: TileBlock
    tiles: Sequence[Pixels]
    valid_fraction: npt.NDArray[np.float32]
    seconds: float
    whole: Pixels | None = None


def plan_blocks(mosaic: Mosaic, grid: TileGrid, bands: int, columns: IntArray, rows: IntArray) -> list[TileBlock]:
    """Cut the wanted tiles into blocks of at most BLOCK_BYTES, shaped as the file's own blocks suggest.

    A striped file holds whole lines, so its blocks of tiles are as wide as they may be; a tiled one gets squares.
    The cut is anchored at the grid, hence independent of how many tiles are wanted elsewhere.
    """
    tile_bytes = bands * grid.size_px**2 * np.dtype(mosaic.dtype).itemsize
    most = max(1, BLOCK_BYTES // tile_bytes)
    scene = mosaic.scenes[0]
    striped = scene.block_shape[1] >= scene.width and scene.width > 2 * grid.size_px
    if striped:
        wide = int(np.ptp(columns)) + 1 if len(columns) else 1
        high = max(1, most // wide)
        wide = min(wide, most)
        across = (columns - columns.min()) // wide if len(columns) else columns
    else:
        high = max(1, math.isqrt(most))
        wide = max(1, most // high)
        across = columns // wide
    down = -(rows // high)
    order = np.lexsort((columns, -rows, across, down))
    keys = np.stack([down[order], across[order]])
    if not len(order):
        return []
    starts = np.flatnonzero(np.any(np.diff(keys, prepend=keys[:, :1] - 1), axis=0))
    parts = np.split(order, starts[1:])
    return [TileBlock(number, columns[part], rows[part]) for number, part in enumerate(parts)]


def read_block(reader: MosaicReader, grid: TileGrid, block: TileBlock) -> BlockPixels:
    """Read one block and cut it into tiles. Pixels without data in a part-covered tile become the tile's mean.

    Raises SceneError where a file cannot be read.
    """
    start = perf_counter()
    tiles = block.range
    window = LatticeWindow(*grid.pixel_window(tiles))
    pixels, valid = reader.read(window)
    size = grid.size_px
    down, across = tiles.top - 1 - block.rows, block.columns - tiles.left
    if valid.all():
        fractions = np.ones(len(block), np.float32)
    else:
        share = valid.reshape(tiles.rows, size, tiles.columns, size).mean(axis=(1, 3), dtype=np.float32)
        fractions = share[down, across]
    views = [pixels[:, r * size : (r + 1) * size, c * size : (c + 1) * size] for r, c in zip(down, across, strict=True)]
    for view, fraction, r, c in zip(views, fractions, down, across, strict=True):
        if 0 < fraction < 1:
            _fill(view, valid[r * size : (r + 1) * size, c * size : (c + 1) * size])
    return BlockPixels(block, views, fractions, perf_counter() - start, pixels)


def _fill(tile: Pixels, valid: npt.NDArray[np.bool_]) -> None:
    """Give pixels without data the mean of the others, which says least about the class."""
    for band in tile:
        band[~valid] = band[valid].mean().astype(band.dtype)


def read_ahead(
    mosaic: Mosaic,
    grid: TileGrid,
    bands: Sequence[str],
    blocks: Sequence[TileBlock],
    threads: int = 1,
    overlap: bool = True,
) -> Iterator[BlockPixels]:
    """Read `blocks` in order with `threads` threads, each with its own handles, a bounded number of blocks ahead.

    With `overlap` the threads read on while the caller works on what it was given, as suits a GPU or a slow source.
    Without it they read `threads` blocks together and rest until these are used up, as suits a CPU that decodes and
    computes with the same cores: a decoder that takes a core from a layer makes all other cores wait for it.
    At most `threads + 1` blocks are held besides the one yielded, so memory does not grow with their number.
    Close the iterator (or let it end) to close the handles. Raises SceneError at the block that cannot be read.
    """
    handles: queue.SimpleQueue[MosaicReader] = queue.SimpleQueue()
    local = threading.local()

    def read(block: TileBlock) -> BlockPixels:
        if not hasattr(local, "reader"):
            local.reader = mosaic.reader(grid, bands)
            handles.put(local.reader)
        return read_block(local.reader, grid, block)

    pool = ThreadPoolExecutor(threads, thread_name_prefix="geoclass-read")
    try:
        if overlap:
            yield from _always_ahead(pool, read, blocks, threads + 1)
        else:
            yield from _in_turns(pool, read, blocks, threads)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        while not handles.empty():
            handles.get().close()


def _always_ahead(
    pool: ThreadPoolExecutor, read: Callable[[TileBlock], BlockPixels], blocks: Iterable[TileBlock], ahead: int
) -> Iterator[BlockPixels]:
    pending: deque[Future[BlockPixels]] = deque()
    for block in blocks:
        pending.append(pool.submit(read, block))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _in_turns(
    pool: ThreadPoolExecutor, read: Callable[[TileBlock], BlockPixels], blocks: Sequence[TileBlock], together: int
) -> Iterator[BlockPixels]:
    for start in range(0, len(blocks), together):
        pending = deque(pool.submit(read, block) for block in blocks[start : start + together])
        wait(pending)
        while pending:
            yield pending.popleft().result()
