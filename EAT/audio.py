"""Reading recordings: any format, rate and channel count to mono 16 kHz float32 (method section 1.1).

Formats come through libsndfile (wav, flac, ogg, opus, mp3, aiff, ...). Beside plain files there are two containers:
``pack.h5/KEY``, a data set in an HDF5 file, and ``archive.zip:OFFSET:LENGTH``, an uncompressed member of a zip.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from torch import Tensor

from .errors import DataError
from .front_end import FRAME_SHIFT, SAMPLE_RATE
from .resampling import ZERO_CROSSINGS, resample

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".w64", ".rf64", ".au")
"""File names that a search of a folder takes for recordings."""

MIN_RATE, MAX_RATE = 1_000, 768_000
MAX_CHANNELS = 256
MIN_SAMPLES = FRAME_SHIFT
"""The shortest clip that counts as one: 10 ms at 16 kHz."""
HDF5_RATE = 32_000
"""Sampling rate of an HDF5 data set that has no ``sample_rate`` attribute."""

_STORED = re.compile(r"^(?P<archive>.*\.zip):(?P<offset>\d+):(?P<length>\d+)$", re.IGNORECASE | re.DOTALL)
_PACKED = re.compile(r"^(?P<pack>.*\.(?:h5|hdf5))/(?P<key>.+)$", re.IGNORECASE | re.DOTALL)


class Recording(NamedTuple):
    """An opened recording: its header, and a way to read part of it."""

    frames: int
    """Samples per channel, as the header says."""
    rate: int
    channels: int
    read: Callable[[int, int], np.ndarray]
    """read(start, count) to (count or fewer, channels) float32."""
    close: Callable[[], Any]


class _Sound(soundfile.SoundFile):
    """A file that is read on from where the last read ended.

    The base class follows every read of a seekable file with a seek to where it already is, after which MP3 decodes
    its next frames wrongly.
    """

    def seekable(self) -> bool:
        return False


def _open_file(source: str, handle: Any) -> Recording:
    try:
        sound = _Sound(handle)
    except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(handle, str) and not os.path.exists(handle):
            raise DataError(f"{source} does not exist; check the manifest's root folder and paths.") from None
        if isinstance(handle, str) and os.path.isdir(handle):
            raise DataError(f"{source} is a folder, not a recording.") from None
        if isinstance(handle, str) and not os.access(handle, os.R_OK):
            raise DataError(f"{source} may not be read; check its permissions.") from None
        reason = str(getattr(error, "error_string", error)).strip().rstrip(".")
        raise DataError(f"{source} is not audio that libsndfile can read ({reason}).") from None

    position = 0

    def read(start: int, count: int) -> np.ndarray:
        nonlocal position
        if start != position:
            sound.seek(start)
        samples = sound.read(min(count, sound.frames - start), dtype="float32", always_2d=True)
        position = start + len(samples)
        return samples

    return Recording(sound.frames, sound.samplerate, sound.channels, read, sound.close)


@lru_cache(maxsize=32)
def _hdf5_pack(path: str, process: int) -> Any:
    try:
        import h5py
    except ImportError:
        raise DataError(f"{path} is an HDF5 pack, which needs h5py: pip install 'eat-audio[hdf5]'.") from None
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path} cannot be opened as an HDF5 file ({error}).") from None


def _open_packed(source: str, pack: str, key: str) -> Recording:
    file = _hdf5_pack(pack, os.getpid())  # a handle must not be shared with a forked worker
    if key not in file or not hasattr(file[key], "dtype"):
        raise DataError(f"{pack} holds no data set {key!r}.")
    data = file[key]
    if data.ndim not in (1, 2) or data.dtype.kind not in "if":
        raise DataError(
            f"{source} has shape {data.shape} and type {data.dtype}; a clip is (samples,) or (samples, channels) "
            "of int16 or float."
        )
    scale = 1.0 / 2 ** (8 * data.dtype.itemsize - 1) if data.dtype.kind == "i" else 1.0

    def read(start: int, count: int) -> np.ndarray:
        part = np.asarray(data[start : start + count])
        return part.reshape(len(part), -1).astype(np.float32) * np.float32(scale)

    rate = int(data.attrs.get("sample_rate", HDF5_RATE))
    return Recording(data.shape[0], rate, 1 if data.ndim == 1 else data.shape[1], read, lambda: None)


def open_recording(source: str) -> Recording:
    """Open a recording by path or container address.

    Raises:
        DataError: where there is no such recording, it is not audio, or its header is absurd.
    """
    stored, packed = _STORED.match(source), _PACKED.match(source)
    if stored:
        try:
            with open(stored["archive"], "rb") as archive:
                archive.seek(int(stored["offset"]))
                content = archive.read(int(stored["length"]))
        except OSError as error:
            raise DataError(f"{stored['archive']} cannot be read ({error.strerror}).") from None
        recording = _open_file(source, io.BytesIO(content))
    elif packed:
        recording = _open_packed(source, packed["pack"], packed["key"])
    else:
        recording = _open_file(source, source)
    if not MIN_RATE <= recording.rate <= MAX_RATE or not 1 <= recording.channels <= MAX_CHANNELS:
        recording.close()
        raise DataError(
            f"{source} claims {recording.rate} Hz and {recording.channels} channels; between {MIN_RATE} and {MAX_RATE} "
            f"Hz and at most {MAX_CHANNELS} channels are read."
        )
    return recording


def _part(rate: int, first: int, count: int) -> tuple[int, int, int]:
    """What to read for ``count`` 16 kHz samples from number ``first`` on, so that they equal the whole's resampling.

    The filter looks a little beyond the part on both sides, and reading starts where an input and an output sample
    coincide.

    Returns:
        First and last input sample (exclusive), and how many output samples come before the wanted ones.
    """
    divisor = math.gcd(rate, SAMPLE_RATE)
    old, new = rate // divisor, SAMPLE_RATE // divisor
    margin = 2 * ZERO_CROSSINGS * max(1, -(-old // new))
    start = max(0, first * old // new - margin) // old * old
    return start, -(-(first + count) * old // new) + margin, first - start // old * new


def read_audio(source: str, max_samples: int | None = None, position: float = 0.0) -> Tensor:
    """Read a recording, or as much of it as is wanted, as mono at 16 kHz.

    Args:
        source: path or container address.
        max_samples: 16 kHz samples wanted at most; None reads all. Only that part is decoded and resampled.
        position: where to cut a longer clip, from 0 (its start) to 1 (its end).

    Returns:
        (samples,) float32 in [-1, 1]; channels are averaged.

    Raises:
        DataError: for a recording that cannot be read, is shorter than 10 ms, or holds NaN or infinity.
    """
    recording = open_recording(source)
    try:
        start, end, lead = 0, recording.frames, 0
        if max_samples is not None:
            whole = -(-recording.frames * SAMPLE_RATE // recording.rate)
            first = int(position * max(0, whole - max_samples))  # of the 16 kHz samples that are wanted
            start, end, lead = _part(recording.rate, first, max_samples)
        samples = recording.read(start, min(end, recording.frames) - start)
    except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
        raise DataError(f"{source} breaks off while being decoded ({error}).") from None
    finally:
        recording.close()

    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    waveform = resample(torch.from_numpy(mono), recording.rate, SAMPLE_RATE)
    waveform = waveform[lead : None if max_samples is None else lead + max_samples]
    if len(waveform) < MIN_SAMPLES:
        raise DataError(
            f"{source} holds {len(mono)} samples, {1000 * len(mono) / recording.rate:g} ms; "
            "a clip must last 10 ms at least."
        )
    if not torch.isfinite(waveform).all():
        raise DataError(f"{source} holds samples that are NaN or infinite.")
    return waveform
