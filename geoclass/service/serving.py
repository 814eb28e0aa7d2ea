"""Open a service and answer until it is told to stop."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn

from ..environment import require_matching_torch
from ..errors import ServiceError
from ..history.registry import resolve
from .folder import claim
from .settings import Settings

GRACE_S = 10
"""Seconds that answers in the making have when the service is told to stop."""


def serve(settings: Settings, ready: Callable[[str], None], log_level: str = "warning") -> None:
    """Serve until SIGINT or SIGTERM; `ready` is called with the address once requests are taken.

    Raises GeoclassError where the address is taken, the data folder in use, or a model is none.
    """
    with _listen(settings) as listener, claim(settings.data):  # told at once, before torch is loaded
        for named in settings.models:
            if not (path := resolve(named)).is_file():
                raise ServiceError(f"no such model bundle: {path}; check --model, or make one with geoclass train")
        require_matching_torch()
        from .app import build_app
        from .state import open_service

        service = open_service(settings)
        port = listener.getsockname()[1]
        config = uvicorn.Config(
            build_app(service),
            log_level=log_level,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # who asks is who is connected; what a proxy says of others is not believed
            timeout_keep_alive=30,
            timeout_graceful_shutdown=GRACE_S,
            ws="none",
        )
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        _Server(config, lambda: ready(f"http://{host}:{port}")).run(sockets=[listener])


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
