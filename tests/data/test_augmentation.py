"""Augmentations against torchaudio, SciPy's distributions and values worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from EAT.data.augmentation import (
    AUGMENTATIONS,
    Augmentation,
    Augmentations,
    AugmentationSettings,
    add_noise,
    batch_rng,
    draw_span,
    mask_span,
    mix,
    roll_frames,
)
from EAT.errors import ConfigError

SETTINGS = AugmentationSettings(
    mixup_alpha=0.8, mixup_prob=0.9, time_mask=0.2, frequency_mask=0.3, roll=True, gain=10.0, noise=0.1, shift=10
)
EVERYTHING, NOTHING = Augmentations(SETTINGS), Augmentations(AugmentationSettings())


def test_numbers_and_results_are_those_of_release_1_0() -> None:
    """Drawn by release 1.0 from the same seeds, with every batch mixed."""
    stored = json.loads((Path(__file__).parent / "augmentation_1.0.json").read_text())
    augmentations = Augmentations(AugmentationSettings(**{**vars(SETTINGS), "mixup_prob": 1.0}))
    waveform = torch.sin(torch.arange(1000) * 0.05)
    for clip, samples in enumerate(stored["waveforms"]):
        changed = augmentations.waveform(waveform, np.random.default_rng((1, 2, clip, 1)))
        assert changed[:4].tolist() == samples
    clips = [augmentations.draw(np.random.default_rng((1, 2, clip, 2)), 64, 128) for clip in range(3)]
    assert [[number for numbers in clip.values() for number in numbers] for clip in clips] == stored["drawn"]
    weights = [augmentations.collate(clips[: len(b)], batch_rng(1, 2, b))["mixup"] for b in ([0, 1, 2], [2, 1])]
    assert [weight[:, 0].unique().tolist() for weight in weights] == [[weight] for weight in stored["mixing"]]
    filterbank = torch.sin(torch.arange(3 * 64 * 128) * 0.37).view(3, 1, 64, 128)
    drawn = augmentations.collate(clips, batch_rng(1, 2, [0, 1, 2]))
    batch = augmentations.apply({"filterbank": filterbank, "targets": torch.eye(3), "drawn": drawn})
    assert batch["filterbank"].flatten()[::1777].tolist() == stored["filterbank"]
    assert batch["filterbank"].double().sum().item() == stored["sum"]
    assert batch["targets"].tolist() == stored["targets"]


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


def test_nothing_is_masked_at_fraction_zero() -> None:
    assert draw_span(np.random.default_rng(0), 128, 0.0)[1] == 0


def test_each_clip_has_its_own_mask() -> None:
    filterbank = torch.ones(2, 1, 4, 3)
    masked = mask_span(filterbank, torch.tensor([0, 2]), torch.tensor([1, 2]), axis=2)
    assert masked[:, 0, :, 0].tolist() == [[0, 1, 1, 1], [1, 1, 0, 0]]


def test_mixup_by_hand() -> None:
    batch = torch.tensor([[1.0, 0.0], [2.0, 10.0], [5.0, 20.0]])
    weights = torch.tensor([0.75, 0.75, 0.75], dtype=torch.float64)
    assert mix(batch, weights).tolist() == [[2.0, 5.0], [2.0, 10.0], [4.0, 15.0]]
    assert mix(batch, torch.tensor([1.0, 1.0, 0.5])).tolist() == [[1.0, 0.0], [2.0, 10.0], [3.0, 10.0]]


def test_mixing_weights_follow_beta_and_the_probability() -> None:
    rng = np.random.default_rng(0)
    mixup = EVERYTHING.chain["mixup"]
    weights = np.array([mixup.draw_for_batch(rng)[0] for _ in range(20_000)])
    mixed = weights[weights != 1.0]
    assert abs(len(mixed) / len(weights) - 0.9) < 0.01
    assert stats.kstest(mixed, stats.beta(0.8, 0.8).cdf).pvalue > 1e-3
    assert NOTHING.chain["mixup"].draw_for_batch(rng) == [1.0]


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
    assert torch.equal(NOTHING.waveform(waveform, np.random.default_rng(0)), waveform)


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
    clips = [EVERYTHING.draw(np.random.default_rng(clip), 512, 128) for clip in range(5000)]
    drawn = {name: np.array([clip[name] for clip in clips]) for name in AUGMENTATIONS}
    assert drawn["time_mask"][:, 1].max() == 102 and drawn["frequency_mask"][:, 1].max() == 38
    assert stats.kstest(drawn["noise"][:, 0], stats.uniform(0, 0.1).cdf).pvalue > 1e-3
    assert stats.chisquare(np.bincount(drawn["shift"][:, 0] + 10, minlength=21)).pvalue > 1e-3


def test_filterbanks_are_masked_then_made_noisy_then_rolled() -> None:
    filterbank = torch.full((1, 1, 32, 128), 2.0)
    numbers = {"mixup": [1.0], "time_mask": [4, 3], "frequency_mask": [0, 5], "noise": [0.1, 7], "shift": [2]}
    drawn = {name: torch.tensor([row], dtype=torch.float64) for name, row in numbers.items()}
    result = EVERYTHING.apply({"filterbank": filterbank, "drawn": drawn})["filterbank"]
    masked = torch.zeros(32, 128, dtype=torch.bool)
    masked[6:9] = True  # frames 4 to 6, two later
    masked[:, :5] = True
    assert torch.equal(result[0, 0] < 0.1, masked)
    assert torch.equal(result[0, 0] > 2.0, ~masked) and 2.09 < result.max() < 2.1
    assert torch.equal(NOTHING.apply({"filterbank": filterbank, "drawn": drawn})["filterbank"], filterbank)


def test_batches_draw_by_their_clips() -> None:
    assert batch_rng(1, 2, [3, 4]).random() == batch_rng(1, 2, [3, 4]).random()
    different = [batch_rng(1, 2, [3, 4]), batch_rng(1, 2, [4, 3]), batch_rng(1, 3, [3, 4]), batch_rng(2, 2, [3, 4])]
    assert len({rng.random() for rng in different}) == 4


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"task\.time_mask is 1\.5"):
        AugmentationSettings(time_mask=1.5)
    with pytest.raises(ConfigError, match=r"task\.mixup_alpha is -1"):
        AugmentationSettings(mixup_alpha=-1)
    with pytest.raises(ConfigError, match=r"a name in task\.augmentations is 'revrse'; it must be one of mixup, "):
        AugmentationSettings(augmentations={"revrse": 1.0})


def test_a_further_one_leaves_the_others_numbers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Polarity(Augmentation):
        def draw(self, rng: np.random.Generator, frames: int, bins: int) -> list[float]:
            return [float(rng.random() < self.settings.augmentations.get("polarity", 0.0))]

        def filterbank(self, filterbank: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
            return filterbank * (1 - 2 * drawn[:, 0].float().view(-1, 1, 1, 1))

    monkeypatch.setitem(AUGMENTATIONS, "polarity", Polarity)
    more = Augmentations(AugmentationSettings(**{**vars(SETTINGS), "augmentations": {"polarity": 1.0}}))
    before, after = (a.draw(np.random.default_rng(3), 64, 128) for a in (EVERYTHING, more))
    assert after == {**before, "polarity": [1.0]}
    batch = {"filterbank": torch.ones(1, 1, 2, 2), "drawn": {"polarity": torch.tensor([[1.0]])}}
    assert torch.equal(more.apply(batch)["filterbank"], -torch.ones(1, 1, 2, 2))


# BAT's


def further(**strengths: float) -> Augmentations:
    return Augmentations(
        AugmentationSettings(mixup_prob=0.5, time_mask=0.1, frequency_mask=0.1, augmentations=strengths)
    )


def test_coloured_noise_has_its_level_colour_and_frequency_of_use() -> None:
    waveform = 0.3 * torch.sin(torch.arange(16000) * 0.1)
    chain, ratios, slopes = further(coloured_noise=0.5), [], []
    for clip in range(300):
        noise = (chain.waveform(waveform, np.random.default_rng(clip)) - waveform).double()
        if not noise.any():
            continue
        ratios.append(10 * np.log10(float(waveform.double().square().mean() / noise.square().mean())))
        power = np.abs(np.fft.rfft(noise.numpy())) ** 2
        bins = np.arange(1, len(power) + 1)
        slopes.append(-np.polyfit(np.log(bins), np.log(power + 1e-30), 1)[0])  # power falls with bin^-c
    assert 0.4 < len(ratios) / 300 < 0.6
    assert 5 - 1e-3 <= min(ratios) < 6 and 24 < max(ratios) <= 25 + 1e-3
    assert -2.1 < min(slopes) < -1.7 and 1.7 < max(slopes) < 2.1
    assert stats.kstest(np.array(slopes), "uniform", (-2, 4)).pvalue > 0.01


def test_a_roll_of_filterbanks_is_one_for_the_batch_and_leaves_padding() -> None:
    chain = Augmentations(AugmentationSettings(augmentations={"roll_filterbank": 1}))
    filterbank = torch.arange(1.0, 65).view(1, 1, 64, 1).repeat(2, 1, 1, 128)
    filterbank[1, :, 40:] = 0
    clips = [chain.draw(np.random.default_rng(clip), 64, 128) for clip in range(2)]
    shifts = set()
    for batch in range(40):
        drawn = chain.collate(clips, batch_rng(1, 1, [batch]))
        frames = torch.tensor([64, 40])
        rolled = chain.apply({"filterbank": filterbank, "drawn": drawn, "frames": frames})["filterbank"][:, 0, :, 0]
        shift = int(rolled[0].argmin())  # where the first frame is now
        shifts.add(shift)
        assert torch.equal(rolled[0], filterbank[0, 0, :, 0].roll(shift))
        assert torch.equal(rolled[1, :40], filterbank[1, 0, :40, 0].roll(shift)) and not rolled[1, 40:].any()
    assert len(shifts) > 20


def test_mixup_by_clip_comes_before_masks_and_after_rolling() -> None:
    chain = further(clip_mixup=0.8, roll_filterbank=1, further_masks=2)
    clips = [chain.draw(np.random.default_rng(clip), 64, 128) for clip in range(400)]
    weights = np.array([clip["clip_mixup"][0] for clip in clips])
    assert 0.4 < (weights == 1.0).mean() < 0.6
    assert stats.kstest(weights[weights < 1.0], "beta", (0.8, 0.8)).pvalue > 0.01
    drawn = chain.collate(clips[:3], batch_rng(1, 1, [0]))
    filterbank, targets = torch.rand(3, 1, 64, 128) + 1, torch.eye(3)
    frames = torch.full((3,), 64)
    found = chain.apply({"filterbank": filterbank, "targets": targets, "drawn": drawn, "frames": frames})
    weight = torch.from_numpy(weights[:3]).float()
    shift = int(float(drawn["roll_filterbank"][0, 0]) * 64)
    wanted = mix(filterbank.roll(shift, dims=2), weight)
    spans = [(clip["time_mask"], clip["frequency_mask"], clip["further_masks"]) for clip in clips[:3]]
    for row, (time, frequency, more) in zip(wanted, spans, strict=True):
        for start, width in (time, more[0:2], more[4:6]):
            row[:, start : start + width] = 0
        for start, width in (frequency, more[2:4], more[6:8]):
            row[:, :, start : start + width] = 0
    torch.testing.assert_close(found["filterbank"], wanted)
    torch.testing.assert_close(found["targets"], weight[:, None] * targets + (1 - weight[:, None]) * targets.flip(0))


def test_what_is_off_draws_nothing() -> None:
    names = ("coloured_noise", "roll_filterbank", "clip_mixup", "further_masks")
    drawn = NOTHING.draw(np.random.default_rng(0), 64, 128)
    assert all(name in drawn and not list(drawn[name]) for name in names)
