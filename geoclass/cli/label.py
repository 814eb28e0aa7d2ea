"""geoclass label: a page to label a handful of tiles by eye, and the class folders that its answers make."""

from __future__ import annotations

from pathlib import Path

import click

from .options import console, inputs_argument, overwrite_option, sensor_option


@click.command("label")
@inputs_argument
@click.option("--scheme", help="The classes to choose from: nlcd6, … or a .toml file.")
@click.option("--answers", type=click.Path(), help="The CSV saved from the page: cut its tiles into class folders.")
@click.option("-o", "--out", type=click.Path(), help="The page, or the folder.  [default: label.html, or tiles]")
@click.option("--tiles", type=int, default=40, show_default=True, help="Tiles to ask for, each on every date.")
@sensor_option
@click.option("--size", "size_px", type=int, default=224, show_default=True, help="Side of a tile in pixels.")
@click.option("--gsd", "gsd_m", type=float, help="Ground sampling distance in metres.  [default: the imagery's]")
@click.option("--crs", help="Projected CRS of the grid.  [default: the imagery's, or its UTM zone]")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Which tiles are drawn.")
@overwrite_option
@click.pass_context
def command(
    ctx: click.Context, inputs: tuple[str, ...], scheme: str | None, answers: str | None, out: str | None, tiles: int,
    sensor: str | None, size_px: int, gsd_m: float | None, crs: str | None, seed: int, overwrite: bool,
) -> None:  # fmt: skip
    """Label tiles of INPUTS, images of one ground on one date or several, to train a model on them.

    First, with --scheme, write a page that shows tiles drawn at random and asks for their class on each date by keyboard;
    open it in a browser, answer, and save the CSV. Then, with --answers, cut those tiles into class folders for
    `geoclass train`. Give the same INPUTS, --size, --gsd and --crs both times.
    """
    from ..errors import DatasetError
    from ..labelling import class_folders, labelling_page
    from ..schemes import load_scheme

    say = console(ctx)
    if answers is not None:
        made = class_folders(
            inputs, Path(answers), Path(out or "tiles"), sensor=sensor, size_px=size_px, gsd_m=gsd_m, crs=crs,
            overwrite=overwrite,
        )  # fmt: skip
        for name, count in made.counts.items():
            say.print(f"{name:<24}{count:>6,} tiles", markup=False)
        say.print(f"{made.passed_over:,} answers passed over: no class, or not of this imagery")
        say.print(f"next: geoclass train {made.path} -o m.pt", markup=False)
        return
    if scheme is None:
        raise DatasetError("name the classes to choose from with --scheme, or the saved answers with --answers")
    page = Path(out or "label.html")
    asked = labelling_page(
        inputs, load_scheme(scheme), page, tiles=tiles, sensor=sensor, size_px=size_px, gsd_m=gsd_m, crs=crs, seed=seed,
        overwrite=overwrite,
    )  # fmt: skip
    say.print(f"{page}: {len(asked):,} tiles to label; open it in a browser, then save the CSV", markup=False)
    say.print(f"next: geoclass label … --answers label.csv --size {size_px}")
