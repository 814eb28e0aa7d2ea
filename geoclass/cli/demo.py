"""geoclass demo: the whole road on a synthetic county with known truth."""

from __future__ import annotations

from pathlib import Path

import click
import rich.table

from .options import console, overwrite_option, progress_bar


@click.command("demo")
@click.option(
    "-o", "--out", type=click.Path(), default="geoclass-demo", show_default=True, help="Folder to leave everything in."
)
@click.option("--rows", type=int, default=24, show_default=True, help="Height of the county in tiles.")
@click.option("--columns", type=int, default=32, show_default=True, help="Width of the county in tiles.")
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Another seed is another county."
)
@overwrite_option
@click.pass_context
def command(ctx: click.Context, out: str, rows: int, columns: int, seed: int, overwrite: bool) -> None:
    """Make a synthetic county at two dates, train on it, classify both, and compare with its known truth.

    Everything is left in the folder, with a README that says what is what. Takes under 3 minutes on 2 cores.
    """
    from ..environment import require_matching_torch

    require_matching_torch()
    from ..demo import demo

    with progress_bar(ctx) as progress:
        made = demo(Path(out), rows=rows, columns=columns, seed=seed, overwrite=overwrite, progress=progress)
    say = console(ctx)
    say.print("A synthetic county: procedural pictures, no real place. Accuracy here says nothing of real imagery.")
    table = rich.table.Table(box=None, pad_edge=False)
    for heading in ("date", "tiles", "accuracy", "of pure tiles", "developed (truth)", "developed (mapped)"):
        table.add_column(heading, justify="right")
    for row in made.scores:
        table.add_row(
            row.date,
            f"{row.tiles:,}",
            f"{row.accuracy:.1%}",
            f"{row.pure_accuracy:.1%}",
            f"{row.built_truth_ha:,.0f} ha",
            f"{row.built_mapped_ha:,.0f} ha",
        )
    say.print(table)
    growth, (low, high) = made.growth, made.growth.interval_ha
    table = rich.table.Table(box=None, pad_edge=False)
    first, last = made.county.dates
    table.add_column(f"new built-up land, {first} to {last}")
    table.add_column("hectares", justify="right")
    table.add_row("truth", f"{growth.truth_ha:,.0f}")
    table.add_row("comparing the two maps tile by tile", f"{growth.single_ha:,.0f}")
    table.add_row("mapped, where both dates together say so", f"{growth.mapped_ha:,.0f}")
    new = growth.estimate.new_built
    if new is not None:
        table.add_row("estimated from a random sample (95 %)", f"{new.ha.value:,.0f} ± {new.ha.half:,.0f}")
    table.add_row("allowing for what may hide", f"{low:,.0f} to {high:,.0f}")
    say.print(table)
    say.print(f"the trend:          {made.trend}")
    say.print(f"open in a browser:  {made.maps[-1]}")
    say.print(f"load into QGIS:     {made.results[-1]}")
    say.print(f"what is what:       {made.readme}")
