"""Waveform to what the encoder eats (method section 1), batched, on any device. :data:`FRONT_ENDS` has the choices.

A front end is an object with its rate, resampler, window, hop and bins, ``frames(samples)``, ``samples`` (how much of a
clip it needs), and ``(waveforms, lengths) -> (B, 1, target_length, bins)``.

The arithmetic of :func:`filterbank` and its order are those of Kaldi's filterbank as
``torchaudio.compliance.kaldi.fbank`` computes it with 25 ms Hanning windows every 10 ms and 128 HTK mel bins; results
agree to 1e-5.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..audio.resampling import SAMPLE_RATE, SINC, SOXR, Resampler
from ..errors import ConfigError
from .settings import check_types, choose

AUDIOSET_MEAN, AUDIOSET_STD = -4.268, 4.569
"""Normalisation of AudioSet's filterbanks."""
LONGEST = 360_000
"""Frames that a clip may be padded to: an hour."""
FFT_SIZE = 512
PREEMPHASIS = 0.97


def mel(hertz: float) -> float:
    """The HTK mel scale: 1127 ln(1 + f / 700)."""
    return 1127.0 * math.log(1.0 + hertz / 700.0)


@dataclass(frozen=True)
class FrontEnd:
    """Log-mel filterbanks after Kaldi, normalised by a training set's constants.

    Args:
        target_length: frames that every clip is padded or cut to.
        norm_mean: mean of the training set's filterbank.
        norm_std: its standard deviation. Values become (x - mean) / (2 std).

    Raises:
        ConfigError: for a ``target_length`` or ``norm_std`` that is not positive.
    """

    target_length: int
    norm_mean: float = AUDIOSET_MEAN
    norm_std: float = AUDIOSET_STD

    sample_rate: ClassVar[int] = SAMPLE_RATE
    """Of the waveforms, in Hz."""
    resampler: ClassVar[Resampler] = SINC
    """What makes waveforms of that rate."""
    window: ClassVar[int] = 400
    """Samples in a frame, 25 ms."""
    hop: ClassVar[int] = 160
    """Samples from one frame to the next, 10 ms."""
    bins: ClassVar[int] = 128
    low_hz: ClassVar[float] = 20.0
    high_hz: ClassVar[float] = 8000.0
    least: ClassVar[float] = -15.9
    """What :meth:`spectrogram` has for next to nothing."""

    def __post_init__(self) -> None:
        check_types(type(self), vars(self))
        if not 1 <= self.target_length <= LONGEST:
            raise ConfigError(f"target_length is {self.target_length}; it must be a number of frames, such as 1024.")
        if not 0.0 < self.norm_std < math.inf or not math.isfinite(self.norm_mean):
            raise ConfigError(
                f"norm_mean {self.norm_mean} and norm_std {self.norm_std} cannot normalise; "
                "give the training set's own mean and (positive) standard deviation."
            )

    @property
    def name(self) -> str:
        """Its name in :data:`FRONT_ENDS`."""
        return next(name for name, kind in FRONT_ENDS.items() if kind is type(self))

    def constants(self) -> dict[str, Any]:
        """Target length and normalisation, by the names of a task's settings."""
        return {name: getattr(self, name) for name in self.settings()}

    @classmethod
    def reading(cls) -> dict[str, Any]:
        """Rate and resampler, as those who read recordings take them."""
        return {"rate": cls.sample_rate, "resampler": cls.resampler}

    @classmethod
    def settings(cls) -> tuple[str, ...]:
        """The settings of a task that it is made from; one without ``norm_mean`` and ``norm_std`` has no constants."""
        return tuple(f.name for f in fields(cls) if f.init)

    @classmethod
    def frames(cls, samples: int) -> int:
        """Frames of a waveform of that many samples; one that is shorter than a frame is padded to one."""
        return 1 + max(0, samples - cls.window) // cls.hop

    @classmethod
    def samples_for(cls, frames: int) -> int:
        """The fewest samples that give that many frames."""
        return cls.window + (frames - 1) * cls.hop

    @property
    def samples(self) -> int | None:
        """Samples of a clip that it needs, those that fill ``target_length`` frames; None: all of them."""
        return self.samples_for(self.target_length)

    def __call__(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Compute normalised filterbanks.

        Args:
            waveforms: (B, samples) at the front end's rate in [-1, 1], each followed by anything up to the longest's
                length.
            lengths: (B,) samples of each clip; None means that all fill the row.

        Returns:
            (B, 1, target_length, bins) float32. Frames past a clip's end hold (0 - mean) / (2 std).
        """
        longest = waveforms.shape[1]
        if lengths is None:
            waveforms = waveforms - waveforms.mean(dim=1, keepdim=True)
        else:
            inside = torch.arange(longest, device=waveforms.device) < lengths[:, None]
            waveforms = torch.where(inside, waveforms, 0.0)
            mean = waveforms.sum(dim=1, keepdim=True) / lengths[:, None]
            waveforms = torch.where(inside, waveforms - mean, 0.0)
        features = self.spectrogram(waveforms[:, : self.samples])  # (B, frames, bins)
        if lengths is not None:
            real = torch.arange(features.shape[1], device=features.device) < self.real_frames(lengths)[:, None]
            features = torch.where(real[..., None], features, 0.0)
        features = F.pad(features, (0, 0, 0, self.target_length - features.shape[1]))
        return ((features - self.norm_mean) / (2.0 * self.norm_std)).unsqueeze(1)

    def spectrogram(self, waveforms: Tensor) -> Tensor:
        """What is normalised: (B, samples) to (B, frames, bins), one frame at least."""
        return filterbank(waveforms)

    def real_frames(self, lengths: Tensor, limit: int | None = None) -> Tensor:
        """Frames of each clip that hold audio, at most ``target_length`` or ``limit``: (B,) samples to (B,)."""
        frames = 1 + (lengths - self.window).clamp(min=0) // self.hop
        return frames.clamp(max=limit or self.target_length)


@dataclass(frozen=True)
class Decibels(FrontEnd):
    """BAT's: mel power in decibels, each clip in [0, 1] by its own minimum and maximum (docs/bat.md, section 1).

    Args:
        target_length: frames that every clip is padded (with 0, its own floor) or cut to. Both happen after the
            normalisation, so that the extremes of what is cut count, and all of a clip is needed.
        fit_waveform: pad (with silence, which then counts) and cut waveforms instead, as BAT does with AudioSet.
    """

    norm_mean: float = field(default=0.0, init=False, repr=False)
    norm_std: float = field(default=0.5, init=False, repr=False)
    """With these the formula of :class:`FrontEnd` changes nothing."""
    fit_waveform: bool = False

    resampler: ClassVar[Resampler] = SOXR
    window: ClassVar[int] = 1024
    """Samples in a frame, which is centred: half of them are reflected at either end of a clip."""
    low_hz: ClassVar[float] = 0.0
    least: ClassVar[float] = -100.0
    floor: ClassVar[float] = 1e-10
    """The least power."""
    range_db: ClassVar[float] = 80.0
    """Decibels below a clip's maximum that are kept."""

    @classmethod
    def frames(cls, samples: int) -> int:
        """Frames of a waveform of that many samples; one of half a window or less is padded to a window."""
        return 1 + (samples if samples > cls.window // 2 else cls.window) // cls.hop

    @classmethod
    def samples_for(cls, frames: int) -> int:
        """The fewest samples that give that many frames."""
        return (frames - 1) * cls.hop

    @property
    def samples(self) -> int | None:
        """All of a clip is needed, unless its waveform is cut."""
        return self.samples_for(self.target_length) if self.fit_waveform else None

    def real_frames(self, lengths: Tensor, limit: int | None = None) -> Tensor:
        """Frames of each clip that hold audio, at most ``target_length`` or ``limit``: (B,) samples to (B,)."""
        frames = 1 + lengths.where(lengths > self.window // 2, self.window) // self.hop
        return frames.clamp(max=limit or self.target_length)

    def __call__(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        """As :meth:`FrontEnd.__call__`, every clip on its own length whatever stands beside it; padding holds 0."""
        if lengths is None:
            lengths = torch.full((len(waveforms),), waveforms.shape[1], device=waveforms.device)
        if self.fit_waveform:
            fitting = self.samples_for(self.target_length)
            inside = torch.arange(waveforms.shape[1], device=waveforms.device) < lengths[:, None]
            waveforms = waveforms.where(inside, 0.0)[:, :fitting]
            waveforms = F.pad(waveforms, (0, fitting - waveforms.shape[1]))
            lengths = torch.full_like(lengths, fitting)
        decibels = self.decibels(waveforms, lengths)
        real = self._real(decibels, lengths)
        low = decibels.masked_fill(~real, torch.inf).amin(dim=(1, 2), keepdim=True)
        high = decibels.masked_fill(~real, -torch.inf).amax(dim=(1, 2), keepdim=True)
        features = torch.where(real, (decibels - low) / (high - low + 1e-8), 0.0)[:, : self.target_length]
        return F.pad(features, (0, 0, 0, self.target_length - features.shape[1])).unsqueeze(1)

    def spectrogram(self, waveforms: Tensor) -> Tensor:
        """What is normalised: (B, samples) to (B, frames, bins) decibels."""
        return self.decibels(waveforms, torch.full((len(waveforms),), waveforms.shape[1], device=waveforms.device))

    def decibels(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """10 log10 of the mel power, at most ``range_db`` below each clip's maximum.

        Args:
            waveforms: (B, samples) at the front end's rate.
            lengths: (B,) samples of each clip; what follows them does not count.

        Returns:
            (B, frames of the longest, bins) float32; rows past a clip's end mean nothing.
        """
        half = self.window // 2
        longest = max(waveforms.shape[1], self.window)
        inside = torch.arange(longest, device=waveforms.device) < lengths[:, None]
        waveforms = F.pad(waveforms.float(), (0, longest - waveforms.shape[1])).where(inside, 0.0)
        ends = lengths.where(lengths > half, self.window)[:, None]
        place = torch.arange(-half, longest + half, device=waveforms.device).expand(len(waveforms), -1).abs()
        place = place.where(place < ends, 2 * (ends - 1) - place)  # reflected at the clip's own end
        padded = waveforms.gather(1, place.clamp(min=0))
        device, rate, edges = waveforms.device, self.sample_rate, (self.low_hz, self.high_hz)
        window, weights = _hann(self.window, device), _triangles(rate, self.window, *edges, self.bins, device)
        spectrum = torch.stft(padded, self.window, self.hop, window=window, center=False, return_complex=True)
        power = spectrum.abs().square().transpose(1, 2) @ weights  # (B, frames, bins)
        decibels = 10.0 * power.clamp(min=self.floor).log10()
        loudest = decibels.masked_fill(~self._real(decibels, lengths), -torch.inf).amax(dim=(1, 2), keepdim=True)
        return torch.maximum(decibels, loudest - self.range_db)

    def _real(self, decibels: Tensor, lengths: Tensor) -> Tensor:
        """Which rows are a clip's own: (B, frames, 1)."""
        frames = self.real_frames(lengths, limit=decibels.shape[1])
        return (torch.arange(decibels.shape[1], device=decibels.device) < frames[:, None])[..., None]


class Decibels32k(Decibels):
    """The same of recordings at 32 kHz, up to 16 kHz; the encoder is one that was trained at 16 kHz."""

    sample_rate: ClassVar[int] = 32_000
    window: ClassVar[int] = 2048
    hop: ClassVar[int] = 320
    high_hz: ClassVar[float] = 16_000.0


FRONT_ENDS: dict[str, type[FrontEnd]] = {"log_mel": FrontEnd, "decibels": Decibels, "decibels_32k": Decibels32k}
"""The choices of ``task.spectrogram``."""


def front_end_of(task: Mapping[str, Any]) -> FrontEnd | None:
    """The front end that a task's settings describe; None where a constant is missing. Raises ConfigError."""
    kind = choose(FRONT_ENDS, task.get("spectrogram") or "log_mel", "task.spectrogram")
    needed = [name for name in ("target_length", "norm_mean", "norm_std") if name in kind.settings()]
    if any(task.get(name) is None for name in needed):
        return None
    constants: dict[str, Any] = {name: float(task[name]) for name in needed[1:]}
    if "fit_waveform" in kind.settings():
        constants["fit_waveform"] = bool(task.get("fit_waveform"))
    return kind(target_length=int(task["target_length"]), **constants)


# Constants are kept from the first call on; made in inference mode, they could not be trained through later.
@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)
def _window(device: torch.device) -> Tensor:
    return torch.hann_window(FrontEnd.window, periodic=False, dtype=torch.float32).to(device)


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)
def _mel_weights(device: torch.device) -> Tensor:
    """Triangular filters on the HTK mel scale, (FFT_SIZE / 2 + 1, bins)."""
    low = mel(FrontEnd.low_hz)
    step = (mel(FrontEnd.high_hz) - low) / (FrontEnd.bins + 1)
    band = torch.arange(FrontEnd.bins).unsqueeze(1)  # (bins, 1)
    left, centre, right = low + band * step, low + (band + 1.0) * step, low + (band + 2.0) * step
    hertz = FrontEnd.sample_rate / FFT_SIZE * torch.arange(FFT_SIZE // 2)
    bins = (1127.0 * (1.0 + hertz / 700.0).log()).unsqueeze(0)  # (1, FFT_SIZE / 2)
    weights = torch.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clamp(min=0)
    return F.pad(weights, (0, 1)).t().contiguous().to(device)


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)
def _hann(window: int, device: torch.device) -> Tensor:
    return torch.hann_window(window, dtype=torch.float32).to(device)


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)
def _triangles(rate: int, window: int, low_hz: float, high_hz: float, bins: int, device: torch.device) -> Tensor:
    """Filters of height 1, linear in Hz between edges equally spaced on the HTK scale, (window / 2 + 1, bins).

    In float32 and in this order, as ``torchaudio.functional.melscale_fbanks`` has them.
    """
    hertz = torch.linspace(0, rate // 2, window // 2 + 1)
    low, high = (2595.0 * math.log10(1.0 + edge / 700.0) for edge in (low_hz, high_hz))
    edges = 700.0 * (10.0 ** (torch.linspace(low, high, bins + 2) / 2595.0) - 1.0)
    widths = edges[1:] - edges[:-1]
    slopes = edges[None] - hertz[:, None]  # (frequencies, bins + 2)
    down, up = -slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]
    return torch.minimum(down, up).clamp(min=0).to(device)


def filterbank(waveforms: Tensor) -> Tensor:
    """Log-mel filterbank of 16 kHz waveforms, neither padded nor normalised.

    Args:
        waveforms: (..., samples) float32. Fewer than 400 samples are padded with zeros to one frame.

    Returns:
        (..., frames, 128) float32, natural logarithm of mel energies floored at float32's epsilon.
    """
    waveforms = waveforms.float()
    if waveforms.shape[-1] < FrontEnd.window:
        waveforms = F.pad(waveforms, (0, FrontEnd.window - waveforms.shape[-1]))
    frames = waveforms.unfold(-1, FrontEnd.window, FrontEnd.hop)  # (..., frames, 400)
    frames = frames - frames.mean(dim=-1, keepdim=True)
    # Product and difference are rounded one after the other: a fused multiply-add, though more exact, would differ
    # from the reference by up to 1e-3 where a bin holds next to nothing.
    previous = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1).mul_(PREEMPHASIS)
    frames = frames.sub_(previous).mul_(_window(waveforms.device))
    squares = torch.view_as_real(torch.fft.rfft(frames, n=FFT_SIZE)).square()
    power = squares[..., 0] + squares[..., 1]  # (..., frames, 257); four times as fast as a sum over so short an axis
    return (power @ _mel_weights(waveforms.device)).clamp_(min=torch.finfo(torch.float32).eps).log_()
