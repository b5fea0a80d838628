"""What masks leave of a clip for the student to see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..audio.recordings import read_audio
from ..network.encoder import check_frames
from ..network.front_end import FrontEnd
from ..network.masking import MASKINGS, mask_map
from ..network.random import clone_keys
from ..network.settings import EncoderSettings, MaskSettings, choose
from .spectrogram import clip_mel, draw_mel, time_axis
from .style import HIDDEN, new_figure, styled


@styled
def draw_masks(
    source: str, target_length: int | None, mask: MaskSettings, clones: int = 3, seed: int = 1, epoch: int = 1
) -> Any:
    """A clip's spectrogram, and beneath it what each clone's mask leaves of it.

    Args:
        source: the clip.
        target_length: frames that it is padded or cut to, whole patches; None is its own length, in whole patches.
        mask: the masking.
        clones: masked clones shown.
        seed: of the masks.
        epoch: of the masks.
    """
    if target_length is None:
        waveform = read_audio(source)
        size = EncoderSettings().patch_size
        frames = -(-FrontEnd.frames(len(waveform)) // size) * size
        grid = check_frames(frames, f"{source} (--target-length takes less)")
    else:
        frames = target_length
        grid = check_frames(frames, "target_length")
        waveform = read_audio(source, FrontEnd(frames).samples)
    front_end = FrontEnd(frames)
    bands = clip_mel(waveform, frames)
    normalised = front_end(waveform[None], torch.tensor([len(waveform)]))
    keys = clone_keys(seed, epoch, torch.tensor([0]), clones)
    drawn = choose(MASKINGS, mask.masking, "masking")(mask, grid, keys, normalised)
    hidden = mask_map(drawn)[0].view(clones, *grid).numpy()

    seconds = frames * front_end.hop / front_end.sample_rate
    figure = new_figure(min(16.0, max(6.0, grid.time * 0.16 + 2.5)), 1.75 * (clones + 1))
    for index, axes in enumerate(figure.subplots(clones + 1, 1, sharex=True)):
        shown, title = bands, f"{Path(source).name}, the whole spectrogram"
        if index:
            cells = np.kron(hidden[index - 1].T, np.ones((front_end.bins // grid.frequency,) * 2))
            shown = np.where(cells > 0, np.nan, bands)
            axes.set_facecolor(HIDDEN)
            title = f"clone {index}: {1.0 - hidden[index - 1].mean():.0%} of the patches visible"
        draw_mel(axes, shown, seconds, scale=bands)
        axes.set_title(title)
    time_axis(figure.axes[-1], seconds)
    return figure
