"""A picture of a recording: its spectrogram, and below it the most active classes over time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.labels import Label
from ..errors import ConfigError
from ..files import replacing
from ..inference.prediction import Prediction, best
from ..inference.windows import AudioStream
from ..network.front_end import FRAME_LENGTH, FRAME_SHIFT, HIGH_HZ, LOW_HZ, filterbank

COLUMNS = 1600
"""Widest spectrogram that is drawn; longer recordings are averaged over time."""
CLASSES = 10
FLOOR = -15.9
"""The filterbank's logarithm of next to nothing."""
TICKS_HZ = (250, 500, 1000, 2000, 4000, 8000)
TEXT, MUTED, PAPER = "#1f2430", "#6b7280", "#ffffff"


def check_library() -> None:
    """Raise ConfigError where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ConfigError("a picture needs matplotlib: pip install 'eat-audio[plot]'.") from None


def spectrogram(source: str) -> NDArray[np.float32]:
    """The log-mel filterbank of a recording, averaged over time to at most ``COLUMNS`` columns: (128, columns).

    Raises:
        DataError: where the recording cannot be read.
    """
    with AudioStream(source) as stream:
        frames = 1 + max(0, stream.samples - FRAME_LENGTH) // FRAME_SHIFT
        step = -(-frames // COLUMNS)
        per_read = max(1, 2048 // step) * step
        columns = []
        for first in range(0, frames, per_read):
            count = min(per_read, frames - first)
            mel = filterbank(stream.read(first * FRAME_SHIFT, FRAME_LENGTH + (count - 1) * FRAME_SHIFT))
            columns += [part.mean(dim=0) for part in mel.split(step)]
    return fill_empty_bands(torch.stack(columns).T.numpy())


def fill_empty_bands(bands: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give bands that hold nothing, (128, columns), the mean of their neighbours; changes and returns ``bands``.

    The lowest bands are narrower than the spectrum's bins and some catch none; the eye should not trip over them.
    """
    empty = np.flatnonzero(bands.max(axis=1) <= FLOOR)
    for row in empty[(empty > 0) & (empty < len(bands) - 1)]:
        bands[row] = (bands[row - 1] + bands[row + 1]) / 2
    return bands


def draw(prediction: Prediction, labels: Sequence[Label], path: str, classes: int = CLASSES) -> None:
    """Draw a prediction into an image file; its ending (.png, .svg, .pdf) says which kind.

    Args:
        prediction: of a recording that can still be read.
        labels: the classes.
        path: the image.
        classes: how many are shown.

    Raises:
        ConfigError: where matplotlib is not installed, or knows no such kind of file.
        DataError: where the recording cannot be read or the image not written.
    """
    check_library()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    mel = spectrogram(prediction.source)
    peaks = np.max([w.scores.numpy() for w in prediction.timeline] or [prediction.scores], axis=0)
    shown = best(peaks, min(classes, len(labels)))
    figure = Figure(figsize=(11, 3.1 + 0.3 * len(shown)), facecolor=PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, height_ratios=[2.4, 0.3 * len(shown) + 0.4])
    figure.suptitle(os.path.basename(prediction.source), color=TEXT, fontsize=13, x=0.01, ha="left")
    _draw_spectrogram(upper, mel, prediction.duration)
    names = [labels[index].display for index in shown]
    names = [name if len(name) <= 32 else name[:31] + "\N{HORIZONTAL ELLIPSIS}" for name in names]
    if prediction.timeline:
        _draw_timeline(figure, lower, prediction, shown, names)
        upper.sharex(lower)
        upper.tick_params(labelbottom=False)
    else:
        _draw_bars(lower, prediction, shown, names)
        upper.set_xlabel("time (s)", color=MUTED)
    kind = os.path.splitext(path)[1].lstrip(".").lower() or "png"
    if kind not in figure.canvas.get_supported_filetypes():
        raise ConfigError(f"{path} does not end in the name of a picture format, such as .png, .svg or .pdf.")
    with replacing(path, "wb") as handle:
        figure.savefig(handle, format=kind, dpi=150, facecolor=PAPER)


def _draw_spectrogram(axes: Any, mel: NDArray[np.float32], duration: float) -> None:
    # Silence sits at the floor of the logarithm; colours begin where sound does.
    heard = mel[mel > FLOOR]
    low, high = np.percentile(heard, [3, 99.7]) if heard.size else (FLOOR, 0.0)
    axes.imshow(
        mel, origin="lower", aspect="auto", extent=(0, duration, 0, len(mel)), cmap="magma", vmin=low, vmax=high,
        interpolation="nearest",
    )  # fmt: skip
    ticks = [hertz for hertz in TICKS_HZ if LOW_HZ < hertz <= HIGH_HZ]

    def mel_scale(hertz: float) -> float:
        return float(1127.0 * np.log1p(hertz / 700.0))

    bottom, top = mel_scale(LOW_HZ), mel_scale(HIGH_HZ)
    places = [(mel_scale(hertz) - bottom) / (top - bottom) * len(mel) for hertz in ticks]
    axes.set_yticks(places, [f"{hertz / 1000:g} k" if hertz >= 1000 else str(hertz) for hertz in ticks])
    axes.set_ylabel("frequency (Hz)", color=MUTED)
    _tidy(axes)


def _draw_timeline(figure: Any, axes: Any, prediction: Prediction, shown: Sequence[int], names: Sequence[str]) -> None:
    edges = [window.slot[0] for window in prediction.timeline] + [prediction.timeline[-1].slot[1]]
    scores = np.stack([window.scores.numpy()[list(shown)] for window in prediction.timeline], axis=1)
    mesh = axes.pcolormesh(edges, np.arange(len(shown) + 1), scores, cmap="Blues", vmin=0, vmax=1, rasterized=True)
    axes.set_ylim(len(shown), 0)
    axes.set_xlim(0, prediction.duration)
    axes.set_yticks(np.arange(len(shown)) + 0.5, names)
    for line in range(1, len(shown)):
        axes.axhline(line, color=PAPER, linewidth=2)
    axes.set_xlabel("time (s)", color=MUTED)
    bar = figure.colorbar(mesh, ax=axes, pad=0.01, aspect=12)
    bar.outline.set_visible(False)
    bar.set_label("score", color=MUTED)
    bar.ax.tick_params(color=MUTED, labelcolor=MUTED, length=0)
    _tidy(axes)
    if prediction.duration >= 120:
        axes.xaxis.set_major_formatter(lambda seconds, _: f"{int(seconds) // 60}:{int(seconds) % 60:02d}")
        axes.set_xlabel("time (min:s)", color=MUTED)


def _draw_bars(axes: Any, prediction: Prediction, shown: Sequence[int], names: Sequence[str]) -> None:
    values = [float(prediction.scores[index]) for index in shown]
    places = np.arange(len(shown))
    axes.barh(places, [1.0] * len(shown), color="#eef1f6", height=0.62)
    axes.barh(places, values, color="#2f6db5", height=0.62)
    for place, value in zip(places, values, strict=True):
        inside = value > 0.9
        axes.text(
            value + (-0.008 if inside else 0.008), place, f"{value:.2f}", va="center", fontsize=9,
            ha="right" if inside else "left", color=PAPER if inside else TEXT,
        )  # fmt: skip
    axes.set_yticks(places, names)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xlabel("score", color=MUTED)
    _tidy(axes)


def _tidy(axes: Any) -> None:
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, colors=MUTED)
    for label in axes.get_yticklabels():
        label.set_color(TEXT)
