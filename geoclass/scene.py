"""Scenes: open and describe one readable raster source of one date.

A scene is a single file (GeoTIFF/COG, VRT, JP2, …) or a set of single-band files. Nothing here knows of tiles
or networks; `reader` reads its pixels.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyproj
import rasterio
import rasterio.enums
import rasterio.errors
import rasterio.vrt
import rasterio.windows
import shapely
from affine import Affine

from .errors import SceneError
from .files import Stamp, stamp
from .gdal import set_options
from .remote.names import is_remote, over_network, shown, stem
from .remote.opening import open_remote
from .sensors import Role, Sensor, offset_by_date

set_options()


@dataclass(frozen=True)
class SourceBand:
    """Where one band is stored: `path` as rasterio opens it, `index` from 1, `name` as the sensor calls it."""

    name: str
    path: str
    index: int


@dataclass(frozen=True)
class Quality:
    """A file of a code a pixel, of any pixel size; ground with one of the codes `dropped` counts as without data."""

    path: str
    dropped: tuple[int, ...]


@dataclass(frozen=True)
class Scene:
    """One raster source of one date, described but not held open.

    `width`, `height`, `transform` and `block_shape` (height, width) are those of the finest band. `nodata` is the
    stored value that means no data (the file's own, or the sensor's habit), `validity` how the scene says where it
    has none. `value_offset` is added to stored numbers on reading (Sentinel-2 baselines 04.00 and newer). `files` are
    names to be shown: of a URL without what only its server may know. `listed_in` is the STAC item or list that names the
    scene, `opening` tells this opening of a remote file from others. `stamps` tell whether a local file changed after the
    scene was opened; one without is compared with what it is when it is read.
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
    stamps: Mapping[str, Stamp] = field(default_factory=dict, compare=False, repr=False)
    quality: Quality | None = None
    listed_in: str | None = None
    opening: str = field(default_factory=lambda: secrets.token_hex(8), compare=False, repr=False)

    @property
    def band_names(self) -> tuple[str, ...]:
        return tuple(band.name for band in self.bands)

    @property
    def rotated(self) -> bool:
        """Whether the geotransform is rotated or sheared."""
        return abs(self.transform.b) > 1e-9 * abs(self.transform.a) or abs(self.transform.d) > 1e-9 * abs(
            self.transform.e
        )

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
                f"{self.files[0]} has no CRS; assign the one it is in, as in: gdal_edit.py -a_srs EPSG:26919 {self.files[0]} "
                "(ground control points only: warp it with gdalwarp)"
            )
        if not (self.crs.is_projected or self.crs.is_geographic):
            raise SceneError(
                f"{self.files[0]} is in {self.crs.name!r}, which has no known place on a map; assign the CRS it is really in, "
                f"as in: gdal_edit.py -a_srs EPSG:26919 {self.files[0]}"
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
        if missing and self.listed_in is not None:
            raise SceneError(
                f"item {self.name} of {shown(self.listed_in)} has no asset for {', '.join(missing)} as sensor {self.sensor.name!r}, "
                f"only for {', '.join(self.band_names) or 'none'}; name the right --sensor, or fetch another collection"
            )
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
            raise SceneError(
                f"{self.files[0]} lies outside the area where {crs.name!r} can be used; give another --crs"
            )
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
        crs = pyproj.CRS.from_user_input(dataset.crs)
    except pyproj.exceptions.CRSError:
        return None
    # Heights have no part in where a tile lies: the same ground must get the same ids with and without them.
    return crs.sub_crs_list[0] if crs.is_compound else crs


def open_dataset(path: str, overview_level: int | None = None) -> rasterio.DatasetReader:
    """Open `path`, or one of its overviews (from 0, of local files), for reading. Raises SceneError for a missing file, or
    one that GDAL cannot read as a raster."""
    if over_network(path):
        return open_remote(path)
    if "://" not in path and not path.startswith(("/vsi", "<VRT")):
        if not Path(path).exists():
            raise SceneError(f"no such file: {path}; check the path")
        if Path(path).is_file() and Path(path).stat().st_size == 0:
            raise SceneError(f"{path} is empty (0 bytes); fetch it again")
    try:
        return rasterio.open(path) if overview_level is None else rasterio.open(path, overview_level=overview_level)
    except rasterio.errors.RasterioIOError as error:
        raise SceneError(
            f"{path} cannot be read as a raster; give a GeoTIFF, VRT or JP2 that is whole ({last_line(error)})"
        ) from error


def open_scene(path: str | Path, sensor: Sensor) -> Scene:
    """Describe one file as a scene of `sensor`. Raises SceneError for what is no readable raster."""
    with open_dataset(str(path)) as dataset:
        if dataset.width < 1 or dataset.height < 1 or dataset.count < 1:
            raise SceneError(f"{shown(str(path))} has no pixels; give another file")
        names, alpha, notes = name_bands(dataset, sensor)
        files = [shown(str(f)) for f in dataset.files if not str(f).lower().endswith((".aux.xml", ".ovr", ".qml"))]
        return describe_open(
            dataset,
            sensor,
            name=stem(str(path)) if is_remote(str(path)) else Path(path).stem,
            bands=tuple(SourceBand(name, str(path), index) for name, index in names.items()),
            files=(shown(str(path)),) if over_network(str(path)) or not files else tuple(files),
            alpha_index=alpha,
            notes=notes,
        )


def open_band_files(name: str, files: Mapping[str, str], sensor: Sensor, value_offset: float | None = None) -> Scene:
    """Describe single-band `files` (band name → path) as one scene. Raises SceneError where they do not fit together."""
    paths = list(files.values())
    finest = min(paths, key=_pixel_area)
    with open_dataset(finest) as dataset:
        scene = describe_open(
            dataset,
            sensor,
            name=name,
            bands=tuple(SourceBand(band, files[band], 1) for band in sensor.band_names if band in files),
            files=tuple(shown(path) for path in paths),
            alpha_index=None,
            notes=(),
            value_offset=value_offset,
        )
    for path in paths:
        with open_dataset(path) as dataset:
            if crs_of(dataset) != scene.crs:
                raise SceneError(
                    f"{shown(path)} is in another CRS than {shown(finest)}; band files of one scene must share theirs"
                )
            if dataset.dtypes[0] != scene.dtype:
                raise SceneError(
                    f"{shown(path)} holds {dataset.dtypes[0]}, {shown(finest)} {scene.dtype}; give files of one product"
                )
    return scene


def _pixel_area(path: str) -> float:
    with open_dataset(path) as dataset:
        return float(abs(dataset.transform.determinant))


def describe_open(
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
    """The scene that an open dataset is part of: its lattice, type and no-data habits, with `bands` as they were found.

    Without `value_offset` it is told from the date in the first file's name.
    """
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
        value_offset, more = offset_by_date(sensor, date)
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
        stamps={file: found for file in files if (found := stamp(file)) is not None},
    )


def _date_in_tags(tags: Mapping[str, str]) -> str | None:
    text = tags.get("TIFFTAG_DATETIME", "")
    digits = text[:10].replace(":", "-")
    return digits if len(digits) == 10 and digits.replace("-", "").isdigit() else None


def name_bands(dataset: rasterio.DatasetReader, sensor: Sensor) -> tuple[dict[str, int], int | None, tuple[str, ...]]:
    """Band name → index, the index of a true alpha band, and notes for the doctor.

    Names come from the file's band descriptions, then from its colour tags, then from the sensor's order.
    """
    alphas = [i for i, tag in enumerate(dataset.colorinterp, start=1) if tag == rasterio.enums.ColorInterp.alpha]
    alpha = alphas[-1] if alphas else None
    notes: list[str] = []
    if alpha is not None and sensor.alpha_is is not None:
        notes.append(
            f"band {alpha} is tagged alpha but is {sensor.alpha_is} in {sensor.name} imagery; it is not used as a mask"
        )
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
        return (
            {name: {**tagged, **rest}[name] for name in sensor.band_names if name in {**tagged, **rest}},
            alpha,
            tuple(notes),
        )
    return by_order, alpha, tuple(notes)


def last_line(error: BaseException) -> str:
    """The end of an error's text on one line."""
    return " ".join(str(error).split())[-160:] or type(error).__name__
