"""Band-limited resampling: a Hann-windowed sinc, equal to ``torchaudio.functional.resample`` at its defaults, or soxr.

:data:`SINC` and :data:`SOXR` are the choices; a front end has the one that its models were trained with.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError, DataError

SAMPLE_RATE = 16_000
"""What recordings are resampled to, in Hz."""
MIN_RATE, MAX_RATE = 1_000, 768_000
ZERO_CROSSINGS = 6
"""Half the filter's length, in zero crossings of the sinc."""
ROLLOFF = 0.99
"""Cut-off as a fraction of the lower rate's Nyquist frequency."""
BLOCK = 16
"""Output samples that one row of the matrix product gives, at least: fewer leave a processor's registers idle."""
LARGEST_KERNEL = 1 << 22
"""Elements of a polyphase kernel above which the taps are worked out per output sample instead."""

PHASES = 1024
"""Places between two input samples at which the filter is worked out then."""


def _filter(time: Tensor, cutoff: float) -> Tensor:
    """The windowed sinc at ``time``, whose unit is one second of the reduced rates."""
    t = (time * cutoff).clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)
    window = torch.cos(t * math.pi / ZERO_CROSSINGS / 2) ** 2
    t = t * math.pi
    return torch.where(t == 0, 1.0, t.sin() / t) * window


@functools.lru_cache(maxsize=32)
@torch.inference_mode(False)  # kept from call to call, and a tensor made in inference mode cannot be trained through
def _polyphase_kernel(old: int, new: int, device: torch.device) -> tuple[Tensor, int]:
    """The filters of a block of output samples as a matrix, (taps, block), and the width in input samples.

    A step of the two rates is ``old`` input and ``new`` output samples, each of those with a filter of its own of
    2 width + old taps. A block is as many steps as make ``BLOCK`` outputs; column by column the filters of a later
    step lie ``old`` rows lower. In float32 throughout, as the reference computes it for float32 waveforms.
    """
    cutoff = min(old, new) * ROLLOFF
    width = math.ceil(ZERO_CROSSINGS * old / cutoff)
    taps = torch.arange(-width, width + old, dtype=torch.float32) / old
    phases = torch.arange(0, -new, -1, dtype=torch.float32)[:, None] / new
    kernel = _filter(phases + taps, cutoff) * (cutoff / old)
    steps = -(-BLOCK // new)
    block = torch.zeros(old * (steps - 1) + kernel.shape[1], steps, new)
    for step in range(steps):
        block[old * step : old * step + kernel.shape[1], step] = kernel.t()
    return block.flatten(1).to(device), width


class Ratio(NamedTuple):
    """Two rates without their common divisor, and how far resampling looks."""

    old: int
    new: int
    margin: int
    """Input samples on either side of a part that its resampling needs; a multiple of ``old``, where samples meet."""


def check_rate(rate: Any, what: str = "sample_rate") -> None:
    """Raise ConfigError for what is no rate of audio."""
    if not isinstance(rate, int | np.integer) or not MIN_RATE <= rate <= MAX_RATE:
        raise ConfigError(f"{what} is {rate!r}; it must be a whole number of Hz from {MIN_RATE:,} to {MAX_RATE:,}.")


def ratio(old_rate: int, new_rate: int, zero_crossings: int = ZERO_CROSSINGS) -> Ratio:
    """How samples of one rate lie among those of another, for a filter of so many zero crossings on either side.

    Raises:
        ConfigError: for rates that are none.
    """
    check_rate(old_rate)
    check_rate(new_rate)
    divisor = math.gcd(old_rate, new_rate)
    old, new = old_rate // divisor, new_rate // divisor
    reach = math.ceil(zero_crossings * old / (min(old, new) * ROLLOFF)) + old
    return Ratio(old, new, -(-reach // old) * old if old != new else 0)


def resample(waveform: Tensor, old_rate: int, new_rate: int) -> Tensor:
    """Resample the last axis.

    Args:
        waveform: (..., samples) float32.
        old_rate: its rate in Hz.
        new_rate: wanted rate in Hz.

    Returns:
        (..., ceil(samples * new_rate / old_rate)).

    Raises:
        ConfigError: for a rate that is no whole number from 1,000 to 768,000.
    """
    old, new, _ = ratio(old_rate, new_rate)
    if old == new:
        return waveform
    length = -(-waveform.shape[-1] * new // old)
    if new * (old + 2 * ZERO_CROSSINGS * max(1, old // new + 1)) > LARGEST_KERNEL:
        return _resample_by_sample(waveform, old, new, length)
    kernel, width = _polyphase_kernel(old, new, waveform.device)
    taps, block = kernel.shape
    hop = old * (block // new)  # input samples from one block to the next
    blocks = -(-length // block)
    missing = (blocks - 1) * hop + taps - width - waveform.shape[-1]
    padded = F.pad(waveform.reshape(-1, waveform.shape[-1]), (width, max(0, missing)))
    samples = padded.unfold(1, taps, hop)[:, :blocks] @ kernel  # (rows, blocks, block)
    return samples.reshape(*waveform.shape[:-1], -1)[..., :length]


def _resample_by_sample(waveform: Tensor, old: int, new: int, length: int, chunk: int = 1 << 12) -> Tensor:
    """The same filter for rates with hardly a common divisor, whose polyphase kernel would not fit in memory.

    The filter is worked out at ``PHASES`` places between two input samples and interpolated linearly from there, which
    is exact to 1e-6.
    """
    cutoff = min(old, new) * ROLLOFF
    width = math.ceil(ZERO_CROSSINGS * old / cutoff)
    device = waveform.device
    taps = torch.arange(-width, width + 2, dtype=torch.float64, device=device)
    phases = torch.arange(PHASES + 1, dtype=torch.float64, device=device)[:, None] / PHASES
    table = (_filter((taps - phases) / old, cutoff) * (cutoff / old)).float()  # (PHASES + 1, taps)
    windows = F.pad(waveform.reshape(-1, waveform.shape[-1]), (width, 2 * width + 2)).unfold(1, len(taps), 1)
    samples = windows.new_empty(len(windows), length)
    for start in range(0, length, chunk):
        position = torch.arange(start, min(length, start + chunk), dtype=torch.int64, device=device) * old
        phase = (position % new).double() * PHASES / new
        below = phase.long()
        weights = torch.lerp(table[below], table[below + 1], (phase - below).float()[:, None])  # (samples, taps)
        samples[:, start : start + chunk] = torch.einsum("rst,st->rs", windows[:, position // new], weights)
    return samples.reshape(*waveform.shape[:-1], -1)


def soxr_resample(waveform: Tensor, old_rate: int, new_rate: int) -> Tensor:
    """As :func:`resample`, by the library soxr in its high quality, which keeps nearly all of the band.

    Raises:
        DataError: where soxr is not installed, or gradients should flow through it.
    """
    check_rate(old_rate)
    if old_rate == new_rate:
        return waveform
    try:
        import soxr
    except ImportError:
        raise DataError(
            f"audio of {old_rate} Hz must be resampled by soxr for this model: pip install 'eat-audio[soxr]'."
        ) from None
    if waveform.requires_grad:
        raise DataError(f"no gradients flow through soxr; give waveforms at {new_rate} Hz.")
    rows = waveform.reshape(-1, waveform.shape[-1])
    length = -(-waveform.shape[-1] * new_rate // old_rate)
    resampled = torch.from_numpy(soxr.resample(rows.t().float().cpu().numpy(), old_rate, new_rate, quality="HQ")).t()
    resampled = F.pad(resampled, (0, max(0, length - resampled.shape[1])))[:, :length]
    return resampled.reshape(*waveform.shape[:-1], length).to(waveform.device)


class Resampler(NamedTuple):
    """How waveforms of one rate become waveforms of another."""

    resample: Callable[[Tensor, int, int], Tensor]
    """(waveform, old rate, new rate), as :func:`resample`."""
    zero_crossings: int
    """How far its filter reaches on either side, in zero crossings of a sinc."""

    def ratio(self, old_rate: int, new_rate: int) -> Ratio:
        """How samples of one rate lie among those of another."""
        return ratio(old_rate, new_rate, self.zero_crossings)


SINC = Resampler(resample, ZERO_CROSSINGS)
SOXR = Resampler(soxr_resample, 128)
