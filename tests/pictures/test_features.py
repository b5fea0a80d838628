"""Features are shown on their grid."""

from __future__ import annotations

import numpy as np

import EAT
from EAT.pictures.components import principal_components
from EAT.pictures.features import as_colours, draw_features

from ..conftest import CLIPS, CONFORMANCE


def test_colours_follow_ranks() -> None:
    colours = as_colours(np.array([[1.0, 9, 5], [2, 8, 5.5], [900, 7, 6]], np.float32))
    np.testing.assert_allclose(colours[:, 0], [0.08, 0.52, 0.96], atol=1e-6)
    np.testing.assert_allclose(colours[:, 1], [0.96, 0.52, 0.08], atol=1e-6)


def test_a_picture_of_features_shows_the_grid() -> None:
    model = EAT.load(CONFORMANCE / "official_pretrain.pt")
    figure = draw_features(model, str(CLIPS / "loop_garzul.flac"), target_length=128)
    upper, lower = figure.axes
    assert upper.images[0].get_array().shape == (128, 128)  # mel bins, frames
    colours = lower.images[0].get_array()
    assert colours.shape == (8, 8, 3) and 0 <= colours.min() < colours.max() <= 1
    assert upper.images[0].get_extent() == lower.images[0].get_extent() == [0, 1.28, 0, 128]
    assert lower.get_xlabel().startswith("time (s)") and upper.get_ylabel() == lower.get_ylabel() == "frequency (Hz)"
    assert "block 3 of 3" in lower.get_title(loc="left") and upper.get_title(loc="left") == "loop_garzul.flac"
    # patch (time 3, frequency 2) is at row 3 * 8 + 2 of the features
    waveform = EAT.audio.recordings.read_audio(str(CLIPS / "loop_garzul.flac"), 400 + 127 * 160)
    features = model.extract(waveform, granularity="frame").detach().numpy()
    expected = as_colours(principal_components(features, 3).values)[3 * 8 + 2]
    np.testing.assert_allclose(colours[2, 3], expected, atol=1e-6)
