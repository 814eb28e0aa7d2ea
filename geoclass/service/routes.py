"""The routes for pictures, models, health and figures."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from .. import __version__
from .problems import declared
from .receiving import received
from .refusal import Refusal
from .schemas import Health, Index, ModelFacts, ModelList, Predicted, model_facts
from .state import Service, service_of

router = APIRouter()
With = Annotated[Service, Depends(service_of)]
READ: dict[str, Any] = {"security": [{}, {"token": []}]}
"""Routes that this machine's own users may read without a token."""

PICTURES_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
            "image/jpeg": {"schema": {"type": "string", "format": "binary"}},
            "image/png": {"schema": {"type": "string", "format": "binary"}},
            "image/tiff": {"schema": {"type": "string", "format": "binary"}},
        },
    },
    "security": [{"token": []}],
}


@router.post(
    "/v1/predict",
    summary="Classes of pictures",
    responses=declared(404, 408, 415, 507),
    openapi_extra=PICTURES_BODY,
    tags=["pictures"],
)
async def predict(
    request: Request,
    service: With,
    model: Annotated[str | None, Query(max_length=100, description="A name of /v1/models; the first if none.")] = None,
) -> Predicted:
    """Send one picture as the body, or one or many as form data under `file`: JPEG, PNG or TIFF.

    Each is classified as one tile: its middle square, so it should show about as much ground as one of the model's tiles.
    The answers are in the order of the pictures. One that cannot be read refuses the request, and is named.
    """
    served = service.model(model)
    limits = service.settings.limits
    async with received(request, service.incoming, limits.pictures, alone=("image/",)) as form:
        if not form.files:
            raise Refusal(422, "no picture was sent", "send it as a file: curl -F file=@tile.jpg")
        tiles = [await service.decoder(item, served.bundle) for item in form.files]
        names = [item.name for item in form.files]
    found = await served.batcher(tiles)
    return Predicted.model_validate(
        {"model": served.name, "answers": _answers(names, served.bundle.meta.scheme.names, found)}
    )


def _answers(names: list[str], classes: tuple[str, ...], found: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "class": classes[int(row.argmax())],
            "confidence": min(1.0, float(row.max())),
            "probabilities": {label: round(float(value), 6) for label, value in zip(classes, row, strict=True)},
        }
        for name, row in zip(names, found, strict=True)
    ]


@router.get("/v1/models", summary="The models", responses=declared(), openapi_extra=READ, tags=["models"])
async def models(service: With) -> ModelList:
    """Every model of the service, with its classes and what it runs on. The first is the default."""
    return ModelList(models=[model_facts(each, place == 0) for place, each in enumerate(service.models.values())])


@router.get("/v1/models/{name}", summary="One model", responses=declared(404), openapi_extra=READ, tags=["models"])
async def model(service: With, name: str) -> ModelFacts:
    """One model by its name."""
    return model_facts(service.model(name), name == next(iter(service.models)))


@router.get("/healthz", summary="Is it up?", responses=declared(), openapi_extra={"security": []}, tags=["service"])
async def health() -> Health:
    """Answers once the models are loaded. Needs no token."""
    return Health(status="ok", version=__version__)


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={
        **declared(),
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Figures."},
    },
    openapi_extra=READ,
    tags=["service"],
)
async def metrics(service: With) -> Response:
    """Requests by route and status, batches, time in networks, jobs by state, what waits."""
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/", summary="Where to find what", responses=declared(), openapi_extra=READ, tags=["service"])
async def index() -> Index:
    """The service's own table of contents."""
    links = {
        "models": "/v1/models",
        "jobs": "/v1/jobs",
        "runs": "/v1/runs",
        "health": "/healthz",
        "metrics": "/metrics",
    }
    return Index(service="geoclass", version=__version__, openapi="/openapi.json", links=links)
