"""geoclass tile: the permanent grid over a scene, and chips where asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import aoi_options, console, grid_options, inputs_argument, overwrite_option, progress_bar, sensor_option

if TYPE_CHECKING:
    from ..grid import AoiRule
    from ..tile import ChipFormat


@click.command("tile")
@inputs_argument
@click.option(
    "-o",
    "--out",
    type=click.Path(),
    default=".",
    show_default=True,
    help="Folder for NAME.tiles.gpkg, or a path that ends so.",
)
@click.option("--name", help="Name of the tile index.  [default: the scene's]")
@sensor_option
@grid_options
@aoi_options
@click.option(
    "--chips",
    type=click.Choice(["png", "tif"]),
    help="Also write every tile as a georeferenced picture, into NAME.chips/.",
)
@overwrite_option
@click.pass_context
def command(
    ctx: click.Context, inputs: tuple[str, ...], out: str, name: str | None, sensor: str | None, size_px: int | None,
    gsd_m: float | None, crs: str | None, min_valid: float | None, aoi: str | None, aoi_rule: AoiRule, chips: ChipFormat | None,
    overwrite: bool,
) -> None:  # fmt: skip
    """Cut INPUTS (scenes of one date) on the permanent grid: NAME.tiles.gpkg.

    INPUTS are GeoTIFF, VRT or JP2 files, folders or globs of quads, folders of single-band files, or Sentinel-2 .SAFE
    folders. The tile index names every tile with enough data; `geoclass classify` takes it from there.
    """
    from ..tile import tile

    with progress_bar(ctx) as progress:
        made = tile(
            inputs, out=Path(out), name=name, sensor=sensor, size_px=size_px, gsd_m=gsd_m, crs=crs, min_valid=min_valid,
            aoi=aoi, aoi_rule=aoi_rule, chips=chips, overwrite=overwrite, progress=progress,
        )  # fmt: skip
    index = made.index
    say = console(ctx)
    say.print(f"{made.path}: {len(index):,} tiles of {index.grid.side_m:g} m, ids {index.grid.prefix}_…")
    say.print(f"{index.below_min_valid:,} tiles left out: less than {index.min_valid:.0%} of their ground has data")
    if index.note:
        say.print(f"note: {index.note}")
    if made.chips:
        say.print(f"chips: {made.chips}")
    say.print("next: geoclass classify --model m.pt")
