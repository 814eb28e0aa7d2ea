"""geoclass runs: what was trained, how, and what differs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import rich.table

from .options import console

if TYPE_CHECKING:
    from ..history.runs import RunRecord

SHOWN_EPOCHS = 12
COLOURS = {"finished": "green", "running": "cyan", "interrupted": "yellow", "failed": "bold red", "killed": "bold red"}

tracking_uri_option = click.option(
    "--tracking-uri",
    help="MLflow's store: an address or a .db file.  [default: MLFLOW_TRACKING_URI, else mlruns.db here]",
)
track_option = click.option(
    "--track", is_flag=True, help="Take the runs that MLflow has, not the records beside bundles."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print as JSON.")


@click.group("runs")
def command() -> None:
    """Look at trainings, and compare two.

    A run is named by its bundle, its record (m.run.json), or the start of its id.
    """


@command.command("list")
@click.argument("folder", type=click.Path(), default=".")
@track_option
@tracking_uri_option
@json_option
@click.pass_context
def list_runs(ctx: click.Context, folder: str, track: bool, tracking_uri: str | None, as_json: bool) -> None:
    """List the runs recorded under FOLDER, newest first."""
    from ..history.runs import find_runs, tracked_runs

    records = tracked_runs(tracking_uri) if track or tracking_uri else find_runs(folder)
    if as_json:
        _print_json([_facts(record) for record in records])
        return
    say = console(ctx)
    if not records:
        say.print("no runs here; geoclass train records one beside its bundle")
        return
    table = rich.table.Table(box=None, pad_edge=False)
    for heading in ("id", "status", "bundle", "dataset", "result", "time"):
        table.add_column(heading, justify="right" if heading == "time" else "left", no_wrap=heading == "id")
    for record in records:
        table.add_row(
            record.id,
            _status(record),
            _escape(record.bundle.path if record.bundle else "-"),
            _escape(record.dataset.get("name", "-")),
            _escape(_headline(record)),
            _duration(record.seconds),
        )
    say.soft_wrap = False
    say.print(table)


@command.command("show")
@click.argument("run")
@click.option("--folder", type=click.Path(), default=".", show_default=True, help="Where to look for a run's id.")
@tracking_uri_option
@json_option
@click.pass_context
def show(ctx: click.Context, run: str, folder: str, tracking_uri: str | None, as_json: bool) -> None:
    """Show one run: its parameters, data, metrics and epochs."""
    from ..history.record import flat
    from ..history.runs import find_run

    record = find_run(run, folder, tracking_uri)
    if as_json:
        _print_json(_facts(record))
        return
    say = console(ctx)
    say.soft_wrap = False
    table = rich.table.Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in _head(record).items():
        table.add_row(key, value)
    for section in ("dataset", "parameters", "metrics", "environment"):
        for number, (key, item) in enumerate(flat(getattr(record, section)).items()):
            table.add_row(section if number == 0 else "", f"{_escape(key)}: {_escape(_text(item))}")
    for note in record.notes:
        table.add_row("note", _escape(note))
    say.print(table)
    if record.history:
        say.print()
        say.print(_epochs(record))


@command.command("compare")
@click.argument("a")
@click.argument("b")
@click.option("--folder", type=click.Path(), default=".", show_default=True, help="Where to look for runs' ids.")
@tracking_uri_option
@json_option
@click.pass_context
def compare_runs(ctx: click.Context, a: str, b: str, folder: str, tracking_uri: str | None, as_json: bool) -> None:
    """Print what differs between runs A and B."""
    import dataclasses

    from ..history.runs import compare, find_run

    found = compare(find_run(a, folder, tracking_uri), find_run(b, folder, tracking_uri))
    if as_json:
        rows = [dataclasses.asdict(row) for row in found.differences]
        _print_json({"a": found.a.id, "b": found.b.id, "differences": rows, "same": found.same})
        return
    say = console(ctx)
    say.soft_wrap = False
    table = rich.table.Table(box=None, pad_edge=False)
    for heading in ("", "", _title(found.a), _title(found.b), "B - A"):
        table.add_column(heading, justify="right" if heading == "B - A" else "left", overflow="fold")
    section = ""
    for row in found.differences:
        delta = "" if row.delta is None else f"{row.delta:+.4g}"
        first = "" if row.section == section else row.section
        table.add_row(f"[bold]{first}[/]", *map(_escape, (row.name, _text(row.a), _text(row.b), delta)))
        section = row.section
    say.print(table)
    say.print(f"{len(found.differences)} differ, {found.same} are the same")


def _title(record: RunRecord) -> str:
    return f"{_escape(record.bundle.path)}\n{record.id}" if record.bundle else record.id


def _head(record: RunRecord) -> dict[str, str]:
    facts = {
        "id": record.id,
        "status": _status(record) + (f": {_escape(record.reason)}" if record.reason else ""),
        "started": record.started,
        "time": _duration(record.seconds),
        "command": _escape(record.command or "-"),
        "bundle": f"{_escape(record.bundle.path)}, hash {record.bundle.digest}" if record.bundle else "-",
    }
    if record.plots:
        facts["plots"] = _escape(", ".join(record.plots))
    if record.tracked:
        facts["MLflow"] = _escape(f"run {record.tracked.run_id} at {record.tracked.uri}")
    return facts


def _epochs(record: RunRecord) -> rich.table.Table:
    names = list(dict.fromkeys(name for row in record.history for name in row))
    table = rich.table.Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, justify="right")
    left_out = len(record.history) - SHOWN_EPOCHS
    if left_out > 0:
        table.title = f"the last {SHOWN_EPOCHS} of {len(record.history)} epochs; --json gives all"
    for row in record.history[-SHOWN_EPOCHS:]:
        table.add_row(*(_text(row.get(name)) if name in row else "" for name in names))
    return table


def _headline(record: RunRecord) -> str:
    """The number that says most of a run."""
    from ..history.registry import ACCURACIES

    for name in (*ACCURACIES, *record.metrics):
        value = record.metrics.get(name)
        if value is not None:
            return f"{name} {value:.4g}"
    return record.reason[:60] or "-"


def _facts(record: RunRecord) -> dict[str, Any]:
    file = str(record.file) if record.file else None
    return {**record.model_dump(mode="json"), "status": record.shown_status, "file": file}


def _status(record: RunRecord) -> str:
    return f"[{COLOURS[record.shown_status]}]{record.shown_status}[/]"


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _escape(text: object) -> str:
    return rich.markup.escape(str(text))


def _print_json(value: Any) -> None:
    import json

    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
