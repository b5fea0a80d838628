"""Scores of recipes against the work that their pre-training took."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .style import MUTED, OTHERS, PALETTE, new_figure, styled

UNTRAINED = "untrained"
CONTROLS = {UNTRAINED, "log-mel"}
"""Rows without pre-training, drawn as lines across."""


@styled
def draw_compute(
    lines: Iterable[Mapping[str, Any]], reference: str, size: str, division: str, readout: str = "rows_max"
) -> Any:
    """A panel a task: runs as small points, each recipe's means over seeds joined over sizes, controls as lines across.

    Where recipes are more than there are colours, those of one size alone are grey. What is far below the reference and
    the controls is a triangle at the lower edge.

    Args:
        lines: of a file of results (:mod:`EAT.comparison.runs`).
        reference: the recipe that is drawn heavier.
        size: one of those that are drawn; others are where the reference is the same but for its updates.
        division: which groups' accuracy.
        readout: of which features.
    """
    from matplotlib.ticker import NullFormatter

    lines = list(lines)
    theirs = {line["size"]: line["overrides"] for line in lines if line["recipe"] == reference}
    lines = [line for line in lines if theirs.get(line["size"]) == theirs.get(size)]
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
        seen = [value for name in CONTROLS | {reference} for of in recipes.get(name, {}).values() for _, value in of]
        floor = min(seen, default=0.0) - 5.0
        named = [recipe for recipe in trained if recipe == reference or len(recipes[recipe]) > 1]
        colours = dict(zip(trained if len(trained) <= len(PALETTE) else named, itertools.cycle(PALETTE), strict=False))
        for number, recipe in enumerate(trained):
            # Points of equal work stand side by side.
            beside = 1.5 ** ((number - (len(trained) - 1) / 2) / max(8, len(trained)))
            runs = [np.array(of) for of in recipes[recipe].values()]
            means = sorted((of[:, 0].mean() * beside, of[:, 1].mean()) for of in runs)
            colour = colours.get(recipe, OTHERS)
            axes.plot(*zip(*means, strict=True), "o-", color=colour, label=recipe if recipe in colours else None,
                      linewidth=2.5 if recipe == reference else 1.2, zorder=2 + (recipe in colours))  # fmt: skip
            for of in runs:
                place = np.full(len(of), of[:, 0].mean() * beside)
                axes.plot(place, of[:, 1], "o", color=colour, alpha=0.35, markersize=4)
                below = place[of[:, 1] < floor]
                axes.plot(below, np.full(len(below), floor + 0.3), "v", color=colour)
        axes.set(title=f"{task}, {readout}", xlabel="pre-training (TFLOP)", ylabel="accuracy (%)", xscale="log")
        works = sorted(float(np.mean([work for work, _ in of])) for of in recipes.get(reference, {}).values())
        axes.set_ylim(bottom=max(floor, axes.get_ylim()[0]))
        if works:
            axes.set_xlim(works[0] / 1.5, works[-1] * 1.5)
        axes.set_xticks(works, [f"{work:,.0f}" for work in works])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(True)
        if len(colours) < len(trained):
            axes.plot([], [], "o", color=OTHERS, label=f"{len(trained) - len(colours)} other recipes")
    figure.axes[-1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
