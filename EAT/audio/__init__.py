"""Recordings to 16 kHz samples: formats and containers, resampling, streams, time-outs. No features here."""

from .recordings import AUDIO_SUFFIXES, Recording, open_recording, read_audio
from .resampling import resample
from .stream import AudioStream

__all__ = ["AUDIO_SUFFIXES", "AudioStream", "Recording", "open_recording", "read_audio", "resample"]
