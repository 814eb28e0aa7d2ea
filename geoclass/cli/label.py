"""geoclass label: the labelling desk on a dataset; or for imagery a page to label a handful of tiles by eye, and the
class folders that its answers make."""

from __future__ import annotations

import getpass
import glob
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.markup import escape

from .options import all_of, console, device_option, inputs_argument, model_option, overwrite_option, sensor_option

NEEDED = ("fastapi", "uvicorn", "prometheus_client")
OF_DESK = (
    "model", "host", "port", "token", "hosts", "who", "order", "design", "suggest", "learn", "store", "export", "no_browser",
    "device",
)  # fmt: skip
OF_IMAGERY = ("out", "tiles", "crs", "seed", "answers")

desk_options = all_of(
    click.option("--who", help="Your name, for the answers.  [default: your user name]"),
    click.option("--order", type=click.Choice(["uncertain", "disagreement", "design"]),
                 help="Which tiles to ask for first: those the head is least certain of, those whose label it contradicts most "
                 "confidently, or the order of the sample or of the data.  [default: uncertain, with --design design]"),
    click.option("--design", type=click.Path(), help="Ask for the tiles of this sample of geoclass sample."),
    click.option("--suggest", type=click.Choice(["after", "before", "never"]), default="after", show_default=True,
                 help="When the page shows what the head holds a tile for; before your answer it sways it."),
    click.option("--learn", type=click.Choice(["answers", "all"]), default="answers", show_default=True,
                 help="What the head learns from: your answers, or all, which adds the data's own labels where nobody answered."),
    click.option("--store", type=click.Path(), help="File of the answers.  [default: DATA.labels.sqlite beside the data]"),
    click.option("--export", type=click.Path(),
                 help="Open no desk: write what is labelled to this .csv, .gpkg or dataset folder."),
    click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all."),
    click.option("--port", type=click.IntRange(0, 65535), default=8001, show_default=True, help="Port; 0 for a free one."),
    click.option("--token", envvar="GEOCLASS_TOKEN", show_envvar=True,
                 help="Access token.  [default: a fresh one, which is printed]"),
    click.option("--allow-host", "hosts", multiple=True, metavar="NAME",
                 help="Name under which others reach the desk, as behind a proxy; may be repeated."),
    click.option("--no-browser", is_flag=True, help="Print the address only."),
)  # fmt: skip


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
@model_option
@desk_options
@device_option
@overwrite_option
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Label tiles by eye.

    With INPUTS a dataset (a folder from geoclass dataset, class folders, or with --scheme a folder of plain JPEG or PNG
    pictures) this opens the labelling desk in the browser: tiles with the ground around them, class keys, a head that
    learns from the answers while you label, several people. Answers are on disk at once, in DATA.labels.sqlite.

    With INPUTS imagery of one ground on one date or several: first, with --scheme, write a page that shows tiles drawn
    at random and asks for their class on each date by keyboard; open it in a browser, answer, and save the CSV. Then,
    with --answers, cut those tiles into class folders for `geoclass train`. Give the same INPUTS, --size, --gsd and
    --crs both times."""
    given = {name for name in options if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if not options["inputs"]:
        raise click.UsageError("name a dataset, a folder of pictures, or imagery", ctx)
    for name in options["inputs"]:
        _require_content(name)
    if _opens_desk(options):
        _refuse(given, OF_IMAGERY, "is for imagery; leave it out for a dataset")
        _desk(ctx, options, given)
        return
    _refuse_pictures(options)
    _refuse(given, OF_DESK, "is for a dataset; name one folder that geoclass dataset made, or that holds class folders")
    if options["answers"] is not None:
        _cut(ctx, options)
    else:
        _page(ctx, options)


def _require_content(name: str) -> None:
    """Refuse an input that is not there or an empty folder, before options are told to suit imagery only."""
    from ..errors import DatasetError
    from ..remote.names import is_remote

    if is_remote(name):
        return
    path = Path(name)
    if not path.exists() and not glob.glob(name, recursive=True):  # noqa: PTH207  (Path.glob takes no absolute pattern)
        raise DatasetError(f"there is no {name}; check the path")
    if path.is_dir() and not any(path.iterdir()):
        raise DatasetError(f"{name} is empty; give a folder with pictures or a dataset")


def _refuse_pictures(options: dict[str, Any]) -> None:
    """Refuse a folder of pictures that nothing names the classes of: it is no imagery either."""
    from ..datasets.pictures import is_pictures
    from ..errors import DatasetError

    if options["answers"] is not None or options["scheme"] is not None or len(options["inputs"]) != 1:
        return
    folder = Path(options["inputs"][0])
    if folder.is_dir() and is_pictures(folder):
        raise DatasetError(f"{folder} holds pictures without classes; name the classes with --scheme")


def _opens_desk(options: dict[str, Any]) -> bool:
    """Whether the one input is a dataset.

    A dataset says so itself. Class folders name the classes, and are taken for such without --scheme only; with
    --scheme a folder is one of pictures to label if these are named by tile ids or have no place: others are imagery.
    """
    from ..datasets.store import is_dataset

    if options["answers"] is not None or len(options["inputs"]) != 1:
        return False
    folder = Path(options["inputs"][0])
    if not folder.is_dir():
        return False
    if is_dataset(folder) or options["design"]:
        return True
    from ..datasets.pictures import holds_class_folders, is_pictures

    return holds_class_folders(folder) if options["scheme"] is None else is_pictures(folder)


def _refuse(given: set[str], names: tuple[str, ...], why: str) -> None:
    from ..errors import DatasetError

    wrong = [name for name in names if name in given]
    if wrong:
        option = {"hosts": "allow-host"}.get(wrong[0], wrong[0].replace("_", "-"))
        raise DatasetError(f"--{option} {why}")


# ---- imagery


def _cut(ctx: click.Context, options: dict[str, Any]) -> None:
    """Class folders from the answers of a page."""
    from ..labelling import class_folders

    say, ground = console(ctx), {name: options[name] for name in ("sensor", "size_px", "gsd_m", "crs", "overwrite")}
    made = class_folders(options["inputs"], Path(options["answers"]), Path(options["out"] or "tiles"), **ground)
    for name, count in made.counts.items():
        say.print(f"{name:<24}{count:>6,} tiles", markup=False)
    say.print(f"{made.passed_over:,} answers passed over: no class, or not of this imagery")
    say.print(f"next: geoclass train {made.path} -o m.pt", markup=False)


def _page(ctx: click.Context, options: dict[str, Any]) -> None:
    """The page that asks."""
    from ..errors import DatasetError
    from ..labelling import labelling_page
    from ..schemes import load_scheme

    say = console(ctx)
    if options["scheme"] is None:
        raise DatasetError("name the classes to choose from with --scheme, or the saved answers with --answers")
    page = Path(options["out"] or "label.html")
    named = ("tiles", "sensor", "size_px", "gsd_m", "crs", "seed", "overwrite")
    asked = labelling_page(
        options["inputs"], load_scheme(options["scheme"]), page, **{name: options[name] for name in named}
    )
    say.print(f"{page}: {len(asked):,} tiles to label; open it in a browser, then save the CSV", markup=False)
    say.print(f"next: geoclass label … --answers label.csv --size {options['size_px']}")


# ---- the desk


def _desk(ctx: click.Context, options: dict[str, Any], given: set[str]) -> None:
    """Open the desk, or write what was labelled on it."""
    from ..environment import require_matching_torch
    from ..errors import ServiceError

    lacking = next((name for name in NEEDED if find_spec(name) is None), None)
    if lacking:
        raise ServiceError(f"the labelling desk needs {lacking}, which is not installed; pip install 'geoclass[serve]'")
    require_matching_torch()
    from ..desk.opening import Wanted, opened

    wanted = Wanted(
        Path(options["inputs"][0]),
        scheme=options["scheme"],
        model=options["model"],
        design=Path(options["design"]) if options["design"] else None,
        store=Path(options["store"]) if options["store"] else None,
        order=options["order"],
        suggest=options["suggest"],
        learns=options["learn"],
        who=options["who"] or _user(),
        sensor=options["sensor"],
        size_px=options["size_px"] if "size_px" in given else None,
        gsd_m=options["gsd_m"],
        device=options["device"],
    )
    say = console(ctx)
    with opened(wanted) as desk:
        _tell_missing(say, desk)
        if options["export"]:
            from ..desk.export import write_export

            say.print(write_export(desk, Path(options["export"]), options["overwrite"]), markup=False)
            return
        _serve(ctx, desk, options)


def _serve(ctx: click.Context, desk: Any, options: dict[str, Any]) -> None:
    from ..desk.opening import in_browser, serve_desk
    from ..service.settings import Settings

    say = console(ctx)
    token = {"token": options["token"]} if options["token"] else {}
    settings = Settings((), host=options["host"], port=options["port"], hosts=options["hosts"], **token)
    with in_browser() as show:

        def ready(address: str, whole: str) -> None:
            say.print(
                f"{len(desk.tiles.positions):,} tiles to label; answers are kept in {escape(str(desk.answers.path))}"
            )
            say.print(f"the labelling desk is at {escape(address)}")
            if not options["token"]:  # one that was given is known, and stays out of logs
                click.echo(f"open {whole}")
            if not settings.on_loopback:
                say.print(
                    "others can reach it; without TLS its token can be read on the way: see the docs on a reverse proxy"
                )
            if not options["no_browser"]:
                show(whole)

        level = "info" if ctx.find_root().params.get("verbose") else "warning"
        try:
            serve_desk(desk, settings, ready, level)
        except KeyboardInterrupt:
            say.print("ended; every answer is kept")


def _tell_missing(say: Any, desk: Any) -> None:
    gone, missing = desk.gone(), desk.tiles.missing
    if gone:
        say.print(
            f"{len(gone):,} answered tiles no longer exist: their answers are kept, and left out of what is exported"
        )
    if missing:
        say.print(f"{len(missing):,} tiles of the sample are not in the data, first {missing[0]}")


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no such user on this machine
        return ""
