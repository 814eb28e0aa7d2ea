"""The application: routes, errors and OpenAPI document, behind the gate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from .. import __version__
from . import jobroutes, maproutes, pages, routes, runroutes, tileroutes
from .gate import Gate
from .maps import Maps
from .problems import answer_errors
from .state import Service

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
            app.state.maps.close()
            await service.close()

    # The usual pages of documentation load scripts from elsewhere; the document itself is at /openapi.json.
    app = FastAPI(
        title="geoclass", version=__version__, description=ABOUT, docs_url=None, redoc_url=None, lifespan=lifespan,
        redirect_slashes=False,
    )  # fmt: skip
    app.state.service = service
    app.state.maps = Maps(service.settings.limits.examine_s)
    for part in (pages, routes, jobroutes, runroutes, maproutes, tileroutes):
        app.include_router(part.router)
    answer_errors(app)
    pages.mount(app)
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
