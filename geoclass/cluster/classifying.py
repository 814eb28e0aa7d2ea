"""The driver's side of classifying: what workers must know of a plan, its blocks sent out, and their parts taken back."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from ..blocks import TileBlock
from ..bundle import bundle_bytes
from ..errors import SceneError
from ..grid import crs_text
from ..journal import Part, decode_part
from ..mosaic import Mosaic
from ..plan import Plan
from ..remote.names import is_remote
from ..runtimes.settling import Settled, Workload
from .block import BlockJob, classify_block
from .crew import Spread
from .dispatch import TRIES, Task, dispatched
from .worker import software

NAMED = 5


def job_of(plan: Plan, workload: Workload, settled: Settled, thumbnail_px: int) -> BlockJob:
    """What workers must know of a plan, and of what the network runs on."""
    mosaic = _absolute(plan.mosaic)
    return BlockJob(
        token=secrets.token_hex(4),
        bundle=bundle_bytes(plan.bundle),
        device=str(workload.device),
        software=software(),
        mosaic=mosaic,
        grid=plan.grid,
        bands=plan.bands,
        min_valid=plan.min_valid,
        choice=settled.choice,
        network=settled.network,
        tone=plan.tone,
        sizes={name: Path(name).stat().st_size for name in mosaic.files if Path(name).is_file()},
        batch_size=workload.batch_size,
        thumbnail_px=thumbnail_px,
    )


def classified(plan: Plan, blocks: Sequence[TileBlock], job: BlockJob, spread: Spread) -> Iterator[tuple[int, Part]]:
    """Yield (block number, part) as blocks are finished, in no order.

    Once all others are yielded, raises SceneError with what failed 3 times; raises ClusterError as `dispatched` does.
    """
    tasks = (Task(block.number, (block.number, block.columns, block.rows)) for block in blocks)
    known = {block.number: block for block in blocks}

    def failed(errors: dict[int, Exception]) -> SceneError:
        reasons = [told(plan, known[number], error) for number, error in errors.items()]
        more = f" | and {len(reasons) - NAMED} more" if len(reasons) > NAMED else ""
        return SceneError(
            f"{len(reasons)} of the blocks of tiles failed {TRIES} times, all others are done: {' | '.join(reasons[:NAMED])}{more}. "
            "Run the same command again to try only these; where a file is replaced by a whole one, with --overwrite"
        )

    for number, answer in dispatched(spread, job, classify_block, tasks, failed):
        yield number, decode_part(pa.BufferReader(answer))


def told(plan: Plan, block: TileBlock, error: Exception) -> str:
    """Why a block failed, with file and window."""
    from distributed.scheduler import KilledWorker

    if isinstance(error, SceneError):
        return str(error)
    if isinstance(error, KilledWorker):
        why = "its workers were lost each time; where memory ran out, lower --batch-size or give workers more"
    else:
        why = f"{type(error).__name__}: {error}"
    grid, tiles = plan.grid, block.range
    bounds = (*grid.bounds(tiles.left, tiles.bottom)[:2], *grid.bounds(tiles.right - 1, tiles.top - 1)[2:])
    files = [scene.files[0] for scene in plan.mosaic.scenes if _touch(scene.outline_in(grid.crs).bounds, bounds)]
    where = f"{' '.join(f'{value:.0f}' for value in bounds)} ({crs_text(grid.crs)[:60]})"
    return f"{', '.join(files[:3])} could not be classified at window {where}: {why}"


def _touch(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _absolute(mosaic: Mosaic) -> Mosaic:
    """The mosaic with absolute paths of local files: a worker has a working folder of its own."""
    return Mosaic(
        tuple(
            replace(
                scene,
                bands=tuple(replace(band, path=_absolute_name(band.path)) for band in scene.bands),
                files=tuple(_absolute_name(name) for name in scene.files),
                quality=scene.quality and replace(scene.quality, path=_absolute_name(scene.quality.path)),
                stamps={},  # a copy on another machine may be of another time
            )
            for scene in mosaic.scenes
        )
    )


def _absolute_name(name: str) -> str:
    # Names of GDAL's subdatasets and drivers (NETCDF:x.nc:v) are no paths, and stay.
    return name if is_remote(name) or not Path(name).exists() else str(Path(name).absolute())
