"""How much of a manifest's recordings a length of so many seconds leaves out, from the headers of some of them."""

from __future__ import annotations

import time
from functools import partial
from typing import NamedTuple

import numpy as np

from ..audio.recordings import open_recording
from ..audio.timeout import within
from ..errors import DataError
from .manifest import Manifest

LOOKED_AT = 100
"""Clips whose headers are read."""
PATIENCE = 5.0
"""Seconds after which no more are: a run begins for all that, on a disk that went away."""


class Coverage(NamedTuple):
    """Of the clips that were looked at and could be read."""

    clips: int
    longer: int
    """How many last longer."""
    cut: float
    """The fraction of all seconds that lies beyond."""


def coverage(manifest: Manifest, seconds: float, timeout: float) -> Coverage:
    """Look at clips spread evenly over a manifest; those that cannot be opened are left out.

    Args:
        manifest: the clips.
        seconds: of each clip that are taken.
        timeout: seconds after which a clip is given up; 0: none, but for :data:`PATIENCE` with all of them.
    """
    lengths: list[float] = []
    began = time.monotonic()
    for index in np.unique(np.linspace(0, len(manifest) - 1, LOOKED_AT).astype(int).tolist()):
        left = began + PATIENCE - time.monotonic()
        if left <= 0:
            break
        try:
            lengths.append(within(min(timeout or left, left), manifest.name(index), partial(_seconds, manifest, index)))
        except DataError:  # named when it is met in training
            continue
    total = sum(lengths)
    cut = sum(max(0.0, length - seconds) for length in lengths)
    return Coverage(len(lengths), sum(length > seconds for length in lengths), cut / total if total else 0.0)


def _seconds(manifest: Manifest, index: int) -> float:
    recording = open_recording(manifest.source(index))
    recording.close()
    return recording.frames / recording.rate
