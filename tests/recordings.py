"""Real clips written in every format that the reader promises, at several rates, mono and stereo."""

from __future__ import annotations

import zipfile
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
