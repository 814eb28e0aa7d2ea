"""The planner's report in a real Chromium: no request, no complaint, and the figures of the trend."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from playwright.sync_api import Browser, Page
from test_trend import simulated, towns

from geoclass.changes.posterior import ENDPOINT
from geoclass.changes.trend import Trend, trend
from geoclass.errors import ChangeError, OutputError
from geoclass.grid import TileGrid, TileRange
from geoclass.outputs.changestyle import CATEGORIES, categories
from geoclass.outputs.trendfigures import Way, histogram, sankey, ways
from geoclass.outputs.trendmaps import map_svg, place_at, scale_bar
from geoclass.outputs.trendreport import write_trend_report
from geoclass.outputs.trendwords import headline, hectares, limits, percent, signed
from geoclass.schemes import ClassScheme, LandClass

DESK, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
NASTY = ("</style><script>window.hurt=1</script>", "<img src=x onerror=window.hurt=1>", '{{ 7*7 }} "quoted" & %}')


def row(name: str, area: float, low: float, high: float, mapped: float | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "area_ha": area,
        "se_ha": 1.0,
        "half_ha": high - area,
        "low_ha": low,
        "high_ha": high,
        "mapped_ha": mapped,
    }


ESTIMATE = {
    "sentence": "New built-up land",
    "unit": "Areas count tiles of 5.02 ha",
    "method": "Stratified estimation",
    "new_built": row("New built-up", 131.4, 88.2, 174.6, 115.0),
    "net_built": row("Net", 90.0, -5.0, 185.0, 100.0),
    "areas": [row("New built-up", 131.4, 88.2, 174.6, 115.0), row("Stable open land", 1500.0, 1400.0, 1600.0, 1490.0)],
    "warnings": [],
}


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Write a report and open it without a network; at the end nothing may have been asked for or complained of."""
    contexts, seen = [], []

    def opener(found: Trend, change: Any, view: dict[str, int] = DESK, **options: Any) -> Page:
        path = write_trend_report(tmp_path / "report.html", found, change, overwrite=True, **options)
        context = browser.new_context(viewport={"width": view["width"], "height": view["height"]}, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: seen.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: seen.append(f"error: {error}"))
        page.on("request", lambda request: request.url[:5] != "data:" and seen.append(request.url))
        page.goto(path.as_uri())
        assert seen.pop(0) == path.as_uri()
        assert page.evaluate("window.geoclassTrend === true"), seen
        return page

    yield opener
    for context in contexts:
        context.close()
    assert seen == []


def cells(page: Page, where: str) -> list[list[str]]:
    """Texts of a table's body, in rows."""
    script = """where => [...document.querySelectorAll(where + " tbody tr")].map(row =>
        [...row.children].map(cell => cell.textContent.trim()))"""
    return list(page.evaluate(script, where))


# ---- the page


def test_numbers_in_the_page_are_those_of_the_trend(show):
    change = simulated(dates=("2009", "2012", "2018"), seed=4)
    found = trend(change, towns(change))
    page = show(found, change)
    names = change.series.scheme.names
    assert f"{hectares(found.new_mapped_ha[0])}\u00a0ha" in page.inner_text("#headline .sentence")
    assert "has not been measured" in page.inner_text("#headline .sentence")
    assert "geoclass estimate" in page.inner_text("#headline")
    classes = cells(page, "#what table")
    moved, built = found.exchange(found.whole), found.built_exchange(found.whole)
    for k, name in enumerate(names):
        assert classes[k][0] == name
        assert classes[k][1:4] == [hectares(v) for v in found.mapped_ha[0, :, k]]
        assert classes[k][5:8] == [hectares(moved.gain[0, k]), hectares(moved.loss[0, k]), signed(moved.net[0, k])]
    assert classes[-1][7] == signed(built.net[0])
    matrix = cells(page, "table.matrix")
    for k, shown in enumerate(matrix[: len(names)]):
        assert shown[1:-1] == [hectares(v) for v in found.whole.matrices[0, k]]
    for item in found.ledgers:
        counts = page.evaluate(
            "k => [...document.querySelectorAll('#sure table tbody tr')[k].querySelectorAll('td')].map(c => c.firstChild.textContent)",
            found.ledgers.index(item),
        )
        assert [int(text.replace(",", "")) for text in counts] == [item.raw, item.dropped, item.joint]
    areas = cells(page, "#areas")
    assert [shown[0].split("\n")[0][:6] for shown in areas] == ["Norton", "Easton"]
    assert areas[0][2:4] == [hectares(v) for v in found.built_ha[1, [0, -1]]]
    page.click("summary")
    assert len(cells(page, "#numbers table")) == 3 * 3 * 8
    which = categories(change)
    key = page.inner_text("#where .three > div:first-child .key")
    for k, item in enumerate(CATEGORIES):
        assert f"{item.label} {(which == k).sum():,}" in key.replace("\n", " ")


def test_estimate_and_drift_are_shown_first(show):
    change = simulated()
    found = trend(change)
    drift = {
        "verdict": "quiet",
        "sentences": ["On 500 tiles <b>presumed</b> unchanged"],
        "figures": [
            '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9" onload="window.hurt=1"><script>window.hurt=1</script></svg>',
            "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGD4DwABBAEAX+XDSwAAAABJRU5ErkJggg==",
        ],
        "head": ["measure", "2010"],
        "rows": [["mean", 0.5]],
    }
    page = show(found, change, estimate=ESTIMATE, drift=drift)
    text = page.inner_text("#headline .sentence")
    assert "an estimated 131\u00a0ha" in text and "from 88.2 to 175\u00a0ha" in text
    assert "geoclass estimate" not in page.inner_text("main")
    shown = cells(page, "#sure > .card:first-of-type table")
    assert shown[0] == ["New built-up land", "115", "131", "88.2 to 175"]
    assert shown[1] == ["Net gain of built-up land", "+100", "+90.0", "−5.0 to +185"]
    assert [line[0] for line in shown[2:]] == ["Stable open land"]
    assert "Quiet: the dates differ by no more" in page.inner_text("#sure")
    assert page.evaluate(
        "[...document.querySelectorAll('.driftfigures img')].every(i => i.complete && i.naturalWidth > 0)"
    )
    assert page.locator(".driftfigures img").count() == 2 and page.evaluate("window.hurt") is None
    # The estimate that the trend carries serves as well.
    assert "131" in show(replace(found, estimate=ESTIMATE), change).inner_text("#headline .sentence")


def test_withheld_trend_says_no_figure_at_the_top(show):
    change = simulated()
    found = trend(change)
    drift = {"verdict": "withheld", "sentences": ["The colours of 2016 moved by 3 standard deviations."]}
    page = show(found, change, drift=drift)
    top = page.inner_text("#headline")
    assert "No trend from 2010 to 2016 can be stated" in top and "3 standard deviations" in top
    assert hectares(found.new_mapped_ha[0]) not in top and page.locator("#headline dl").count() == 0
    assert page.locator(".caution").count() == 4
    # A checked sample holds whatever the map says.
    assert "an estimated 131" in show(found, change, drift=drift, estimate=ESTIMATE).inner_text("#headline .sentence")


def test_names_cannot_reach_into_the_page(show):
    kinds = [LandClass(id=k, name=name, colour="#447788") for k, name in enumerate((*NASTY, "Water"), start=1)]
    groups = {"built": NASTY[:1], "open": NASTY[1:]}
    scheme = ClassScheme(name="<i>x", title="</title><b>", source="<u>y", classes=tuple(kinds), groups=groups)
    change = simulated(scheme=scheme)
    frame = towns(change)
    frame["name"] = NASTY[:2]
    change = replace(change, series=replace(change.series, warnings=("<script>window.hurt=1</script>",)))
    estimate = ESTIMATE | {"areas": [row(NASTY[1], 1, 0, 2)], "warnings": ["<script>window.hurt=1</script>"]}
    drift = {"verdict": NASTY[1], "sentences": [NASTY[0]], "rows": [[NASTY[1], NASTY[2]]], "head": [NASTY[1], "x"]}
    page = show(trend(change, frame), change, title=NASTY[0], estimate=estimate, drift=drift)
    assert page.evaluate("window.hurt") is None and page.title() == NASTY[0]
    assert page.evaluate("document.querySelectorAll('main script, main img[src=x], main u').length") == 0
    assert [line[0] for line in cells(page, "#what table")][:3] == list(NASTY)
    assert [line[0].startswith(name) for line, name in zip(cells(page, "#areas"), NASTY[:2], strict=True)] == [True] * 2
    assert page.inner_text("h1") == NASTY[0]


@pytest.mark.parametrize(("view", "classes"), [(DESK, 16), (PHONE, 3), (PHONE, 16)])
def test_page_never_scrolls_sideways(show, view, classes):
    long = "Averyveryverylongclassnamewithoutanyplacetobreakitatallinthere"[:60]
    kinds = [LandClass(id=k + 1, name=long if not k else f"Class {k}", colour="#335577") for k in range(classes)]
    names = tuple(item.name for item in kinds)
    scheme = ClassScheme(name="x", classes=tuple(kinds), groups={"built": names[:1], "open": names[1:]})
    change = simulated(20, 16, ("2009", "2012-05", "2015-06-01", "2018"), scheme=scheme)
    frame = towns(change)
    frame["name"] = ["Anareawithaverylongnamewithoutanyplacetobreak" * 2, "B"]
    page = show(trend(change, frame), change, view=view, title="Atitlewithoutanyspace" * 6)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    boxes = "[...document.querySelectorAll('.card')].filter(box => box.getBoundingClientRect().right > innerWidth + 1).length"
    assert page.evaluate(boxes) == 0
    sizes = page.evaluate(
        """[...document.querySelectorAll('.chart text')].map(t => parseFloat(getComputedStyle(t).fontSize)
            * t.ownerSVGElement.getBoundingClientRect().width / t.ownerSVGElement.viewBox.baseVal.width)"""
    )
    assert min(sizes) > 9.5  # letters of the figures stay readable


def test_areas_sort_by_click_and_by_keyboard(show):
    change = simulated()
    found = trend(change, towns(change))
    page = show(found, change)
    order = [float(v) for v in found.built_ha[1:, -1]]
    first = "Norton" if order[0] > order[1] else "Easton"
    button = page.locator("#areas thead button").nth(3)
    button.focus()
    page.keyboard.press("Enter")
    assert cells(page, "#areas")[0][0].startswith(first)
    page.keyboard.press("Enter")
    assert not cells(page, "#areas")[0][0].startswith(first)
    assert page.locator("#areas th[aria-sort=ascending]").count() == 1


def test_maps_draw_each_tile_where_it_lies(show):
    """The change map's pixels, read back from the page, are the colours of the tiles' categories."""
    change = simulated(17, 8, seed=6)
    page = show(trend(change), change)
    pixels = page.evaluate(
        """() => { const image = document.querySelector('.three image'); const canvas = document.createElement('canvas');
        const picture = new Image(); return new Promise(done => { picture.onload = () => {
          canvas.width = picture.width; canvas.height = picture.height;
          const context = canvas.getContext('2d'); context.drawImage(picture, 0, 0);
          done([picture.width, picture.height, [...context.getImageData(0, 0, picture.width, picture.height).data]]); };
          picture.src = image.getAttribute('href'); }); }"""
    )
    tiles, which = change.series.range, categories(change)
    assert pixels[:2] == [tiles.columns, tiles.rows]
    image = np.array(pixels[2]).reshape(tiles.rows, tiles.columns, 4)
    drawn = 0
    for column, row_, k in zip(change.series.columns, change.series.rows, which, strict=True):
        assert tuple(image[tiles.top - 1 - row_, column - tiles.left]) == (*CATEGORIES[k].rgb, 255)
        drawn += 1
    assert (image[..., 3] > 0).sum() == drawn == len(change)


def test_pictures_stand_above_the_maps(show):
    change = simulated()
    found = trend(change)
    page = show(found, change, pictures=[np.full((50, 60, 3), 120, np.uint8), None])
    assert page.evaluate("document.querySelectorAll('.photo img').length") == 1
    assert page.evaluate("document.querySelector('.photo img').naturalWidth") == 60
    with pytest.raises(ChangeError, match="1 pictures for 2 dates"):
        show(found, change, pictures=[None])


def test_printed_page_unfolds_and_fits(show):
    change = simulated(dates=("2009", "2012", "2018"))
    frame = towns(change, population_a=[100.0, 200], population_b=[150.0, 250])
    page = show(trend(change, frame, {"2009": "a", "2018": "b"}), change, view={"width": 702, "height": 1000})
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.querySelector('details').open")
    assert page.evaluate("document.documentElement.scrollWidth") <= 702


def test_report_is_kept_and_written_whole(tmp_path):
    change = simulated()
    found, path = trend(change), tmp_path / "report.html"
    path.write_text("mine")
    with pytest.raises(OutputError, match=r"report\.html exists and is kept"):
        write_trend_report(path, found, change)
    assert path.read_text() == "mine"
    write_trend_report(path, found, change, overwrite=True)
    text = path.read_text("utf-8")
    assert text.rstrip().endswith("</html>") and "http://" not in text.replace("http://www.w3.org", "")
    assert [item.name for item in tmp_path.iterdir()] == ["report.html"]


# ---- words and figures


def test_numbers_in_words():
    assert [hectares(v) for v in (1234.5, 99.96, 99.94, 5.02, 0.04, -3.25, float("nan"))] == [
        "1,234", "100", "99.9", "5.0", "0", "−3.2", "–",
    ]  # fmt: skip
    assert [signed(v) for v in (12.0, -12.0, 0.0, 0.01)] == ["+12.0", "−12.0", "0", "0"]
    assert percent(0.0314, sign=True) == "+3.1\u00a0%" and percent(-0.5, 0) == "−50\u00a0%"
    assert percent(float("nan")) == "–"


def said(change: Any, estimated: bool = False) -> dict[str, str]:
    return dict(limits(trend(change), change, estimated))


def test_limits_follow_from_the_data():
    change = simulated()
    words = said(change)
    assert (
        "224\u00a0m wide, 5.0\u00a0ha" in words["Small developments"] and "2.5\u00a0ha" in words["Small developments"]
    )
    assert "Houses and streets" not in words and "Single houses" not in words
    assert "Two dates, 6.0 years apart" in words["The course between the dates"]
    assert f"{trend(change).kinds[ENDPOINT]} tiles have a new class" in words["Changes seen once"]
    assert "no interval" in words["How far off the hectares are"] and "Ground not covered" not in words
    assert "How far off the hectares are" not in said(change, estimated=True)
    coarse = said(simulated(grid=TileGrid("EPSG:32718", 8, 90.0)))
    assert "90\u00a0m wide: single houses and streets cannot be seen" in coarse["Houses and streets"]
    assert "Single houses" in said(simulated(grid=TileGrid("EPSG:32718", 32, 10.0)))
    months = said(simulated(dates=("2010-04", "2016-09")))
    assert "different months" in months["Season"]
    assert "Season" not in said(simulated(dates=("2010-07-01", "2016-07-20")))
    missing = replace(change.series.uncovered, columns=np.arange(7), rows=np.arange(7), covered=np.zeros((7, 2), bool))
    warned = replace(
        change, series=replace(change.series, uncovered=missing, warnings=("synthetic imagery: not real",))
    )
    words = said(warned)
    assert "7 tiles (about 35.1\u00a0ha) of 110" in words["Ground not covered"]
    assert words["Also"] == "Synthetic imagery: not real."


def test_headline_without_new_tiles():
    change = simulated()
    quiet = replace(change, p_new_built=np.zeros(len(change), np.float32))
    assert headline(trend(quiet), None, None).startswith("The map shows no newly built-up land")


def test_outlines_scale_and_names_lie_right():
    grid, tiles = TileGrid("EPSG:26919", 224, 1.0), TileRange(10, 20, 14, 23)
    square = shapely.box(11 * 224, 21 * 224, 12 * 224, 22 * 224)
    svg = map_svg(np.zeros((3, 4, 4), np.uint8), tiles, grid, [square], "x")
    path = svg.split('d="M')[1].split("Z")[0].replace("L", " ").split()
    corners = {(float(x), float(y)) for x, y in zip(path[::2], path[1::2], strict=True)}
    assert corners == {(1, 1), (2, 1), (2, 2), (1, 2)}
    assert place_at(square, tiles, grid) == pytest.approx((0.375, 0.5))
    assert place_at(shapely.box(0, 0, 9, 9), tiles, grid) is None
    words, share = scale_bar(TileRange(0, 0, 100, 5), grid)  # 22.4 km wide
    assert (words, share) == ("5 km", pytest.approx(5 / 22.4))
    assert scale_bar(TileRange(0, 0, 4, 5), grid)[0] == "200 m"


def test_flows_are_as_thick_as_their_hectares():
    matrix = np.array([[60.0, 20, 0.01], [0, 15, 0], [5, 0, 0]])
    stocks = np.stack([matrix.sum(axis=1), matrix.sum(axis=0)])
    svg, hidden = sankey(["2010", "2016"], stocks, [matrix], ["A", "B", "C"], ["#111111", "#222222", "#333333"])
    thick = [float(part.split("v")[1].split("C")[0]) for part in svg.split('d="')[1:]]
    # Pale ones first: A stayed, B stayed; then A → B and C → A. What is thinner than can be drawn is told.
    assert len(thick) == 4 and hidden == pytest.approx(0.01)
    assert thick[0] / thick[2] == pytest.approx(3, rel=0.01) and thick[2] / thick[3] == pytest.approx(4, rel=0.01)
    assert svg.count('class="node"') == 6


def test_figures_survive_odd_numbers():
    for found in ([Way("a", 0.0)], [Way("a", 0.3, 0.0, 5e6), Way("b", 2.0)], [Way("a", 5.0, -3.0, 13.0)]):
        assert "nan" not in ways(found)
    assert "nan" not in histogram([0] * 20, 0.5, 0) and "nan" not in histogram([5] + [0] * 18 + [70000], 0.95, 5)
