"""A data folder's normalisation constants, as ``python -m EAT.prepare`` leaves them there."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from ..errors import DataError

FILE = "normalization.json"
"""``{"mean": ..., "std": ...}`` of the training split's filterbanks."""


def read_normalization(data: str | os.PathLike[str]) -> tuple[float, float]:
    """Mean and standard deviation of the data folder's training split.

    Raises:
        DataError: for a file that is missing or does not hold the two numbers.
    """
    path = Path(data) / FILE
    try:
        constants = json.loads(path.read_bytes())
        mean, std = float(constants["mean"]), float(constants["std"])
    except OSError as error:
        raise DataError(
            f"task.norm_mean and task.norm_std are not set and {path} cannot be read ({error.strerror}); set both, or "
            "let 'python -m EAT.prepare' write that file."
        ) from None
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise DataError(f'{path} must hold {{"mean": number, "std": number}}.') from None
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0.0):
        raise DataError(f"{path} holds mean {mean:g} and std {std:g}, which cannot normalise; prepare the data again.")
    return mean, std
