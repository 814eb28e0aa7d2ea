"""The routes for map tiles: XYZ, and the WMTS document that names them to a GIS."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Path as InPath

from . import painting, wmts
from .jobroutes import With, result_of
from .maps import Maps, maps_of
from .painting import MAX_ZOOM, Layer
from .problems import declared
from .refusal import Refusal
from .routes import READ

router = APIRouter(tags=["maps"])
WithMaps = Annotated[Maps, Depends(maps_of)]
Number = Annotated[int, InPath(ge=0, lt=1 << MAX_ZOOM)]
LAYERS: dict[Layer, str] = {"imagery": "imagery", "classes": "land cover"}
"""Layers from below to above, and what they are called in a GIS."""
CACHED = {"cache-control": "private, max-age=300", "vary": "authorization"}


@router.get(
    "/v1/jobs/{job}/tiles/{layer}/{z}/{x}/{y}.png",
    summary="A map tile",
    response_class=Response,
    responses={
        **declared(404, 409),
        200: {"description": "256 × 256 pixels.", "content": {"image/png": {"schema": {"type": "string"}}}},
        204: {"description": "The tile lies beside the scene."},
    },
    openapi_extra=READ,
)
async def tile(
    service: With,
    maps: WithMaps,
    job: str,
    layer: Layer,
    z: Annotated[int, InPath(ge=0, le=MAX_ZOOM)],
    x: Number,
    y: Number,
) -> Response:
    """Imagery or classes of a job that is done, on the usual grid of web maps (Web Mercator, XYZ).

    Classes have the colours of their scheme, and no other. Imagery is the job's preview picture.
    """
    _, classes = result_of(service, job, "cog")
    _, imagery = result_of(service, job, "preview")
    if not painting.exists(z, x, y):
        raise Refusal(422, f"zoom {z} has no tile {x}/{y}", f"give numbers below {1 << z}")
    found = await maps.run(lambda: painting.tile(layer, classes, imagery, z, x, y))
    if found is None:
        return Response(status_code=204, headers=CACHED)
    return Response(found, media_type="image/png", headers=CACHED)


@router.get(
    "/v1/jobs/{job}/wmts",
    summary="A job's layers for a GIS (WMTS)",
    response_class=Response,
    responses={
        **declared(404, 409),
        200: {"description": "Capabilities.", "content": {wmts.MEDIA_TYPE: {"schema": {"type": "string"}}}},
    },
    openapi_extra=READ,
)
async def capabilities(request: Request, service: With, maps: WithMaps, job: str) -> Response:
    """The WMTS 1.0.0 document: add its address to QGIS under Layer > Add Layer > Add WMS/WMTS Layer."""
    found, classes = result_of(service, job, "cog")
    _, imagery = result_of(service, job, "preview")
    extent = await maps.run(lambda: painting.extent(classes, imagery))
    start = _own_address(request)
    layers = [(layer, f"{found.name}: {words}", start + template(found.id, layer)) for layer, words in LAYERS.items()]
    document = wmts.capabilities(f"geoclass: {found.name}", f"{start}{request.url.path}", layers, extent)
    return Response(document, media_type=wmts.MEDIA_TYPE)


def template(job: str, layer: str) -> str:
    """The address of a layer's tiles, with {z}, {x} and {y} to fill in."""
    return f"/v1/jobs/{job}/tiles/{layer}/{{z}}/{{x}}/{{y}}.png"


def _own_address(request: Request) -> str:
    # The gate knows the name in Host. Of what a proxy says only the scheme is taken, for links that the asker alone gets.
    scheme = "https" if request.headers.get("x-forwarded-proto") == "https" else request.url.scheme
    return f"{scheme}://{request.headers.get('host', '')}"
