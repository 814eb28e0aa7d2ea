"""Read windows of a scene on a pixel lattice anchored at the origin of a target CRS.

A scene whose own pixels lie on the lattice is read as it is, any other is warped while being read.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import rasterio.enums

from .errors import SceneError
from .filereader import FileReader
from .files import stamp
from .lattice import Lattice, LatticeWindow, Mask, Pixels
from .remote.names import over_network
from .remotereader import RemoteReader
from .scene import Scene
from .sharing import Desk

__all__ = ["Lattice", "LatticeWindow", "Mask", "Pixels", "SceneReader"]


class SceneReader:
    """Open handles on one scene, for one thread: reads windows of a lattice. A context manager.

    `bands` are band names in the order wanted. `shift_px` is how far the pixels were moved, at most half a pixel,
    where the scene is read unwarped; `warped` says whether it is resampled. `layers` is how many layers `read_into` fills:
    the bands, and after them an alpha band where the scene has one. `desk` is where the readers of a run share what they
    decode.
    """

    def __init__(self, scene: Scene, bands: Sequence[str], lattice: Lattice, desk: Desk | None = None) -> None:
        scene.require_georeference()
        scene.require_bands(bands)
        self.scene = scene
        self.lattice = lattice
        self.bands = tuple(bands)
        self._stack = ExitStack()
        self._stamps = {name: found for name in scene.files if (found := scene.stamps.get(name) or stamp(name))}
        by_name = {band.name: band for band in scene.bands}
        files: dict[str, list[tuple[int, int]]] = {}
        for position, name in enumerate(bands):
            files.setdefault(by_name[name].path, []).append((position, by_name[name].index))
        self._files: list[FileReader | RemoteReader] = []
        self._places: list[list[int]] = []
        try:
            for path, items in files.items():
                indexes = [index for _, index in items]
                self._files.append(self._reader(path, indexes, desk))
                self._places.append([place for place, _ in items])
            nearest = rasterio.enums.Resampling.nearest
            self._quality = self._reader(scene.quality.path, [1], None, nearest) if scene.quality else None
        except BaseException:
            self.close()
            raise
        self.window = self._files[0].window
        for item in (*self._files[1:], *([self._quality] if self._quality else [])):
            self.window = self.window.intersection(item.window)
        self.warped = any(item.warped for item in self._files)
        self.shift_px = max(item.shift_px for item in self._files)
        self.layers = self._files[0].layers if len(self._files) == 1 else len(self.bands)

    def _reader(
        self, path: str, indexes: list[int], desk: Desk | None, resampling: rasterio.enums.Resampling | None = None
    ) -> FileReader | RemoteReader:
        if over_network(path):
            return RemoteReader(self._stack, self.scene, path, indexes, self.lattice, resampling)
        return FileReader(self._stack, self.scene, path, indexes, self.lattice, desk, resampling)

    def read(self, window: LatticeWindow) -> tuple[Pixels, Mask | None]:
        """(pixels, valid) of `window`, see `read_into`: (bands, height, width), (height, width)."""
        pixels = np.empty((self.layers, window.height, window.width), self.scene.dtype)
        valid = self.read_into(window, pixels)
        return pixels[: len(self.bands)], valid

    def read_into(self, window: LatticeWindow, out: Pixels) -> Mask | None:
        """Fill `out` (`layers`, height, width) with `window`, which must lie inside `self.window`.

        Pixels keep the stored type, with the scene's value offset added; what is not finite counts as no data. Returns
        which pixels have data, None where all have; those without may hold anything. Raises SceneError, naming file and
        window, where the file cannot be read, and where it changed while it was read.
        """
        try:
            clear = self._clear(window)
            if clear is not None and not clear.any():
                out[...] = 0
                return clear
            valid = self._files[0].read(window, out) if len(self._files) == 1 else self._read_files(window, out)
        finally:
            self.require_unchanged()
        if clear is not None:
            valid = clear if valid is None else valid & clear
        pixels = out[: len(self.bands)]
        if pixels.dtype.kind == "f":
            finite: Mask = np.asarray(np.isfinite(pixels).all(axis=0))
            if not finite.all():
                valid = finite if valid is None else valid & finite
                np.copyto(pixels, 0, where=~finite)
        if self.scene.value_offset:
            _shift(pixels, self.scene.value_offset)
        return valid

    def _clear(self, window: LatticeWindow) -> Mask | None:
        """Where the quality file finds nothing to drop, None where that is everywhere, or the scene has no such file."""
        if self._quality is None or self.scene.quality is None:
            return None
        codes = np.zeros((self._quality.layers, window.height, window.width), self.scene.dtype)
        self._quality.read(window, codes)
        dropped: Mask = np.isin(codes[0], self.scene.quality.dropped)
        return ~dropped if dropped.any() else None

    def _read_files(self, window: LatticeWindow, out: Pixels) -> Mask | None:
        """Each band from its own file. Without data only where every file is: a dark pixel may be 0 in one band alone."""
        masks: list[Mask | None] = []
        for item, places in zip(self._files, self._places, strict=True):
            if item.layers == 1:
                found = item.read(window, out[places[0] : places[0] + 1])
            else:
                part = np.empty((item.layers, *out.shape[1:]), out.dtype)
                found = item.read(window, part)
                out[places] = part[: len(places)]
            masks.append(found)
        if any(mask is None for mask in masks):
            return None
        valid: Mask = np.logical_or.reduce([mask for mask in masks if mask is not None])
        return valid

    def require_unchanged(self) -> None:
        """Raise SceneError where a local file is not what it was when the scene was opened: two maps would mix."""
        for name, before in self._stamps.items():
            now = stamp(name)
            if now != before:
                what = "is gone" if now is None else "has changed"
                raise SceneError(
                    f"{name} {what} since it was opened; put back what it was and repeat the command, or begin anew "
                    "with --overwrite"
                )

    def close(self) -> None:
        """Close every handle."""
        self._stack.close()

    def __enter__(self) -> SceneReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _shift(pixels: Pixels, offset: float) -> None:
    """Add `offset` in place, within what the type can hold."""
    if pixels.dtype.kind == "f":
        pixels += pixels.dtype.type(offset)
        return
    limits, whole = np.iinfo(pixels.dtype), int(offset)
    if abs(whole) > limits.max:
        pixels[...] = np.clip(pixels.astype(np.int64) + whole, limits.min, limits.max)
    elif whole < 0:
        np.maximum(pixels, limits.min - whole, out=pixels)
        pixels -= pixels.dtype.type(-whole)
    else:
        np.minimum(pixels, limits.max - whole, out=pixels)
        pixels += pixels.dtype.type(whole)
