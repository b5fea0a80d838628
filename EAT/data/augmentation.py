"""What changes clips in training, by name (recipes of the paper).

Randomness is drawn apart from its use: a clip's numbers follow from (seed, epoch, clip) and are drawn where the clip is
read, a batch's from (seed, epoch, clips of the batch); what they do to filterbanks happens for the whole batch at once
on its device. Neither workers nor a resumed run change anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from ..network.settings import Settings, choose, setting


@dataclass
class AugmentationSettings(Settings):
    """Which augmentations a run uses and how strong they are; 0 and False are off."""

    mixup_alpha: float = setting(0.0, "mixing weights are drawn from Beta(a, a); 0 is off")
    mixup_prob: float = setting(0.9, "fraction of the batches that are mixed")
    roll: bool = setting(False, "roll waveforms round their end")
    gain: float = setting(0.0, "scale waveforms by 0.5 + Beta(gain, gain); 0 is off")
    time_mask: float = setting(0.0, "largest fraction of the frames that is masked")
    frequency_mask: float = setting(0.0, "largest fraction of the mel bins that is masked")
    noise: float = setting(0.0, "largest amplitude of uniform noise on the filterbank")
    shift: int = setting(0, "roll filterbanks by up to so many frames either way")
    augmentations: dict[str, float] = field(
        default_factory=dict, metadata={"help": "strengths of further augmentations by name"}
    )

    def check(self) -> None:
        """Strengths in their ranges, of augmentations that there are."""
        for name in ("mixup_prob", "time_mask", "frequency_mask"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"task.{name} is {getattr(self, name)}; it is a fraction and must lie in [0, 1].")
        for name in ("mixup_alpha", "gain", "noise", "shift"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"task.{name} is {getattr(self, name)}; it must be 0 (off) or a positive number.")
        for name in self.augmentations:
            choose(AUGMENTATIONS, name, "a name in task.augmentations")


class Augmentation:
    """One augmentation: numbers drawn for a clip or a batch, and what they do. This one draws and does nothing.

    Args:
        settings: of all augmentations.
    """

    stage: ClassVar[int] = 0
    """Earlier ones change a batch before others do; all draw in the order of :data:`AUGMENTATIONS`."""

    def __init__(self, settings: AugmentationSettings) -> None:
        self.settings = settings

    def waveform(self, waveform: Tensor, rng: np.random.Generator) -> Tensor:
        """Change one clip, (samples,) to (samples,), where it is read."""
        return waveform

    def draw(self, rng: np.random.Generator, frames: int, bins: int) -> Sequence[float]:
        """Numbers for one clip's filterbank of ``frames`` by ``bins``, as many for every clip."""
        return ()

    def draw_for_batch(self, rng: np.random.Generator) -> Sequence[float]:
        """Numbers that all clips of a batch share."""
        return ()

    def apply(self, batch: dict[str, Any], drawn: Tensor) -> dict[str, Any]:
        """Change a batch on its device.

        Args:
            batch: ``filterbank`` (B, 1, frames, mel bins) float32, normalised, and, where clips have labels,
                ``targets`` (B, classes) float32; ``frames`` (B,): how many frames of each clip hold audio;
                ``partners`` where rows are mixed.
            drawn: (B, numbers) float64: for each clip what :meth:`draw` and :meth:`draw_for_batch` gave.
        """
        return {**batch, "filterbank": self.filterbank(batch["filterbank"], drawn)}

    def filterbank(self, filterbank: Tensor, drawn: Tensor) -> Tensor:
        """Change a batch's filterbanks alone, (B, 1, frames, mel bins); ``drawn`` as in :meth:`apply`."""
        return filterbank


class Mixup(Augmentation):
    """Mix each clip with its counterpart from the batch's end: w x + (1 - w) reversed(x) (arXiv 1710.09412)."""

    def draw_for_batch(self, rng: np.random.Generator) -> Sequence[float]:
        """The batch's weight w; 1 leaves it as it is."""
        alpha = self.settings.mixup_alpha
        return [1.0 if not alpha or rng.random() >= self.settings.mixup_prob else rng.beta(alpha, alpha)]

    def apply(self, batch: dict[str, Any], drawn: Tensor) -> dict[str, Any]:
        """Mix filterbanks, and targets alike."""
        if not self.settings.mixup_alpha:
            return batch
        mixed = [key for key in ("filterbank", "targets") if key in batch]
        return batch | {key: mix(batch[key], drawn[:, 0], batch.get("partners")) for key in mixed}


class Roll(Augmentation):
    """Roll each waveform round its end by any number of samples."""

    def waveform(self, waveform: Tensor, rng: np.random.Generator) -> Tensor:
        """(samples,) to (samples,)."""
        shift = int(rng.integers(len(waveform)))
        return waveform.roll(shift) if self.settings.roll else waveform


class Gain(Augmentation):
    """Multiply each waveform by 0.5 + Beta(gain, gain)."""

    def waveform(self, waveform: Tensor, rng: np.random.Generator) -> Tensor:
        """(samples,) to (samples,)."""
        gain = self.settings.gain
        return waveform * (0.5 + rng.beta(gain, gain)) if gain else waveform


class TimeMask(Augmentation):
    """Set some frames of each clip to 0, the mean of a normalised filterbank (SpecAugment, arXiv 1904.08779)."""

    def draw(self, rng: np.random.Generator, frames: int, bins: int) -> Sequence[float]:
        """First masked frame, and how many are masked."""
        return draw_span(rng, frames, self.settings.time_mask)

    def filterbank(self, filterbank: Tensor, drawn: Tensor) -> Tensor:
        """(B, 1, frames, mel bins) to the same."""
        return mask_span(filterbank, drawn[:, 0], drawn[:, 1], axis=2) if self.settings.time_mask else filterbank


class FrequencyMask(Augmentation):
    """The same for mel bins."""

    def draw(self, rng: np.random.Generator, frames: int, bins: int) -> Sequence[float]:
        """First masked bin, and how many are masked."""
        return draw_span(rng, bins, self.settings.frequency_mask)

    def filterbank(self, filterbank: Tensor, drawn: Tensor) -> Tensor:
        """(B, 1, frames, mel bins) to the same."""
        return mask_span(filterbank, drawn[:, 0], drawn[:, 1], axis=3) if self.settings.frequency_mask else filterbank


class Noise(Augmentation):
    """Add uniform noise to the filterbank; each clip's largest amplitude is uniform up to ``noise``."""

    def draw(self, rng: np.random.Generator, frames: int, bins: int) -> Sequence[float]:
        """Level, and a seed."""
        return self.settings.noise * rng.random(), int(rng.integers(2**31))

    def filterbank(self, filterbank: Tensor, drawn: Tensor) -> Tensor:
        """(B, 1, frames, mel bins) to the same."""
        return add_noise(filterbank, drawn[:, 0], drawn[:, 1].tolist()) if self.settings.noise else filterbank


class Shift(Augmentation):
    """Roll each filterbank by up to ``shift`` frames either way."""

    def draw(self, rng: np.random.Generator, frames: int, bins: int) -> Sequence[float]:
        """Frames, later for positive numbers."""
        return [int(rng.integers(-self.settings.shift, self.settings.shift + 1))]

    def filterbank(self, filterbank: Tensor, drawn: Tensor) -> Tensor:
        """(B, 1, frames, mel bins) to the same."""
        return roll_frames(filterbank, drawn[:, 0]) if self.settings.shift else filterbank


class Further(Augmentation):
    """An augmentation that is one of ``task.augmentations``, by name."""

    name: ClassVar[str]

    @property
    def strength(self) -> float:
        """0 where it is off."""
        return self.settings.augmentations.get(self.name, 0.0)


class ColouredNoise(Further):
    """With the probability ``coloured_noise``, add noise of a random colour at 5 to 25 dB below a clip (BAT's)."""

    name = "coloured_noise"

    def waveform(self, waveform: Tensor, rng: np.random.Generator) -> Tensor:
        """(samples,) to (samples,)."""
        if not self.strength or rng.random() >= self.strength:
            return waveform
        colour, decibels = rng.uniform(-2.0, 2.0), rng.uniform(5.0, 25.0)
        spectrum = np.fft.rfft(rng.standard_normal(len(waveform)))
        noise = np.fft.irfft(spectrum / np.arange(1, len(spectrum) + 1) ** (colour / 2), n=len(waveform))
        level = float(waveform.square().mean().sqrt()) * 10.0 ** (-decibels / 20) / np.sqrt(np.square(noise).mean())
        return waveform + torch.from_numpy(noise * level).to(waveform.dtype)


class RollFilterbank(Further):
    """Roll each clip's frames of audio round their end, all of a batch by one random number of frames (BAT's)."""

    name, stage = "roll_filterbank", -2

    def draw_for_batch(self, rng: np.random.Generator) -> Sequence[float]:
        """A number in [0, 1): a fraction of the filterbank's length."""
        return [rng.random() if self.strength else 0.0]

    def apply(self, batch: dict[str, Any], drawn: Tensor) -> dict[str, Any]:
        """Roll what holds audio; padding stays where it is."""
        if not self.strength:
            return batch
        filterbank = batch["filterbank"]
        shift = int(float(drawn[0, 0]) * filterbank.shape[2])
        frames = batch["frames"].to(filterbank.device)[:, None]
        place = torch.arange(filterbank.shape[2], device=filterbank.device).expand(len(frames), -1)
        source = torch.where(place < frames, (place - shift) % frames.clamp(min=1), place)
        return batch | {"filterbank": filterbank.gather(2, source[:, None, :, None].expand_as(filterbank))}


class ClipMixup(Further):
    """Mixup with a weight of each clip's own, Beta(a, a), a = ``clip_mixup``, for ``mixup_prob`` of them (BAT's)."""

    name, stage = "clip_mixup", -1

    def draw(self, rng: np.random.Generator, frames: int, bins: int) -> Sequence[float]:
        """The clip's own weight; 1 leaves it as it is."""
        if not self.strength:
            return []
        if rng.random() >= self.settings.mixup_prob:
            return [1.0]
        return [1.0 - rng.beta(self.strength, self.strength)]

    def apply(self, batch: dict[str, Any], drawn: Tensor) -> dict[str, Any]:
        """Mix filterbanks, and targets alike."""
        if not self.strength:
            return batch
        mixed = [key for key in ("filterbank", "targets") if key in batch]
        return batch | {key: mix(batch[key], drawn[:, 0], batch.get("partners")) for key in mixed}


class FurtherMasks(Further):
    """As many more masks of time and frequency as ``further_masks`` says, as wide as the first ones."""

    name = "further_masks"

    def draw(self, rng: np.random.Generator, frames: int, bins: int) -> Sequence[float]:
        """Start and width along time, then frequency, for each."""
        drawn: list[float] = []
        for _ in range(int(self.strength)):
            drawn += draw_span(rng, frames, self.settings.time_mask)
            drawn += draw_span(rng, bins, self.settings.frequency_mask)
        return drawn

    def filterbank(self, filterbank: Tensor, drawn: Tensor) -> Tensor:
        """(B, 1, frames, mel bins) to the same."""
        for start in range(0, 2 * int(self.strength)):
            filterbank = mask_span(filterbank, drawn[:, 2 * start], drawn[:, 2 * start + 1], axis=2 + start % 2)
        return filterbank


AUGMENTATIONS: dict[str, type[Augmentation]] = {
    "mixup": Mixup,
    "roll": Roll,
    "gain": Gain,
    "time_mask": TimeMask,
    "frequency_mask": FrequencyMask,
    "noise": Noise,
    "shift": Shift,
    "coloured_noise": ColouredNoise,
    "roll_filterbank": RollFilterbank,
    "clip_mixup": ClipMixup,
    "further_masks": FurtherMasks,
}
"""All augmentations, in the order in which they draw; those of one stage are applied in it too."""


class Augmentations:
    """Every augmentation in turn. All of them draw, also those that are off, so that none changes another's numbers."""

    def __init__(self, settings: AugmentationSettings) -> None:
        self.chain = {name: kind(settings) for name, kind in AUGMENTATIONS.items()}

    def waveform(self, waveform: Tensor, rng: np.random.Generator) -> Tensor:
        """One clip, (samples,) to (samples,)."""
        for augmentation in self.chain.values():
            waveform = augmentation.waveform(waveform, rng)
        return waveform

    def draw(self, rng: np.random.Generator, frames: int, bins: int) -> dict[str, Sequence[float]]:
        """Numbers for one clip's filterbank, by augmentation."""
        return {name: augmentation.draw(rng, frames, bins) for name, augmentation in self.chain.items()}

    def collate(self, clips: Sequence[dict[str, Sequence[float]]], rng: np.random.Generator) -> dict[str, Tensor]:
        """What was drawn for each clip and is drawn for their batch: (B, numbers) float64 by augmentation."""
        drawn = {}
        for name, augmentation in self.chain.items():
            shared = augmentation.draw_for_batch(rng)
            drawn[name] = torch.tensor([[*clip[name], *shared] for clip in clips], dtype=torch.float64)
        return drawn

    def apply(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch with ``filterbank`` and, where it has some, ``targets``, changed as its ``drawn`` says."""
        for name in sorted(batch["drawn"], key=lambda name: self.chain[name].stage):
            batch = self.chain[name].apply(batch, batch["drawn"][name])
        return batch


def batch_rng(seed: int, epoch: int, clips: Sequence[int]) -> np.random.Generator:
    """Random numbers that follow from (seed, epoch, the batch's clips) alone."""
    digest = hashlib.blake2b(repr((seed, epoch, list(clips))).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def draw_span(rng: np.random.Generator, length: int, fraction: float) -> tuple[int, int]:
    """Start and width of a mask on an axis: width uniform up to ``fraction * length``, start wherever it fits."""
    width = rng.random() * fraction * length
    return int(rng.random() * (length - width)), int(width)


def mask_span(filterbank: Tensor, start: Tensor, width: Tensor, axis: int) -> Tensor:
    """Set a stretch of an axis to 0 in each clip.

    Args:
        filterbank: (B, 1, frames, mel bins).
        start: (B,) first index masked.
        width: (B,) how many are masked.
        axis: 2 for time, 3 for frequency.
    """
    index = torch.arange(filterbank.shape[axis], device=filterbank.device)
    masked = (index >= start[:, None]) & (index < (start + width)[:, None])  # (B, length)
    shape = [len(filterbank), 1, 1, 1]
    shape[axis] = filterbank.shape[axis]
    return filterbank.masked_fill(masked.view(shape), 0.0)


def add_noise(filterbank: Tensor, level: Tensor, seeds: Sequence[float]) -> Tensor:
    """Add noise uniform in [0, level) to each clip of (B, 1, frames, bins); ``level`` (B,), a seed for each clip."""
    noise = torch.empty_like(filterbank)
    for row, seed in zip(noise, seeds, strict=True):
        row.uniform_(generator=torch.Generator(filterbank.device).manual_seed(int(seed)))
    return torch.addcmul(filterbank, noise, level.to(filterbank.dtype).view(-1, 1, 1, 1))


def roll_frames(filterbank: Tensor, shift: Tensor) -> Tensor:
    """Roll each clip of (B, 1, frames, mel bins) along time by its own ``shift`` (B,), later for positive ones."""
    frames = filterbank.shape[2]
    source = (torch.arange(frames, device=filterbank.device) - shift.long()[:, None]) % frames  # (B, frames)
    return filterbank.gather(2, source[:, None, :, None].expand_as(filterbank))


def partners(clips: int, rows: int) -> Tensor:
    """Rows that the rows of a batch are mixed with, (rows,): its counterpart from the end for each of the first
    ``clips``, itself for each hole behind them.
    """
    return torch.cat([torch.arange(clips).flip(0), torch.arange(clips, rows)])


def mix(batch: Tensor, weight: Tensor, partners: Tensor | None = None) -> Tensor:
    """Mix each clip with its counterpart from the batch's end: w x + (1 - w) reversed(x).

    Args:
        batch: (B, ...), filterbanks or targets.
        weight: (B,) w of each clip; 1 leaves it as it is.
        partners: (B,) the counterparts' rows, from :func:`partners`; None: of a batch without holes.
    """
    other = batch.flip(0) if partners is None else batch[partners]
    return torch.lerp(other, batch, weight.to(batch.dtype).view(-1, *[1] * (batch.dim() - 1)))
