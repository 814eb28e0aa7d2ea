"""geoclass map: the HTML map of a result again, with other options."""

from __future__ import annotations

from pathlib import Path

import click

from .options import console, overwrite_option


@click.command("map")
@click.argument("result", type=click.Path())
@click.option("-o", "--out", type=click.Path(), help="The page to write.  [default: beside RESULT, NAME.html]")
@click.option("--title", help="Title of the map.")
@click.option("--opacity", type=float, default=0.6, show_default=True, help="Opacity of the classes, 0 to 1.")
@click.option("--aoi", type=click.Path(), help="Outlines to draw: any vector file, in any CRS.")
@click.option("--basemap", is_flag=True, help="Offer online basemaps (the page then asks the network).")
@overwrite_option
@click.pass_context
def command(
    ctx: click.Context,
    result: str,
    out: str | None,
    title: str | None,
    opacity: float,
    aoi: str | None,
    basemap: bool,
    overwrite: bool,
) -> None:
    """Make the interactive map of RESULT (a GeoPackage that classify wrote) again.

    Replaces the page that classify made; any other existing file only with --overwrite.
    """
    from ..remap import remap

    path = remap(
        Path(result),
        Path(out) if out else None,
        title=title,
        opacity=opacity,
        aoi=aoi,
        basemap=basemap,
        overwrite=overwrite,
    )
    console(ctx).print(f"{path} ({path.stat().st_size / 1e6:.1f} MB): open it in a browser")
