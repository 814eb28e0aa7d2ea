"""Curves of a training: loss and accuracy after every epoch, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..files import replacing

TRAINING, VALIDATION, BEST = "#0072b2", "#d55e00", "#666666"


def write_curves(history: Sequence[Mapping[str, float]], path: Path) -> Path:
    """Write a PNG of two panels, loss and accuracy against epochs, in place of one that is there. Raises OutputError.

    Each epoch has `epoch`, `loss`, `accuracy` (of training tiles as augmented), `validation_loss` and
    `validation_accuracy`; the best epoch, that of the least validation loss, is marked.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(9, 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    epochs = [epoch["epoch"] for epoch in history]
    best = min(history, key=lambda epoch: epoch["validation_loss"])["epoch"]
    for axes, name, title in zip(figure.subplots(1, 2), ("loss", "accuracy"), ("Loss", "Accuracy"), strict=True):
        for key, colour, style, label in (
            (name, TRAINING, "--", "training, as augmented"),
            (f"validation_{name}", VALIDATION, "-", "validation"),
        ):
            axes.plot(epochs, [epoch[key] for epoch in history], style, color=colour, marker="o", ms=3.5, label=label)
        axes.axvline(best, color=BEST, lw=1, ls=":", zorder=0, label=f"kept: epoch {best:.0f}")
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e3e3e3", lw=0.7)
        axes.set_axisbelow(True)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(frameon=False, fontsize=8.5)
    with replacing(path) as temporary:
        figure.savefig(temporary)
    return path
