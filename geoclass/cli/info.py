"""geoclass info: what is this file?"""

from __future__ import annotations

import click
import rich.table

from .options import console, sensor_option


@click.command("info")
@click.argument("file", type=click.Path())
@sensor_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_context
def command(ctx: click.Context, file: str, sensor: str | None, as_json: bool) -> None:
    """Say what FILE is: a scene, a tile index, a model bundle or a result."""
    import json

    from ..describe import describe

    facts = describe(file, sensor)
    if as_json:
        click.echo(json.dumps(facts, indent=2, default=str))
        return
    table = rich.table.Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in facts.items():
        shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        table.add_row(key, rich.markup.escape(str(shown)))
    console(ctx).print(table)
