"""Some bands of a file over a network on a lattice: its blocks are fetched once for all threads, and again where that fails."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import rasterio
import rasterio.enums
import rasterio.vrt
import rasterio.windows

from .filereader import aligned_window, differs, opened, shrink_to, warped_view, warping
from .lattice import Lattice, LatticeWindow, Mask, Pixels
from .remote.held import held, read_shared
from .remote.opening import after_failure, environment, opened_name, read_again
from .remote.virtual import source_window, standing_in
from .scene import Scene

WARPING = threading.BoundedSemaphore(3)
"""Windows of remote files that are warped at once, of all threads: each holds its source's pixels twice."""


class RemoteReader:
    """As `filereader.FileReader`, for a file over a network; an alpha band is no layer of its own."""

    def __init__(
        self,
        stack: ExitStack,
        scene: Scene,
        path: str,
        indexes: Sequence[int],
        lattice: Lattice,
        resampling: rasterio.enums.Resampling | None = None,
    ) -> None:
        self.scene, self.path, self._indexes = scene, path, list(indexes)
        self.lattice, self._resampling = lattice, resampling
        self.layers = len(self._indexes)
        self._stack = stack.enter_context(ExitStack())
        self._open()
        if self._held:
            held.keep_while(scene, scene.opening)

    def _open(self) -> None:
        self._name = opened_name(self.path)
        self._dataset = opened(self._stack, self.path)
        self._alpha = self.scene.alpha_index
        self._vrt: rasterio.vrt.WarpedVRT | None = None
        self._warping: dict[str, Any] = {}
        aligned = aligned_window(self._dataset, self.lattice)
        self.warped = aligned is None
        # Blocks of remote files are shared by all threads; but a mask beside the bands goes through the warper's hands.
        self._held = not (self.warped and self.scene.validity == "mask")
        if aligned is not None:
            self.window, self.shift_px = aligned
            return
        shrink = shrink_to(self.lattice, self.scene)
        self.window, self._warping = warping(self.scene, self.lattice, shrink, self._resampling)
        self.shift_px = 0.0
        if self._warping.get("add_alpha"):
            self._alpha = self._dataset.count + 1
        if not self._held:
            self._vrt = warped_view(self._stack, self.scene, self._dataset, self._name, self._warping)

    def _reopen(self) -> None:
        self._stack.close()
        self._open()

    def read(self, window: LatticeWindow, out: Pixels) -> Mask | None:
        """Fill `out` (layers, height, width) with `window`, which lies within `self.window`.

        Returns which pixels have data, None where all have. Raises SceneError, naming URL and window, where the server
        does not give them, however often it is asked.
        """
        rows, columns = window.slices_in(self.window)
        place = rasterio.windows.Window(columns.start, rows.start, window.width, window.height)
        where = f" at window (column {columns.start}, row {rows.start}, {window.width} x {window.height})"
        if opened_name(self.path) != self._name:  # its signature has run out
            self._reopen()
        if not self._held:
            pixels, valid = read_again(self.path, where, lambda: self._read(place), self._reopen)
        else:
            with environment():
                pixels, valid = self._read_held(place, where)
        out[...] = pixels
        return valid

    @property
    def _with_alpha(self) -> list[int]:
        """The bands, and the mask with them where it is one: they are mostly stored together."""
        return self._indexes if self._alpha is None else [*self._indexes, self._alpha]

    def _read(self, place: rasterio.windows.Window) -> tuple[Pixels, Mask | None]:
        source = self._dataset if self._vrt is None else self._vrt
        pixels = source.read(self._with_alpha, window=place)
        return pixels[: self.layers], self._valid(pixels, place)

    def _read_held(self, place: rasterio.windows.Window, where: str) -> tuple[Pixels, Mask | None]:
        """The same from blocks that all threads share."""
        if self.warped:
            with WARPING:
                return self._read_warped(place, where)
        pixels = self._shared(self._with_alpha, place, where)
        if self.scene.validity != "mask":
            return pixels[: self.layers], self._valid(pixels, place)
        valid = read_again(self.path, where, lambda: self._valid(pixels, place), self._reopen)
        return pixels[: self.layers], valid

    def _read_warped(self, place: rasterio.windows.Window, where: str) -> tuple[Pixels, Mask | None]:
        own, transform = self.scene.require_georeference(), self._warping["transform"]
        window = source_window(self._dataset, self.lattice.crs, own, transform, place)
        pixels = self._shared(list(self._dataset.indexes), window, where)
        with (
            standing_in(self._dataset, window, pixels, tagged=not self.scene.fake_alpha) as source,
            rasterio.vrt.WarpedVRT(source, **self._warping) as vrt,
        ):
            warped = vrt.read(self._with_alpha, window=place)
            return warped[: self.layers], self._valid(warped, place)

    def _shared(self, indexes: list[int], window: rasterio.windows.Window, where: str) -> Pixels:
        """Pixels of the file as they are stored."""
        return read_shared(
            self._dataset,
            (self.scene.opening, self.path),
            indexes,
            window,
            lambda wanted: self._dataset.read(indexes, window=wanted),
            lambda failures, error: after_failure(self.path, where, failures, error, self._reopen),
        )

    def _valid(self, pixels: Pixels, place: rasterio.windows.Window) -> Mask | None:
        if self._alpha is not None:
            valid: Mask = np.asarray(pixels[-1] > 0)
        elif self.scene.validity == "mask" and not self.warped:
            valid = np.asarray(self._dataset.dataset_mask(window=place) > 0)
        else:
            return differs(pixels, self.scene.nodata)
        return None if valid.all() else valid
