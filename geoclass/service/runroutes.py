"""The routes for results in the database: which there are, what each holds, its tiles page by page, and the whole of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Query, Response
from fastapi import Path as InPath
from fastapi.responses import FileResponse
from starlette.types import Receive, Scope, Send

from ..database.address import Address
from ..database.browsing import overview, tiles_page
from ..database.reading import list_runs
from ..errors import DatabaseError
from ..grid import Bounds
from .problems import declared
from .refusal import Refusal
from .routes import READ
from .runs import RunKind
from .schemas import RunFacts, RunList, RunOverview, run_facts, run_overview
from .state import Service, service_of

router = APIRouter(tags=["runs"])
With = Annotated[Service, Depends(service_of)]
RunId = Annotated[
    str, InPath(max_length=100, description="A run's id, or the name of its view.", examples=["run_county_2021_07_14"])
]
GEOJSON = "application/geo+json"
MEDIA: dict[RunKind, str] = {
    "gpkg": "application/geopackage+sqlite3",
    "geojson": GEOJSON,
    "summary": "application/json",
}
NUMBER = r"-?[0-9]{1,3}(\.[0-9]{1,12})?"

TILES_EXAMPLE = {
    "type": "FeatureCollection",
    "next": "26919_224_1801_20990",
    "features": [
        {
            "type": "Feature",
            "id": "26919_224_1801_20990",
            "geometry": {
                "type": "Polygon",
                "coordinates": [[[-70.1, 43.2], [-70.1, 43.202], [-70.103, 43.202], [-70.103, 43.2], [-70.1, 43.2]]],
            },
            "properties": {
                "class": "Forest",
                "class_id": 41,
                "confidence": 0.93,
                "valid_fraction": 1.0,
                "date": "2021-07-14",
                "probabilities": {"Forest": 0.93, "Grass": 0.05, "Field": 0.02},
            },
        }
    ],
}
TILES_SCHEMA = {
    "type": "object",
    "required": ["type", "next", "features"],
    "properties": {
        "type": {"const": "FeatureCollection"},
        "next": {"type": ["string", "null"], "description": "The value of `after` for the next page; null at the end."},
        "features": {
            "type": "array",
            "items": {"type": "object", "required": ["type", "id", "geometry", "properties"]},
        },
    },
}


@router.get("/v1/runs", summary="Results in the database", responses=declared(404, 503), openapi_extra=READ)
async def runs(
    service: With,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    offset: Annotated[int, Query(ge=0, le=1_000_000_000)] = 0,
) -> RunList:
    """Results in the service's database (`--database`), the last loaded first."""
    found = await service.runs.ask(list_runs)
    return RunList(runs=[RunFacts.model_validate(run_facts(run)) for run in found[offset : offset + limit]])


@router.get("/v1/runs/{run}", summary="What a result holds", responses=declared(404, 503), openapi_extra=READ)
async def run(service: With, run: RunId) -> RunOverview:
    """One result with its classes, their tiles and mapped areas, and where it lies."""
    return RunOverview.model_validate(run_overview(await service.runs.ask(overview, run)))


@router.get(
    "/v1/runs/{run}/tiles",
    summary="Tiles of a result",
    response_class=Response,
    responses={
        **declared(404, 503),
        200: {
            "description": "Tiles as GeoJSON.",
            "content": {GEOJSON: {"schema": TILES_SCHEMA, "example": TILES_EXAMPLE}},
            "headers": {"Link": {"schema": {"type": "string"}, "description": "The next page, as rel=next."}},
        },
    },
    openapi_extra=READ,
)
async def tiles(
    service: With,
    run: RunId,
    bbox: Annotated[
        str | None,
        Query(
            pattern=f"^{NUMBER}(,{NUMBER}){{3}}$",
            description="West, south, east, north in degrees: tiles that touch it.",
            examples=["-70.2,43.1,-69.8,43.5"],
        ),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=10_000, description="Tiles on a page.")] = 1000,
    after: Annotated[str, Query(pattern=r"^[0-9A-Za-z._-]{0,100}$", description="`next` of the page before.")] = "",
) -> Response:
    """Tiles with their squares in degrees, classes and probabilities, in the order of their ids; `next` leads on."""
    text, following = await service.runs.ask(_page, run, _box(bbox), limit, after)
    more = {"bbox": bbox, "limit": limit, "after": following}
    query = urlencode({key: value for key, value in more.items() if value is not None})
    headers = {"link": f'</v1/runs/{quote(run)}/tiles?{query}>; rel="next"'} if following else {}
    return Response(text, media_type=GEOJSON, headers=headers)


def _box(text: str | None) -> Bounds | None:
    if text is None:
        return None
    left, bottom, right, top = (float(part) for part in text.split(","))
    if not (-180 <= left <= right <= 180 and -90 <= bottom <= top <= 90):
        raise Refusal(422, "bbox is no rectangle on the earth", "give west,south,east,north in degrees, not over 180°")
    return left, bottom, right, top


def _page(address: Address, run: str, box: Bounds | None, limit: int, after: str) -> tuple[bytes, str | None]:
    """(a page as text, the id that the next one begins after)."""
    page = tiles_page(address, run, bbox=box, limit=limit, after=after)
    try:
        return json.dumps(page, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(), page["next"]
    except ValueError as error:
        raise DatabaseError("a tile's number is none; load the result again with geoclass load") from error


@router.get(
    "/v1/runs/{run}/results/{kind}",
    summary="A result as a file",
    response_class=FileResponse,
    responses={
        **declared(404, 416, 503, 507),
        200: {"description": "The file.", "content": {media: {} for media in MEDIA.values()}},
        206: {"description": "The range of the file that was asked for."},
    },
    openapi_extra=READ,
)
async def result(service: With, run: RunId, kind: RunKind) -> FileResponse:
    """GeoPackage, GeoJSON or summary (JSON) of a result in the database, as `geoclass classify` writes them."""
    path, name = await service.runs.file(run, kind)
    shown = "inline" if kind == "summary" else "attachment"
    return _Once(path, media_type=MEDIA[kind], filename=name, content_disposition_type=shown)


class _Once(FileResponse):
    """A file that is removed when it was sent, or could not be."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            Path(self.path).unlink(missing_ok=True)
