"""geoclass serve: the HTTP service."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import click
from rich.markup import escape

from .options import console, device_option

NEEDED = ("fastapi", "uvicorn", "httpx", "python_multipart", "prometheus_client", "rio_tiler")
MEBI = 1 << 20


@click.command("serve")
@click.option(
    "--model",
    "-m",
    "models",
    multiple=True,
    type=click.Path(),
    help="Model bundle (m.pt); may be repeated, the first is the default.",
)
@click.option(
    "--data",
    type=click.Path(),
    default="geoclass-data",
    show_default=True,
    help="Folder of the service's own: uploads, jobs and results.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0 for a free one.")
@click.option(
    "--token", envvar="GEOCLASS_TOKEN", show_envvar=True, help="Access token.  [default: a fresh one, which is printed]"
)
@click.option(
    "--allow-root",
    "roots",
    multiple=True,
    type=click.Path(),
    help="Folder whose scenes requests may name; may be repeated.",
)
@click.option(
    "--allow-url",
    "urls",
    multiple=True,
    metavar="PREFIX",
    help="Beginning of URLs that requests may name; may be repeated.",
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Name under which others reach the service, as behind a proxy; may be repeated.",
)
@click.option(
    "--database",
    envvar="GEOCLASS_DATABASE",
    show_envvar=True,
    metavar="ADDRESS",
    help="PostGIS database whose results are shown, and where jobs may store theirs: postgresql://user@host/database; "
    "the password is taken from PGPASSWORD or ~/.pgpass.",
)
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Scenes classified at once.")
@click.option(
    "--max-upload",
    type=click.IntRange(1),
    default=4096,
    show_default=True,
    metavar="MB",
    help="Largest upload of a scene.",
)
@click.option(
    "--runtime",
    type=click.Choice(["auto", "torch", "openvino", "onnx"]),
    default="auto",
    show_default=True,
    help="What networks run on; auto takes the fastest.",
)
@device_option
@click.pass_context
def command(
    ctx: click.Context,
    models: tuple[str, ...],
    data: str,
    host: str,
    port: int,
    token: str | None,
    roots: tuple[str, ...],
    urls: tuple[str, ...],
    hosts: tuple[str, ...],
    database: str | None,
    jobs: int,
    max_upload: int,
    runtime: str,
    device: str,
) -> None:
    """Answer requests over HTTP, and show a page to map scenes with: classes of pictures at once, maps of scenes as jobs.

    Prints its address, a link to the page and, unless one is given, a fresh access token. Jobs survive a restart: those that were accepted
    go on when the service is started again with the same --data. End it with Ctrl-C.
    """
    from ..errors import ServiceError

    lacking = next((name for name in NEEDED if find_spec(name) is None), None)
    if lacking:
        raise ServiceError(f"geoclass serve needs {lacking}, which is not installed; pip install 'geoclass[serve]'")
    from ..service.settings import Limits, Settings

    given = {"token": token} if token else {}
    settings = Settings(
        tuple(map(Path, models)),
        Path(data),
        host,
        port,
        roots=tuple(map(Path, roots)),
        urls=urls,
        hosts=hosts,
        database=database,
        device=device,
        runtime=runtime,
        jobs=jobs,
        limits=Limits(upload_bytes=max_upload * MEBI),
        **given,
    )
    from ..service.serving import serve

    say = console(ctx)

    def ready(address: str) -> None:
        say.print(f"answers at {escape(address)}")
        if not token:
            click.echo(f"access token: {settings.token}")
        click.echo(f"page: {page_link(address, None if token else settings.token)}")
        if not settings.on_loopback:
            say.print(
                "others can reach it; without TLS its token can be read on the way: see the docs on a reverse proxy"
            )

    level = "info" if ctx.find_root().params.get("verbose") else "warning"
    try:
        serve(settings, ready, level)
    except KeyboardInterrupt:
        say.print("ended; jobs that are not done go on at the next start")


def page_link(address: str, token: str | None) -> str:
    """The address of the page as a browser on this machine opens it. A fresh token goes along behind the #, which
    browsers keep to themselves; one that was given is not shown."""
    here = address.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    return f"{here}/#token={token}" if token else f"{here}/"
