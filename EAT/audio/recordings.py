"""Reading recordings: any format, rate and channel count to mono float32 at one rate (method section 1.1).

Formats come through libsndfile (wav, flac, ogg, opus, mp3, aiff, ...). Beside plain files there are ``pack.h5/KEY``, a
data set in an HDF5 file, and what :mod:`.stored` reads: members of zips and tars, and remote files.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import stat
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from torch import Tensor

from ..errors import DataError
from . import mp3
from .held import Held
from .lengths import check_length
from .resampling import MAX_RATE, MIN_RATE, SAMPLE_RATE, SINC, Resampler
from .stored import MAX_MEMBER, is_remote, member, read_member, read_whole

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".w64", ".rf64", ".au")
"""File names that a search of a folder takes for recordings."""

MAX_CHANNELS = 256
MIN_SECONDS = 0.01
"""The shortest clip that counts as one."""
HDF5_RATE = 32_000
"""Sampling rate of an HDF5 data set that has no ``sample_rate`` attribute."""

MAX_FRAMES = 2**28
"""Samples per channel that are decoded at once: 1 GiB of mono, 4.6 hours at 16 kHz."""
LOUDEST = 1e10
"""The largest sample that is taken for one: far more than any scale of integers, far less than float32 can square."""
BLOCK_VALUES = 2**22
"""Values, over all channels, that are decoded before channels are averaged: 16 MiB."""
SLACK_FRAMES = 2304
"""Samples by which a recording may end before its header says: two frames of mp3, whose headers count whole frames."""
HDF5_ERRORS = (KeyError, RuntimeError, OSError, ValueError, TypeError, OverflowError, AttributeError)
"""What h5py raises for a damaged file: whatever it stumbles over, in a link, a table or an attribute."""

_PACKED = re.compile(r"^(?P<pack>.*\.(?:h5|hdf5))/(?P<key>.+)$", re.IGNORECASE | re.DOTALL)


class Recording(NamedTuple):
    """An opened recording: its header, and a way to read part of it."""

    frames: int
    """Samples per channel, as the header says; of an MP3 whose header does not, as they were counted."""
    rate: int
    channels: int
    read: Callable[[int, int], np.ndarray]
    """read(start, count) to (count or fewer, channels) float32."""
    close: Callable[[], Any]


def refuse_special(source: str) -> None:
    """Raise DataError for what only looks like a file: opening a pipe waits for ever, a device never ends."""
    try:
        mode = os.stat(source).st_mode
    except (OSError, ValueError):
        return  # whoever opens it says why it cannot
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise DataError(f"{source} is a pipe, a socket or a device; give a file.")


class _Sound(soundfile.SoundFile):
    """A file that is read on from where the last read ended.

    The base class follows every read of a seekable file with a seek to where it already is, after which MP3 decodes
    its next frames wrongly.
    """

    # The base class lets one file be opened at a time in a process: one open that hangs would block all others.
    # What its lock guards is the text of an error.
    _sf_error_lock = contextlib.nullcontext()

    def seekable(self) -> bool:
        return False


def _open_file(source: str, content: str | bytes) -> Recording:
    try:
        sound = _Sound(content if isinstance(content, str) else io.BytesIO(content))
    except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(content, str) and not os.path.exists(content):
            raise DataError(
                f"{source} does not exist; check its path and, where a manifest lists it, the root folder there."
            ) from None
        if isinstance(content, str) and os.path.isdir(content):
            raise DataError(f"{source} is a folder, not a recording.") from None
        if isinstance(content, str) and not os.access(content, os.R_OK):
            raise DataError(f"{source} may not be read; check its permissions.") from None
        reason = str(getattr(error, "error_string", error)).strip().rstrip(".")
        raise DataError(f"{source} is not audio that libsndfile can read ({reason}).") from None

    frames, opened = sound.frames, contextlib.ExitStack()
    opened.callback(sound.close)
    try:
        check_length(source, content, sound)
        counted = mp3.counted(source, content, frames, _Sound) if sound.format == "MP3" else None
        if counted is not None:
            endless = opened.enter_context(contextlib.closing(mp3.endless(content)))
            sound, frames = opened.enter_context(_Sound(endless)), counted
    except (OSError, soundfile.LibsndfileError) as error:
        opened.close()
        raise DataError(f"{source} cannot be read ({error}).") from None
    except DataError:
        opened.close()
        raise
    position, lead = 0, mp3.LEAD if sound.format == "MP3" else 0

    def read(start: int, count: int) -> np.ndarray:
        nonlocal position
        if start != position:
            sound.seek(max(0, start - lead))
            sound.read(min(start, lead), dtype="float32")
        samples = sound.read(min(count, frames - start), dtype="float32", always_2d=True)
        position = start + len(samples)
        return samples

    return Recording(frames, sound.samplerate, sound.channels, read, opened.close)


@lru_cache(maxsize=32)
def _hdf5_pack(path: str, process: int, file: tuple[int, ...]) -> Any:
    try:
        import h5py
    except ImportError:
        raise DataError(f"{path} is an HDF5 pack, which needs h5py: pip install 'eat-audio[hdf5]'.") from None
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path} cannot be opened as an HDF5 file ({error}).") from None


def _check_storage(source: str, file: Any, data: Any) -> None:
    """Raise DataError where a data set's values lie in other files, or in a chunk too large to decompress."""
    if data.is_virtual or data.external or data.file.filename != file.filename:
        raise DataError(f"{source} is a link to another file; packs must hold their clips themselves.")
    if data.chunks and math.prod(data.chunks) * data.dtype.itemsize > MAX_MEMBER:
        raise DataError(f"{source} is stored in chunks of {math.prod(data.chunks):,} values, too large to be read.")
    if data.chunks and data.id.get_create_plist().get_nfilters():
        empty = False

        def look(chunk: Any) -> None:
            nonlocal empty
            empty = empty or chunk.size == 0

        data.id.chunk_iter(look)
        if empty:  # HDF5 ends the process when it decompresses such a one
            raise DataError(f"{source} is damaged: a compressed part of it has no bytes.")


def _open_packed(source: str, pack: str, key: str) -> Recording:
    try:
        return _open_data_set(source, pack, key)
    except HDF5_ERRORS as error:
        raise DataError(_unreadable(source, error)) from None


def _unreadable(source: str, error: Exception) -> str:
    return f"{source} cannot be read from its pack ({' '.join(str(error).split())[:200]})."


def _open_data_set(source: str, pack: str, key: str) -> Recording:
    status = os.stat(pack) if os.path.exists(pack) else None
    which = (status.st_ino, status.st_size, status.st_mtime_ns) if status else ()  # another file may take its place
    file = _hdf5_pack(pack, os.getpid(), which)  # a handle must not be shared with a forked worker
    from h5py import Dataset

    data = file.get(key)
    if not isinstance(data, Dataset):
        raise DataError(f"{pack} holds no data set {key!r}.")
    _check_storage(source, file, data)
    if data.ndim not in (1, 2) or data.dtype.kind not in "if":
        raise DataError(
            f"{source} has shape {data.shape} and type {data.dtype}; a clip is (samples,) or (samples, channels) "
            "of int16 or float."
        )
    scale = 1.0 / 2 ** (8 * data.dtype.itemsize - 1) if data.dtype.kind == "i" else 1.0

    def read(start: int, count: int) -> np.ndarray:
        try:
            part = np.asarray(data[start : start + count])
        except HDF5_ERRORS as error:
            raise DataError(_unreadable(source, error)) from None
        return part.reshape(len(part), -1).astype(np.float32) * np.float32(scale)

    try:
        rate = int(data.attrs.get("sample_rate", HDF5_RATE))
    except (TypeError, ValueError, OSError, OverflowError):
        raise DataError(f"{source} has a sample_rate attribute that is no number.") from None
    return Recording(data.shape[0], rate, 1 if data.ndim == 1 else data.shape[1], read, lambda: None)


def file_of(source: str) -> str:
    """The file on disk that a path or container address leads to."""
    stored, packed = member(source), _PACKED.match(source)
    return stored.archive if stored else packed["pack"] if packed else source


def open_recording(source: str) -> Recording:
    """Open a recording by path or container address, or one in memory (:class:`EAT.audio.held.Held`).

    Raises:
        DataError: where there is no such recording, it is not audio, or its header is absurd.
    """
    stored, packed = member(source), _PACKED.match(source)
    if not isinstance(source, Held):
        refuse_special(file_of(source))
    if isinstance(source, Held):
        recording: Recording = source.opened(_open_file)
    elif stored:
        recording = _open_file(source, read_member(stored))
    elif is_remote(source):
        recording = _open_file(source, read_whole(source))
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


class Excerpt(NamedTuple):
    """A decoded part of a recording, not resampled yet."""

    source: str
    mono: np.ndarray
    """(samples,) float32 at the recording's own rate; channels are averaged."""
    rate: int
    lead: int
    """Resampled samples before the wanted ones, which the resampling filter needs."""
    wanted: int | None
    """Resampled samples wanted at most."""
    new_rate: int
    """Wanted rate."""
    resampler: Resampler = SINC
    first: int = 0
    """Resampled samples of the recording before the wanted ones."""


def _read_mono(source: str, recording: Recording, start: int, count: int) -> np.ndarray:
    """(count,) float32, decoded block by block: what other channels need is never held for the whole."""
    mono = np.empty(count, dtype=np.float32)
    block, done = max(1, BLOCK_VALUES // recording.channels), 0
    while done < count:
        samples = recording.read(start + done, min(block, count - done))
        if not len(samples):
            break
        mono[done : done + len(samples)] = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
        done += len(samples)
    if done + SLACK_FRAMES < count:
        raise DataError(
            f"{source} breaks off after {(start + done) / recording.rate:.2f} of the "
            f"{recording.frames / recording.rate:.2f} s that its header states."
        )
    return mono[:done]


def decode(
    source: str,
    max_samples: int | None = None,
    position: float = 0.0,
    rate: int = SAMPLE_RATE,
    resampler: Resampler = SINC,
) -> Excerpt:
    """Decode what :func:`read_audio` resamples, with the same arguments: all that may wait for a disk or a network.

    Raises:
        DataError: for a recording that cannot be read, breaks off, or is too long to be read at once.
    """
    recording = open_recording(source)
    try:
        start, end, lead, first = 0, recording.frames, 0, 0
        if max_samples is not None:
            whole = -(-recording.frames * rate // recording.rate)
            first = int(position * max(0, whole - max_samples))  # of the samples that are wanted
            old, new, margin = resampler.ratio(recording.rate, rate)
            start = max(0, first * old // new - margin) // old * old
            end, lead = -(-(first + max_samples) * old // new) + margin, first - start // old * new
        count = min(end, recording.frames) - start
        if count > MAX_FRAMES:
            raise DataError(
                f"{source} claims to last {recording.frames / recording.rate / 3600:,.1f} hours; at most "
                f"{MAX_FRAMES:,} samples are decoded at once."
            )
        mono = _read_mono(source, recording, start, count)
    except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
        raise DataError(f"{source} breaks off while being decoded ({error}).") from None
    finally:
        recording.close()
    return Excerpt(source, mono, recording.rate, lead, max_samples, rate, resampler, first)


def as_waveform(excerpt: Excerpt) -> Tensor:
    """Resample a decoded part; see :func:`read_audio`.

    Raises:
        DataError: for one that is shorter than 10 ms, or holds NaN, infinity or numbers that no audio has.
    """
    source, mono, rate, lead, wanted, new_rate, resampler, _ = excerpt
    waveform = torch.from_numpy(mono)
    if len(mono):
        waveform = resampler.resample(waveform, rate, new_rate)
    waveform = waveform[lead : None if wanted is None else lead + wanted]
    if len(waveform) < new_rate * MIN_SECONDS:
        raise DataError(
            f"{source} holds {len(mono)} samples, {1000 * len(mono) / rate:g} ms; a clip must last 10 ms at least."
        )
    check_samples(source, waveform.numpy())
    return waveform


def check_samples(source: str, samples: np.ndarray) -> None:
    """Raise DataError for samples that are NaN, infinite, or so large that what is computed of them would be."""
    peak = np.maximum(samples.max(initial=0.0), -samples.min(initial=0.0))
    if not np.isfinite(peak):
        raise DataError(f"{source} holds samples that are NaN or infinite.")
    if peak > LOUDEST:
        raise DataError(f"{source} holds samples as large as {peak:.3g}; audio lies within [-1, 1].")


def read_audio(
    source: str,
    max_samples: int | None = None,
    position: float = 0.0,
    rate: int = SAMPLE_RATE,
    resampler: Resampler = SINC,
) -> Tensor:
    """Read a recording, or as much of it as is wanted, as mono at 16 kHz or another rate.

    Args:
        source: path or container address.
        max_samples: samples wanted at most, at ``rate``; None reads all. Only that part is decoded and resampled.
        position: where to cut a longer clip, from 0 (its start) to 1 (its end).
        rate: in Hz.
        resampler: what resamples to it.

    Returns:
        (samples,) float32 in [-1, 1]; channels are averaged.

    Raises:
        DataError: for a recording that cannot be read, is shorter than 10 ms, or holds NaN or infinity.
    """
    return as_waveform(decode(source, max_samples, position, rate, resampler))
