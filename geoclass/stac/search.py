"""Search a STAC API for imagery of an area and a time, and keep what was found as a list of items."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date as Day  # noqa: N812  (`date` is what is asked for here)
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pydantic
import pyproj
import shapely

from ..aoi import aoi_area, read_aoi
from ..errors import GeoclassError, SceneError
from ..files import replacing
from ..remote.names import unsigned
from ..sensors import sensor_of_collection
from .documents import KEEP_CLOUDS, Item, number

EQUAL_AREA = "EPSG:6933"
PAGE = 100
MOST_ITEMS = 1000
MOST_CORNERS = 500
"""An outline of more corners is searched for by its hull, and what was found compared with the outline itself: services
refuse long questions."""
HALF_TURN = 180.0
TIMEOUT_S = 60
TRIES = 4

Json = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """`items` as the API gave them, without signatures. `cover` is the share of the AOI that they show, `more` says that
    the API has further ones beyond the limit, `cloudier` counts those left out for clouds or for a clearer one of their
    tile."""

    items: tuple[Json, ...]
    api: str
    collection: str
    cover: float
    more: bool = False
    cloudier: int = 0

    @property
    def dates(self) -> tuple[str, ...]:
        """Days of the items, sorted, each once."""
        days = {str(item["properties"].get(key))[:10] for item in self.items for key in ("datetime",)} - {"None"}
        return tuple(sorted(days))

    @property
    def clouds(self) -> tuple[float, ...]:
        """Per cent under cloud of the items that say so, ascending."""
        values = (number(item["properties"].get("eo:cloud_cover")) for item in self.items)
        return tuple(sorted(value for value in values if value is not None))


def search(
    collection: str,
    aoi: str | Path,
    date: str,
    *,
    api: str | None = None,
    max_cloud: float | None = None,
    per_tile: int | None = 1,
    limit: int = MOST_ITEMS,
) -> Found:
    """Items of `collection` that touch the AOI, taken at `date`: a day, month or year, or two of them with a slash between.

    Of items in Sentinel-2's tiles the `per_tile` with the most clear ground in the AOI are kept (None keeps all), and only
    those with at most `max_cloud` per cent of cloud. Raises GeoclassError for bad arguments, GridError for the AOI, and
    SceneError where the API cannot be asked or has nothing.
    """
    address = api or _default_api(collection)
    _require_date(date)
    outlines = read_aoi(aoi, pyproj.CRS.from_epsg(4326))
    area = aoi_area(outlines.set_geometry(outlines.geometry.map(unwrapped)))
    items, more = _asked(address, collection, area, date, max_cloud, limit)
    touching = [item for item in items if _outline(item).intersects(area)]
    clear = [item for item in touching if max_cloud is None or (_cloud(item) or 0.0) <= max_cloud]
    kept = _clearest(clear, area, per_tile)
    if not kept:
        left_out = f" with at most {max_cloud:g} % of cloud" if max_cloud is not None else ""
        raise SceneError(
            f"{_host(address)} has no item of {collection} at {date} over {aoi}{left_out}; give other dates (NAIP flies a state "
            "every two or three years), another --collection, or a larger --max-cloud"
        )
    cover = _cover(kept, area)
    return Found(tuple(map(_unsigned, kept)), address, collection, cover, more, len(touching) - len(kept))


def write_items(found: Found, path: str | Path, *, keep_clouds: bool = False, overwrite: bool = False) -> Path:
    """Write a STAC ItemCollection, whole or not at all. Raises OutputError.

    With `keep_clouds` it says that ground under cloud is to be read as well.
    """
    content = {"type": "FeatureCollection", "features": list(found.items), "links": [], KEEP_CLOUDS: keep_clouds}
    with replacing(Path(path), overwrite) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return Path(path)


def _default_api(collection: str) -> str:
    sensor = sensor_of_collection(collection)
    if sensor is None or sensor.stac is None or sensor.stac.api is None:
        raise GeoclassError(f"no STAC API is known here for the collection {collection!r}; name one with --api URL")
    return sensor.stac.api


def _require_date(date: str) -> None:
    one = r"\d{4}(-\d\d(-\d\d)?)?"
    if not re.fullmatch(rf"{one}(/{one})?|{one}/\.\.|\.\./{one}", date):
        raise GeoclassError(
            f"--date is {date!r}; give 2016, 2016-07, 2016-07-14, or two of them as 2016-06-01/2016-08-31"
        )
    first, _, last = date.partition("/")
    for each in {first, last} - {"", ".."}:
        try:
            Day.fromisoformat(f"{each}-01-01"[:10])
        except ValueError as error:
            raise GeoclassError(f"--date is {date!r}: there is no such day; give a day of the calendar") from error
    if ".." not in (first, last) and last and first > f"{last}-99-99"[:10]:
        raise GeoclassError(f"--date is {date!r}, which ends before it begins; give the earlier of the two first")


def _asked(
    api: str, collection: str, area: shapely.Geometry, date: str, max_cloud: float | None, limit: int
) -> tuple[list[Json], bool]:
    """(items, whether there are more) as the API gives them, sorted by id."""
    try:
        from pystac_client import Client
        from pystac_client.exceptions import APIError
        from pystac_client.stac_api_io import StacApiIO
        from pystac_client.warnings import DoesNotConformTo
        from urllib3 import Retry
    except ImportError as error:
        raise GeoclassError("searching needs pystac-client; pip install 'geoclass[stac]'") from error
    again = Retry(total=TRIES, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), allowed_methods=None)
    asked: dict[str, Any] = {
        "collections": [collection],
        "intersects": _question(area),
        "datetime": date,
        "limit": PAGE,
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what an API does not conform to; what matters here is asked for below
            client = Client.open(api, stac_io=StacApiIO(timeout=TIMEOUT_S, max_retries=again))
            if max_cloud is not None and client.conforms_to("QUERY"):
                asked["query"] = {"eo:cloud_cover": {"lte": max_cloud}}
            answers = client.search(max_items=limit + 1, **asked).items_as_dicts()
            items = list(islice(answers, limit + 1))
    except APIError as error:
        raise _refused(api, collection, error) from None  # its text may be a page
    except DoesNotConformTo as error:
        raise SceneError(
            f"{_host(api)} has a catalog without a search; give --api the address of a STAC API"
        ) from error
    except Exception as error:  # pystac and pystac-client each raise their own types, and bare ones, for other JSON
        raise SceneError(f"{_host(api)} does not answer as a STAC API ({type(error).__name__}); check --api") from error
    for item in items:
        _require_item(item, api)
    return sorted(items[:limit], key=lambda item: str(item["id"])), len(items) > limit


def _require_item(item: Any, api: str) -> None:
    """Refuse now what a list of items would be refused for."""
    try:
        Item.model_validate(item)
    except pydantic.ValidationError as error:
        first, name = error.errors()[0], item.get("id") if isinstance(item, dict) else None
        field = ".".join(str(part) for part in first["loc"])
        raise SceneError(
            f"{_host(api)} gives item {name}, which is no STAC item: {field}: {first['msg']}; name another --api, or other dates"
        ) from error


def _refused(api: str, collection: str, error: Exception) -> SceneError:
    status, text = getattr(error, "status_code", None), " ".join(str(error).split())
    if status in (401, 403):
        return SceneError(f"{_host(api)} refuses access (HTTP {status}); check --api, or whether it needs an account")
    if status == 404 or "collection" in text.lower():
        return SceneError(
            f"{_host(api)} has no STAC search for {collection} (HTTP {status}); check --api and --collection"
        )
    why = f"HTTP {status}" if status else re.split(r"[(:]", text)[0][:60] or "no connection"
    return SceneError(f"{_host(api)} cannot be asked ({why}); check --api and the network, or try again later")


def _question(area: shapely.Geometry) -> Json:
    if shapely.get_num_coordinates(area) > MOST_CORNERS or area.geom_type == "GeometryCollection":
        parts = [part for part in shapely.get_parts(area) if part.area > 0]
        # One hull of what lies on both sides of the antimeridian would reach around the globe.
        west = [part for part in parts if part.bounds[0] < -HALF_TURN / 2]
        east = [part for part in parts if part.bounds[0] >= -HALF_TURN / 2]
        area = shapely.union_all([shapely.union_all(side).convex_hull for side in (west, east)])
    shape: Json = json.loads(shapely.to_geojson(area))
    return shape


def unwrapped(shape: shapely.Geometry) -> shapely.Geometry:
    """`shape` (degrees) with each outline that crosses the antimeridian cut there in two.

    Such an outline is known by an edge of more than 180 degrees, as a projected one gets when it is brought into degrees.
    One around a pole, and one from -180 to 180, stay as they are.
    """
    if shape.is_empty or not _jumps(shape):
        return shape
    parts = [part for part in shapely.get_parts(shape) if part.geom_type in ("Polygon", "MultiPolygon")]
    polygons = [polygon for part in parts for polygon in shapely.get_parts(part)]
    return shapely.union_all([_cut(polygon) for polygon in polygons])


def _cut(polygon: shapely.Polygon) -> shapely.Geometry:
    left, _, right, _ = polygon.bounds
    onward = shapely.transform(polygon, lambda x, y: (x % (2 * HALF_TURN), y), interleaved=False)
    if not _jumps(polygon) or right - left >= 2 * HALF_TURN or _jumps(onward):
        return shapely.make_valid(polygon)
    onward = shapely.make_valid(onward)
    east = onward.intersection(shapely.box(0, -90, HALF_TURN, 90))
    beyond = onward.intersection(shapely.box(HALF_TURN, -90, 2 * HALF_TURN, 90))
    west = shapely.transform(beyond, lambda x, y: (x - 2 * HALF_TURN, y), interleaved=False)
    return shapely.union_all([side for side in (east, west) if side.area > 0])


def _jumps(shape: shapely.Geometry) -> bool:
    """Whether an edge is longer than half a turn."""
    rings = [ring for part in shapely.get_parts(shape) for ring in shapely.get_rings(part)]
    return any(np.abs(np.diff(shapely.get_coordinates(ring)[:, 0])).max() > HALF_TURN for ring in rings)


def _outline(item: Json) -> shapely.Geometry:
    """The ground an item has data on, in degrees; empty where it does not say."""
    try:
        return shapely.make_valid(unwrapped(shapely.from_geojson(json.dumps(item["geometry"]))))
    except (KeyError, shapely.GEOSException):
        return shapely.Polygon()


def _cloud(item: Json) -> float | None:
    return number(item["properties"].get("eo:cloud_cover"))


def _clearest(items: Sequence[Json], area: shapely.Geometry, per_tile: int | None) -> list[Json]:
    """Of each of Sentinel-2's tiles the items with the most clear ground in the area; all items that are in none."""
    tiles: dict[str, list[Json]] = {}
    kept = []
    for item in items:
        tile = mgrs_tile(item["properties"])
        if tile is None or per_tile is None:
            kept.append(item)
        else:
            tiles.setdefault(tile, []).append(item)
    for group in tiles.values():
        kept += sorted(group, key=lambda item: (-_clear(item, area), str(item["id"])))[:per_tile]
    return sorted(kept, key=lambda item: str(item["id"]))


def _clear(item: Json, area: shapely.Geometry) -> float:
    share = 1 - (_cloud(item) or 0.0) / 100
    return float(round(_outline(item).intersection(area).area * share, 12))


def mgrs_tile(properties: Mapping[str, Any]) -> str | None:
    """The MGRS tile that an item's properties name (33UUU), in any of the ways in use, or None."""
    code = str(properties.get("grid:code") or properties.get("s2:mgrs_tile") or "")
    if found := re.search(r"(\d{1,2}[A-Z]{3})$", code):
        return found[1].zfill(5)
    parts = [properties.get(f"mgrs:{key}") for key in ("utm_zone", "latitude_band", "grid_square")]
    return f"{parts[0]}{parts[1]}{parts[2]}".zfill(5) if all(parts) else None


def _cover(items: Sequence[Json], area: shapely.Geometry) -> float:
    move = pyproj.Transformer.from_crs(4326, EQUAL_AREA, always_xy=True)

    def hectares(shape: shapely.Geometry) -> float:
        return float(shapely.transform(shape, lambda x, y: move.transform(x, y), interleaved=False).area)

    shown = shapely.union_all([_outline(item) for item in items]).intersection(area)
    return min(1.0, hectares(shown) / hectares(area))


def _unsigned(item: Json) -> Json:
    """The item without signatures in the addresses of its assets: they run out, and are nobody else's business."""
    assets = {key: {**asset, "href": unsigned(asset["href"])} for key, asset in item.get("assets", {}).items()}
    return {**item, "assets": assets}


def _host(api: str) -> str:
    return urlsplit(api).hostname or api
