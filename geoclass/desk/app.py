"""The desk's application: its routes and page, behind the service's gate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Scope

from .. import __version__
from ..errors import OutputError
from ..service.gate import READING, Gate
from ..service.metrics import Metrics
from ..service.problems import answer_errors
from ..service.refusal import refused
from ..service.settings import Settings
from . import routes
from .desk import Desk

STATIC = Path(__file__).resolve().parent / "static"
PAGE = "index.html"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class DeskGate(Gate):
    """The service's gate. The page's own files, which hold no data, need no token: a browser cannot send one for
    them."""

    def _may_be_unnamed(self, scope: Scope, headers: Headers, host: str) -> bool:
        path = str(scope["path"])
        if scope["method"] in READING and (path == "/" or path.startswith("/static/")):
            return True
        return super()._may_be_unnamed(scope, headers, host)


class PageFiles(StaticFiles):
    """The page's files, with the policy of what the page may load."""

    def file_response(self, *given: Any, **named: Any) -> Response:
        made = super().file_response(*given, **named)
        made.headers["content-security-policy"] = POLICY
        made.headers["cache-control"] = "no-cache"
        return made


def build_app(desk: Desk, settings: Settings) -> ASGIApp:
    """The ASGI application of an open desk."""
    app = FastAPI(
        title="geoclass labelling desk", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.state.desk = desk
    app.include_router(routes.router)
    app.add_api_route("/", _page, include_in_schema=False)
    app.mount("/static", PageFiles(directory=STATIC))
    answer_errors(app)
    app.exception_handler(OutputError)(_unwritten)
    return DeskGate(app, settings, Metrics())


async def _page() -> FileResponse:
    headers: Mapping[str, str] = {"content-security-policy": POLICY, "cache-control": "no-cache"}
    return FileResponse(STATIC / PAGE, headers=headers)


async def _unwritten(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OutputError)
    return JSONResponse(refused(error).body, 507 if "disk is full" in str(error) else 422)
