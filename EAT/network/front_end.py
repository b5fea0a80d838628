"""Waveform to normalised log-mel filterbank (method section 1), batched, on any device.

The arithmetic and its order are those of Kaldi's filterbank as ``torchaudio.compliance.kaldi.fbank`` computes it with
25 ms Hanning windows every 10 ms and 128 HTK mel bins; results agree to 1e-5.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..audio.resampling import SAMPLE_RATE
from ..errors import ConfigError
from .settings import MEL_BINS, check_target_length

FRAME_LENGTH = 400
"""Samples in a frame: 25 ms."""
FRAME_SHIFT = 160
"""Samples from one frame to the next: 10 ms."""
FFT_SIZE = 512
PREEMPHASIS = 0.97
LOW_HZ, HIGH_HZ = 20.0, 8000.0


def frame_count(samples: int) -> int:
    """Frames of a waveform of that many 16 kHz samples; a clip shorter than a frame is padded to one."""
    return 1 + max(0, samples - FRAME_LENGTH) // FRAME_SHIFT


def sample_count(frames: int) -> int:
    """The fewest 16 kHz samples that give that many frames."""
    return FRAME_LENGTH + (frames - 1) * FRAME_SHIFT


# Constants are kept from the first call on; made in inference mode, they could not be trained through later.
@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)
def _window(device: torch.device) -> Tensor:
    return torch.hann_window(FRAME_LENGTH, periodic=False, dtype=torch.float32).to(device)


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)
def _mel_weights(device: torch.device) -> Tensor:
    """Triangular filters on the HTK mel scale, (FFT_SIZE / 2 + 1, MEL_BINS)."""

    def mel(hertz: float) -> float:
        return 1127.0 * math.log(1.0 + hertz / 700.0)

    low = mel(LOW_HZ)
    step = (mel(HIGH_HZ) - low) / (MEL_BINS + 1)
    band = torch.arange(MEL_BINS).unsqueeze(1)  # (bins, 1)
    left, centre, right = low + band * step, low + (band + 1.0) * step, low + (band + 2.0) * step
    hertz = SAMPLE_RATE / FFT_SIZE * torch.arange(FFT_SIZE // 2)
    bins = (1127.0 * (1.0 + hertz / 700.0).log()).unsqueeze(0)  # (1, FFT_SIZE / 2)
    weights = torch.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clamp(min=0)
    return F.pad(weights, (0, 1)).t().contiguous().to(device)


def filterbank(waveforms: Tensor) -> Tensor:
    """Log-mel filterbank of 16 kHz waveforms, neither padded nor normalised.

    Args:
        waveforms: (..., samples) float32. Fewer than 400 samples are padded with zeros to one frame.

    Returns:
        (..., frames, 128) float32, natural logarithm of mel energies floored at float32's epsilon.
    """
    waveforms = waveforms.float()
    if waveforms.shape[-1] < FRAME_LENGTH:
        waveforms = F.pad(waveforms, (0, FRAME_LENGTH - waveforms.shape[-1]))
    frames = waveforms.unfold(-1, FRAME_LENGTH, FRAME_SHIFT)  # (..., frames, 400)
    frames = frames - frames.mean(dim=-1, keepdim=True)
    # Product and difference are rounded one after the other: a fused multiply-add, though more exact, would differ
    # from the reference by up to 1e-3 where a bin holds next to nothing.
    previous = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1).mul_(PREEMPHASIS)
    frames = frames.sub_(previous).mul_(_window(waveforms.device))
    squares = torch.view_as_real(torch.fft.rfft(frames, n=FFT_SIZE)).square()
    power = squares[..., 0] + squares[..., 1]  # (..., frames, 257); four times as fast as a sum over so short an axis
    return (power @ _mel_weights(waveforms.device)).clamp_(min=torch.finfo(torch.float32).eps).log_()


@dataclass(frozen=True)
class FrontEnd:
    """Turns waveforms into what the encoder eats.

    Args:
        target_length: frames that every clip is padded or cut to; a multiple of 16.
        norm_mean: mean of the training set's filterbank.
        norm_std: its standard deviation. Values become (x - mean) / (2 std).

    Raises:
        ConfigError: for a ``target_length`` that is no multiple of 16, or a ``norm_std`` that is not positive.
    """

    target_length: int
    norm_mean: float = -4.268
    norm_std: float = 4.569

    def __post_init__(self) -> None:
        check_target_length(self.target_length)
        if not self.norm_std > 0.0 or not math.isfinite(self.norm_mean):
            raise ConfigError(
                f"norm_mean {self.norm_mean} and norm_std {self.norm_std} cannot normalise; "
                "give the training set's own mean and (positive) standard deviation."
            )

    @property
    def samples(self) -> int:
        """16 kHz samples that fill ``target_length`` frames; more are cut."""
        return sample_count(self.target_length)

    def __call__(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Compute normalised filterbanks.

        Args:
            waveforms: (B, samples) at 16 kHz in [-1, 1], each followed by anything up to the longest's length.
            lengths: (B,) samples of each clip; None means that all fill the row.

        Returns:
            (B, 1, target_length, 128) float32. Frames past a clip's end hold (0 - mean) / (2 std).
        """
        longest = waveforms.shape[1]
        if lengths is None:
            waveforms = waveforms - waveforms.mean(dim=1, keepdim=True)
        else:
            inside = torch.arange(longest, device=waveforms.device) < lengths[:, None]
            waveforms = torch.where(inside, waveforms, 0.0)
            mean = waveforms.sum(dim=1, keepdim=True) / lengths[:, None]
            waveforms = torch.where(inside, waveforms - mean, 0.0)
        features = filterbank(waveforms[:, : self.samples])  # (B, frames, 128)
        if lengths is not None:
            frames = 1 + (lengths - FRAME_LENGTH).clamp(min=0) // FRAME_SHIFT
            real = torch.arange(features.shape[1], device=features.device) < frames[:, None]
            features = torch.where(real[..., None], features, 0.0)
        features = F.pad(features, (0, 0, 0, self.target_length - features.shape[1]))
        return ((features - self.norm_mean) / (2.0 * self.norm_std)).unsqueeze(1)
