"""Vectors of clips: by hand, past padding, and of long recordings in windows."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

import EAT
from EAT.inference.readouts import READOUTS, summarise, width
from EAT.inference.windows import extract_recording
from EAT.network.front_end import FrontEnd


def by_hand(tokens: np.ndarray, frequency: int, readout: str) -> np.ndarray:
    """(1 + N, D) to the vector."""
    rows = [tokens[1 + f :: frequency] for f in range(frequency)]
    means, largest = [r.mean(axis=0) for r in rows], [r.max(axis=0) for r in rows]
    return {
        "utterance": tokens[0],
        "mean": tokens[1:].mean(axis=0),
        "rows": np.concatenate(means),
        "rows_max": np.concatenate(means + largest),
    }[readout]


@pytest.mark.parametrize("readout", READOUTS)
def test_readouts_of_parts_add_up_and_leave_padding_out(readout):
    rng = np.random.default_rng(1)
    tokens = rng.normal(size=(2, 3, 1 + 6 * 4, 5)) - 3.0  # clips, layers; all negative, so that a 0 would be a maximum
    real = torch.ones(2, 24, dtype=torch.bool)
    real[1, 8:] = False
    found = summarise(torch.from_numpy(tokens), 4, real).read(readout)
    assert found.shape == (2, 3, width(readout, 5, 4))
    for layer in range(3):
        assert np.allclose(found[0, layer], by_hand(tokens[0, layer], 4, readout))
        assert np.allclose(found[1, layer], by_hand(tokens[1, layer, :9], 4, readout))
    halves = [torch.from_numpy(np.concatenate([tokens[:, :, :1], part], axis=2))
              for part in (tokens[:, :, 1:9], tokens[:, :, 9:])]  # fmt: skip
    whole = summarise(torch.from_numpy(tokens), 4).read(readout)
    assert torch.allclose((summarise(halves[0], 4) + summarise(halves[1], 4)).read(readout), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_gives_them_of_each_clip_s_own_audio(conformance, dtype):
    model = EAT.load(conformance / "official_pretrain.pt").to(dtype)
    clips = [torch.randn(n, generator=torch.Generator().manual_seed(n)) * 0.1 for n in (16000, 9000, 30000)]
    for readout in READOUTS:
        padded = model.extract(clips, granularity=readout, target_length=256, layer=[1, 3])
        for clip, vector in zip(clips, padded, strict=True):
            tokens = model.extract(clip, target_length=256, layer=[1, 3]).float().numpy()
            patches = 8 * -(-min(256, FrontEnd.frames(len(clip))) // 16)
            expected = [by_hand(layer[: 1 + patches], 8, readout) for layer in tokens]
            assert np.allclose(vector.float(), expected, atol=1e-5 if dtype == torch.float32 else 0.05)
        assert model.extract(torch.stack([clips[0]] * 2), granularity=readout).shape == (2, width(readout, 64, 8))


def test_long_recordings_have_them_of_their_whole_timeline(conformance, tmp_path):
    model = EAT.load(conformance / "official_pretrain.pt")
    wave = torch.randn(16000 * 7, generator=torch.Generator().manual_seed(1)).numpy() * 0.1
    path = tmp_path / "long.wav"
    soundfile.write(path, wave, 16000, subtype="FLOAT")
    timeline = extract_recording(model, str(path), window=256, hop=128).numpy()
    for readout in READOUTS:
        vector = extract_recording(model, str(path), window=256, hop=128, granularity=readout)
        assert np.allclose(vector, by_hand(timeline, 8, readout), atol=1e-5)
