"""The QGIS project, opened by real QGIS: layers, names, groups, styles, and what it draws."""

import json
import os
import shutil
import subprocess
import textwrap
import zipfile
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import PIL.Image
import pytest
import shapely
from test_changevector import DATES, SCHEME, make_change

from geoclass.changes.posterior import Change
from geoclass.changes.series import Source
from geoclass.errors import OutputError
from geoclass.outputs import preview, vector
from geoclass.outputs.changeqml import outline_qml
from geoclass.outputs.changestyle import CATEGORIES, UNCHANGED, categories
from geoclass.outputs.changevector import write_change_gpkg
from geoclass.outputs.geopackage import GEOMETRY, Style, finish
from geoclass.outputs.qgisproject import CHANGE_OPACITY, write_project
from geoclass.results import read_result

GREY = np.array([120, 140, 90], np.uint8)


def county(folder: Path, crs: str = "EPSG:26919", pictures: bool = True) -> Change:
    """A change with the results of each date beside it, as three runs of classify leave them."""
    change = make_change(crs=crs)
    sources = []
    for t, date in enumerate(DATES):
        path = folder / date / "county of É & <co>.gpkg"
        path.parent.mkdir(parents=True)
        labels = change.series.labels_at(t)
        vector.write_gpkg(labels, path)
        if pictures:
            thumbnails = np.broadcast_to(GREY + np.uint8(20 * t), (len(labels), 8, 8, 3)).copy()
            preview.write_preview(replace(labels, thumbnails=thumbnails), path.with_suffix(".preview.tif"))
        sources.append(Source(path, labels.info))
    return replace(change, series=replace(change.series, sources=tuple(sources)))


def areas(change: Change, path: Path) -> Path:
    """The western half, in degrees."""
    grid, tiles = change.series.grid, change.series.range
    box = shapely.box(
        tiles.left * grid.side, tiles.bottom * grid.side, (tiles.left + 6) * grid.side, tiles.top * grid.side
    )
    gpd.GeoDataFrame({"name": ["West"]}, geometry=[box], crs=grid.crs).to_crs(4326).to_file(path, driver="GeoJSON")
    return path


def add_candidates(change: Change, path: Path) -> None:
    series = change.series
    squares = series.grid.polygons(series.columns[:4], series.rows[:4])
    frame = gpd.GeoDataFrame({"rank": [1, 2, 3, 4]}, geometry=squares, crs=series.grid.crs)
    frame.to_file(path, layer="candidates", driver="GPKG", GEOMETRY_NAME=GEOMETRY, SPATIAL_INDEX="YES")
    finish(path, "candidates", 4, [Style("Rank", outline_qml("#d55e00"), "")])


QGIS = textwrap.dedent(
    """
    import json, os, sys
    from qgis.core import (QgsApplication, QgsLayerTreeGroup, QgsMapLayer, QgsMapRendererSequentialJob, QgsMapSettings,
                           QgsProject)
    from qgis.PyQt.QtCore import QSize
    from qgis.PyQt.QtGui import QColor
    QgsApplication.setPrefixPath("/usr", True)
    application = QgsApplication([], False)
    application.initQgis()
    project = QgsProject.instance()
    found = {"read": project.read(sys.argv[1]), "error": project.error(), "crs": project.crs().authid(),
             "crs_valid": project.crs().isValid(), "title": project.title(), "layers": {}, "groups": []}
    for group in project.layerTreeRoot().children():
        assert isinstance(group, QgsLayerTreeGroup)
        names = [[leaf.name(), leaf.itemVisibilityChecked()] for leaf in group.children()]
        found["groups"].append([group.name(), group.itemVisibilityChecked(), names])
    for layer in project.mapLayers().values():
        about = {"valid": layer.isValid(), "crs": layer.crs().authid(), "crs_valid": layer.crs().isValid(),
                 "renderer": layer.renderer().type() if layer.isValid() else None, "source": layer.source()}
        if layer.isValid() and layer.type() == QgsMapLayer.VectorLayer:
            about["features"], about["opacity"] = layer.featureCount(), layer.opacity()
            renderer = layer.renderer()
            if renderer.type() == "categorizedSymbol":
                about["attribute"] = renderer.classAttribute()
                about["classes"] = [[c.label(), c.symbol().color().name(), c.renderState()] for c in renderer.categories()]
        found["layers"][layer.name()] = about
    shown = [leaf.layer() for leaf in project.layerTreeRoot().findLayers() if leaf.isVisible()]
    picture = QgsMapSettings()
    picture.setLayers(shown)
    picture.setDestinationCrs(project.crs())
    picture.setExtent(project.mapLayersByName("Change")[0].extent())
    picture.setOutputSize(QSize(480, 360))
    picture.setBackgroundColor(QColor("white"))
    job = QgsMapRendererSequentialJob(picture)
    job.start()
    job.waitForFinished()
    job.renderedImage().save(sys.argv[2])
    view = project.viewSettings().defaultViewExtent()
    found["view"] = [view.xMinimum(), view.yMinimum(), view.xMaximum(), view.yMaximum()]
    print(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # QGIS's own teardown can crash after the work is done
    """
)


def opened(python: str, project: Path, picture: Path) -> dict:
    done = subprocess.run(
        [python, "-c", QGIS, str(project), str(picture)],
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found: dict = json.loads(done.stdout.splitlines()[-1])
    assert found["read"], found["error"]
    assert [name for name, about in found["layers"].items() if not about["valid"]] == []
    assert all(about["crs_valid"] for about in found["layers"].values())
    return found


def test_qgis_opens_everything_in_its_place(tmp_path: Path, qgis_python: str) -> None:
    change = county(tmp_path / "before")
    trend = tmp_path / "before" / "trend"
    trend.mkdir()
    write_change_gpkg(change, trend / "change.gpkg", info={})
    add_candidates(change, trend / "change.gpkg")
    write_project(trend / "change.qgz", change, trend / "change.gpkg", aoi=areas(change, trend / "towns.geojson"))
    # Moved as a whole, as from a server to a laptop.
    shutil.move(tmp_path / "before", tmp_path / "after")
    project = tmp_path / "after" / "trend" / "change.qgz"
    found = opened(qgis_python, project, tmp_path / "picture.png")
    assert found["crs"] == "EPSG:26919"
    assert found["title"] == "Land-cover change, 2010 to 2022"
    assert found["groups"] == [
        ["Areas of interest", True, [["towns", True]]],
        ["Change", True, [
            ["Candidates, ranked", True], ["Not covered on every date", True], ["Change", True],
            ["Chance of new built-up", False],
        ]],
        ["2022", True, [["Land cover 2022, given all dates", False], ["Land cover 2022", False], ["Imagery 2022", True]]],
        *([date, False, [[f"Land cover {date}, given all dates", False], [f"Land cover {date}", True], [f"Imagery {date}", True]]]
          for date in ("2016-07-14", "2010")),
    ]  # fmt: skip
    layers = found["layers"]
    assert layers["towns"]["crs"] == "EPSG:4326"
    assert layers["towns"]["features"] == 1
    assert layers["Change"]["features"] == len(change)
    assert layers["Change"]["attribute"] == "change"
    assert layers["Change"]["opacity"] == pytest.approx(CHANGE_OPACITY)
    assert layers["Change"]["classes"] == [
        [item.label, item.colour, k != UNCHANGED] for k, item in enumerate(CATEGORIES)
    ]
    assert layers["Chance of new built-up"]["renderer"] == "graduatedSymbol"
    assert layers["Candidates, ranked"]["features"] == 4
    assert layers["Not covered on every date"]["features"] == 5
    colours = [[item.name, item.colour, True] for item in SCHEME.classes]
    for date in DATES:
        assert layers[f"Land cover {date}"]["classes"] == colours
        assert layers[f"Land cover {date}"]["attribute"] == "class"
        assert layers[f"Land cover {date}, given all dates"]["classes"] == colours
        assert layers[f"Land cover {date}, given all dates"]["attribute"] == f"class_{date}"
        assert layers[f"Imagery {date}"]["renderer"] == "multibandcolor"
    assert all(str(tmp_path / "after") in about["source"] for about in layers.values())
    grid, tiles = change.series.grid, change.series.range
    shown, held = shapely.box(*found["view"]), shapely.box(*grid.bounds(tiles.left, tiles.bottom)[:2], *grid.bounds(tiles.right - 1, tiles.top - 1)[2:])  # fmt: skip
    assert shown.contains(held)
    assert shown.area < 1.5 * held.area
    assert_drawn(change, tmp_path / "picture.png")


def assert_drawn(change: Change, picture: Path) -> None:
    """A tile's colour is its category's over the last date's picture, or that picture alone where nothing changed."""
    with PIL.Image.open(picture) as image:
        centres = np.asarray(image.convert("RGB"))[12::40, 12::40].astype(float)
    under = (GREY + 40).astype(float)
    what = categories(change)
    tiles = np.array([item.rgb for item in CATEGORIES], float)[what]
    over = CHANGE_OPACITY * tiles + (1 - CHANGE_OPACITY) * under
    over[what == UNCHANGED] = under
    covered = change.series.image(np.ones(len(change), bool), False)
    assert {UNCHANGED} < set(what.tolist())
    assert np.abs(centres - change.series.image(over))[covered].max() < 6  # JPEG


@pytest.mark.parametrize(
    "crs", ["EPSG:2263", "+proj=aea +lat_1=37 +lat_2=39 +lat_0=38 +lon_0=-80 +datum=NAD83 +units=m"]
)
def test_other_projections(tmp_path: Path, qgis_python: str, crs: str) -> None:
    change = make_change(crs=crs)
    write_change_gpkg(change, tmp_path / "change.gpkg", info={})
    write_project(tmp_path / "change.qgz", change, tmp_path / "change.gpkg")
    found = opened(qgis_python, tmp_path / "change.qgz", tmp_path / "picture.png")
    assert found["crs_valid"]
    assert found["crs"] == (crs if crs.startswith("EPSG") else "")
    with PIL.Image.open(tmp_path / "picture.png") as image:
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 3
    # Without imagery below, what stayed is drawn too.
    assert found["layers"]["Change"]["opacity"] == 1
    assert all(drawn for _, _, drawn in found["layers"]["Change"]["classes"])


def test_what_is_not_there_is_left_out(tmp_path: Path, qgis_python: str) -> None:
    change = county(tmp_path, pictures=False)
    missing = change.series.sources[1].path
    assert missing is not None
    missing.unlink()
    write_change_gpkg(change, tmp_path / "change.gpkg", info={})
    (tmp_path / "towns.txt").write_text("no areas")
    write_project(tmp_path / "change.qgz", change, tmp_path / "change.gpkg", aoi=tmp_path / "towns.txt")
    found = opened(qgis_python, tmp_path / "change.qgz", tmp_path / "picture.png")
    assert [group[0] for group in found["groups"]] == ["Change", "2022", "2016-07-14", "2010"]
    assert [leaf[0] for leaf in found["groups"][2][2]] == ["Land cover 2016-07-14, given all dates"]


def test_a_staged_project_names_the_final_places(tmp_path: Path) -> None:
    change = county(tmp_path)
    stage = tmp_path / "trend" / ".stage"
    stage.mkdir(parents=True)
    write_change_gpkg(change, stage / "change.gpkg", info={}, home=tmp_path / "trend")
    write_project(stage / "change.qgz", change, stage / "change.gpkg", home=tmp_path / "trend")
    with zipfile.ZipFile(stage / "change.qgz") as archive:
        assert archive.namelist() == ["change.qgs"]
        root = ElementTree.fromstring(archive.read("change.qgs"))
    sources = {str(item.text) for item in root.iter("datasource")}
    assert "./change.gpkg|layername=change" in sources
    assert "../2010/county of É & <co>.gpkg|layername=landcover" in sources
    assert str(tmp_path) not in "".join(sources)


def test_the_same_change_makes_the_same_project(tmp_path: Path) -> None:
    change = make_change()
    write_change_gpkg(change, tmp_path / "change.gpkg", info={})
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_project(tmp_path / name / "change.qgz", change, tmp_path / "change.gpkg")
    assert (tmp_path / "a" / "change.qgz").read_bytes() == (tmp_path / "b" / "change.qgz").read_bytes()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_project(tmp_path / "file" / "change.qgz", make_change(), tmp_path / "change.gpkg")


def test_the_results_are_still_results(tmp_path: Path) -> None:
    change = county(tmp_path, pictures=False)
    path = change.series.sources[0].path
    assert path is not None
    assert len(read_result(path)) == len(change)
