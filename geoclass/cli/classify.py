"""geoclass classify: scenes or a tile index, and a bundle, to a land-cover map."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape

from .options import (
    aoi_options,
    class_table,
    console,
    database_options,
    device_option,
    grid_options,
    inputs_argument,
    model_option,
    overwrite_option,
    progress_bar,
    require_model,
    run_options,
    runtime_options,
    sensor_option,
    spread_options,
)

if TYPE_CHECKING:
    from ..grid import AoiRule


@click.command("classify")
@inputs_argument
@model_option
@run_options
@sensor_option
@grid_options
@aoi_options
@click.option("--date", help="Date of the imagery, as 2019-07-14 or 2019.  [default: told from the files]")
@click.option(
    "--like", type=click.Path(), help="A result of another date: bring this imagery to its imagery's colours."
)
@click.option(
    "--format", "formats", multiple=True, help="Also write parquet, fgb, geojson, pmtiles or csv; may be repeated."
)
@click.option("--batch-size", type=int, help="Tiles a batch.  [default: 32 on a CPU, 256 on CUDA]")
@click.option("--readers", type=int, help="Threads that read.  [default: one a core, at most 4; 8 on CUDA]")
@click.option(
    "--smooth", type=click.Choice(["plurality", "potts"]),
    help="Smooth the labels by those of neighbours; what the model said is kept beside.  [default: not]",
)  # fmt: skip
@database_options
@device_option
@runtime_options
@spread_options
@click.option("--basemap", is_flag=True, help="Offer online basemaps in the map (the page then asks the network).")
@click.option("--force", is_flag=True, help="Classify even where the doctor finds the scene unfit.")
@overwrite_option
@click.pass_context
def command(
    ctx: click.Context, inputs: tuple[str, ...], model: str | None, out: str, name: str | None, sensor: str | None,
    size_px: int | None, gsd_m: float | None, crs: str | None, min_valid: float | None, aoi: str | None, aoi_rule: AoiRule,
    date: str | None, like: str | None, formats: tuple[str, ...], batch_size: int | None, readers: int | None, device: str,
    runtime: str, precision: str, workers: int | None, cluster: str | None, basemap: bool, smooth: str | None, force: bool,
    overwrite: bool, to: tuple[str, ...], schema: str | None,
) -> None:  # fmt: skip
    """Classify INPUTS (scenes of one date, a list of geoclass fetch, or one tile index) and write NAME.* into the output folder.

    With no INPUTS the one *.tiles.gpkg in this folder is taken. Several scenes are read as one mosaic. Writes a
    GeoPackage and a class raster that open styled in QGIS, an HTML map that needs no network, a preview picture and a
    JSON summary. An interrupted run continues when the same command is given again. With --to the finished result is
    loaded into databases as well.
    """
    bundle = require_model(model)
    if not inputs:
        from ..plan import find_index

        inputs = (str(find_index(Path())),)
    from ..environment import require_matching_torch

    require_matching_torch()
    if to:  # found out now, not after hours of classifying
        from ..database.loading import require_database

        for address in to:
            require_database(address, schema=schema)
    from ..classify import classify
    from ..outputs.summary import summarise

    with progress_bar(ctx) as progress:
        result = classify(
            inputs, bundle, out=out, name=name, sensor=sensor, size_px=size_px, gsd_m=gsd_m, crs=crs, aoi=aoi,
            aoi_rule=aoi_rule, min_valid=min_valid, date=date, like=like, batch_size=batch_size, device=device, readers=readers,
            formats=formats, overwrite=overwrite, force=force, basemap=basemap, smooth=smooth,
            runtime=runtime, precision=precision, workers=workers, cluster=cluster, progress=progress,
            say=console(ctx, err=True).print,
        )  # fmt: skip
    say = console(ctx)
    labels, timings = result.labels, result.timings
    kept = f" ({timings['tiles_kept']:,} were kept from an interrupted run)" if timings["tiles_kept"] else ""
    say.print(f"{len(labels):,} tiles classified, {timings['tiles_per_second']:.1f} a second{kept}")
    say.print(f"network: {escape(_network(labels.info))}")
    say.print(
        f"{labels.info['below_min_valid']:,} tiles left out: less than {labels.info['min_valid']:.0%} of their ground has data"
    )
    if labels.info["note"]:
        say.print(f"note: {labels.info['note']}")
    if labels.raw is not None:
        moved = int((labels.class_index != labels.evidence.argmax(axis=1)).sum())
        say.print(f"{moved:,} tiles have another class by smoothing ({labels.info['smoothing']})")
    say.print(class_table(summarise(labels)["classes"]))
    say.print("Mapped areas are tile counts; they carry no error bars and are no estimates.")
    for path in result.files.values():
        say.print(f"  {path}")
    if to:
        from .load import load_files

        load_files(say, [next(path for path in result.files.values() if path.suffix == ".gpkg")], to, schema)


def _network(info: Mapping[str, Any]) -> str:
    from ..runtimes.wanted import Choice

    names = {"runtime": info["runtime"], "precision": info["precision"], "note": info["runtime_note"]}
    return Choice(**names, agreement=info["agreement_with_fp32"]).words
