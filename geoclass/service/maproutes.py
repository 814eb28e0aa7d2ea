"""The routes for maps of jobs that are done: their legend, one tile by place, areas that a client drew, and the run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyproj
from fastapi import APIRouter, Body, Query

from ..grid import TileGrid, crs_text, positions
from ..labels import SMOOTHING_KEY, Labels
from ..outputs.summary import summarise
from . import painting
from .areastatistics import statistics
from .drawn import EXAMPLE, Drawn, named_areas
from .jobroutes import WRITE, With, found_job, result_of
from .jobs import Job
from .mapschemas import JobRequest, MapFacts, Place, Statistics
from .places import is_url
from .problems import declared
from .refusal import Refusal
from .routes import READ
from .tileroutes import LAYERS, WithMaps, template

router = APIRouter(tags=["maps"])
FAR = 100_000_000
"""Columns and rows beyond this are on no grid of the earth."""


@router.get("/v1/jobs/{job}/map", summary="What a map needs", responses=declared(404, 409), openapi_extra=READ)
async def facts(service: With, maps: WithMaps, job: str) -> MapFacts:
    """Where a job's map is, its legend with counts and areas, and the addresses of its layers."""
    found, table = result_of(service, job, "gpkg")
    _, classes = result_of(service, job, "cog")
    _, imagery = result_of(service, job, "preview")
    return await maps.run(lambda: _facts(found, maps.table(table), classes, imagery))


def _facts(job: Job, labels: Labels, classes: Path, imagery: Path) -> MapFacts:
    summary, extent = summarise(labels), painting.extent(classes, imagery)
    kept = ("id", "name", "colour", "tiles", "area_m2", "area_ha", "share")
    return MapFacts.model_validate(
        {
            "id": job.id,
            "name": job.name,
            "date": labels.info.get("date"),
            "model": job.model,
            "scheme": labels.scheme.name,
            **{key: summary[key] for key in ("crs", "tile_side_m", "tiles", "area_ha", "mean_confidence")},
            "left_out": summary["below_min_valid"],
            "smoothing": labels.info.get(SMOOTHING_KEY),
            "synthetic": bool(labels.info.get("synthetic")),
            "bounds": extent.bounds,
            "min_zoom": extent.min_zoom,
            "max_zoom": extent.max_zoom,
            "classes": [{key: item[key] for key in kept} for item in summary["classes"]],
            "layers": {layer: template(job.id, layer) for layer in LAYERS},
            "wmts": f"/v1/jobs/{job.id}/wmts",
        }
    )


@router.get("/v1/jobs/{job}/tile", summary="The tile at a place", responses=declared(404, 409), openapi_extra=READ)
async def place(
    service: With,
    maps: WithMaps,
    job: str,
    lon: Annotated[float | None, Query(ge=-180, le=180, allow_inf_nan=False)] = None,
    lat: Annotated[float | None, Query(ge=-90, le=90, allow_inf_nan=False)] = None,
    column: Annotated[int | None, Query(ge=-FAR, le=FAR)] = None,
    row: Annotated[int | None, Query(ge=-FAR, le=FAR)] = None,
) -> Place:
    """Id, class and probabilities of the tile at `lon` and `lat` (degrees), or of `column` and `row` of the grid.

    `label` is null where no tile was classified.
    """
    _, table = result_of(service, job, "gpkg")
    if (lon is None or lat is None) == (column is None or row is None):
        raise Refusal(422, "a place is named in two ways, or in none", "give lon and lat, or column and row")

    def look() -> Place:
        labels = maps.table(table)
        if column is not None and row is not None:
            return _place(labels, column, row)
        x, y = pyproj.Transformer.from_crs("EPSG:4326", labels.grid.crs, always_xy=True).transform(lon, lat)
        if not (abs(x) < FAR and abs(y) < FAR):  # inf where the CRS ends
            raise Refusal(422, "the place lies where the map's CRS cannot be used", "give one on the map's ground")
        return _place(labels, *labels.grid.tile_at(x, y))

    return await maps.run(look)


def _place(labels: Labels, column: int, row: int) -> Place:
    at = int(positions(labels.columns, labels.rows, np.array([column]), np.array([row]))[0])
    return Place.model_validate(
        {
            "tile_id": labels.grid.tile_id(column, row),
            "column": column,
            "row": row,
            "outline": _outline(labels.grid, column, row),
            "label": None if at < 0 else _label(labels, at),
        }
    )


def _outline(grid: TileGrid, column: int, row: int) -> list[tuple[float, float]]:
    left, bottom, right, top = grid.bounds(column, row)
    to_degrees = pyproj.Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    corners = to_degrees.transform((left, right, right, left, left), (bottom, bottom, top, top, bottom))
    if not np.isfinite(corners).all():
        raise Refusal(422, "the tile lies where the map's CRS cannot be used", "give one on the map's ground")
    return [(round(float(x), 8), round(float(y), 8)) for x, y in zip(*corners, strict=True)]


def _label(labels: Labels, at: int) -> dict[str, Any]:
    one = labels.part(slice(at, at + 1))
    kind, raw = int(one.class_index[0]), one.raw
    return {
        "class_id": labels.scheme.ids[kind],
        "class_name": labels.scheme.names[kind],
        "model_class": None if raw is None else labels.scheme.names[int(raw[0].argmax())],
        "confidence": min(1.0, float(one.confidence[0])),
        "valid_fraction": float(one.valid_fraction[0]),
        "probabilities": [
            {
                "name": item.name,
                "colour": item.colour,
                "probability": min(1.0, float(one.probabilities[0, k])),
                "raw": None if raw is None else float(raw[0, k]),
            }
            for k, item in enumerate(labels.scheme.classes)
        ],
    }


@router.post(
    "/v1/jobs/{job}/statistics", summary="Classes in areas", responses=declared(404, 408, 409), openapi_extra=WRITE
)
async def areas(
    service: With, maps: WithMaps, job: str, area: Annotated[Drawn, Body(examples=[EXAMPLE])]
) -> Statistics:
    """Area and share of each class inside a polygon, or inside each of several features: GeoJSON, longitude and latitude.

    Tiles on the outline are cut at it, in the CRS of the map's grid.
    """
    _, table = result_of(service, job, "gpkg")

    def measure() -> Statistics:
        labels, check = maps.table(table), maps.deadline()
        named = named_areas(area, labels.grid.crs)
        found = [statistics(labels, name, shape, check) for name, shape in named]
        return Statistics.model_validate({"crs": crs_text(labels.grid.crs), "areas": found})

    return await maps.run(measure)


@router.get("/v1/jobs/{job}/run", summary="What a job was asked for", responses=declared(404), openapi_extra=READ)
async def run(service: With, job: str) -> JobRequest:
    """Sources and options of a job, done or not."""
    spec = found_job(service, job).spec
    sources = [source.partition("?")[0] if is_url(source) else source for source in spec["sources"]]
    return JobRequest(sources=sources, uploaded=spec["uploaded"], options=dict(spec["options"]))
