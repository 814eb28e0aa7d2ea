"""geoclass train: labelled tiles to a model bundle."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import rich.table

from .options import all_of, console, device_option, overwrite_option, progress_bar, spread_options

if TYPE_CHECKING:
    import rich.console

    from ..bundle import Bundle
    from ..learning.search import Found

HEADS = ("logistic", "svm", "forest", "finetune")
AUGMENTATIONS = ("overhead", "sensor", "turns", "none")

what_options = all_of(
    click.option("--backbone", default="efficientnet_lite0", show_default=True,
                 help="efficientnet_lite0, alexnet, resnet18 … resnet152, or any timm name."),
    click.option("--weights", default="pretrained", show_default=True,
                 help="pretrained, random, or a file of weights for the backbone."),
    click.option("--head", type=click.Choice(HEADS), default="logistic", show_default=True,
                 help="What is trained: a head on frozen features, or with finetune the whole network."),
    click.option("--input-size", "input_px", type=int,
                 help="Side to which tiles are resampled for the network.  [default: half the tile's for efficientnet_lite0 (5/7 to fine-tune), else the tile's]"),
    click.option("--views", type=int,
                 help="Turned and mirrored views of a tile whose answers are averaged, 1 to 8.  [default: 4 for efficientnet_lite0, else 1]"),
    click.option("--soft", is_flag=True, help="Learn from the share of every class in a tile, not from one label."),
    click.option("--class-weights", is_flag=True, help="Give rare classes the weight of common ones."),
    click.option("--sample-frac", "sample_share", type=float, default=1.0, show_default=True,
                 help="Share of the training tiles to use."),
)  # fmt: skip

recipe_options = all_of(
    click.option("--epochs", type=int, default=10, show_default=True, help="Passes over the training tiles."),
    click.option("--batch-size", type=int, default=32, show_default=True, help="Tiles a step."),
    click.option("--learning-rate", type=float, default=5e-4, show_default=True, help="Highest rate of the last stage; the head has twice it."),
    click.option("--weight-decay", type=float, default=0.02, show_default=True, help="Decay of filters, by AdamW."),
    click.option("--layers", type=click.Choice(("all", "last")), default="all", show_default=True,
                 help="Train all of the network, or its last stage."),
    click.option("--layer-decay", type=float, default=0.95, show_default=True, help="Factor of the rate from a stage to the one before."),
    click.option("--dropout", type=float, default=0.0, show_default=True, help="Share of features dropped before the head."),
    click.option("--label-smoothing", "smoothing", type=float, default=0.0, show_default=True, help="Share of a label spread over all classes."),
    click.option("--mixup", type=float, default=0.0, show_default=True, help="α of mixup; 0 for none."),
    click.option("--consistency", type=float, default=2.0, show_default=True, help="Weight of answering alike to two renderings of a tile; 0 halves the time of an epoch."),
    click.option("--augment", "augmentation", type=click.Choice(AUGMENTATIONS), default="overhead", show_default=True,
                 help="Random changes of training tiles: turns; overhead adds compression and a little zoom and light; sensor much of both."),
    click.option("--ema", type=float, default=0.99, show_default=True, help="Weight of the past in the averaged weights that are kept."),
    click.option("--patience", type=int, default=4, show_default=True, help="Epochs without progress before stopping; 0 for never."),
)  # fmt: skip

data_options = all_of(
    click.option("--sensor", help="What the tiles were cut from: rgb8, naip, …, or a .toml file.  [default: the dataset's, or rgb8]"),
    click.option("--bands", help="Bands to use, as red,green,blue,nir.  [default: the dataset's, or red,green,blue]"),
    click.option("--gsd", "gsd_m", type=float, help="Ground sampling distance of the tiles in metres, where known."),
    click.option("--size", "size_px", type=int, help="Side of a tile in pixels.  [default: the dataset's, or 224]"),
    click.option("--scheme", help="Class scheme: nlcd6, eurosat10, …, or a .toml file.  [default: the dataset's, or told from the folders' names]"),
)  # fmt: skip


@click.command("train")
@click.argument("data", type=click.Path())
@click.option("-o", "--out", type=click.Path(), required=True, help="The bundle to write, as m.pt.")
@what_options
@recipe_options
@data_options
@click.option("--search", is_flag=True, help="Try backbones, heads and settings within --budget and keep the best.")
@click.option("--budget", default="10m", show_default=True, help="Time for --search, as 300s, 10m or 2h.")
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Seed of everything random."
)
@click.option("--no-cache", is_flag=True, help="Compute features anew, and keep none on disk.")
@click.option(
    "--track", is_flag=True, help="Record the run in MLflow as well (needs the extra: pip install 'geoclass[mlflow]')."
)
@click.option(
    "--tracking-uri",
    help="MLflow's store: an address or a .db file.  [default: MLFLOW_TRACKING_URI, else mlruns.db here]",
)
@device_option
@spread_options
@overwrite_option
@click.pass_context
def command(ctx: click.Context, /, data: str, out: str, **options: Any) -> None:
    """Train a model bundle on DATA: a folder from geoclass dataset, or one that holds a folder of pictures for each class.

    The run is recorded beside the bundle (m.run.json); see geoclass runs.
    """
    from ..environment import require_matching_torch

    require_matching_torch()
    from ..cluster.crew import Spread
    from ..errors import GeoclassError
    from ..predict import choose_device
    from ..train import train_to_file

    say = console(ctx)
    common = {
        "sensor": options["sensor"],
        "bands": [name.strip() for name in options["bands"].split(",")] if options["bands"] else None,
        "gsd_m": options["gsd_m"],
        "size_px": options["size_px"],
        "scheme": options["scheme"],
        "device": str(choose_device(options["device"])),
        "cache": not options["no_cache"],
        "overwrite": options["overwrite"],
        "track": options["track"],
        "tracking_uri": options["tracking_uri"],
    }
    spread = Spread(options["workers"], options["cluster"], console(ctx, err=True).print)
    if options["search"]:
        if spread:
            raise GeoclassError("--search runs in one process; give --workers or --cluster without it")
        from ..learning.search import parse_budget, search_to_file

        with progress_bar(ctx) as progress:
            found, bundle = search_to_file(
                data,
                Path(out),
                budget_s=parse_budget(options["budget"]),
                seed=options["seed"],
                progress=progress,
                **common,
            )
        say.print(_leaderboard(found))
        say.print(found.verdict)
        _tell(say, out, bundle)
        return
    with progress_bar(ctx) as progress:

        def on_epoch(epoch: dict[str, float]) -> None:
            say.print(
                f"epoch {epoch['epoch']:.0f}: loss {epoch['loss']:.3f}, accuracy {epoch['accuracy']:.3f}; "
                f"validation {epoch['validation_loss']:.3f}, {epoch['validation_accuracy']:.3f}"
            )

        bundle = train_to_file(
            data, Path(out), method=_method(options), spread=spread, progress=progress, on_epoch=on_epoch, **common
        )
    _tell(say, out, bundle)


def _leaderboard(found: Found) -> rich.table.Table:
    from ..learning.search import described

    table = rich.table.Table(box=None, pad_edge=False)
    for heading in ("", "head", "backbone", "input", "recipe", "held-out accuracy", "seconds"):
        table.add_column(heading, justify="right" if heading in ("held-out accuracy", "seconds") else "left")
    for place, trial in enumerate(found.trials, start=1):
        score = f"discarded: {trial.discarded}" if trial.discarded else f"{trial.accuracy:.3f}"
        table.add_row(str(place), *described(trial.method), score, f"{trial.seconds:.0f}")
    return table


def _method(options: dict[str, Any]) -> Any:
    from ..learning.finetune import Recipe
    from ..train import Method

    recipe = Recipe(**{field.name: options[field.name] for field in fields(Recipe)})
    weights = {"random": None}.get(options["weights"], options["weights"])
    names = ("head", "backbone", "input_px", "views", "soft", "class_weights", "sample_share", "seed")
    return Method(**{name: options[name] for name in names}, weights=weights, recipe=recipe)


def _tell(say: rich.console.Console, out: str, bundle: Bundle) -> None:
    meta, record = bundle.meta, bundle.meta.training
    say.print(f"{out}: {len(meta.scheme)} classes of scheme {meta.scheme.name}, hash {bundle.digest}")
    counts = ", ".join(f"{name} {count}" for name, count in record["tiles_per_class"].items())
    say.print(f"  trained on {record['tiles']} tiles of {record['source']}: {counts}")
    seen = f"{meta.input_px or meta.size_px} px, {meta.views} view{'s' if meta.views > 1 else ''}"
    say.print(f"  {record['head']}, {meta.backbone}, {seen}, {record['seconds']:.0f} s")
    if "cross_validated_accuracy" in record:
        say.print(f"  accuracy in {record['folds']}-fold cross-validation: {record['cross_validated_accuracy']:.3f}")
    if "validation_accuracy" in record:
        say.print(f"  accuracy on {record['validation_tiles']} validation tiles: {record['validation_accuracy']:.3f}")
    say.print(
        f"  calibration error {record['ece_before']:.3f}, with temperature {record['temperature']:.2f}: {record['ece_after']:.3f}"
    )
    for key in ("skipped", "resized"):
        if record[key]:
            say.print(f"  {key}: {record[key]} pictures")
    if record.get("note"):
        say.print(f"  note: {record['note']}")
