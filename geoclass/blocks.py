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
from functools import cached_property
from itertools import islice
from time import perf_counter

import numpy as np
import numpy.typing as npt

from .grid import IntArray, TileGrid, TileRange, bounding_range
from .lattice import LatticeWindow, Mask, Pixels
from .mosaic import Mosaic, MosaicReader
from .sharing import KEPT_BYTES, SharedBlocks, most_kept

BLOCK_BYTES = 10 << 20
"""Pixels of one block of tiles: enough to read files by whole blocks, little enough to hold several; of three bands in
bytes two whole batches of tiles of 224 px."""

WHOLE_LINES = 2
"""So many times BLOCK_BYTES may hold a row of tiles of a striped file: lines of up to 31,000 pixels of three bands in bytes
are then read whole, and once. Without compression a part of a line costs as much to read as the whole."""

BORDER_BYTES = KEPT_BYTES * 3 // 4
"""Pixels of a file's blocks that lie across the lower border of blocks of tiles side by side: these are kept until the
tiles below are read, so that no more than fit are read side by side before going on below."""

CHOICE = 8
"""How many of the next blocks each further thread may choose from to find some of one size."""

LEAST_BLOCK_PX = 512
"""What a file's blocks are taken to measure at least: a VRT tells nothing of those of its files."""


@dataclass(frozen=True)
class TileBlock:
    """Tiles read together: `columns` and `rows` (N,) in reading order, numbered from 0 within a plan."""

    number: int
    columns: IntArray
    rows: IntArray

    def __len__(self) -> int:
        return len(self.columns)

    @cached_property
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

    A striped file holds whole lines, so its blocks of tiles are as wide as they may be, and up to WHOLE_LINES times as
    large for it; a tiled one gets squares.
    The cut is anchored at the grid, hence independent of how many tiles are wanted elsewhere.
    """
    tile_bytes = bands * grid.size_px**2 * np.dtype(mosaic.dtype).itemsize
    most = max(1, BLOCK_BYTES // tile_bytes)
    scene = mosaic.scenes[0]
    striped = scene.block_shape[1] >= scene.width and scene.width > 2 * grid.size_px
    if striped:
        wide = int(np.ptp(columns)) + 1 if len(columns) else 1
        wide = math.ceil(wide / math.ceil(wide / (WHOLE_LINES * most)))
        high = max(1, most // wide)
        across = (columns - columns.min()) // wide if len(columns) else columns
    else:
        high = max(1, math.isqrt(most))
        wide = max(1, most // high)
        across = columns // wide
    down = -(rows // high)
    pixel_bytes = tile_bytes // grid.size_px**2
    border = max(scene.block_shape[0], LEAST_BLOCK_PX) * wide * grid.size_px * pixel_bytes
    side_by_side = across // max(1, BORDER_BYTES // border)
    order = np.lexsort((columns, -rows, across, down, side_by_side))
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
    pixels, valid = reader.read_masked(window_of(grid, block))
    size = grid.size_px
    down, across = tiles.top - 1 - block.rows, block.columns - tiles.left
    places = [np.s_[r * size : (r + 1) * size, c * size : (c + 1) * size] for r, c in zip(down, across, strict=True)]
    views = [pixels[:, rows, columns] for rows, columns in places]
    fractions = np.ones(len(block), np.float32)
    if valid is not None:
        for k in np.flatnonzero(~_whole(valid, size)[down, across]):
            count = np.count_nonzero(valid[places[k]])
            fractions[k] = count / (size * size)
            if 0 < count < size * size:
                _fill(views[k], valid[places[k]])
    return BlockPixels(block, views, fractions, perf_counter() - start, pixels)


def _whole(valid: Mask, size: int) -> npt.NDArray[np.bool_]:
    """Which squares of `size` pixels of `valid` (rows × size, columns × size) have data everywhere: (rows, columns)."""
    lines = valid.view(np.uint8).reshape(-1, size, valid.shape[1]).min(axis=1)
    return np.asarray(lines.reshape(len(lines), -1, size).min(axis=2) > 0)


def window_of(grid: TileGrid, block: TileBlock) -> LatticeWindow:
    """The pixels of a block's tiles, and of those between them."""
    return LatticeWindow(*grid.pixel_window(block.range))


def _fill(tile: Pixels, valid: Mask) -> None:
    """Give pixels without data, which are 0, the mean of the others, which says least about the class."""
    # Sums of whole numbers are exact in any order, those of others are not.
    if tile.dtype.kind in "iu":
        means = tile.sum(axis=(1, 2), dtype=np.int64) / np.count_nonzero(valid)
    else:
        means = np.array([band[valid].mean() for band in tile])
    np.copyto(tile, means.astype(tile.dtype)[:, None, None], where=~valid)


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
    At most `threads + 1` blocks are held besides the one yielded, so memory does not grow with their number. A compressed
    block of a file that several of `blocks` need is decoded once (see `sharing`).
    Close the iterator (or let it end) to close the handles. Raises SceneError at the block that cannot be read.
    """
    handles: queue.SimpleQueue[MosaicReader] = queue.SimpleQueue()
    local = threading.local()
    block_bytes = math.prod(mosaic.scenes[0].block_shape) * len(bands) * np.dtype(mosaic.dtype).itemsize
    shared = SharedBlocks([window_of(grid, block) for block in blocks], most_kept(block_bytes))

    def read(block: TileBlock) -> BlockPixels:
        if not hasattr(local, "reader"):
            local.reader = mosaic.reader(grid, bands, shared)
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
    for turn in _turns(blocks, together):
        reading = [pool.submit(read, block) for block in turn]
        wait(reading)
        # What could be read comes before the error of what could not, and is kept.
        pending = deque(sorted(reading, key=lambda one: one.exception() is not None))
        del reading
        while pending:
            yield pending.popleft().result()


def _turns(blocks: Sequence[TileBlock], together: int) -> Iterator[list[TileBlock]]:
    """Blocks that are read together, the largest first: as many as `together` whole ones hold, so that no thread rests
    beside a small one.

    The first that is left is always among them. One for each thread at a time, those of the next few join it that are most
    like it in size: blocks at the edges of the grid's squares are small, and two of them keep two threads as long.
    """
    most = together * max((len(block.range) for block in blocks), default=0)
    coming = iter(blocks)
    near: list[TileBlock] = []
    while near := [*near, *islice(coming, 1 + CHOICE * (together - 1) - len(near))]:
        turn = [near.pop(0)]
        first = len(turn[0].range)
        room = most - first
        while near:
            alike = sorted(near, key=lambda block: abs(len(block.range) - first))
            more = alike[: together - len(turn) % together]
            room -= sum(len(block.range) for block in more)
            if room < 0:
                break
            turn += more
            near = [block for block in near if block.number not in {one.number for one in more}]
        yield sorted(turn, key=lambda block: -len(block.range))
