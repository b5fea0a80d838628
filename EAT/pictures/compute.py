"""Scores of recipes against the work that their pre-training took."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .style import MUTED, PALETTE, new_figure, styled


@styled
def draw_compute(lines: Iterable[Mapping[str, Any]], reference: str, division: str, readout: str = "rows_max") -> Any:
    """A panel a task: each run a point, each recipe's means over seeds joined over sizes; controls as lines across.

    Args:
        lines: of a file of results (:mod:`EAT.comparison.runs`).
        reference: the recipe that is drawn heavier.
        division: which groups' accuracy.
        readout: of which features.
    """
    points: dict[str, dict[str, dict[float, list[float]]]] = {}
    for line in lines:
        for task, of in line["scores"].items():
            value = 100.0 * float(np.mean(of[readout][division]))
            points.setdefault(task, {}).setdefault(line["recipe"], {}).setdefault(line["gflop"], []).append(value)
    figure = new_figure(5.2 * len(points), 4.0)
    grid = figure.subplots(1, len(points), squeeze=False).flat
    for axes, (task, recipes) in zip(grid, points.items(), strict=True):
        colours = iter(PALETTE * math.ceil(len(recipes) / len(PALETTE)))
        for recipe, works in recipes.items():
            if set(works) == {0.0}:
                mean = float(np.mean(works[0.0]))
                axes.axhline(mean, color=MUTED, linestyle=":" if recipe == "untrained" else "--", linewidth=1)
                axes.annotate(recipe, (1.0, mean), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                              color=MUTED, fontsize=8)  # fmt: skip
                continue
            colour = next(colours)
            for work, values in works.items():
                axes.plot([work / 1000] * len(values), values, "o", color=colour, alpha=0.35, markersize=4)
            means = sorted((work / 1000, float(np.mean(values))) for work, values in works.items())
            axes.plot(*zip(*means, strict=True), "o-", color=colour, label=recipe,
                      linewidth=2.5 if recipe == reference else 1.2)  # fmt: skip
        axes.set(title=task, xlabel="pre-training (TFLOP)", ylabel="accuracy (%)", xscale="log")
        axes.grid(True)
        axes.legend(fontsize=7, frameon=False)
    return figure
