"""Sensors: which bands a kind of imagery has, how its numbers become brightness, and its no-data habits."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pydantic

from .configs import config_names, load_config
from .errors import ConfigError


class Band(pydantic.BaseModel, frozen=True, extra="forbid"):
    """One band: its common `name` (red, green, blue, nir, …) and the `aliases` files call it by."""

    name: str
    aliases: tuple[str, ...] = ()
    gsd_m: float | None = pydantic.Field(default=None, gt=0)


class Scale(pydantic.BaseModel, frozen=True, extra="forbid"):
    """Stored numbers to brightness from 0 to 255: `255 × (gain × (stored + offset) − low) / (high − low)`, clipped.

    One fixed rule a sensor, never one a tile, so that brightness means the same everywhere.
    """

    gain: float = 1.0
    offset: float = 0.0
    low: float = 0.0
    high: float = 255.0

    @pydantic.model_validator(mode="after")
    def _has_range(self) -> Scale:
        if not all(map(math.isfinite, (self.gain, self.offset, self.low, self.high))) or self.high == self.low:
            raise ValueError("low and high must differ, and all numbers be finite")
        return self

    def affine(self) -> tuple[float, float]:
        """(a, b) with brightness = clip(a × stored + b, 0, 255)."""
        slope = 255.0 / (self.high - self.low)
        return self.gain * slope, (self.gain * self.offset - self.low) * slope


class Catalogue(pydantic.BaseModel, frozen=True, extra="forbid"):
    """Where STAC has a kind of imagery: the `collections` that hold it and the `api` to search by default.

    `quality_assets` are keys of a raster of one code a pixel; ground with one of the codes `dropped` is no data.
    """

    collections: tuple[str, ...] = pydantic.Field(min_length=1)
    api: str | None = None
    quality_assets: tuple[str, ...] = ()
    dropped: tuple[int, ...] = ()


class Sensor(pydantic.BaseModel, frozen=True, extra="forbid"):
    """What geoclass must know of a kind of imagery; read from configs/sensors/*.toml.

    `bands` are in the order of a file that names none. `alpha_is` is the band that a last band tagged *alpha*
    really holds (NAIP's infrared), `nodata` the stored value that means no data where a file does not say.
    """

    name: str
    title: str = ""
    source: str = ""
    dtypes: tuple[str, ...] = pydantic.Field(min_length=1)
    gsd_m: float | None = pydantic.Field(default=None, gt=0)
    scale: Scale = Scale()
    nodata: float | None = None
    alpha_is: str | None = None
    file_pattern: str | None = None
    band_pattern: str | None = None
    date_pattern: str | None = None
    typical_mean: tuple[float, float] = (15.0, 240.0)
    stac: Catalogue | None = None
    bands: tuple[Band, ...] = pydantic.Field(min_length=1)

    @pydantic.model_serializer(mode="wrap")
    def _written(self, write: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `stac` where there is none: the hash of a bundle is that of what is written, and bundles are older than it."""
        written: dict[str, Any] = write(self)
        if self.stac is None:
            written.pop("stac", None)
        return written

    @pydantic.field_validator("file_pattern", "band_pattern", "date_pattern")
    @classmethod
    def _compiles(cls, value: str | None, info: pydantic.ValidationInfo) -> str | None:
        if value is not None:
            try:
                groups = re.compile(value).groupindex
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from error
            group = str(info.field_name).removesuffix("_pattern")
            if group != "file" and group not in groups:
                raise ValueError(f"no group (?P<{group}>…) in it")
        return value

    @property
    def band_names(self) -> tuple[str, ...]:
        return tuple(band.name for band in self.bands)

    def band_for(self, label: str) -> str | None:
        """The common name of the band that a file calls `label` ("Red", "B04", "4", "nir"), or None."""
        folded = _folded(label)
        for band in self.bands:
            if folded == _folded(band.name) or folded in {_folded(alias) for alias in band.aliases}:
                return band.name
        return None

    def band_in_file_name(self, stem: str) -> str | None:
        """The band that a single-band file holds by its name (`…_B02`, `NAIP-VA-b1`), or None."""
        found = re.search(self.band_pattern, stem, re.IGNORECASE) if self.band_pattern else None
        return self.band_for(found["band"]) if found else None

    def date_in_file_name(self, stem: str) -> str | None:
        """The ISO date (YYYY-MM-DD) in a file name of this sensor, or None."""
        found = re.search(self.date_pattern, stem, re.IGNORECASE) if self.date_pattern else None
        if not found:
            return None
        digits = found["date"]
        return f"{digits[:4]}-{digits[4:6]}-{digits[6:8]}"


def load_sensor(name: str | Path) -> Sensor:
    """A shipped sensor by name (`naip`, `sentinel2-l2a`, `rgb8`, …) or any TOML file by path. Raises ConfigError."""
    return load_config("sensors", name, Sensor)


def guess_sensor(file_names: Sequence[str]) -> Sensor | None:
    """The shipped sensor whose file names look like these (NAIP quads, Sentinel-2 granules), or None."""
    for name in config_names("sensors"):
        sensor = load_sensor(name)
        if sensor.file_pattern and all(re.search(sensor.file_pattern, item, re.IGNORECASE) for item in file_names):
            return sensor
    return None


def sensor_of_collection(collection: str | None) -> Sensor | None:
    """The shipped sensor whose imagery a STAC collection of this id holds, or None."""
    for name in config_names("sensors"):
        sensor = load_sensor(name)
        if sensor.stac is not None and collection in sensor.stac.collections:
            return sensor
    return None


def offset_by_date(sensor: Sensor, date: str | None) -> tuple[float, tuple[str, ...]]:
    """(offset, notes for the doctor) of Sentinel-2 files without their metadata, told from the ISO date.

    Processing baseline 04.00 (operational since 2022-01-25) stores reflectance × 10,000 + 1,000.
    """
    if sensor.name.startswith("sentinel2") and date is not None and date >= "2022-01-25":
        note = "no product metadata: the offset of −1000 of baseline 04.00 is assumed from the date"
        return -1000.0, (note,)
    return 0.0, ()


def require_bands(sensor: Sensor, wanted: Sequence[str], where: str) -> None:
    """Raise ConfigError unless `sensor` has every band in `wanted`."""
    missing = [name for name in wanted if name not in sensor.band_names]
    if missing:
        raise ConfigError(
            f"{where}: sensor {sensor.name!r} has no band {', '.join(missing)}; it has {', '.join(sensor.band_names)}"
        )


def require_once(wanted: Sequence[str]) -> None:
    """Raise ConfigError where a band is named twice."""
    twice = [name for n, name in enumerate(wanted) if name in wanted[:n]]
    if twice:
        raise ConfigError(f"--bands names {twice[0]} twice; name each band once")


def _folded(label: str) -> str:
    return re.sub(r"[^a-z0-9]", "", label.lower())


Role = Literal["nodata value", "mask", "alpha", "none"]
"""How a scene says where it has no data."""
