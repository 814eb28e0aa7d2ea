"""The ranked candidates as a table: CSV, a layer of the change GeoPackage, and a part of other pages."""

from __future__ import annotations

import html
from pathlib import Path

import pyogrio

from ..changes.candidates import Candidates
from ..errors import OutputError
from ..files import replacing, write_errors
from .geopackage import GEOMETRY, Style, finish

LAYER = "candidates"
SHOWN = 20
"""Rows of the table on other pages; the CSV has them all."""

# Hollow squares in the colour of new built-up land, so that imagery and classes show through, with the rank inside.
# Symbols are written as QGIS 3.18 and later read them.
QML = """<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.22.0" styleCategories="Symbology|Labeling" labelsEnabled="1">
  <renderer-v2 type="singleSymbol" forceraster="0" symbollevels="0" enableorderby="0">
    <symbols>
      <symbol type="fill" name="0" alpha="1" clip_to_extent="1" force_rhr="0">
        <layer class="SimpleFill" enabled="1" locked="0" pass="0">
          <Option type="Map">
            <Option type="QString" name="color" value="213,94,0,0" />
            <Option type="QString" name="style" value="no" />
            <Option type="QString" name="outline_color" value="213,94,0,255" />
            <Option type="QString" name="outline_style" value="solid" />
            <Option type="QString" name="outline_width" value="0.7" />
            <Option type="QString" name="outline_width_unit" value="MM" />
            <Option type="QString" name="joinstyle" value="miter" />
          </Option>
        </layer>
      </symbol>
    </symbols>
  </renderer-v2>
  <labeling type="simple">
    <settings calloutType="simple">
      <text-style fieldName="rank" isExpression="0" fontSize="9" fontSizeUnit="Point" textColor="60,25,0,255">
        <text-buffer bufferDraw="1" bufferSize="0.9" bufferSizeUnits="MM" bufferColor="255,255,255,255" />
      </text-style>
      <placement placement="1" />
      <rendering drawLabels="1" scaleVisibility="1" scaleMin="60000" scaleMax="1" />
    </settings>
  </labeling>
  <blendMode>0</blendMode>
  <layerGeometryType>2</layerGeometryType>
</qgis>
"""


def write_candidates_csv(candidates: Candidates, path: Path, *, overwrite: bool = False) -> None:
    """Write the list, best first, as CSV in UTF-8: the columns of `Candidates.to_frame`. Raises OutputError."""
    with replacing(path, overwrite) as temporary:
        candidates.to_frame().to_csv(temporary, index=False, encoding="utf-8")


def add_candidates_layer(candidates: Candidates, path: Path) -> None:
    """Add layer `candidates` to a GeoPackage that is there: `Candidates.to_gdf`, with a style that QGIS applies.

    Raises OutputError where it already has such a layer or cannot be written.
    """
    if not path.is_file():
        raise OutputError(f"there is no {path} to add the candidates to; write the changes first")
    if LAYER in {str(name) for name, _ in pyogrio.list_layers(path)}:
        raise OutputError(f"{path} already has a layer {LAYER!r}; write the file anew with --overwrite")
    threshold, count = candidates.change.threshold, len(candidates)
    with write_errors(path):
        pyogrio.write_dataframe(
            candidates.to_gdf(),
            path,
            layer=LAYER,
            driver="GPKG",
            geometry_type="Polygon",
            GEOMETRY_NAME=GEOMETRY,
            SPATIAL_INDEX="YES",
            IDENTIFIER="Candidates for new built-up land",
            DESCRIPTION=f"{count:,} of {candidates.found:,} tiles with a probability of {candidates.floor:g} or more, "
            f"by probability × tiles of their cluster; the map calls them new built-up from {threshold:g} on.",
        )
        finish(path, LAYER, count, [Style("Rank", QML, "Outline and rank of each candidate")])


def candidates_table(candidates: Candidates, most: int = SHOWN) -> str:
    """An HTML table of the first `most`, for other pages; every text from data is escaped."""
    head = ("Rank", "Tile", "Chance", "Cluster", "From → to", "Kind", "Look")
    rows = []
    for item in candidates.to_frame().head(most).to_dict("records"):
        links = " · ".join(
            f'<a href="{html.escape(str(item[key]))}"{outside}>{name}</a>'
            for key, name, outside in (
                ("map", "map", ""),
                ("openstreetmap", "OSM", ' target="_blank" rel="noopener noreferrer"'),
                ("google_maps", "Google", ' target="_blank" rel="noopener noreferrer"'),
            )
        )
        tiles = int(item["cluster_tiles"])
        cells = (
            str(item["rank"]),
            f"<code>{html.escape(item['tile_id'])}</code>",
            f"{item['probability'] * 100:.0f}\u00a0%",
            f"{item['cluster']} ({tiles:,} {'tile' if tiles == 1 else 'tiles'}, {item['cluster_ha']:,.1f}\u00a0ha)",
            html.escape(f"{item['from_class']} → {item['to_class']}"),
            item["kind"],
            links,
        )
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    titles = "".join(f'<th scope="col">{name}</th>' for name in head)
    return f'<table class="candidates"><thead><tr>{titles}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
