"""The front end: one page and its static files, and a way for it to find out whether its token is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from .. import __version__
from .jobroutes import WRITE
from .problems import declared
from .schemas import Index

STATIC = Path(__file__).resolve().parent / "static"
LEAFLET = ("js_lib_leaflet", "static/js_lib_leaflet")
"""The Leaflet that comes with geoclass for its offline maps: a package, and the folder in it."""

# Nothing inline and nothing from elsewhere: what a class, a file or a log line is called can never become code.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {"content-security-policy": PAGE_POLICY, "cache-control": "no-cache"}

router = APIRouter(tags=["service"])


class PageFiles(StaticFiles):
    """Files that a browser keeps, and asks about each time: after an update of geoclass it has the new ones."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(PAGE_HEADERS)
        return response


@router.get(
    "/", summary="Where to find what", responses=declared(), openapi_extra={"security": []}, response_model=Index
)
async def index(request: Request) -> Any:
    """The service's own table of contents; a browser gets the front end instead."""
    if "text/html" in request.headers.get("accept", ""):
        return FileResponse(STATIC / "index.html", headers={**PAGE_HEADERS, "vary": "accept"})
    links = {
        "models": "/v1/models",
        "jobs": "/v1/jobs",
        "runs": "/v1/runs",
        "health": "/healthz",
        "metrics": "/metrics",
    }
    return Index(service="geoclass", version=__version__, openapi="/openapi.json", links=links)


@router.post("/v1/token", status_code=204, summary="Is the token right?", responses=declared(), openapi_extra=WRITE)
async def token() -> Response:
    """Answers 204 where it is, and 401 where it is not. Does nothing else."""
    return Response(status_code=204)


def mount(app: FastAPI) -> None:
    """Serve the page's files under /static."""
    app.mount("/static/leaflet", PageFiles(packages=[LEAFLET]))
    app.mount("/static", PageFiles(directory=STATIC))
