"""Which files of an item hold which bands of a sensor, and how their numbers differ from the sensor's rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..errors import SceneError
from ..remote.names import PLANETARY_COMPUTER, shown
from ..sensors import Sensor, offset_by_date
from .documents import Asset, BandInfo, Item
from .signing import is_signed_by_service

NOT_DATA = {"thumbnail", "overview", "metadata", "visual", "date", "saturation", "cloud", "cloud-shadow", "snow-ice"}
RASTER_TYPES = ("image/tiff", "image/vnd.stac.geotiff", "image/jp2", "image/x.geotiff")
RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt")
BASELINE_WITH_OFFSET = 4.0
SCALE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class BandFile:
    """One band of a scene in an asset: `path` as it is opened, `index` from 1, what the item says of it."""

    name: str
    key: str
    path: str
    index: int
    info: BandInfo


def band_files(item: Item, sensor: Sensor) -> dict[str, BandFile]:
    """Band name → where it is, for the bands of `sensor` that the item has, in the sensor's order.

    A band that several assets hold is taken from the one whose key names it, else from the one with the fewest bands; a
    GeoTIFF goes before a JPEG 2000.
    """
    found: dict[str, tuple[tuple[int, int, int], BandFile]] = {}
    for key, asset in item.assets.items():
        if not _is_data(asset):
            continue
        for index, info in enumerate(asset.bands or (BandInfo(),), start=1):
            name = _band_name(key, asset, info, sensor)
            if name is None:
                continue
            rank = (sensor.band_for(key) != name, len(asset.bands), _is_jp2(asset))
            if name not in found or rank < found[name][0]:
                found[name] = rank, BandFile(name, key, path_of(item, asset), index, info)
    return {name: found[name][1] for name in sensor.band_names if name in found}


def lone_raster(item: Item, sensor: Sensor) -> str | None:
    """The path of the item's only raster of data, for an item that says nothing of its bands."""
    quality = sensor.stac.quality_assets if sensor.stac is not None else ()
    data = [asset for key, asset in item.assets.items() if _is_data(asset) and key not in quality]
    return path_of(item, data[0]) if len(data) == 1 else None


def quality_file(item: Item, sensor: Sensor) -> str | None:
    """The path of the sensor's quality raster, or None where sensor or item have none."""
    keys = sensor.stac.quality_assets if sensor.stac is not None else ()
    there = [item.assets[key] for key in keys if key in item.assets]
    return path_of(item, there[0]) if there else None


def path_of(item: Item, asset: Asset) -> str:
    """An asset's path as it is opened; marked where it is to be signed."""
    return PLANETARY_COMPUTER + shown(asset.href) if is_signed_by_service(asset.href, item.links) else asset.href


def value_offset(item: Item, sensor: Sensor, bands: Mapping[str, BandFile]) -> tuple[float, tuple[str, ...]]:
    """(what is added to stored numbers before the sensor's scale, notes for the doctor).

    Sentinel-2's bands say `scale` 0.0001 and `offset` −0.1 where the product has the offset of baseline 04.00. Earth
    Search says so as well of files that it has taken the offset out of already, and tells those by a property of theirs.
    Where the item says nothing, its processing baseline does, else its date. Raises SceneError where scale or offset do
    not fit the sensor, or differ between bands.
    """
    if item.properties.get("earthsearch:boa_offset_applied") is True:
        return 0.0, ()
    stated = {(band.info.scale, band.info.offset) for band in bands.values()} - {(None, None)}
    if len(stated) > 1:
        raise SceneError(
            f"item {item.id}: bands have different scales or offsets ({sorted(map(str, stated))}); it is no {sensor.name} imagery"
        )
    baseline = _baseline(item)
    if stated:
        scale, offset = stated.pop()
        scale = sensor.scale.gain if scale is None else scale
        if sensor.scale.gain != 1 and abs(scale / sensor.scale.gain - 1) > SCALE_TOLERANCE:
            raise SceneError(
                f"item {item.id}: its numbers have the scale {scale:g}, those of {sensor.name} {sensor.scale.gain:g}; "
                "name the right --sensor, or describe it in a .toml file"
            )
        if baseline is not None and baseline < BASELINE_WITH_OFFSET:
            return 0.0, ()  # no product of that time has one, whatever its copy's metadata say
        return round((offset or 0.0) / scale, 6), ()
    if baseline is not None and sensor.name.startswith("sentinel2"):
        return (-1000.0 if baseline >= BASELINE_WITH_OFFSET else 0.0), ()
    return offset_by_date(sensor, item.date)


def _baseline(item: Item) -> float | None:
    for key in ("s2:processing_baseline", "processing:version", "sentinel:processing_baseline"):
        value = item.properties.get(key)
        try:
            if value is not None:
                return float(str(value))
        except ValueError:
            continue
    return None


def _band_name(key: str, asset: Asset, info: BandInfo, sensor: Sensor) -> str | None:
    """By the band's own name first: Sentinel-2's three red edges share one common name."""
    labels = [info.name, info.common_name]
    if len(asset.bands) < 2:
        labels = [key, *labels, PurePosixPath(shown(asset.href)).stem]
    for label in labels:
        name = sensor.band_for(label) if label else None
        if name is not None:
            return name
    stem = PurePosixPath(shown(asset.href)).stem
    return sensor.band_in_file_name(stem) if len(asset.bands) < 2 else None


def _is_data(asset: Asset) -> bool:
    kind = asset.type.split(";")[0].strip().lower()
    if NOT_DATA & {role.lower() for role in asset.roles}:
        return False
    return kind in RASTER_TYPES or (not kind and shown(asset.href).lower().endswith(RASTER_SUFFIXES))


def _is_jp2(asset: Asset) -> bool:
    return "jp2" in asset.type.lower() or shown(asset.href).lower().endswith(".jp2")
