"""The WMTS document of a job's layers (OGC 07-057r7), for QGIS and ArcGIS: both read tiles through its templates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.etree import ElementTree

from .painting import SIDE_PX, Extent

WMTS, OWS, XLINK = "http://www.opengis.net/wmts/1.0", "http://www.opengis.net/ows/1.1", "http://www.w3.org/1999/xlink"
MATRICES = "GoogleMapsCompatible"
SCALE_0 = 559_082_264.0287178
"""Scale denominator of zoom 0 (07-057r7, annex E.4): pixels of 0.28 mm."""
EDGE_M = 20_037_508.3427892
MEDIA_TYPE = "application/xml"

for prefix, uri in (("", WMTS), ("ows", OWS), ("xlink", XLINK)):
    ElementTree.register_namespace(prefix, uri)


def capabilities(title: str, address: str, layers: Sequence[tuple[str, str, str]], extent: Extent) -> bytes:
    """The document. `address` is its own; layers: identifier, title, and template with {z}, {x}, {y} of each."""
    root = ElementTree.Element(f"{{{WMTS}}}Capabilities", version="1.0.0")
    about = _under(root, OWS, "ServiceIdentification")
    _under(about, OWS, "Title", title)
    _under(about, OWS, "ServiceType", "OGC WMTS")
    _under(about, OWS, "ServiceTypeVersion", "1.0.0")
    contents = _under(root, WMTS, "Contents")
    for identifier, name, template in layers:
        _layer(contents, identifier, name, template, extent)
    _matrices(contents, extent)
    ElementTree.SubElement(root, f"{{{WMTS}}}ServiceMetadataURL", {f"{{{XLINK}}}href": address})
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def tile_of(longitude: float, latitude: float, zoom: int) -> tuple[int, int]:
    """(column, row) of the tile at a place, on the grid of Web Mercator."""
    across = 1 << zoom
    y = math.asinh(math.tan(math.radians(max(-85.05, min(85.05, latitude)))))
    column, row = (longitude + 180) / 360 * across, (1 - y / math.pi) / 2 * across
    return min(across - 1, max(0, math.floor(column))), min(across - 1, max(0, math.floor(row)))


def _layer(contents: ElementTree.Element, identifier: str, name: str, template: str, extent: Extent) -> None:
    west, south, east, north = extent.bounds
    if east > 180:  # a box says only where it begins and ends
        west, east = -180, 180
    layer = _under(contents, WMTS, "Layer")
    _under(layer, OWS, "Title", name)
    box = _under(layer, OWS, "WGS84BoundingBox")
    _under(box, OWS, "LowerCorner", f"{west:.9f} {south:.9f}")
    _under(box, OWS, "UpperCorner", f"{east:.9f} {north:.9f}")
    _under(layer, OWS, "Identifier", identifier)
    style = _under(layer, WMTS, "Style")
    style.set("isDefault", "true")
    _under(style, OWS, "Identifier", "default")
    _under(layer, WMTS, "Format", "image/png")
    link = _under(layer, WMTS, "TileMatrixSetLink")
    _under(link, WMTS, "TileMatrixSet", MATRICES)
    _limits(_under(link, WMTS, "TileMatrixSetLimits"), extent)
    filled = template.replace("{z}", "{TileMatrix}").replace("{x}", "{TileCol}").replace("{y}", "{TileRow}")
    resource = {"format": "image/png", "resourceType": "tile", "template": filled}
    ElementTree.SubElement(layer, f"{{{WMTS}}}ResourceURL", resource)


def _limits(parent: ElementTree.Element, extent: Extent) -> None:
    west, south, east, north = extent.bounds
    for zoom in range(extent.min_zoom, extent.max_zoom + 1):
        (left, top), (right, bottom) = tile_of(west, north, zoom), tile_of(east, south, zoom)
        if east > 180:  # on both ends of the row, which limits cannot say
            left, right = 0, (1 << zoom) - 1
        limits = _under(parent, WMTS, "TileMatrixLimits")
        values = {"TileMatrix": zoom, "MinTileRow": top, "MaxTileRow": bottom, "MinTileCol": left, "MaxTileCol": right}
        for tag, value in values.items():
            _under(limits, WMTS, tag, str(value))


def _matrices(contents: ElementTree.Element, extent: Extent) -> None:
    matrices = _under(contents, WMTS, "TileMatrixSet")
    _under(matrices, OWS, "Identifier", MATRICES)
    _under(matrices, OWS, "SupportedCRS", "urn:ogc:def:crs:EPSG::3857")
    _under(matrices, WMTS, "WellKnownScaleSet", "urn:ogc:def:wkss:OGC:1.0:GoogleMapsCompatible")
    for zoom in range(extent.max_zoom + 1):
        matrix = _under(matrices, WMTS, "TileMatrix")
        _under(matrix, OWS, "Identifier", str(zoom))
        _under(matrix, WMTS, "ScaleDenominator", f"{SCALE_0 / (1 << zoom):.10f}")
        _under(matrix, WMTS, "TopLeftCorner", f"{-EDGE_M} {EDGE_M}")
        for tag, value in {
            "TileWidth": SIDE_PX,
            "TileHeight": SIDE_PX,
            "MatrixWidth": 1 << zoom,
            "MatrixHeight": 1 << zoom,
        }.items():
            _under(matrix, WMTS, tag, str(value))


def _under(parent: ElementTree.Element, namespace: str, tag: str, text: str | None = None) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, f"{{{namespace}}}{tag}")
    child.text = text
    return child
