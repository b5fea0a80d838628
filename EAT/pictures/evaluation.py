"""The report's pictures, as files in memory."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..inference.evaluation import Evaluation
from .fonts import use_fonts_for_every_script
from .style import BLUE, INK, MUTED, PALE, PALETTE, new_figure, shorten, styled

MOST_BARS = 60
"""Classes above which a bar chart shows the best and the worst only."""
MOST_LINES = 8
"""Classes up to which each gets its own precision-recall curve."""


def as_svg(figure: Any) -> bytes:
    """A figure as a file."""
    content = io.BytesIO()
    use_fonts_for_every_script(figure, keeps_text=True)
    figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return content.getvalue()


@styled
def bars(names: Sequence[str], values: np.ndarray, title: str) -> bytes:
    """Horizontal bars from the best class to the worst; NaN is left out."""
    order = [index for index in np.argsort(-values, kind="stable") if np.isfinite(values[index])]
    panels = [order] if len(order) <= MOST_BARS else [order[: MOST_BARS // 2], order[-MOST_BARS // 2 :]]
    canvas = new_figure(9.0 if len(panels) == 1 else 11.0, 0.6 + 0.24 * max(2, len(panels[0])))
    axes = canvas.subplots(1, len(panels), squeeze=False)[0]
    captions = [title] if len(panels) == 1 else [f"{title}: the best", f"{title}: the worst"]
    for axis, panel, caption in zip(axes, panels, captions, strict=True):
        places = np.arange(len(panel))
        axis.barh(places, values[panel], color=BLUE, height=0.72)
        axis.set_yticks(places, [shorten(names[index]) for index in panel])
        for place, index in zip(places, panel, strict=True):
            axis.text(values[index] + 0.01, place, f"{values[index]:.2f}", va="center", fontsize=8, color=MUTED)
        axis.set_xlim(0, 1.06)
        axis.set_ylim(len(panel) - 0.4, -0.6)
        axis.set_title(caption, loc="left", fontsize=11)
        axis.grid(axis="y", visible=False)
        axis.tick_params(length=0)
        axis.spines[["left", "bottom"]].set_visible(False)
    return as_svg(canvas)


@styled
def confusion_picture(names: Sequence[str], confusion: np.ndarray) -> bytes:
    """Rows by truth, columns by prediction; colour is the fraction of the row, numbers are clips."""
    clips = confusion.sum(axis=1, keepdims=True)
    fraction = np.divide(confusion, clips, out=np.zeros(confusion.shape), where=clips > 0)
    classes = len(names)
    side = float(np.clip(3.4 + 0.42 * classes, 5.0, 15.0))
    size = float(np.clip(300 / classes, 5, 10))
    canvas = new_figure(side + 0.8, side)
    axis = canvas.subplots()
    image = axis.imshow(fraction, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axis.grid(visible=False)
    if classes <= MOST_BARS:
        axis.set_xticks(range(classes), [shorten(name, 22) for name in names], rotation=90, fontsize=size)
        axis.set_yticks(range(classes), [shorten(name, 22) for name in names], fontsize=size)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    if classes <= 36:
        for row, column in zip(*np.nonzero(confusion), strict=True):
            colour = "white" if fraction[row, column] > 0.55 else INK
            text = str(confusion[row, column])
            axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)
    axis.set_xlabel("prediction")
    axis.set_ylabel("truth")
    canvas.colorbar(image, ax=axis, shrink=0.6, pad=0.02, label="fraction of the true class").outline.set_visible(False)
    return as_svg(canvas)


def interpolated_precision(scores: np.ndarray, targets: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """The best precision at each recall or beyond, for one class (n,) or several joined."""
    from sklearn.metrics import precision_recall_curve

    precision, reached, _ = precision_recall_curve(targets, scores)  # recall falls from 1 to 0
    best = np.maximum.accumulate(precision)
    return best[::-1][np.searchsorted(reached[::-1], recall, side="left")]


@styled
def precision_recall(evaluation: Evaluation) -> bytes:
    """Precision over recall: of all decisions together, and by class, or of many classes their middle and spread."""
    present = np.flatnonzero(evaluation.targets.any(axis=0))
    recall = np.linspace(0, 1, 201)
    scores, targets = evaluation.scores, evaluation.targets
    curves = np.stack([interpolated_precision(scores[:, label], targets[:, label], recall) for label in present])
    canvas = new_figure(9.0, 4.6)
    axis = canvas.subplots()
    if len(present) <= MOST_LINES:
        for label, curve, colour in zip(present, curves, PALETTE, strict=False):
            (line,) = axis.plot(recall, curve, color=colour, linewidth=1.4, alpha=0.9)
            line.set_label(shorten(evaluation.labels[label].display).lstrip("_") or "_")
    else:
        low, middle, high = np.quantile(curves, [0.25, 0.5, 0.75], axis=0)
        axis.fill_between(recall, low, high, color=PALE, linewidth=0, label="middle half of the classes")
        axis.plot(recall, middle, color=BLUE, linewidth=2, label="median class")
    together = interpolated_precision(scores[:, present].ravel(), targets[:, present].ravel(), recall)
    axis.plot(recall, together, color=INK, linewidth=2, linestyle="--", label="all decisions together")
    axis.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    return as_svg(canvas)
