"""The desk's application: its routes and page, behind the service's gate."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.types import ASGIApp

from .. import __version__
from ..errors import OutputError
from ..outputs.page import assets
from ..service.gate import Gate
from ..service.metrics import Metrics
from ..service.pages import PAGE_HEADERS, PageFiles
from ..service.problems import answer_errors
from ..service.refusal import refused
from ..service.settings import Settings
from . import routes
from .desk import Desk

STATIC = Path(__file__).resolve().parent / "static"


def build_app(desk: Desk, settings: Settings) -> ASGIApp:
    """The ASGI application of an open desk."""
    app = FastAPI(
        title="geoclass labelling desk", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.state.desk = desk
    app.include_router(routes.router)
    app.add_api_route("/", _page, include_in_schema=False)
    app.add_api_route("/static/desk.css", _style, include_in_schema=False)
    app.mount("/static", PageFiles(directory=STATIC))
    answer_errors(app)
    app.exception_handler(OutputError)(_unwritten)
    return Gate(app, settings, Metrics())


async def _page() -> FileResponse:
    return FileResponse(STATIC / "index.html", headers=PAGE_HEADERS)


async def _style() -> Response:
    """The desk's sheet with those that it stands on."""
    sheet = assets(["page.css", "answering.css"]) + (STATIC / "desk.css").read_text("utf-8")
    return Response(sheet, media_type="text/css", headers=PAGE_HEADERS)


async def _unwritten(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OutputError)
    return JSONResponse(refused(error).body, 507 if "disk is full" in str(error) else 422)
