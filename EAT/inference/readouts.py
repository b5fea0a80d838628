"""One vector for a clip: what of an encoder's tokens a classifier on frozen features looks at.

It decides as much as the pre-training does: the mean of all patches forgets at which frequency something was heard,
frequency rows remember it, and maxima keep what was short. Compare models with one readout.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

READOUTS = ("utterance", "mean", "rows", "rows_max")
"""``utterance``: the CLS token, (D); ``mean``: of the patches, (D); ``rows``: the mean over time of each of the F
frequency rows of patches, side by side from low to high, (F D); ``rows_max``: those, then the maximum over time of each
row, (2 F D)."""


class Summary(NamedTuple):
    """What every readout of a clip, or of a part of one, follows from; parts add up."""

    cls: Tensor
    """(..., D), a sum over the parts."""
    parts: int
    total: Tensor
    """(..., F, D), each frequency row's sum over time."""
    steps: Tensor
    """(..., 1, 1), time steps in it."""
    largest: Tensor
    """(..., F, D), each row's maximum over time."""

    def __add__(self, other: Summary) -> Summary:  # type: ignore[override]
        return Summary(
            self.cls + other.cls,
            self.parts + other.parts,
            self.total + other.total,
            self.steps + other.steps,
            torch.maximum(self.largest, other.largest),
        )

    def read(self, readout: str) -> Tensor:
        """The vector, (..., width), by one of :data:`READOUTS`."""
        if readout == "utterance":
            return self.cls / self.parts
        rows = self.total / self.steps
        if readout == "mean":
            return rows.mean(dim=-2)
        return (rows if readout == "rows" else torch.cat([rows, self.largest], dim=-2)).flatten(-2)


def summarise(tokens: Tensor, frequency: int, real: Tensor | None = None) -> Summary:
    """Sum up tokens over time.

    Args:
        tokens: (B, ..., 1 + N, D), CLS first, patches time-major.
        frequency: F, frequency patches of a time step.
        real: (B, N) which patches hold audio, whole time steps of them; None: all.

    Returns:
        In float32 at least, with the leading axes (B, ...).
    """
    tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    patches = tokens[..., 1:, :].unflatten(-2, (-1, frequency))  # (B, ..., T, F, D)
    shape = (len(tokens), *[1] * (tokens.ndim - 3))
    if real is None:
        steps = tokens.new_full(shape, patches.shape[-3])
        total, largest = patches.sum(dim=-3), patches.amax(dim=-3)
    else:
        there = real[:, ::frequency].view(*shape, -1, 1, 1)
        steps = there.sum(dim=(-3, -2, -1)).to(tokens.dtype)
        total = torch.where(there, patches, 0.0).sum(dim=-3)
        largest = torch.where(there, patches, -torch.inf).amax(dim=-3)
    return Summary(tokens[..., 0, :], 1, total, steps[..., None, None], largest)


def width(readout: str, dim: int, frequency: int) -> int:
    """Length of the vector, for a model ``dim`` wide."""
    return dim * {"utterance": 1, "mean": 1, "rows": frequency, "rows_max": 2 * frequency}[readout]
