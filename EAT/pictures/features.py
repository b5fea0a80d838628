"""A clip's patch features as colours, under its spectrogram."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..audio.recordings import read_audio
from ..inference.model import EATModel
from .components import Array, principal_components
from .spectrogram import clip_mel, draw_mel, frequency_axis, time_axis
from .style import new_figure, styled


def as_colours(values: Array) -> Array:
    """(n, 3) numbers to (n, 3) in [0, 1], each by its rank in its column: outliers leave colours to the rest."""
    ranks = values.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
    colours: Array = (0.08 + 0.88 * ranks / max(1, len(values) - 1)).astype(np.float32)
    return colours


@styled
@torch.inference_mode()
def draw_features(model: EATModel, source: str, layer: int | None = None, target_length: int | None = None) -> Any:
    """A clip's spectrogram, and beneath it its patch features: three principal components as red, green and blue.

    Patches of like colour have like features; which colour it is means nothing.

    Args:
        model: a loaded model.
        source: the clip, at most two minutes long unless ``target_length`` cuts it.
        layer: 0 for the input to the first block, 1 to depth for a block's output; None is the last block.
        target_length: frames that the clip is cut to; None takes all of it.

    Raises:
        DataError: where the clip cannot be read.
        ConfigError: for a layer or length that does not exist.
    """
    front_end, number = type(model.front_end), model.layer_numbers(layer)[0]
    if target_length is not None:
        model.encoder.grid(target_length, "target_length")
    wanted = None if target_length is None else front_end(target_length).samples
    waveform = read_audio(source, wanted, **front_end.reading())
    frames = model.padded_frames(len(waveform))
    if target_length is not None:
        frames = target_length = min(frames, target_length)
    features = model.extract(
        waveform, front_end.sample_rate, layer=number, granularity="frame", target_length=target_length
    )  # (N, D)
    components = principal_components(features.float().cpu().numpy(), 3)
    colours = as_colours(components.values).reshape(-1, model.frequency_patches, 3).transpose(1, 0, 2)  # (F, T, 3)

    bands, seconds = clip_mel(waveform, frames, front_end), model.seconds(frames)
    figure = new_figure(min(16.0, max(6.5, frames * 0.012 + 2.5)), 5.0)
    upper, lower = figure.subplots(2, 1, sharex=True)
    draw_mel(upper, bands, seconds, front_end=front_end)
    upper.set_title(Path(source).name)
    extent = (0, seconds, 0, len(bands))
    lower.imshow(colours, origin="lower", aspect="auto", extent=extent, interpolation="nearest")
    frequency_axis(lower, front_end)
    time_axis(lower, seconds)
    what = "the input to the blocks" if number == 0 else f"block {number} of {model.encoder.settings.depth}"
    lower.set_title(f"Patch features of {what}: like colours, like features")
    pairs = zip(("red", "green", "blue"), components.fractions, strict=True)
    named = ", ".join(f"{name} {fraction:.0%}" for name, fraction in pairs)
    lower.set_xlabel(f"{lower.get_xlabel()}\n\nthree principal components, by rank: {named} of the variance")
    return figure
