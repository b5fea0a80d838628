"""A picture of a prediction: the recording's spectrogram, and below it the most active classes over time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data.labels import Label
from ..inference.prediction import Prediction, best
from .spectrogram import draw_mel, recording_mel, time_axis
from .style import BLUE, GRID, INK, MUTED, PAPER, bare, new_figure, save, shorten, styled

CLASSES = 10


def draw(prediction: Prediction, labels: Sequence[Label], path: str, classes: int = CLASSES) -> None:
    """:func:`draw_prediction` into an image file; its ending (.png, .svg, .pdf) says which kind.

    Raises:
        ConfigError: where matplotlib is not installed, or knows no such kind of file.
        DataError: where the recording cannot be read or the image not written.
    """
    save(draw_prediction(prediction, labels, classes), path)


@styled
def draw_prediction(prediction: Prediction, labels: Sequence[Label], classes: int = CLASSES) -> Any:
    """A recording's spectrogram, and below it the most active classes: over time, or of a short one as bars.

    Args:
        prediction: of a recording that can still be read.
        labels: the classes.
        classes: how many are shown.

    Raises:
        ConfigError: where matplotlib is not installed.
        DataError: where the recording cannot be read.
    """
    mel, seconds = recording_mel(prediction.source)
    peaks = np.max([w.scores.numpy() for w in prediction.timeline] or [prediction.scores], axis=0)
    shown = best(peaks, min(classes, len(labels)))
    figure = new_figure(11, 3.1 + 0.3 * len(shown))
    upper, lower = figure.subplots(2, 1, height_ratios=[2.4, 0.3 * len(shown) + 0.4])
    upper.set_title(os.path.basename(prediction.source))
    draw_mel(upper, mel, seconds)
    upper.set_xlim(0, prediction.duration)
    names = [shorten(labels[index].display, 32) for index in shown]
    if prediction.timeline:
        _draw_timeline(figure, lower, prediction, shown, names)
        upper.sharex(lower)
        upper.tick_params(labelbottom=False)
    else:
        _draw_bars(lower, prediction, shown, names)
        time_axis(upper, prediction.duration)
    return figure


def _draw_timeline(figure: Any, axes: Any, prediction: Prediction, shown: Sequence[int], names: Sequence[str]) -> None:
    edges = [window.slot[0] for window in prediction.timeline] + [prediction.timeline[-1].slot[1]]
    scores = np.stack([window.scores.numpy()[list(shown)] for window in prediction.timeline], axis=1)
    mesh = axes.pcolormesh(edges, np.arange(len(shown) + 1), scores, cmap="Blues", vmin=0, vmax=1, rasterized=True)
    axes.set_ylim(len(shown), 0)
    axes.set_xlim(0, prediction.duration)
    axes.set_yticks(np.arange(len(shown)) + 0.5, names)
    for line in range(1, len(shown)):
        axes.axhline(line, color=PAPER, linewidth=2)
    bar = figure.colorbar(mesh, ax=axes, pad=0.01, aspect=12)
    bar.outline.set_visible(False)
    bar.set_label("score", color=MUTED)
    bar.ax.tick_params(color=MUTED, labelcolor=MUTED, length=0)
    bare(axes)
    time_axis(axes, prediction.duration)


def _draw_bars(axes: Any, prediction: Prediction, shown: Sequence[int], names: Sequence[str]) -> None:
    values = [float(prediction.scores[index]) for index in shown]
    rows = np.arange(len(shown))
    axes.barh(rows, [1.0] * len(shown), color=GRID, height=0.62)
    axes.barh(rows, values, color=BLUE, height=0.62)
    for row, value in zip(rows, values, strict=True):
        inside = value > 0.9
        axes.text(
            value + (-0.008 if inside else 0.008), row, f"{value:.2f}", va="center", fontsize=9,
            ha="right" if inside else "left", color=PAPER if inside else INK,
        )  # fmt: skip
    axes.set_yticks(rows, names)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xlabel("score", color=MUTED)
    bare(axes)
