"""The review page in a real Chromium: answered by keyboard, kept, undone, saved and read again, and it asks for nothing."""

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
from conftest import write_coordinates
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page
from test_candidates import make_change

from geoclass.changes.candidates import rank
from geoclass.changes.chips import TOTAL_BYTES, Chips, View, make_chips, view_of
from geoclass.errors import ChangeError, OutputError
from geoclass.grid import TileGrid
from geoclass.outputs.reviewpage import (
    entries_of_candidates,
    entries_of_change,
    entries_of_tiles,
    page_id,
    write_review,
)
from geoclass.schemes import ClassScheme, LandClass, load_scheme

GRID = TileGrid(pyproj.CRS("EPSG:26919"))
DESK, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
NASTY = ("<img src=x onerror=alert(1)>", 'a "b", c', "</script>%%DATA%%", "plain")
DATES = ("2011", "2016")


def jpeg(colour: tuple[int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (96, 96), colour).save(stream, "JPEG")
    return stream.getvalue()


def plain_chips(count: int, dates: tuple[str, ...] = DATES) -> Chips:
    """Pictures of one colour: red tells the tile, green the date."""
    tiles = GRID.tile_ids(np.arange(count), np.zeros(count, np.int64))
    rows = [tuple(jpeg((2 * k, 60 + 60 * t, 90)) for t in range(len(dates))) for k in range(count)]
    return Chips(tuple(tiles), tuple(View(date, None, "imagery", "a scene") for date in dates), tuple(rows), 0.25)


def nasty_scheme() -> ClassScheme:
    return ClassScheme(
        name="nasty",
        classes=tuple(LandClass(id=k + 1, name=name, colour=f"#{k:02}8844") for k, name in enumerate(NASTY)),
    )


def write_page(path: Path, count: int = 50, dates: tuple[str, ...] = DATES, **options: Any) -> Path:
    entries = entries_of_tiles(GRID, np.arange(count), np.zeros(count, np.int64))
    given = {"purpose": "estimation", "sample_id": "s-1", "scheme": nasty_scheme(), "built": NASTY[:2], **options}
    write_review(path, entries, plain_chips(count, dates), **given)
    return path


class Shown:
    """A page on a disk, opened without a network in a browser of its own."""

    def __init__(self, browser: Browser, path: Path, view: dict[str, int], seen: list[str], init: str = "") -> None:
        phone = view is PHONE
        self.path, self.seen = path, seen
        self.context: BrowserContext = browser.new_context(
            viewport={"width": view["width"], "height": view["height"]}, offline=True, accept_downloads=True,
            has_touch=phone, is_mobile=phone,
        )  # fmt: skip
        if init:
            self.context.add_init_script(init)
        self.page = self.open()

    def open(self) -> Page:
        page = self.context.new_page()
        page.on("console", lambda message: self.seen.append(message.text))
        page.on("pageerror", lambda error: self.seen.append(str(error)))
        page.on("dialog", lambda dialog: self.seen.append(dialog.message))
        own = self.path.as_uri()
        page.on("request", lambda r: None if r.url.startswith(("data:", "blob:", own)) else self.seen.append(r.url))
        page.goto(own)
        return page

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def step(self) -> str:
        return self.page.inner_text("#tile-step")

    def save(self, press: bool = True) -> tuple[str, list[dict[str, str]]]:
        """The suggested name and the rows of the saved file."""
        with self.page.expect_download() as waiting:
            if press:
                self.page.keyboard.press("Control+s")
            else:
                self.page.click("#save")
        text = Path(waiting.value.path()).read_bytes().decode("utf-8")
        assert text.count("\r\n") >= 1
        return waiting.value.suggested_filename, list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.fixture
def show(browser: Browser) -> Iterator[Callable[..., Shown]]:
    """Open a page; at the end it must have asked for nothing and complained of nothing."""
    opened: list[Shown] = []
    seen: list[str] = []

    def opener(path: Path, view: dict[str, int] = DESK, init: str = "") -> Shown:
        opened.append(Shown(browser, path, view, seen, init))
        return opened[-1]

    yield opener
    for item in opened:
        item.context.close()
    assert seen == []


def test_fifty_tiles_by_keyboard(show: Callable[..., Shown], tmp_path: Path) -> None:
    shown = show(write_page(tmp_path / "review.html"))
    answers = np.random.default_rng(0).choice(["y", "n", "?"], 50).tolist()
    for k, answer in enumerate(answers):
        assert shown.step() == f"Tile {k + 1} of 50"
        shown.press("/" if answer == "?" and k % 2 else answer)
    assert shown.page.inner_text("#count") == "50 of 50 answered"
    assert "geoclass estimate" in shown.page.inner_text("#status")
    assert shown.page.get_attribute("#progress", "aria-valuenow") == "50"
    shown.page.fill("#reviewer", "Ada Löw")
    name, rows = shown.save()
    assert name == "s-1-Ada-Lo-w-answers.csv"
    assert list(rows[0]) == [
        "sample_id", "tile_id", "answer", "class_2011", "class_2016", "reviewer", "note", "purpose", "time",
    ]  # fmt: skip
    assert [row["answer"] for row in rows] == answers
    assert [row["tile_id"] for row in rows] == GRID.tile_ids(np.arange(50), np.zeros(50, np.int64))
    assert {(row["sample_id"], row["reviewer"], row["purpose"]) for row in rows} == {("s-1", "Ada Löw", "estimation")}
    assert all(row["time"].endswith("Z") and "T" in row["time"] for row in rows)
    assert shown.page.inner_text("#kept") == "Saved as a file"


def test_undo_and_arrows(show: Callable[..., Shown], tmp_path: Path) -> None:
    shown = show(write_page(tmp_path / "review.html", 6))
    shown.press("u")
    assert shown.page.inner_text("#status") == "Nothing to undo."
    shown.press("y", "n", "u")
    assert shown.step() == "Tile 2 of 6" and shown.page.inner_text("#count") == "1 of 6 answered"
    shown.press("ArrowLeft", "n")  # changes the first answer, and goes on to the first without one
    assert shown.step() == "Tile 2 of 6"
    shown.press("u")
    assert shown.step() == "Tile 1 of 6"
    assert shown.page.get_attribute("[data-choice=y]", "aria-pressed") == "true"
    shown.press("u")
    assert shown.page.inner_text("#count") == "0 of 6 answered"
    shown.press("ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight", "y")
    assert shown.step() == "Tile 1 of 6"
    assert [row["tile_id"] for row in shown.save()[1]] == ["26919_224_5_0"]
    shown.press("n")
    shown.page.click("#clear")
    assert shown.page.inner_text("#count") == "0 of 6 answered" and len(shown.save(press=False)[1]) == 0
    shown.press("u")
    assert [row["answer"] for row in shown.save()[1]] == ["n", "y"]


def test_answers_outlive_the_page(show: Callable[..., Shown], tmp_path: Path) -> None:
    shown = show(write_page(tmp_path / "review.html", 8))
    shown.press("y", "n")
    shown.page.fill("#note", 'a, "b"\nand c')
    shown.page.fill("#reviewer", "=me")
    shown.page.reload()
    assert shown.step() == "Tile 3 of 8" and shown.page.inner_text("#count") == "2 of 8 answered"
    assert shown.page.input_value("#reviewer") == "=me" and shown.page.input_value("#note") == 'a, "b"\nand c'
    shown.press("?")
    rows = shown.save()[1]
    assert [(row["answer"], row["note"]) for row in rows] == [("y", ""), ("n", ""), ("?", 'a, "b"\nand c')]
    other = shown.open()  # a second tab goes on, and the first one follows
    other.keyboard.press("n")
    assert other.inner_text("#count") == "4 of 8 answered"
    for _ in range(40):
        if shown.page.inner_text("#count") == "4 of 8 answered":
            break
        shown.page.wait_for_timeout(50)
    assert shown.page.inner_text("#count") == "4 of 8 answered"
    # Another sample in the same browser has answers of its own.
    shown.path = write_page(tmp_path / "other.html", 8, sample_id="s-2")
    assert shown.open().inner_text("#count") == "0 of 8 answered"


def test_a_saved_file_is_read_again(show: Callable[..., Shown], tmp_path: Path) -> None:
    path = write_page(tmp_path / "review.html", 10)
    first = show(path)
    first.page.fill("#reviewer", "Bea")
    first.page.keyboard.press("Escape")
    first.press("y", "2", "n", "1", "1", "?", "n")
    first.page.fill("#note", '=1+1, "so"')
    with first.page.expect_download() as waiting:
        first.press("Control+s")
    waiting.value.save_as(tmp_path / "answers.csv")
    before = list(csv.DictReader(io.StringIO((tmp_path / "answers.csv").read_text(), newline="")))

    second = show(path)
    assert second.page.inner_text("#count") == "0 of 10 answered"
    second.page.set_input_files("#file", tmp_path / "answers.csv")
    second.page.wait_for_selector("#status:has-text('tiles read')")
    assert second.page.input_value("#reviewer") == "Bea"
    assert second.step() == "Tile 5 of 10" and second.save()[1] == before
    second.press("u")
    assert second.page.inner_text("#count") == "0 of 10 answered"

    def refused(text: str) -> str:
        (tmp_path / "bad.csv").write_text(text, encoding="utf-8-sig")
        second.page.evaluate("document.getElementById('status').textContent = ''")
        second.page.set_input_files("#file", tmp_path / "bad.csv")
        second.page.wait_for_selector("#status:has-text('bad.csv')")
        return second.page.inner_text("#status")

    head = "sample_id,tile_id,answer,purpose\n"
    assert "those of s-9, and this page asks for s-1" in refused(head + "s-9,26919_224_0_0,y,estimation\n")
    assert "its purpose is candidates" in refused(head + "s-1,26919_224_0_0,y,candidates\n")
    assert "no column answer" in refused("tile_id,other\n1,2\n")
    assert "quotation mark" in refused('tile_id,answer\n"26919_224_0_0,y\n')
    assert "no column" in refused("")
    assert second.page.inner_text("#count") == "0 of 10 answered"
    said = refused(
        head + "s-1,26919_224_7_0,Y,estimation\ns-1,26919_224_9999_0,y,estimation\ns-1,26919_224_8_0,maybe,\n"
    )
    assert "1 row is of tiles that are not on this page" in said and "1 entry was not understood" in said
    assert [(row["tile_id"], row["answer"]) for row in second.save()[1]] == [("26919_224_7_0", "y")]


def test_classes_by_digit_and_hostile_names(show: Callable[..., Shown], tmp_path: Path) -> None:
    notes = ["<b>synthetic</b>"]
    path = write_page(tmp_path / "review.html", 4, title=NASTY[2], question=NASTY[0], notes=notes, map_page="a b.html")
    shown = show(path)
    page = shown.page
    assert page.locator("#classes-list .class").all_text_contents() == [
        f"{k + 1}{name}" for k, name in enumerate(NASTY)
    ]
    assert page.inner_text("#question") == NASTY[0] and page.inner_text("h1") == NASTY[2]
    foot = page.locator("#choices").bounding_box()
    assert foot is not None and foot["y"] + foot["height"] < 900  # in view, whatever stands above
    assert page.inner_text("#notes") == notes[0] and page.locator("img[src='x'], #notes b").count() == 0
    shown.press("1", "2")  # the first date, then the second
    assert page.locator(".given").all_inner_texts() == [NASTY[0], NASTY[1]]
    shown.press("0")
    assert page.locator(".given").all_inner_texts() == [NASTY[0], ""]
    page.locator(".date").nth(0).focus()
    shown.press("Tab", "3", "7", "y")
    row = shown.save()[1][0]
    assert (row["class_2011"], row["class_2016"], row["answer"]) == (NASTY[0], NASTY[2], "y")
    shown.press("ArrowLeft")
    assert page.locator("#tile-links a").last.get_attribute("href") == "a%20b.html#tile=26919_224_0_0"


def test_keys_in_a_field_are_text(show: Callable[..., Shown], tmp_path: Path) -> None:
    shown = show(write_page(tmp_path / "review.html", 4))
    shown.page.focus("#note")
    shown.page.keyboard.type("yny? 12 u")
    assert shown.page.inner_text("#count") == "0 of 4 answered"
    shown.press("Escape", "y")
    assert shown.save()[1][0]["note"] == "yny? 12 u"
    shown.press("h")
    assert shown.page.locator("#keys").is_visible()
    shown.press("y")
    shown.press("Escape")
    assert not shown.page.locator("#keys").is_visible() and shown.page.inner_text("#count") == "1 of 4 answered"


def test_space_presses_a_button_only_where_one_tabbed_to_it(show: Callable[..., Shown], tmp_path: Path) -> None:
    shown = show(write_page(tmp_path / "review.html", 5))
    shown.page.click("[data-choice=y]")
    shown.press("Space")
    assert shown.page.inner_text("#count") == "1 of 5 answered"
    assert shown.page.get_attribute("#pictures", "data-view") == "flip"
    shown.page.focus("[data-choice=n]")
    shown.press("Space")
    assert shown.page.inner_text("#count") == "2 of 5 answered"


COLOUR = """(k) => {
    const image = document.querySelectorAll(".date img")[k];
    const copy = new OffscreenCanvas(1, 1).getContext("2d");
    copy.drawImage(image, 0, 0, 1, 1);
    return [...copy.getImageData(0, 0, 1, 1).data];
}"""


def test_views_show_the_right_date(show: Callable[..., Shown], tmp_path: Path) -> None:
    dates = ("2009", "2012", "2015")
    shown = show(write_page(tmp_path / "review.html", 20, dates))
    page = shown.page
    shown.press(*["ArrowRight"] * 9)
    page.wait_for_timeout(100)
    for t in range(3):
        red, green, *_ = page.evaluate(COLOUR, t)
        assert abs(red - 18) < 5 and abs(green - 60 - 60 * t) < 5

    def visible() -> list[bool]:
        return [page.locator(".date").nth(t).is_visible() for t in range(3)]

    assert visible() == [True] * 3
    shown.press("Space")
    assert visible() == [False, True, False] and page.inner_text(".date.now b") == "2012"
    shown.press("Space", "Space")
    assert visible() == [True, False, False]
    shown.press("v", "v")  # side by side, then swipe: the first date under the one chosen
    page.locator("#dates button", has_text="2012").click()
    assert visible() == [True, True, False]
    box = page.locator(".date.under .frame").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + 50)
    assert page.input_value("#share") == "25"
    at = page.evaluate(
        "([x, y]) => document.elementFromPoint(x, y).closest('.date').querySelector('b').textContent",
        [box["x"] + box["width"] * 0.1, box["y"] + 50],
    )
    assert at == "2009"
    shown.press("b", "o")
    assert page.locator("#pictures.bright.plain").count() == 1


def test_the_outline_is_the_tile(show: Callable[..., Shown], tmp_path: Path) -> None:
    shown = show(write_page(tmp_path / "review.html", 2))
    frame = shown.page.locator(".frame").first.bounding_box()
    outline = shown.page.locator(".frame i").first.bounding_box()
    assert frame is not None and outline is not None
    for axis, side in (("x", "width"), ("y", "height")):
        assert (outline[axis] - frame[axis]) / frame[side] == pytest.approx(0.25 / 1.5, abs=0.003)
        assert outline[side] / frame[side] == pytest.approx(1 / 1.5, abs=0.005)


def test_the_model_speaks_last(show: Callable[..., Shown], tmp_path: Path) -> None:
    change = make_change(np.array([[0.9, 0.2, 0.0]]))
    at = np.array([2, 0, 1])
    view = view_of("2011", [write_coordinates(tmp_path / "scene.tif", top=20897 * 224, width=672, height=224)])
    chips = make_chips(GRID, change.series.columns[at], change.series.rows[at], [view, View("2016", None, "none", "")])
    path = tmp_path / "review.html"
    write_review(path, entries_of_change(change, at), chips, purpose="estimation", map_page="change.html")
    shown = show(path)

    def text() -> str:
        return shown.page.inner_text("#model")

    assert "Hidden until you have answered" in text() and shown.page.locator("#tile-links a").count() == 2
    shown.press("m")
    assert "Field" not in text() and "Hidden until" in text()
    shown.press("n")  # with the model's answer to look at, the tile stays
    assert shown.step() == "Tile 1 of 3" and shown.page.locator("#tile-links a").count() == 3
    assert "2011: Field (100\u00a0%)" in text() and "new built-up land: 0\u00a0%" in text()
    shown.press("ArrowRight", "y")
    assert "2016: Resident" in text() and "new built-up land: 90\u00a0%" in text()
    assert shown.page.locator("#classes").is_hidden()
    assert shown.page.locator(".gone").nth(1).is_visible() and shown.page.locator(".gone").nth(0).is_hidden()
    shown.press("m")
    assert "Resident" not in text()


def test_candidates_stay_apart_from_the_sample(show: Callable[..., Shown], tmp_path: Path) -> None:
    found = rank(make_change(np.array([[0.9, 0.8, 0.0, 0.95]])))
    chips = Chips(tuple(found.tile_ids), plain_chips(1).views, ((None, None),) * 3, 0.25)
    path = tmp_path / "candidates.html"
    write_review(path, entries_of_candidates(found), chips, purpose="candidates", map_page="change.html")
    shown = show(path)
    assert shown.page.inner_text("#purpose") == "Ranked candidates, for finding and retraining"
    assert "cannot say how much was built" in shown.page.inner_text("#why")
    assert "Rank 1 of 3" in shown.page.inner_text("#tile-facts") and "2 tiles" in shown.page.inner_text("#tile-facts")
    shown.press("y", "y", "n")
    rows = shown.save()[1]
    assert {row["purpose"] for row in rows} == {"candidates"} and list(rows[0])[2:4] == ["answer", "reviewer"]
    assert rows[0]["sample_id"] == page_id("candidates", found.tile_ids, DATES)
    sample = show(write_page(tmp_path / "sample.html", 3))
    assert sample.page.inner_text("#purpose") == "Random sample, for estimating areas"
    assert "make the estimate wrong" in sample.page.inner_text("#why")


def test_labels_for_training(show: Callable[..., Shown], tmp_path: Path) -> None:
    dates = ("2009", "2012", "2015", "2018")
    path = write_page(tmp_path / "label.html", 4, dates, purpose="labelling", scheme=load_scheme("nlcd3"))
    names = load_scheme("nlcd3").names
    shown = show(path)
    shown.press("1", "2", "3", "1")  # one date after the other, and on to the next tile
    assert shown.step() == "Tile 2 of 4"
    shown.press("2", "a")  # the rest of the tile is the same
    assert shown.step() == "Tile 3 of 4"
    shown.press("3", "?", "Tab", "1", "2")  # one date left out, one passed over and come back to
    assert shown.step() == "Tile 4 of 4" and shown.page.inner_text("#count") == "3 of 4 labelled"
    shown.press("y", "n")  # no keys here
    shown.page.keyboard.press("4")  # nor is there a fourth class
    assert shown.page.inner_text("#count") == "3 of 4 labelled"
    name, rows = shown.save()
    assert name == "s-1-labels.csv"
    assert list(rows[0]) == ["sample_id", "tile_id", "date", "class", "reviewer", "note", "purpose", "time"]
    found = {(row["tile_id"], row["date"]): row["class"] for row in rows}
    first, second, third = (f"26919_224_{k}_0" for k in range(3))
    assert [found[first, date] for date in dates] == [names[0], names[1], names[2], names[0]]
    assert [found[second, date] for date in dates] == [names[1]] * 4
    assert (third, "2012") not in found and found[third, "2009"] == names[2]
    assert {found[third, "2015"], found[third, "2018"]} == {names[0], names[1]} and len(rows) == 11
    (tmp_path / "labels.csv").write_text(
        "tile_id,date,class\n" + f"26919_224_3_0,2012,{names[1]}\n26919_224_3_0,1999,{names[1]}\n"
    )
    shown.page.set_input_files("#file", tmp_path / "labels.csv")
    shown.page.wait_for_selector("#status:has-text('1 entry was not understood')")
    assert len(shown.save()[1]) == 12


def test_a_browser_that_keeps_nothing_says_so(show: Callable[..., Shown], tmp_path: Path) -> None:
    shown = show(
        write_page(tmp_path / "review.html", 3),
        init="Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } });",
    )
    assert "keeps nothing" in shown.page.inner_text("#kept")
    shown.press("y", "n")
    assert [row["answer"] for row in shown.save()[1]] == ["y", "n"]


def test_narrow_window(show: Callable[..., Shown], tmp_path: Path) -> None:
    for purpose, dates in (("estimation", DATES), ("labelling", ("2009", "2012", "2015", "2018"))):
        shown = show(write_page(tmp_path / f"{purpose}.html", 30, dates, purpose=purpose), PHONE)
        page = shown.page
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        boxes = page.locator(".choice, #undo, #next, #back, #save").evaluate_all(
            "all => all.map((one) => { const box = one.getBoundingClientRect(); return [box.left, box.right, box.height]; })"
        )
        assert all(left >= 0 and right <= 390 and height >= 36 for left, right, height in boxes)
        page.locator(".choice").first.tap()
        page.locator(".class").first.scroll_into_view_if_needed()
        page.locator(".class").first.tap()
        assert len(shown.save(press=False)[1]) == (2 if purpose == "estimation" else 1)
    assert show(tmp_path / "estimation.html", PHONE).page.get_attribute("#pictures", "data-view") == "swipe"


def test_two_hundred_tiles_stay_small(tmp_path: Path) -> None:
    """Imagery that compresses as badly as any: a tenth of 200 tiles on two dates takes a tenth of 8 MB."""
    path = write_coordinates(tmp_path / "scene.tif", width=224 * 5, height=224 * 4)
    rng = np.random.default_rng(0)
    rough = np.kron(rng.integers(0, 255, (3, 224, 280)), np.ones((4, 4))) + rng.normal(0, 25, (3, 896, 1120))
    with rasterio.open(path, "r+") as scene:
        scene.write(rough.clip(1, 255).astype(np.uint8))
    columns, rows = (grid.ravel() for grid in np.meshgrid(np.arange(1400, 1405), np.arange(20896, 20900)))
    views = [view_of(date, [path]) for date in DATES]
    chips = make_chips(GRID, columns, rows, views, total_bytes=TOTAL_BYTES // 10)
    entries = entries_of_tiles(GRID, columns, rows)
    size = write_review(tmp_path / "r.html", entries, chips, purpose="labelling", scheme=load_scheme("nlcd6"))
    assert size == (tmp_path / "r.html").stat().st_size < 800_000


def test_what_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    entries = entries_of_tiles(GRID, np.arange(2), np.zeros(2, np.int64))
    path = tmp_path / "r.html"
    with pytest.raises(ChangeError, match="no tile to review"):
        write_review(path, [], plain_chips(2), purpose="estimation")
    with pytest.raises(ChangeError, match="26919_224_1_0 has no picture"):
        write_review(path, entries, plain_chips(1), purpose="estimation")
    with pytest.raises(ChangeError, match="named twice"):
        write_review(path, [*entries, entries[0]], plain_chips(2), purpose="estimation")
    with pytest.raises(ChangeError, match="--scheme"):
        write_review(path, entries, plain_chips(2), purpose="labelling")
    write_page(path, 2)
    with pytest.raises(OutputError, match="--overwrite"):
        write_page(path, 2)
    assert (
        page_id("estimation", ["a"], DATES)
        != page_id("candidates", ["a"], DATES)
        != page_id("candidates", ["b"], DATES)
    )
