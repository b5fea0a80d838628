"""Spectrograms as all pictures show them: the log-mel filterbank, hertz upwards, seconds to the right."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..audio.stream import AudioStream
from ..network.front_end import FrontEnd, mel
from .style import MUTED, bare

Mel = NDArray[np.float32]
"""(bins, columns)"""

COLUMNS = 1600
"""Widest spectrogram that is drawn; longer recordings are averaged over time."""
TICKS_HZ = (250, 500, 1000, 2000, 4000, 8000, 16000)


def clip_mel(waveform: Tensor, frames: int | None = None, front_end: type[FrontEnd] = FrontEnd) -> Mel:
    """A clip's filterbank without normalisation, cut or padded with silence to so many frames."""
    if frames is not None:
        missing = front_end.samples_for(frames) - len(waveform)
        waveform = torch.nn.functional.pad(waveform, (0, max(0, missing)))
    return _fill_empty_bands(front_end(1).spectrogram(waveform[None])[0, :frames].T.numpy().copy(), front_end.least)


def recording_mel(source: str, front_end: type[FrontEnd] = FrontEnd) -> tuple[Mel, float]:
    """The filterbank of a recording of any length, averaged over time to at most ``COLUMNS`` columns.

    Returns:
        The filterbank, and the seconds that its columns stand for: a frame is a hop long, and the recording may end a
        little before or after the last.

    Raises:
        DataError: where the recording cannot be read.
    """
    with AudioStream(source, **front_end.reading()) as stream:
        frames = front_end.frames(stream.samples)
        step = -(-frames // COLUMNS)
        per_read = max(1, 2048 // step) * step
        columns = []
        for first in range(0, frames, per_read):
            count = min(per_read, frames - first)
            samples = stream.read(first * front_end.hop, front_end.samples_for(count))
            columns += [part.mean(dim=0) for part in front_end(1).spectrogram(samples[None])[0].split(step)]
    seconds = len(columns) * step * front_end.hop / front_end.sample_rate
    return _fill_empty_bands(torch.stack(columns).T.numpy(), front_end.least), seconds


def _fill_empty_bands(bands: Mel, least: float) -> Mel:
    """Give bands that hold nothing the mean of their neighbours; changes and returns ``bands``.

    The lowest bands are narrower than the spectrum's bins and some catch none; the eye should not trip over them.
    """
    empty = np.flatnonzero(bands.max(axis=1) <= least)
    for row in empty[(empty > 0) & (empty < len(bands) - 1)]:
        bands[row] = (bands[row - 1] + bands[row + 1]) / 2
    return bands


def levels(bands: Mel, least: float = FrontEnd.least) -> dict[str, Any]:
    """Where colours begin and end: silence sits at the logarithm's floor, and colours begin where sound does."""
    heard = bands[bands > least]
    low, high = np.percentile(heard, [3, 99.8]) if heard.size else (least, 0.0)
    return {"vmin": float(low), "vmax": float(max(high, low + 1e-3))}


def draw_mel(axes: Any, bands: Mel, seconds: float, scale: Mel | None = None, front_end: Any = FrontEnd) -> None:
    """Draw a filterbank on axes of its own.

    Args:
        axes: matplotlib's.
        bands: NaN is left blank.
        seconds: how long it lasts.
        scale: takes the colours' range from this filterbank instead.
        front_end: whose bins and range they are.
    """
    extent = (0, seconds, 0, len(bands))
    axes.imshow(
        bands, origin="lower", aspect="auto", extent=extent, cmap="magma", interpolation="nearest",
        **levels(bands if scale is None else scale, front_end.least),
    )  # fmt: skip
    frequency_axis(axes, front_end)


def frequency_ticks(front_end: Any = FrontEnd) -> dict[str, float]:
    """What numbers an axis of mel bins: frequencies in hertz, as written, and how far up they lie, from 0 to 1."""
    low, high = mel(front_end.low_hz), mel(front_end.high_hz)
    ticks = [hertz for hertz in TICKS_HZ if front_end.low_hz < hertz <= front_end.high_hz]
    return {
        f"{hertz / 1000:g} k" if hertz >= 1000 else str(hertz): (mel(hertz) - low) / (high - low) for hertz in ticks
    }


def frequency_axis(axes: Any, front_end: Any = FrontEnd) -> None:
    """Number an axis of mel bins in hertz."""
    ticks = frequency_ticks(front_end)
    axes.set_yticks([place * front_end.bins for place in ticks.values()], list(ticks))
    axes.set_ylabel("frequency (Hz)", color=MUTED)
    bare(axes)


def time_axis(axes: Any, seconds: float) -> None:
    """Name an axis of seconds, in minutes and seconds from two minutes on."""
    axes.set_xlabel("time (s)", color=MUTED)
    if seconds >= 120:
        axes.xaxis.set_major_formatter(lambda second, _: f"{int(second) // 60}:{int(second) % 60:02d}")
        axes.set_xlabel("time (min:s)", color=MUTED)


def as_png(bands: Mel, columns: int | None = 480) -> bytes:
    """A filterbank as a PNG without axes, low bands at the bottom, of so many columns; None: as many as it has."""
    from matplotlib import image

    # No more columns than a screen shows, and enough of them for a short clip to keep its proportions.
    chosen = np.linspace(0, bands.shape[1] - 1, columns or bands.shape[1]).round().astype(int)
    content = io.BytesIO()
    image.imsave(content, bands[::-1, chosen], cmap="magma", format="png", **levels(bands))
    return content.getvalue()
