"""Mosaics: several scenes of one date read as one, on the pixel lattice of a grid."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import pyproj
import shapely

from .errors import SceneError
from .files import fingerprints
from .grid import TileGrid, crs_text, needs_utm, nominal_gsd_m, utm_crs
from .inputs import find_scenes
from .lattice import Lattice, LatticeWindow, Mask, Pixels, where_true
from .reader import SceneReader
from .remote.names import over_network, shown, unsigned
from .scene import Scene
from .sensors import Sensor
from .sharing import SharedBlocks

if TYPE_CHECKING:
    from types import TracebackType

DEGREE_TOLERANCE = 0.2
"""A scene in degrees whose pixels measure within 20 % of a common GSD is taken to have it: its pixels are seldom
square on the ground, and the same imagery must still get the same tiles."""

METRE_TOLERANCE = 0.005


@dataclass(frozen=True)
class Mosaic:
    """One or more scenes of one date, of one sensor and data type."""

    scenes: tuple[Scene, ...]

    def __post_init__(self) -> None:
        if not self.scenes:
            raise SceneError("no scene given; name one or more rasters")
        first = self.scenes[0]
        for scene in self.scenes[1:]:
            if scene.dtype != first.dtype:
                raise SceneError(
                    f"{scene.files[0]} holds {scene.dtype}, {first.files[0]} {first.dtype}; a mosaic's scenes must share "
                    "one data type: classify them one by one"
                )
            if scene.sensor.name != first.sensor.name:
                raise SceneError(
                    f"{scene.files[0]} is {scene.sensor.name}, {first.files[0]} {first.sensor.name}; "
                    "classify the sensors one by one"
                )

    @property
    def name(self) -> str:
        """The first scene's name; every output is called by it unless the user says otherwise."""
        return self.scenes[0].name

    @property
    def sensor(self) -> Sensor:
        return self.scenes[0].sensor

    @property
    def dtype(self) -> str:
        return self.scenes[0].dtype

    @property
    def display_bands(self) -> tuple[str, ...]:
        """Red, green and blue where the scenes have them, else their first bands, at most three."""
        names = self.scenes[0].band_names
        rgb = ("red", "green", "blue")
        return rgb if set(rgb) <= set(names) else names[:3]

    @property
    def date(self) -> str | None:
        """The latest date of the scenes, or None where none says."""
        return max((scene.date for scene in self.scenes if scene.date), default=None)

    @property
    def files(self) -> list[str]:
        """Every file that is read, once, in order."""
        return list(dict.fromkeys(name for scene in self.scenes for name in scene.files))

    @property
    def named_by(self) -> list[str]:
        """What opens the same scenes again, once, in order: the list of a STAC item, else a scene's files."""
        listed = [[shown(scene.listed_in)] if scene.listed_in else scene.files for scene in self.scenes]
        return list(dict.fromkeys(name for names in listed for name in names))

    @property
    def remote(self) -> bool:
        """Whether any file is read over a network."""
        return any(over_network(name) for name in self.files)

    def default_crs(self) -> pyproj.CRS:
        """The CRS of the most ground (ties go to the name that sorts first), or its UTM zone where needed."""
        areas: dict[str, float] = {}
        by_text: dict[str, pyproj.CRS] = {}
        for scene in self.scenes:
            own = scene.require_georeference()
            crs = utm_crs(*scene_centre(scene)) if needs_utm(own) else own
            text = crs_text(crs)
            by_text[text] = crs
            areas[text] = areas.get(text, 0.0) + scene.outline_in(crs).area
        return by_text[min(areas, key=lambda text: (-round(areas[text], 3), text))]

    def default_gsd_m(self, crs: pyproj.CRS) -> float:
        """The finest GSD of the scenes, preferring those already in `crs`; common values are taken as meant."""
        native = [scene for scene in self.scenes if scene.crs == crs]
        measured = min(scene.gsd_in(crs) for scene in native or self.scenes)
        nominal = nominal_gsd_m(measured, METRE_TOLERANCE if native else DEGREE_TOLERANCE)
        if native and abs(nominal / measured - 1) > METRE_TOLERANCE:
            return float(f"{measured:.6g}")
        return nominal

    def default_grid(self, size_px: int = 224, gsd_m: float | None = None, crs: pyproj.CRS | None = None) -> TileGrid:
        """The permanent grid that suits the scenes, where `gsd_m` or `crs` do not say otherwise."""
        crs = crs if crs is not None else self.default_crs()
        probe = TileGrid(crs, size_px, 1.0 if gsd_m is None else gsd_m)
        return probe if gsd_m is not None else TileGrid(crs, size_px, self.default_gsd_m(crs))

    def outline_in(self, crs: pyproj.CRS) -> shapely.Geometry:
        """The ground that the scenes cover, in `crs`."""
        return shapely.union_all([scene.outline_in(crs) for scene in self.scenes])

    def fingerprints(self) -> dict[str, str]:
        """A digest of every local file's content, or the description of what is not a local file."""
        lists = {shown(scene.listed_in) for scene in self.scenes if scene.listed_in}
        there = [name for name in (*sorted(lists), *self.files) if Path(name).is_file()]
        found = dict(zip(there, fingerprints([Path(name) for name in there]), strict=True))
        for name in self.files:
            if name not in found:
                scene = next(scene for scene in self.scenes if name in scene.files)
                found[name] = (
                    f"{scene.width}x{scene.height} {scene.dtype} {tuple(scene.transform)[:6]}{self._asked(name)}"
                )
        return found

    def _asked(self, name: str) -> str:
        """A digest of what is asked for in the queries of the addresses shown as `name`, signatures apart."""
        paths = {band.path for scene in self.scenes for band in scene.bands}
        paths |= {scene.quality.path for scene in self.scenes if scene.quality is not None}
        queries = {urlsplit(unsigned(path)).query for path in paths if shown(path) == name} - {""}
        return f" {hashlib.blake2b(repr(sorted(queries)).encode(), digest_size=6).hexdigest()}" if queries else ""

    def reader(self, grid: TileGrid, bands: Sequence[str], shared: SharedBlocks | None = None) -> MosaicReader:
        """Open handles for one thread; use as a context manager. shared: what the readers of one run decode together."""
        return MosaicReader(self, grid, bands, shared)


def scene_centre(scene: Scene) -> tuple[float, float]:
    """(longitude, latitude) of a scene's centre in degrees."""
    crs = scene.require_georeference()
    x, y = scene.at(scene.width / 2, scene.height / 2)
    longitude, latitude = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    return float(longitude), float(latitude)


def open_mosaic(
    inputs: str | Path | Sequence[str | Path], sensor: Sensor | None = None, default: Sensor | None = None
) -> Mosaic:
    """The mosaic of all scenes that `inputs`, one or several, name (see `inputs.find_scenes`). Raises SceneError."""
    named = [inputs] if isinstance(inputs, str | Path) else inputs
    return Mosaic(tuple(find_scenes(named, sensor, default)))


class MosaicReader:
    """One thread's open handles on a mosaic, on a grid's pixel lattice. A context manager.

    Scenes whose pixels lie on the lattice come first, then the warped ones, each kind in the mosaic's order; a pixel
    is taken from the first scene that has data there, and the others are not read for it. `shared` is what the readers of
    a run decode together.
    """

    def __init__(
        self, mosaic: Mosaic, grid: TileGrid, bands: Sequence[str], shared: SharedBlocks | None = None
    ) -> None:
        self._stack = ExitStack()
        lattice = Lattice(grid.crs, grid.res)
        self._desk = shared.desk() if shared is not None else None
        try:
            readers = [
                self._stack.enter_context(SceneReader(scene, bands, lattice, self._desk)) for scene in mosaic.scenes
            ]
        except BaseException:
            self._stack.close()
            raise
        self._readers = sorted(readers, key=lambda reader: reader.warped)
        self._layers = max(reader.layers for reader in readers)
        self._dtype = np.dtype(mosaic.dtype)
        self.bands = tuple(bands)
        self.warped = sum(reader.warped for reader in readers)
        self.shift_px = max(reader.shift_px for reader in readers)

    def read(self, window: LatticeWindow) -> tuple[Pixels, Mask]:
        """(pixels, valid) of a window: (bands, height, width) in the stored type, (height, width). No data is 0."""
        pixels, valid = self.read_masked(window)
        return pixels, np.ones(pixels.shape[1:], bool) if valid is None else valid

    def read_masked(self, window: LatticeWindow) -> tuple[Pixels, Mask | None]:
        """As `read`, but `valid` is None where every pixel has data."""
        done = False
        if self._desk is not None:
            self._desk.begin(window)
        try:
            found = self._read(window)
            done = True
        finally:
            if self._desk is not None:
                self._desk.end(done)
        return found

    def _read(self, window: LatticeWindow) -> tuple[Pixels, Mask | None]:
        # One layer more than bands where a scene has an alpha band, which is decoded together with the others.
        # Not zeroed as a whole: filling fresh memory costs as much as reading a file without compression.
        canvas = np.empty((self._layers, window.height, window.width), self._dtype)
        pixels = canvas[: len(self.bands)]
        valid: Mask | None = None
        for reader in self._readers:
            shared = window.intersection(reader.window)
            if shared.empty:
                continue
            if valid is None:
                mask = reader.read_into(shared, _part(canvas, shared, window)[: reader.layers])
                if mask is None and shared == window:
                    return pixels, None
                valid = _begun(pixels, mask, shared.slices_in(window))
            else:
                self._fill_in(reader, pixels, valid, shared, window)
        if valid is None:
            pixels[...] = 0
            valid = np.zeros((window.height, window.width), bool)
        return pixels, valid

    def _fill_in(
        self, reader: SceneReader, pixels: Pixels, valid: Mask, shared: LatticeWindow, window: LatticeWindow
    ) -> None:
        """Take from one more scene what those before it had no data for."""
        shared = where_true(~valid[shared.slices_in(window)], shared)
        if shared.empty:
            return
        rows, columns = shared.slices_in(window)
        part, mask = reader.read(shared)
        missing = ~valid[rows, columns]
        take = missing if mask is None else mask & missing
        if take.all():
            pixels[:, rows, columns] = part
        else:
            np.copyto(pixels[:, rows, columns], part, where=take)
        valid[rows, columns] |= take

    def close(self) -> None:
        """Close every handle."""
        self._stack.close()

    def __enter__(self) -> MosaicReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _part(canvas: Pixels, part: LatticeWindow, window: LatticeWindow) -> Pixels:
    rows, columns = part.slices_in(window)
    return canvas[:, rows, columns]


def _begun(pixels: Pixels, mask: Mask | None, place: tuple[slice, slice]) -> Mask:
    """Where there are data once the first scene has filled `place`, with data where `mask` says so (None: everywhere). Makes 0
    what lies around it and where it has none."""
    rows, columns = place
    valid = np.ones(pixels.shape[1:], bool)
    for side in (
        np.s_[: rows.start],
        np.s_[rows.stop :],
        np.s_[rows, : columns.start],
        np.s_[rows, columns.stop :],
    ):
        valid[side] = False
        for band in pixels:
            band[side] = 0
    if mask is not None:
        valid[rows, columns] = mask
        inside = pixels[:, rows, columns]
        if mask.any():
            np.copyto(inside, 0, where=~mask)
        else:
            inside[...] = 0
    return valid
