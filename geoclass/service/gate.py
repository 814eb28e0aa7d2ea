"""The gate: every request passes it before anything of it is read.

Host and Origin must be the service's own, the token must be right where one is needed, and bodies have a size and a
time. What leaves gets headers that keep browsers from doing anything with it but show it.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import socket
from collections.abc import Mapping
from time import monotonic
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .metrics import Metrics
from .refusal import Refusal
from .settings import Settings, is_loopback

OPEN_PATHS = ("/healthz", "/")
OPEN_FOLDER = "/static/"
"""The page's own files: they hold no data, and ask for the token."""
READING = ("GET", "HEAD", "OPTIONS")
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
SMALL_BODY = 64 * 1024
AREAS_BODY = 2 * 1024 * 1024
"""GeoJSON of areas, at /v1/jobs/{id}/statistics."""

SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self.app = app
        self.settings = settings
        self.metrics = metrics
        self.hosts = _own_hosts(settings)
        self.inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        answer = Answer(send, self.metrics, scope)
        self.inside += 1
        try:
            body = self._admit(scope)
            await self.app(scope, Body(receive, body, self._seconds(scope), self.settings.limits.idle_s), answer)
        except Refusal as refusal:
            await answer.refuse(refusal)
        finally:
            self.inside -= 1
            answer.count()

    def _admit(self, scope: Scope) -> int:
        """The most bytes its body may have. Raises Refusal for a request that may not come in."""
        headers = Headers(scope=scope)
        host = _host_of(headers)
        self._check_host(host)
        self._check_origin(headers, scope)
        if not self._may_be_unnamed(scope, headers, host) and not self._knows_token(headers):
            raise Refusal(
                401,
                "a token is needed, and none or a wrong one was given",
                "send it as Authorization: Bearer TOKEN; geoclass serve prints it when it starts",
                {"www-authenticate": "Bearer"},
            )
        if self.inside > self.settings.limits.requests:
            raise Refusal(429, "too many requests at once", "try again in a moment", {"retry-after": "1"})
        most = self._most_bytes(scope)
        announced = headers.get("content-length", "0")
        if not announced.isdecimal() or int(announced) > most:
            raise too_large(most)
        return most

    def _check_host(self, host: str) -> None:
        known = host in self.hosts or is_loopback(host)
        if not known and not self.settings.on_loopback:
            known = _is_address(host)  # an address cannot be rebound to another machine, as a name can
        if not known:
            raise Refusal(
                400, "this service does not go by the name in Host", "name it with geoclass serve --allow-host"
            )

    def _check_origin(self, headers: Headers, scope: Scope) -> None:
        """Pages of other sites may not speak to the service through a visitor's browser."""
        origin = headers.get("origin")
        foreign = origin is not None and _netloc(origin) != headers.get("host", "").lower()
        if scope["method"] not in READING and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            foreign = True
        if foreign:
            raise Refusal(403, "the request comes from a page of another site", "send it from a page of this service")

    def _may_be_unnamed(self, scope: Scope, headers: Headers, host: str) -> bool:
        path = scope["path"]
        if scope["method"] in READING and (path in OPEN_PATHS or path.startswith(OPEN_FOLDER)):
            return True
        client = scope.get("client")
        near = client is not None and is_loopback(client[0]) and is_loopback(host)
        forwarded = any(name in headers for name in FORWARDED)
        return self.settings.open_reads and scope["method"] in READING and near and not forwarded

    def _knows_token(self, headers: Headers) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode("utf-8", "replace"), self.settings.token.encode())
        return same and kind.lower() == "bearer"

    def _most_bytes(self, scope: Scope) -> int:
        limits = self.settings.limits
        most: Mapping[str, int] = {"/v1/predict": limits.predict_bytes, "/v1/classify": limits.upload_bytes}
        return most.get(scope["path"], AREAS_BODY if scope["path"].endswith("/statistics") else SMALL_BODY)

    def _seconds(self, scope: Scope) -> float:
        return self.settings.limits.upload_s if scope["path"] == "/v1/classify" else self.settings.limits.predict_s


class Body:
    """`receive` that counts: it raises Refusal (413, 408) once a body is too large or too slow."""

    def __init__(self, receive: Receive, most: int, seconds: float, idle_s: float) -> None:
        self.receive = receive
        self.most = most
        self.ends = monotonic() + seconds
        self.idle_s = idle_s
        self.got = 0
        self.whole = False

    async def __call__(self) -> Message:
        if self.whole:
            return await self.receive()
        try:
            wait = max(0.0, min(self.idle_s, self.ends - monotonic()))
            message = await asyncio.wait_for(self.receive(), wait)
        except TimeoutError as error:
            raise Refusal(
                408, "the body did not arrive in time", "send it again over a faster line", {"connection": "close"}
            ) from error
        self.got += len(message.get("body", b""))
        if self.got > self.most:
            raise too_large(self.most)
        self.whole = message["type"] != "http.request" or not message.get("more_body", False)
        return message


class Answer:
    """`send` with the security headers; counts the answer when it is over."""

    def __init__(self, send: Send, metrics: Metrics, scope: Scope) -> None:
        self.send = send
        self.metrics = metrics
        self.scope = scope
        self.status = 0
        self.begun = monotonic()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            there = {name.lower() for name, _ in message.get("headers", ())}
            added = [(k.encode(), v.encode()) for k, v in SECURITY_HEADERS.items() if k.encode() not in there]
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await self.send(message)

    async def refuse(self, refusal: Refusal) -> None:
        """Answer with the refusal, where nothing was answered yet."""
        if self.status:
            return
        body = json.dumps(refusal.body).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
        raw = [(k.encode(), v.encode("latin-1", "replace")) for k, v in headers.items()]
        await self({"type": "http.response.start", "status": refusal.status, "headers": raw})
        await self({"type": "http.response.body", "body": body})

    def count(self) -> None:
        route = getattr(self.scope.get("route"), "path", "other")
        self.metrics.answered(route, self.status, monotonic() - self.begun)


def too_large(most: int) -> Refusal:
    """The refusal of a body above `most` bytes."""
    return Refusal(
        413,
        f"the request is larger than {most:,} bytes",
        "send less at once, or let the service's owner raise its limits",
        {"connection": "close"},
    )


def _own_hosts(settings: Settings) -> set[str]:
    if settings.on_loopback:
        return {host.lower() for host in settings.hosts}
    return {host.lower() for host in (*settings.hosts, settings.host, socket.gethostname(), socket.getfqdn())}


def _host_of(headers: Headers) -> str:
    """The Host header without its port."""
    given = headers.get("host", "").lower()
    if given.startswith("["):
        return given.partition("]")[0].lstrip("[")
    return given.partition(":")[0]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _netloc(url: str) -> str:
    """The host and port of an Origin; nothing for what is no URL, as `null`."""
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:  # of unmatched brackets
        return ""
