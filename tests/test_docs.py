"""The documentation is complete and true: it builds without a warning, its reference lists every command and option,
its links lead somewhere, and its worked examples are what the code computes."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click
import numpy as np
import pyproj
import pytest
import rasterio
import shapely

import geoclass
from geoclass.cli import main
from geoclass.grid import TileGrid, cells
from geoclass.schemes import load_scheme
from geoclass.sensors import load_sensor

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("examples/**/*.md")]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built in strict mode."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


class Page(HTMLParser):
    """The ids, links and requested resources of a page, and its text under each heading."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.resources: list[str] = []
        self.sections: dict[str, str] = {}
        self._heading: str | None = None
        self._current = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if values.get("id"):
            self.ids.add(str(values["id"]))
        if tag == "a" and values.get("href"):
            self.links.append(str(values["href"]))
        if tag in ("script", "img") and values.get("src"):
            self.resources.append(str(values["src"]))
        if tag == "link" and values.get("rel") in ("stylesheet", "icon", "preconnect"):
            self.resources.append(str(values.get("href")))
        if re.fullmatch("h[1-6]", tag):
            self._heading = ""

    def handle_endtag(self, tag: str) -> None:
        if re.fullmatch("h[1-6]", tag) and self._heading is not None:
            self._current = self._heading.replace("¶", "").strip()
            self.sections.setdefault(self._current, "")
            self._heading = None

    def handle_data(self, data: str) -> None:
        if self._heading is not None:
            self._heading += data
        elif self._current:
            self.sections[self._current] += data


def commands(
    command: click.Command = main, path: tuple[str, ...] = ("geoclass",)
) -> Iterator[tuple[str, click.Command]]:
    """(full name, command) of the command line and everything under it."""
    yield " ".join(path), command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            if not child.hidden:
                yield from commands(child, (*path, name))


ALL_COMMANDS = dict(commands())


@pytest.mark.parametrize("name", ALL_COMMANDS)
def test_every_command_and_option_is_in_the_reference(site: Path, name: str) -> None:
    sections = Page(site / "reference" / "cli.html").sections
    title = name if name in sections else name.split()[-1]
    assert title in sections, f"no section for {name!r} among {list(sections)}"
    # A command's own tables (usage, options) may stand under headings of their own until the next command's heading.
    titles = list(sections)
    text = ""
    for following in titles[titles.index(title) :]:
        if following != title and any(
            following in (other, other.split()[-1]) for other in ALL_COMMANDS if other != name
        ):
            break
        text += sections[following]
    for parameter in ALL_COMMANDS[name].params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            for option in (*parameter.opts, *parameter.secondary_opts):
                assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text), f"{name} {option} is missing"
            assert parameter.help, f"{name} {parameter.opts[0]} has no help"


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    ids = Page(site / "reference" / "api.html").ids
    for name in geoclass.__all__:
        if not name.startswith("__"):
            value = getattr(geoclass, name)
            assert f"{value.__module__}.{value.__qualname__}" in ids, f"geoclass.{name} is missing from the reference"


def test_links_inside_the_site_lead_somewhere(site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html")}
    assert len(pages) > 15
    for path, page in pages.items():
        if path.name == "404.html":
            continue
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{path.name}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].ids | {"__skip"}, f"{path.name}: {link}"


def test_reading_the_site_makes_no_request_to_others(site: Path) -> None:
    for path in site.rglob("*.html"):
        outside = [link for link in Page(path).resources if urlsplit(link).netloc]
        assert not outside, f"{path.name}: {outside}"


def shown_commands() -> Iterator[tuple[str, str]]:
    """(page, command line) of every geoclass command in a code block of the documentation."""
    for path in PAGES:
        fenced = False
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip().startswith("```"):
                fenced = not fenced
            found = re.match(r"\s*(?:\$ )?(geoclass\s.*)$", line) if fenced or line.startswith("    ") else None
            if found:
                yield str(path.relative_to(ROOT)), found[1].split("  #")[0].strip()


SHOWN = list(shown_commands())


def test_the_documentation_shows_every_command() -> None:
    shown = {name for name in ALL_COMMANDS if any(f"{line} ".startswith(f"{name} ") for _, line in SHOWN)}
    assert shown == set(ALL_COMMANDS)


@pytest.mark.parametrize(("page", "line"), SHOWN)
def test_commands_shown_in_the_documentation_exist(page: str, line: str) -> None:
    words = shlex.split(line)
    depth = max(n for n in range(1, len(words) + 1) if " ".join(words[:n]) in ALL_COMMANDS)
    command = ALL_COMMANDS[" ".join(words[:depth])]
    options = {opt: p for p in command.params if isinstance(p, click.Option) for opt in (*p.opts, *p.secondary_opts)}
    options |= {"--help": click.Option(["--help"], is_flag=True)}
    rest, plain = words[depth:], 0
    while rest:
        word, *rest = rest
        if not word.startswith("-"):
            plain += 1
            continue
        name, _, value = word.partition("=")
        assert name in options, f"{page}: {line!r}: {' '.join(words[:depth])} has no option {name}"
        if options[name].is_flag or options[name].count:
            continue
        if not value:
            value, *rest = rest
        kind = options[name].type
        if isinstance(kind, click.Choice):
            assert value in kind.choices, f"{page}: {line!r}: {name} does not take {value}"
    takes = [p.nargs for p in command.params if isinstance(p, click.Argument)]
    if not isinstance(command, click.Group):
        assert -1 in takes or plain <= sum(takes), f"{page}: {line!r}: too many arguments"
    else:
        assert not plain, f"{page}: {line!r}: there is no such command"


# --- The worked examples -------------------------------------------------------------------------------------------


def test_the_grid_example_in_the_concepts_is_right() -> None:
    text = (DOCS / "concepts.md").read_text(encoding="utf-8")
    found = re.search(r"left ([\d,]+) +right ([\d,]+) +bottom ([\d,]+) +top ([\d,]+)", text)
    assert found
    left, right, bottom, top = (float(number.replace(",", "")) for number in found.groups())
    grid = TileGrid(pyproj.CRS.from_epsg(26917))
    tiles = grid.range_over((left, bottom, right, top))
    shown = {
        (int(column), int(row)): float(value)
        for row, *values in re.findall(r"\*\*row (\d+)\*\* \| ([\d.]+) \| ([\d.]+) \| ([\d.]+)", text)
        for column, value in zip((3039, 3040, 3041), values, strict=True)
    }
    columns, rows = cells(tiles)
    assert set(shown) == set(zip(columns.tolist(), rows.tolist(), strict=True))
    clip = shapely.box(left, bottom, right, top)
    for (column, row), value in shown.items():
        share = shapely.box(*grid.bounds(column, row)).intersection(clip).area / grid.tile_area_m2
        assert value == pytest.approx(share, abs=0.005 + 1e-9)
    assert f"`{grid.tile_id(3040, 18783)}`" in text
    assert sum(value < 0.5 for value in shown.values()) == 2, "the text says that two corners stay out"


def test_the_clip_of_the_grid_example_is_real(test_data: Path) -> None:
    with rasterio.open(test_data / "naip_1m" / "NAIP-VA-b1.tiff") as source:
        assert tuple(source.bounds) == (680811.0, 4207229.0, 681408.0, 4207739.0)
        assert source.crs.to_epsg() == 26917


def test_the_area_example_in_the_concepts_is_right() -> None:
    """Olofsson et al. (2014), equations 2 and 10: stratified estimate of a class's share of area."""
    text = (DOCS / "concepts.md").read_text(encoding="utf-8")
    mapped = np.array([828_837, 33_067_283], float)
    assert all(f"{int(area):,}" in text for area in mapped)
    rows = re.findall(r"^\| the (?:class|rest) \| (\d+) \| (\d+) \|$", text, re.MULTILINE)
    matrix = np.array(rows, float)
    assert matrix.shape == (2, 2)
    weight, total = mapped / mapped.sum(), matrix.sum(axis=1)
    share = matrix[:, 0] / total
    estimate = (weight * share).sum()
    error = 1.96 * np.sqrt((weight**2 * share * (1 - share) / (total - 1)).sum())
    assert f"{weight[0]:.1%}".replace("%", " %") in text
    assert f"**{estimate * 100:.1f} % ± {error * 100:.1f} %**" in text
    assert f"{int(matrix.sum())} places" in text
    assert estimate == pytest.approx(0.17291, abs=5e-6)
    assert error == pytest.approx(0.033066, abs=5e-6)


def test_the_grid_example_for_python_is_right() -> None:
    text = (DOCS / "how-to" / "python.md").read_text(encoding="utf-8")
    grid = TileGrid(pyproj.CRS.from_epsg(26917), size_px=224, gsd_m=1.0)
    column, row = grid.tile_at(681_000.0, 4_207_500.0)
    assert f"'{grid.tile_id(column, row)}'" in text
    assert str(grid.bounds(column, row)) in text


def test_the_toml_examples_load(tmp_path: Path) -> None:
    text = (DOCS / "how-to" / "own-schemes-and-sensors.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        path = tmp_path / f"{tomllib.loads(block)['name']}.toml"
        path.write_text(block, encoding="utf-8")
    assert load_scheme(tmp_path / "wetlands4.toml").names == ("Open water", "Bog", "Meadow", "Built")
    sensor = load_sensor(tmp_path / "citycam.toml")
    a, b = sensor.scale.affine()
    assert (a * 300 + b, a * 4200 + b) == pytest.approx((0, 255))
    assert sensor.date_in_file_name("block7_20240611") == "2024-06-11"


def test_the_nlcd6_page_lists_the_scheme() -> None:
    text = (DOCS / "design" / "nlcd6.md").read_text(encoding="utf-8")
    for item in load_scheme("nlcd6").classes:
        row = re.search(rf"^\| {item.id} \| {item.name} \| (.*) \|$", text, re.MULTILINE)
        assert row, item.name
        stated = {int(code) for code in re.findall(r"\b\d\d\b", row[1])}
        for first, last in re.findall(r"\b(\d\d)–(\d\d)\b", row[1]):
            stated |= set(range(int(first), int(last) + 1))
        assert stated == set(item.codes), item.name


def test_each_glossary_word_is_defined_once() -> None:
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    words = re.findall(r"^(\S.*)\n:   ", text, re.MULTILINE)
    assert len(words) == len(set(words)) > 15
