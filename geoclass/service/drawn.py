"""Areas that a client drew: GeoJSON (RFC 7946) in degrees, checked before any geometry is computed from it."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
import pyproj
import shapely

from .refusal import Refusal, one_line

MOST_AREAS = 50
MOST_VERTICES = 10_000
MOST_REPAIRED = 200
"""Outlines that cross themselves are repaired up to this many vertices: they can cross as often as its square."""
EDGE_DEG = 0.01
"""Edges are straight in degrees. Longer ones get points between, so that they are also nearly so in the grid's CRS: at
0.01° (1.1 km) a parallel's bow is under 4 cm at 60° of latitude."""
MOST_EDGES = 20_000

Degree = Annotated[float, pydantic.Field(allow_inf_nan=False, ge=-1000, le=1000)]
Position = Annotated[list[Degree], pydantic.Field(min_length=2, max_length=4)]
Ring = Annotated[list[Position], pydantic.Field(min_length=4)]
Rings = Annotated[list[Ring], pydantic.Field(min_length=1)]


class Part(pydantic.BaseModel):
    """GeoJSON may hold members of its writer's own."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True, strict=True)


class Polygon(Part):
    type: Literal["Polygon"]
    coordinates: Rings


class MultiPolygon(Part):
    type: Literal["MultiPolygon"]
    coordinates: Annotated[list[Rings], pydantic.Field(min_length=1)]


Shape = Annotated[Polygon | MultiPolygon, pydantic.Field(discriminator="type")]


class Feature(Part):
    type: Literal["Feature"]
    geometry: Shape
    properties: dict[str, Any] | None = None


class FeatureCollection(Part):
    type: Literal["FeatureCollection"]
    features: Annotated[list[Feature], pydantic.Field(min_length=1, max_length=MOST_AREAS)]


Drawn = Annotated[Polygon | MultiPolygon | Feature | FeatureCollection, pydantic.Field(discriminator="type")]
EXAMPLE = {
    "type": "Polygon",
    "coordinates": [[[-71.1, 42.3], [-71.0, 42.3], [-71.0, 42.4], [-71.1, 42.4], [-71.1, 42.3]]],
}


def named_areas(drawn: Drawn, crs: pyproj.CRS) -> list[tuple[str, shapely.Geometry]]:
    """Name and outline in `crs` of each feature. Raises Refusal (422)."""
    _require_degrees(drawn)
    features = drawn.features if isinstance(drawn, FeatureCollection) else [drawn]
    transformer = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    found = []
    for number, feature in enumerate(features, start=1):
        shape = feature.geometry if isinstance(feature, Feature) else feature
        name = _name(feature) or f"area {number}"
        found.append((name, _placed(_sound(shape, name), name, transformer)))
    return found


def _require_degrees(drawn: Drawn) -> None:
    """GeoJSON of before 2016 could name a CRS; one other than longitude and latitude would be misread."""
    crs = (drawn.model_extra or {}).get("crs")
    if crs is not None and not any(word in json.dumps(crs) for word in ("CRS84", "4326")):
        raise Refusal(422, "the area is not in longitude and latitude", "save it as GeoJSON in EPSG:4326")


def _name(feature: Polygon | MultiPolygon | Feature) -> str:
    values = (feature.properties or {}) if isinstance(feature, Feature) else {}
    named = next((values[key] for key in ("name", "NAME", "Name", "title", "label") if values.get(key)), "")
    return one_line(str(named))[:80] if isinstance(named, str | int | float) else ""


def _sound(shape: Polygon | MultiPolygon, name: str) -> shapely.Geometry:
    """The shape in degrees, valid, within the world: what reaches beyond 180° is cut there (RFC 7946, 3.1.9)."""
    polygons = [shape.coordinates] if isinstance(shape, Polygon) else shape.coordinates
    vertices = sum(len(ring) for rings in polygons for ring in rings)
    if vertices > MOST_VERTICES:
        raise Refusal(422, f"{name} has {vertices:,} vertices, more than {MOST_VERTICES:,}", "simplify it")
    try:
        made = shapely.multipolygons([_polygon(rings) for rings in polygons])
    except (shapely.errors.GEOSException, ValueError) as error:
        raise Refusal(422, f"{name} is no polygon", "close each ring: its last position is its first") from error
    west, south, east, north = shapely.bounds(made)
    if not (west >= -360 and east <= 360 and east - west <= 360 and south >= -90 and north <= 90):
        raise Refusal(422, f"{name} lies beyond the world", "give longitude, then latitude, in degrees")
    if any(np.abs(np.diff([place[0] for place in ring])).max() > 180 for rings in polygons for ring in rings):
        # From 179° to -179° it may go either way round the world.
        raise Refusal(422, f"{name} has an edge of more than 180 degrees of longitude", "split it at 180 degrees")
    if not shapely.is_valid(made):
        if vertices > MOST_REPAIRED:
            raise Refusal(422, f"the outline of {name} crosses itself", "repair it: Fix geometries in QGIS")
        made = shapely.make_valid(made)
    if not shapely.area(made) > 0:
        raise Refusal(422, f"{name} has no area", "draw a polygon")
    return made if west >= -180 and east <= 180 else _cut(made)


def _cut(shape: shapely.Geometry) -> shapely.Geometry:
    """A shape that reaches beyond 180°, as parts that do not."""
    parts: list[shapely.Geometry] = []
    for turn in (-360, 0, 360):
        inside = shapely.intersection(shape, shapely.box(turn - 180, -90, turn + 180, 90))
        parts += shapely.get_parts(shapely.transform(inside, lambda xy, turn=turn: xy - [turn, 0])).tolist()
    return shapely.multipolygons([part for part in parts if isinstance(part, shapely.Polygon) and part.area > 0])


def _polygon(rings: list[list[list[float]]]) -> shapely.Geometry:
    flat = [np.array([position[:2] for position in ring], np.float64) for ring in rings]
    return shapely.polygons(flat[0], holes=[shapely.linearrings(hole) for hole in flat[1:]] or None)


def _placed(shape: shapely.Geometry, name: str, transformer: pyproj.Transformer) -> shapely.Geometry:
    edge = max(EDGE_DEG, float(shapely.length(shape)) / MOST_EDGES)
    points = shapely.segmentize(shape, edge)

    def move(xy: Any) -> Any:
        return np.stack(transformer.transform(xy[:, 0], xy[:, 1]), axis=1)

    moved = shapely.transform(points, move)
    parts = shapely.get_parts(moved)
    if not np.isfinite(shapely.get_coordinates(moved)).all() or not shapely.is_valid(parts).all():
        raise Refusal(422, f"{name} reaches where the map's CRS cannot be used", "draw it on the map's own ground")
    # Parts that were cut at 180° meet again where the CRS knows no seam there.
    return moved if shapely.is_valid(moved) else shapely.union_all(parts)
