"""A QGIS project that opens a change result with everything around it: a .qgz, which is a zip of one XML file.

Written without QGIS, in the form QGIS 3.22 reads: https://github.com/qgis/QGIS, src/core/project/qgsproject.cpp. The
layers are named relative to the project, so that the folders can be moved together.
"""

from __future__ import annotations

import sqlite3
import zipfile
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pyogrio
import pyproj

from ..changes.posterior import Change
from ..errors import GeoclassError
from ..files import replacing
from ..grid import crs_text, parse_crs
from . import changeqml, style
from .changestyle import CATEGORIES, UNCHANGED
from .changevector import LAYER, UNCOVERED_LAYER, relative

CANDIDATES_LAYER = "candidates"
PREVIEW_SUFFIX = ".preview.tif"
CHANGE_OPACITY = 0.75
MARGIN = 0.05
"""Ground shown around the tiles when the project opens, as a share of their extent."""

POLYGONS = "Polygon"
Element = ElementTree.Element


@dataclass(frozen=True)
class _Layer:
    """One line of the layer tree. source: as QGIS names it, relative; look: children of the QML that style it."""

    name: str
    source: str
    crs: pyproj.CRS
    geometry: str | None
    look: Sequence[Element]
    shown: bool = True
    opacity: float = 1.0

    @property
    def is_raster(self) -> bool:
        return self.geometry is None


@dataclass(frozen=True)
class _Group:
    name: str
    layers: Sequence[_Layer]
    shown: bool = True


def write_project(
    path: Path, change: Change, change_gpkg: Path, *, aoi: Path | None = None, home: Path | None = None
) -> None:
    """Write `path`, a .qgz: areas of interest, the change layers of `change_gpkg`, and a group for each date.

    A date's group has its classes given all dates, its own result (layer `landcover`) and its preview picture, as far
    as those files are there. The last date's picture lies under the changes; tiles that stayed are hidden over it. aoi:
    a vector file in any CRS; home: the folder in which project and GeoPackage will lie at last, where both are in a
    temporary place. An existing project is replaced. Raises OutputError.
    """
    place = home or path.parent
    gpkg = change_gpkg if home is None else home / change_gpkg.name
    groups = _groups(change, change_gpkg, gpkg, place, aoi)
    text = _document(change, groups)
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        # A date of its own would make two projects of one result differ.
        entry = zipfile.ZipInfo(f"{path.stem}.qgs")
        entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
        archive.writestr(entry, text)


def _groups(change: Change, there: Path, gpkg: Path, place: Path, aoi: Path | None) -> list[_Group]:
    dates = [_date_group(change, t, there, gpkg, place) for t in range(len(change.series.dates))]
    over_imagery = any(layer.is_raster for layer in dates[-1].layers)
    groups = [_Group("Change", _change_layers(change, there, gpkg, place, over_imagery)), *reversed(dates)]
    areas = [] if aoi is None else _area_layers(aoi, place)
    return [_Group("Areas of interest", areas), *groups] if areas else groups


def _change_layers(change: Change, there: Path, gpkg: Path, place: Path, over_imagery: bool) -> list[_Layer]:
    crs, in_file = change.series.grid.crs, _layers_in(there)
    look = _look(changeqml.change_qml())
    if over_imagery:
        _hide(look, CATEGORIES[UNCHANGED].label)
    main = _Layer(
        "Change", _source(gpkg, LAYER, place), crs, POLYGONS, look, opacity=CHANGE_OPACITY if over_imagery else 1.0
    )
    chance = _Layer("Chance of new built-up", main.source, crs, POLYGONS, _look(changeqml.chance_qml()), shown=False)
    names = {CANDIDATES_LAYER: "Candidates, ranked", UNCOVERED_LAYER: "Not covered on every date"}
    more = {
        layer: _Layer(name, _source(gpkg, layer, place), crs, POLYGONS, _stored_look(there, layer))
        for layer, name in names.items()
        if layer in in_file
    }
    return [*more.values(), main, chance]


def _date_group(change: Change, t: int, there: Path, gpkg: Path, place: Path) -> _Group:
    """The last date's group is on, and shows its picture only: the changes lie over it."""
    series = change.series
    date, last = series.dates[t], t == len(series.dates) - 1
    crs, source = series.grid.crs, series.sources[t].path
    look = _look(changeqml.classes_qml(series.scheme, f"class_{date}"))
    layers = [
        _Layer(f"Land cover {date}, given all dates", _source(gpkg, LAYER, place), crs, POLYGONS, look, shown=False)
    ]
    if source is not None and source.is_file() and style.LAYER in _layers_in(source):
        name, own = f"Land cover {date}", _source(source, style.LAYER, place)
        layers.append(_Layer(name, own, crs, POLYGONS, _stored_look(source, style.LAYER), shown=not last))
    picture = None if source is None else source.with_suffix(PREVIEW_SUFFIX)
    if picture is not None and picture.is_file():
        layers.append(_Layer(f"Imagery {date}", _dotted(picture, place), crs, None, [_rgb_pipe()]))
    return _Group(date, layers, shown=last)


def _area_layers(aoi: Path, place: Path) -> list[_Layer]:
    """The first layer of the file; none where it cannot be read, of which whoever uses its areas has complained."""
    try:
        layer = _layers_in(aoi)[0]
        described = pyogrio.read_info(aoi, layer=layer)
        crs = parse_crs(str(described["crs"]))
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, GeoclassError, IndexError):
        return []
    look = _look(changeqml.outline_qml("#000000", 0.6))
    return [_Layer(aoi.stem, _source(aoi, layer, place), crs, POLYGONS, look)]


def _layers_in(path: Path) -> list[str]:
    try:
        return [str(name) for name, _ in pyogrio.list_layers(path)]
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError):
        return []


def _source(path: Path, layer: str, place: Path) -> str:
    return f"{_dotted(path, place)}|layername={layer}"


def _dotted(path: Path, place: Path) -> str:
    """Relative, as QGIS knows it by: beginning with a dot."""
    text = str(relative(path, place))
    return text if text.startswith("../") or Path(text).is_absolute() else f"./{text}"


# ---- Styles ----


def _look(qml: str) -> list[Element]:
    return list(ElementTree.fromstring(qml[qml.index("<qgis") :]))


def _stored_look(path: Path, layer: str) -> list[Element]:
    """The style that QGIS applies to a layer by itself, empty where the file has none."""
    query = "SELECT styleQML FROM layer_styles WHERE f_table_name = ? ORDER BY useAsDefault DESC, id LIMIT 1"
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            found = database.execute(query, (layer,)).fetchone()
            return [] if found is None else [item for item in _look(str(found[0])) if item.tag != "pipe"]
    except (sqlite3.Error, ValueError, ElementTree.ParseError):
        return []


def _hide(look: Iterable[Element], value: str) -> None:
    for item in look:
        for category in item.iter("category"):
            if category.get("value") == value:
                category.set("render", "false")


def _rgb_pipe() -> Element:
    pipe = Element("pipe")
    bands = {"redBand": "1", "greenBand": "2", "blueBand": "3", "alphaBand": "-1"}
    _child(pipe, "rasterrenderer", type="multibandcolor", opacity="1", nodataColor="", **bands)
    return pipe


# ---- The document ----


def _document(change: Change, groups: Sequence[_Group]) -> str:
    series, crs = change.series, change.series.grid.crs
    title = f"Land-cover change, {series.dates[0]} to {series.dates[-1]}"
    root = Element("qgis", version="3.22.0", projectname=title)
    _child(root, "title").text = title
    _crs(_child(root, "projectCrs"), crs)
    tree, layers = _child(root, "layer-tree-group"), Element("projectlayers")
    for group in groups:
        branch = _child(
            tree, "layer-tree-group", name=group.name, checked=_checked(group.shown), expanded=_flag(group.shown)
        )
        for layer in group.layers:
            identity = (
                f"geoclass_layer_{len(layers) + 1:04d}"  # QGIS puts its own in place of ids of ten letters or fewer
            )
            _leaf(branch, layer, identity)
            layers.append(_map_layer(layer, identity))
    root.extend(_view(change))
    root.append(layers)
    properties = _child(root, "properties")
    _child(_child(properties, "Paths"), "Absolute", type="bool").text = "false"
    # Without this QGIS passes over projectCrs.
    _child(_child(properties, "SpatialRefSys"), "ProjectionsEnabled", type="int").text = "1"
    ElementTree.indent(root)
    return "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n" + ElementTree.tostring(root, "unicode") + "\n"


def _leaf(branch: Element, layer: _Layer, identity: str) -> None:
    attributes = {"id": identity, "name": layer.name, "source": layer.source, "checked": _checked(layer.shown)}
    _child(branch, "layer-tree-layer", providerKey=_provider(layer), expanded=_flag(layer.shown), **attributes)


def _map_layer(layer: _Layer, identity: str) -> Element:
    kind = {"type": "raster"} if layer.is_raster else {"type": "vector", "geometry": str(layer.geometry)}
    found = Element("maplayer", kind | {"autoRefreshEnabled": "0", "labelsEnabled": _flag(_labelled(layer))})
    for tag, text in (("id", identity), ("datasource", layer.source), ("layername", layer.name)):
        _child(found, tag).text = text
    _crs(_child(found, "srs"), layer.crs)
    _child(found, "provider", encoding="UTF-8").text = _provider(layer)
    found.extend(layer.look)
    if not layer.is_raster:
        for old in found.findall("layerOpacity"):
            found.remove(old)
        _child(found, "layerOpacity").text = f"{layer.opacity:g}"
    return found


def _labelled(layer: _Layer) -> bool:
    return any(item.tag == "labeling" for item in layer.look)


def _provider(layer: _Layer) -> str:
    return "gdal" if layer.is_raster else "ogr"


def _view(change: Change) -> list[Element]:
    """What is in sight when the project opens, and what "Zoom Full" returns to."""
    tiles, grid = change.series.range, change.series.grid
    room = MARGIN * max(tiles.columns, tiles.rows)
    edges = {
        "xmin": tiles.left - room,
        "ymin": tiles.bottom - room,
        "xmax": tiles.right + room,
        "ymax": tiles.top + room,
    }
    at = {tag: f"{value * grid.side:.6f}" for tag, value in edges.items()}
    canvas = Element("mapcanvas", name="theMapCanvas", annotationsVisible="1")
    extent = _child(canvas, "extent")
    for tag, text in at.items():
        _child(extent, tag).text = text
    _child(canvas, "rotation").text = "0"
    _crs(_child(canvas, "destinationsrs"), grid.crs)
    settings = Element("ProjectViewSettings", UseProjectScales="0")
    _crs(_child(settings, "DefaultViewExtent", **at), grid.crs)
    return [canvas, settings]


def _crs(parent: Element, crs: pyproj.CRS) -> None:
    system = _child(parent, "spatialrefsys", nativeFormat="Wkt")
    text = crs_text(crs)
    _child(system, "wkt").text = crs.to_wkt("WKT2_2019")
    _child(system, "authid").text = text if text.startswith("EPSG:") else ""
    _child(system, "description").text = crs.name
    _child(system, "geographicflag").text = "true" if crs.is_geographic else "false"


def _child(parent: Element, tag: str, **attributes: str) -> Element:
    return ElementTree.SubElement(parent, tag, attributes)


def _checked(shown: bool) -> str:
    return "Qt::Checked" if shown else "Qt::Unchecked"


def _flag(value: bool) -> str:
    return "1" if value else "0"
