"""Scenes: open and describe one readable raster source of one date, and read windows of it.

A scene is a single file (GeoTIFF/COG, VRT, JP2, …) or a set of single-band files. Nothing here knows of tiles
or networks. Reading happens on a pixel lattice anchored at the origin of a target CRS (see `Lattice`): a scene
whose own pixels lie on it is read as it is, any other is warped while being read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt
import pyproj
import rasterio
import rasterio.enums
import rasterio.errors
import rasterio.vrt
import rasterio.windows
import shapely
from affine import Affine

from .errors import SceneError
from .sensors import Role, Sensor

# A block cache of 128 MiB reads as fast as GDAL's default share of all memory. The environment variable counts
# megabytes (rasterio.Env counts bytes), and reaches every thread; a user's own setting is kept.
os.environ.setdefault("GDAL_CACHEMAX", "128")

Pixels = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

MAX_SHIFT_PX = 0.25
"""A scene is read unwarped if its pixels drift from the lattice by no more than this across its whole extent."""


@dataclass(frozen=True)
class SourceBand:
    """Where one band is stored: `path` as rasterio opens it, `index` from 1, `name` as the sensor calls it."""

    name: str
    path: str
    index: int


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


@dataclass(frozen=True)
class Scene:
    """One raster source of one date, described but not held open.

    `width`, `height`, `transform` and `block_shape` (height, width) are those of the finest band. `nodata` is the
    stored value that means no data (the file's own, or the sensor's habit), `validity` how the scene says where it
    has none. `value_offset` is added to stored numbers on reading (Sentinel-2 baselines 04.00 and newer).
    """

    name: str
    sensor: Sensor
    bands: tuple[SourceBand, ...]
    files: tuple[str, ...]
    crs: pyproj.CRS | None
    transform: Affine
    width: int
    height: int
    dtype: str
    nodata: float | None
    validity: Role
    block_shape: tuple[int, int]
    driver: str = ""
    date: str | None = None
    value_offset: float = 0.0
    alpha_index: int | None = None
    fake_alpha: bool = False
    notes: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def band_names(self) -> tuple[str, ...]:
        return tuple(band.name for band in self.bands)

    @property
    def rotated(self) -> bool:
        """Whether the geotransform is rotated or sheared."""
        return abs(self.transform.b) > 1e-9 * abs(self.transform.a) or abs(self.transform.d) > 1e-9 * abs(self.transform.e)

    @property
    def footprint(self) -> shapely.Polygon:
        """The scene's outline in its own CRS (a parallelogram where it is rotated)."""
        corners = ((0, 0), (self.width, 0), (self.width, self.height), (0, self.height))
        return shapely.Polygon([self.at(*corner) for corner in corners])

    def at(self, column: float, row: float) -> tuple[float, float]:
        """Map coordinates of a point in pixels from the upper left corner."""
        t = self.transform
        return t.a * column + t.b * row + t.c, t.d * column + t.e * row + t.f

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) in the scene's CRS."""
        left, bottom, right, top = self.footprint.bounds
        return left, bottom, right, top

    def require_georeference(self) -> pyproj.CRS:
        """The scene's CRS. Raises SceneError where it has none, or no geotransform."""
        if self.crs is None:
            raise SceneError(
                f"{self.files[0]} has no CRS; assign the one it is in, as in: gdal_edit.py -a_srs EPSG:26919 {self.files[0]}"
            )
        if self.transform == Affine.identity():
            raise SceneError(
                f"{self.files[0]} has no geotransform (its pixels have no place on the ground); "
                "georeference it in QGIS or with gdal_translate -a_ullr"
            )
        return self.crs

    def require_bands(self, wanted: Sequence[str]) -> None:
        """Raise SceneError unless every band in `wanted` is stored."""
        missing = [name for name in wanted if name not in self.band_names]
        if missing:
            raise SceneError(
                f"{self.files[0]} has too few bands: {', '.join(missing)} missing, found {', '.join(self.band_names) or 'none'} "
                f"as sensor {self.sensor.name!r}; name the right --sensor, or give the folder with all band files"
            )

    def outline_in(self, crs: pyproj.CRS) -> shapely.Polygon:
        """The scene's outline in another CRS, with edges followed at 21 points each."""
        own = self.require_georeference()
        outline = shapely.segmentize(self.footprint, max(self.footprint.length / 84, 1e-12))
        if own == crs:
            return outline
        move = pyproj.Transformer.from_crs(own, crs, always_xy=True)
        moved = shapely.transform(outline, lambda xy: np.column_stack(move.transform(xy[:, 0], xy[:, 1])))
        if not np.isfinite(shapely.get_coordinates(moved)).all():
            raise SceneError(f"{self.files[0]} lies outside the area where {crs.name!r} can be used; give another --crs")
        return moved

    def gsd_in(self, crs: pyproj.CRS) -> float:
        """Ground sampling distance in metres: the root of the central pixel's area, measured in `crs` (projected)."""
        own = self.require_georeference()
        x, y = self.width / 2, self.height / 2
        corners = np.array([self.at(*p) for p in ((x, y), (x + 1, y), (x + 1, y + 1), (x, y + 1))])
        if own != crs:
            move = pyproj.Transformer.from_crs(own, crs, always_xy=True)
            corners = np.column_stack(move.transform(corners[:, 0], corners[:, 1]))
        unit_m = float(crs.axis_info[0].unit_conversion_factor)
        return math.sqrt(shapely.Polygon(corners).area) * unit_m


def crs_of(dataset: rasterio.DatasetReader) -> pyproj.CRS | None:
    """The CRS of an open dataset as pyproj knows it, or None."""
    if not dataset.crs:
        return None
    try:
        return pyproj.CRS.from_user_input(dataset.crs)
    except pyproj.exceptions.CRSError:
        return None


def open_dataset(path: str) -> rasterio.DatasetReader:
    """Open `path` for reading. Raises SceneError for a missing file, or one that GDAL cannot read as a raster."""
    if "://" not in path and not path.startswith(("/vsi", "<VRT")):
        if not Path(path).exists():
            raise SceneError(f"no such file: {path}; check the path")
        if Path(path).is_file() and Path(path).stat().st_size == 0:
            raise SceneError(f"{path} is empty (0 bytes); fetch it again")
    try:
        return rasterio.open(path)
    except rasterio.errors.RasterioIOError as error:
        raise SceneError(
            f"{path} cannot be read as a raster; give a GeoTIFF, VRT or JP2 that is whole ({_last_line(error)})"
        ) from error


def open_scene(path: str | Path, sensor: Sensor) -> Scene:
    """Describe one file as a scene of `sensor`. Raises SceneError for what is no readable raster."""
    with open_dataset(str(path)) as dataset:
        if dataset.width < 1 or dataset.height < 1 or dataset.count < 1:
            raise SceneError(f"{path} has no pixels; give another file")
        stem = Path(str(path)).stem
        names, alpha, notes = _name_bands(dataset, sensor)
        files = [str(f) for f in dataset.files if not str(f).lower().endswith((".aux.xml", ".ovr", ".qml"))]
        return _describe(
            dataset,
            sensor,
            name=stem,
            bands=tuple(SourceBand(name, str(path), index) for name, index in names.items()),
            files=tuple(files) or (str(path),),
            alpha_index=alpha,
            notes=notes,
        )


def open_band_files(name: str, files: Mapping[str, str], sensor: Sensor, value_offset: float | None = None) -> Scene:
    """Describe single-band `files` (band name → path) as one scene. Raises SceneError where they do not fit together."""
    paths = list(files.values())
    finest = min(paths, key=_pixel_area)
    with open_dataset(finest) as dataset:
        scene = _describe(
            dataset,
            sensor,
            name=name,
            bands=tuple(SourceBand(band, files[band], 1) for band in sensor.band_names if band in files),
            files=tuple(paths),
            alpha_index=None,
            notes=(),
            value_offset=value_offset,
        )
    for path in paths:
        with open_dataset(path) as dataset:
            if crs_of(dataset) != scene.crs:
                raise SceneError(f"{path} is in another CRS than {finest}; band files of one scene must share theirs")
            if dataset.dtypes[0] != scene.dtype:
                raise SceneError(f"{path} holds {dataset.dtypes[0]}, {finest} {scene.dtype}; give files of one product")
    return scene


def _pixel_area(path: str) -> float:
    with open_dataset(path) as dataset:
        return float(abs(dataset.transform.determinant))


def _describe(
    dataset: rasterio.DatasetReader,
    sensor: Sensor,
    *,
    name: str,
    bands: tuple[SourceBand, ...],
    files: tuple[str, ...],
    alpha_index: int | None,
    notes: tuple[str, ...],
    value_offset: float | None = None,
) -> Scene:
    nodata = dataset.nodata
    flags = dataset.mask_flag_enums[0]
    fake_alpha = alpha_index is None and rasterio.enums.ColorInterp.alpha in dataset.colorinterp
    validity: Role = "none"
    if alpha_index is not None:
        validity = "alpha"
    elif rasterio.enums.MaskFlags.per_dataset in flags and not fake_alpha:
        validity = "mask"
    elif nodata is not None or sensor.nodata is not None:
        validity = "nodata value"
        nodata = sensor.nodata if nodata is None else nodata
    date = sensor.date_in_file_name(Path(files[0]).stem) or _date_in_tags(dataset.tags())
    if value_offset is None:
        value_offset, more = _offset_by_date(sensor, date)
        notes = (*notes, *more)
    return Scene(
        name=name,
        sensor=sensor,
        bands=bands,
        files=files,
        crs=crs_of(dataset),
        transform=dataset.transform,
        width=dataset.width,
        height=dataset.height,
        dtype=dataset.dtypes[bands[0].index - 1] if bands else dataset.dtypes[0],
        nodata=nodata,
        validity=validity,
        block_shape=dataset.block_shapes[0],
        driver=dataset.driver,
        date=date,
        value_offset=value_offset,
        alpha_index=alpha_index,
        fake_alpha=fake_alpha,
        notes=notes,
        tags=dataset.tags(),
    )


def _offset_by_date(sensor: Sensor, date: str | None) -> tuple[float, tuple[str, ...]]:
    """The offset of Sentinel-2 files without their metadata, told from the date.

    Processing baseline 04.00 (operational since 2022-01-25) stores reflectance × 10,000 + 1,000.
    """
    if sensor.name.startswith("sentinel2") and date is not None and date >= "2022-01-25":
        note = "no product metadata: the offset of −1000 of baseline 04.00 is assumed from the date"
        return -1000.0, (note,)
    return 0.0, ()


def _date_in_tags(tags: Mapping[str, str]) -> str | None:
    text = tags.get("TIFFTAG_DATETIME", "")
    digits = text[:10].replace(":", "-")
    return digits if len(digits) == 10 and digits.replace("-", "").isdigit() else None


def _name_bands(dataset: rasterio.DatasetReader, sensor: Sensor) -> tuple[dict[str, int], int | None, tuple[str, ...]]:
    """Band name → index, the index of a true alpha band, and notes for the doctor.

    Names come from the file's band descriptions, then from its colour tags, then from the sensor's order.
    """
    alphas = [i for i, tag in enumerate(dataset.colorinterp, start=1) if tag == rasterio.enums.ColorInterp.alpha]
    alpha = alphas[-1] if alphas else None
    notes: list[str] = []
    if alpha is not None and sensor.alpha_is is not None:
        notes.append(f"band {alpha} is tagged alpha but is {sensor.alpha_is} in {sensor.name} imagery; it is not used as a mask")
        alpha = None
    described = {sensor.band_for(text): i for i, text in enumerate(dataset.descriptions, start=1) if text}
    described.pop(None, None)
    if len(described) >= min(3, len(sensor.bands)):
        return {str(k): v for k, v in described.items()}, alpha, tuple(notes)
    data = [i for i in dataset.indexes if i != alpha]
    tagged = {
        str(sensor.band_for(tag.name)): i
        for i, tag in enumerate(dataset.colorinterp, start=1)
        if tag.name in ("red", "green", "blue") and sensor.band_for(tag.name)
    }
    by_order = dict(zip(sensor.band_names, data, strict=False))
    if len(tagged) == 3:
        rest = {name: i for name, i in by_order.items() if name not in tagged and i not in tagged.values()}
        return {name: {**tagged, **rest}[name] for name in sensor.band_names if name in {**tagged, **rest}}, alpha, tuple(notes)
    return by_order, alpha, tuple(notes)


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
                _FileReader(self._stack, scene, path, [index for _, index in items], [place for place, _ in items], lattice)
                for path, items in files.items()
            ]
        except BaseException:
            self.close()
            raise
        self.window = self._files[0].window
        for item in self._files[1:]:
            self.window = self.window.intersection(item.window)
        self.warped = any(item.vrt is not None for item in self._files)
        self.shift_px = max(item.shift_px for item in self._files)

    def read(self, window: LatticeWindow) -> tuple[Pixels, Mask]:
        """(pixels, valid) of `window`, which must lie inside `self.window`: (bands, height, width), (height, width).

        Pixels keep the stored type, with the scene's value offset added; what is not finite counts as no data.
        Raises SceneError, naming file and window, where the file cannot be read.
        """
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
        return pixels + pixels.dtype.type(offset)
    limits = np.iinfo(pixels.dtype)
    return np.clip(pixels.astype(np.int32) + int(offset), limits.min, limits.max).astype(pixels.dtype)


class _FileReader:
    """Some bands of one file on the lattice, as they are or through a warped view."""

    def __init__(
        self, stack: ExitStack, scene: Scene, path: str, indexes: list[int], places: list[int], lattice: Lattice
    ) -> None:
        self.scene, self.path, self.places = scene, path, places
        # `closing`, because a dataset's own context belongs to the thread that entered it, and another may close.
        self.dataset = stack.enter_context(closing(open_dataset(path)))
        self.vrt: rasterio.vrt.WarpedVRT | None = None
        self.indexes = indexes
        self.alpha_index = scene.alpha_index
        aligned = self._aligned_window(lattice)
        if aligned is not None:
            self.window, self.shift_px = aligned
        else:
            self.window, self.shift_px = self._warp(stack, lattice), 0.0

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

    def _warp(self, stack: ExitStack, lattice: Lattice) -> LatticeWindow:
        """Open a warped view whose pixels are lattice pixels; average where it shrinks, bilinear where it enlarges."""
        source = self.dataset
        if self.scene.fake_alpha:
            # GDAL's warper would take a band tagged alpha for a mask: show it the same bands without the tag.
            source = stack.enter_context(closing(open_dataset(_untagged_vrt(source, self.path))))
        left, bottom, right, top = self.scene.outline_in(lattice.crs).bounds
        column, line = math.floor(left / lattice.res), math.floor(-top / lattice.res)
        width = max(1, math.ceil(right / lattice.res) - column)
        height = max(1, math.ceil(-bottom / lattice.res) - line)
        unit_m = float(lattice.crs.axis_info[0].unit_conversion_factor)
        shrinking = self.scene.gsd_in(lattice.crs) < 0.75 * lattice.res * unit_m
        options: dict[str, Any] = {}
        by_value = self.scene.validity == "nodata value" or self.scene.dtype.startswith("float")
        if by_value:
            nodata = math.nan if self.scene.nodata is None else self.scene.nodata
            options = {"src_nodata": nodata, "nodata": nodata, "UNIFIED_SRC_NODATA": "YES"}
        elif self.alpha_index is None:
            options = {"add_alpha": True}
            self.alpha_index = source.count + 1
        self.vrt = rasterio.vrt.WarpedVRT(
            source,
            crs=rasterio.crs.CRS.from_user_input(lattice.crs),
            transform=lattice.transform(column, line),
            width=width,
            height=height,
            resampling=rasterio.enums.Resampling.average if shrinking else rasterio.enums.Resampling.bilinear,
            **options,
        )
        stack.callback(self.vrt.close)
        return LatticeWindow(column, line, width, height)

    def read(self, window: LatticeWindow) -> tuple[Pixels, Mask]:
        rows, columns = window.slices_in(self.window)
        place = rasterio.windows.Window(columns.start, rows.start, window.width, window.height)
        source = self.dataset if self.vrt is None else self.vrt
        try:
            pixels = source.read(self.indexes, window=place)
            return pixels, self._valid(source, pixels, place)
        except (rasterio.errors.RasterioError, OSError) as error:
            cause = error.__cause__ or error
            raise SceneError(
                f"{self.path} cannot be read at window (column {columns.start}, row {rows.start}, "
                f"{window.width} x {window.height}): {_last_line(cause)}; the file is truncated or damaged, fetch it again"
            ) from error

    def _valid(self, source: Any, pixels: Pixels, place: rasterio.windows.Window) -> Mask:
        nodata = self.scene.nodata
        if self.alpha_index is not None:
            valid: Mask = source.read(self.alpha_index, window=place) > 0
            return valid
        if self.scene.validity == "mask" and self.vrt is None:
            valid = source.dataset_mask(window=place) > 0
            return valid
        if nodata is None or math.isnan(nodata):
            # Values that are not finite are dealt with for all files together.
            return np.ones(pixels.shape[1:], bool)
        valid = pixels[0] != nodata
        for band in pixels[1:]:
            valid |= band != nodata
        return valid


def _untagged_vrt(dataset: rasterio.DatasetReader, path: str) -> str:
    """A GDAL VRT of the same bands without colour tags."""
    crs = escape(dataset.crs.to_wkt())
    gt = ", ".join(repr(float(v)) for v in dataset.transform.to_gdal())
    name = {"uint8": "Byte", "uint16": "UInt16", "int16": "Int16", "float32": "Float32"}.get(dataset.dtypes[0], "Float64")
    source = escape(str(path if "://" in path or path.startswith("/vsi") else Path(path).resolve()))
    bands = "".join(
        f'<VRTRasterBand dataType="{name}" band="{i}"><SimpleSource><SourceFilename relativeToVRT="0">{source}'
        f"</SourceFilename><SourceBand>{i}</SourceBand></SimpleSource></VRTRasterBand>"
        for i in dataset.indexes
    )
    return (
        f'<VRTDataset rasterXSize="{dataset.width}" rasterYSize="{dataset.height}"><SRS>{crs}</SRS>'
        f"<GeoTransform>{gt}</GeoTransform>{bands}</VRTDataset>"
    )


def _last_line(error: BaseException) -> str:
    return " ".join(str(error).split())[-160:] or type(error).__name__
