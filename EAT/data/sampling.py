"""Sampling of clips, by weight without replacement or by class, a different sample every epoch."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from ..errors import DataError
from .manifest import Manifest


def read_weights(path: str | os.PathLike[str], manifest: Manifest) -> np.ndarray:
    """Read sampling weights: one number a line, in the order of the manifest.

    Returns:
        (clips,) float64.

    Raises:
        DataError: for a file that is missing or no such list, another number of lines than clips, or a weight that is
            negative or not finite, or no positive weight at all.
    """
    try:
        with open(path, encoding="utf-8") as handle:
            weights = np.array(handle.read().split(), dtype=np.float64)
    except OSError as error:
        raise DataError(
            f"the sampling weights {path} cannot be read ({error.strerror}); write one number a line for each clip of "
            f"{manifest.path}, or set task.weights=null to take every clip in every epoch."
        ) from None
    except ValueError as error:
        raise DataError(f"the sampling weights {path} must hold one number a line ({error}).") from None
    if len(weights) != len(manifest):
        raise DataError(
            f"the sampling weights {path} are {len(weights)}, but the manifest {manifest.path} has {len(manifest)} "
            "clips; there must be one for each, in the same order."
        )
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        raise DataError(
            f"line {wrong[0] + 1} of the sampling weights {path} is {weights[wrong[0]]:g}; "
            "weights must be finite and not negative."
        )
    if not weights.any():
        raise DataError(f"the sampling weights {path} are all 0, so no clip could ever be drawn.")
    return weights


def sample_without_replacement(weights: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw clips one after the other, each with probability in proportion to its weight among those left.

    Equivalent to taking the smallest of independent exponential arrival times with the weights as rates (Efraimidis
    and Spirakis, 2006): one pass over millions of clips.

    Args:
        weights: (clips,) not negative; clips of weight 0 are never drawn.
        count: how many to draw; where fewer have a weight, all of those.
        rng: source of randomness.

    Returns:
        Indices in random order, none twice.
    """
    drawable = np.flatnonzero(weights)
    arrivals = rng.standard_exponential(len(drawable)) / weights[drawable]
    if count < len(drawable):
        drawable = drawable[np.argpartition(arrivals, count - 1)[:count]]
    # In a random order, because in that of arrival heavy clips come first.
    return rng.permutation(drawable)


def sample_by_class(classes: Sequence[np.ndarray], count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw equally many clips of every class (class-aware sampling, arXiv 1512.05830).

    The clips of a class come in random order, each once before any of them comes again.

    Args:
        classes: each class's clips; those without are left out.
        count: how many to draw. What is left of it after equal parts goes to classes drawn at random.
        rng: source of randomness.

    Returns:
        (count,) indices in random order; a clip may occur several times.
    """
    present = [clips for clips in classes if len(clips)]
    parts = np.full(len(present), count // len(present))
    parts[rng.permutation(len(present))[: count % len(present)]] += 1
    drawn = [
        np.concatenate([rng.permutation(clips) for _ in range(-(-part // len(clips)))])[:part]
        for clips, part in zip(present, parts.tolist(), strict=True)
        if part
    ]
    return rng.permutation(np.concatenate(drawn))
