"""Scores of recipes against the work that their pre-training took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .style import MUTED, PALETTE, new_figure, styled

UNTRAINED = "untrained"
CONTROLS = {UNTRAINED, "log-mel"}
"""Rows without pre-training, drawn as lines across."""


@styled
def draw_compute(lines: Iterable[Mapping[str, Any]], reference: str, division: str, readout: str = "rows_max") -> Any:
    """A panel a task: runs as small points, each recipe's means over seeds joined over sizes, controls as lines across.

    Args:
        lines: of a file of results (:mod:`EAT.comparison.runs`).
        reference: the recipe that is drawn heavier.
        division: which groups' accuracy.
        readout: of which features.
    """
    from matplotlib.ticker import NullFormatter

    points: dict[str, dict[str, dict[str, list[tuple[float, float]]]]] = {}
    for line in lines:
        for task, of in line["scores"].items():
            value = 100.0 * float(np.mean(of[readout][division]))
            sizes = points.setdefault(task, {}).setdefault(line["recipe"], {})
            sizes.setdefault(line["size"], []).append((line["gflop"] / 1000, value))
    figure = new_figure(5.2 * len(points) + 1.4, 4.0)
    grid = figure.subplots(1, len(points), squeeze=False).flat
    for axes, (task, recipes) in zip(grid, points.items(), strict=True):
        trained = [recipe for recipe in recipes if recipe not in CONTROLS]
        for recipe in CONTROLS & recipes.keys():
            mean = float(np.mean([value for of in recipes[recipe].values() for _, value in of]))
            axes.axhline(mean, color=MUTED, linestyle=":" if recipe == UNTRAINED else "--", linewidth=1)
            axes.annotate(recipe, (1.0, mean), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                          color=MUTED, fontsize=8)  # fmt: skip
        for number, recipe in enumerate(trained):
            beside = 1.02 ** (number - (len(trained) - 1) / 2)  # points of equal work stand side by side
            runs = [np.array(of) for of in recipes[recipe].values()]
            means = sorted((of[:, 0].mean() * beside, of[:, 1].mean()) for of in runs)
            colour = PALETTE[number % len(PALETTE)]
            axes.plot(*zip(*means, strict=True), "o-", color=colour, label=recipe,
                      linewidth=2.5 if recipe == reference else 1.2)  # fmt: skip
            for of in runs:
                axes.plot(
                    np.full(len(of), of[:, 0].mean() * beside), of[:, 1], "o", color=colour, alpha=0.35, markersize=4
                )
        axes.set(title=f"{task}, {readout}", xlabel="pre-training (TFLOP)", ylabel="accuracy (%)", xscale="log")
        works = sorted(float(np.mean([work for work, _ in of])) for of in recipes.get(reference, {}).values())
        axes.set_xticks(works, [f"{work:,.0f}" for work in works])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(True)
    figure.axes[-1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
