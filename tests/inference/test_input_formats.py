"""The same clip in every format and at every rate gives nearly the same features: a table, with floors."""

import numpy as np
import pytest
import soundfile
import torch

import EAT
from EAT.audio.recordings import read_audio

from ..conftest import CONFORMANCE
from ..recordings import at_rate

LOSSLESS = {
    "wav 16 bit": ("WAV", "PCM_16"),
    "wav 24 bit": ("WAV", "PCM_24"),
    "wav 32 bit": ("WAV", "PCM_32"),
    "wav float": ("WAV", "FLOAT"),
    "flac": ("FLAC", "PCM_24"),
    "aiff": ("AIFF", "PCM_16"),
}
LOSSY = {"ogg": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"), "mp3": ("MP3", None)}
RATES = (8000, 16000, 22050, 44100, 48000, 96000)
OPUS_RATES = (8000, 16000, 48000)
FLOOR = 0.999
"""For lossless formats at rates that keep the band up to 8 kHz."""
LOSSY_FLOOR, NARROW_FLOOR = 0.90, 0.50
"""For lossy ones; and where 8 kHz has cut the band in half."""
CLIPS = ("loop_amen", "ambi_choir", "elec_chime", "drum_cymbal_open")


def similarity(model, waveform, reference):
    with torch.inference_mode():
        features, expected = (model.extract(w, target_length=256) for w in (waveform, reference))
    return torch.cosine_similarity(features, expected, dim=-1).mean().item()


def possible(kind, rate):
    return not (kind == "opus" and rate not in OPUS_RATES) and not (kind == "mp3" and rate > 48000)


def test_features_across_formats_and_rates(tmp_path, clips):
    model = EAT.load(CONFORMANCE / "official_pretrain.pt")
    chosen = [clip for clip in clips if clip.stem in CLIPS]
    references = {clip: read_audio(str(clip)) for clip in chosen}
    print(f"\n{'mean cosine':14s}" + "".join(f"{rate:>9d}" for rate in RATES for _ in (1,)) + "   (mono, stereo below)")
    for kind, (container, subtype) in {**LOSSLESS, **LOSSY}.items():
        for channels in (1, 2):
            row = f"{kind if channels == 1 else '  stereo':14s}"
            for rate in RATES:
                if not possible(kind, rate):
                    row += f"{'-':>9s}"
                    continue
                found = []
                for clip in chosen:
                    path = tmp_path / "clip"
                    samples = at_rate(clip, rate, 1)
                    samples = np.repeat(samples, channels, axis=1)
                    soundfile.write(path, samples, rate, format=container, subtype=subtype)
                    found.append(similarity(model, read_audio(str(path)), references[clip]))
                row += f"{min(found):9.5f}"
                floor = NARROW_FLOOR if rate < 16000 else FLOOR if kind in LOSSLESS else LOSSY_FLOOR
                assert min(found) >= floor, (kind, rate, channels, found)
            print(row)


def test_unlike_clips_are_told_apart(clips):
    """The floors mean something: another clip's features are further away than any format's."""
    model = EAT.load(CONFORMANCE / "official_pretrain.pt")
    chosen = [read_audio(str(clip)) for clip in clips if clip.stem in CLIPS]
    others = [similarity(model, a, b) for i, a in enumerate(chosen) for b in chosen[:i]]
    assert max(others) < FLOOR


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_channels_are_averaged(tmp_path, clips, channels):
    samples, rate = soundfile.read(clips[0], dtype="float32")
    weights = np.linspace(0.0, 2.0, channels) if channels > 1 else np.ones(1)
    soundfile.write(tmp_path / "c.wav", samples[:, None] * weights, rate, subtype="FLOAT")
    assert torch.allclose(read_audio(str(tmp_path / "c.wav")), torch.from_numpy(samples), atol=1e-6)
