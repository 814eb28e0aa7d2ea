"""geoclass dataset: imagery and labels, or class folders, to a dataset; corrections to one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .options import console, ignore_codes_option, inputs_argument, listed, overwrite_option, progress_bar

if TYPE_CHECKING:
    import rich.table

    from ..datasets.store import Dataset


def _shares(_: click.Context, __: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """60,15,25 or 0.6,0.15,0.25 as three shares that sum to 1."""
    if value is None:
        return None
    try:
        numbers = tuple(float(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter("give three numbers, as 60,15,25") from error
    return tuple(number / 100 for number in numbers) if sum(numbers) > 1.5 else numbers


@click.command("dataset")
@inputs_argument
@click.option("--labels", type=click.Path(), help="Labels in any CRS: a raster of class codes, polygons or points.")
@click.option("-o", "--out", type=click.Path(), help="The folder to write.")
@click.option("--scheme", help="Class scheme: nlcd6, nlcd16, …, or a .toml file.  [default: told from the labels]")
@click.option("--class-field", help="Field of polygons or points that holds the class.")
@click.option("--layer", help="Layer of the label file, where it has several.")
@ignore_codes_option
@click.option(
    "--rule", type=click.Choice(["majority", "nine-points", "soft"]), default="majority", show_default=True,
    help="What makes one class of many: the commonest, nine points that agree, or the commonest with the shares to learn from.",
)  # fmt: skip
@click.option(
    "--min-purity",
    type=float,
    help="Least share of a tile's labelled ground in its class.  [default: 0.6 by majority, else 0]",
)
@click.option(
    "--balance", type=click.Choice(["cap", "none", "weights"]), default="cap", show_default=True,
    help="Cut common classes to the rarest (50 are always kept), leave them, or weigh them in training.",
)  # fmt: skip
@click.option(
    "--split", type=click.Choice(["blocks", "random", "by-scene", "by-field"]), default="blocks", show_default=True,
    help="Hold out blocks of ground, tiles at random, whole scenes, or whole areas of --split-field.",
)  # fmt: skip
@click.option(
    "--shares", callback=_shares, help="Train, validation, test in percent.  [default: 60,15,25; random: 75,0,25]"
)
@click.option(
    "--block-m", "--block", "block_m", type=float, help="Side of a block in metres.  [default: from the labels]"
)
@click.option("--split-field", help="Field of the polygons (labels or AOI) whose values part the tiles.")
@click.option(
    "--test-groups", callback=listed, help="Scenes, or values of --split-field, that test, as a,b.  [default: drawn]"
)
@click.option(
    "--sensor", help="naip, sentinel2-l2a, rgb8, …, or a .toml file.  [default: told from the file names, else rgb8]"
)
@click.option("--bands", callback=listed, help="Bands to keep, as red,green,blue,nir.  [default: red, green and blue]")
@click.option("--size", "size_px", type=int, default=224, show_default=True, help="Side of a tile in pixels.")
@click.option("--gsd", "gsd_m", type=float, help="Ground sampling distance of tiles in metres.  [default: the scenes']")
@click.option("--crs", help="Projected CRS of the grid, as EPSG:26919.  [default: the scenes', or their UTM zone]")
@click.option("--aoi", type=click.Path(), help="Only tiles of these polygons: any vector file, in any CRS.")
@click.option(
    "--min-valid", type=float, default=0.9, show_default=True, help="Least share of a tile that must have data."
)
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Seed of everything random."
)
@click.option("--keep-look-alikes", is_flag=True, help="Keep tiles that show the same picture as another.")
@click.option(
    "--corrections",
    type=click.Path(),
    help="Mend the labels of a dataset by this CSV (key,label), and rewrite its page.",
)
@click.option("--suspects", is_flag=True, help="Rewrite the page of a dataset, with its suspects.csv.")
@overwrite_option
@click.pass_context
def command(
    ctx: click.Context, /, inputs: tuple[str, ...], corrections: str | None, suspects: bool, **options: Any
) -> None:
    """Make a dataset from INPUTS: scenes with --labels, or a folder of class folders.

    Writes dataset.json, tiles.gpkg, images/ and index.html, a contact sheet to look at before training. Given a dataset
    folder with --corrections or --suspects, mends it and rewrites its page.
    """
    from ..errors import DatasetError
    from ..outputs.contactsheet import write_contact_sheet

    say = console(ctx)
    if corrections or suspects:
        if len(inputs) != 1:
            raise DatasetError("name one dataset folder, as in: geoclass dataset data/ --corrections fixes.csv")
        if corrections:
            from ..datasets.corrections import apply_corrections

            mended = apply_corrections(inputs[0], corrections)
            say.print(f"{inputs[0]}: {mended.relabelled:,} tiles relabelled, {mended.removed:,} removed")
        say.print(f"contact sheet: {write_contact_sheet(inputs[0])}")
        return
    if not options["out"]:
        raise DatasetError("no folder to write; name one with -o data/")
    from ..datasets.making import build_dataset

    with progress_bar(ctx) as progress:
        data = build_dataset(inputs, **options, progress=progress)
        page = write_contact_sheet(data.folder)
    _report(say, data)
    say.print(f"contact sheet: {page}")
    say.print(f"next: look at it, then geoclass train {data.folder} -o m.pt")


def _report(say: Any, data: Dataset) -> None:
    meta = data.meta
    size = f"{meta.size_px * meta.gsd_m:g} m" if meta.gsd_m else f"{meta.size_px} px"
    say.print(f"{data.folder}: {len(data):,} tiles of {size}, scheme {meta.scheme.name}")
    say.print(_table(data))
    for reason, count in meta.left_out.items():
        say.print(f"left out: {count:,} {reason}")
    if meta.split.block_m:
        reach = f"; labels are alike up to {meta.split.range_m:,.0f} m" if meta.split.range_m else ""
        say.print(f"split: blocks of {meta.split.block_m:,.0f} m, tiles at their edges left out{reach}")
    elif meta.split.groups:
        say.print("split: " + "; ".join(f"{name} → {split}" for name, split in meta.split.groups.items()))
    for note in meta.notes:
        say.print(f"note: {note}")


def _table(data: Dataset) -> rich.table.Table:
    """Tiles of each class in each split."""
    import rich.table

    from ..datasets.store import SPLITS

    table = rich.table.Table(box=None, pad_edge=False)
    table.add_column("class")
    for heading in (*SPLITS, "all"):
        table.add_column(heading, justify="right")
    for name, counts in data.meta.counts.items():
        if any(counts.values()):
            table.add_row(name, *(f"{counts[split]:,}" for split in SPLITS), f"{sum(counts.values()):,}")
    return table
