"""The doctor: is this scene fit for this bundle on this machine, what will happen, and how long will it take?

`classify` runs the same checks and refuses where one fails, unless it is forced.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import psutil
import torch

from .blocks import TileBlock, read_ahead
from .errors import GeoclassError, SceneError, UnfitError
from .grid import crs_text, needs_utm
from .plan import Plan
from .predict import choose_device
from .reader import Pixels
from .remote.opening import READERS
from .runtimes.lanes import devices_of
from .runtimes.settling import open_runner, settle, workload_of
from .runtimes.wanted import Wanted
from .scene import Scene, open_dataset

Status = Literal["ok", "warn", "fail"]

log = logging.getLogger(__name__)

SAMPLE_TILES = 24
DOUBTS = ("sensor", "GSD", "likeness")
"""Checks whose warnings tell of labels that may be wrong, not of a slow run."""
BINS = 32
DRIFT_WARN, DRIFT_FAIL = 40.0, 110.0
"""Mean shift of the brightness distribution against training, in steps of 0–255. Another season or sensor moves
RSSCN7-trained models by 10 to 35; a wrong scale by more than 110."""


@dataclass(frozen=True)
class Check:
    """One finding. `remedy` is one line, empty where all is well."""

    topic: str
    status: Status
    finding: str
    remedy: str = ""


@dataclass(frozen=True)
class Sample:
    """Tiles spread over the plan: `tiles` of (bands, size, size), the valid share of each, what failed to read."""

    tiles: tuple[Pixels, ...]
    valid_fraction: npt.NDArray[np.float32]
    not_finite: float
    failure: str = ""


def examine(plan: Plan, out: Path, device: str = "auto") -> list[Check]:
    """Check scene, bundle and machine for a run. Raises nothing for what a check can say."""
    sample = take_sample(plan)
    checks = [check for scene in plan.mosaic.scenes[:8] for check in _scene_checks(scene)]
    checks += [_readable(sample), _sensor(plan), _gsd(plan), _crs(plan), _nodata(plan, sample)]
    checks += _scale(plan, sample)
    checks += [_device(device), _memory(plan), _disk(plan, out)]
    return checks


def refuse_unfit(checks: list[Check]) -> None:
    """Raise UnfitError with the first failure. Damaged blocks are met while reading, so that what can be read is.

    What may make the labels wrong, without being sure to, is logged as a warning."""
    for check in checks:
        if check.status == "warn" and check.topic in DOUBTS:
            log.warning("%s: %s; %s", check.topic, check.finding, check.remedy)
        if check.status == "fail" and check.topic != "readable":
            raise UnfitError(f"{check.topic}: {check.finding}; {check.remedy} (--force runs all the same)")


def take_sample(plan: Plan, count: int = SAMPLE_TILES) -> Sample:
    """Read up to `count` tiles spread evenly over the plan."""
    pick = np.unique(np.linspace(0, len(plan) - 1, min(count, len(plan))).astype(int))
    tiles, fractions, bad = [], [], 0.0
    try:
        blocks = [TileBlock(int(n), plan.columns[n : n + 1], plan.rows[n : n + 1]) for n in pick]
        threads = READERS if plan.mosaic.remote else 1
        for read in read_ahead(plan.mosaic, plan.grid, plan.bands, blocks, threads, overlap=plan.mosaic.remote):
            tiles.append(read.tiles[0])
            fractions.append(read.valid_fraction[0])
            bad += _not_finite(plan, read.block)
    except SceneError as error:
        return Sample(tuple(tiles), np.array(fractions, np.float32), 0.0, str(error))
    return Sample(tuple(tiles), np.array(fractions, np.float32), bad / max(1, len(tiles)))


def _not_finite(plan: Plan, block: TileBlock) -> float:
    """The share of a float scene's centre line in this block that is NaN or infinite, whatever its no-data value."""
    scene = plan.mosaic.scenes[0]
    if not scene.dtype.startswith("float") or scene.crs != plan.grid.crs:
        return 0.0
    left, bottom, right, top = plan.grid.bounds(int(block.columns[0]), int(block.rows[0]))
    with open_dataset(scene.bands[0].path) as dataset:
        row, first = dataset.index(left, (bottom + top) / 2)
        last = dataset.index(right, (bottom + top) / 2)[1]
        first, last = max(0, first), min(dataset.width, last)
        if not 0 <= row < dataset.height or first >= last:
            return 0.0
        line = dataset.read(1, window=((row, row + 1), (first, last)))
        return float(1 - np.isfinite(line).mean())


def _scene_checks(scene: Scene) -> list[Check]:
    where = Path(scene.files[0]).name
    checks = [Check("bands", "warn" if "tagged alpha" in note else "ok", f"{where}: {note}") for note in scene.notes]
    if scene.rotated:
        checks.append(Check("georeference", "ok", f"{where}: rotated; it is warped to the grid while being read"))
    return [*checks, _layout(scene, where)]


def _layout(scene: Scene, where: str) -> Check:
    height, width = scene.block_shape
    finding = f"{where}: {scene.driver}, {scene.width} x {scene.height} px, blocks of {width} x {height}"
    remedy = f"convert it once: gdal_translate -of COG {where} {Path(where).stem}_cog.tif"
    if height * width > 16_000_000:
        return Check("layout", "warn", f"{finding}: one block is most of the file and is read whole", remedy)
    if width >= scene.width and scene.width > 20_000:
        return Check("layout", "warn", f"{finding}: striped, whole lines are read", remedy)
    return Check("layout", "ok", finding)


def _readable(sample: Sample) -> Check:
    if sample.failure:
        return Check(
            "readable", "fail", sample.failure, "fetch the file again; blocks before the damage can be classified"
        )
    return Check("readable", "ok", f"{len(sample.tiles)} tiles spread over the scene read without error")


def _sensor(plan: Plan) -> Check:
    scene, trained = plan.mosaic.sensor, plan.bundle.meta.sensor
    finding = f"scene is {scene.name}, bundle was trained on {trained.name}; bands {', '.join(plan.bands)}"
    if scene.name == trained.name:
        return Check("sensor", "ok", finding)
    return Check("sensor", "warn", finding, "accuracy on another sensor is unknown; check it on labelled tiles")


def _gsd(plan: Plan) -> Check:
    native = plan.mosaic.default_gsd_m(plan.grid.crs)
    used, trained = plan.grid.gsd_m, plan.bundle.meta.gsd_m
    finding = f"scene {native:g} m, tiles at {used:g} m, bundle trained at {f'{trained:g} m' if trained else 'an unrecorded GSD'}"
    if trained and not 1 / 3 <= used / trained <= 3:
        return Check("GSD", "fail", finding, f"give --gsd {trained:g}, or a bundle trained near {used:g} m")
    if trained and not 0.8 <= used / trained <= 1.25:
        return Check("GSD", "warn", finding, f"give --gsd {trained:g} to classify at the GSD of training")
    if native > 1.6 * used:
        return Check(
            "GSD",
            "warn",
            f"{finding}: the scene is coarser and is enlarged",
            "use finer imagery, or a bundle for this GSD",
        )
    return Check("GSD", "ok", finding)


def _crs(plan: Plan) -> Check:
    foreign = [scene for scene in plan.mosaic.scenes if scene.crs != plan.grid.crs]
    finding = f"grid in {crs_text(plan.grid.crs)[:60]}, {len(plan.mosaic.scenes) - len(foreign)} of {len(plan.mosaic.scenes)} scenes in it"
    if not foreign:
        return Check("CRS", "ok", finding)
    why = (
        "degrees or Web Mercator: not square on the ground"
        if any(needs_utm(s.require_georeference()) for s in foreign)
        else "another CRS"
    )
    return Check("CRS", "ok", f"{finding}; the rest ({why}) are warped while being read")


def _nodata(plan: Plan, sample: Sample) -> Check:
    scene = plan.mosaic.scenes[0]
    share = 1 - float(sample.valid_fraction.mean()) if len(sample.valid_fraction) else 0.0
    value = f" {scene.nodata:g}" if scene.validity == "nodata value" and scene.nodata is not None else ""
    finding = f"told by {scene.validity}{value}; {share:.0%} of sampled tiles' ground has no data"
    if sample.not_finite:
        finding += f"; {sample.not_finite:.1%} of values are NaN or infinite and count as no data"
    if len(sample.tiles) and share == 1:
        return Check("no-data", "fail", finding, "check the file's no-data value with gdalinfo")
    if share > 0.5 or sample.not_finite:
        return Check("no-data", "warn", finding, "tiles below --min-valid stay unclassified")
    return Check("no-data", "ok", finding)


def brightness_histogram(tiles: tuple[Pixels, ...], plan: Plan) -> npt.NDArray[np.float64]:
    """(bands, 32) shares of brightness over 0–255 after the sensor's scaling, of tiles with data."""
    a, b = plan.mosaic.sensor.scale.affine()
    counts = np.zeros((len(plan.bands), BINS))
    for tile in tiles:
        values = np.clip(tile[:, ::4, ::4].astype(np.float64) * a + b, 0, 255)
        for band, row in zip(values, counts, strict=True):
            row += np.histogram(band, bins=BINS, range=(0, 255.0001))[0]
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def _scale(plan: Plan, sample: Sample) -> list[Check]:
    """Does brightness lie where this sensor's does, and where the bundle's training tiles did?"""
    sensor, dtype = plan.mosaic.sensor, plan.mosaic.dtype
    if dtype not in sensor.dtypes:
        remedy = f"name the right --sensor, or rescale to {sensor.dtypes[0]} with one fixed rule: gdal_translate -ot Byte -scale"
        return [
            Check(
                "scale", "fail", f"scene holds {dtype}, {sensor.name} imagery is {' or '.join(sensor.dtypes)}", remedy
            )
        ]
    tiles = tuple(tile for tile, share in zip(sample.tiles, sample.valid_fraction, strict=True) if share >= 0.5)
    tiles = tiles or tuple(tile for tile, share in zip(sample.tiles, sample.valid_fraction, strict=True) if share > 0)
    if not tiles:
        return []
    shares = brightness_histogram(tiles, plan)
    centres = (np.arange(BINS) + 0.5) * 255 / BINS
    mean = float((shares * centres).sum(axis=1).mean())
    low, high = sensor.typical_mean
    if not low <= mean <= high:
        finding = (
            f"mean brightness {mean:.0f} of 255 after {sensor.name} scaling, expected {low:g} to {high:g}: wrong scale"
        )
        return [
            Check(
                "scale",
                "fail",
                finding,
                "name the right --sensor, or rescale the file with one fixed rule (gdal_translate -scale)",
            )
        ]
    checks = [Check("scale", "ok", f"{dtype}, mean brightness {mean:.0f} of 255 after {sensor.name} scaling")]
    trained = plan.bundle.meta.brightness
    if trained is not None:
        # Area between the two cumulative distributions: the mean distance that brightness has moved.
        gap = np.abs(np.cumsum(shares, axis=1) - np.cumsum(np.asarray(trained), axis=1)).sum(axis=1) * 255 / BINS
        worst = float(gap.max())
        status: Status = "ok" if worst < DRIFT_WARN else "warn" if worst < DRIFT_FAIL else "fail"
        finding = f"brightness differs from the training tiles by {worst:.0f} of 255 in {plan.bands[int(gap.argmax())]}"
        checks.append(
            Check(
                "likeness",
                status,
                finding,
                "" if status == "ok" else "check --sensor; retrain with tiles of this imagery",
            )
        )
    return checks


def _device(name: str) -> Check:
    try:
        device = choose_device(name)
    except GeoclassError as error:
        return Check("device", "fail", *str(error).split("; ", 1))
    if device.type == "cuda":
        names = ", ".join(torch.cuda.get_device_name(one) for one in devices_of(device))
        return Check("device", "ok", f"torch {torch.__version__} on {names}")
    return Check("device", "ok", f"torch {torch.__version__} on the CPU, {torch.get_num_threads()} threads")


def _memory(plan: Plan) -> Check:
    need, free = 1.2e9 + len(plan) * 2_000, psutil.virtual_memory().available
    finding = f"about {need / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free"
    return (
        Check("memory", "ok", finding)
        if free > need
        else Check("memory", "warn", finding, "close other programs, or lower --batch-size")
    )


def output_bytes(plan: Plan) -> int:
    """A generous guess of what the run writes: journal, GeoPackage, raster, preview and map."""
    return 30_000_000 + len(plan) * (900 + 30 * len(plan.bundle.meta.scheme))


def _disk(plan: Plan, out: Path) -> Check:
    folder = next((p for p in (out.resolve(), *out.resolve().parents) if p.exists()), Path("/"))
    need, free = output_bytes(plan), shutil.disk_usage(folder).free
    finding = f"about {need / 1e6:.0f} MB needed in {out}, {free / 1e6:.0f} MB free"
    if free < need // 4:
        return Check("disk", "fail", finding, "free some space, or choose another disk with -o")
    return Check("disk", "ok", finding) if free > need else Check("disk", "warn", finding, "free some space first")


def estimate_seconds(plan: Plan, device: str = "auto") -> tuple[float, float]:
    """(seconds for the run, tiles/s), from classifying the sampled tiles once after a warm-up."""
    tiles = take_sample(plan).tiles
    if not tiles:
        return 0.0, 0.0
    where = choose_device(device)
    workload = workload_of(plan, where, None)
    settled = settle(workload, Wanted(precision="fp32" if where.type == "cpu" else "auto"))
    predictor = workload.predictor(settled.runner or open_runner(plan.bundle, settled.choice, where))
    predictor(tiles[:4])
    rate = len(tiles) / max(1e-9, predictor(tiles).seconds)
    return len(plan) / rate, rate
