"""Masks are shown with their blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from EAT.errors import ConfigError
from EAT.network.settings import MaskSettings
from EAT.pictures.masks import draw_masks

from ..conftest import CLIPS


def test_a_picture_of_masks_shows_blocks(tmp_path: Path) -> None:
    figure = draw_masks(str(CLIPS / "loop_garzul.flac"), 512, MaskSettings(), clones=2)
    assert len(figure.axes) == 3
    whole = figure.axes[0].images[0].get_array()
    assert whole.shape == (128, 512) and not np.ma.getmaskarray(whole).any()
    for axes in figure.axes[1:]:
        image = np.ma.getmaskarray(np.ma.masked_invalid(axes.images[0].get_array()))
        patches = ~image.reshape(8, 16, 32, 16).transpose(0, 2, 1, 3).reshape(8, 32, 256)
        assert (patches.all(axis=-1) == patches.any(axis=-1)).all()  # whole patches, visible or not
        visible = patches.all(axis=-1)
        assert visible.sum() == 51 == int(256 * (1 - 0.8))
        assert (visible[1:] & visible[:-1]).sum() > 20  # in blocks: at random, about 9 neighbouring pairs
        assert axes.get_ylabel() == "frequency (Hz)" and axes.get_yticklabels()[-1].get_text() == "8 k"
    assert figure.axes[-1].get_xlabel() == "time (s)"


def test_masks_are_of_the_clip_s_own_length_unless_another_is_asked_for() -> None:
    clip = CLIPS / "elec_bell.flac"
    samples = soundfile.info(clip).frames * 16_000 // soundfile.info(clip).samplerate
    frames = 1 + (samples - 400) // 160
    whole = -(-frames // 16) * 16  # in whole patches
    upper = draw_masks(str(clip), None, MaskSettings(), clones=1).axes[0]
    assert upper.images[0].get_array().shape == (128, whole) and whole != 1024
    assert upper.get_xlim() == (0, whole / 100)


def test_masks_of_a_recording_beyond_positions_name_the_way_out(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", np.zeros(8000 * 125, np.int16), 8000)
    with pytest.raises(ConfigError, match=r"long.wav \(--target-length takes less\) is 12512 frames"):
        draw_masks(str(tmp_path / "long.wav"), None, MaskSettings())
