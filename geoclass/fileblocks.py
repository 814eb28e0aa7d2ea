"""A file's pixels by its own compressed blocks, each decoded once for all windows of a run (see `sharing`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import rasterio
import rasterio.windows

from .lattice import LatticeWindow, Pixels
from .sharing import Claim, Desk

Block = tuple[int, int]
"""(row, column) of a block in its file."""


@dataclass(frozen=True)
class _Shared:
    place: Block
    block: LatticeWindow
    claim: Claim


class FileBlocks:
    """Bands `indexes` of an open dataset whose upper left pixel is (column, line) of the lattice."""

    def __init__(
        self,
        dataset: rasterio.DatasetReader,
        name: str,
        indexes: Sequence[int],
        column: int,
        line: int,
        desk: Desk | None,
    ) -> None:
        self.dataset, self.name, self.desk = dataset, name, desk
        self.indexes, self._bands = list(indexes), tuple(indexes)
        self.window = LatticeWindow(column, line, dataset.width, dataset.height)
        self._high, self._wide = dataset.block_shapes[self.indexes[0] - 1]
        # Without compression a block costs no more to read again than to keep; a VRT's blocks are none.
        if (dataset.compression is None and dataset.driver == "GTiff") or dataset.driver == "VRT":
            self.desk = None

    def read(self, window: LatticeWindow, out: Pixels) -> None:
        """Fill `out` (bands, height, width) with `window`, which lies within the file. Raises what rasterio raises."""
        shared: list[_Shared] = []
        try:
            shared.extend(self._claimed(window))
            for item in shared:
                if item.claim.mine:
                    self._read_mine(item, window, out)
        finally:
            # Whoever waits for what was not read, because of an error, must read it himself.
            for item in shared:
                if item.claim.mine and not item.claim.pixels.done() and self.desk is not None:
                    self.desk.shared.fail(item.claim)
        for part in self._rest(window, {item.place for item in shared}):
            self._read(part, window, out)
        for item in shared:
            if not item.claim.mine:
                self._take(item, window, out)

    def is_sparse(self, window: LatticeWindow) -> bool:
        """Whether a GeoTIFF stores no block at all within `window`, as where there is no data."""
        if self.dataset.driver != "GTiff":
            return False
        rows, columns = self._cover(window)
        return all(
            self.dataset.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=index) is None
            for index in self.indexes
            for row, column in product(rows, columns)
        )

    def _cover(self, window: LatticeWindow) -> tuple[range, range]:
        """Rows and columns of the blocks that `window` touches."""
        rows, columns = window.slices_in(self.window)
        return (
            range(rows.start // self._high, -(-rows.stop // self._high)),
            range(columns.start // self._wide, -(-columns.stop // self._wide)),
        )

    def _block(self, row: int, column: int) -> LatticeWindow:
        left, top = column * self._wide, row * self._high
        width, height = min(self._wide, self.window.width - left), min(self._high, self.window.height - top)
        return LatticeWindow(self.window.column + left, self.window.line + top, width, height)

    def _claimed(self, window: LatticeWindow) -> Iterator[_Shared]:
        """The blocks across the window's borders that other windows need too."""
        if self.desk is None:
            return
        rows, columns = self._cover(window)
        first, last = self._block(rows[0], columns[0]), self._block(rows[-1], columns[-1])
        right, bottom = window.column + window.width, window.line + window.height
        across_rows = {rows[0]} if first.line < window.line else set()
        across_rows |= {rows[-1]} if last.line + last.height > bottom else set()
        across_columns = {columns[0]} if first.column < window.column else set()
        across_columns |= {columns[-1]} if last.column + last.width > right else set()
        if not across_rows and not across_columns:
            return
        near = self.desk.near(
            LatticeWindow(
                first.column,
                first.line,
                last.column + last.width - first.column,
                last.line + last.height - first.line,
            )
        )
        for row in rows:
            for column in columns if row in across_rows else sorted(across_columns):
                block = self._block(row, column)
                waiting = {number for number, corners in near if _touches(block, corners)}
                claim = self.desk.shared.claim((self.name, self._bands, row, column), waiting)
                if claim is not None:
                    yield _Shared((row, column), block, claim)

    def _rest(self, window: LatticeWindow, gone: set[Block]) -> list[LatticeWindow]:
        """What is left of `window` without these blocks, in few rectangles that lie along the file's blocks."""
        if not gone:
            return [window]
        rows, columns = self._cover(window)
        found: list[LatticeWindow] = []
        open_: dict[tuple[int, int], int] = {}  # (first column, column after the last) → first row
        for row in range(rows.start, rows.stop + 1):
            runs = _runs([c for c in columns if (row, c) not in gone]) if row in rows else []
            found += [self._blocks(range(open_.pop(run), row), run, window) for run in list(open_) if run not in runs]
            for run in runs:
                open_.setdefault(run, row)
        return found

    def _blocks(self, rows: range, run: tuple[int, int], window: LatticeWindow) -> LatticeWindow:
        """The part of `window` in a rectangle of blocks."""
        left, top = run[0] * self._wide, rows.start * self._high
        width, height = run[1] * self._wide - left, rows.stop * self._high - top
        return LatticeWindow(self.window.column + left, self.window.line + top, width, height).intersection(window)

    def _read(self, part: LatticeWindow, window: LatticeWindow, out: Pixels) -> None:
        rows, columns = part.slices_in(self.window)
        inside = part.slices_in(window)
        self.dataset.read(
            self.indexes,
            window=rasterio.windows.Window(columns.start, rows.start, part.width, part.height),
            out=out[:, inside[0], inside[1]],
        )

    def _read_mine(self, item: _Shared, window: LatticeWindow, out: Pixels) -> None:
        rows, columns = item.block.slices_in(self.window)
        pixels = self.dataset.read(
            self.indexes,
            window=rasterio.windows.Window(columns.start, rows.start, item.block.width, item.block.height),
        )
        assert self.desk is not None  # else nothing is claimed
        self.desk.shared.give(item.claim, pixels)
        _copy(pixels, item.block, window, out)

    def _take(self, item: _Shared, window: LatticeWindow, out: Pixels) -> None:
        pixels = item.claim.pixels.result()
        if pixels is None:
            self._read(item.block.intersection(window), window, out)
        else:
            _copy(pixels, item.block, window, out)


def _runs(columns: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbouring columns together, as (first, after the last)."""
    starts = [c for k, c in enumerate(columns) if k == 0 or columns[k - 1] != c - 1]
    ends = [c + 1 for k, c in enumerate(columns) if k + 1 == len(columns) or columns[k + 1] != c + 1]
    return list(zip(starts, ends, strict=True))


def _copy(pixels: Pixels, block: LatticeWindow, window: LatticeWindow, out: Pixels) -> None:
    part = block.intersection(window)
    rows, columns = part.slices_in(block)
    into = part.slices_in(window)
    out[:, into[0], into[1]] = pixels[:, rows, columns]


def _touches(block: LatticeWindow, corners: tuple[int, int, int, int]) -> bool:
    left, top, right, bottom = corners
    return (
        left < block.column + block.width
        and right > block.column
        and top < block.line + block.height
        and bottom > block.line
    )
