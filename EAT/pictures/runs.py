"""Curves of training runs: a panel for each kind of statistic that was logged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError
from .run_logs import TRAINING, Statistics
from .style import PALETTE, new_figure, styled

PANELS = {
    "loss": ("Loss", "log"),
    "*_loss": ("Loss terms", "log"),
    "*_std": ("Standard deviation", "linear"),
    "*_fraction": ("Fraction of the targets' variance", "linear"),
    "*_skill": ("Skill", "linear"),
    "lr": ("Learning rate", "linear"),
    "gnorm": ("Gradient norm", "log"),
    "clips_per_s": ("Clips per second", "linear"),
}
"""Title and scale of the panels; what is logged besides has a panel of its own."""
WORST_SKILL = -1.0
"""The least skill that is shown: twice the error of knowing nothing. CLS's falls far below in short runs."""
BOOKKEEPING = {
    "epoch", "update", "num_updates", "ups", "wps", "bsz", "wall", "train_wall", "gb_free", "clip", "loss_scale",
    "nonfinite", "masked_fraction", "ema_decay", "oom",
}  # fmt: skip
"""What is logged and not drawn."""
OF_TRAINING = ("clips_per_s", "best_")
"""How names begin that are not drawn of a validation."""


def panels(logged: set[str]) -> dict[str, list[str]]:
    """The statistics that are drawn together, by panel, in the order of :data:`PANELS`."""
    found: dict[str, list[str]] = {}
    for name in sorted(logged - BOOKKEEPING):
        ending = "*_" + name.rpartition("_")[2]
        found.setdefault(ending if ending in PANELS and name not in PANELS else name, []).append(name)
    order = list(PANELS)
    return dict(sorted(found.items(), key=lambda item: order.index(item[0]) if item[0] in PANELS else len(order)))


class Curve(NamedTuple):
    """A statistic of one run."""

    run: str
    split: str
    """:data:`EAT.pictures.run_logs.TRAINING`, or the split of a validation."""
    name: str
    updates: Sequence[float]
    values: Sequence[float]


@styled
def draw_runs(runs: Mapping[str, Mapping[str, Statistics]]) -> Any:
    """Curves of one or several runs over each other, over the same updates in every panel; validations have dots.

    Args:
        runs: by name, what :func:`EAT.pictures.run_logs.read_log` read.

    Raises:
        DataError: where nothing that could be drawn was logged.
    """
    curves = [
        Curve(run, split, name, statistics["num_updates"], values)
        for run, splits in runs.items()
        for split, statistics in splits.items()
        for name, values in statistics.items()
        if split == TRAINING or not name.startswith(OF_TRAINING)
    ]
    drawn = panels({curve.name for curve in curves})
    if not drawn:
        raise DataError(f"{', '.join(runs)}: the log holds nothing that could be drawn; let the run make some updates.")
    columns = min(3, len(drawn))
    rows = -(-len(drawn) // columns)
    figure = new_figure(4.2 * columns, 2.9 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True).flat
    for axes, (panel, names) in zip(grid, drawn.items(), strict=False):
        title, scale = PANELS.get(panel, (_title(panel), "linear"))
        _draw_curves(axes, [curve for curve in curves if curve.name in names], list(runs))
        if not all(value > 0 for line in axes.lines for value in line.get_ydata()):
            scale = "linear"  # a term may be negative
        axes.set(title=title, xlabel="update", yscale=scale)
        if panel == "*_skill":
            low, high = axes.get_ylim()
            if low < WORST_SKILL:
                best = max(value for line in axes.lines for value in line.get_ydata())
                axes.set_ylim(WORST_SKILL, min(high, max(best, 0.0) + 0.1))
        axes.tick_params(labelbottom=True)
        axes.grid(True)
        if scale == "log":
            _label_decades(axes)
        if any(line.get_label() and not line.get_label().startswith("_") for line in axes.lines):
            axes.legend(frameon=False)
    for axes in figure.axes[len(drawn) :]:
        axes.set_visible(False)
    return figure


def _words(name: str) -> str:
    return name.replace("_", " ")


def _title(name: str) -> str:
    """A name as people write it; an abbreviation such as mAP stays as it is."""
    return _words(name).capitalize() if name.islower() else _words(name)


def _draw_curves(axes: Any, curves: Sequence[Curve], runs: Sequence[str]) -> None:
    """Several runs: a colour a run, a dash a statistic; one run: a colour a statistic."""
    dashes, several = ("-", "--", ":", "-."), len(runs) > 1
    names = list(dict.fromkeys(curve.name for curve in curves))
    kinds = list(dict.fromkeys((curve.name, curve.split) for curve in curves))
    validated = any(split != TRAINING for _, split in kinds)
    for curve in curves:
        kind = kinds.index((curve.name, curve.split))
        parts = [curve.run] if several else []
        parts += [_words(curve.name.rpartition("_")[0])] if len(names) > 1 else []
        parts += ["training" if curve.split == TRAINING else curve.split] if validated else []
        axes.plot(
            curve.updates, curve.values, dashes[kind % len(dashes)] if several else "-",
            color=PALETTE[(runs.index(curve.run) if several else kind) % len(PALETTE)], linewidth=1.6,
            marker="" if curve.split == TRAINING else "o", markersize=4, label=", ".join(parts),
        )  # fmt: skip


def _label_decades(axes: Any) -> None:
    """Number a logarithmic axis where it has room, so that numbers never overlap."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axes.get_ylim()
    decades = np.log10(high / low)
    narrow = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)
    few = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
    steps = narrow if decades < 0.5 else few if decades < 1 else (1.0, 2.0, 5.0) if decades < 3 else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=steps))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(low, high)
