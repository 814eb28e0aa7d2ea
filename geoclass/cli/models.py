"""geoclass models: bundles made elsewhere, bundles for other programs, and names for bundles."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
import rich.table

from .options import console, overwrite_option
from .runs import json_option, tracking_uri_option

if TYPE_CHECKING:
    from ..export import Kind
    from ..history.registry import BundleFacts, Registered, Stage


@click.group("models")
def command() -> None:
    """Work with model bundles."""


@command.command("import")
@click.argument("weights", type=click.Path())
@click.option(
    "--arch",
    help="The network these weights are of: resnet50, efficientnet_lite0, any timm name, … Needed unless geoclass exported them.",
)
@click.option("--classes", help="Class names in the order of the network's outputs, with commas between.")
@click.option("--scheme", help="Class scheme with these classes in this order, in place of --classes.")
@click.option("--sensor", default="rgb8", show_default=True, help="The imagery it was trained on.")
@click.option("--gsd", "gsd_m", type=float, help="Ground sampling distance of its tiles in metres, where known.")
@click.option("--size", "size_px", type=int, default=224, show_default=True, help="Side of its tiles in pixels.")
@click.option("-o", "--out", type=click.Path(), required=True, help="The bundle to write, as m.pt.")
@overwrite_option
@click.pass_context
def import_weights(
    ctx: click.Context, weights: str, arch: str | None, classes: str | None, scheme: str | None, sensor: str, gsd_m: float | None,
    size_px: int, out: str, overwrite: bool,
) -> None:  # fmt: skip
    """Wrap WEIGHTS, a plain state dict (.pth, .pt or .safetensors), as a bundle. Nothing in the file is executed.

    A .safetensors file that geoclass exported says itself what it is: without --classes and --scheme the bundle that it
    was made from is written again.
    """
    from ..environment import require_matching_torch
    from ..errors import BundleError

    require_matching_torch()
    from ..bundle import import_to_file, save_bundle
    from ..export import read_exported

    known = read_exported(weights) if weights.endswith(".safetensors") and not classes and not scheme else None
    if known is not None:
        meta, state = known
        if arch is not None and arch != meta.backbone:
            raise BundleError(f"{weights} is of {meta.backbone}, not {arch}; leave --arch out")
        bundle = save_bundle(Path(out), meta, state, overwrite)
    elif arch is None:
        raise BundleError(f"{weights} does not say which network it is of; give --arch, and --classes or --scheme")
    else:
        names = [name.strip() for name in classes.split(",")] if classes else None
        bundle = import_to_file(
            Path(weights), Path(out), arch=arch, classes=names, scheme=scheme, sensor=sensor, gsd_m=gsd_m, size_px=size_px,
            overwrite=overwrite,
        )  # fmt: skip
    meta = bundle.meta
    console(ctx).print(f"{out}: {meta.backbone}, {len(meta.scheme)} classes, hash {bundle.digest}")


@command.command("export")
@click.argument("model", type=click.Path())
@click.option("--to", "kind", type=click.Choice(["onnx", "safetensors"]), required=True, help="The format.")
@click.option(
    "-o", "--out", type=click.Path(), help="The file to write.  [default: MODEL's name with the format's ending]"
)
@tracking_uri_option
@overwrite_option
@click.pass_context
def export_model(
    ctx: click.Context, model: str, kind: Kind, out: str | None, tracking_uri: str | None, overwrite: bool
) -> None:
    """Write MODEL for other programs.

    onnx: brightness in, probabilities out, with normalisation, calibration and softmax inside; compared with torch
    before it is kept. safetensors: the tensors, and a STAC Item (.json) that describes them.
    """
    from ..environment import require_matching_torch

    require_matching_torch()
    from ..bundle import load_bundle
    from ..export import export
    from ..history.registry import resolve

    path = resolve(model, tracking_uri)
    bundle = load_bundle(path)
    default = path.with_suffix(f".{kind}") if str(path) == model else Path(f"{path.stem}.{kind}")
    for written in export(bundle, Path(out) if out else default, kind, overwrite):
        console(ctx).print(f"{written} ({written.stat().st_size / 1e6:.1f} MB)")


@command.command("list")
@click.argument("folder", type=click.Path(), default=".")
@tracking_uri_option
@json_option
@click.pass_context
def list_models(ctx: click.Context, folder: str, tracking_uri: str | None, as_json: bool) -> None:
    """List the bundles in FOLDER, and those registered, where there is a registry."""
    import dataclasses
    import json

    from ..history.registry import bundles_in, registered
    from ..history.tracking import has_store, installed

    here = bundles_in(folder)
    named = registered(tracking_uri) if tracking_uri or (has_store() and installed()) else []
    if as_json:
        plain = {
            "bundles": [dataclasses.asdict(item) for item in here],
            "registered": [dataclasses.asdict(item) for item in named],
        }
        click.echo(json.dumps(plain, indent=2, ensure_ascii=False, default=str))
        return
    say = console(ctx)
    say.soft_wrap = False
    say.print(_bundle_table(here) if here else f"no bundles in {folder}")
    if named:
        say.print()
        say.print(_registered_table(named))


@command.command("push")
@click.argument("model", type=click.Path())
@click.option("--name", required=True, help="The name to register it under.")
@tracking_uri_option
@click.pass_context
def push_model(ctx: click.Context, model: str, name: str, tracking_uri: str | None) -> None:
    """Register MODEL (m.pt) as the next version of NAME in MLflow's model registry."""
    from ..history.registry import push

    version, new = push(model, name, tracking_uri)
    said = f"registered as version {version} of {name}" if new else f"is version {version} of {name} already"
    console(ctx).print(f"{model} {said}; use it with --model models:/{name}/{version}")


@command.command("promote")
@click.argument("name")
@click.argument("version")
@click.option("--stage", type=click.Choice(["production", "staging", "archived"]), required=True, help="The stage.")
@tracking_uri_option
@click.pass_context
def promote_model(ctx: click.Context, name: str, version: str, stage: Stage, tracking_uri: str | None) -> None:
    """Give VERSION (a number, or latest) of NAME a stage.

    One version at a time holds production, and one staging; --model models:/NAME@production is then that version.
    """
    from ..history.registry import promote

    number, before = promote(name, version, stage, tracking_uri)
    after = f", in place of version {before}" if before is not None else ""
    console(ctx).print(f"version {number} of {name} is {stage}{after}")


def _bundle_table(bundles: list[BundleFacts]) -> rich.table.Table:
    table = _table("bundle", "scheme", "classes", "backbone", "accuracy", "hash")
    for item in bundles:
        table.add_row(
            rich.markup.escape(item.path.name),
            item.scheme,
            str(item.classes),
            item.backbone,
            _percent(item.accuracy),
            item.digest[:12],
        )
    return table


def _registered_table(versions: list[Registered]) -> rich.table.Table:
    table = _table("registered", "version", "stage", "scheme", "backbone", "accuracy", "hash", "since")
    for item in versions:
        since = datetime.datetime.fromtimestamp(item.created_ms / 1000, datetime.UTC)
        table.add_row(
            rich.markup.escape(item.name),
            str(item.version),
            item.stage or "-",
            item.scheme or "-",
            item.backbone or "-",
            _percent(item.accuracy),
            item.digest[:12] or "-",
            f"{since:%Y-%m-%d %H:%M}",
        )
    return table


def _table(*headings: str) -> rich.table.Table:
    table = rich.table.Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in ("version", "classes", "accuracy") else "left")
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
