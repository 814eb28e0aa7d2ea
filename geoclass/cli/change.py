"""geoclass change: results of two dates or more to a trend that stands up."""

from __future__ import annotations

import click

from .options import console, device_option, overwrite_option, progress_bar


@click.command("change")
@click.argument("results", nargs=-1, type=click.Path())
@click.option("-o", "--out", type=click.Path(), default="trend", show_default=True, help="Folder for the outputs.")
@click.option("--group", help="Compare in coarser classes: nlcd3, or a .toml file whose classes list their members.")
@click.option("--date", "dates", multiple=True, help="Date of a result, once for each.  [default: their own]")
@click.option("--built", multiple=True, help="Name of a built-up class; may be repeated.  [default: the scheme's]")
@click.option("--aoi", type=click.Path(), help="Areas to tell apart: any vector file with polygons, in any CRS.")
@click.option("--aoi-name", help="Column that holds the areas' names.  [default: name]")
@click.option("--population", help="People in each area by date, as 2010=pop2010,2016=pop2016 (columns of --aoi).")
@click.option("--reference", help="Date that the others are compared with by the drift guard.  [default: the first]")
@click.option(
    "--max-change", type=float,
    help="Share of the tiles that can really have changed since the reference; beyond it, it is drift.  [default: 0.01 a "
    "year, and 0.1 at least]",
)  # fmt: skip
@click.option(
    "--correct/--no-correct", default=True, show_default=True,
    help="Where a date drifted: match its colours to the reference's and classify it again.",
)  # fmt: skip
@click.option("--model", "-m", type=click.Path(), help="Model bundle for that.  [default: the one the results name]")
@click.option(
    "--threshold", type=float, default=0.5, show_default=True, help="Probability from which a tile is newly built-up."
)
@click.option("--estimate", type=click.Path(), help="What geoclass estimate wrote, to be told in the report.")
@click.option("--title", help="Title of map and report.")
@device_option
@click.option("--force", is_flag=True, help="State the trend even where the drift guard withholds it.")
@overwrite_option
@click.pass_context
def command(
    ctx: click.Context, results: tuple[str, ...], out: str, group: str | None, dates: tuple[str, ...], built: tuple[str, ...],
    aoi: str | None, aoi_name: str | None, population: str | None, reference: str | None, max_change: float | None, correct: bool,
    model: str | None, threshold: float, estimate: str | None, title: str | None, device: str, force: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Compare RESULTS, the .gpkg files that geoclass classify wrote for two dates or more, oldest first.

    Writes change.gpkg (tiles with their classes on each date and the probability that they changed), a map, a report, a
    list of candidates with a page to review them, tables, and a QGIS project that opens all of it. A tile is called
    changed only where all dates together say so; where the imagery shifted more than the land, no trend is told.
    """
    from ..environment import require_matching_torch

    require_matching_torch()
    from ..change import change
    from ..outputs.driftwords import sentences
    from ..outputs.trendwords import hectares

    with progress_bar(ctx) as progress:
        found = change(
            results, out=out, dates=dates, group=group, built=built, aoi=aoi, aoi_name=aoi_name, population=population,
            reference=reference, max_change=max_change, correct=correct, model=model, device=device, threshold=threshold,
            estimate=estimate, title=title, force=force, overwrite=overwrite, progress=progress,
        )  # fmt: skip
    say = console(ctx)
    series = found.change.series
    say.print(f"{len(series):,} tiles on {len(series.dates)} dates: {', '.join(series.dates)}")
    for text in found.trend.warnings if found.trend else series.warnings:
        say.print(f"warning: {text}", markup=False)
    for text in sentences(found.drift, series.scheme):
        say.print(f"  {text}", markup=False)
    if found.trend is None:
        say.print("no trend is told: the imagery shifted more than the land can have changed")
    else:
        trend = found.trend
        say.print(
            f"newly built-up: {trend.new_tiles:,} tiles, {hectares(trend.new_mapped_ha[0])} ha mapped; expected "
            f"{hectares(trend.new_expected_ha[0])} ha; comparing single dates would say {hectares(trend.new_single_ha[0])} ha"
        )
        say.print("For hectares with an interval: geoclass sample, look at the tiles, geoclass estimate.")
    for path in found.files.values():
        say.print(f"  {path}", markup=False)
