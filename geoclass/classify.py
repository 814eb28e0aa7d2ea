"""The main road: scenes → grid → batches → network → labels → outputs."""

from __future__ import annotations

import datetime
import hashlib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import folium
import geopandas as gpd
import numpy as np
import psutil
import torch
from PIL import Image

from . import __version__, smoothing
from .aoi import outlines_as_text
from .blocks import TileBlock, read_ahead
from .bundle import Bundle
from .cluster.classifying import classified, job_of
from .cluster.crew import Say, Spread, cluster_device, require_cluster
from .doctor import examine, refuse_unfit
from .errors import ClusterError, GeoclassError, GridError, OutputError, SceneError, UnfitError
from .files import require_absent, require_plain_folder, require_plain_name, require_writable, write_errors
from .gathering import gather
from .grid import AoiRule, bounding_range
from .journal import Journal, Part, began_publishing
from .labels import Labels
from .matching import match_colours
from .outputs import preview, raster, summary, vector, webmap
from .outputs.lattice import Lattice
from .parts import parts_of
from .plan import Plan, make_plan
from .remote.opening import READERS
from .runtimes.answers import give_back, share_arenas, trim, usual_buffers
from .runtimes.settling import (
    Settled,
    Workload,
    device_for,
    open_predictors,
    require_fit,
    settle,
    settle_journalled,
    with_choice,
    workload_of,
)
from .runtimes.wanted import Choice, Wanted
from .sensors import Sensor

Progress = Callable[[str, int, int], None]
"""Called with (stage, tiles done, tiles in all)."""

log = logging.getLogger(__name__)

DEFAULT_OUT = Path("out")
PREVIEW_PX = 2048
MAX_THUMBNAIL_PX = 56


@dataclass(frozen=True)
class Result:
    """What a run made: the labels, the preview picture over their range, AOI outlines, timings, and files by kind."""

    labels: Labels
    preview: Image.Image
    aoi: gpd.GeoDataFrame | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)

    def to_gdf(self) -> gpd.GeoDataFrame:
        """One row a tile, in the grid's CRS (see `Labels.to_gdf`)."""
        return self.labels.to_gdf()

    def to_raster(self, path: str | Path) -> Path:
        """Write the class raster (a COG of one pixel a tile, with its colours beside it). Raises OutputError."""
        raster.write_raster(self.labels, Path(path))
        return Path(path)

    def explore(self, **options: Any) -> folium.Map:
        """The interactive map, as a folium map that a notebook shows; options as for `webmap.build_map`."""
        return webmap.build_map(self.labels, preview=self.preview, aois=self.aoi, **options)


@dataclass(frozen=True)
class Settings:
    """How a run is carried out, as opposed to what it is of (`Plan`). `out` None keeps everything in memory.

    `workers` or `cluster` spread it over Dask workers (see `cluster.crew`).
    """

    out: Path | None = None
    batch_size: int | None = None
    device: str = "auto"
    readers: int | None = None
    formats: tuple[str, ...] = ()
    overwrite: bool = False
    force: bool = False
    basemap: bool = False
    smooth: str | None = None
    runtime: str = "auto"
    precision: str = "auto"

    @property
    def wanted(self) -> Wanted:
        """What the network is to run on. Raises GeoclassError for names that are unknown or do not go together."""
        return Wanted(self.runtime, self.precision)

    workers: int | None = None
    cluster: Any = None

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise GeoclassError(f"--batch-size is {self.batch_size}; give 1 or more")
        if self.readers is not None and self.readers < 1:
            raise GeoclassError(f"--readers is {self.readers}; give 1 or more")
        if self.readers is not None and self.spread:
            raise GeoclassError(
                "--readers has no use with --workers or --cluster: a worker reads what it computes; leave it out"
            )
        if self.smooth is not None:
            smoothing.require_method(self.smooth)
        _ = self.wanted
        unknown = [name for name in self.formats if name not in vector.FORMATS]
        if unknown:
            raise GeoclassError(f"unknown format {unknown[0]!r}; choose from {', '.join(vector.FORMATS)}")

    @property
    def spread(self) -> Spread:
        """Where the blocks are classified, false where that is here."""
        return Spread(self.workers, self.cluster)


def classify(
    inputs: str | Path | Sequence[str | Path],
    model: str | Path | Bundle,
    *,
    out: str | Path | None = None,
    name: str | None = None,
    sensor: str | Path | Sensor | None = None,
    size_px: int | None = None,
    gsd_m: float | None = None,
    crs: str | None = None,
    aoi: str | Path | None = None,
    aoi_rule: AoiRule = "touches",
    min_valid: float | None = None,
    date: str | None = None,
    like: str | Path | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    readers: int | None = None,
    formats: Sequence[str] = (),
    overwrite: bool = False,
    force: bool = False,
    basemap: bool = False,
    smooth: str | None = None,
    runtime: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
    cluster: Any = None,
    progress: Progress | None = None,
    say: Say | None = None,
) -> Result:
    """Classify scenes, or a tile index, with a bundle; with `like`, a result of another date, in its imagery's colours.

    With `out` the results go to files `out/name.*` and an interrupted run continues where it stopped; without it they
    stay in memory. runtime and precision: see `runtimes.wanted`. smooth: one of `smoothing.METHODS`, after which the labels
    keep the model's own probabilities beside. workers: classify with that many processes of this machine; cluster: with the
    workers of a Dask scheduler (its address, the path of its scheduler file, or a cluster or client object of Dask). `say`
    is called with lines for the user, as where the cluster's dashboard is.
    Raises a GeoclassError of the fitting kind for everything that bad input can cause.
    """
    named = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    settings = Settings(
        Path(out) if out is not None else None,
        batch_size,
        device,
        readers,
        tuple(formats),
        overwrite,
        force,
        basemap,
        smooth,
        runtime,
        precision,
        workers,
        cluster,
    )
    require_cluster(settings.spread)
    plan = make_plan(
        named,
        model,
        name=name,
        sensor=sensor,
        size_px=size_px,
        gsd_m=gsd_m,
        crs=crs,
        aoi=aoi,
        aoi_rule=aoi_rule,
        min_valid=min_valid,
        date=date,
    )
    if like is not None:
        plan = match_colours(plan, Path(like))
    return run(plan, settings, progress, say)


def run(plan: Plan, settings: Settings, progress: Progress | None = None, say: Say | None = None) -> Result:
    """Carry out a plan. See `classify`."""
    started = perf_counter()
    share_arenas()
    workload = workload_of(plan, _device(settings), settings.batch_size, elsewhere=settings.cluster is not None)
    if not settings.force:
        refuse_unfit(examine(plan, settings.out or Path(), "cpu" if settings.cluster is not None else settings.device))
    thumbnail_px = _thumbnail_px(plan)
    if settings.out is None:
        settled = settle(workload, settings.wanted)
        todo = plan.blocks()
        found = _predicted(plan, settings, workload, settled, todo, thumbnail_px, progress, say)
        result = _assembled(plan, (part for _, part in found), settled.choice, settings)
        return replace(result, timings=_timings(result, plan, started))
    return _run_to_files(plan, settings, workload, settings.out, started, thumbnail_px, progress, say)


def _device(settings: Settings) -> torch.device:
    """Where the network runs. The devices of a cluster are its own: `auto` is CUDA where all its workers have it."""
    if settings.cluster is None:
        return device_for(settings.device, settings.wanted)
    name = settings.device
    if name == "auto":
        name = "cpu" if settings.wanted.on_cpu else cluster_device(settings.cluster)
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise UnfitError(f"device {name!r} is not supported; give --device cpu or cuda")
    device = torch.device(name)
    require_fit(device, name, settings.wanted)
    return device


def _run_to_files(
    plan: Plan,
    settings: Settings,
    workload: Workload,
    out: Path,
    started: float,
    thumbnail_px: int,
    progress: Progress | None,
    say: Say | None,
) -> Result:
    require_plain_name(plan.name)
    require_plain_folder(out)
    finals = _final_paths(plan, settings, out)
    _spare_inputs(plan, finals)
    require_writable(out)
    # Found out now, not after hours of classifying.
    extent = bounding_range(plan.columns, plan.rows)
    webmap.require_drawable(extent)
    Lattice.over(plan.grid, extent)
    folder = out / f".{plan.name}.journal"
    if not began_publishing(folder):
        require_absent(finals, settings.overwrite)
    blocks = plan.blocks()
    if progress:
        progress("preparing", 0, len(plan))
    manifest = _manifest(plan, settings, thumbnail_px)
    settled = settle_journalled(workload, settings.wanted, folder, settings.overwrite, manifest)
    give_back()
    with Journal(folder, with_choice(manifest, settled.choice), restart=settings.overwrite) as journal:
        todo = [block for block in blocks if block.number not in journal.done]
        done = sum(len(block) for block in blocks) - sum(len(block) for block in todo)
        try:
            for number, part in _predicted(plan, settings, workload, settled, todo, thumbnail_px, progress, say, done):
                journal.write(number, part)
        except (SceneError, ClusterError) as error:
            raise type(error)(
                f"{error} ({len(journal.done)} of {len(blocks)} blocks of tiles are kept in {folder})"
            ) from error
        if progress:
            progress("writing", len(plan), len(plan))
        choice, numbers = settled.choice, [block.number for block in blocks]
        del settled, blocks, todo  # the network is not needed for writing, and its buffers may make room for that
        usual_buffers()
        give_back()
        parts = map(journal.read, numbers)
        result = _assembled(plan, parts, choice, settings, done)
        staged = journal.stage()
        with write_errors(staged):
            _write(result, plan, settings, staged)
            result = replace(result, timings=_timings(result, plan, started))
            finished = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            summary.write_summary(staged / f"{plan.name}.json", result.labels, {**result.timings, "finished": finished})
        files = journal.publish(sorted(staged.iterdir()), out)
        journal.discard()
    return replace(result, files={path.name: path for path in files})


def _predicted(
    plan: Plan,
    settings: Settings,
    workload: Workload,
    settled: Settled,
    blocks: Sequence[TileBlock],
    thumbnail_px: int,
    progress: Progress | None,
    say: Say | None = None,
    done: int = 0,
) -> Iterator[tuple[int, Part]]:
    """Yield (block number, part) for each block, by this process in order, or by a cluster as they come."""
    if not blocks:
        return
    if progress:
        progress("classifying", done, len(plan))
    if settings.spread:
        job = job_of(plan, workload, settled, thumbnail_px)
        parts = classified(plan, blocks, job, replace(settings.spread, say=say or log.info))
    else:
        parts = _classified_here(plan, workload, settled, blocks, thumbnail_px, settings.readers)
    for number, part in parts:
        yield number, part
        done += len(part.columns)
        if progress:
            progress("classifying", done, len(plan))


def _classified_here(
    plan: Plan,
    workload: Workload,
    settled: Settled,
    blocks: Sequence[TileBlock],
    thumbnail_px: int,
    readers: int | None,
) -> Iterator[tuple[int, Part]]:
    predictors = open_predictors(workload, settled, thumbnail_px, sum(len(block) for block in blocks))
    on_cpu, remote = workload.device.type == "cpu", plan.mosaic.remote
    threads = readers or _reading_threads(on_cpu, remote, len(predictors))
    pixels = read_ahead(plan.mosaic, plan.grid, plan.bands, blocks, threads, overlap=not on_cpu or remote)
    return parts_of(pixels, predictors, plan.min_valid)


def _reading_threads(on_cpu: bool, remote: bool, devices: int) -> int:
    """GPUs want as many as can be kept busy. On the CPU the network needs the cores too, but who reads over a network waits."""
    cores = os.cpu_count() or 1
    if not on_cpu:
        return min(8 * devices, max(8, cores))
    return READERS if remote else min(4, cores)


def _assembled(plan: Plan, parts: Iterable[Part], choice: Choice, settings: Settings, kept: int = 0) -> Result:
    """All parts as one result, sorted from the north-west line by line."""
    found = gather(plan.columns, plan.rows, parts)
    if not len(found.columns):
        raise GridError(
            "the scene has no data in any tile (all no-data); check its no-data value, or give another scene"
            if found.best_valid == 0
            else f"no tile has a valid fraction of {plan.min_valid:g} or more (the best has {found.best_valid:.2f}); lower it "
            "with --min-valid"
        )
    labels = Labels(
        plan.grid,
        plan.bundle.meta.scheme,
        found.columns,
        found.rows,
        found.probabilities,
        found.valid_fraction,
        found.thumbnails,
        _info(plan, choice, plan.left_out + found.left_out),
    )
    if settings.smooth is not None:  # the journal keeps what the model said, so that this may differ in a continued run
        labels = smoothing.smooth(labels, settings.smooth)
    timings = {
        "seconds_reading": found.read_seconds,
        "seconds_network": found.network_seconds,
        "tiles_kept": kept,
    }
    return Result(labels, preview.picture(labels), plan.aoi, timings)


def _timings(result: Result, plan: Plan, started: float) -> dict[str, float]:
    """All timings of a run that has made everything but the summary, which tells them."""
    seconds = perf_counter() - started
    classified = len(result.labels) * (1 - result.timings["tiles_kept"] / len(plan))
    return {
        "seconds_total": seconds,
        **result.timings,
        "tiles_per_second": classified / seconds,
        "peak_memory_mb": peak_memory_mb(),
    }


def _info(plan: Plan, choice: Choice, left_out: int) -> dict[str, Any]:
    """Plain values that travel with every output."""
    synthetic = any("SYNTHETIC" in f"{scene.tags}".upper() for scene in plan.mosaic.scenes)
    return {
        "name": plan.name,
        "date": plan.date,
        "inputs": plan.mosaic.named_by,
        "sensor": plan.mosaic.sensor.name,
        "bundle": plan.bundle.digest,
        "model": plan.model,
        "like": plan.tone.reference if plan.tone else None,
        "backbone": plan.bundle.meta.backbone,
        "runtime": choice.runtime,
        "precision": choice.precision,
        "quick_views": choice.views,
        "runtime_note": choice.note,
        "agreement_with_fp32": choice.agreement.model_dump() if choice.agreement else None,
        "grid": plan.grid.prefix,
        "min_valid": plan.min_valid,
        "below_min_valid": left_out,
        "aoi_rule": plan.aoi_rule if plan.aoi is not None else None,
        "aois": outlines_as_text(plan.aoi, plan.grid.res * 4) if plan.aoi is not None else [],
        "note": plan.note,
        "synthetic": synthetic,
        "geoclass_version": __version__,
    }


def _manifest(plan: Plan, settings: Settings, thumbnail_px: int) -> dict[str, Any]:
    """What, with the choice of the runtime, must be the same for an interrupted run to be continued."""
    tiles = np.stack([plan.columns, plan.rows])
    return {
        "inputs": plan.mosaic.fingerprints(),
        "model": plan.bundle.digest,
        "grid": plan.grid.to_dict(),
        "tiles": [len(plan), hashlib.blake2b(tiles.tobytes(), digest_size=16).hexdigest()],
        "min_valid": plan.min_valid,
        "sensor": plan.mosaic.sensor.model_dump(mode="json"),
        "tone": plan.tone.digest if plan.tone else None,
        "batch_size": settings.batch_size,
        "thumbnail_px": thumbnail_px,
        "version": __version__,
    }


def _thumbnail_px(plan: Plan) -> int:
    columns, rows = int(np.ptp(plan.columns)) + 1, int(np.ptp(plan.rows)) + 1
    return max(1, min(MAX_THUMBNAIL_PX, PREVIEW_PX // max(columns, rows)))


def _final_paths(plan: Plan, settings: Settings, out: Path) -> list[Path]:
    suffixes = [
        "gpkg",
        "tif",
        "json",
        "html",
        "preview.tif",
        "qml",
        "tif.aux.xml",
        *(vector.FORMATS[name].lstrip(".") for name in settings.formats),
    ]
    return [out / f"{plan.name}.{suffix}" for suffix in suffixes]


def _spare_inputs(plan: Plan, finals: Sequence[Path]) -> None:
    """An output must never replace the imagery it came from, whatever --overwrite says."""
    inputs = {Path(name).resolve() for name in (*plan.mosaic.files, *plan.mosaic.named_by)}
    for path in finals:
        if path.resolve() in inputs:
            raise OutputError(
                f"{path} is an input of this run and would be replaced; choose another folder with -o, or another --name"
            )


def _write(result: Result, plan: Plan, settings: Settings, folder: Path) -> None:
    """Write every output but the summary into `folder`."""
    labels, name = result.labels, plan.name
    vector.write_gpkg(labels, folder / f"{name}.gpkg")
    trim()  # of the spatial index
    raster.write_raster(labels, folder / f"{name}.tif")
    preview.write_preview(labels, folder / f"{name}.preview.tif")
    for kind in settings.formats:
        vector.write_vector(labels, folder / f"{name}{vector.FORMATS[kind]}", kind)
    webmap.write_map(folder / f"{name}.html", labels, preview=result.preview, aois=result.aoi, basemap=settings.basemap)


def peak_memory_mb() -> float:
    """The most memory this process has held, in megabytes."""
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / 1e6
    if sys.platform.startswith("linux"):
        # getrusage counts what the process was before it became this program, too: a copy of whoever started it.
        found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024 / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
