"""What a file is: a scene, a tile index, a model bundle or a result, as plain values."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pyogrio

from .errors import GeoclassError, SceneError
from .grid import crs_text
from .mosaic import Mosaic, open_mosaic
from .remote.names import is_remote, shown
from .results import read_result
from .scene import Scene
from .sensors import load_sensor
from .tileindex import INDEX_SUFFIX, read_index


def describe(path: str | Path, sensor: str | Path | None = None) -> dict[str, Any]:
    """Facts about a file or folder, the first of them `kind`. Raises GeoclassError for what geoclass cannot read."""
    if is_remote(str(path)):
        return _imagery(str(path), sensor)
    path = Path(path)
    if not path.exists():
        raise SceneError(f"no such file: {path}; check the path")
    if str(path).endswith(INDEX_SUFFIX):
        return _index(path)
    if path.suffix.lower() == ".gpkg":
        return _geopackage(path)
    if path.is_file() and (path.suffix.lower() in (".pt", ".pth") or zipfile.is_zipfile(path)):
        return _bundle(path)
    return _imagery(path, sensor)


def _imagery(path: str | Path, sensor: str | Path | None) -> dict[str, Any]:
    mosaic = open_mosaic([path], load_sensor(sensor) if sensor else None)
    facts = _scene(mosaic.scenes[0])
    if len(mosaic.scenes) > 1:
        return {
            "kind": "mosaic",
            "scenes": len(mosaic.scenes),
            "files": mosaic.files,
            **{f"first {k}": v for k, v in facts.items()},
        }
    return facts


def _scene(scene: Scene) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "kind": "scene",
        "files": ", ".join(scene.files),
        "format": scene.driver,
        "size": f"{scene.width} x {scene.height} px, {scene.dtype}, blocks of {scene.block_shape[1]} x {scene.block_shape[0]}",
        "sensor": f"{scene.sensor.name} ({scene.sensor.title})",
        "bands": ", ".join(f"{band.name} = band {band.index}" for band in scene.bands),
        "no data": f"{scene.validity}{f' {scene.nodata:g}' if scene.nodata is not None and scene.validity == 'nodata value' else ''}",
        "date": scene.date or "not said",
    }
    if scene.quality is not None:
        facts["left out"] = f"codes {', '.join(map(str, scene.quality.dropped))} of {shown(scene.quality.path)}"
    if scene.value_offset:
        facts["offset"] = f"{scene.value_offset:g} is added to stored numbers"
    try:
        grid = Mosaic((scene,)).default_grid()
        facts |= {
            "CRS": crs_text(scene.require_georeference()),
            "bounds": ", ".join(f"{round(value, 6):.12g}" for value in scene.bounds),
            "grid": f"{grid.prefix}_…, tiles of {grid.side_m:g} m at {grid.gsd_m:g} m",
        }
    except GeoclassError as error:
        facts["georeference"] = str(error)
    if scene.notes:
        facts["notes"] = "; ".join(scene.notes)
    return facts


def _index(path: Path) -> dict[str, Any]:
    index, mosaic = read_index(path)
    return {
        "kind": "tile index",
        "tiles": len(index),
        "grid": f"{index.grid.prefix}_…, tiles of {index.grid.side_m:g} m at {index.grid.gsd_m:g} m",
        "least valid fraction": index.min_valid,
        "left out": index.below_min_valid,
        "scenes": ", ".join(mosaic.files),
        "sensor": mosaic.sensor.name,
        "date": mosaic.date or "not said",
    }


def _geopackage(path: Path) -> dict[str, Any]:
    try:
        layers = [str(name) for name, _ in pyogrio.list_layers(path)]
    except pyogrio.errors.DataSourceError as error:
        raise SceneError(
            f"{path} cannot be read as a GeoPackage; give a scene, tile index, bundle or result"
        ) from error
    if "tiles" in layers and "landcover" not in layers:
        return _index(path)
    from .outputs.summary import summarise

    labels = read_result(path)
    summary = summarise(labels)
    return {
        "kind": "result",
        "tiles": len(labels),
        "grid": f"{labels.grid.prefix}_…",
        "date": labels.info.get("date") or "not said",
        "scheme": labels.scheme.name,
        "hectares": {row["name"]: f"{row['area_ha']:,.0f}" for row in summary["classes"]},
        "inputs": ", ".join(labels.info.get("inputs", [])),
        "bundle": labels.info.get("bundle"),
        "left out": labels.info.get("below_min_valid"),
    }


def _bundle(path: Path) -> dict[str, Any]:
    from .bundle import load_bundle

    bundle = load_bundle(path)
    meta = bundle.meta
    return {
        "kind": "model bundle",
        "hash": bundle.digest,
        "backbone": meta.backbone,
        "scheme": f"{meta.scheme.name}: {', '.join(meta.scheme.names)}",
        "sensor": f"{meta.sensor.name}, bands {', '.join(meta.bands)}",
        "tile": f"{meta.size_px} px at {f'{meta.gsd_m:g} m' if meta.gsd_m else 'an unrecorded GSD'}",
        "training": meta.training,
        "made": f"{meta.created} by geoclass {meta.geoclass_version}",
    }
