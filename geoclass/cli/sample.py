"""geoclass sample: which tiles to look at, so that what is seen can be turned into hectares."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import rich.table
from rich.markup import escape

from .options import console, overwrite_option

if TYPE_CHECKING:
    from ..areas.sample import Sample

# Spelt here as well as in the library, so that --help need not load it; a test compares them.
ALLOCATIONS = ("equal", "neyman", "proportional", "minimum")
STRATA_BY = ("new_built", "transition", "kind", "class")


@click.command("sample")
@click.argument("source", metavar="MAP", type=click.Path())
@click.option("-o", "--out", type=click.Path(), default="sample.gpkg", show_default=True, help="GeoPackage to write.")
@click.option(
    "--per-stratum", type=click.IntRange(1), default=50, show_default=True, help="Tiles of each stratum, on average."
)
@click.option("--total", type=click.IntRange(1), help="Tiles together, in place of --per-stratum.")
@click.option("--target-se", type=float, help="Draw as many as give overall accuracy this standard error, as 0.01.")
@click.option(
    "--allocation",
    type=click.Choice(ALLOCATIONS),
    default="equal",
    show_default=True,
    help="Tiles of each stratum: alike; as makes new built-up land most exact (neyman); in proportion to area; or in "
    "proportion with a minimum.",
)
@click.option(
    "--min-per-stratum", type=click.IntRange(2), help="Least tiles of a stratum.  [default: 2; 50 for minimum]"
)
@click.option(
    "--design",
    type=click.Choice(("stratified", "random")),
    default="stratified",
    show_default=True,
    help="Draw within strata, or from all tiles alike.",
)
@click.option(
    "--strata",
    type=click.Choice(STRATA_BY),
    help="Strata of a change map.  [default: new_built; of one map always class]",
)
@click.option(
    "--expected",
    multiple=True,
    metavar="NAME=SHARE|CSV",
    help="Share of a stratum that the map should have right, or a CSV with columns stratum,accuracy.  [default: by the "
    "map's own probabilities]",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Seed of the draw.")
@click.option("--page/--no-page", default=True, show_default=True, help="Also write the page to review the tiles on.")
@overwrite_option
@click.pass_context
def command(
    ctx: click.Context, source: str, out: str, per_stratum: int, total: int | None, target_se: float | None,
    allocation: str, min_per_stratum: int | None, design: str, strata: str | None, expected: tuple[str, ...], seed: int,
    page: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Draw tiles of MAP at random, by design, to be looked at by eye.

    MAP is the change.gpkg of geoclass change, or the .gpkg of geoclass classify. Prints how exact the estimate is to be
    expected, before anyone looks.
    """
    from typing import cast

    from ..areas.design import Allocation
    from ..areas.page import write_sample_page
    from ..areas.sample import DesignKind, require_gpkg, write_sample
    from ..areas.sampling import draw_sample, read_expected
    from ..areas.strata import StrataBy
    from ..files import require_absent, spare_inputs

    require_gpkg(Path(out))
    review = Path(out).with_suffix(".review.html")
    spare_inputs([Path(out), review], [source, *expected])
    require_absent([Path(out), *([review] if page else [])], overwrite)
    drawn = draw_sample(
        Path(source),
        per_stratum=per_stratum,
        total=total,
        allocation=cast(Allocation, allocation),
        least=min_per_stratum,
        kind=cast(DesignKind, design),
        strata=cast("StrataBy | None", strata),
        seed=seed,
        expected=read_expected(expected),
        target_se=target_se,
    )
    write_sample(drawn, Path(out), overwrite=overwrite)
    if page:
        write_sample_page(drawn, Path(source), review, overwrite=overwrite)
    _tell(ctx, drawn)
    say = console(ctx)
    say.print(f"{out}: {len(drawn):,} tiles to look at, sample {drawn.design.sample_id}", markup=False)
    if page:
        say.print(f"{review}: answer them there, save the CSV, then", markup=False)
        say.print(f"  geoclass estimate {out} --map {source} --answers CSV -o estimate.json", markup=False)


def _tell(ctx: click.Context, drawn: Sample) -> None:
    say = console(ctx)
    table = rich.table.Table(box=None, pad_edge=False)
    table.add_column("stratum")
    for heading in ("tiles", "hectares", "drawn"):
        table.add_column(heading, justify="right")
    for item in drawn.design.strata:
        table.add_row(escape(item.name), f"{item.tiles:,}", f"{item.area_ha:,.0f}", f"{item.drawn:,}")
    say.print(table)
    for text in drawn.advice:
        say.print(f"[yellow]warning[/yellow]: {escape(text)}")
    say.print("To be expected, if the map's own probabilities (or --expected) are right:")
    table = rich.table.Table(box=None, pad_edge=False)
    table.add_column("")
    for heading in ("estimate", "standard error", "95 % interval"):
        table.add_column(heading, justify="right")
    accuracy, error = drawn.expected_accuracy, drawn.expected_accuracy_se
    table.add_row("overall accuracy", f"{accuracy:.1%}", f"{error:.1%}", f"± {1.96 * error:.1%}")
    for area in drawn.expected:
        table.add_row(
            escape(area.name), f"{area.area_ha:,.0f} ha", f"{area.se_ha:,.0f} ha", f"± {1.96 * area.se_ha:,.0f} ha"
        )
    say.print(table)
