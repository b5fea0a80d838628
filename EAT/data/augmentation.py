"""Augmentations for fine-tuning (recipes of the paper), as plain functions of tensors and numbers.

Randomness is drawn apart from its use: a clip's numbers follow from (seed, epoch, clip) and are drawn where the clip
is read, a batch's mixing weight from (seed, epoch, clips of the batch); what they do to filterbanks happens for the
whole batch at once on its device. Neither workers nor a resumed run change anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError

DRAWN = ("time_start", "time_width", "bin_start", "bin_width", "noise_level", "noise_seed", "shift")
"""What :meth:`Augmentation.draw` draws for a clip, in order."""


@dataclass(frozen=True)
class Augmentation:
    """Which augmentations a recipe uses and how strong they are; 0 and False are off."""

    mixup_alpha: float = 0.0
    """Mixing weights come from Beta(alpha, alpha) (arXiv 1710.09412)."""
    mixup_prob: float = 0.9
    """Share of batches that are mixed."""
    time_mask: float = 0.0
    """Largest share of the frames that SpecAugment masks (arXiv 1904.08779)."""
    frequency_mask: float = 0.0
    """Largest share of the mel bins that SpecAugment masks."""
    roll: bool = False
    """Roll each waveform round its end by any number of samples."""
    gain: float = 0.0
    """Multiply each waveform by 0.5 + Beta(gain, gain)."""
    noise: float = 0.0
    """Largest amplitude of the uniform noise added to the filterbank; each clip's is uniform up to it."""
    shift: int = 0
    """Roll each filterbank by up to so many frames either way."""

    def __post_init__(self) -> None:
        for name in ("mixup_prob", "time_mask", "frequency_mask"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"task.{name} is {getattr(self, name)}; it is a share and must lie in [0, 1].")
        for name in ("mixup_alpha", "gain", "noise", "shift"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"task.{name} is {getattr(self, name)}; it must be 0 (off) or a positive number.")

    def waveform(self, waveform: Tensor, rng: np.random.Generator) -> Tensor:
        """Roll and gain of one clip, (samples,) to (samples,)."""
        shift, factor = int(rng.integers(len(waveform))), 1.0
        if self.gain:
            factor = 0.5 + rng.beta(self.gain, self.gain)
        return (waveform.roll(shift) if self.roll else waveform) * factor

    def draw(self, rng: np.random.Generator, frames: int, bins: int) -> list[float]:
        """Numbers for one clip's filterbank of ``frames`` by ``bins``, as :data:`DRAWN` names them."""
        time = draw_span(rng, frames, self.time_mask)
        masked_bins = draw_span(rng, bins, self.frequency_mask)
        level, seed = self.noise * rng.random(), rng.integers(2**31)
        return [*time, *masked_bins, level, int(seed), int(rng.integers(-self.shift, self.shift + 1))]

    def filterbank(self, filterbank: Tensor, drawn: Tensor) -> Tensor:
        """Masks, then noise, then the roll along time, of a batch.

        Args:
            filterbank: (B, 1, frames, 128), normalised.
            drawn: (B, 7) float64, a row of :meth:`draw` for each clip.
        """
        columns = dict(zip(DRAWN, drawn.unbind(dim=1), strict=True))
        if self.time_mask:
            filterbank = mask_span(filterbank, columns["time_start"], columns["time_width"], axis=2)
        if self.frequency_mask:
            filterbank = mask_span(filterbank, columns["bin_start"], columns["bin_width"], axis=3)
        if self.noise:
            filterbank = add_noise(filterbank, columns["noise_level"], columns["noise_seed"].tolist())
        if self.shift:
            filterbank = roll_frames(filterbank, columns["shift"])
        return filterbank

    def draw_mixing(self, rng: np.random.Generator) -> float:
        """A batch's mixing weight; 1 leaves it as it is."""
        if not self.mixup_alpha or rng.random() >= self.mixup_prob:
            return 1.0
        return float(rng.beta(self.mixup_alpha, self.mixup_alpha))


def batch_rng(seed: int, epoch: int, clips: Sequence[int]) -> np.random.Generator:
    """Random numbers that follow from (seed, epoch, the batch's clips) alone."""
    digest = hashlib.blake2b(repr((seed, epoch, list(clips))).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def draw_span(rng: np.random.Generator, length: int, share: float) -> tuple[int, int]:
    """Start and width of a mask on an axis: the width uniform up to ``share * length``, the start wherever it fits."""
    width = rng.random() * share * length
    return int(rng.random() * (length - width)), int(width)


def mask_span(filterbank: Tensor, start: Tensor, width: Tensor, axis: int) -> Tensor:
    """Set a stretch of an axis to 0, the mean of a normalised filterbank, in each clip.

    Args:
        filterbank: (B, 1, frames, 128).
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
    """Add noise uniform in [0, level) to each clip of (B, 1, frames, 128); ``level`` (B,), a seed for each clip."""
    noise = torch.empty_like(filterbank)
    for row, seed in zip(noise, seeds, strict=True):
        row.uniform_(generator=torch.Generator(filterbank.device).manual_seed(int(seed)))
    return torch.addcmul(filterbank, noise, level.to(filterbank.dtype).view(-1, 1, 1, 1))


def roll_frames(filterbank: Tensor, shift: Tensor) -> Tensor:
    """Roll each clip of (B, 1, frames, 128) along time by its own ``shift`` (B,), later for positive ones."""
    frames = filterbank.shape[2]
    source = (torch.arange(frames, device=filterbank.device) - shift.long()[:, None]) % frames  # (B, frames)
    return filterbank.gather(2, source[:, None, :, None].expand_as(filterbank))


def mix(batch: Tensor, weight: float) -> Tensor:
    """Mix each clip with the one at its place from the batch's end: w x + (1 - w) reversed(x).

    The same for filterbanks (B, 1, frames, 128) and for targets (B, classes).
    """
    return batch if weight == 1.0 else torch.lerp(batch.flip(0), batch, weight)
