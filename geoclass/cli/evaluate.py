"""geoclass evaluate: how right a model or a map is, with a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import rich.table

from .options import console, device_option, ignore_codes_option, overwrite_option, progress_bar, spread_options

if TYPE_CHECKING:
    from ..datasets.fractions import Ignore
    from ..evaluation.scores import Evaluation


@click.command("evaluate")
@click.argument("data", type=click.Path())
@click.option(
    "--model", "-m", "models", multiple=True, help="Model bundle to score on DATA; give several to compare them."
)
@click.option("--labels", type=click.Path(), help="Reference for a finished map: a label raster, polygons or points.")
@click.option("--class-field", help="Field of --labels that holds the class, for polygons and points.")
@click.option("--layer", help="Layer of --labels, where it has several.")
@click.option("--scheme", help="Class scheme of --labels.  [default: the map's]")
@ignore_codes_option
@click.option(
    "--min-purity",
    type=float,
    default=0.0,
    show_default=True,
    help="Leave out tiles whose reference class has a smaller share.",
)
@click.option(
    "--split",
    type=click.Choice(("test", "validation", "train", "all")),
    help="Tiles to score on.  [default: test; all of class folders]",
)
@click.option("--report", type=click.Path(), help="Write a report: REPORT.html, and .json and .csv beside it.")
@click.option(
    "--allow-leak", is_flag=True, help="Score even on tiles that the model was trained on, to see how much that lies."
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Seed of the bootstrap.")
@device_option
@spread_options
@overwrite_option
@click.pass_context
def command(
    ctx: click.Context, data: str, models: tuple[str, ...], labels: str | None, class_field: str | None, layer: str | None,
    scheme: str | None, ignore: Ignore, min_purity: float, split: str | None, report: str | None, allow_leak: bool, seed: int, device: str,
    workers: int | None, cluster: str | None, overwrite: bool,
) -> None:  # fmt: skip
    """Score models on DATA, labelled tiles, or a finished map DATA (its .gpkg) against --labels.

    DATA is a folder from geoclass dataset, of which the test split is scored, or a folder of class folders. Tiles that
    look like ones a model was trained on are refused.
    """
    from ..environment import require_matching_torch
    from ..errors import EvaluationError
    from ..outputs.report import report_files

    if report:
        from ..files import require_absent

        require_absent(list(report_files(Path(report))), overwrite)
    if labels:
        if models:
            raise EvaluationError("--labels scores a finished map, --model scores labelled tiles; give one of them")
        found, pictures = _of_map(data, labels, class_field, layer, scheme, ignore, min_purity, seed), None
    else:
        if ignore:
            raise EvaluationError("--ignore-codes is of a reference's codes; give the reference with --labels")
        if not models:
            raise EvaluationError(
                "nothing to score: give --model m.pt for labelled tiles, or --labels FILE for a finished map"
            )
        require_matching_torch()
        from ..bundle import load_bundle
        from ..cluster.crew import Spread, require_cluster
        from ..evaluation.assessment import assess, pictures_of
        from ..evaluation.scores import evaluate
        from ..history.registry import resolve

        spread = Spread(workers, cluster, console(ctx, err=True).print)
        require_cluster(spread)
        found, pictures = [], None
        with progress_bar(ctx) as progress:
            for name, model in zip(_names(models), models, strict=True):
                bundle = load_bundle(resolve(model))
                assessed = assess(
                    data,
                    bundle,
                    name=name,
                    split=split,
                    allow_leak=allow_leak,
                    device=device,
                    spread=spread,
                    progress=progress,
                )
                random = bundle.meta.training.get("random_split_accuracy")
                found.append(evaluate(assessed.scored, random=random, temperature=bundle.meta.temperature, seed=seed))
                pictures = pictures or pictures_of(assessed.tiles)
                _tell_leak(ctx, name, assessed)
    _tell(ctx, found)
    if report:
        from ..outputs.report import write_report

        for path in write_report(Path(report), found, pictures=pictures, overwrite=overwrite):
            console(ctx).print(f"{path}")


def _of_map(
    data: str,
    labels: str,
    class_field: str | None,
    layer: str | None,
    scheme: str | None,
    ignore: Ignore,
    min_purity: float,
    seed: int,
) -> list[Evaluation]:
    from ..evaluation.assessment import assess_result
    from ..evaluation.scores import evaluate
    from ..schemes import load_scheme

    scored = assess_result(
        data, labels, scheme=load_scheme(scheme) if scheme else None, class_field=class_field, layer=layer,
        ignore=ignore, min_purity=min_purity,
    )  # fmt: skip
    return [evaluate(scored, seed=seed)]


def _names(models: tuple[str, ...]) -> list[str]:
    """What to call each model: its file's name, or all of what was given where two are the same."""
    stems = [Path(model).stem if Path(model).suffix else model for model in models]
    return [stem if stems.count(stem) == 1 else model for stem, model in zip(stems, models, strict=True)]


def _tell_leak(ctx: click.Context, name: str, assessed: object) -> None:
    from ..evaluation.assessment import Assessed

    assert isinstance(assessed, Assessed)
    if not assessed.leaked.any():
        return
    clean = assessed.clean
    honest = f"{float(clean.right.mean()):.3f} on the {len(clean)} others" if clean else "and there are no others"
    console(ctx).print(
        f"{name}: {int(assessed.leaked.sum())} of {len(assessed.tiles)} tiles look like training tiles; "
        f"accuracy {float(assessed.scored.right.mean()):.3f} with them, {honest}"
    )


def _tell(ctx: click.Context, found: list[Evaluation]) -> None:
    say = console(ctx)
    for evaluation in found:
        scores = evaluation.scores
        say.print(f"{evaluation.scored.model}: {evaluation.headline}")
        table = rich.table.Table(box=None, pad_edge=False)
        table.add_column("class")
        for heading in ("tiles", "precision", "recall", "F1"):
            table.add_column(heading, justify="right")
        for row in scores.classes:
            numbers = [getattr(row, name).value for name in ("precision", "recall", "f1")]
            table.add_row(row.name, f"{row.tiles:,}", *(_share(number) for number in numbers))
        say.print(table)
    if len(found) > 1:
        from ..evaluation.comparison import compare

        for pair in compare([evaluation.scored for evaluation in found]):
            say.print(
                f"{pair.first} right alone on {pair.only_first}, {pair.second} on {pair.only_second} tiles; "
                f"McNemar's test: p = {pair.p_holm:.3g}"
            )


def _share(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3f}"
