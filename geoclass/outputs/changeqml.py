"""QGIS styles of the change layer. Their symbols are those of the class styles, so that all layers look alike."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from ..schemes import ClassScheme, LandClass
from . import style
from .changestyle import CATEGORIES

# Oranges of ColorBrewer (Brewer & Harrower), light to dark: lightness alone tells the order.
CHANCES = ((0.05, "#feedde"), (0.25, "#fdbe85"), (0.5, "#fd8d3c"), (0.75, "#e6550d"), (1.0, "#a63603"))
"""Upper end and colour of each step of a probability."""


def change_qml() -> str:
    """Colours tiles by column `change`, in the colours of changestyle.CATEGORIES."""
    return classes_qml(_as_scheme([(item.label, item.colour) for item in CATEGORIES]), "change")


def classes_qml(scheme: ClassScheme, attribute: str) -> str:
    """Colours tiles by the class names in column `attribute`."""
    root, renderer = _of(scheme)
    renderer.set("attr", attribute)
    return _text(root)


def chance_qml(attribute: str = "p_new_built") -> str:
    """Colours tiles by a probability in column `attribute`, in the steps of CHANCES."""
    starts = (0.0, *(upper for upper, _ in CHANCES))
    words = [f"{low:.0%} – {high:.0%}".replace("%", " %") for low, (high, _) in zip(starts, CHANCES, strict=False)]
    root, renderer = _of(_as_scheme([(text, colour) for text, (_, colour) in zip(words, CHANCES, strict=True)]))
    renderer.attrib |= {"type": "graduatedSymbol", "attr": attribute, "graduatedMethod": "GraduatedColor"}
    for old in renderer.findall("categories"):
        renderer.remove(old)
    ranges = ElementTree.Element("ranges")
    renderer.insert(0, ranges)
    for place, (upper, _) in enumerate(CHANCES):
        limits = {"lower": f"{starts[place]:.15f}", "upper": f"{upper:.15f}"}
        ElementTree.SubElement(
            ranges, "range", limits | {"symbol": str(place), "label": words[place], "render": "true"}
        )
    return _text(root)


def outline_qml(colour: str = "#666666", width_mm: float = 0.4) -> str:
    """Polygons as an outline in one colour, with nothing inside: what lies below stays in sight."""
    root, renderer = _of(_as_scheme([("outline", colour), ("unused", "#ffffff")]))
    for old in renderer.findall("categories"):
        renderer.remove(old)
    symbols = renderer.find("symbols")
    assert symbols is not None  # _of makes one
    symbols.remove(symbols[1])
    for option in symbols.iter("Option"):
        changes = {"style": "no", "outline_width": str(width_mm)}
        option.attrib |= {"value": changes[option.get("name", "")]} if option.get("name") in changes else {}
    renderer.set("type", "singleSymbol")
    renderer.attrib.pop("attr")
    return _text(root)


def _as_scheme(entries: Sequence[tuple[str, str]]) -> ClassScheme:
    classes = tuple(LandClass(id=n, name=name, colour=colour) for n, (name, colour) in enumerate(entries, 1))
    return ClassScheme(name="legend", classes=classes)


def _of(scheme: ClassScheme) -> tuple[ElementTree.Element, ElementTree.Element]:
    """The scheme's style without its raster part, and the renderer in it."""
    text = style.qml(scheme)
    root = ElementTree.fromstring(text[text.index("<qgis") :])
    for pipe in root.findall("pipe"):
        root.remove(pipe)
    renderer = root.find("renderer-v2")
    assert renderer is not None  # style.qml makes one
    return root, renderer


def _text(root: ElementTree.Element) -> str:
    ElementTree.indent(root)
    return "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n" + ElementTree.tostring(root, "unicode") + "\n"
