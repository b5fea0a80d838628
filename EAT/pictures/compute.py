"""Scores of recipes against the work that their pre-training took."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .style import MUTED, OTHERS, PALETTE, new_figure, styled

Curves = Mapping[str, Mapping[int, Sequence[tuple[float, float]]]]
"""By recipe and the reference's updates, the work (TFLOP) and accuracy (%) of each run."""


@styled
def draw_compute(panels: Mapping[str, Curves], reference: str, controls: Sequence[str]) -> Any:
    """Runs as small points, each recipe's means over seeds joined over budgets, controls as lines across.

    Where recipes are more than there are colours, those of one budget alone are grey. What is far below the reference
    and the controls is a triangle at the lower edge.

    Args:
        panels: by their titles.
        reference: the recipe that is drawn heavier.
        controls: recipes without pre-training.
    """
    from matplotlib.ticker import NullFormatter

    figure = new_figure(5.2 * len(panels) + 1.4, 4.0)
    grid = figure.subplots(1, len(panels), squeeze=False).flat
    for axes, (title, recipes) in zip(grid, panels.items(), strict=True):
        trained = [recipe for recipe in recipes if recipe not in controls]
        for recipe, style in zip(controls, (":", "--"), strict=True):
            if recipe not in recipes:
                continue
            mean = float(np.mean([value for of in recipes[recipe].values() for _, value in of]))
            axes.axhline(mean, color=MUTED, linestyle=style, linewidth=1)
            axes.annotate(recipe, (1.0, mean), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                          color=MUTED, fontsize=8)  # fmt: skip
        seen = [value for name in (*controls, reference) for of in recipes.get(name, {}).values() for _, value in of]
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
        axes.set(title=title, xlabel="pre-training (TFLOP)", ylabel="accuracy (%)", xscale="log")
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
