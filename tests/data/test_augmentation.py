"""Augmentations against torchaudio, SciPy's distributions and values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from EAT.data.augmentation import (
    DRAWN,
    Augmentation,
    add_noise,
    batch_rng,
    draw_span,
    mask_span,
    mix,
    roll_frames,
)
from EAT.errors import ConfigError

EVERYTHING = Augmentation(0.8, 0.9, 0.2, 0.3, True, 10.0, 0.1, 10)


@pytest.mark.parametrize("axis", [2, 3])
def test_masks_equal_torchaudios_for_the_same_start_and_width(torchaudio, axis: int) -> None:
    filterbank = torch.randn(1, 1, 96, 128)
    for seed in range(20):
        torch.manual_seed(seed)
        theirs = torchaudio.functional.mask_along_axis(filterbank, 30, 0.0, axis)
        torch.manual_seed(seed)  # what torchaudio draws: a width, then a start
        width = torch.rand(1) * 30
        start = torch.rand(1) * (filterbank.shape[axis] - width)
        ours = mask_span(filterbank, start.long(), width.long(), axis)
        assert torch.equal(ours, theirs)


def test_spans_are_distributed_as_torchaudios(torchaudio) -> None:
    rng = np.random.default_rng(0)
    spans = np.array([draw_span(rng, 100, 0.2) for _ in range(20_000)])
    starts, widths = spans.T
    assert widths.min() == 0 and widths.max() == 19 and (starts + widths).max() <= 100
    assert stats.chisquare(np.bincount(widths, minlength=20)).pvalue > 1e-3  # uniform
    torch.manual_seed(0)
    ones = torch.ones(1, 1, 100, 1).expand(4000, 1, 100, 1)
    theirs = torchaudio.functional.mask_along_axis_iid(ones, 20, 0.0, 2)[:, 0, :, 0] == 0
    masked = np.zeros(100)
    for start, width in spans:
        masked[start : start + width] += 1
    assert np.abs(masked / len(spans) - theirs.double().mean(dim=0).numpy()).max() < 0.03


def test_nothing_is_masked_at_share_zero() -> None:
    assert draw_span(np.random.default_rng(0), 128, 0.0)[1] == 0


def test_each_clip_has_its_own_mask() -> None:
    filterbank = torch.ones(2, 1, 4, 3)
    masked = mask_span(filterbank, torch.tensor([0, 2]), torch.tensor([1, 2]), axis=2)
    assert masked[:, 0, :, 0].tolist() == [[0, 1, 1, 1], [1, 1, 0, 0]]


def test_mixup_by_hand() -> None:
    batch = torch.tensor([[1.0, 0.0], [2.0, 10.0], [5.0, 20.0]])
    assert mix(batch, 0.75).tolist() == [[2.0, 5.0], [2.0, 10.0], [4.0, 15.0]]
    assert mix(batch, 1.0) is batch


def test_mixing_weights_follow_beta_and_the_probability() -> None:
    rng = np.random.default_rng(0)
    weights = np.array([EVERYTHING.draw_mixing(rng) for _ in range(20_000)])
    mixed = weights[weights != 1.0]
    assert abs(len(mixed) / len(weights) - 0.9) < 0.01
    assert stats.kstest(mixed, stats.beta(0.8, 0.8).cdf).pvalue > 1e-3
    assert Augmentation().draw_mixing(rng) == 1.0


def test_waveforms_are_rolled_and_scaled() -> None:
    waveform = torch.arange(1.0, 6.0)
    factors, shifts = [], []
    for clip in range(3000):
        result = EVERYTHING.waveform(waveform, np.random.default_rng(clip))
        factor = float(result.sum() / waveform.sum())
        shift = int(result.argmax() + 1) % 5
        assert torch.allclose(result, torch.roll(waveform, shift) * factor)
        factors.append(factor - 0.5)
        shifts.append(shift)
    assert stats.kstest(factors, stats.beta(10, 10).cdf).pvalue > 1e-3
    assert stats.chisquare(np.bincount(shifts)).pvalue > 1e-3
    assert torch.equal(Augmentation().waveform(waveform, np.random.default_rng(0)), waveform)


def test_noise_is_uniform_up_to_the_clips_level() -> None:
    filterbank = torch.randn(2, 1, 128, 128)
    noisy = add_noise(filterbank, torch.tensor([0.1, 0.02], dtype=torch.float64), [5, 6])
    for clip, level in enumerate((0.1, 0.02)):
        noise = ((noisy - filterbank)[clip].flatten() / level).double().numpy()
        assert stats.kstest(noise[::7], stats.uniform.cdf).pvalue > 1e-3
    assert torch.equal(noisy[1:], add_noise(filterbank[1:], torch.tensor([0.02]), [6]))  # whatever the batch


def test_frames_roll_by_hand() -> None:
    filterbank = torch.tensor([[1.0, 2, 3, 4], [1, 2, 3, 4]]).view(2, 1, 4, 1)
    assert roll_frames(filterbank, torch.tensor([1.0, -1.0])).flatten(1).tolist() == [[4, 1, 2, 3], [2, 3, 4, 1]]


def test_what_is_drawn_for_a_clip() -> None:
    drawn = np.array([EVERYTHING.draw(np.random.default_rng(clip), 512, 128) for clip in range(5000)])
    columns = dict(zip(DRAWN, drawn.T, strict=True))
    assert columns["time_width"].max() == 102 and columns["bin_width"].max() == 38
    assert stats.kstest(columns["noise_level"], stats.uniform(0, 0.1).cdf).pvalue > 1e-3
    assert stats.chisquare(np.bincount((columns["shift"] + 10).astype(int), minlength=21)).pvalue > 1e-3


def test_filterbanks_are_masked_then_made_noisy_then_rolled() -> None:
    filterbank = torch.full((1, 1, 32, 128), 2.0)
    drawn = torch.tensor([[4.0, 3, 0, 5, 0.1, 7, 2]], dtype=torch.float64)
    result = EVERYTHING.filterbank(filterbank, drawn)
    masked = torch.zeros(32, 128, dtype=torch.bool)
    masked[6:9] = True  # frames 4 to 6, two later
    masked[:, :5] = True
    assert torch.equal(result[0, 0] < 0.1, masked)
    assert torch.equal(result[0, 0] > 2.0, ~masked) and 2.09 < result.max() < 2.1
    assert torch.equal(Augmentation().filterbank(filterbank, drawn), filterbank)


def test_batches_draw_by_their_clips() -> None:
    assert batch_rng(1, 2, [3, 4]).random() == batch_rng(1, 2, [3, 4]).random()
    different = [batch_rng(1, 2, [3, 4]), batch_rng(1, 2, [4, 3]), batch_rng(1, 3, [3, 4]), batch_rng(2, 2, [3, 4])]
    assert len({rng.random() for rng in different}) == 4


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"task\.time_mask is 1\.5"):
        Augmentation(time_mask=1.5)
    with pytest.raises(ConfigError, match=r"task\.mixup_alpha is -1"):
        Augmentation(mixup_alpha=-1)
