"""geoclass predict: single pictures to classes."""

from __future__ import annotations

import json
from typing import Any

import click
import rich.table
from rich.markup import escape

from .options import console, device_option, model_option, progress_bar, require_model, runtime_options


@click.command("predict")
@click.argument("pictures", nargs=-1, type=click.Path())
@model_option
@click.option("--top", type=click.IntRange(1), default=3, show_default=True, help="Classes to show for each picture.")
@click.option("--json", "as_json", is_flag=True, help="Print every probability as JSON.")
@click.option("--batch-size", type=click.IntRange(1), help="Pictures in one pass of the network.")
@device_option
@runtime_options
@click.pass_context
def command(
    ctx: click.Context, pictures: tuple[str, ...], model: str | None, top: int, as_json: bool, batch_size: int | None,
    device: str, runtime: str, precision: str,
) -> None:  # fmt: skip
    """Classify PICTURES, files or folders of JPEG, PNG or TIFF, each as one tile.

    A picture should show about as much ground as one of the model's tiles.
    """
    from ..environment import require_matching_torch

    path = require_model(model)
    require_matching_torch()
    from ..bundle import load_bundle
    from ..single import classify_pictures

    bundle = load_bundle(path)
    with progress_bar(ctx) as progress:
        answers = classify_pictures(
            pictures,
            bundle,
            device=device,
            batch_size=batch_size,
            runtime=runtime,
            precision=precision,
            progress=progress,
        )
    names = bundle.meta.scheme.names
    rows: list[dict[str, Any]] = [
        {
            "picture": str(picture),
            "class": names[int(row.argmax())],
            "probabilities": {name: round(float(share), 6) for name, share in zip(names, row, strict=True)},
        }
        for picture, row in zip(answers.paths, answers.probabilities, strict=True)
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        table = rich.table.Table(box=None, pad_edge=False)
        for heading in ("picture", "class", "probabilities"):
            table.add_column(heading)
        for row in rows:
            best = sorted(row["probabilities"].items(), key=lambda item: -item[1])[:top]
            table.add_row(
                escape(row["picture"]), row["class"], ", ".join(f"{name} {share:.3f}" for name, share in best)
            )
        console(ctx).print(table)
    for path in answers.unreadable:
        console(ctx, err=True).print(f"not readable as a picture, left out: {escape(str(path))}")
