"""geoclass doctor: is this scene fit for this bundle here, and how long will it take?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import rich.table

from .options import (
    aoi_options,
    console,
    device_option,
    grid_options,
    inputs_argument,
    model_option,
    require_model,
    run_options,
    sensor_option,
)

if TYPE_CHECKING:
    from ..grid import AoiRule

COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@click.command("doctor")
@inputs_argument
@model_option
@run_options
@sensor_option
@grid_options
@aoi_options
@device_option
@click.pass_context
def command(
    ctx: click.Context, inputs: tuple[str, ...], model: str | None, out: str, name: str | None, sensor: str | None,
    size_px: int | None, gsd_m: float | None, crs: str | None, min_valid: float | None, aoi: str | None, aoi_rule: AoiRule,
    device: str,
) -> None:  # fmt: skip
    """Check INPUTS against a bundle and this machine, without classifying anything.

    Takes what classify takes. Prints one line a check with its remedy, says what will happen and estimates the time;
    exits with 2 where a check fails.
    """
    from ..environment import require_matching_torch

    require_matching_torch()
    from ..doctor import estimate_seconds, examine
    from ..errors import UnfitError
    from ..plan import find_index, make_plan

    bundle = require_model(model)
    plan = make_plan(
        inputs or (str(find_index(Path())),), bundle, name=name, sensor=sensor, size_px=size_px, gsd_m=gsd_m, crs=crs,
        aoi=aoi, aoi_rule=aoi_rule, min_valid=min_valid,
    )  # fmt: skip
    checks = examine(plan, Path(out), device)
    table = rich.table.Table(box=None, pad_edge=False)
    for heading in ("", "check", "finding", "remedy"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        table.add_row(
            f"[{COLOURS[check.status]}]{check.status}[/]",
            check.topic,
            rich.markup.escape(check.finding),
            rich.markup.escape(check.remedy),
        )
    say = console(ctx)
    say.soft_wrap = False
    say.print(table)
    failed = [check for check in checks if check.status == "fail"]
    if failed:
        raise UnfitError(
            f"{len(failed)} of {len(checks)} checks failed, first {failed[0].topic}: {failed[0].finding}; {failed[0].remedy}"
        )
    seconds, rate = estimate_seconds(plan, device)
    say.print(
        f"{len(plan):,} tiles of {plan.grid.side_m:g} m ({plan.grid.prefix}_…) will be classified into {len(plan.bundle.meta.scheme)} classes "
        f"and written to {Path(out) / plan.name}.*: about {_duration(seconds)} at {rate:.0f} tiles a second"
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
