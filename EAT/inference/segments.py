"""When a class is active: windows of a timeline joined to segments."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .prediction import Prediction, best


class Segment(NamedTuple):
    """A stretch of a recording in which a class is active."""

    start: float
    """Seconds from the recording's start."""
    end: float
    index: int  # type: ignore[assignment]
    """The class."""
    score: float
    """The highest of its windows'."""


@dataclass(frozen=True)
class Merging:
    """From when to when a class is active.

    Raises:
        ConfigError: for numbers that cannot be.
    """

    threshold: float = 0.5
    """A class becomes active where it scores so much or more."""
    hold: float | None = None
    """An active class stays so, before and after, while it scores so much or more; None: the threshold."""
    max_gap: float = 0.0
    """Seconds between two segments of a class that are joined all the same."""
    min_seconds: float = 0.0
    """Shorter segments are dropped."""

    def __post_init__(self) -> None:
        hold = self.threshold if self.hold is None else self.hold
        if not 0.0 <= hold <= self.threshold <= 1.0:
            raise ConfigError(
                f"the threshold {self.threshold:g} and what holds a segment, {hold:g}, must be scores from 0 to 1, the "
                "second no higher than the first."
            )
        for name, seconds in (("gap", self.max_gap), ("shortest segment", self.min_seconds)):
            if not 0.0 <= seconds < math.inf:
                raise ConfigError(f"the {name} is {seconds:g} s; it must be 0 or more.")


def slots(prediction: Prediction) -> list[tuple[float, float, NDArray[np.float32]]]:
    """The recording's timeline without gaps or overlaps: (start, end, scores); of a short one a single slot."""
    timeline = [(*window.slot, window.scores.numpy()) for window in prediction.timeline]
    return timeline or [(0.0, prediction.duration, prediction.scores)]


def find_segments(prediction: Prediction, count: int, merging: Merging) -> list[Segment]:
    """Segments of a recording's ``count`` best classes by their highest score, in order of time."""
    timeline = slots(prediction)
    scores = np.stack([row for _, _, row in timeline])  # (slots, classes)
    found = [
        segment
        for index in best(scores.max(axis=0), count)
        for segment in _joined(_active(timeline, scores[:, index], index, merging), merging.max_gap)
        if segment.end - segment.start >= merging.min_seconds
    ]
    return sorted(found)


def _active(
    timeline: list[tuple[float, float, NDArray[np.float32]]],
    scores: NDArray[np.float32],
    index: int,
    merging: Merging,
) -> Iterator[Segment]:
    """Runs of slots that hold, one of which at least reaches the threshold."""
    hold = merging.threshold if merging.hold is None else merging.hold
    holds = np.concatenate([[False], scores >= hold, [False]])
    firsts, ends = (np.flatnonzero(holds[1:] & ~holds[:-1]), np.flatnonzero(~holds[1:] & holds[:-1]))
    for first, end in zip(firsts.tolist(), ends.tolist(), strict=True):
        peak = float(scores[first:end].max())
        if peak >= merging.threshold:
            yield Segment(timeline[first][0], timeline[end - 1][1], index, peak)


def _joined(segments: Iterator[Segment], max_gap: float) -> Iterator[Segment]:
    last: Segment | None = None
    for segment in segments:
        if last is not None and segment.start - last.end <= max_gap:
            last = Segment(last.start, segment.end, last.index, max(last.score, segment.score))
            continue
        if last is not None:
            yield last
        last = segment
    if last is not None:
        yield last
