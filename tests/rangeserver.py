"""A server of files on localhost that understands byte ranges, counts what it sends, and fails on request.

It is a process of its own: GDAL asks for some headers while it keeps Python from running, and would wait for a server in
the same process for ever. Run as `rangeserver.py FOLDER`, it prints its port, then obeys lines of JSON.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Fault = str | int | None
"""What happens to a request: an HTTP status; "cut" or "stall", half of the body and then the end, or silence."""


@dataclass(frozen=True)
class Traffic:
    """What was asked: (path with query, first byte, last byte or -1 for all) of each request; statuses of the answers,
    bytes of bodies sent, most requests at once, and `rounds` of waiting: how often a request met no other on its way."""

    requests: tuple[tuple[str, int, int], ...]
    statuses: tuple[int, ...]
    body_bytes: int
    most_at_once: int
    rounds: int


class RangeServer:
    """The test's side of a server. What is set lasts until it is set again."""

    def __init__(self, root: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"

    def fail(self, *faults: Fault, times: int | None = None) -> None:
        """Give these fates to the coming requests in turn; to the first `times` requests only, where that is given."""
        self._say(faults=faults, times=times)

    def slow(self, latency_s: float) -> None:
        """Wait before each answer."""
        self._say(latency_s=latency_s)

    def ask_for(self, query: str) -> None:
        """Refuse (403) whoever does not give this query string."""
        self._say(query=query)

    def without_ranges(self) -> None:
        """Send whole files, whatever was asked."""
        self._say(ranges=False)

    def forget(self) -> None:
        """Count from nothing again."""
        self._say(forget=True)

    @property
    def traffic(self) -> Traffic:
        told = self._say()
        requests = tuple((str(path), int(first), int(last)) for path, first, last in told.pop("requests"))
        return Traffic(requests, tuple(told.pop("statuses")), **told)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _say(self, **words: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        told: dict[str, Any] = json.loads(self._process.stdout.readline())
        return told


@contextmanager
def serving(root: Path) -> Iterator[RangeServer]:
    """A running server of the files under `root`."""
    server = RangeServer(root)
    try:
        yield server
    finally:
        server.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.lock = threading.Lock()
        self.rules: dict[str, Any] = {"faults": [], "times": None, "latency_s": 0.0, "query": None, "ranges": True}
        self.forget()

    def forget(self) -> None:
        self.count: dict[str, Any] = {"requests": [], "statuses": [], "body_bytes": 0, "most_at_once": 0, "rounds": 0}
        self.at_once, self.since_fault = 0, 0

    def fault(self) -> Fault:
        faults, times = self.rules["faults"], self.rules["times"]
        number, self.since_fault = self.since_fault, self.since_fault + 1
        return None if not faults or (times is not None and number >= times) else faults[number % len(faults)]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up early is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        server = self.server
        first, last = self._range()
        with server.lock:
            count, fault = server.count, server.fault()
            count["requests"].append((self.path, first, last))
            count["rounds"] += server.at_once == 0
            server.at_once += 1
            count["most_at_once"] = max(count["most_at_once"], server.at_once)
        try:
            time.sleep(server.rules["latency_s"])
        finally:
            with server.lock:
                server.at_once -= 1
        self._answer(first, last, fault)

    do_HEAD = do_GET  # noqa: N815  (the base class's name)

    def _range(self) -> tuple[int, int]:
        found = re.match(r"bytes=(\d+)-(\d*)$", self.headers.get("Range", "")) if self.server.rules["ranges"] else None
        return (int(found[1]), int(found[2] or 1 << 60)) if found else (0, -1)

    def _answer(self, first: int, last: int, fault: Fault) -> None:
        parts, wanted = urlsplit(self.path), self.server.rules["query"]
        path = self.server.root / parts.path.lstrip("/")
        if isinstance(fault, int):
            return self._send(fault, b"", {}, None)
        if wanted is not None and parts.query != wanted:
            return self._send(403, b"", {}, None)
        if not path.is_file():
            return self._send(404, b"", {}, None)
        size, whole = path.stat().st_size, last < 0
        if not whole and first >= size:
            return self._send(416, b"", {}, None)
        last = size - 1 if whole else min(last, size - 1)
        with path.open("rb") as stream:
            stream.seek(first)
            body = stream.read(last - first + 1)
        headers = {} if whole else {"Content-Range": f"bytes {first}-{last}/{size}"}
        self._send(200 if whole else 206, body, headers, fault)

    def _send(self, status: int, body: bytes, headers: dict[str, str], fault: Fault) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if self.server.rules["ranges"]:
            self.send_header("Accept-Ranges", "bytes")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        sent = b"" if self.command == "HEAD" else body if fault is None else body[: len(body) // 2]
        with self.server.lock:
            self.server.count["statuses"].append(status)
            self.server.count["body_bytes"] += len(sent)
        self.wfile.write(sent)
        self.wfile.flush()
        if fault is not None:
            time.sleep(3600 if fault == "stall" else 0)
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Tests are quiet."""


def obey(server: _Server, words: dict[str, Any]) -> dict[str, Any]:
    """Carry out what the test says; tell the traffic."""
    with server.lock:
        if words.pop("forget", False):
            server.forget()
        if "faults" in words:
            server.since_fault = 0
        server.rules.update(words)
        return dict(server.count)


if __name__ == "__main__":
    running = _Server(Path(sys.argv[1]))
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    sys.stdout.write(f"{running.server_address[1]}\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(obey(running, json.loads(line))) + "\n")
        sys.stdout.flush()
