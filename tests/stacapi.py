"""A STAC API on localhost: item search with paging, collections, and the Planetary Computer's service of signatures."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import shapely

CONFORMS = [
    "https://api.stacspec.org/v1.0.0/core",
    "https://api.stacspec.org/v1.0.0/item-search",
    "https://api.stacspec.org/v1.0.0/item-search#query",
    "https://api.stacspec.org/v1.0.0/collections",
]
Json = dict[str, Any]


class StacApi(ThreadingHTTPServer):
    """Finds among `items`, two a page. `faults` are statuses of the next answers; `searches` is what was asked."""

    daemon_threads = True
    page = 2

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.items: list[Json] = []
        self.faults: list[int] = []
        self.searches: list[Json] = []
        self.token = "se=2100-01-01&sig=TopSecretToken{}"
        self.tokens_given = 0
        self.lasts = timedelta(hours=1)

    def add(self, item: Json) -> Json:
        """Take an item in, with the links that a service gives it."""
        address = f"{self.url}/collections/{item['collection']}"
        item["links"] = [
            {"rel": "self", "href": f"{address}/items/{item['id']}"},
            {"rel": "collection", "href": address},
            {"rel": "root", "href": f"{self.url}/"},
        ]
        self.items.append(item)
        return item

    def found(self, asked: Json) -> list[Json]:
        area = shapely.from_geojson(json.dumps(asked["intersects"]))
        first, _, last = asked["datetime"].partition("/")
        most = asked.get("query", {}).get("eo:cloud_cover", {}).get("lte", 100)
        return [
            item
            for item in self.items
            if item["collection"] in asked["collections"]
            and shapely.from_geojson(json.dumps(item["geometry"])).intersects(area)
            and first <= item["properties"]["datetime"] <= (last or first)
            and item["properties"].get("eo:cloud_cover", 0) <= most
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StacApi

    def do_GET(self) -> None:
        if self.server.faults:
            return self._tell({"code": "Busy"}, self.server.faults.pop(0))
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts == [""]:
            return self._tell(self._landing())
        if parts[0] == "token":
            return self._token()
        known = {item["collection"] for item in self.server.items}
        if parts[0] == "collections" and len(parts) == 4:
            items = [item for item in self.server.items if item["id"] == parts[3]]
            return self._tell(items[0]) if items else self._tell({"code": "NotFound"}, 404)
        if parts[0] == "collections" and len(parts) == 2 and parts[1] in known:
            return self._tell({"type": "Collection", "id": parts[1], "links": []})
        self._tell({"code": "NotFound"}, 404)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.faults:
            return self._tell({"code": "Busy"}, self.server.faults.pop(0))
        self.server.searches.append(asked)
        found, start = self.server.found(asked), int(asked.get("token", 0))
        shown, after = found[start : start + self.server.page], start + self.server.page
        links = []
        if after < len(found):
            body = {**asked, "token": str(after)}
            links = [{"rel": "next", "href": f"{self.server.url}/search", "method": "POST", "body": body}]
        self._tell({"type": "FeatureCollection", "features": shown, "links": links})

    def _landing(self) -> Json:
        return {
            "type": "Catalog", "id": "made", "stac_version": "1.0.0", "description": "made", "conformsTo": CONFORMS,
            "links": [
                {"rel": "self", "href": f"{self.server.url}/"},
                {"rel": "root", "href": f"{self.server.url}/"},
                {"rel": "data", "href": f"{self.server.url}/collections"},
                {"rel": "search", "href": f"{self.server.url}/search", "method": "POST", "type": "application/geo+json"},
            ],
        }  # fmt: skip

    def _token(self) -> None:
        self.server.tokens_given += 1
        ends = (datetime.now(UTC) + self.server.lasts).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._tell({"msft:expiry": ends, "token": self.server.token.format(self.server.tokens_given)})

    def _tell(self, content: Json, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Tests are quiet."""


@contextmanager
def stac_api() -> Iterator[StacApi]:
    """A running API without items."""
    server = StacApi()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
