"""The map page, in a real Chromium, against places computed with PROJ and colours known from the labels."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import folium
import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely
from PIL import Image
from playwright.sync_api import Browser, Page

from geoclass.errors import OutputError
from geoclass.grid import TileGrid, TileRange
from geoclass.labels import Labels
from geoclass.outputs.colours import SAFE, TOO_NEAR, nearest_pair, reader_colours
from geoclass.outputs.lattice import LATTICE_ERROR, Lattice
from geoclass.outputs.webmap import BASEMAPS, build_map, write_map
from geoclass.schemes import ClassScheme, LandClass, load_scheme

DESK = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}
# The pixel of a layer's canvas (0 preview, 1 classes) under a place.
PIXEL = """([layer, lat, lng]) => {
    const { map, page } = geoclass;
    const drawn = layer ? page.classes : page.preview;
    const at = map.latLngToLayerPoint([lat, lng]).subtract(drawn._bounds.min).multiplyBy(drawn._ratio);
    const copy = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    copy.drawImage(drawn._container, -Math.floor(at.x), -Math.floor(at.y));
    return [...copy.getImageData(0, 0, 1, 1).data];
}"""


def make_labels(
    columns: int = 32,
    rows: int = 24,
    *,
    scheme: ClassScheme | None = None,
    crs: str = "EPSG:26919",
    left: int = 1400,
    bottom: int = 20876,
    missing: float = 0.0,
    seed: int = 0,
    **info: Any,
) -> Labels:
    """Random probabilities over a block of tiles, a share `missing` of which is left out (never the corners)."""
    rng = np.random.default_rng(seed)
    scheme = scheme or load_scheme("rsscn7")
    column, line = np.meshgrid(np.arange(columns), np.arange(rows))
    there = rng.random((rows, columns)) >= missing
    there[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    raw = np.exp(rng.normal(0, 2, (int(there.sum()), len(scheme))))
    return Labels(
        TileGrid(pyproj.CRS(crs)),
        scheme,
        column[there] + left,
        bottom + rows - 1 - line[there],
        (raw / raw.sum(axis=1, keepdims=True)).astype(np.float32),
        rng.uniform(0.5, 1, len(raw)).astype(np.float32),
        info=info,
    )


def places(labels: Labels, across: Any = 0.5, up: Any = 0.5) -> np.ndarray[Any, Any]:
    """(N, 2) latitude and longitude of points inside the tiles, by PROJ; shares of a side from the south-west."""
    to_degrees = pyproj.Transformer.from_crs(labels.grid.crs, "EPSG:4326", always_xy=True)
    longitude, latitude = to_degrees.transform(
        (labels.columns + across) * labels.grid.side, (labels.rows + up) * labels.grid.side
    )
    return np.stack([latitude, longitude], axis=1)


class Seen(list[str]):
    """What the page asked for beyond itself, and what it complained about."""


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., tuple[Page, Seen]]]:
    """Write a map, open it from disk without a network, and wait until it is ready."""
    contexts = []

    def opener(labels: Labels, view: dict[str, int] = DESK, phone: bool = False, **options: Any) -> tuple[Page, Seen]:
        path = tmp_path / "map.html"
        write_map(path, labels, **options)
        context = browser.new_context(
            viewport={"width": view["width"], "height": view["height"]}, has_touch=phone, is_mobile=phone, offline=True
        )
        contexts.append(context)
        page, seen = context.new_page(), Seen()
        page.on("console", lambda message: seen.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: seen.append(f"error: {error}"))
        page.on("request", lambda request: request.url[:5] != "data:" and seen.append(request.url))
        page.goto(path.as_uri())
        wait_until(page, "window.geoclass !== undefined")
        assert seen[:1] == [path.as_uri()]
        del seen[0]
        return page, seen

    yield opener
    for context in contexts:
        context.close()


def wait_until(page: Page, expression: str) -> None:
    """Wait for a condition. The page's policy forbids the evaluation that playwright's own waiting relies on."""
    for _ in range(200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never became true: {expression}")


def tiles_at(page: Page, points: Any) -> list[Any]:
    return list(
        page.evaluate("points => points.map(([lat, lng]) => geoclass.tileAt(lat, lng))", np.asarray(points).tolist())
    )


def screen_point(page: Page, place: Any) -> tuple[float, float]:
    x, y = page.evaluate(
        "place => { const p = geoclass.map.latLngToContainerPoint(place); return [p.x, p.y]; }", list(place)
    )
    return x, y


# ---- a county of 67,000 tiles


@pytest.fixture(scope="module")
def county() -> Labels:
    return make_labels(260, 258, left=1600, bottom=20000, name="York", date="2016-07-21")


def test_a_county_fits_three_megabytes_and_opens_offline(show: Any, county: Labels, tmp_path: Path) -> None:
    page, seen = show(county)
    page.wait_for_timeout(300)
    assert seen == []
    assert len(county) == 67_080
    assert (tmp_path / "map.html").stat().st_size <= 3_000_000
    assert page.evaluate("geoclass.ready") < 10_000
    assert page.inner_text("h1") == "York"
    assert "67,080 tiles" in page.inner_text("#gc-sub")


def test_every_place_of_a_county_answers_with_its_tile(show: Any, county: Labels) -> None:
    page, _ = show(county)
    # Corner and middle tiles entirely, and 3,000 others, up to 1 % of the side from the edge.
    rng = np.random.default_rng(1)
    some = np.r_[0, 259, len(county) - 260, len(county) - 1, len(county) // 2 + 130, rng.integers(0, len(county), 3000)]
    chosen = Labels(
        county.grid,
        county.scheme,
        county.columns[some],
        county.rows[some],
        county.probabilities[some],
        county.valid_fraction[some],
    )
    for across, up in [(0.5, 0.5), (0.01, 0.01), (0.99, 0.01), (0.01, 0.99), (0.99, 0.99)]:
        answers = tiles_at(page, places(chosen, across, up))
        assert [answer["id"] for answer in answers] == chosen.tile_ids
    got = np.array([answer["probabilities"] for answer in answers])
    assert np.abs(got - chosen.probabilities).max() < 0.005
    assert np.abs([answer["valid"] for answer in answers] - chosen.valid_fraction).max() < 0.005
    assert np.abs([answer["confidence"] for answer in answers] - chosen.confidence).max() < 0.005
    assert [answer["kind"] for answer in answers] == chosen.class_index.tolist()
    centre = places(chosen)
    reported = np.array([[answer["lat"], answer["lng"]] for answer in answers])
    assert np.abs(reported - centre).max() < 1e-5


def test_places_outside_have_no_tile(show: Any, county: Labels) -> None:
    page, _ = show(county)
    corner = Labels(
        county.grid,
        county.scheme,
        county.columns[:1],
        county.rows[:1],
        county.probabilities[:1],
        county.valid_fraction[:1],
    )
    outside = np.concatenate(
        [places(corner, -0.01, 0.5), places(corner, 0.5, 1.01), [[0, 0], [42, 100], [-80, -179], [84, 179]]]
    )
    assert tiles_at(page, outside) == [None] * len(outside)


# ---- painting


def test_tiles_are_painted_where_they_are(show: Any) -> None:
    labels = make_labels(64, 48, missing=0.1)
    page, seen = show(labels)
    colours = np.array([item.rgb for item in labels.scheme.classes])[labels.class_index]
    for across, up in [(0.5, 0.5), (0.2, 0.2), (0.8, 0.8)]:
        points = places(labels, across, up)
        for k in range(0, len(labels), 97):
            assert page.evaluate(PIXEL, [1, *points[k]]) == [*colours[k], 255]
    assert seen == []


def test_the_preview_lies_under_its_tiles_and_black_is_see_through(show: Any) -> None:
    labels = make_labels(12, 10, missing=0.25)
    colours = np.random.default_rng(3).integers(60, 250, (10, 12, 3), dtype=np.uint8)
    there = labels.image(np.ones(len(labels), np.uint8)).astype(bool)
    colours[~there] = 0
    page, seen = show(labels, preview=Image.fromarray(colours.repeat(9, 0).repeat(9, 1)))
    wait_until(page, "geoclass.page.preview !== undefined")
    lines, columns = np.indices(there.shape)
    everywhere = Labels(
        labels.grid,
        labels.scheme,
        columns.ravel() + labels.range.left,
        labels.range.top - 1 - lines.ravel(),
        np.zeros((there.size, 7), np.float32),
        np.ones(there.size, np.float32),
    )
    for place, colour, known in zip(places(everywhere), colours.reshape(-1, 3), there.ravel(), strict=True):
        got = page.evaluate(PIXEL, [0, *place])
        assert got[3] == (255 if known else 0)
        assert not known or np.abs(np.array(got[:3]) - colour).max() < 30  # lossy WebP
    page.uncheck("label:has-text('Imagery') input")
    assert page.evaluate("geoclass.map.getPane('preview').childElementCount") == 0
    assert seen == []


def test_class_boxes_spotlight_and_views_change_the_pixels(show: Any) -> None:
    labels = make_labels()
    page, seen = show(labels)
    k = labels.class_index.tolist().index(2)
    place, colour = places(labels)[k], labels.scheme.classes[2].rgb
    other = places(labels)[labels.class_index.tolist().index(4)]
    boxes = page.locator("#gc-classes input")
    assert page.evaluate(PIXEL, [1, *place]) == [*colour, 255]
    boxes.nth(2).uncheck()
    page.mouse.move(900, 500)  # off the row, which would put its class in the light
    wait_until(page, "geoclass.state.spot === -1")
    assert page.evaluate(PIXEL, [1, *place])[3] == 0
    page.click("#gc-all")
    assert boxes.nth(2).is_checked()
    page.hover("#gc-classes li:nth-child(3)")
    wait_until(page, "geoclass.state.spot === 2")
    assert page.evaluate(PIXEL, [1, *place]) == [*colour, 255]
    assert page.evaluate(PIXEL, [1, *other])[3] == 0
    page.mouse.move(900, 500)
    wait_until(page, "geoclass.state.spot === -1")
    assert page.evaluate(PIXEL, [1, *other])[3] == 255
    page.check("input[value=confidence]")
    assert page.is_visible("#gc-ramp")
    ends = [labels.confidence.argmin(), labels.confidence.argmax()]
    low, high = (page.evaluate(PIXEL, [1, *places(labels)[end]]) for end in ends)
    assert sum(low[:3]) < 330 < 400 < sum(high[:3])  # viridis runs from dark to light
    page.click("#gc-none")
    assert page.evaluate(PIXEL, [1, *place])[3] == 0
    assert seen == []


def test_opacity(show: Any) -> None:
    labels = make_labels(4, 4)
    grey = Image.new("RGB", (40, 40), (128, 128, 128))
    page, _ = show(labels, preview=grey, opacity=0.45)
    layer = page.locator(".leaflet-pane canvas.gc-layer").last
    assert layer.evaluate("canvas => canvas.style.opacity") == "0.45"
    page.fill("#gc-opacity", "80")
    assert layer.evaluate("canvas => canvas.style.opacity") == "0.8"
    assert page.inner_text("#gc-opacity-text") == "80%"
    page, _ = show(labels, opacity=0.45)
    assert page.input_value("#gc-opacity") == "100"  # nothing lies beneath


def test_panning_and_zooming_redraw(show: Any) -> None:
    labels = make_labels()
    page, seen = show(labels)
    place = places(labels)[len(labels) // 2]
    colour = labels.scheme.classes[labels.class_index[len(labels) // 2]].rgb
    for zoom in (12, 15.5, 17):
        page.evaluate(
            "([place, zoom]) => geoclass.map.setView(place, zoom, { animate: false })", [place.tolist(), zoom]
        )
        assert page.evaluate(PIXEL, [1, *place]) == [*colour, 255]
    page.evaluate("() => geoclass.map.panBy([3000, 0], { animate: false }).panBy([-3000, 40], { animate: false })")
    assert page.evaluate(PIXEL, [1, *place]) == [*colour, 255]
    assert seen == []


# ---- legend and tile card


def test_legend_shows_areas_notes_and_left_out_tiles(show: Any) -> None:
    info = {
        "date": "2016-07-21",
        "name": "York",
        "inputs": ["/somewhere/a.tif", "b.tif"],
        "below_min_valid": 12,
        "min_valid": 0.5,
    }
    labels = make_labels(**info)
    page, _ = show(labels, note="Second draft.", title="Land cover of York")
    assert page.inner_text("h1") == page.title() == "Land cover of York"
    assert page.inner_text("#gc-sub") == "2016-07-21 · 768 tiles of 224 m"
    areas = labels.areas_m2()
    total = sum(areas.values())
    for row, (name, area) in zip(page.locator("#gc-classes li").all(), areas.items(), strict=True):
        words = row.inner_text().split("\n")
        assert words[0] == name
        assert float(words[1].replace(",", "").split()[0]) == pytest.approx(area / 10_000, abs=0.51)
        assert float(words[-1].rstrip("%")) == pytest.approx(100 * area / total, abs=0.06)
    foot = page.inner_text("#gc-foot")
    assert "pixel counts, not estimates" in foot
    assert "12 tiles with less than 50% data left out" in foot
    assert "a.tif, b.tif" in foot and "somewhere" not in foot
    assert "Second draft." in foot
    assert not page.is_visible("#gc-badge")


def test_synthetic_imagery_says_so(show: Any) -> None:
    page, _ = show(make_labels(6, 6, synthetic=True, name="Demo"))
    assert page.is_visible("text=Synthetic imagery")
    assert "synthetic" in page.title()


def test_click_opens_the_tile(show: Any) -> None:
    labels = make_labels()
    page, seen = show(labels)
    k = len(labels) // 2 + 16
    page.mouse.click(*screen_point(page, places(labels)[k]))
    assert page.is_visible("#gc-card")
    assert page.inner_text("#gc-card h2") == labels.scheme.names[labels.class_index[k]]
    assert labels.tile_ids[k] in page.inner_text("#gc-facts")
    rows = [row.inner_text().split("\n") for row in page.locator("#gc-bars li").all()]
    assert rows[0][0] == labels.scheme.names[labels.class_index[k]]
    assert sorted(row[0] for row in rows) == sorted(labels.scheme.names)
    shown = [float(row[-1].strip("<>%")) / 100 for row in rows]
    assert shown == sorted(shown, reverse=True)
    known = [labels.probabilities[k][labels.scheme.names.index(row[0])] for row in rows]
    assert shown == pytest.approx(known, abs=0.01)
    page.click("#gc-close")
    assert not page.is_visible("#gc-card")
    assert seen == []


def test_keyboard_reaches_everything(show: Any) -> None:
    labels = make_labels(20, 20)
    page, seen = show(labels, preview=Image.new("RGB", (20, 20), (90, 90, 90)))
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("(a => a.id || a.value || a.title || a.textContent)(document.activeElement)"))
    map_id = page.get_attribute(".gc-map", "id")
    assert {
        "gc-fold",
        "class",
        "gc-all",
        "gc-none",
        "gc-opacity",
        map_id,
        "Zoom in",
        "Zoom out",
        "Whole map",
        "Help",
    } <= set(reached)
    assert page.evaluate("[...document.querySelectorAll('input, button, a')].every(item => item.tabIndex >= 0)")

    page.focus(".gc-map")
    page.keyboard.press("ArrowRight")
    start = page.evaluate("geoclass.state.cursor")
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "Enter"):
        page.keyboard.press(key)
    column, row = labels.range.left + start[0] + 2, labels.range.top - 1 - (start[1] - 1)
    assert labels.grid.tile_id(column, row) in page.inner_text("#gc-facts")
    assert labels.grid.tile_id(column, row) in page.inner_text("#gc-live")
    page.keyboard.press("ArrowDown")
    assert labels.grid.tile_id(column, row - 1) in page.inner_text("#gc-facts")
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Shift+ArrowLeft")
    assert labels.grid.tile_id(labels.range.left, row - 1) in page.inner_text("#gc-facts")
    page.keyboard.press("Escape")
    assert not page.is_visible("#gc-card")
    assert page.evaluate("geoclass.state.cursor") is not None
    page.keyboard.press("Escape")
    assert page.evaluate("geoclass.state.cursor") is None
    page.focus("[title=Help]")
    page.keyboard.press("Enter")
    assert page.is_visible("text=How to read this map")
    page.keyboard.press("Escape")
    assert not page.is_visible("text=How to read this map")
    assert seen == []


def test_phone_width(show: Any) -> None:
    labels = make_labels(synthetic=True, name="A county with quite a long name, Massachusetts")
    page, seen = show(labels, PHONE, phone=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not page.is_visible("#gc-body")
    k = len(labels) // 2 + 16
    page.touchscreen.tap(*screen_point(page, places(labels)[k]))
    assert labels.tile_ids[k] in page.inner_text("#gc-facts")
    card = page.locator("#gc-card").bounding_box()
    assert card and card["x"] == 0 and card["width"] == 390 and card["y"] + card["height"] == pytest.approx(844, abs=1)
    page.tap("#gc-close")
    page.tap(".gc-head")
    assert page.is_visible("#gc-body")
    for target in page.locator(
        "#gc-classes label, .gc-segments label, .gc-fold, .leaflet-bar a, .gc-layers label"
    ).all():
        box = target.bounding_box()
        assert box is None or min(box["width"], box["height"]) >= 40
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert seen == []


def test_text_from_data_is_only_text(show: Any) -> None:
    names = ("<img src=x onerror=hacked=1>", "</script><script>hacked=1</script>", '"{{ 7 * 7 }}"')
    classes = tuple(LandClass(id=k + 1, name=name, colour=SAFE[k]) for k, name in enumerate(names))
    labels = make_labels(8, 8, scheme=ClassScheme(name="hostile", classes=classes), inputs="<b>x</b>.tif", date="<i>")
    area = gpd.GeoDataFrame(
        {"name": ["<svg onload=hacked=1>"]}, geometry=[shapely.box(*_extent(labels))], crs=labels.grid.crs
    )
    title = "</title></script><script>hacked=1</script>"
    page, seen = show(labels, title=title, aois=area, note="<iframe src=//example.org></iframe>")
    page.mouse.click(*screen_point(page, places(labels)[27]))
    page.wait_for_timeout(200)
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.title() == page.inner_text("h1") == title
    assert [row.inner_text() for row in page.locator("#gc-classes .gc-name").all()] == list(names)
    assert page.locator("iframe, img, b, svg[onload]").count() == 0
    assert page.inner_text(".gc-aoi") == "<svg onload=hacked=1>"
    assert seen == []


def _extent(labels: Labels) -> tuple[float, float, float, float]:
    tiles, side = labels.range, labels.grid.side
    return tiles.left * side, tiles.bottom * side, tiles.right * side, tiles.top * side


def test_areas_of_interest(show: Any) -> None:
    labels = make_labels()
    left, bottom, right, top = _extent(labels)
    ring = shapely.box(left + 500, bottom + 500, right - 500, top - 500) - shapely.box(
        left + 900, bottom + 900, left + 1500, top - 900
    )
    areas = gpd.GeoDataFrame(
        {"NAME": ["Harbour", None, "Nowhere", "Two"]},
        geometry=[
            ring,
            shapely.Point(left, bottom),
            None,
            shapely.MultiPolygon([shapely.box(left, bottom, left + 300, bottom + 300)]),
        ],
        crs=labels.grid.crs,
    ).to_crs(3857)
    page, seen = show(labels, aois=areas)
    assert page.locator(".gc-aoi").all_inner_texts() == ["Harbour", "Two"]
    paths = page.locator(".leaflet-marks-pane path").all()
    assert len(paths) == 4  # casing and line of each
    box = paths[1].bounding_box()
    corners = [
        (left + 500, bottom + 500),
        (left + 500, top - 500),
        (right - 500, bottom + 500),
        (right - 500, top - 500),
    ]
    drawn = np.array([screen_point(page, _degrees_of(labels, x, y)) for x, y in corners])
    assert box and [box["x"], box["y"]] == pytest.approx(drawn.min(axis=0), abs=4)
    assert [box["width"], box["height"]] == pytest.approx(np.ptp(drawn, axis=0), abs=6)
    page.uncheck("label:has-text('Areas of interest') input")
    wait_until(page, "document.querySelectorAll('.leaflet-marks-pane path, .gc-aoi').length === 0")
    assert seen == []


def _degrees_of(labels: Labels, x: float, y: float) -> list[float]:
    longitude, latitude = pyproj.Transformer.from_crs(labels.grid.crs, "EPSG:4326", always_xy=True).transform(x, y)
    return [latitude, longitude]


# ---- background maps, notebooks


def test_background_maps_only_when_asked_for(show: Any, tmp_path: Path) -> None:
    labels = make_labels(8, 8)
    page, seen = show(labels)
    assert page.locator("[name=gc-basemap]").count() == 0
    assert not any(str(item["url"]) in page.content() for item in BASEMAPS)
    page, seen = show(labels, basemap=True)
    page.wait_for_timeout(300)
    assert tiles_at(page, places(labels)[:1])[0]["id"] == labels.tile_ids[0]  # works, though nothing loads
    asked = [entry for entry in seen if entry.startswith("http")]
    assert asked and all(entry.startswith("https://server.arcgisonline.com/") for entry in asked)
    assert "Esri" in page.inner_text(".leaflet-control-attribution")
    assert page.is_disabled("label:has-text('OpenStreetMap') input")  # its servers refuse pages opened from disk
    page.check("label:has-text('No background') input")
    assert page.locator(".leaflet-tile").count() == 0


def test_a_notebook_shows_it_and_folium_layers_can_be_added(browser: Browser) -> None:
    labels = make_labels(8, 8)
    made = build_map(labels)
    assert isinstance(made, folium.Map)
    lat, lng = places(labels)[20]
    folium.Marker([lat, lng]).add_to(made)
    folium.GeoJson(gpd.GeoSeries([shapely.Point(lng, lat).buffer(0.001)], crs=4326)).add_to(made)
    context = browser.new_context(offline=True)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: request.url[:5] != "data:" and asked.append(request.url))
    page.on("pageerror", lambda error: asked.append(str(error)))
    page.set_content(made._repr_html_())
    frame = page.frames[-1]
    frame.wait_for_selector("img.leaflet-marker-icon")
    assert frame.evaluate("([lat, lng]) => geoclass.tileAt(lat, lng).id", [lat, lng]) == labels.tile_ids[20]
    assert frame.locator(".leaflet-overlay-pane path").count() == 1
    assert [entry for entry in asked if not entry.startswith("about:")] == []
    context.close()


# ---- geometry and colours, without a browser


@pytest.mark.parametrize(
    ("crs", "tiles"),
    [
        ("EPSG:26919", TileRange(1600, 20000, 1860, 20258)),
        ("EPSG:32633", TileRange(900, 33000, 4900, 37000)),
        ("EPSG:5070", TileRange(8000, 9000, 8300, 9400)),
        ("EPSG:2249", TileRange(1000, 4000, 1100, 4100)),
        ("EPSG:32660", TileRange(3300, 7000, 3800, 7100)),
        ("EPSG:26919", TileRange(1400, 20876, 1401, 20877)),
    ],
)
def test_lattice_is_near_the_truth(crs: str, tiles: TileRange) -> None:
    grid = TileGrid(pyproj.CRS(crs))
    lattice = Lattice.over(grid, tiles)
    rng = np.random.default_rng(0)
    u, v = rng.uniform(0, lattice.steps, (2, 2000))
    i, j = u.astype(int), v.astype(int)
    u, v = (u - i)[:, None], (v - j)[:, None]
    p, at = lattice.points, (j, i)
    drawn = (1 - v) * ((1 - u) * p[at] + u * p[j, i + 1]) + v * ((1 - u) * p[j + 1, i] + u * p[j + 1, i + 1])
    x = (tiles.left + (i + u[:, 0]) * tiles.columns / lattice.steps) * grid.side
    y = (tiles.top - (j + v[:, 0]) * tiles.rows / lattice.steps) * grid.side
    longitude, latitude = pyproj.Transformer.from_crs(grid.crs, 4326, always_xy=True).transform(x, y)
    mx, my = pyproj.Transformer.from_crs(4326, 3857, always_xy=True).transform(longitude, latitude)
    size = 2 * np.pi * 6378137
    off = np.stack([drawn[:, 0] - (mx / size + 0.5), drawn[:, 1] - (0.5 - my / size)], axis=1)
    off[:, 0] -= np.round(off[:, 0])  # either side of the 180th meridian
    side = np.hypot(*(p[0, -1] - p[0, 0])) / tiles.columns
    allowed = 0.02 if len(tiles) > 10**7 else LATTICE_ERROR
    assert np.hypot(*off.T).max() < allowed * side


def test_across_the_180th_meridian(show: Any) -> None:
    labels = make_labels(60, 20, crs="EPSG:32660", left=3590, bottom=11000)
    points = places(labels)
    assert points[:, 1].max() > 179 and points[:, 1].min() < -179
    page, _ = show(labels)
    assert [tile["id"] for tile in tiles_at(page, points)] == labels.tile_ids


def test_scattered_tiles_stay_small(tmp_path: Path) -> None:
    few = make_labels(3, 1)
    spread = Labels(
        few.grid,
        few.scheme,
        np.array([0, 1, 3999]) + 1400,
        np.array([20000, 20000, 16001]),
        few.probabilities,
        few.valid_fraction,
    )
    write_map(tmp_path / "m.html", spread)
    assert (tmp_path / "m.html").stat().st_size < 700_000


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    few = make_labels(2, 1)
    path = tmp_path / "m.html"

    def moved(columns: list[int], rows: list[int], crs: str = "EPSG:26919") -> Labels:
        return Labels(
            TileGrid(pyproj.CRS(crs)),
            few.scheme,
            np.array(columns),
            np.array(rows),
            few.probabilities,
            few.valid_fraction,
        )

    with pytest.raises(OutputError, match="spread over"):
        write_map(path, moved([0, 5000], [0, 5000]))
    with pytest.raises(OutputError, match="latitude"):
        write_map(path, moved([8928, 8929], [8928, 8928], "EPSG:5041"))
    with pytest.raises(OutputError, match="no CRS"):
        write_map(path, few, aois=gpd.GeoDataFrame(geometry=[shapely.Point(0, 0).buffer(1)]))
    with pytest.raises(OutputError, match="no tile"):
        write_map(
            path, Labels(few.grid, few.scheme, *(np.zeros(0, int),) * 2, few.probabilities[:0], few.valid_fraction[:0])
        )
    assert list(tmp_path.iterdir()) == []
    path.write_text("kept")
    with pytest.raises(OutputError, match="--overwrite"):
        write_map(path, few, overwrite=False)
    assert path.read_text() == "kept"


def test_colour_blind_safe_colours(show: Any) -> None:
    assert nearest_pair(("#000000", "#ffffff")) == pytest.approx(100, abs=0.1)
    assert nearest_pair(SAFE) > 8
    known = load_scheme("nlcd6")
    assert reader_colours(known) == tuple(item.colour for item in known.classes)
    official = load_scheme("nlcd16")
    assert nearest_pair(tuple(item.colour for item in official.classes)) < TOO_NEAR
    assert set(reader_colours(official)) == set(SAFE)
    page, _ = show(make_labels(scheme=known))
    assert not page.is_visible("#gc-palette")
    labels = make_labels(scheme=official)
    page, _ = show(labels)
    page.check("input[value=safe]")
    expected = bytes.fromhex(reader_colours(official)[labels.class_index[100]][1:])
    assert page.evaluate(PIXEL, [1, *places(labels)[100]]) == [*expected, 255]


def test_reader_colours_differ_for_any_scheme() -> None:
    near = tuple(LandClass(id=k + 1, name=f"c{k}", colour=f"#8080{0x80 + k:02x}") for k in range(9))
    colours = reader_colours(ClassScheme(name="near", classes=near))
    assert len(set(colours)) == 9 and nearest_pair(colours) > TOO_NEAR
    many = tuple(LandClass(id=k + 1, name=f"c{k}", colour=f"#{k:02x}8080") for k in range(20))
    assert reader_colours(ClassScheme(name="many", classes=many)) == tuple(item.colour for item in many)
