"""Curves of training runs: a panel for each kind of statistic that was logged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import DataError
from .style import PALETTE, new_figure, styled

Statistics = Mapping[str, Sequence[float]]

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
BOOKKEEPING = {
    "epoch", "update", "num_updates", "ups", "wps", "bsz", "wall", "train_wall", "gb_free", "clip", "loss_scale",
    "nonfinite", "masked_fraction", "ema_decay", "oom",
}  # fmt: skip
"""What is logged and not drawn."""


def panels(logged: set[str]) -> dict[str, list[str]]:
    """The statistics that are drawn together, by panel, in the order of :data:`PANELS`."""
    found: dict[str, list[str]] = {}
    for name in sorted(logged - BOOKKEEPING):
        ending = "*_" + name.rpartition("_")[2]
        found.setdefault(ending if ending in PANELS and name not in PANELS else name, []).append(name)
    order = list(PANELS)
    return dict(sorted(found.items(), key=lambda item: order.index(item[0]) if item[0] in PANELS else len(order)))


@styled
def draw_runs(runs: Mapping[str, Statistics]) -> Any:
    """Curves of one or several runs over each other.

    Args:
        runs: by name, what :func:`EAT.pictures.run_logs.read_run` read.

    Raises:
        DataError: where nothing that could be drawn was logged.
    """
    drawn = panels(set().union(*runs.values()))
    if not drawn:
        raise DataError(f"{', '.join(runs)}: the log holds nothing that could be drawn; let the run make some updates.")
    columns = min(3, len(drawn))
    rows = -(-len(drawn) // columns)
    figure = new_figure(4.2 * columns, 2.9 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (panel, names) in zip(grid, drawn.items(), strict=False):
        title, scale = PANELS.get(panel, (panel.replace("_", " ").capitalize(), "linear"))
        _draw_curves(axes, runs, names)
        if not all(value > 0 for line in axes.lines for value in line.get_ydata()):
            scale = "linear"  # a term may be negative
        axes.set(title=title, xlabel="update", yscale=scale)
        axes.grid(True)
        if scale == "log":
            _label_decades(axes)
        if any(line.get_label() and not line.get_label().startswith("_") for line in axes.lines):
            axes.legend(frameon=False)
    for axes in figure.axes[len(drawn) :]:
        axes.set_visible(False)
    return figure


def _draw_curves(axes: Any, runs: Mapping[str, Statistics], names: Sequence[str]) -> None:
    """Several runs: a colour a run, a dash a statistic; one run: a colour a statistic."""
    dashes = ("-", "--", ":", "-.")
    for run_index, (run, statistics) in enumerate(runs.items()):
        for index, name in enumerate(names):
            if name not in statistics:
                continue
            parts = [run] if len(runs) > 1 else []
            parts += [name.rpartition("_")[0].replace("_", " ")] if len(names) > 1 else []
            colour = PALETTE[(run_index if len(runs) > 1 else index) % len(PALETTE)]
            dash = dashes[index % len(dashes)] if len(runs) > 1 else "-"
            axes.plot(statistics["num_updates"], statistics[name], dash, color=colour, linewidth=1.6,
                      label=", ".join(parts))  # fmt: skip


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
