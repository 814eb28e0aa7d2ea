"""The accuracy report in a real Chromium: no request, no complaint, and the numbers of its JSON."""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page
from scipy.special import softmax

from geoclass.errors import EvaluationError, OutputError
from geoclass.evaluation.scores import Evaluation, Scored, evaluate
from geoclass.outputs.report import GALLERY, report_files, write_report
from geoclass.schemes import ClassScheme, LandClass, load_scheme

DESK, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
NASTY = ("</script><script>window.hurt=1</script>", "<img src=x onerror=window.hurt=1>", '%%DATA%% "quoted" & {{ 1 }}')


def simulated(
    tiles: int = 240, scheme: ClassScheme | None = None, seed: int = 0, absent: int = -1, **values: Any
) -> Scored:
    scheme = scheme or load_scheme("nlcd6")
    rng = np.random.default_rng(seed)
    truth = np.random.default_rng(99).integers(0, len(scheme), tiles)
    truth[truth == absent] = 0
    logits = rng.normal(0, 1, (tiles, len(scheme)))
    logits[np.arange(tiles), truth] += 2
    keys = tuple(f"26919_224_{1400 + k % 20}_{20900 + k // 20}" for k in range(tiles))
    place = {"x_m": 224.0 * (np.arange(tiles) % 20), "y_m": 224.0 * (np.arange(tiles) // 20), "crs": "EPSG:26919"}
    known = {"blocks": np.arange(tiles) // 8, "split": "blocks", "bundle": "a1b2" * 16, **place, **values}
    return Scored(keys, truth, softmax(logits, axis=1), scheme, **known)


def pictures(keys: Any) -> list[np.ndarray[Any, Any]]:
    return [np.full((40, 40, 3), 40 + len(key), np.uint8) for key in keys]


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., tuple[Page, dict[str, Any]]]]:
    """Write a report and open it without a network; at the end nothing may have been asked for or complained of."""
    contexts, seen = [], []

    def opener(
        evaluations: list[Evaluation], view: dict[str, int] = DESK, **options: Any
    ) -> tuple[Page, dict[str, Any]]:
        page_file, numbers, _ = write_report(tmp_path / "report.html", evaluations, overwrite=True, **options)
        context = browser.new_context(viewport={"width": view["width"], "height": view["height"]}, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: seen.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: seen.append(f"error: {error}"))
        page.on("request", lambda request: request.url[:5] != "data:" and seen.append(request.url))
        page.goto(page_file.as_uri())
        assert seen.pop(0) == page_file.as_uri()
        assert page.evaluate("window.geoclassReport !== undefined"), seen
        return page, json.loads(numbers.read_text("utf-8"))

    yield opener
    for context in contexts:
        context.close()
    assert seen == []


def cells(page: Page, where: str) -> list[list[str]]:
    """Texts of a table's body, in rows; of a cell with an interval only the figure."""
    script = """where => [...document.querySelectorAll(where + " tbody tr")].map(row =>
        [...row.children].map(cell => (cell.querySelector("b") ?? cell).textContent.trim()))"""
    return list(page.evaluate(script, where))


def rounded(value: float | None, digits: str) -> str:
    """As JavaScript's toFixed rounds: ties upwards."""
    return "–" if value is None else str(Decimal(value).quantize(Decimal(digits), ROUND_HALF_UP))


def percent(value: float | None) -> str:
    return rounded(None if value is None else 100 * value, "0.1")


def number(value: float | None) -> str:
    return rounded(value, "0.001")


def test_numbers_in_the_page_are_those_of_the_json(show):
    page, numbers = show([evaluate(simulated(absent=3), repeats=100, temperature=1.3)], pictures=pictures)
    scores = numbers["models"][0]["scores"]
    assert page.inner_text("#overall").split()[0] == percent(scores["overall"]["value"])
    assert f"{percent(scores['overall']['value'])}\u00a0%" in page.inner_text("#headline .sentence")
    rows = cells(page, "#class-table")
    assert len(rows) == 6 and rows[3][1].startswith("0") and rows[3][2] == "–"
    for row, item in zip(rows, scores["classes"], strict=True):
        assert row[0] == item["name"] and row[1].startswith(str(item["tiles"]))
        for shown, name in zip(row[2:5], ("recall", "precision", "f1"), strict=True):
            assert shown == percent(item[name]["value"])
        assert row[5] == number(item["auc"])
        assert row[6] == number(item["average_precision"])
    texts = page.inner_text("#class-table")
    assert f"{percent(scores['classes'][0]['recall']['low'])} to" in texts
    calibration = cells(page, "#reliability")
    assert calibration[1][2] == number(numbers["models"][0]["calibration"]["log_loss"])
    assert calibration[1][1] == number(numbers["models"][0]["uncalibrated"]["log_loss"])
    views = cells(page, "#view-table")
    assert views[0][0].startswith("All test tiles")
    assert views[1][2] == percent(numbers["models"][0]["grouped"][0]["overall"]["value"])


def test_confusion_matrix_in_tiles_and_in_shares(show):
    page, numbers = show([evaluate(simulated(), repeats=20)])
    confusion = numbers["models"][0]["scores"]["confusion"]
    shares = [row[1:7] for row in cells(page, "#matrix")[:6]]
    for shown, row in zip(shares, confusion, strict=True):
        for text, value in zip(shown, row, strict=True):
            assert text == percent(value / sum(row))
    page.focus("input[name=matrix][value=share]")
    page.keyboard.press("ArrowRight")
    assert [[int(text) for text in row[1:7]] for row in cells(page, "#matrix")[:6]] == confusion


def test_class_names_cannot_reach_into_the_page(show):
    classes = tuple(LandClass(id=k, name=name, colour="#447788") for k, name in enumerate(NASTY, start=1))
    scheme = ClassScheme(name="<i>x", title="</title><b>", source="<u>", classes=classes)
    scored = simulated(90, scheme, model="</script><b>m", notes=("<script>window.hurt=1</script>",), split="<b>split")
    scored = replace(scored, keys=tuple(f"<img src=x onerror=window.hurt=1>{k}" for k in range(90)))
    page, numbers = show(
        [evaluate(scored, repeats=20)], pictures=pictures, title="</title><script>window.hurt=1</script>"
    )
    page.click("[aria-label='Next mistake']")
    assert page.evaluate("window.hurt") is None
    assert [row[0] for row in cells(page, "#class-table")] == list(NASTY)
    assert [item["name"] for item in numbers["scheme"]["classes"]] == list(NASTY)
    assert page.title() == "</title><script>window.hurt=1</script>"
    assert page.evaluate("document.querySelectorAll('main b, main i, main u').length") > 0
    assert page.evaluate("document.querySelectorAll('main script, main img[src=x]').length") == 0


@pytest.mark.parametrize("view", [DESK, PHONE])
@pytest.mark.parametrize("classes", [2, 16])
def test_page_never_scrolls_sideways(show, view, classes):
    names = ["Averyveryverylongclassnamewithoutanyplacetobreakitatallinthere"[:60]] + [
        f"Class {k}" for k in range(1, classes)
    ]
    scheme = ClassScheme(
        name="x",
        classes=tuple(LandClass(id=k, name=name, colour="#335577") for k, name in enumerate(names, start=1)),
    )
    scored = simulated(
        5 if classes == 2 else 300, scheme, absent=classes - 1, model="a_model_name_without_a_space_" * 3
    )
    page, _ = show([evaluate(scored, repeats=20)], view=view, pictures=pictures)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    boxes = "[...document.querySelectorAll('.card')].filter(box => box.getBoundingClientRect().right > innerWidth + 1).length"
    assert page.evaluate(boxes) == 0


def test_several_models_side_by_side(show):
    first = simulated(seed=1, model="one")
    second = simulated(seed=2, model="one", absent=-1)
    second = replace(second, keys=second.keys[::-1], truth=second.truth[::-1], probabilities=second.probabilities[::-1])
    page, numbers = show([evaluate(first, repeats=50), evaluate(second, repeats=50)], pictures=pictures)
    assert [item["model"] for item in numbers["models"]] == ["one", "one (2)"]
    pair = numbers["pairs"][0]
    shown = cells(page, "#side-pairs")[0]
    assert shown[1:3] == [str(pair["only_first"]), str(pair["only_second"])]
    assert page.inner_text("#side-table").count("one") == 2
    before = page.inner_text("#overall")
    page.check("input[name=model][value='1']", force=True)
    assert page.inner_text("#overall").split()[0] == percent(numbers["models"][1]["scores"]["overall"]["value"])
    assert page.inner_text("#overall") != before
    # The second model's tiles came in another order: its mistakes on the map must still be its own.
    wrong = page.evaluate(
        "geoclassReport.data.tiles.answers[1].predicted.filter((k, i) => k !== geoclassReport.data.tiles.truth[i]).length"
    )
    assert wrong == round(240 * (1 - numbers["models"][1]["scores"]["overall"]["value"]))


def test_map_tells_of_the_tile_under_the_pointer_and_steps_by_key(show):
    scored = simulated()
    page, _ = show([evaluate(scored, repeats=20)])
    page.focus("#map-canvas")
    page.keyboard.press("ArrowRight")
    wrong = np.flatnonzero(~scored.right)
    surest = wrong[np.argmax(scored.confidence[wrong].round(4))]
    facts = page.inner_text("#map-tile")
    assert "Wrong" in facts and scored.keys[surest] in facts and f"Mistake 1 of {len(wrong)}" in facts
    assert page.evaluate("geoclassReport.state.tile") == surest
    box = page.locator("#map-canvas").bounding_box()
    assert box is not None
    # Scan the canvas: every tile named under the pointer is one that lies there, from west to east.
    seen = []
    page.locator("#map-canvas").scroll_into_view_if_needed()
    box = page.locator("#map-canvas").bounding_box()
    assert box is not None
    for share in (0.1, 0.5, 0.9):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
        seen.append(page.evaluate("geoclassReport.state.tile"))
    assert list(scored.x_m[seen]) == sorted(set(scored.x_m[seen]))


def test_galleries_hold_the_surest_mistakes_and_the_least_sure_hits(show):
    scored = simulated()
    page, _ = show([evaluate(scored, repeats=20)], pictures=pictures)
    keys = page.evaluate("[...document.querySelectorAll('#gallery-mistakes code')].map(item => item.textContent)")
    wrong = np.flatnonzero(~scored.right)
    wanted = wrong[np.argsort(-scored.confidence[wrong], kind="stable")][:GALLERY]
    assert keys == [scored.keys[k] for k in wanted]
    hits = page.evaluate("[...document.querySelectorAll('#gallery-hits code')].map(item => item.textContent)")
    right = np.flatnonzero(scored.right)
    assert hits == [scored.keys[k] for k in right[np.argsort(scored.confidence[right], kind="stable")][:GALLERY]]
    loaded = "[...document.querySelectorAll('.gallery img')].every(item => item.complete && item.naturalWidth === 40)"
    assert page.evaluate(loaded) and page.locator(".gallery img").count() == 2 * GALLERY


def test_without_pictures_places_or_mistakes(show):
    scored = simulated(40, x_m=None, y_m=None, crs="")
    scored = replace(scored, probabilities=np.eye(6)[scored.truth])
    page, _ = show([evaluate(scored, repeats=20)])
    assert page.is_hidden("#map") and "There is none." in page.inner_text("#gallery-mistakes")
    assert page.locator("nav a", has_text="Map").count() == 0


def test_csv_has_a_row_for_each_tile_and_model(tmp_path):
    scored = simulated(purity=np.linspace(0.5, 1, 240))
    again = replace(scored, model="other")
    _, _, table = write_report(tmp_path / "r.html", [evaluate(scored, repeats=5), evaluate(again, repeats=5)])
    rows = list(csv.DictReader(table.read_text("utf-8").splitlines()))
    assert len(rows) == 480 and list(rows[0])[:6] == ["key", "model", "truth", "predicted", "confidence", "correct"]
    first = rows[7]
    assert first["key"] == scored.keys[7] and first["truth"] == scored.scheme.names[scored.truth[7]]
    assert float(first["p_Forest"]) == pytest.approx(scored.probabilities[7, 3], abs=1e-6)
    assert sum(int(row["correct"]) for row in rows[:240]) == scored.right.sum()
    assert float(first["x_m"]) == scored.x_m[7] and int(first["block"]) == 0 and float(first["purity"]) > 0.5


def test_files_are_kept_and_come_together(tmp_path):
    found = evaluate(simulated(30), repeats=5)
    files = report_files(tmp_path / "r.html")
    files[2].write_text("mine")
    with pytest.raises(OutputError, match=r"r\.csv exists and is kept"):
        write_report(files[0], [found])
    assert [file.exists() for file in files] == [False, False, True] and files[2].read_text() == "mine"
    write_report(files[0], [found], overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.csv", "r.html", "r.json"]
    with pytest.raises(OutputError, match=r"name it r\.html"):
        report_files(tmp_path / "r.json")
    with pytest.raises(EvaluationError, match="no model to report on"):
        write_report(tmp_path / "none.html", [])
    with pytest.raises(EvaluationError, match="one of them only"):
        write_report(tmp_path / "two.html", [found, evaluate(simulated(20), repeats=5)])
    assert len(list(tmp_path.iterdir())) == 3


def test_a_failure_leaves_nothing(tmp_path):
    def broken(keys: Any) -> Any:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        write_report(tmp_path / "r.html", [evaluate(simulated(30), repeats=5)], pictures=broken)
    assert not list(tmp_path.iterdir())
