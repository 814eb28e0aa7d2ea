"""geoclass load: finished results into PostGIS."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import click
import rich.console
from rich.markup import escape

from .options import console, database_options


@click.command("load")
@click.argument("results", nargs=-1, required=True, type=click.Path())
@database_options
@click.pass_context
def command(ctx: click.Context, results: tuple[str, ...], to: tuple[str, ...], schema: str | None) -> None:
    """Load RESULTS (GeoPackages that classify wrote) into PostgreSQL databases with PostGIS.

    Makes the tables, a view of each result and of each class scheme, and their styles for QGIS. A result that is there
    already is brought up to date; a load that fails leaves nothing of its result. The password of the database is taken
    from PGPASSWORD or ~/.pgpass.
    """
    if not to:
        raise click.UsageError("no database named; give one with --to postgresql://user@host/database", ctx)
    load_files(console(ctx), [Path(name) for name in results], to, schema)


def load_files(say: rich.console.Console, results: Sequence[Path], to: Sequence[str], schema: str | None) -> None:
    """Load each result into each database, and say so. Where some cannot be read or loaded the rest are, and then the
    error of the first is raised: of one that is no result its own, else DatabaseError with how to load what is missing.
    """
    from ..database.address import parse_address
    from ..database.loading import load_result
    from ..errors import DatabaseError, GeoclassError
    from ..results import read_result

    addresses = [parse_address(text, schema) for text in to]
    failed: list[tuple[Path, str, GeoclassError]] = []
    for path in results:
        try:
            labels = read_result(path)
        except GeoclassError as error:
            failed.append((path, "", error))
            continue
        for address in addresses:
            try:
                made = load_result(labels, address)
            except DatabaseError as error:
                failed.append((path, address.shown, error))
                continue
            say.print(
                escape(
                    f"{made.tiles:,} tiles in {made.address}, schema {made.schema}: view {made.run_view} (run {made.run}), "
                    f"all dates in {made.scheme_view}; {made.written:,} rows written"
                )
            )
            for note in made.notes:
                say.print(f"note: {escape(note)}")
    if failed:
        path, where, reason = failed[0]
        others = f"; {len(failed) - 1} more failed" if len(failed) > 1 else ""
        if not where:  # to load it again would fail again
            raise type(reason)(f"{reason}{others}") from reason
        again = shlex.join(["geoclass", "load", str(path), "--to", where, *(["--schema", schema] if schema else [])])
        raise DatabaseError(f"{reason}; the result is kept in {path}, to be loaded with: {again}{others}") from reason
