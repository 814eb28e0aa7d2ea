"""STAC items and lists of items as files: what of them is needed here, strictly read."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urljoin, urlsplit

import pydantic

from ..errors import SceneError
from ..remote.names import gdal_name, is_remote, over_network, shown

SUFFIXES = (".json", ".geojson")
IMAGERY = (".tif", ".tiff", ".vrt", ".jp2", ".j2k", ".img", ".png", ".jpg", ".jpeg")
LARGEST_BYTES = 512 << 20
TIMEOUT_S = 30
TRIES = 3
KEEP_CLOUDS = "geoclass:keep_clouds"
"""A list with this set to true is read without regard to the items' quality files."""


class BandInfo(pydantic.BaseModel, frozen=True, extra="ignore"):
    """What an item says of one band of an asset."""

    name: str | None = None
    common_name: str | None = None
    data_type: str | None = None
    scale: float | None = None
    offset: float | None = None


class Asset(pydantic.BaseModel, frozen=True, extra="ignore"):
    """One file of an item. `bands` are empty where the item says nothing of them."""

    href: str
    type: str = ""
    roles: tuple[str, ...] = ()
    bands: tuple[BandInfo, ...] = ()

    @pydantic.model_validator(mode="before")
    @classmethod
    def _gathered(cls, value: Any) -> Any:
        """Bands from STAC 1.1's `bands`, or from the extensions `eo` and `raster` of 1.0, item by item."""
        if not isinstance(value, Mapping):
            return value
        lists = [value.get(key) or [] for key in ("bands", "eo:bands", "raster:bands")]
        if not all(isinstance(each, list) and all(isinstance(band, Mapping) for band in each) for each in lists):
            raise ValueError("its bands are no list of objects")
        most = max(map(len, lists))
        bands = [{k: v for each in lists if n < len(each) for k, v in _plain(each[n]).items()} for n in range(most)]
        known = {key: value[key] for key in ("href", "type", "roles") if value.get(key) is not None}
        return {**known, "bands": [{**_plain(value, asset=True), **band} for band in bands]}


class Item(pydantic.BaseModel, frozen=True, extra="ignore"):
    """One STAC item. `links` are the addresses it was found by."""

    id: str = pydantic.Field(min_length=1)
    collection: str | None = None
    properties: Mapping[str, Any]
    assets: Mapping[str, Asset]
    links: tuple[str, ...] = ()

    @pydantic.field_validator("links", mode="before")
    @classmethod
    def _addresses(cls, value: Any) -> Any:
        return [link["href"] for link in value or [] if isinstance(link, Mapping) and isinstance(link.get("href"), str)]

    @property
    def date(self) -> str | None:
        """The ISO day it was taken on, or None."""
        for key in ("datetime", "start_datetime"):
            text = str(self.properties.get(key) or "")
            if len(text) >= 10:
                return text[:10]
        return None

    @property
    def cloud(self) -> float | None:
        """Per cent of the item under cloud, or None where it does not say."""
        return number(self.properties.get("eo:cloud_cover"))


class Listing(pydantic.BaseModel, frozen=True, extra="ignore"):
    """Items in the order of their file."""

    items: tuple[Item, ...]
    keep_clouds: bool = False


def is_document(name: str) -> bool:
    """Whether an input names a STAC item or list: a .json file, or the address of an item of a STAC API."""
    if name.startswith("<"):
        return False
    path = urlsplit(shown(name)).path if is_remote(name) else name
    if path.lower().endswith(SUFFIXES):
        return True
    # An API's address of an item has no suffix, or its id happens to hold a dot; imagery in a folder of that name has one.
    of_an_api = name.lower().startswith(("http://", "https://")) and PurePosixPath(path).parent.name == "items"
    return of_an_api and not path.lower().endswith(IMAGERY)


def read_listing(name: str) -> Listing:
    """The items in a file or at an address. Raises SceneError for what is no STAC item or list of items."""
    where = shown(name)
    try:
        content = json.loads(_fetched(name) if is_remote(name) else _local(name))
    except (ValueError, RecursionError) as error:
        raise SceneError(f"{where} is not valid JSON ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise SceneError(f"{where} is no STAC item or list of items; make one with geoclass fetch")
    features = content.get("features") if content.get("type") == "FeatureCollection" else [content]
    if not isinstance(features, list) or not features:
        raise SceneError(f"{where} lists no item; run geoclass fetch with other dates or another AOI")
    items = tuple(_item(feature, name) for feature in features)
    return Listing(items=items, keep_clouds=content.get(KEEP_CLOUDS) is True)


def number(value: Any) -> float | None:
    """`value` where it is a number."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _item(feature: Any, name: str) -> Item:
    if not isinstance(feature, dict) or feature.get("type") != "Feature" or "assets" not in feature:
        kind = feature.get("type") if isinstance(feature, dict) else type(feature).__name__
        raise SceneError(
            f"{shown(name)} holds a {kind or 'thing'} without assets and is no STAC item; make a list with geoclass fetch"
        )
    try:
        item = Item.model_validate(feature)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise SceneError(
            f"item {feature.get('id')} of {shown(name)}: {field}: {first['msg']}; fetch the list again"
        ) from error
    assets = {key: asset.model_copy(update={"href": _absolute(asset.href, name)}) for key, asset in item.assets.items()}
    return item.model_copy(update={"assets": assets})


def _absolute(href: str, document: str) -> str:
    """An asset's address; relative ones count from the document."""
    if is_remote(href) or Path(href).is_absolute():
        return href
    if is_remote(document):
        return urljoin(document, href)
    return str(Path(document).parent / href)


def _plain(band: Mapping[str, Any], asset: bool = False) -> dict[str, Any]:
    """The keys of `BandInfo` in what an item says of a band, whichever extension they are from."""
    names = () if asset else ("name", "common_name", "eo:common_name")
    keys = (*names, "data_type", "scale", "offset", "raster:scale", "raster:offset")
    return {key.rpartition(":")[2]: band[key] for key in keys if band.get(key) is not None}


def _local(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise SceneError(f"cannot read {name}: {error.strerror}; check the path") from error


def _fetched(name: str) -> bytes:
    """What is at an http address. Raises SceneError; failures that may pass are tried again."""
    from ..remote.failures import AGAIN, failure_of
    from ..remote.opening import pause

    if not name.lower().startswith(("http://", "https://")):
        what = gdal_name(name).split("/")[1] if over_network(name) else "a virtual file"
        raise SceneError(f"{shown(name)} is a list on {what}; download it, and name it by its path")
    for attempt in range(TRIES):
        try:
            request = urllib.request.Request(name, headers={"Accept": "application/geo+json, application/json"})
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                content: bytes = answer.read(LARGEST_BYTES)
                promised = answer.headers.get("Content-Length")
                if promised and len(content) < min(int(promised), LARGEST_BYTES):  # of which `read` says nothing
                    raise ConnectionError(f"the connection was cut after {len(content):,} of {int(promised):,} bytes")
                return content
        except urllib.error.HTTPError as error:
            text, final = f"HTTP response code: {error.code}", error.code not in AGAIN
        except http.client.HTTPException as error:
            text, final = f"the connection was cut ({type(error).__name__})", False
        except (OSError, ValueError) as error:
            text, final = f"{getattr(error, 'reason', None) or error}", False
            if "getaddrinfo" in text or "not known" in text or "resolution" in text:
                text, final = "Could not resolve host", True
        if final or attempt == TRIES - 1:
            raise failure_of(text, name).error(name)
        pause(attempt)
    raise AssertionError("unreachable")
