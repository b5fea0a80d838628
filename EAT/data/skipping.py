"""Clips that could not be read: counted, named once each, and a reason to stop when there are too many."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from ..errors import TrainingError

logger = logging.getLogger("EAT")


class SkipLog:
    """Keeps account of one split's unreadable clips.

    Args:
        clips: how many clips the split has.
        max_fraction: raise when more than this fraction of them could not be read.
    """

    def __init__(self, clips: int, max_fraction: float) -> None:
        self.clips = clips
        self.max_fraction = max_fraction
        self.reasons: dict[int, str] = {}

    def record(self, skipped: Iterable[tuple[int, str]]) -> None:
        """Take note of (clip, reason) pairs.

        Raises:
            TrainingError: when more than ``max_fraction`` of the clips could not be read.
        """
        for clip, reason in skipped:
            if clip not in self.reasons:
                self.reasons[clip] = reason
                logger.warning(f"clip skipped ({len(self.reasons)} so far): {reason}")
        if len(self.reasons) > self.max_fraction * self.clips:
            raise TrainingError(
                f"{len(self.reasons)} of {self.clips} clips could not be read, more than task.max_skipped="
                f"{self.max_fraction:g} allows; the last: {list(self.reasons.values())[-1]} "
                "Repair or remove the clips named above, or raise task.max_skipped."
            )
