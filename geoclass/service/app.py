"""The application: routes, errors and OpenAPI document, behind the gate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp

from .. import __version__
from . import jobroutes, routes, runroutes
from .gate import Gate
from .problems import answer_errors
from .state import Service

STATIC = Path(__file__).resolve().parent / "static"
"""Files of a front end, served under /static where there are any."""

ABOUT = """Land-cover classes of pictures at once (`/v1/predict`), and maps of scenes as jobs (`/v1/classify`).

Send the token that `geoclass serve` printed as `Authorization: Bearer TOKEN`. On the machine itself reading needs none.
Every refusal is JSON with `error` and `remedy`."""


def build_app(service: Service) -> ASGIApp:
    """The ASGI application of an open service. It closes the service when it shuts down."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.crew.start()
        try:
            yield
        finally:
            await service.close()

    # The usual pages of documentation load scripts from elsewhere; the document itself is at /openapi.json.
    app = FastAPI(
        title="geoclass", version=__version__, description=ABOUT, docs_url=None, redoc_url=None, lifespan=lifespan,
        redirect_slashes=False,
    )  # fmt: skip
    app.state.service = service
    app.include_router(routes.router)
    app.include_router(jobroutes.router)
    app.include_router(runroutes.router)
    answer_errors(app)
    if STATIC.is_dir():
        app.mount("/static", StaticFiles(directory=STATIC))
    _describe(app)
    return Gate(app, service.settings, service.metrics)


def _describe(app: FastAPI) -> None:
    """Complete the OpenAPI document: how the token is sent."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes["token"] = {"type": "http", "scheme": "bearer"}
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend the document
