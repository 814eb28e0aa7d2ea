"""What the map's routes answer, as JSON: parts of the OpenAPI document."""

from __future__ import annotations

from typing import Any

import pydantic

from .schemas import Model

Share = pydantic.Field(ge=0, le=1, examples=[0.42])


class ClassArea(Model):
    """One class on a map or in an area: its tiles, their area less what lacks data, its share of all that is mapped."""

    id: int = pydantic.Field(examples=[2])
    name: str = pydantic.Field(examples=["Forest"])
    colour: str = pydantic.Field(examples=["#228b22"])
    tiles: int = pydantic.Field(examples=[310])
    area_m2: float = pydantic.Field(examples=[15554560.0])
    area_ha: float = pydantic.Field(examples=[1555.456])
    share: float = Share


class MapFacts(Model):
    """What a map of a job needs: where it is, how near it can be looked at, its legend and its layers.

    `bounds` are west, south, east, north in degrees; `layers` are addresses of tiles with {z}, {x} and {y} to fill in.
    """

    id: str = pydantic.Field(examples=["9f2c51d0a7e3b846"])
    name: str = pydantic.Field(examples=["county"])
    date: str | None = pydantic.Field(examples=["2019-07-14"])
    model: str = pydantic.Field(examples=["m"])
    scheme: str = pydantic.Field(examples=["nlcd6"])
    crs: str = pydantic.Field(examples=["EPSG:26919"])
    tile_side_m: float = pydantic.Field(examples=[224.0])
    tiles: int = pydantic.Field(examples=[1280])
    left_out: int | None = pydantic.Field(description="Tiles not classified for lack of data.", examples=[12])
    area_ha: float = pydantic.Field(examples=[6422.5])
    mean_confidence: float | None = pydantic.Field(examples=[0.88])
    smoothing: str | None = pydantic.Field(examples=[None])
    synthetic: bool = pydantic.Field(examples=[False])
    bounds: tuple[float, float, float, float] = pydantic.Field(examples=[[-71.2, 42.2, -71.0, 42.4]])
    min_zoom: int = pydantic.Field(examples=[9])
    max_zoom: int = pydantic.Field(examples=[17])
    classes: list[ClassArea]
    layers: dict[str, str] = pydantic.Field(
        examples=[{"classes": "/v1/jobs/9f2c51d0a7e3b846/tiles/classes/{z}/{x}/{y}.png"}]
    )
    wmts: str = pydantic.Field(examples=["/v1/jobs/9f2c51d0a7e3b846/wmts"])


class Probability(Model):
    """One class of one tile. `raw` is the model's own, where the map was smoothed."""

    name: str = pydantic.Field(examples=["Forest"])
    colour: str = pydantic.Field(examples=["#228b22"])
    probability: float = Share
    raw: float | None = None


class Label(Model):
    """What was found on a tile. `model_class` is the model's own answer, where the map was smoothed."""

    class_id: int = pydantic.Field(examples=[2])
    class_name: str = pydantic.Field(examples=["Forest"])
    model_class: str | None = None
    confidence: float = Share
    valid_fraction: float = Share
    probabilities: list[Probability]


class Place(Model):
    """A tile of the permanent grid: its outline (longitude, latitude), and its label where it has one."""

    tile_id: str = pydantic.Field(examples=["26919_224_1402_20898"])
    column: int = pydantic.Field(examples=[1402])
    row: int = pydantic.Field(examples=[20898])
    outline: list[tuple[float, float]]
    label: Label | None


class AreaStatistics(Model):
    """One area: all of it, what of it is mapped, and each class. Areas are counts of tiles, not estimates."""

    name: str = pydantic.Field(examples=["area 1"])
    area_m2: float
    area_ha: float
    mapped_m2: float
    mapped_ha: float
    unmapped_m2: float
    unmapped_ha: float
    tiles: int = pydantic.Field(description="Labelled tiles that share ground with the area.", examples=[48])
    mean_confidence: float | None
    classes: list[ClassArea]


class Statistics(Model):
    """The areas in the order in which they were sent."""

    crs: str = pydantic.Field(description="In which areas were measured.", examples=["EPSG:26919"])
    areas: list[AreaStatistics]


class JobRequest(Model):
    """What a job was asked for. Sources are as the request named them, URLs without what follows a `?`."""

    sources: list[str] = pydantic.Field(examples=[["county.tif"]])
    uploaded: bool
    options: dict[str, Any] = pydantic.Field(examples=[{"date": "2019-07-14", "smooth": None}])
