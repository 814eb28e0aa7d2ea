"""The change map, in a real Chromium, against categories, hectares and places computed apart from it."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely
from PIL import Image
from playwright.sync_api import Browser, Page

from geoclass.changes.posterior import KINDS, Change, Prior
from geoclass.changes.series import Series, Source, Uncovered
from geoclass.errors import OutputError
from geoclass.grid import TileGrid, TileRange
from geoclass.outputs.changemap import Picture, build_change_map, write_change_map
from geoclass.outputs.changestyle import CATEGORIES, NEW_BUILT, UNCHANGED, categories
from geoclass.outputs.colours import nearest_pair
from geoclass.schemes import ClassScheme, LandClass, load_scheme

DESK = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}
# The pixel of a side's layer (picture or tiles) under a place.
PIXEL = """([side, layer, lat, lng]) => {
    const { map, page } = geoclass;
    const drawn = page.sides[side][layer];
    if (!map.hasLayer(drawn)) return null;
    const at = map.latLngToLayerPoint([lat, lng]).subtract(drawn._bounds.min).multiplyBy(drawn._ratio);
    const copy = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    copy.drawImage(drawn._container, -Math.floor(at.x), -Math.floor(at.y));
    return [...copy.getImageData(0, 0, 1, 1).data];
}"""


def make_change(
    columns: int = 24,
    rows: int = 18,
    dates: tuple[str, ...] = ("2010", "2016", "2022"),
    *,
    scheme: ClassScheme | None = None,
    missing: float = 0.0,
    warnings: tuple[str, ...] = (),
    left: int = 1400,
    bottom: int = 20876,
    seed: int = 0,
    **info: Any,
) -> Change:
    """A change with every category and kind: tiles hold their class, and a third of them move at one of the dates."""
    rng = np.random.default_rng(seed)
    scheme = scheme or load_scheme("rsscn7")
    column, line = np.meshgrid(np.arange(columns), np.arange(rows))
    there = rng.random((rows, columns)) >= missing
    there[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    count, classes, steps = int(there.sum()), len(scheme), len(dates)
    true = np.repeat(rng.integers(0, classes, (count, 1)), steps, axis=1)
    start, new = rng.integers(1, steps, count), rng.integers(0, classes, count)
    moved = (rng.random(count) < 0.3)[:, None] & (np.arange(steps) >= start[:, None])
    true = np.where(moved, new[:, None], true)
    posterior = np.exp(rng.normal(0, 1, (count, steps, classes)) + 3 * np.eye(classes)[true])
    alone = np.exp(rng.normal(0, 1, (count, steps, classes)) + 2.2 * np.eye(classes)[true])
    posterior, alone = (p / p.sum(axis=2, keepdims=True) for p in (posterior, alone))
    grid = TileGrid(pyproj.CRS("EPSG:26919"))
    series = Series(
        grid,
        scheme,
        dates,
        column[there] + left,
        bottom + rows - 1 - line[there],
        alone.astype(np.float32),
        rng.choice([1.0, 0.75], (count, steps), p=[0.9, 0.1]).astype(np.float32),
        tuple(Source(None, info) for _ in dates),
        Uncovered(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, steps), bool)),
        built=scheme.groups.get("built", scheme.names[:1]),
        open=scheme.groups.get("open", scheme.names[1:]),
        warnings=warnings,
    )
    built, open_ = series.members(series.built), series.members(series.open)
    first, last = posterior[:, 0], posterior[:, -1]
    return Change(
        series,
        Prior(np.full(classes, 1 / classes), np.full((steps - 1, classes, classes), 1 / classes)),
        posterior.astype(np.float32),
        (1 - (first * last).sum(axis=1)).astype(np.float32),
        (first[:, open_].sum(axis=1) * last[:, built].sum(axis=1)).astype(np.float32),
    )


def places(series: Series, across: Any = 0.5, up: Any = 0.5) -> np.ndarray[Any, Any]:
    """(N, 2) latitude and longitude of points inside the tiles, by PROJ; shares of a side from the south-west."""
    to_degrees = pyproj.Transformer.from_crs(series.grid.crs, "EPSG:4326", always_xy=True)
    side = series.grid.side
    longitude, latitude = to_degrees.transform((series.columns + across) * side, (series.rows + up) * side)
    return np.stack([latitude, longitude], axis=1)


def pictures(series: Series, pad: int = 2) -> list[Picture]:
    """A picture a date, of one colour each tile, over a range that reaches `pad` tiles beyond the common one."""
    found = []
    for date in range(len(series.dates)):
        wide = series.range
        tiles = TileRange(wide.left - pad, wide.bottom - date, wide.right + 1, wide.top + pad)
        rng = np.random.default_rng(date)
        colours = rng.integers(60, 250, (tiles.rows, tiles.columns, 3), dtype=np.uint8)
        found.append(Picture(Image.fromarray(colours.repeat(8, 0).repeat(8, 1)), tiles))
    return found


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Open a map from disk without a network; at the end it must have asked for nothing and complained of nothing."""
    contexts, seen = [], []

    def opener(change: Change, view: dict[str, int] = DESK, phone: bool = False, at: str = "", **options: Any) -> Page:
        path = tmp_path / "change.html"
        write_change_map(path, change, **options)
        context = browser.new_context(
            viewport={"width": view["width"], "height": view["height"]}, has_touch=phone, is_mobile=phone, offline=True
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: seen.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: seen.append(f"error: {error}"))
        page.on("request", lambda request: request.url[:5] not in ("data:", "file:") and seen.append(request.url))
        page.goto(path.as_uri() + at)
        wait_until(page, "window.geoclass !== undefined && geoclass.page.tiles.posterior !== undefined")
        return page

    yield opener
    for context in contexts:
        context.close()
    assert seen == []


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


def click_tile(page: Page, place: Any) -> None:
    x, y = page.evaluate(
        "place => { const p = geoclass.map.latLngToContainerPoint(place); return [p.x, p.y]; }", list(place)
    )
    page.mouse.click(x, y)


def legend(page: Page) -> dict[str, tuple[int, float]]:
    """Tiles and hectares of each line of the legend."""
    rows = page.locator("#gc-categories li").all()
    found = {}
    for row in rows:
        count, area = (text.replace(",", "") for text in row.locator(".gc-number").all_inner_texts())
        found[row.locator(".gc-name").inner_text()] = (
            0 if count == "–" else int(count),
            0.0 if area == "–" else float(area),
        )
    return found


def counted(change: Change, passing: Any) -> dict[str, tuple[int, float]]:
    """What the legend should say of the tiles in `passing`."""
    found, hectares = categories(change), change.series.areas_m2 / 10_000
    return {
        item.label: (int((passing & (found == k)).sum()), float(hectares[passing & (found == k)].sum()))
        for k, item in enumerate(CATEGORIES)
        if k != UNCHANGED
    }


def assert_legend(page: Page, change: Change, passing: Any) -> None:
    said, known = legend(page), counted(change, passing)
    assert {name: count for name, (count, _) in said.items()} == {name: count for name, (count, _) in known.items()}
    assert [area for _, area in said.values()] == pytest.approx(
        [area for _, area in known.values()], rel=0.003, abs=0.6
    )


def all_tiles(change: Change) -> Any:
    return np.ones(len(change), bool)


def slide(page: Page, name: str, value: Any) -> None:
    page.locator(f"#gc-{name}").fill(str(value))


# ---- a county of 67,080 tiles and three dates


def test_a_county_fits_six_megabytes_and_answers(show: Any, tmp_path: Path) -> None:
    change = make_change(260, 258, left=1600, bottom=20000)
    page = show(change)
    assert len(change) == 67_080
    assert (tmp_path / "change.html").stat().st_size <= 6_000_000
    assert page.evaluate("geoclass.ready") < 10_000
    rng = np.random.default_rng(1)
    some = np.r_[0, 259, len(change) - 1, rng.integers(0, len(change), 1500)]
    ids = change.series.tile_ids
    for across, up in [(0.02, 0.98), (0.5, 0.5)]:
        answers = tiles_at(page, places(change.series, across, up)[some])
        assert [answer["id"] for answer in answers] == [ids[k] for k in some]
    got = np.array([answer["probabilities"] for answer in answers])
    assert np.abs(got - change.posterior[some]).max() < 0.005
    assert np.abs([answer["pChange"] for answer in answers] - change.p_change[some]).max() < 0.005
    assert np.abs([answer["pNewBuilt"] for answer in answers] - change.p_new_built[some]).max() < 0.005
    assert [answer["classes"] for answer in answers] == change.classes[some].tolist()
    assert [answer["alone"] for answer in answers] == change.series.classes[some].tolist()
    assert [answer["category"] for answer in answers] == categories(change)[some].tolist()
    assert [answer["kind"] for answer in answers] == [KINDS[k] for k in change.kind[some]]
    assert [answer["transition"] for answer in answers] == change.transition[some].tolist()
    assert_legend(page, change, all_tiles(change))
    corner = places(change.series, -0.01, 0.5)[:1]
    assert tiles_at(page, [*corner, [0, 0], [-80, 179]]) == [None] * 3


# ---- what is drawn


def test_every_view_paints_what_it_says(show: Any) -> None:
    change = make_change(missing=0.1)
    page = show(change)
    points, found = places(change.series, 0.3, 0.6), categories(change)
    scheme = np.array([item.rgb for item in change.series.scheme.classes])
    ground = page.evaluate(PIXEL, [0, "tiles", *points[found.tolist().index(UNCHANGED)]])
    for k in range(0, len(change), 23):
        got = page.evaluate(PIXEL, [0, "tiles", *points[k]])
        key = CATEGORIES[found[k]].key
        if key == "stable":
            assert got == ground
        elif key == "flicker":
            assert 0 < got[3] < 128
        else:
            assert got == [*CATEGORIES[found[k]].rgb, 255]
    page.check("input[name=gc-view][value=classes]")
    for date in (2, 0, 1):
        slide(page, "date", date)
        assert change.series.dates[date] in page.inner_text("#gc-stamp")
        for k in range(0, len(change), 41):
            assert page.evaluate(PIXEL, [0, "tiles", *points[k]]) == [*scheme[change.classes[k, date]], 255]
        hectares = np.bincount(change.classes[:, date], weights=change.series.areas_m2 / 10_000, minlength=7)
        said = [float(t.replace(",", "")) for t in page.locator("#gc-classes .gc-number").all_inner_texts()]
        assert said == pytest.approx(hectares, rel=0.003, abs=0.6)
    assert not page.is_visible("#gc-change")
    assert page.locator("input[name=gc-view][value=imagery]").is_disabled()  # no previews were given


def test_imagery_lies_where_it_belongs_whatever_its_range(show: Any) -> None:
    change = make_change(12, 10)
    shots = pictures(change.series)
    page = show(change, previews=shots)
    page.check("input[name=gc-view][value=imagery]")
    points, tiles = places(change.series), change.series.range
    for date, shot in enumerate(shots):
        slide(page, "date", date)
        wait_until(
            page,
            f"geoclass.page.sides[0].picture.picture.width === {tiles.columns * 8} && geoclass.page.one.date === {date}",
        )
        page.wait_for_timeout(100)
        pixels = np.asarray(shot.image)[4::8, 4::8]
        for k in range(0, len(change), 7):
            line, column = shot.range.top - 1 - change.series.rows[k], change.series.columns[k] - shot.range.left
            got = page.evaluate(PIXEL, [0, "picture", *points[k]])
            assert np.abs(np.array(got[:3]) - pixels[line, column]).max() < 30  # lossy WebP
        assert page.evaluate(PIXEL, [0, "tiles", *points[0]]) is None


def test_pictures_are_cut_to_the_wanted_range() -> None:
    values = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8)
    shot = Picture(Image.fromarray(np.stack([values] * 3, axis=2).repeat(4, 0).repeat(4, 1)), TileRange(10, 20, 18, 26))
    got = np.asarray(shot.over(TileRange(12, 22, 15, 24)))[2::4, 2::4, 0]
    assert got.tolist() == values[2:4, 2:5].tolist()
    beyond = np.asarray(shot.over(TileRange(17, 25, 20, 27)))[2::4, 2::4, 0]
    assert beyond.tolist() == [[0, 0, 0], [7, 0, 0]]
    assert np.asarray(shot.over(TileRange(0, 0, 2, 2))).max() == 0


def test_dates_play(show: Any) -> None:
    page = show(make_change(8, 8), previews=())
    page.check("input[name=gc-view][value=classes]")
    page.click("#gc-play")
    assert page.get_attribute("#gc-play", "aria-pressed") == "true"
    wait_until(page, "geoclass.page.one.date === 0")
    wait_until(page, "geoclass.page.one.date === 1")
    page.click("#gc-play")
    page.focus("#gc-date")
    page.keyboard.press("End")
    assert page.get_attribute("#gc-date", "aria-valuetext") == "2022"
    page.keyboard.press("ArrowLeft")
    assert "2016" in page.inner_text("#gc-stamp")


# ---- the comparison


def test_swipe_shows_each_side_only_on_its_side(show: Any) -> None:
    change = make_change(missing=0.05)
    page = show(change, previews=pictures(change.series), opacity=1.0)
    page.check("input[name=gc-mode][value=swipe]")
    page.select_option("#gc-left-what", "classes")
    page.select_option("#gc-left-date", "1")
    page.select_option("#gc-right-what", "classes")
    page.select_option("#gc-right-date", "2")
    scheme = np.array([item.rgb for item in change.series.scheme.classes])
    page.wait_for_timeout(300)

    def check_sides(x: float) -> None:
        """Screen colours left and right of the divider are those of the two dates."""
        seen = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(int)
        at = page.evaluate(
            "p => p.map(q => { const s = geoclass.map.latLngToContainerPoint(q); return [s.x, s.y]; })",
            places(change.series).tolist(),
        )
        sides = {0: 0, 1: 0}
        for k, (px, py) in enumerate(at):
            if abs(px - x) < 60 or not (380 < px < 1380 and 60 < py < 800):
                continue
            right = int(px > x)
            expected = scheme[change.classes[k, 1 + right]]
            assert np.abs(seen[int(py), int(px)] - expected).max() < 4
            sides[right] += 1
        assert min(sides.values()) > 20

    box = page.locator("#gc-divider").bounding_box()
    assert box
    start = box["x"] + box["width"] / 2
    check_sides(start)
    page.mouse.move(start, 300)
    page.mouse.down()
    page.mouse.move(start + 160, 320, steps=4)
    page.mouse.up()
    check_sides(start + 160)
    for _ in range(5):
        page.keyboard.press("Shift+ArrowLeft")
    for _ in range(12):
        page.keyboard.press("ArrowRight")
    share = page.evaluate("geoclass.state.at")
    assert share == pytest.approx((start + 160) / 1440 - 0.5 + 0.24, abs=0.01)
    assert page.get_attribute("#gc-divider", "aria-valuenow") == str(round(share * 100))
    page.keyboard.press("Home")
    assert page.evaluate("geoclass.state.at") == 0
    page.evaluate("geoclass.page.split(0.6)")
    page.evaluate("() => geoclass.map.panBy([-90, 40], { animate: false })")
    check_sides(0.6 * 1440)
    assert page.inner_text("#gc-left-tag") == "2016 classes"
    page.select_option("#gc-right-what", "change")
    assert page.is_visible("#gc-change") and page.is_visible("#gc-legend")
    page.check("input[name=gc-mode][value=one]")
    assert page.evaluate("geoclass.map.getPane('left-tiles').style.clipPath") == ""


# ---- filters and areas


def test_filters_and_their_counts(show: Any) -> None:
    change = make_change(40, 30, seed=3)
    page = show(change)
    found = categories(change)
    assert len(set(found.tolist())) == len(CATEGORIES)  # every category is there
    sure = np.where(np.isin(found, [0, 1]), change.p_new_built, change.p_change)
    assert_legend(page, change, all_tiles(change))
    for least in (40, 80):
        slide(page, "least", least)
        # Tiles within a quantisation step of the limit may fall on either side: the page holds bytes.
        passing = np.rint(sure * 255) >= least / 100 * 255
        assert_legend(page, change, passing)
        assert page.inner_text("#gc-least-text") == f"{least}%"
    hidden = int(np.flatnonzero((found == NEW_BUILT) & (sure < 0.79))[0])
    ground = page.evaluate(PIXEL, [0, "tiles", *places(change.series)[hidden]])
    assert ground == page.evaluate(PIXEL, [0, "tiles", *places(change.series)[found.tolist().index(UNCHANGED)]])
    slide(page, "least", 0)
    page.click("#gc-only")
    sustained = change.kind == KINDS.index("sustained")
    assert_legend(page, change, sustained)
    endpoint = int(np.flatnonzero((found == NEW_BUILT) & (change.kind == KINDS.index("endpoint")))[0])
    assert page.evaluate(PIXEL, [0, "tiles", *places(change.series)[endpoint]]) == ground
    page.click("#gc-only")
    assert_legend(page, change, all_tiles(change))
    page.uncheck("#gc-kinds label:has-text('flicker') input")
    assert_legend(page, change, change.kind != KINDS.index("flicker"))
    page.check("#gc-kinds label:has-text('flicker') input")
    page.uncheck("#gc-categories li:has-text('Other change') input")
    other = int(np.flatnonzero(found == 3)[0])
    assert page.evaluate(PIXEL, [0, "tiles", *places(change.series)[other]]) == ground


def test_two_dates_cannot_be_sustained_and_the_page_says_why(show: Any) -> None:
    page = show(make_change(10, 8, ("2010-07-14", "2016-08-01")))
    assert page.locator("#gc-only").is_disabled()
    assert "third date" in page.inner_text("#gc-hint")


def test_areas_are_a_table_linked_to_the_map(show: Any) -> None:
    change = make_change(40, 30, seed=5)
    series, side = change.series, change.series.grid.side
    tiles = series.range
    left, bottom = tiles.left * side, tiles.bottom * side
    towns = gpd.GeoDataFrame(
        {"name": ["West <b>", "East"]},
        geometry=[
            shapely.box(left, bottom, left + 12.5 * side, bottom + 30 * side),
            shapely.Polygon(
                [(left + 20 * side, bottom), (left + 40 * side, bottom), (left + 40 * side, bottom + 25 * side)]
            ),
        ],
        crs=series.grid.crs,
    )
    page = show(change, aois=towns.to_crs(4326))
    squares = series.grid.polygons(series.columns, series.rows)
    found = categories(change)

    def said() -> list[tuple[float, float]]:
        rows = [row.locator("td").all_inner_texts() for row in page.locator("#gc-rows tr").all()]
        return [(float(ha.replace(",", "").replace("–", "0")), float(share.strip("%<–") or 0)) for _, ha, share in rows]

    for passing in (all_tiles(change), change.kind == KINDS.index("sustained")):
        for (hectares, share), shape in zip(said(), towns.geometry, strict=True):
            inside = shapely.area(shapely.intersection(squares, shape)) / side**2 * series.areas_m2 / 10_000
            built = inside[passing & (found == NEW_BUILT)].sum()
            assert hectares == pytest.approx(built, rel=0.005, abs=0.51)
            assert share == pytest.approx(100 * built / inside.sum(), abs=0.1)
        page.click("#gc-only")
    before = page.evaluate("geoclass.map.getZoom()")
    page.click("#gc-rows tr:nth-child(2) button")
    assert page.get_attribute("#gc-rows tr:nth-child(2)", "aria-current") == "true"
    wait_until(page, f"geoclass.map.getZoom() > {before}")
    page.wait_for_timeout(400)
    assert page.evaluate("geoclass.map.getBounds().contains(geoclass.page.areas[1].box)")
    assert page.locator("#gc-rows td:first-child").all_inner_texts() == ["West <b>", "East"]
    page.evaluate("geoclass.page.fit()")
    page.click(".gc-aoi:has-text('West')")
    assert page.get_attribute("#gc-rows tr:nth-child(1)", "aria-current") == "true"
    page.wait_for_timeout(400)
    page.evaluate("geoclass.page.fit()")
    inner = int(np.flatnonzero((series.columns == tiles.left + 37) & (series.rows == tiles.bottom + 5))[0])
    click_tile(page, places(series)[inner])
    assert page.get_attribute("#gc-rows tr:nth-child(2)", "aria-current") == "true"


# ---- the tile card


def test_the_card_tells_a_tiles_history(show: Any) -> None:
    change = make_change(seed=2)
    page = show(change, previews=pictures(change.series))
    wanted = np.flatnonzero((categories(change) == NEW_BUILT) & (change.series.columns > change.series.range.left + 8))
    k = int(wanted[0])
    click_tile(page, places(change.series)[k])
    assert page.inner_text("#gc-card-class") == change.transition[k]
    kind = page.inner_text("#gc-card-kind")
    assert kind.startswith("New built-up") and KINDS[change.kind[k]] in kind
    names = change.series.scheme.names
    assert page.locator(".gc-of td").all_inner_texts() == [names[c] for c in change.classes[k]]
    assert page.locator(".gc-alone td").all_inner_texts() == [names[c] for c in change.series.classes[k]]
    for row in page.locator(".gc-p").all():
        name = row.locator("th").inner_text()
        shown = [float(text.strip("<>%")) / 100 for text in row.locator("td").all_inner_texts()]
        assert shown == pytest.approx(change.posterior[k][:, names.index(name)], abs=0.01)
    facts = page.inner_text("#gc-facts")
    assert change.series.tile_ids[k] in facts
    links = [link.get_attribute("href") or "" for link in page.locator("#gc-links a").all()]
    latitude, longitude = places(change.series)[k]
    assert links[0].startswith("https://www.openstreetmap.org/?mlat=")
    lat, lng = links[1].split("query=")[1].split("%2C")
    assert [float(lat), float(lng)] == pytest.approx([latitude, longitude], abs=2e-5)
    assert page.locator(".gc-history canvas").count() == 3
    assert page.evaluate("location.hash") == f"#tile={change.series.tile_ids[k]}"
    page.keyboard.press("Escape")
    assert not page.is_visible("#gc-card") and page.evaluate("location.hash") == ""


def test_a_deep_link_opens_at_its_tile(show: Any) -> None:
    change = make_change(60, 50)
    k = 60 * 31 + 44
    page = show(change, at=f"#tile={change.series.tile_ids[k]}")
    assert change.series.tile_ids[k] in page.inner_text("#gc-facts")
    x, y = page.evaluate(
        "p => { const q = geoclass.map.latLngToContainerPoint(p); return [q.x, q.y]; }",
        places(change.series)[k].tolist(),
    )
    panel, card = (page.locator(f"#gc-{name}").bounding_box() for name in ("panel", "card"))
    assert panel and card
    assert x == pytest.approx((panel["x"] + panel["width"] + card["x"]) / 2, abs=40)
    assert y == pytest.approx(450, abs=60)
    assert page.evaluate("geoclass.map.getBounds().getEast() - geoclass.map.getBounds().getWest()") < 0.12
    other = change.series.tile_ids[5]
    page.evaluate(f"location.hash = '#tile={other}'")
    wait_until(page, f"document.getElementById('gc-facts').textContent.includes('{other}')")
    page = show(change, at="#tile=1_224_5_5")  # no tile of this grid
    assert not page.is_visible("#gc-card")


# ---- words, keyboard, phones


def test_warnings_notes_and_meanings_are_on_the_page(show: Any) -> None:
    page = show(make_change(6, 6, warnings=("the sensors differ", "<b>ten</b> tiles are left out"), synthetic=True))
    assert page.locator("#gc-warnings li").all_inner_texts() == [
        "The sensors differ.",
        "<b>ten</b> tiles are left out.",
    ]
    assert "synthetic" in page.title() and page.is_visible("#gc-badge")
    foot = page.inner_text("#gc-foot")
    assert "not estimates" in foot and "report" in foot
    assert all(kind in foot.lower() for kind in KINDS)
    page = show(make_change(6, 6), PHONE, phone=True)
    assert not page.is_visible("#gc-warnings") and page.locator("#gc-brief .gc-badge").count() == 0


def test_text_from_data_is_only_text(show: Any) -> None:
    names = ("<img src=x onerror=hacked=1>", "</script><script>hacked=1</script>", '"{{ 7 * 7 }}"')
    colours = ("#d55e00", "#08452b", "#fcd036")
    classes = tuple(LandClass(id=k + 1, name=name, colour=colours[k]) for k, name in enumerate(names))
    change = make_change(8, 8, scheme=ClassScheme(name="hostile", classes=classes), warnings=("<i onclick=1>",))
    title = "</title></script><script>hacked=1</script>"
    page = show(change, title=title)
    click_tile(page, places(change.series)[27])
    page.check("input[name=gc-view][value=classes]")
    page.wait_for_timeout(150)
    assert page.evaluate("typeof hacked") == "undefined"
    assert page.title() == page.inner_text("h1") == title
    assert page.locator("#gc-classes .gc-name").all_inner_texts() == list(names)
    assert page.locator("iframe, img, i[onclick]").count() == 0


def test_keyboard_reaches_everything(show: Any) -> None:
    change = make_change(20, 20)
    page = show(change, previews=pictures(change.series))
    reached = set()
    for _ in range(45):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("(a => a.id || a.value || a.title || a.textContent)(document.activeElement)"))
    map_id = page.get_attribute(".gc-map", "id")
    assert {
        "gc-fold",
        "one",
        "change",
        "gc-play",
        "gc-date",
        "gc-least",
        "gc-only",
        "gc-opacity",
        map_id,
        "Help",
    } <= reached
    page.focus(".gc-map")
    page.keyboard.press("ArrowRight")
    start = page.evaluate("geoclass.state.cursor")
    for key in ("ArrowRight", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    tiles = change.series.range
    wanted = change.series.grid.tile_id(tiles.left + start[0] + 1, tiles.top - 1 - start[1] - 1)
    assert wanted in page.inner_text("#gc-facts") and wanted in page.inner_text("#gc-live")
    page.keyboard.press("[")
    assert page.evaluate("geoclass.page.one.date") == 1
    page.keyboard.press("s")
    assert page.is_visible("#gc-divider")
    page.keyboard.press("s")
    assert not page.is_visible("#gc-divider")
    page.mouse.move(800, 500)
    wait_until(page, "!document.getElementById('gc-hover').hidden")
    assert page.inner_text("#gc-hover").split("\n")[0] in set(change.transition)


def test_phone_width(show: Any) -> None:
    change = make_change(warnings=("a caution",))
    page = show(change, PHONE, phone=True, previews=pictures(change.series))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not page.is_visible("#gc-body")
    assert "New built-up" in page.inner_text("#gc-brief") and "1 caution" in page.inner_text("#gc-brief")
    k = len(change) // 2 + 12
    x, y = page.evaluate(
        "p => { const q = geoclass.map.latLngToContainerPoint(p); return [q.x, q.y]; }",
        places(change.series)[k].tolist(),
    )
    page.touchscreen.tap(x, y)
    assert change.series.tile_ids[k] in page.inner_text("#gc-facts")
    page.tap("#gc-close")
    page.tap(".gc-head")
    for target in page.locator(".gc-segments label, #gc-categories label, .gc-play, .gc-chips label, .gc-only").all():
        box = target.bounding_box()
        assert box is None or min(box["width"], box["height"]) >= 40
    page.check("input[name=gc-mode][value=swipe]", force=True)
    assert page.is_visible("#gc-left-what")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


# ---- without a browser


def test_colours_are_told_apart() -> None:
    drawn = tuple(item.colour for item in CATEGORIES if item.key not in ("stable", "flicker"))
    assert nearest_pair(drawn) > 10


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    change = make_change(3, 2)
    with pytest.raises(OutputError, match="1 previews for 3 dates"):
        build_change_map(change, previews=[None])
    with pytest.raises(OutputError, match="no CRS"):
        build_change_map(change, aois=gpd.GeoDataFrame(geometry=[shapely.Point(0, 0).buffer(1)]))
    path = tmp_path / "change.html"
    path.write_text("kept")
    with pytest.raises(OutputError, match="--overwrite"):
        write_change_map(path, change, overwrite=False)
    assert path.read_text() == "kept"
