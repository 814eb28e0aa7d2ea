"""geoclass fetch: find imagery in the cloud, and list it for classify to stream."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from .options import console, overwrite_option

if TYPE_CHECKING:
    from ..stac.search import Found


@click.command("fetch")
@click.option(
    "--collection",
    required=True,
    help="STAC collection: naip, sentinel-2-l2a, or any other of --api.",
)
@click.option("--aoi", type=click.Path(), required=True, help="The area: any vector file of polygons, in any CRS.")
@click.option("--date", required=True, help="When it was taken: 2016, 2016-07, 2016-07-14, or 2016-06-01/2016-08-31.")
@click.option(
    "--api", metavar="URL",
    help="STAC API to search.  [default: Planetary Computer for naip, Earth Search for Sentinel-2]",
)  # fmt: skip
@click.option("--max-cloud", type=click.FloatRange(0, 100), help="Leave out items with more per cent of cloud.")
@click.option(
    "--per-tile",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Sentinel-2: items of each tile to keep, the clearest first; further ones fill what is cloudy in the first.",
)
@click.option(
    "--keep-clouds",
    is_flag=True,
    help="Sentinel-2: classify ground under cloud and shadow too.  [default: it is no data]",
)
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="Most items to ask for.")
@click.option("-o", "--out", type=click.Path(), default="items.json", show_default=True, help="The list to write.")
@overwrite_option
@click.pass_context
def command(
    ctx: click.Context, collection: str, aoi: str, date: str, api: str | None, max_cloud: float | None, per_tile: int,
    keep_clouds: bool, limit: int, out: str, overwrite: bool,
) -> None:  # fmt: skip
    """Find imagery of an area in the cloud and write a list of it, a STAC ItemCollection.

    No imagery is fetched: classify, tile and doctor take the list as an input and read only the blocks they need. The
    list holds no signatures or passwords; what needs one is signed while it is read.
    """
    from pathlib import Path

    from ..files import require_absent, spare_inputs
    from ..stac.search import search, write_items

    spare_inputs([Path(out)], [aoi])
    require_absent([Path(out)], overwrite)
    found = search(collection, aoi, date, api=api, max_cloud=max_cloud, per_tile=per_tile, limit=limit)
    write_items(found, out, keep_clouds=keep_clouds, overwrite=overwrite)
    _tell(ctx, found, out, aoi)


def _tell(ctx: click.Context, found: Found, out: str, aoi: str) -> None:
    say = console(ctx)
    dates = found.dates
    when = f", {dates[0]}" + (f" to {dates[-1]} ({len(dates)} days)" if len(dates) > 1 else "") if dates else ""
    say.print(f"{out}: {len(found.items):,} items of {found.collection}{when}", markup=False)
    if found.clouds:
        say.print(f"cloud: {found.clouds[0]:.1f} to {found.clouds[-1]:.1f} %")
    if found.cloudier:
        say.print(f"{found.cloudier:,} further items left out: more cloud, or a clearer item of their tile")
    say.print(f"cover of the AOI: {found.cover:.1%}")
    if found.cover < 0.999:
        say.print(
            "[yellow]warning[/yellow]: the rest has no imagery in this list; try a longer --date or a larger --per-tile"
        )
    if found.more:
        say.print(
            "[yellow]warning[/yellow]: there are more items than --limit; raise it, or ask for a smaller area or time"
        )
    say.print("next:")
    say.print(f"  geoclass classify {shlex.quote(out)} --model m.pt --aoi {shlex.quote(aoi)} -o out/", markup=False)
