"""The contact sheet in a browser: it shows what the dataset holds, asks nothing of any network, says nothing on the
console, and hands back corrections that geoclass reads."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from playwright.sync_api import Browser, Page
from rasterio.transform import from_origin

from geoclass.datasets.corrections import Suspect, apply_corrections, write_suspects
from geoclass.datasets.making import build_dataset
from geoclass.datasets.store import Dataset, read_dataset
from geoclass.outputs.contactsheet import write_contact_sheet

NASTY = "<img src=x onerror=alert(1)>"
DESK, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Tiles with places, blocks, purity and fractions: noise over labels in stripes."""
    folder = tmp_path_factory.mktemp("placed")
    rng = np.random.default_rng(0)
    common = {
        "driver": "GTiff",
        "crs": "EPSG:32612",
        "transform": from_origin(320_000, 4_000_000, 10, 10),
        "dtype": "uint8",
    }
    size = 30 * 16
    with rasterio.open(folder / "scene.tif", "w", width=size, height=size, count=3, **common) as scene:
        scene.write(rng.integers(1, 250, (3, size, size)).astype(np.uint8))
    codes = np.kron(rng.choice([11, 22, 42], (12, 12)), np.ones((40, 40), np.uint8)).astype(np.uint8)
    with rasterio.open(folder / "labels.tif", "w", width=size, height=size, count=1, **common) as labels:
        labels.write(codes, 1)
    data = build_dataset(
        [folder / "scene.tif"], folder / "labels.tif", out=folder / "data", scheme="nlcd6", size_px=16, balance="none"
    )
    write_contact_sheet(data.folder)
    return data


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Class folders whose names and files try to be markup, template text and CSV."""
    folder = tmp_path_factory.mktemp("nasty")
    for k, name in enumerate(("%%SCRIPT%%", 'a "b", c', "<i>x<")):
        (folder / "tiles" / name).mkdir(parents=True)
        for n in range(12):
            cells = np.random.default_rng(100 * k + n).integers(0, 255, (8, 8, 3)).astype(np.uint8)
            path = folder / "tiles" / name / (f"{n}{NASTY if n == 3 else ''}.png".replace("/", ""))
            Image.fromarray(cells).resize((32, 32), Image.Resampling.BICUBIC).save(path)
    data = build_dataset([folder / "tiles"], out=folder / "data", size_px=32)
    found = data.table[data.table["label"] == "<i>x<"]["key"].iloc[:2]
    write_suspects(data.folder, [Suspect(key, "<i>x<", 'a "b", c', 0.9) for key in found])
    write_contact_sheet(data.folder)
    return data


@pytest.fixture
def show(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open a page from disk without a network; at the end it must have asked for nothing and complained of nothing."""
    contexts: list[Any] = []
    seen: list[str] = []

    def opener(data: Dataset, view: dict[str, int] = DESK) -> Page:
        context = browser.new_context(viewport=view, offline=True, accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("dialog", lambda dialog: seen.append(dialog.message))
        path = (data.folder / "index.html").as_uri()
        page.on(
            "request", lambda r: None if r.url.startswith(("data:", "blob:")) or r.url == path else seen.append(r.url)
        )
        page.goto(path)
        return page

    yield opener
    for context in contexts:
        context.close()
    assert seen == []


def test_counts_are_those_of_the_table(placed: Dataset, show: Callable[..., Page]) -> None:
    page = show(placed)
    rows = page.locator("#counts tbody tr").all_inner_texts()
    counts = placed.table.groupby(["label", "split"]).size()
    for row in rows:
        name, *numbers = [part.strip() for part in row.split("\t") if part.strip()]
        wanted = [int(counts.get((name, split), 0)) for split in ("train", "validation", "test")]
        assert [int(number.replace(",", "")) for number in numbers[:4]] == [*wanted, sum(wanted)]
    assert len(rows) == placed.table["label"].nunique()
    assert f"{len(placed):,} tiles of 160 m" in page.inner_text("#facts")
    for reason, count in placed.meta.left_out.items():
        assert re.search(re.escape(reason[1:]) + rf"\s+{count:,}", page.inner_text("#left"))


def test_pictures_open_with_what_is_known(placed: Dataset, show: Callable[..., Page]) -> None:
    page = show(placed)
    table = placed.table.set_index("key")
    sheets = page.locator(".sheet")
    for k in range(sheets.count()):
        shown = sheets.nth(k).locator(".pic").count()
        name = sheets.nth(k).locator("h3").evaluate("node => node.childNodes[1].textContent")
        assert shown == min(60, (table["label"] == name).sum())
    page.locator(".sheet .pic").nth(2).focus()
    page.keyboard.press("Enter")
    seen = set()
    for _ in range(5):
        key = page.inner_text("#tile-list code")
        seen.add(key)
        row = table.loc[key]
        assert page.inner_text("#tile-class") == row["label"]
        text = page.inner_text("#tile-list")
        assert row["split"] in text and f"{round(row['purity'] * 100)}\u00a0%" in text.replace(">99", "100")
        page.keyboard.press("ArrowRight")
    assert len(seen) == 5
    page.keyboard.press("Escape")
    assert not page.locator("#tile").is_visible()


def test_the_filter_shows_one_split(placed: Dataset, show: Callable[..., Page]) -> None:
    page = show(placed)
    page.get_by_label("Test", exact=True).check()
    page.locator(".sheet .pic:visible").first.click()
    table = placed.table.set_index("key")
    for _ in range(4):
        assert table.loc[page.inner_text("#tile-list code"), "split"] == "test"
        page.keyboard.press("ArrowRight")


def test_the_map_tells_tiles_apart(placed: Dataset, show: Callable[..., Page]) -> None:
    page = show(placed)
    page.locator("#map-canvas").focus()
    page.keyboard.press("ArrowRight")
    table = placed.table.set_index("tile_id")
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft"):
        page.keyboard.press(key)
        tile, name, split = page.inner_text("#map-readout").split(" · ")
        assert (table.loc[tile, "label"], table.loc[tile, "split"]) == (name, split)
    box = page.locator("#map-canvas").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    pixels = page.evaluate("""() => {
        const canvas = document.getElementById("map-canvas");
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        const found = new Set();
        for (let k = 0; k < data.length; k += 4) if (data[k + 3] === 255) found.add([data[k], data[k + 1], data[k + 2]].join());
        return [...found];
    }""")
    for colour in ("#2a7f95", "#e0a100", "#b5406f"):
        assert ",".join(str(part) for part in bytes.fromhex(colour[1:])) in pixels


def test_corrections_come_back(nasty: Dataset, show: Callable[..., Page], tmp_path: Path) -> None:
    import shutil

    page = show(nasty)
    page.get_by_role("button", name='Mark as a "b", c').first.click()
    page.locator(".sheet .pic").first.click()
    removed = page.inner_text("#tile-list code")
    page.locator("#tile-label").select_option("remove")
    page.keyboard.press("Escape")
    assert page.inner_text("#tray-count") == "2 corrections"
    assert "--corrections corrections.csv" in page.inner_text("#tray-command")
    with page.expect_download() as waiting:
        page.locator("#tray-save").click()
    csv = tmp_path / "corrections.csv"
    waiting.value.save_as(csv)
    assert waiting.value.suggested_filename == "corrections.csv"
    folder = Path(shutil.copytree(nasty.folder, tmp_path / "data"))
    done = apply_corrections(folder, csv)
    assert (done.relabelled, done.removed) == (1, 1)
    after = read_dataset(folder).table.set_index("key")
    assert removed not in after.index and (after["label"] == 'a "b", c').sum() == 13
    page.locator("#tray-clear").click()
    assert not page.locator("#tray").is_visible() and page.locator(".pic.changed").count() == 0


def test_text_stays_text(nasty: Dataset, show: Callable[..., Page]) -> None:
    page = show(nasty)
    assert page.locator("img[src='x']").count() == 0 and page.locator("i:text-is('x<')").count() == 0
    assert {name.strip() for name in page.locator("#counts tbody th").all_inner_texts()} == set(nasty.meta.scheme.names)
    assert "Suspects (2)" in page.inner_text("#nav")
    labels = page.locator(".sheet .pic").evaluate_all("all => all.map((one) => one.getAttribute('aria-label'))")
    assert any(NASTY.replace("/", "") in label for label in labels)
    assert not page.locator("#map").is_visible() and not page.locator("#purity").is_visible()


@pytest.mark.parametrize("view", [DESK, PHONE], ids=["desk", "phone"])
def test_nothing_sticks_out(placed: Dataset, nasty: Dataset, show: Callable[..., Page], view: dict[str, int]) -> None:
    for data in (placed, nasty):
        page = show(data, view)
        assert page.evaluate("document.documentElement.scrollWidth") == view["width"]
        page.locator(".sheet .pic").first.click()
        box = page.locator("#tile").bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= view["width"] and box["height"] <= view["height"]


def test_the_page_is_small_and_forbids_itself_requests(placed: Dataset) -> None:
    text = (placed.folder / "index.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in text and not re.search(r"https?://(?!www\.w3\.org)", text)
    assert len(text) < 4_000_000
    values = json.loads(text.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    assert values["title"] == "data" and len(values["tiles"]) <= 180
