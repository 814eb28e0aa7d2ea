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
        self.indexes = list(indexes)
        self.window = LatticeWindow(column, line, dataset.width, dataset.height)
        # Without compression a block costs no more to read again than to keep; a VRT's blocks are none.
        if dataset.compression is None and dataset.driver == "GTiff" or dataset.driver == "VRT":
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
        for part in self._rest(window, [item.block for item in shared]):
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
        high, wide = self.dataset.block_shapes[self.indexes[0] - 1]
        rows, columns = window.slices_in(self.window)
        return range(rows.start // high, -(-rows.stop // high)), range(columns.start // wide, -(-columns.stop // wide))

    def _block(self, row: int, column: int) -> LatticeWindow:
        high, wide = self.dataset.block_shapes[self.indexes[0] - 1]
        own = self.window
        return LatticeWindow(own.column + column * wide, own.line + row * high, wide, high).intersection(own)

    def _claimed(self, window: LatticeWindow) -> Iterator[_Shared]:
        """The blocks across the window's borders that other windows need too."""
        if self.desk is None:
            return
        rows, columns = self._cover(window)
        first, last = self._block(rows[0], columns[0]), self._block(rows[-1], columns[-1])
        whole = LatticeWindow(
            first.column,
            first.line,
            last.column + last.width - first.column,
            last.line + last.height - first.line,
        )
        if whole == window:
            return
        near = self.desk.near(whole)
        for row, column in product(rows, columns):
            if rows[0] < row < rows[-1] and columns[0] < column < columns[-1]:
                continue
            block = self._block(row, column)
            if block.intersection(window) == block:
                continue
            waiting = {number for number, corners in near if _touches(block, corners)}
            claim = self.desk.shared.claim((self.name, tuple(self.indexes), row, column), waiting)
            if claim is not None:
                yield _Shared(block, claim)

    def _rest(self, window: LatticeWindow, taken: Sequence[LatticeWindow]) -> list[LatticeWindow]:
        """What is left of `window` without these blocks, in few rectangles that lie along the file's blocks."""
        if not taken:
            return [window]
        rows, columns = self._cover(window)
        gone = {(block.line, block.column) for block in taken}
        runs: dict[tuple[int, int], LatticeWindow] = {}
        found: list[LatticeWindow] = []
        for row in rows:
            now: dict[tuple[int, int], LatticeWindow] = {}
            for run in self._runs(row, columns, gone, window):
                above = runs.get((run.column, run.width))
                if above is not None:
                    run = LatticeWindow(run.column, above.line, run.width, above.height + run.height)
                now[run.column, run.width] = run
            found += [run for key, run in runs.items() if key not in now]
            runs = now
        return found + list(runs.values())

    def _runs(
        self, row: int, columns: range, gone: set[tuple[int, int]], window: LatticeWindow
    ) -> Iterator[LatticeWindow]:
        """Neighbouring blocks of one row that are not gone, as far as they lie in `window`."""
        run: LatticeWindow | None = None
        for column in columns:
            block = self._block(row, column)
            if (block.line, block.column) in gone:
                if run is not None:
                    yield run
                run = None
                continue
            part = block.intersection(window)
            run = part if run is None else LatticeWindow(run.column, run.line, run.width + part.width, run.height)
        if run is not None:
            yield run

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
