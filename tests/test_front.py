"""The front end of `geoclass serve`: a real server, a real Chromium, and answers compared with the result's own files."""

import io
import json
import re
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import geopandas as gpd
import httpx
import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from axe_playwright_python.sync_playwright import Axe
from click.testing import CliRunner
from conftest import write_coordinates
from geoclass_process import HEADERS, TOKEN, Process, serving
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from test_webmap import DESK, PHONE

from geoclass.cli import main
from geoclass.client import Client
from geoclass.grid import TileGrid
from geoclass.results import read_result
from geoclass.service import painting
from geoclass.service import serving as serving_module
from geoclass.service.clipping import overlaps
from geoclass.service.drawn import Polygon, named_areas
from geoclass.service.wmts import capabilities, tile_of

SIDE = 224
COLUMNS, ROWS = 6, 5
LEFT, TOP = 1400, 20900  # in tiles of the grid of EPSG:26919
UTM = "EPSG:26919"


def write_scene(path: Path, seed: int) -> Path:
    """A scene of COLUMNS × ROWS tiles, each of a colour and grain of its own; the last lacks data."""
    rng = np.random.default_rng(seed)
    write_coordinates(path, LEFT * SIDE, TOP * SIDE, COLUMNS * SIDE, ROWS * SIDE, nodata=0)
    with rasterio.open(path, "r+") as dataset:
        pixels = np.empty((3, ROWS * SIDE, COLUMNS * SIDE), np.uint8)
        for row in range(ROWS):
            for column in range(COLUMNS):
                base, grain = rng.integers(20, 200, (3, 1, 1)), rng.integers(1, 60)
                step = int(rng.integers(1, 40))
                small = rng.integers(0, grain, (3, -(-SIDE // step), -(-SIDE // step)))
                tile = base + np.kron(small, np.ones((1, step, step), int))[:, :SIDE, :SIDE]
                pixels[:, row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE] = tile
        pixels[:, -SIDE:, -SIDE:] = 0
        dataset.write(np.clip(pixels, 0, 255))
    return path


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scene(folder / "before.tif", 1)
    write_scene(folder / "after.tif", 2)
    return folder


@pytest.fixture(scope="module")
def server(tiny_bundle: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with serving(tiny_bundle, tmp_path_factory.mktemp("front") / "data", "--allow-root", str(scenes)) as process:
        yield process


@pytest.fixture(scope="module")
def client(server: Process) -> Iterator[Client]:
    with Client(server.url, TOKEN) as client:
        yield client


@pytest.fixture(scope="module")
def jobs(client: Client) -> tuple[str, str]:
    """Ids of two maps of the same ground, of 2016 and 2022."""
    before = client.classify("before.tif", upload=False, name="before", date="2016")
    after = client.classify("after.tif", upload=False, name="after", date="2022")
    return client.wait(before.id).id, client.wait(after.id).id


@pytest.fixture(scope="module")
def table(client: Client, jobs: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> gpd.GeoDataFrame:
    """The first map's tiles as its GeoPackage has them."""
    path = client.download(jobs[0], "gpkg", tmp_path_factory.mktemp("table") / "before.gpkg")
    return read_result(path).to_gdf()


@pytest.fixture(scope="module")
def http(server: Process) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers=HEADERS, timeout=60) as client:
        yield client


@pytest.fixture
def show(browser: Browser, server: Process) -> Iterator[Callable[..., Page]]:
    """Open a page of the front end. What it complains of or asks of other hosts fails the test."""
    contexts, complaints = [], []

    def opener(path: str = "", token: str | None = TOKEN, view: dict[str, int] = DESK, known: str = "") -> Page:
        context = browser.new_context(viewport=view, has_touch=view is PHONE, accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: _complain(complaints, f"{message.type}: {message.text}", known))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("request", lambda request: _foreign(complaints, request.url, server.url))
        page.goto(f"{server.url}/#token={token}" if token else server.url)
        if path:
            page.wait_for_selector("h1")
            page.goto(f"{server.url}/{path}")
        return page

    yield opener
    for context in contexts:
        context.close()
    assert complaints == []


def _complain(complaints: list[str], text: str, known: str) -> None:
    if not (known and known in text):
        complaints.append(text)


def _foreign(complaints: list[str], url: str, own: str) -> None:
    if not url.startswith((f"{own}/", "blob:", "data:")):
        complaints.append(f"asked {url}")


def faults(page: Page) -> list[str]:
    """What axe-core finds serious or critical."""
    found = Axe().run(page).response["violations"]
    return [
        f"{item['id']}: {node['html'][:200]}"
        for item in found
        if item["impact"] in ("serious", "critical")
        for node in item["nodes"]
    ]


def map_ready(page: Page) -> None:
    """Wait until every tile of the map is there."""
    page.wait_for_selector(".leaflet-container")
    for _ in range(200):
        if page.evaluate(
            "window.geoclass && geoclass.sides.every(side => Object.values(side.layers).every("
            "layer => layer._tiles && Object.keys(layer._tiles).length && !layer._loading))"
        ):
            return
        page.wait_for_timeout(50)
    raise AssertionError("the map's tiles never came")


def degrees(x: float, y: float) -> tuple[float, float]:
    """(longitude, latitude) of a place in the grid's CRS."""
    return pyproj.Transformer.from_crs(UTM, "EPSG:4326", always_xy=True).transform(x, y)


def middle(row: Any) -> tuple[float, float]:
    """(longitude, latitude) of a tile's middle."""
    return degrees((row.column + 0.5) * SIDE, (row.row + 0.5) * SIDE)


def screen(page: Page, lon: float, lat: float) -> tuple[float, float]:
    """Where a place is on the screen."""
    x, y = page.evaluate(
        "([lat, lng]) => { const box = geoclass.map.getContainer().getBoundingClientRect();"
        " const at = geoclass.map.latLngToContainerPoint([lat, lng]); return [box.x + at.x, box.y + at.y]; }",
        [lat, lon],
    )
    return x, y


def told(page: Page) -> dict[str, float]:
    """The probabilities in the card of a tile."""
    return dict(
        page.eval_on_selector_all(
            ".tile-card .bars li",
            "rows => rows.map(row => [row.dataset.class, Number(row.querySelector('.value').dataset.value)])",
        )
    )


def probabilities(row: Any) -> dict[str, float]:
    return {name[2:]: float(value) for name, value in row.items() if name.startswith("p_")}


# --- From a file to a map --------------------------------------------------------------------------------------------


def test_a_scene_sent_becomes_a_map_that_answers(
    show: Callable[..., Page], scenes: Path, client: Client, tmp_path: Path
) -> None:
    page = show()
    page.get_by_label("Choose files").set_input_files(scenes / "before.tif")
    assert "before.tif" in page.locator(".files").inner_text()
    page.get_by_label("Name", exact=True).fill("sent")
    page.get_by_label("Date of the imagery").fill("2016-07")
    page.get_by_role("button", name="Make the map").click()
    page.wait_for_url(re.compile(r"#/jobs/[0-9a-f]{16}$"))
    job = page.url.rpartition("/")[2]
    expect(page.get_by_role("heading", name="sent")).to_be_visible()
    page.get_by_role("link", name="Open the map").wait_for()
    assert "done" in page.locator(".part-state").inner_text()
    assert "accepted" in page.locator(".log").inner_text() and "29 tiles" in page.locator(".log").inner_text()
    assert "2016-07" in page.locator(".part-facts").inner_text()

    with page.expect_download() as download:
        page.get_by_role("button", name=re.compile("^GeoPackage")).click()
    saved = tmp_path / download.value.suggested_filename
    download.value.save_as(saved)
    assert saved.name == "sent.gpkg"
    assert saved.read_bytes() == client.download(job, "gpkg", tmp_path / "own.gpkg").read_bytes()

    page.get_by_role("link", name="Open the map").click()
    map_ready(page)
    tiles = read_result(saved).to_gdf()
    row = tiles.iloc[8]
    page.mouse.click(*screen(page, *middle(row)))
    expect(page.locator(".tile-id")).to_have_text(row.tile_id)
    assert page.locator(".best strong").inner_text() == row["class"]
    assert told(page) == pytest.approx(probabilities(row), abs=1e-9)
    legend = page.locator("section[aria-label=Legend] tbody tr")
    counts = {one.get_attribute("data-class"): int(one.locator("td").first.inner_text()) for one in legend.all()}
    assert {name: many for name, many in counts.items() if many} == tiles["class"].value_counts().to_dict()


def test_progress_is_shown_and_a_job_can_be_cancelled(show: Callable[..., Page], client: Client, scenes: Path) -> None:
    if not (scenes / "large.tif").exists():
        write_coordinates(scenes / "large.tif", width=30 * SIDE, height=30 * SIDE)
    page = show()
    page.get_by_text("Or name a scene that the service can read").click()
    page.get_by_label("Paths or URLs, one a line").fill("large.tif")
    page.get_by_role("button", name="Make the map").click()
    page.wait_for_url(re.compile("#/jobs/"))
    expect(page.locator(".progress p")).to_have_text(re.compile(r"\d+ of 900 tiles"), timeout=60_000)
    assert 0 <= float(page.locator("progress").get_attribute("value") or 0) < 1
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".part-state")).to_have_text("cancelled")
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("button", name="Yes, delete it").click()
    page.wait_for_url(re.compile("#/$"))
    assert "large" not in {job.name for job in client.jobs()}


# --- The map -----------------------------------------------------------------------------------------------------


def test_statistics_of_a_drawn_area_are_those_of_shapely(
    show: Callable[..., Page], jobs: tuple[str, str], table: gpd.GeoDataFrame
) -> None:
    page = show(f"#/map/{jobs[0]}")
    map_ready(page)
    page.get_by_role("button", name="Draw an area").click()
    x, y = LEFT * SIDE, (TOP - ROWS) * SIDE
    wanted = [(x + 300, y + 200), (x + 1000, y + 260), (x + 700, y + 900)]
    for corner in wanted:
        page.mouse.click(*screen(page, *degrees(*corner)))
    with page.expect_response(re.compile("/statistics$")) as answer:
        page.get_by_role("button", name="Finish").click()
    sent = json.loads(answer.value.request.post_data or "")
    found = answer.value.json()["areas"][0]
    to_grid = pyproj.Transformer.from_crs("EPSG:4326", UTM, always_xy=True)
    drawn = shapely.Polygon([to_grid.transform(*corner) for corner in sent["coordinates"][0]])
    assert max(np.hypot(*(np.array(drawn.exterior.coords[k]) - wanted[k])) for k in range(3)) < 5, "clicks were misread"
    inside = table.geometry.intersection(drawn).area * table.valid_fraction
    expected = inside.groupby(table["class"]).sum()
    assert found["area_m2"] == pytest.approx(drawn.area, rel=1e-6)
    for item in found["classes"]:
        assert item["area_m2"] == pytest.approx(expected.get(item["name"], 0.0), rel=1e-6, abs=0.1)
        assert item["share"] == pytest.approx(expected.get(item["name"], 0.0) / expected.sum(), abs=1e-6)
    rows = page.locator(".measured tbody tr")
    expect(rows.first).to_be_visible()
    for item in found["classes"]:
        cell = page.locator(f".measured tr[data-class='{item['name']}'] td").nth(1).inner_text()
        assert float(cell.replace(",", "")) == pytest.approx(item["area_ha"], abs=0.006)


def test_two_dates_are_swiped_and_compared(
    show: Callable[..., Page], jobs: tuple[str, str], client: Client, tmp_path: Path
) -> None:
    page = show(f"#/map/{jobs[0]}/{jobs[1]}")
    map_ready(page)
    divider = page.get_by_label("Divider between the two maps")
    assert "clip-path" in (page.locator(".leaflet-first-classes-pane").get_attribute("style") or "")
    tables = [read_result(client.download(job, "gpkg", tmp_path / f"{job}.gpkg")).to_gdf() for job in jobs]
    place = next(
        number for number, (a, b) in enumerate(zip(tables[0]["class"], tables[1]["class"], strict=True)) if a != b
    )
    shown = page.locator(".map-frame")
    page.get_by_label("Imagery").uncheck()
    page.get_by_label("Opacity of the classes").fill("100")
    at = screen(page, *middle(tables[0].iloc[place]))
    box = shown.bounding_box()
    assert box is not None
    colours = []
    for share in (1000, 0):  # all of the first, then all of the second
        divider.fill(str(share))
        picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        colours.append(picture.getpixel((round(at[0]), round(at[1]))))
    scheme = read_result(tmp_path / f"{jobs[0]}.gpkg").scheme
    rgb = {item.name: item.rgb for item in scheme.classes}
    assert colours == [rgb[table["class"].iloc[place]] for table in tables]
    page.mouse.click(*at)
    expect(page.locator(".verdict")).to_have_text(
        f"{tables[0]['class'].iloc[place]} became {tables[1]['class'].iloc[place]}."
    )
    divider.focus()
    page.keyboard.press("ArrowRight")
    assert divider.input_value() == "5"


def test_everything_can_be_done_by_keyboard(
    show: Callable[..., Page], jobs: tuple[str, str], table: gpd.GeoDataFrame
) -> None:
    page = show()
    link = page.get_by_role("link", name="Map of before").first
    _tab_to(page, link)
    page.keyboard.press("Enter")
    map_ready(page)
    page.keyboard.press("Tab")
    _tab_to(page, page.locator(".map"))
    page.keyboard.press("Enter")
    expect(page.locator(".tile-id")).to_be_visible()
    first = page.locator(".tile-id").inner_text()
    column, row = (int(part) for part in first.split("_")[-2:])
    page.keyboard.press("ArrowRight")
    wanted = f"26919_224_{column + 1}_{row}"
    expect(page.locator(".tile-id")).to_have_text(wanted)
    expected = table.set_index("tile_id").loc[wanted]
    assert told(page) == pytest.approx(probabilities(expected), abs=1e-9)
    page.keyboard.press("Escape")
    expect(page.locator(".tile-card")).to_be_hidden()

    _tab_to(page, page.get_by_text("By coordinates or GeoJSON"))
    page.keyboard.press("Enter")
    _tab_to(page, page.get_by_role("button", name="Measure this rectangle"))
    page.keyboard.press("Enter")  # the whole map stands in the four fields
    expect(page.locator(".measured caption")).to_contain_text("area 1")
    cells = page.locator(".measured tbody td:nth-child(3)").all_inner_texts()
    whole = table.valid_fraction.sum() * (SIDE**2) / 10_000
    assert sum(float(cell.replace(",", "")) for cell in cells) == pytest.approx(whole, abs=2)


def _tab_to(page: Page, target: Any) -> None:
    handle = target.element_handle()
    for _ in range(80):
        if page.evaluate("element => document.activeElement === element", handle):
            return
        page.keyboard.press("Tab")
    raise AssertionError("Tab never reached it")


def test_areas_come_from_a_file_too(show: Callable[..., Page], jobs: tuple[str, str], tmp_path: Path) -> None:
    page = show(f"#/map/{jobs[0]}", view=PHONE)
    map_ready(page)
    west, south = degrees(LEFT * SIDE + 10, (TOP - ROWS) * SIDE + 10)
    shape = shapely.geometry.mapping(shapely.box(west, south, west + 0.004, south + 0.003))
    feature = {"type": "Feature", "properties": {"name": "<b>Ward</b> 7"}, "geometry": shape}
    (tmp_path / "wards.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    page.get_by_text("By coordinates or GeoJSON").click()
    page.get_by_label("GeoJSON file").set_input_files(tmp_path / "wards.geojson")
    expect(page.locator(".measured caption")).to_contain_text("<b>Ward</b> 7")
    page.get_by_label("or its text").fill("no JSON")
    page.get_by_role("button", name="Measure this GeoJSON").click()
    expect(page.get_by_text("This is no GeoJSON")).to_be_visible()


# --- Token, addresses, accessibility -------------------------------------------------------------------------------


def test_a_wrong_token_is_told_in_words(show: Callable[..., Page]) -> None:
    page = show(token="certainly-not-the-token", known="401")
    dialog = page.get_by_role("dialog", name="Access token")
    expect(dialog.get_by_role("alert")).to_contain_text("not the token of this service")
    dialog.get_by_label("Token").fill("wrong again")
    dialog.get_by_role("button", name="Use this token").click()
    expect(dialog.get_by_role("alert")).to_contain_text("not the token of this service")
    dialog.get_by_label("Token").fill(TOKEN)
    dialog.get_by_role("button", name="Use this token").click()
    expect(dialog).to_be_hidden()
    assert page.evaluate("sessionStorage.getItem('geoclass-token')") == TOKEN
    assert "token" not in page.url and page.evaluate("document.cookie") == ""


@pytest.mark.parametrize("view", [DESK, PHONE], ids=["desk", "phone"])
def test_every_view_is_accessible(show: Callable[..., Page], jobs: tuple[str, str], view: dict[str, int]) -> None:
    page = show(view=view)
    page.get_by_role("link", name="Map of before").first.wait_for()
    for path, ready in {
        "#/": ".jobs a",
        "#/models": ".chips",
        f"#/jobs/{jobs[0]}": ".downloads",
        f"#/map/{jobs[0]}": ".panel .downloads",
        f"#/map/{jobs[0]}/{jobs[1]}": ".swipe",
    }.items():
        page.evaluate("hash => { location.hash = hash }", path)
        page.wait_for_selector(ready)
        if "map" in path:
            map_ready(page)
            page.locator(".map").focus()
            page.keyboard.press("Enter")
            page.wait_for_selector(".tile-id")
            page.get_by_text("By coordinates or GeoJSON").click()
        assert faults(page) == [], path
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{path} is wider than the screen"
    page.get_by_role("button", name="Forget token").click()
    page.get_by_role("button", name="Enter token").click()
    assert faults(page) == [], "the dialog"


def test_the_link_to_the_page(server: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(200):
        if f"page: {server.url}/\n" in server.log:
            break
        time.sleep(0.05)
    else:
        raise AssertionError("".join(server.log))
    assert TOKEN not in "".join(server.log), "a token that was given is not printed"
    monkeypatch.setattr(serving_module, "serve", lambda settings, ready, level: ready("http://0.0.0.0:8000"))
    monkeypatch.delenv("GEOCLASS_TOKEN", raising=False)
    said = CliRunner().invoke(main, ["serve", "--model", "m.pt"]).output
    fresh = re.search(r"access token: (\S+)", said)
    assert fresh and f"page: http://127.0.0.1:8000/#token={fresh[1]}\n" in said


# --- The routes, without a browser -----------------------------------------------------------------------------------


def test_the_page_needs_no_token_and_forbids_everything_else(server: Process) -> None:
    page = httpx.get(server.url, headers={"accept": "text/html,*/*"})
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    for answer in (
        page,
        httpx.get(f"{server.url}/static/js/main.js"),
        httpx.get(f"{server.url}/static/leaflet/leaflet.js"),
    ):
        policy = answer.headers["content-security-policy"]
        assert answer.status_code == 200 and "script-src 'self';" in policy and "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*src=)|style=|onclick=|https?:", page.text), (
        "something inline, or from elsewhere"
    )
    assert httpx.get(server.url).json()["service"] == "geoclass", "programs get the table of contents"
    assert httpx.get(f"{server.url}/static/../app.py").status_code == 404
    assert httpx.get(f"{server.url}/static/%2e%2e/app.py").status_code == 404
    assert httpx.post(f"{server.url}/v1/token").status_code == 401
    assert httpx.post(f"{server.url}/v1/token", headers=HEADERS).status_code == 204


def test_off_loopback_only_the_page_is_open(tmp_path: Path) -> None:
    from geoclass.service.gate import Gate
    from geoclass.service.metrics import Metrics
    from geoclass.service.refusal import Refusal
    from geoclass.service.settings import Settings

    async def app(*_: object) -> None: ...

    def status(path: str, method: str = "GET") -> int:
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(b"host", b"192.0.2.1")],
            "client": ("192.0.2.5", 1),
        }
        try:
            Gate(app, Settings((tmp_path / "m.pt",), host="0.0.0.0"), Metrics())._admit(scope)
        except Refusal as refusal:
            return refusal.status
        return 200

    job = "/v1/jobs/0123456789abcdef"
    assert [status(path) for path in ("/", "/static/js/main.js", "/static/leaflet/leaflet.js")] == [200] * 3
    for path in (
        "/v1/jobs",
        f"{job}/tiles/classes/3/1/1.png",
        f"{job}/map",
        f"{job}/wmts",
        "/staticx",
        "/openapi.json",
    ):
        assert status(path) == 401, path
    assert status("/", "POST") == 401 and status("/static/js/main.js", "PUT") == 401


def test_class_tiles_have_the_colours_of_the_scheme_in_their_places(
    http: httpx.Client, jobs: tuple[str, str], table: gpd.GeoDataFrame, client: Client, tmp_path: Path
) -> None:
    scheme = read_result(client.download(jobs[0], "gpkg", tmp_path / "x.gpkg")).scheme
    rgb = {item.name: item.rgb for item in scheme.classes}
    assert table["class"].nunique() > 1, "one class alone tells nothing"
    seen = 0
    for zoom in (14, 18):
        for row in (row for _, row in table.iloc[:: 7 if zoom == 18 else 3].iterrows()):
            lon, lat = middle(row)
            x, y = tile_of(lon, lat, zoom)
            answer = http.get(f"/v1/jobs/{jobs[0]}/tiles/classes/{zoom}/{x}/{y}.png")
            assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
            picture = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGBA"))
            assert {tuple(p) for p in picture.reshape(-1, 4)} <= {(*c, 255) for c in rgb.values()} | {(0, 0, 0, 0)}
            across = ((lon + 180) / 360 * 2**zoom - x) * 256
            down = ((1 - np.arcsinh(np.tan(np.radians(lat))) / np.pi) / 2 * 2**zoom - y) * 256
            assert tuple(picture[int(down), int(across)]) == (*rgb[row["class"]], 255), row.tile_id
            seen += 1
    assert seen > len(table) // 3


def test_the_edges_of_class_tiles_lie_where_the_grid_has_them(
    http: httpx.Client, jobs: tuple[str, str], table: gpd.GeoDataFrame
) -> None:
    """The tile without data is see-through: its corner is found to a pixel, 0.6 m of ground."""
    zoom, (lon, lat) = 18, degrees((LEFT + COLUMNS - 1) * SIDE, (TOP - ROWS + 1) * SIDE)
    x, y = tile_of(lon, lat, zoom)
    answer = http.get(f"/v1/jobs/{jobs[0]}/tiles/classes/{zoom}/{x}/{y}.png")
    alpha = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGBA"))[..., 3]
    across = ((lon + 180) / 360 * 2**zoom - x) * 256
    down = ((1 - np.arcsinh(np.tan(np.radians(lat))) / np.pi) / 2 * 2**zoom - y) * 256
    lines, columns = np.nonzero(alpha == 0)
    empty = (lines > down + 4) & (columns > across + 4)
    assert empty.any() and len(table) == COLUMNS * ROWS - 1
    assert (alpha[int(down) - 2, : int(across) - 2] == 255).all()
    assert (alpha[int(down) + 8 :, int(across) + 8 :] == 0).all()


def test_imagery_tiles_show_the_scene(
    http: httpx.Client, jobs: tuple[str, str], scenes: Path, table: gpd.GeoDataFrame
) -> None:
    row = table.iloc[9]
    lon, lat = middle(row)
    x, y = tile_of(lon, lat, 15)
    answer = http.get(f"/v1/jobs/{jobs[0]}/tiles/imagery/15/{x}/{y}.png")
    picture = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"), float)
    across, down = (
        ((lon + 180) / 360 * 2**15 - x) * 256,
        ((1 - np.arcsinh(np.tan(np.radians(lat))) / np.pi) / 2 * 2**15 - y) * 256,
    )
    with rasterio.open(scenes / "before.tif") as dataset:
        window = rasterio.windows.from_bounds(*row.geometry.bounds, dataset.transform)
        truth = dataset.read(window=window).reshape(3, -1).mean(axis=1)
    around = picture[int(down) - 8 : int(down) + 8, int(across) - 8 : int(across) + 8].reshape(-1, 3).mean(axis=0)
    assert np.abs(around - truth).max() < 12


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("classes/25/0/0.png", 422),
        ("classes/-1/0/0.png", 422),
        ("classes/x/0/0.png", 422),
        ("classes/3/8/0.png", 422),
        ("classes/3/0/99999999999999999999.png", 422),
        ("secrets/3/0/0.png", 422),
        ("classes/12/0/0.png", 204),
        ("imagery/12/0/0.png", 204),
        ("classes/0/0/0.png", 200),
        ("classes/24/0/0.png", 204),
        ("../classes/3/0/0.png", 404),
    ],
)
def test_tiles_that_are_none(http: httpx.Client, jobs: tuple[str, str], path: str, status: int) -> None:
    answer = http.get(f"/v1/jobs/{jobs[0]}/tiles/{path}")
    assert answer.status_code == status, answer.text
    if status >= 400:
        assert set(answer.json()) == {"error", "remedy"}


def test_jobs_that_have_no_map(http: httpx.Client, client: Client, scenes: Path) -> None:
    job = client.cancel(client.classify(scenes / "before.tif", name="ended").id)
    for path in ("tiles/classes/3/0/0.png", "map", "tile?lon=1&lat=1", "wmts"):
        assert http.get(f"/v1/jobs/{job.id}/{path}").status_code == 409
        assert http.get(f"/v1/jobs/0123456789abcdef/{path}").status_code == 404
        assert http.get(f"/v1/jobs/nonsense/{path}").status_code == 404
    assert http.get(f"/v1/jobs/{job.id}/run").json()["sources"] == ["before.tif"]
    client.delete(job.id)


def test_a_gis_finds_the_layers(
    http: httpx.Client, jobs: tuple[str, str], server: Process, table: gpd.GeoDataFrame
) -> None:
    """GDAL's own WMTS driver reads the document and the tiles it names."""
    address = f"{server.url}/v1/jobs/{jobs[0]}/wmts"
    root = ElementTree.fromstring(http.get(address).content)
    space = {"w": "http://www.opengis.net/wmts/1.0", "ows": "http://www.opengis.net/ows/1.1"}
    assert [item.text for item in root.findall(".//w:Layer/ows:Identifier", space)] == ["imagery", "classes"]
    with rasterio.open(f"WMTS:{address},layer=classes") as dataset:
        assert dataset.crs.to_epsg() == 3857
        lon, lat = middle(table.iloc[3])
        x, y = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:3857", always_xy=True).transform(lon, lat)
        pixel = next(dataset.sample([(x, y)]))
    scheme = {item["name"]: item["colour"] for item in http.get(f"/v1/jobs/{jobs[0]}/map").json()["classes"]}
    assert "#" + bytes(pixel[:3].tolist()).hex() == scheme[table["class"].iloc[3]]


def test_places_are_answered_or_refused(http: httpx.Client, jobs: tuple[str, str], table: gpd.GeoDataFrame) -> None:
    path = f"/v1/jobs/{jobs[0]}/tile"
    found = http.get(path, params={"column": LEFT + COLUMNS - 1, "row": TOP - ROWS}).json()
    assert found["label"] is None and found["tile_id"] == f"26919_224_{LEFT + COLUMNS - 1}_{TOP - ROWS}"
    row = table.iloc[0]
    corner = http.get(path, params={"column": row.column, "row": row.row}).json()["outline"]
    expected = [
        degrees(*point) for point in [(row.column * SIDE, row.row * SIDE), ((row.column + 1) * SIDE, row.row * SIDE)]
    ]
    assert np.abs(np.array(corner[:2]) - expected).max() < 1e-7
    for wrong in (
        {},
        {"lon": 1},
        {"lon": 1, "lat": 1, "column": 1, "row": 1},
        {"lon": 200, "lat": 1},
        {"lon": "nan", "lat": 1},
    ):
        assert http.get(path, params=wrong).status_code == 422, wrong
    assert http.get(path, params={"lon": 109, "lat": -40}).status_code in (200, 422)  # the other side of the earth


def ring(*corners: tuple[float, float]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [[*corners, corners[0]]]}


@pytest.mark.parametrize(
    ("area", "words"),
    [
        ({"type": "Point", "coordinates": [1, 2]}, "type"),
        ({"type": "Polygon", "coordinates": []}, "coordinates"),
        (ring((313600, 4681600), (313700, 4681600), (313700, 4681700)), "coordinates"),
        (ring((400, 0), (401, 0), (401, 1)), "longitude, then latitude"),
        (ring((1, 1), (1, 1), (1, 1)), "no area"),
        (ring((179, 1), (-179, 1), (-179, 2), (179, 2)), "split it at 180 degrees"),
        ({**ring((1, 1), (2, 1), (2, 2)), "crs": {"properties": {"name": "EPSG:26919"}}}, "longitude and latitude"),
        (ring(*[(k % 7 / 7, k % 11 / 11) for k in range(1500)]), "crosses itself"),
        (ring(*[(np.cos(k / 4000), np.sin(k / 4000)) for k in range(25_000)]), "vertices"),
    ],
)  # fmt: skip
def test_areas_that_are_none(http: httpx.Client, jobs: tuple[str, str], area: dict[str, Any], words: str) -> None:
    answer = http.post(f"/v1/jobs/{jobs[0]}/statistics", json=area)
    assert answer.status_code == 422 and words in answer.text, answer.text


@pytest.mark.parametrize("turn", [-360, 0])
def test_an_area_across_180_degrees_is_as_large_as_elsewhere(turn: int) -> None:
    """On Web Mercator, which ends there, and in the zone of UTM beside it."""
    across = Polygon.model_validate_json(
        json.dumps(ring(*[(x + turn, y) for x, y in ((179, 1), (181, 1), (181, 2), (179, 2))]))
    )
    elsewhere = Polygon.model_validate_json(json.dumps(ring((-73, 1), (-71, 1), (-71, 2), (-73, 2))))
    for crs, other in (("EPSG:3857", "EPSG:3857"), ("EPSG:32601", "EPSG:32619")):
        ((_, area),), ((_, same),) = named_areas(across, pyproj.CRS(crs)), named_areas(elsewhere, pyproj.CRS(other))
        assert area.is_valid
        assert area.area == pytest.approx(same.area, rel=1e-9)


def test_a_map_across_180_degrees_says_where_it_is(tmp_path: Path) -> None:
    place = rasterio.transform.from_origin(156_000, 130_000, 312.5, 312.5)
    path = write_coordinates(tmp_path / "a.tif", width=64, height=64, crs="EPSG:32601", transform=place)
    extent = painting.extent(path, path)
    west, _, east, _ = extent.bounds
    assert 179 < west < 180 < east < 181
    root = ElementTree.fromstring(capabilities("a", "http://a/wmts", [("classes", "a", "{z}/{x}/{y}")], extent))
    limits = [
        {part.tag.partition("}")[2]: int(part.text or "") for part in found}
        for found in root.iterfind(".//{http://www.opengis.net/wmts/1.0}TileMatrixLimits")
    ]
    assert len(limits) == extent.max_zoom - extent.min_zoom + 1
    assert all((one["MinTileCol"], one["MaxTileCol"] + 1) == (0, 2 ** one["TileMatrix"]) for one in limits)


def test_statistics_need_the_token_and_a_body_of_some_size(
    server: Process, http: httpx.Client, jobs: tuple[str, str]
) -> None:
    area = ring((-70, 42), (-69, 42), (-69, 43))
    assert httpx.post(f"{server.url}/v1/jobs/{jobs[0]}/statistics", json=area).status_code == 401
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.putrequest("POST", f"/v1/jobs/{jobs[0]}/statistics")
    for name, value in {**HEADERS, "content-length": "3000000"}.items():
        connection.putheader(name, value)
    connection.endheaders()  # it is refused for what it announces
    assert connection.getresponse().status == 413
    connection.close()
    assert http.post(f"/v1/jobs/{jobs[0]}/statistics", content=b"[" * 100_000).status_code in (400, 422)
    elsewhere = http.post(f"/v1/jobs/{jobs[0]}/statistics", json=ring((-75, 10), (-74, 10), (-74, 11))).json()
    assert elsewhere["areas"][0]["mapped_m2"] == 0 and elsewhere["areas"][0]["mean_confidence"] is None


def test_tiles_are_cut_exactly() -> None:
    """Against one intersection a tile, for an outline with a hole and a part of its own."""
    from geoclass.grid import TileRange

    grid, tiles = TileGrid(pyproj.CRS(UTM)), TileRange(1400, 20890, 1413, 20899)
    angles = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    radius = 900 + 250 * np.sin(9 * angles)
    centre = np.array([1406.3 * SIDE, 20894.2 * SIDE])
    star = shapely.Polygon(centre + np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1))
    area = star.difference(shapely.Point(*centre).buffer(300)).union(
        shapely.box(1411.2 * SIDE, 20897.1 * SIDE, 1499 * SIDE, 20897.4 * SIDE)
    )
    found = overlaps(area, grid, tiles, lambda: None)
    columns, rows = np.meshgrid(np.arange(tiles.left, tiles.right), np.arange(tiles.top - 1, tiles.bottom - 1, -1))
    expected = shapely.area(shapely.intersection(area, grid.polygons(columns, rows))) / grid.side**2
    assert found.shape == (9, 13)
    assert np.abs(found - expected).max() < 1e-9
