"""Real clips written in every format that the reader promises, at several rates, mono and stereo."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import signal
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import soundfile
import torch

from EAT.audio.resampling import resample

FORMATS = {
    "wav": ("WAV", "PCM_16", 44100),
    "flac": ("FLAC", "PCM_24", 48000),
    "ogg": ("OGG", "VORBIS", 22050),
    "opus": ("OGG", "OPUS", 48000),
    "mp3": ("MP3", None, 44100),
    "aiff": ("AIFF", "PCM_16", 16000),
}
"""Suffix to libsndfile's format, subtype, and the rate that a file of that suffix gets here."""


def at_rate(clip: Path, rate: int, channels: int) -> np.ndarray:
    """A clip at another rate, (samples, channels); a second channel is half as loud."""
    samples, own_rate = soundfile.read(clip, dtype="float32")
    mono = resample(torch.from_numpy(samples), own_rate, rate).numpy()
    return np.stack([mono, mono / 2], axis=1) if channels == 2 else mono[:, None]


def write_mixed_manifest(data: Path, clips: list[Path]) -> int:
    """A manifest over all formats, an HDF5 pack and a stored zip; returns its number of clips."""
    root = data / "audio files"  # paths may hold spaces
    root.mkdir(parents=True)
    lines = []
    for index, clip in enumerate(clips):
        suffix = list(FORMATS)[index % len(FORMATS)]
        kind, subtype, rate = FORMATS[suffix]
        channels = 1 + index // len(FORMATS) % 2
        name = f"{clip.stem} {channels}.{suffix}"
        samples = at_rate(clip, rate, channels)
        soundfile.write(root / name, samples, rate, format=kind, subtype=subtype)
        lines.append(f"{name}\t{len(samples)}")
    with h5py.File(root / "pack.h5", "w") as pack:
        for clip in clips[:4]:
            samples = at_rate(clip, 32000, 1)[:, 0]
            pack[clip.stem] = (samples * 32767).astype(np.int16)
            lines.append(f"pack.h5/{clip.stem}\t{len(samples)}")
        samples = at_rate(clips[4], 8000, 1)[:, 0]
        pack[clips[4].stem] = samples
        pack[clips[4].stem].attrs["sample_rate"] = 8000
        lines.append(f"pack.h5/{clips[4].stem}\t{len(samples)}")
    with zipfile.ZipFile(root / "stored.zip", "w", zipfile.ZIP_STORED) as archive:
        for clip in clips[:4]:
            archive.write(clip, clip.name)
        for info in archive.infolist():
            offset = info.header_offset + 30 + len(info.filename)  # a local header is 30 bytes and the name
            lines.append(f"stored.zip:{offset}:{info.file_size}\t0")
    (data / "train.tsv").write_text("\n".join([str(root), *lines]) + "\n")
    return len(lines)


def mp3(samples: np.ndarray, rate: int, mode: str = "CONSTANT", level: float = 0.5) -> bytes:
    """An MP3 whose first frame states its length: an Info header at a constant rate, Xing at a variable one."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="MP3", bitrate_mode=mode, compression_level=level)
    return file.getvalue()


def first_frame(content: bytes) -> int:
    """Bytes of an MP3's first frame: from its header, layer III of MPEG 1 or 2."""
    newer = content[1] >> 3 & 3 == 3
    rates = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320) if newer else (
        0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)  # fmt: skip
    frequency = ((44100, 48000, 32000) if newer else (22050, 24000, 16000))[content[2] >> 2 & 3]
    return (144 if newer else 72) * rates[content[2] >> 4] * 1000 // frequency + (content[2] >> 1 & 1)


def without_header(content: bytes) -> bytes:
    """An MP3 without the frame that states its length, as old encoders and cutters leave it."""
    return content[first_frame(content) :]


def id3(size: int) -> bytes:
    """An ID3v2 tag of so many bytes with a picture in it, which holds what looks like the start of a frame."""

    def number(value: int) -> bytes:  # seven bits a byte
        return bytes(value >> shift & 127 for shift in (21, 14, 7, 0))

    picture = b"\0image/jpeg\0\3\0" + (b"\xff\xfb\x90\x64 not audio " * (size // 15 + 1))
    content = b"APIC" + (size - 10).to_bytes(4, "big") + b"\0\0" + picture[: size - 10]
    return b"ID3\3\0\0" + number(size) + content


@contextlib.contextmanager
def hanging(path: Path) -> Iterator[Callable[[], bool]]:
    """A file that whoever opens it waits for until the block ends, 45 s at most, as on a disk that went away.

    It is leased, and the lease is not given back. Gives whether somebody waits.
    """
    path.write_bytes(b"RIFF")
    handle = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(
            handle, fcntl.F_SETSIG, signal.SIGURG
        )  # that somebody waits is told by a signal: one without effect
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield lambda: fcntl.fcntl(handle, fcntl.F_GETLEASE) != fcntl.F_WRLCK
    finally:
        os.close(handle)
