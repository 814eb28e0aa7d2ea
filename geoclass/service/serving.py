"""Open a service and answer until it is told to stop."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from ..environment import require_matching_torch
from ..errors import ServiceError
from ..history.registry import resolve
from .connection import Connection
from .folder import claim
from .settings import Settings

GRACE_S = 10
"""Seconds that answers in the making have when the service is told to stop."""


def serve(settings: Settings, ready: Callable[[str], None], log_level: str = "warning") -> None:
    """Serve until SIGINT or SIGTERM; `ready` is called with the address once requests are taken.

    Raises GeoclassError where the address is taken, the data folder in use, or a model is none.
    """
    if not settings.models:
        raise ServiceError("no model named; give one with --model m.pt")
    with _listen(settings) as listener, claim(settings.data):  # told at once, before torch is loaded
        for named in settings.models:
            if not (path := resolve(named)).is_file():
                raise ServiceError(f"no such model bundle: {path}; check --model, or make one with geoclass train")
        require_matching_torch()
        from .app import build_app
        from .state import open_service

        service = open_service(settings)
        answer(build_app(service), listener, settings.host, ready, log_level)


def answer(app: ASGIApp, listener: socket.socket, host: str, ready: Callable[[str], None], log_level: str) -> None:
    """Answer what comes to `listener` until SIGINT or SIGTERM; `ready` is called with the address."""
    config = uvicorn.Config(
        app,
        http=Connection,
        log_level=log_level,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who asks is who is connected; what a proxy says of others is not believed
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE_S,
        ws="none",
    )
    named = f"[{host}]" if ":" in host else host
    address = f"http://{named}:{listener.getsockname()[1]}"
    _Server(config, lambda: ready(address)).run(sockets=[listener])


def serve_app(
    make: Callable[[], ASGIApp], settings: Settings, ready: Callable[[str], None], log_level: str = "warning"
) -> None:
    """Answer with the application that `make` makes, until SIGINT or SIGTERM. Raises ServiceError where the address is taken."""
    with _listen(settings) as listener:
        answer(make(), listener, settings.host, ready, log_level)


class _Server(uvicorn.Server):
    """Says when it takes requests."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready()


def _listen(settings: Settings) -> socket.socket:
    """The socket, taken before anything is loaded: a wrong address is told at once."""
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((settings.host, settings.port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ServiceError(
            f"cannot listen on {settings.host}:{settings.port} ({reason}); give another --host or --port"
        ) from error
