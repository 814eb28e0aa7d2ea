"""Some bands of one file on a lattice: as they are, by the file's own blocks, or through a warped view."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.enums
import rasterio.errors
import rasterio.vrt
import rasterio.windows

from .errors import SceneError
from .fileblocks import FileBlocks
from .lattice import Lattice, LatticeWindow, Mask, Pixels, where_true
from .nearest import NearestCopy
from .remote.names import is_remote
from .remote.virtual import vrt_of
from .scene import Scene, crs_of, last_line, open_dataset
from .sharing import Desk
from .vrt import Placed, placed_files

MAX_SHIFT_PX = 0.25
"""A scene is read unwarped if its pixels drift from the lattice by no more than this across its whole extent."""

OVERVIEWS_FROM = 2.0
"""From this many pixels of a scene to one of the lattice on, an overview is read where the file has one."""

AVERAGED_FROM = 1 / 0.75
"""From this many pixels of a scene to one of the lattice on, they are averaged."""

LEAST_SHRINK = 1 / 1.5
"""Wider pixels of a scene than this to one of the lattice leave more of an image out than can be put back."""

MOST_OPEN = 64
"""Files of a VRT that one reader holds open."""


class FileReader:
    """Bands of one file on the lattice, `layers` of them: those asked for, and the alpha band where that tells no data.

    `window` is the file's place on the lattice, `shift_px` how far its pixels were moved, and `warped` whether they are
    resampled.
    """

    def __init__(
        self,
        stack: ExitStack,
        scene: Scene,
        path: str,
        indexes: Sequence[int],
        lattice: Lattice,
        desk: Desk | None = None,
        resampling: rasterio.enums.Resampling | None = None,
    ) -> None:
        self.scene, self.path = scene, path
        self._lattice, self._resampling = lattice, resampling
        self._dataset = opened(stack, path)
        self._alpha = scene.alpha_index
        self._vrt: rasterio.vrt.WarpedVRT | None = None
        self._blocks: FileBlocks | _PlacedBlocks | None = None
        aligned = aligned_window(self._dataset, lattice)
        if aligned is not None:
            self.window, self.shift_px = aligned
        else:
            self.window, self.shift_px = self._warp(stack, lattice, indexes), 0.0
        self.warped = self._vrt is not None
        self._indexes = [*indexes, *([self._alpha] if self._alpha is not None else [])]
        self.layers = len(self._indexes)
        self.has_alpha = self._alpha is not None
        if not self.warped:
            self._blocks = self._own_blocks(stack, desk)

    def read(self, window: LatticeWindow, out: Pixels) -> Mask | None:
        """Fill `out` (layers, height, width) with `window`, which lies within `self.window`.

        Returns which pixels have data, None where all have; those without may be left unread. Raises SceneError,
        naming file and window, where the file cannot be read.
        """
        try:
            return self._read(window, out)
        except (rasterio.errors.RasterioError, OSError) as error:
            rows, columns = window.slices_in(self.window)
            cause = error.__cause__ or error
            raise SceneError(
                f"{self.path} cannot be read at window (column {columns.start}, row {rows.start}, "
                f"{window.width} x {window.height}): {last_line(cause)}; the file is truncated or damaged, fetch it again"
            ) from error

    def _read(self, window: LatticeWindow, out: Pixels) -> Mask | None:
        if self._copy is not None:
            return self._copy.read(window, out)
        if self._blocks is None:
            assert self._vrt is not None
            self._vrt.read(self._indexes, window=_place(window, self.window), out=out)
        elif self._empty_is_nodata and self._blocks.is_sparse(window):
            return np.zeros(out.shape[1:], bool)
        elif self._by_mask:
            return self._read_where_valid(window, out)
        else:
            self._blocks.read(window, out)
        return having_data(out, self.has_alpha, self.scene.nodata)

    @property
    def _by_value(self) -> bool:
        return self.scene.validity == "nodata value"

    @property
    def _empty_is_nodata(self) -> bool:
        """Whether what a file does not store reads as the number that stands for no data."""
        return self._by_value and (self._dataset.nodata or 0.0) == self.scene.nodata

    @property
    def _by_mask(self) -> bool:
        return self.scene.validity == "mask" and not self.warped

    def _read_where_valid(self, window: LatticeWindow, out: Pixels) -> Mask | None:
        """The mask tells what is worth decoding."""
        assert self._blocks is not None
        mask = self._dataset.dataset_mask(window=_place(window, self.window))
        if mask.min() > 0:
            self._blocks.read(window, out)
            return None
        valid: Mask = mask > 0
        part = where_true(valid, window)
        if not part.empty:
            rows, columns = part.slices_in(window)
            self._blocks.read(part, out[:, rows, columns])
        return valid

    def _own_blocks(self, stack: ExitStack, desk: Desk | None) -> FileBlocks | _PlacedBlocks:
        if not self._by_mask:
            placed = placed_files(self._dataset, self.path, self._indexes)
            if placed is not None:
                fill = self._dataset.nodatavals[self._indexes[0] - 1] or 0.0
                return _PlacedBlocks(stack, placed, self.window, fill, desk)
        return FileBlocks(self._dataset, self.path, self._indexes, self.window.column, self.window.line, desk)

    def _warp(self, stack: ExitStack, lattice: Lattice, indexes: Sequence[int]) -> LatticeWindow:
        """Open a warped view whose pixels are lattice pixels."""
        shrink = shrink_to(lattice, self.scene)
        source, level = self._dataset, self._overview(indexes, shrink)
        if level is not None:
            shrink /= self._dataset.overviews(indexes[0])[level]
            source = opened(stack, self.path, overview_level=level)
        window, options = warping(self.scene, lattice, shrink, self._resampling)
        if options.get("add_alpha"):
            self._alpha = source.count + 1
        self._vrt = warped_view(stack, self.scene, source, _source_name(self.path), options)
        return window

    @cached_property
    def _copy(self) -> NearestCopy | None:
        """The file as a copy by nearest neighbours of an image on the lattice, None where it is none."""
        shrink = shrink_to(self._lattice, self.scene)
        if (
            not self.warped
            or self._resampling is not None
            or self.scene.validity == "mask"
            or not LEAST_SHRINK < shrink <= AVERAGED_FROM
        ):
            return None
        alpha = self.scene.alpha_index is not None
        stored = self._indexes if alpha else self._indexes[: self.layers - self.has_alpha]
        copy = NearestCopy(
            self._dataset,
            stored,
            self.scene.require_georeference(),
            self._lattice,
            lambda pixels: having_data(pixels, alpha, self.scene.nodata),
        )
        return copy if copy.is_one() else None

    def _overview(self, indexes: Sequence[int], shrink: float) -> int | None:
        """The coarsest overview that is at least as fine as the lattice, whose pixel is `shrink` of the file's wide.

        None where there is none that shows the same ground: JPEG 2000 keeps every second pixel's place, not that of both,
        and overviews of bands beside one tagged alpha are averages weighted by it.
        """
        dataset = self._dataset
        if (
            self._resampling is not None
            or shrink < OVERVIEWS_FROM * 0.999
            or self.scene.fake_alpha
            or dataset.driver.startswith("JP2")
        ):
            return None
        factors = dataset.overviews(indexes[0])
        if any(dataset.overviews(index) != factors for index in indexes):
            return None
        fit = [level for level, factor in enumerate(factors) if 1 < factor <= shrink * 1.001]
        return max(fit, key=lambda level: factors[level], default=None)


def opened(stack: ExitStack, path: str, overview_level: int | None = None) -> rasterio.DatasetReader:
    """`scene.open_dataset`, closed by `stack`."""
    # `closing`, because a dataset's own context belongs to the thread that entered it, and another may close.
    return stack.enter_context(closing(open_dataset(path, overview_level)))


def aligned_window(dataset: rasterio.DatasetReader, lattice: Lattice) -> tuple[LatticeWindow, float] | None:
    """The dataset's window on the lattice and its shift in pixels, or None where it must be warped."""
    own, t = crs_of(dataset), dataset.transform
    width, height = dataset.width, dataset.height
    if own != lattice.crs or t.b or t.d or t.e >= 0:
        return None
    drift = max(abs(t.a / lattice.res - 1) * width, abs(-t.e / lattice.res - 1) * height)
    if drift > MAX_SHIFT_PX:
        return None
    x, y = t.c / lattice.res, -t.f / lattice.res
    column, line = math.floor(x + 0.5), math.floor(y + 0.5)
    return LatticeWindow(column, line, width, height), max(abs(x - column), abs(y - line))


def shrink_to(lattice: Lattice, scene: Scene) -> float:
    """How many of the scene's pixels a lattice pixel is wide."""
    unit_m = float(lattice.crs.axis_info[0].unit_conversion_factor)
    return lattice.res * unit_m / scene.gsd_in(lattice.crs)


def warping(
    scene: Scene, lattice: Lattice, shrink: float, resampling: rasterio.enums.Resampling | None = None
) -> tuple[LatticeWindow, dict[str, Any]]:
    """The scene's window on the lattice, and the WarpedVRT options for pixels that are lattice pixels.

    Average where it shrinks, else cubic, unless `resampling` says otherwise: bilinear blurs a scene of about the same
    GSD, and a network sees the blur; with cubic more labels stay as they were. With `add_alpha` the last band tells no data.
    """
    left, bottom, right, top = scene.outline_in(lattice.crs).bounds
    column, line = math.floor(left / lattice.res), math.floor(-top / lattice.res)
    width = max(1, math.ceil(right / lattice.res) - column)
    height = max(1, math.ceil(-bottom / lattice.res) - line)
    if resampling is None:
        resampling = rasterio.enums.Resampling.average if shrink > AVERAGED_FROM else rasterio.enums.Resampling.cubic
    options: dict[str, Any] = {
        "crs": rasterio.crs.CRS.from_user_input(lattice.crs),
        "transform": lattice.transform(column, line),
        "width": width,
        "height": height,
        "resampling": resampling,
        # Left to itself GDAL tells the width of its kernel from each window's shape, and blurs some and not others.
        "XSCALE": 1,
        "YSCALE": 1,
    }
    if scene.validity == "nodata value" or scene.dtype.startswith("float"):
        nodata = math.nan if scene.nodata is None else scene.nodata
        options |= {"src_nodata": nodata, "nodata": nodata, "UNIFIED_SRC_NODATA": "YES"}
    elif scene.alpha_index is None:
        options["add_alpha"] = True
    return LatticeWindow(column, line, width, height), options


def warped_view(
    stack: ExitStack, scene: Scene, source: rasterio.DatasetReader, name: str, options: dict[str, Any]
) -> rasterio.vrt.WarpedVRT:
    """A file of `scene`, which a VRT reaches by `name`, resampled as `warping` says; closed by `stack`."""
    if scene.fake_alpha:
        # GDAL's warper would take a band tagged alpha for a mask: show it the same bands without the tag.
        source = opened(stack, vrt_of(source, name, tagged=False))
    return stack.enter_context(closing(rasterio.vrt.WarpedVRT(source, **options)))


class _PlacedBlocks:
    """The files of a plain VRT, opened as they are needed, each read by its own blocks."""

    def __init__(
        self, stack: ExitStack, placed: Sequence[Placed], window: LatticeWindow, fill: float, desk: Desk | None
    ) -> None:
        self._placed = [
            (item, LatticeWindow(window.column + item.left, window.line + item.top, item.width, item.height))
            for item in placed
        ]
        self._fill, self._desk = fill, desk
        self._open: OrderedDict[Placed, FileBlocks] = OrderedDict()
        stack.callback(self._close)

    def read(self, window: LatticeWindow, out: Pixels) -> None:
        """As `FileBlocks.read`."""
        parts = [(item, place, window.intersection(place)) for item, place in self._placed]
        parts = [found for found in parts if not found[2].empty]
        if len(parts) != 1 or parts[0][2] != window:
            out[...] = self._fill
        laid: list[LatticeWindow] = []
        for item, place, part in parts:
            rows, columns = part.slices_in(window)
            view = out[:, rows, columns]
            beneath = any(not part.intersection(other).empty for other in laid)
            laid.append(part)
            if item.nodata is None or (item.nodata == self._fill and not beneath):
                self._blocks(item, place).read(part, view)
                continue
            pixels = np.empty_like(view)
            self._blocks(item, place).read(part, pixels)
            np.copyto(view, pixels, where=pixels != item.nodata)

    def is_sparse(self, window: LatticeWindow) -> bool:
        """Not told for a VRT: its files may fill what they do not store with something else than no data."""
        return False

    def _blocks(self, item: Placed, place: LatticeWindow) -> FileBlocks:
        if item not in self._open:
            while len(self._open) >= MOST_OPEN:
                self._open.popitem(last=False)[1].dataset.close()
            origin = place.column - item.column, place.line - item.row
            self._open[item] = FileBlocks(open_dataset(item.path), item.path, item.indexes, *origin, self._desk)
        self._open.move_to_end(item)
        return self._open[item]

    def _close(self) -> None:
        for blocks in self._open.values():
            blocks.dataset.close()


def _place(window: LatticeWindow, whole: LatticeWindow) -> rasterio.windows.Window:
    rows, columns = window.slices_in(whole)
    return rasterio.windows.Window(columns.start, rows.start, window.width, window.height)


def having_data(pixels: Pixels, has_alpha: bool, nodata: float | None) -> Mask | None:
    """Which of `pixels` (layers, height, width) have data, None where all have: by the last layer, or by their values."""
    if has_alpha:
        return None if pixels[-1].min() > 0 else pixels[-1] > 0
    return differs(pixels, nodata)


def differs(pixels: Pixels, nodata: float | None) -> Mask | None:
    """Where any band differs from `nodata`, None where every pixel does (and where it is NaN: see `SceneReader`)."""
    if nodata is None or math.isnan(nodata):
        return None
    value: Any = nodata
    if pixels.dtype.kind in "iu":
        limits = np.iinfo(pixels.dtype)
        if nodata != int(nodata) or not limits.min <= nodata <= limits.max:
            return None
        value = pixels.dtype.type(nodata)  # of the pixels' own type, else numpy compares floats
    valid: Mask = pixels[0] != value
    for band in pixels[1:]:
        if valid.all():
            return None
        valid |= band != value
    return None if valid.all() else valid


def _source_name(path: str) -> str:
    """The file's name as a VRT that lies nowhere can say it."""
    return path if is_remote(path) else str(Path(path).resolve())
