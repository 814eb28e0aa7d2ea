"""geoclass models: bundles made elsewhere."""

from __future__ import annotations

from pathlib import Path

import click

from .options import console, overwrite_option


@click.group("models")
def command() -> None:
    """Work with model bundles."""


@command.command("import")
@click.argument("weights", type=click.Path())
@click.option(
    "--arch", required=True, help="The network these weights are of: resnet50, efficientnet_lite0, any timm name, …"
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
    ctx: click.Context, weights: str, arch: str, classes: str | None, scheme: str | None, sensor: str, gsd_m: float | None,
    size_px: int, out: str, overwrite: bool,
) -> None:  # fmt: skip
    """Wrap WEIGHTS, a plain state dict (.pth, .pt or .safetensors), as a bundle. Nothing in the file is executed."""
    from ..environment import require_matching_torch

    require_matching_torch()
    from ..bundle import import_to_file

    names = [name.strip() for name in classes.split(",")] if classes else None
    bundle = import_to_file(
        Path(weights), Path(out), arch=arch, classes=names, scheme=scheme, sensor=sensor, gsd_m=gsd_m, size_px=size_px,
        overwrite=overwrite,
    )  # fmt: skip
    console(ctx).print(f"{out}: {arch}, {len(bundle.meta.scheme)} classes, hash {bundle.digest}")
