"""geoclass estimate: hectares with 95 % intervals from the tiles that were looked at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import rich.table
from rich.markup import escape

from .options import console, overwrite_option

if TYPE_CHECKING:
    from ..areas.estimate import Estimate


@click.command("estimate")
@click.argument("sample", type=click.Path())
@click.option("--map", "source", type=click.Path(), required=True, help="The map that SAMPLE was drawn from.")
@click.option("-o", "--out", type=click.Path(), help="JSON to write the estimate to.")
@click.option(
    "--answers",
    type=click.Path(),
    multiple=True,
    help="CSV of answers, as from the review page; one for each reviewer.",
)
@click.option(
    "--allow-missing", is_flag=True, help="Take tiles that were skipped for the others' like, instead of refusing."
)
@click.option(
    "--post-stratify", is_flag=True, help="Weigh a simple random sample by the map's strata, whose areas are known."
)
@overwrite_option
@click.pass_context
def command(
    ctx: click.Context,
    sample: str,
    source: str,
    out: str | None,
    answers: tuple[str, ...],
    allow_missing: bool,
    post_stratify: bool,
    overwrite: bool,
) -> None:
    """Estimate areas and accuracies from the answers on SAMPLE, a GeoPackage from geoclass sample.

    Answers stand in the sample's own columns, or in CSVs. Samples that were not drawn by design are refused.
    """
    from ..areas.estimate import estimate
    from ..areas.telling import write_estimate
    from ..files import require_absent, spare_inputs

    if out:
        spare_inputs([Path(out)], [sample, source, *answers])
        require_absent([Path(out)], overwrite)
    found = estimate(
        Path(sample),
        Path(source),
        answers=[Path(name) for name in answers],
        allow_missing=allow_missing,
        post_stratify=post_stratify,
    )
    _tell(ctx, found)
    if out:
        write_estimate(found, Path(out), overwrite=overwrite)
        console(ctx).print(out, markup=False)


def _tell(ctx: click.Context, found: Estimate) -> None:
    from ..areas.telling import caution, hectares, percent, sentence, unit

    say = console(ctx)
    say.print(sentence(found), style="bold", markup=False)
    if found.cautious_ha:
        say.print(caution(found), markup=False)
    if found.net_built:
        say.print(f"{found.net_built.name}: {hectares(found.net_built.ha)}")
    table = rich.table.Table(box=None, pad_edge=False)
    table.add_column("")
    for heading in ("map, ha", "estimate, ha", "user's accuracy", "producer's accuracy"):
        table.add_column(heading, justify="right")
    assessment = found.assessment
    for area, users, producers in zip(found.areas, assessment.users, assessment.producers, strict=True):
        estimated = f"{area.ha.value:,.0f} ± {area.ha.half:,.0f}"
        table.add_row(escape(area.name), f"{area.mapped_ha or 0:,.0f}", estimated, percent(users), percent(producers))
    say.print(table)
    counted = sum(item.counted for item in found.strata)
    drawn = sum(item.drawn for item in found.strata)
    say.print(
        f"Overall accuracy: {percent(assessment.overall)}; {counted:,} of {drawn:,} tiles count; all intervals 95 %"
    )
    for pair in found.answers.agreements:
        kappa = "undefined" if pair.kappa != pair.kappa else f"{pair.kappa:.2f}"
        text = f"{pair.first} and {pair.second} agree on {pair.agreed:.0%} of {pair.tiles:,} tiles, kappa {kappa}"
        say.print(text, markup=False)
    say.print(f"{unit(found)}.")
    for text in found.warnings:
        say.print(f"[yellow]warning[/yellow]: {escape(text)}")
