"""Learning rates as functions of how many updates were made."""

from __future__ import annotations

import math


def floored_cosine(updates: int, peak: float, least: float, warmup: int, period: int) -> float:
    """BAT's: linear from 0 to the peak over ``warmup``, half a cosine to 0 over ``period``; never below ``least``."""
    if updates <= warmup and warmup > 0:
        return max(least, peak * updates / warmup)
    return max(least, peak * 0.5 * (1 + math.cos(math.pi * min(updates - warmup, period) / period)))
