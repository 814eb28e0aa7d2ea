"""Options that several verbs share, and the ways the command line speaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import rich.console
import rich.progress
import rich.table

Function = TypeVar("Function", bound=Callable[..., Any])

AOI_RULES = ("touches", "center", "within")

inputs_argument = click.argument("inputs", nargs=-1, type=click.Path())


def all_of(*options: Callable[[Any], Any]) -> Callable[[Function], Function]:
    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


model_option = click.option("--model", "-m", type=click.Path(), help="Model bundle (m.pt).")

sensor_option = click.option(
    "--sensor",
    help="The scene's sensor: naip, sentinel2-l1c, sentinel2-l2a, rgb8, or a .toml file. Default: told from the file names, else the bundle's.",
)

overwrite_option = click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")

device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda (all GPUs) or cuda:N."
)


def listed(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """a,b as its parts."""
    return None if value is None else tuple(part.strip() for part in value.split(",") if part.strip())


def _ignored(ctx: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    return "all" if value == "all" else listed(ctx, parameter, value) or ()


ignore_codes_option = click.option(
    "--ignore-codes", "ignore", callback=_ignored,
    help="Codes or names of the labels to count as unlabelled, as 11,12; or all that are outside the scheme: all.",
)  # fmt: skip

runtime_options = all_of(
    click.option(
        "--runtime",
        type=click.Choice(["auto", "torch", "openvino", "onnx"]),
        default="auto",
        show_default=True,
        help="What the network runs on; auto measures and remembers the fastest.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16", "fp16", "int8"]),
        default="auto",
        show_default=True,
        help="Numbers the network computes with; auto takes less than fp32, or looks at tiles from fewer sides, only where that is faster and agrees with it.",
    ),
)

grid_options = all_of(
    click.option("--size", "size_px", type=int, help="Side of a tile in pixels.  [default: the bundle's, or 224]"),
    click.option(
        "--gsd",
        "gsd_m",
        type=float,
        help="Ground sampling distance of tiles in metres.  [default: the bundle's, else the scene's]",
    ),
    click.option("--crs", help="Projected CRS of the grid, as EPSG:26919.  [default: the scene's, or its UTM zone]"),
    click.option("--min-valid", type=float, help="Least share of a tile that must have data.  [default: 0.5]"),
)

aoi_options = all_of(
    click.option("--aoi", type=click.Path(), help="Only tiles of these polygons: any vector file, in any CRS."),
    click.option(
        "--aoi-rule",
        type=click.Choice(AOI_RULES),
        default="touches",
        show_default=True,
        help="Which tiles an AOI selects: those it touches, whose centre it holds, or that lie wholly within.",
    ),
)

run_options = all_of(
    click.option("-o", "--out", type=click.Path(), default="out", show_default=True, help="Folder for the outputs."),
    click.option("--name", help="Name of the outputs.  [default: the scene's]"),
)


database_options = all_of(
    click.option(
        "--to",
        multiple=True,
        metavar="ADDRESS",
        help="Load the result into this PostGIS database: postgresql://user@host/database; may be repeated.",
    ),
    click.option("--schema", help="Schema of the database's tables.  [default: geoclass]"),
)


def require_model(model: str | None) -> Path:
    """The bundle's path, fetched where a registered name was given. Raises GeoclassError where none was named."""
    from ..errors import GeoclassError
    from ..history.registry import resolve

    if not model:
        raise GeoclassError("no model named; give one with --model m.pt (geoclass train makes one)")
    return resolve(model)


def console(ctx: click.Context, *, err: bool = False) -> rich.console.Console:
    """Where the command line speaks; silent under --quiet."""
    quiet = bool((ctx.find_root().obj or {}).get("quiet"))
    return rich.console.Console(quiet=quiet, stderr=err, highlight=False, soft_wrap=True)


@contextmanager
def progress_bar(ctx: click.Context) -> Iterator[Callable[[str, int, int], None]]:
    """A callback (stage, done, total) that draws a progress bar on standard error."""
    speaker = console(ctx, err=True)
    bar = rich.progress.Progress(
        rich.progress.TextColumn("{task.description:<12}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
        console=speaker,
        transient=True,
        disable=not speaker.is_terminal,  # in a file or pipe it would be an empty line
    )
    tasks: dict[str, rich.progress.TaskID] = {}
    with bar:

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield report


def class_table(classes: list[dict[str, Any]]) -> rich.table.Table:
    """Mapped area of each class as a table."""
    table = rich.table.Table(box=None, pad_edge=False)
    table.add_column("class")
    for heading in ("tiles", "hectares", "share"):
        table.add_column(heading, justify="right")
    for row in classes:
        table.add_row(row["name"], f"{row['tiles']:,}", f"{row['area_ha']:,.0f}", f"{row['share']:.1%}")
    return table


spread_options = all_of(
    click.option("--workers", type=int, help="Use this many processes of this machine (Dask).  [default: one]"),
    click.option("--cluster", metavar="ADDRESS",
                 help="Use the workers of a Dask scheduler: tcp://HOST:8786, or the path of its scheduler file."),
)  # fmt: skip
