"""The command `geoclass`: parse, call one library function, report. One file a verb, loaded when it is called."""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from typing import Any

import click

from .. import __version__

COMMANDS = (
    "fetch", "doctor", "tile", "classify", "map", "load", "change", "sample", "estimate", "dataset", "label", "train", "evaluate",
    "predict", "runs", "models", "info", "serve", "demo",
)  # fmt: skip
"""The verbs, in the order of the main road."""


class Verbs(click.Group):
    """Loads a verb's module when it is asked for, and turns every error a user can cause into one line and exit 2."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f".{cmd_name}", __name__).command
        return command

    def main(self, *args: Any, **kwargs: Any) -> Any:
        from ..errors import GeoclassError

        _spin_briefly()
        kwargs["standalone_mode"] = False
        try:
            code = super().main(*args, **kwargs)
            sys.exit(code if isinstance(code, int) else 0)
        except click.UsageError as error:
            where = f"{error.ctx.command_path} --help" if error.ctx else "geoclass --help"
            _fail(f"{error.format_message().rstrip('.')}; see {where}", 2)
        except click.ClickException as error:
            _fail(error.format_message(), 2)
        except GeoclassError as error:
            _fail(str(error), 2)
        except (KeyboardInterrupt, click.Abort):
            _fail("interrupted; run the same command again (classify and fine-tuning continue where they stopped)", 130)
        except UnicodeEncodeError as error:  # as bytes that are no text stand in a path
            _fail(f"the name {os.fsencode(error.object)!r} is no UTF-8; rename that file or folder", 2)
        except MemoryError:
            _fail("out of memory; lower --batch-size, or close other programs", 1)
        except Exception as error:
            if os.environ.get("GEOCLASS_DEBUG"):
                raise
            text = " ".join(f"{type(error).__name__}: {error}".split())
            _fail(f"unexpected failure ({text[:300]}); set GEOCLASS_DEBUG=1 for the details and please report it", 1)


def _spin_briefly() -> None:
    """Let PyTorch's idle threads give up their cores sooner: after each of its steps GNU's OpenMP keeps them spinning for
    about a millisecond, on cores that OpenVINO or a decoder needs. Enough is left for the next layer of a network.
    It is read once, when PyTorch is loaded; what a user has set is kept."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def _fail(text: str, code: int) -> None:
    click.echo(f"geoclass: error: {text}", err=True)
    sys.exit(code)


def _show_versions(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from ..environment import versions

        for name, value in versions().items():
            click.echo(f"{name:<14}{value}")
        ctx.exit()


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="geoclass")
@click.option(
    "--show-versions", is_flag=True, is_eager=True, expose_value=False, callback=_show_versions,
    help="Print the versions of geoclass and of what it stands on, and exit.",
)  # fmt: skip
@click.option("-v", "--verbose", count=True, help="Say more; twice for debugging.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
@click.pass_context
def main(ctx: click.Context, verbose: int, quiet: bool) -> None:
    """Land-cover maps from aerial and satellite imagery, tile by tile."""
    level = logging.ERROR if quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=level, format="%(name)s: %(message)s")
    # GDAL's own complaints arrive as exceptions; its log would print them twice, over several lines.
    logging.getLogger("rasterio").setLevel(logging.CRITICAL if verbose < 2 else logging.DEBUG)
    logging.getLogger("pyogrio").setLevel(logging.CRITICAL if verbose < 2 else logging.DEBUG)
    ctx.obj = {"quiet": quiet}
