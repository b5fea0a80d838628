"""The mean and standard deviation that the front end normalises with.

They are taken over every value of the unpadded log-mel filterbanks of the training split; the front end then computes
(x - mean) / (2 std) (method section 1.4).
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import DataError
from ...files import replacing
from ..normalization import FILE
from .measure import Statistics, clip_statistics, for_each


class Normalization(NamedTuple):
    """The constants of a set of clips."""

    mean: float
    std: float
    clips: int
    """How many clips they were taken from."""


def collect_statistics(
    sources: Sequence[str], clips: int, seconds: float, seed: int, workers: int
) -> dict[int, Statistics]:
    """Statistics of as many clips as wanted, drawn at random.

    Args:
        sources: addresses of the clips.
        clips: how many to draw at most.
        seconds: how much of a clip's start to read.
        seed: of the draw.
        workers: processes.

    Returns:
        Statistics by position in ``sources``, without clips that cannot be read.
    """
    drawn = range(len(sources))
    if clips < len(sources):
        drawn = np.sort(np.random.default_rng(seed).choice(len(sources), clips, replace=False)).tolist()
    function = functools.partial(clip_statistics, seconds=seconds)
    results = for_each(function, [sources[index] for index in drawn], "normalisation", workers, chunk=8)
    return {index: result for index, result in zip(drawn, results, strict=True) if not isinstance(result, str)}


def normalization(statistics: Sequence[Statistics]) -> Normalization:
    """Join clips' statistics. Raises DataError where nothing, or only one value over and over, was read."""
    if not len(statistics):
        raise DataError("no clip of the training split could be read, so its normalisation is unknown.")
    count, total, squares = np.stack(statistics).sum(axis=0)
    mean = total / count
    variance = squares / count - mean**2
    if variance <= 1e-12:
        raise DataError("the training split's filterbanks hold a single value, as silence does; check its recordings.")
    return Normalization(float(mean), math.sqrt(variance), len(statistics))


def write_normalization(data: Path, constants: Normalization) -> None:
    """Write the constants where training picks them up."""
    with replacing(data / FILE) as handle:
        json.dump(constants._asdict(), handle, indent=1)
        handle.write("\n")
