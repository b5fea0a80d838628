"""What a user calls a sound in Python: a file, a waveform, or a waveform with its rate; and what comes back of one."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError
from .sources import Source

Waveform = Tensor | NDArray[Any]
Path = str | os.PathLike[str]
Sound = Path | Waveform | tuple[Waveform, int]
"""A path (or container address), a waveform, or a waveform and its rate in Hz."""


class Frames(NamedTuple):
    """Embeddings of a clip, one for each time step, and when that is."""

    embeddings: Tensor | NDArray[np.float32]
    """(..., T, D), or (..., T, F D) with the F frequency rows side by side."""
    start: Tensor | NDArray[np.float32]
    """(T,) seconds from the beginning."""
    end: Tensor | NDArray[np.float32]
    """(T,) seconds; the last may lie up to a step beyond the end of the audio."""
    hop: float
    """Seconds from one to the next."""


class Score(NamedTuple):
    """How sure a model is of a class."""

    label: str
    score: float


def is_path(sound: Any) -> bool:
    """Whether it is a path or an address, not a waveform."""
    return isinstance(sound, (str, os.PathLike))


def is_pair(sound: Any) -> bool:
    """Whether it is a waveform with its rate."""
    return isinstance(sound, tuple) and len(sound) == 2 and isinstance(sound[1], (int, float, np.number))


def files_of(sounds: Any) -> list[Source] | None:
    """A path, or a list of nothing but paths, as sources; None for anything else."""
    if is_path(sounds):
        return [Source(os.fspath(sounds), os.path.basename(sounds))]
    if not isinstance(sounds, (list, tuple)) or not sounds or not all(is_path(sound) for sound in sounds):
        return None
    return [Source(os.fspath(path), os.path.basename(path)) for path in sounds]


def as_numpy(values: Tensor) -> NDArray[np.float32]:
    """A tensor of any precision and device as a float32 array."""
    return values.detach().float().cpu().numpy()


def told(value: Any) -> str:
    """A value that should be another, short enough for a sentence."""
    shown = isinstance(value, (str, bytes, int, float, os.PathLike)) or value is None
    return f"{str(value)[:80]!r}" if shown else f"a {type(value).__name__}"


def no_samples(value: Any) -> DataError:
    """What to raise for something that is no waveform."""
    return DataError(
        f"{told(value)} holds no samples; give a waveform as numbers, as EAT.audio.recordings.read_audio(path) or "
        "soundfile reads it."
    )


def as_samples(waveform: Any) -> Tensor:
    """As a tensor. Raises DataError for what holds no real numbers."""
    try:
        values = torch.as_tensor(waveform)
    except (TypeError, ValueError, RuntimeError):
        raise no_samples(waveform) from None
    if values.is_complex() or values.dtype == torch.bool:
        raise no_samples(waveform)
    return values
