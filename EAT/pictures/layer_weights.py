"""How much heads on frozen features take from each layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .style import new_figure, styled


@styled
def draw_layer_weights(weights: Mapping[str, np.ndarray]) -> Any:
    """Bars by layer, one panel a head.

    Args:
        weights: by head, (L,) weights of layers 1 to L, which add up to 1.
    """
    figure = new_figure(8.0, 1.4 + 1.5 * len(weights))
    panels = np.atleast_1d(figure.subplots(len(weights), 1, sharex=True))
    for axes, (head, values) in zip(panels, weights.items(), strict=True):
        numbers = np.arange(1, len(values) + 1)
        axes.bar(numbers, values, width=0.75)
        axes.axhline(1 / len(values), linewidth=0.8, linestyle="--")
        axes.set_title(f"{head}: weights of the layers (dashed: all alike)")
        axes.set_ylabel("weight")
        axes.set_ylim(0, 1.1 * float(values.max()))
    panels[-1].set_xticks(numbers)
    panels[-1].set_xlabel("layer: a block's output")
    return figure
