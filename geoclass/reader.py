"""Read windows of a scene on a pixel lattice anchored at the origin of a target CRS.

A scene whose own pixels lie on the lattice is read as it is, any other is warped while being read.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import rasterio
import rasterio.enums
import rasterio.errors
import rasterio.vrt
import rasterio.windows
from affine import Affine

from .errors import SceneError
from .remote.held import held, read_shared
from .remote.names import is_remote, over_network, redacted, shown
from .remote.opening import after_failure, environment, opened_name, read_again
from .remote.virtual import source_window, standing_in, vrt_of
from .scene import Scene, crs_of, last_line, open_dataset

Pixels = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

MAX_SHIFT_PX = 0.25
"""A scene is read unwarped if its pixels drift from the lattice by no more than this across its whole extent."""

WARPING = threading.BoundedSemaphore(3)
"""Windows of remote files that are warped at once, of all threads: each holds its source's pixels twice."""


@dataclass(frozen=True)
class Lattice:
    """Pixels of side `res` (CRS units) anchored at the origin of `crs`; columns count east, lines south."""

    crs: pyproj.CRS
    res: float

    def transform(self, column: int, line: int) -> Affine:
        """The geotransform of an image whose upper left pixel is (column, line)."""
        return Affine(self.res, 0, column * self.res, 0, -self.res, -line * self.res)


@dataclass(frozen=True)
class LatticeWindow:
    """A half-open window of lattice pixels."""

    column: int
    line: int
    width: int
    height: int

    def intersection(self, other: LatticeWindow) -> LatticeWindow:
        """The shared window; its width or height is 0 where there is none."""
        column, line = max(self.column, other.column), max(self.line, other.line)
        right = min(self.column + self.width, other.column + other.width)
        bottom = min(self.line + self.height, other.line + other.height)
        return LatticeWindow(column, line, max(0, right - column), max(0, bottom - line))

    @property
    def empty(self) -> bool:
        return self.width <= 0 or self.height <= 0

    def slices_in(self, outer: LatticeWindow) -> tuple[slice, slice]:
        """(rows, columns) of this window inside an array that covers `outer`."""
        top, left = self.line - outer.line, self.column - outer.column
        return slice(top, top + self.height), slice(left, left + self.width)


class SceneReader:
    """Open handles on one scene, for one thread: reads windows of a lattice. A context manager.

    `bands` are band names in the order wanted. `shift_px` is how far the pixels were moved, at most half a pixel,
    where the scene is read unwarped; `warped` says whether it is resampled.
    """

    def __init__(self, scene: Scene, bands: Sequence[str], lattice: Lattice) -> None:
        scene.require_georeference()
        scene.require_bands(bands)
        self.scene = scene
        self.lattice = lattice
        self.bands = tuple(bands)
        self._stack = ExitStack()
        by_name = {band.name: band for band in scene.bands}
        files: dict[str, list[tuple[int, int]]] = {}
        for position, name in enumerate(bands):
            files.setdefault(by_name[name].path, []).append((position, by_name[name].index))
        try:
            self._files = [
                _FileReader(
                    self._stack, scene, path, [index for _, index in items], [place for place, _ in items], lattice
                )
                for path, items in files.items()
            ]
            self._quality: _FileReader | None = None
            if scene.quality is not None:
                nearest = rasterio.enums.Resampling.nearest
                self._quality = _FileReader(self._stack, scene, scene.quality.path, [1], [0], lattice, nearest)
        except BaseException:
            self.close()
            raise
        self.window = self._files[0].window
        for item in (*self._files[1:], *([self._quality] if self._quality else [])):
            self.window = self.window.intersection(item.window)
        self.warped = any(item.warped for item in self._files)
        self.shift_px = max(item.shift_px for item in self._files)

    def read(self, window: LatticeWindow) -> tuple[Pixels, Mask]:
        """(pixels, valid) of `window`, which must lie inside `self.window`: (bands, height, width), (height, width).

        Pixels keep the stored type, with the scene's value offset added; what is not finite counts as no data.
        Raises SceneError, naming file and window, where the file cannot be read.
        """
        clear = self._clear(window)
        if clear is not None and not clear.any():
            shape = (len(self.bands), window.height, window.width)
            return np.zeros(shape, self.scene.dtype), clear
        pixels, valid = self._read_bands(window)
        return pixels, valid if clear is None else valid & clear

    def _clear(self, window: LatticeWindow) -> Mask | None:
        """Where the quality file finds nothing to drop, or None where the scene has no such file."""
        if self._quality is None or self.scene.quality is None:
            return None
        codes, _ = self._quality.read(window)
        return ~np.isin(codes[0], self.scene.quality.dropped)

    def _read_bands(self, window: LatticeWindow) -> tuple[Pixels, Mask]:
        if len(self._files) == 1:
            pixels, valid = self._files[0].read(window)
        else:
            parts = [item.read(window) for item in self._files]
            pixels = np.empty((len(self.bands), window.height, window.width), parts[0][0].dtype)
            for item, (part, _) in zip(self._files, parts, strict=True):
                pixels[item.places] = part
            # Without data only where every file is: a dark pixel may be 0 in one band alone.
            valid = np.logical_or.reduce([mask for _, mask in parts])
        if pixels.dtype.kind == "f":
            finite = np.isfinite(pixels).all(axis=0)
            if not finite.all():
                valid = valid & finite
                pixels = np.where(finite, pixels, pixels.dtype.type(0))
        if self.scene.value_offset:
            pixels = _shifted(pixels, self.scene.value_offset)
        return pixels, valid

    def close(self) -> None:
        """Close every handle."""
        self._stack.close()

    def __enter__(self) -> SceneReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _shifted(pixels: Pixels, offset: float) -> Pixels:
    if pixels.dtype.kind == "f":
        return np.asarray(pixels + pixels.dtype.type(offset))
    limits = np.iinfo(pixels.dtype)
    return np.clip(pixels.astype(np.int32) + int(offset), limits.min, limits.max).astype(pixels.dtype)


class _FileReader:
    """Some bands of one file on the lattice, as they are or through a warped view."""

    def __init__(
        self,
        stack: ExitStack,
        scene: Scene,
        path: str,
        indexes: list[int],
        places: list[int],
        lattice: Lattice,
        resampling: rasterio.enums.Resampling | None = None,
    ) -> None:
        self.scene, self.path, self.places, self.indexes = scene, path, places, indexes
        self.resampling, self.remote = resampling, over_network(path)
        self._stack = stack.enter_context(ExitStack())
        self._open(lattice)
        if self._held:
            held.keep_while(scene, scene.opening)

    def _open(self, lattice: Lattice) -> None:
        self._name = opened_name(self.path) if self.remote else self.path
        # `closing`, because a dataset's own context belongs to the thread that entered it, and another may close.
        self.dataset = self._stack.enter_context(closing(open_dataset(self.path)))
        self.alpha_index = self.scene.alpha_index
        self.vrt: rasterio.vrt.WarpedVRT | None = None
        self.lattice = lattice
        self._warping: dict[str, Any] | None = None
        aligned = self._aligned_window(lattice)
        self.warped = aligned is None
        # Blocks of remote files are shared by all threads; but a mask beside the bands goes through the warper's hands.
        self._held = self.remote and not (self.warped and self.scene.validity == "mask")
        self.window, self.shift_px = aligned or (self._warp(lattice), 0.0)
        if self.warped and not self._held:
            self.vrt = self._warped()

    def _reopen(self) -> None:
        self._stack.close()
        self._open(self.lattice)

    def _aligned_window(self, lattice: Lattice) -> tuple[LatticeWindow, float] | None:
        """The dataset's window on the lattice and its shift, or None where it must be warped."""
        own, t = crs_of(self.dataset), self.dataset.transform
        width, height = self.dataset.width, self.dataset.height
        if own != lattice.crs or t.b or t.d or t.e >= 0:
            return None
        drift = max(abs(t.a / lattice.res - 1) * width, abs(-t.e / lattice.res - 1) * height)
        if drift > MAX_SHIFT_PX:
            return None
        x, y = t.c / lattice.res, -t.f / lattice.res
        column, line = math.floor(x + 0.5), math.floor(y + 0.5)
        return LatticeWindow(column, line, width, height), max(abs(x - column), abs(y - line))

    def _warp(self, lattice: Lattice) -> LatticeWindow:
        """Settle how to warp to lattice pixels: average where it shrinks, else cubic.

        Bilinear blurs a scene of about the same GSD, and a network sees the blur: with cubic more labels stay as they were.
        """
        left, bottom, right, top = self.scene.outline_in(lattice.crs).bounds
        column, line = math.floor(left / lattice.res), math.floor(-top / lattice.res)
        width = max(1, math.ceil(right / lattice.res) - column)
        height = max(1, math.ceil(-bottom / lattice.res) - line)
        unit_m = float(lattice.crs.axis_info[0].unit_conversion_factor)
        shrinking = self.scene.gsd_in(lattice.crs) < 0.75 * lattice.res * unit_m
        resampling = self.resampling
        if resampling is None:
            resampling = rasterio.enums.Resampling.average if shrinking else rasterio.enums.Resampling.cubic
        options: dict[str, Any] = {}
        by_value = self.scene.validity == "nodata value" or self.scene.dtype.startswith("float")
        if by_value:
            nodata = math.nan if self.scene.nodata is None else self.scene.nodata
            options = {"src_nodata": nodata, "nodata": nodata, "UNIFIED_SRC_NODATA": "YES"}
        elif self.alpha_index is None:
            options = {"add_alpha": True}
            self.alpha_index = self.dataset.count + 1
        self._warping = {
            "crs": rasterio.crs.CRS.from_user_input(lattice.crs),
            "transform": lattice.transform(column, line),
            "width": width,
            "height": height,
            "resampling": resampling,
            # Left to itself GDAL tells the width of its kernel from each window's shape, and blurs some and not others.
            "XSCALE": 1,
            "YSCALE": 1,
            **options,
        }
        return LatticeWindow(column, line, width, height)

    def _warped(self) -> rasterio.vrt.WarpedVRT:
        """A view of the dataset whose pixels are lattice pixels."""
        source = self.dataset
        if self.scene.fake_alpha:
            # GDAL's warper would take a band tagged alpha for a mask: show it the same bands without the tag.
            name = self._name if is_remote(self._name) else str(Path(self._name).resolve())
            source = self._stack.enter_context(closing(open_dataset(vrt_of(source, name, tagged=False))))
        vrt = rasterio.vrt.WarpedVRT(source, **(self._warping or {}))
        self._stack.callback(vrt.close)
        return vrt

    def read(self, window: LatticeWindow) -> tuple[Pixels, Mask]:
        rows, columns = window.slices_in(self.window)
        place = rasterio.windows.Window(columns.start, rows.start, window.width, window.height)
        where = f"window (column {columns.start}, row {rows.start}, {window.width} x {window.height})"
        if self.remote:
            if opened_name(self.path) != self._name:  # its signature has run out
                self._reopen()
            if not self._held:
                return read_again(self.path, f" at {where}", lambda: self._read(place), self._reopen)
            with environment():
                return self._read_held(place, f" at {where}")
        try:
            return self._read(place)
        except (rasterio.errors.RasterioError, OSError) as error:
            cause = redacted(last_line(error.__cause__ or error))
            raise SceneError(
                f"{shown(self.path)} cannot be read at {where}: {cause}; the file is truncated or damaged, fetch it again"
            ) from error

    @property
    def _indexes(self) -> list[int]:
        """The bands, and the mask with them where it is one: they are mostly stored together."""
        return self.indexes if self.alpha_index is None else [*self.indexes, self.alpha_index]

    def _read(self, place: rasterio.windows.Window) -> tuple[Pixels, Mask]:
        source = self.dataset if self.vrt is None else self.vrt
        pixels = source.read(self._indexes, window=place)
        return pixels[: len(self.indexes)], self._valid(source, pixels, place)

    def _read_held(self, place: rasterio.windows.Window, where: str) -> tuple[Pixels, Mask]:
        """The same from a remote file, whose blocks all threads share."""
        if self._warping is not None:
            with WARPING:
                return self._read_warped(place, where)
        pixels = self._shared(self._indexes, place, where)
        count = len(self.indexes)
        if self.scene.validity != "mask":
            return pixels[:count], self._valid(self.dataset, pixels, place)
        valid = read_again(self.path, where, lambda: self._valid(self.dataset, pixels, place), self._reopen)
        return pixels[:count], valid

    def _read_warped(self, place: rasterio.windows.Window, where: str) -> tuple[Pixels, Mask]:
        options, own = self._warping or {}, self.scene.require_georeference()
        window = source_window(self.dataset, self.lattice.crs, own, options["transform"], place)
        pixels = self._shared(list(self.dataset.indexes), window, where)
        with (
            standing_in(self.dataset, window, pixels, tagged=not self.scene.fake_alpha) as source,
            rasterio.vrt.WarpedVRT(source, **options) as vrt,
        ):
            warped = vrt.read(self._indexes, window=place)
            return warped[: len(self.indexes)], self._valid(vrt, warped, place)

    def _shared(self, indexes: list[int], window: rasterio.windows.Window, where: str) -> Pixels:
        """Pixels of the file as they are stored."""
        return read_shared(
            self.dataset,
            (self.scene.opening, self.path),
            indexes,
            window,
            lambda wanted: self.dataset.read(indexes, window=wanted),
            lambda failures, error: after_failure(self.path, where, failures, error, self._reopen),
        )

    def _valid(self, source: Any, pixels: Pixels, place: rasterio.windows.Window) -> Mask:
        nodata = self.scene.nodata
        if self.alpha_index is not None:
            return np.asarray(pixels[-1] > 0)
        if self.scene.validity == "mask" and not self.warped:
            return np.asarray(source.dataset_mask(window=place) > 0)
        if nodata is None or math.isnan(nodata):
            # Values that are not finite are dealt with for all files together.
            return np.ones(pixels.shape[1:], bool)
        valid: Mask = pixels[0] != nodata
        for band in pixels[1:]:
            valid |= band != nodata
        return valid
