"""The front end against torchaudio and the published implementation's numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from EAT.audio.resampling import _resample_by_sample, resample
from EAT.errors import ConfigError
from EAT.network.encoder import Encoder
from EAT.network.front_end import FrontEnd, filterbank
from EAT.network.settings import EncoderSettings


@pytest.fixture(scope="module")
def waves(conformance: Path) -> dict[str, torch.Tensor]:
    with np.load(conformance / "frontend.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}


def kaldi(torchaudio, waveform: torch.Tensor) -> torch.Tensor:
    return torchaudio.compliance.kaldi.fbank(
        waveform[None],
        htk_compat=True,
        sample_frequency=16000,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=128,
        dither=0.0,
        frame_shift=10,
    )


COMPARE = """
import sys
import numpy as np, torch
from EAT.network.front_end import filterbank
file = np.load(sys.argv[1])
names = [name[5:] for name in file if name.startswith("wave_")]
print(len(names), max(
    (filterbank(torch.from_numpy(file["wave_" + n])) - torch.from_numpy(file["mel_" + n])).abs().max() for n in names
).item())
"""


def test_the_published_filterbanks(conformance: Path) -> None:
    # Where a bin holds next to nothing (logarithms near the floor of -15.9) float32's rounding inside the Fourier
    # transform decides the fourth digit, and that differs between processors. MKL's compatible code path rounds alike
    # on all of them, the one included on which the numbers were made; it has to be chosen before the library loads.
    done = subprocess.run(
        [sys.executable, "-c", COMPARE, str(conformance / "frontend.npz")],
        env={**os.environ, "MKL_CBWR": "COMPATIBLE"},
        capture_output=True,
        text=True,
        check=True,
    )
    count, error = done.stdout.split()
    assert int(count) == 5 and float(error) < 1e-5


def test_on_this_processor_the_published_filterbanks_differ_only_near_the_floor(waves: dict[str, torch.Tensor]) -> None:
    for name in [name[5:] for name in waves if name.startswith("wave_")]:
        ours, published = filterbank(waves[f"wave_{name}"]), waves[f"mel_{name}"]
        loud = published > -5
        torch.testing.assert_close(ours[loud], published[loud], rtol=0, atol=5e-5)
        torch.testing.assert_close(ours, published, rtol=0, atol=2e-3)


def test_equals_torchaudio_on_real_clips(torchaudio, clips: list[Path]) -> None:
    for clip in clips[::5]:
        samples, _ = soundfile.read(clip, dtype="float32")
        waveform = torch.from_numpy(samples)
        if len(waveform) < 400:
            continue
        torch.testing.assert_close(filterbank(waveform), kaldi(torchaudio, waveform), rtol=0, atol=1e-5)


def test_a_batch_equals_its_clips_one_by_one(torchaudio) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = [16000, 311, 400, 559, 560, 20000, 12345]
    clips = [torch.randn(n, generator=generator) * 0.1 + 0.05 for n in lengths]
    batch = torch.full((len(clips), 20500), 7.0)  # what stands behind a clip must not matter
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    front_end = FrontEnd(112, norm_mean=-4.268, norm_std=4.569)
    together = front_end(batch, torch.tensor(lengths))
    assert together.shape == (len(clips), 1, 112, 128)
    for row, clip in zip(together[:, 0], clips, strict=True):
        clip = clip - clip.mean()
        mel = kaldi(torchaudio, clip) if len(clip) >= 400 else filterbank(clip)
        padded = torch.zeros(112, 128)
        padded[: min(112, len(mel))] = mel[:112]
        torch.testing.assert_close(row, (padded + 4.268) / (2 * 4.569), rtol=0, atol=1e-4)
        assert len(mel) == FrontEnd.frames(len(clip))
    # 311 samples are one frame, then padding.
    torch.testing.assert_close(together[1, 0, 1:], torch.full((111, 128), 4.268 / (2 * 4.569)))


def test_frames_and_samples_are_inverse() -> None:
    for frames in (1, 2, 100, 1024):
        assert FrontEnd.frames(FrontEnd.samples_for(frames)) == frames
        assert FrontEnd.frames(FrontEnd.samples_for(frames + 1) - 1) == frames


def test_gradients_reach_the_waveform() -> None:
    waveform = torch.randn(2000, requires_grad=True)
    filterbank(waveform).sum().backward()
    assert waveform.grad is not None and torch.isfinite(waveform.grad).all()


def test_constants_that_cannot_normalise() -> None:
    with pytest.raises(ConfigError, match="target_length is 0"):
        FrontEnd(0)
    with pytest.raises(ConfigError, match="cannot normalise"):
        FrontEnd(1024, -4.0, 0.0)


def test_lengths_that_no_grid_has() -> None:
    encoder = Encoder(EncoderSettings(embed_dim=8, depth=1, num_heads=1))
    assert encoder.grid(1024) == (64, 8)
    with pytest.raises(ConfigError, match=r"length is 1000; it must be a multiple of 16 .* 992 or 1008"):
        encoder.grid(1000, "length")
    with pytest.raises(ConfigError, match="positions reach 12288 frames"):
        encoder.grid(16 * 769)
    wide = Encoder(EncoderSettings(embed_dim=8, depth=1, num_heads=1, patch_size=8, mel_bins=64))
    assert wide.grid(1000) == (125, 8) and wide(torch.zeros(1, 1, 40, 64)).tokens.shape == (1, 1 + 5 * 8, 8)


@pytest.mark.parametrize("rate", [44100, 32000])
def test_published_resampling(waves: dict[str, torch.Tensor], rate: int) -> None:
    ours = resample(waves[f"wave{rate // 1000}k"], rate, 16000)
    torch.testing.assert_close(ours, waves[f"wave{rate // 1000}k_to16k"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 24000, 44100, 48000, 96000, 192000])
def test_resampling_equals_torchaudio(torchaudio, rate: int) -> None:
    waveform = torch.randn(2, rate // 2 + 13, generator=torch.Generator().manual_seed(rate))
    ours = resample(waveform, rate, 16000)
    torch.testing.assert_close(ours, torchaudio.functional.resample(waveform, rate, 16000), rtol=0, atol=2e-6)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_rates_without_a_common_divisor_use_the_same_filter(rate: int) -> None:
    divisor = np.gcd(rate, 16000)
    waveform = torch.randn(rate // 4, generator=torch.Generator().manual_seed(rate))
    length = -(-len(waveform) * 16000 // rate)
    by_sample = _resample_by_sample(waveform, rate // divisor, 16000 // divisor, length, chunk=1000)
    torch.testing.assert_close(by_sample, resample(waveform, rate, 16000), rtol=0, atol=2e-4)


def test_an_odd_rate_keeps_a_tone_in_tune() -> None:
    rate = 44099  # a prime next to CD's rate: its polyphase kernel would take gigabytes
    seconds = torch.arange(rate) / rate
    tone = torch.sin(2 * torch.pi * 1000 * seconds)
    ours = resample(tone, rate, 16000)
    wanted = torch.sin(2 * torch.pi * 1000 * torch.arange(16000) / 16000)
    torch.testing.assert_close(ours[100:-100], wanted[100:-100], rtol=0, atol=2e-3)
