"""geoclass train: class folders to a model bundle."""

from __future__ import annotations

from pathlib import Path

import click

from .options import console, device_option, overwrite_option, progress_bar


@click.command("train")
@click.argument("folder", type=click.Path())
@click.option("-o", "--out", type=click.Path(), required=True, help="The bundle to write, as m.pt.")
@click.option(
    "--backbone",
    default="efficientnet_lite0",
    show_default=True,
    help="efficientnet_lite0, alexnet, resnet18 … resnet152, or any timm name.",
)
@click.option(
    "--weights", default="pretrained", show_default=True, help="pretrained, or a file of weights for the backbone."
)
@click.option(
    "--sensor", default="rgb8", show_default=True, help="What the tiles were cut from: rgb8, naip, …, or a .toml file."
)
@click.option("--gsd", "gsd_m", type=float, help="Ground sampling distance of the tiles in metres, where known.")
@click.option("--size", "size_px", type=int, default=224, show_default=True, help="Side of a tile in pixels.")
@click.option(
    "--scheme", help="Class scheme: nlcd6, eurosat10, …, or a .toml file.  [default: told from the folders' names]"
)
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Seed of everything random."
)
@device_option
@overwrite_option
@click.pass_context
def command(
    ctx: click.Context, folder: str, out: str, backbone: str, weights: str, sensor: str, gsd_m: float | None, size_px: int,
    scheme: str | None, seed: int, device: str, overwrite: bool,
) -> None:  # fmt: skip
    """Train a model bundle on FOLDER, which holds a folder of pictures for each class.

    The backbone's features are kept as they are, and a logistic regression on them is trained.
    """
    from ..environment import require_matching_torch

    require_matching_torch()
    from ..predict import choose_device
    from ..train import train_to_file

    with progress_bar(ctx) as progress:
        bundle = train_to_file(
            Path(folder), Path(out), backbone=backbone, weights=weights if weights == "pretrained" else Path(weights), sensor=sensor,
            gsd_m=gsd_m, size_px=size_px, scheme=scheme, seed=seed, device=str(choose_device(device)), overwrite=overwrite,
            progress=progress,
        )  # fmt: skip
    say = console(ctx)
    say.print(f"{out}: {len(bundle.meta.scheme)} classes of scheme {bundle.meta.scheme.name}, hash {bundle.digest}")
    for key, value in bundle.meta.training.items():
        say.print(f"  {key}: {value}")
