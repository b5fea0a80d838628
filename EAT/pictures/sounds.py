"""Clips as small files that every browser plays."""

from __future__ import annotations

import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import soundfile

from ..audio.recordings import read_audio
from ..audio.resampling import SAMPLE_RATE
from ..errors import DataError
from ..progress import progress
from ..system import usable_cores

SECONDS = 30.0
"""Of a longer recording the first so many are kept."""


def clip_mp3(source: str, seconds: float = SECONDS) -> bytes:
    """A recording's first so many seconds as an MP3 file at 16 kHz, about 50 kB for ten of them.

    Raises:
        DataError: where it cannot be read.
    """
    waveform = read_audio(source, int(seconds * SAMPLE_RATE)).clamp(-1, 1).numpy()
    content = io.BytesIO()
    soundfile.write(content, waveform, SAMPLE_RATE, format="MP3", subtype="MPEG_LAYER_III")
    return content.getvalue()


def clip_sounds(sources: Mapping[int, str]) -> dict[int, bytes]:
    """Many recordings as MP3 files, by the same numbers; those that cannot be read are left out."""

    def sound(source: str) -> bytes | None:
        try:
            return clip_mp3(source)
        except DataError:
            return None

    with ThreadPoolExecutor(usable_cores()) as pool:
        made = progress(pool.map(sound, sources.values()), len(sources), "sounds")
        return {number: content for number, content in zip(sources, made, strict=True) if content is not None}
