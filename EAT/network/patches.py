"""Filterbank to patch embeddings, and the grid that patches form (method section 2.1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .rows import take_rows
from .settings import EncoderSettings


class Grid(NamedTuple):
    """How many patches there are along time (T) and frequency (F). Patches are numbered time-major."""

    time: int
    frequency: int

    @property
    def patches(self) -> int:
        """N = T * F."""
        return self.time * self.frequency


def real_patches(frames: Tensor, grid: Grid, size: int) -> Tensor:
    """Which patches begin with audio: (B,) frames that hold some, and the side of a patch, to (B, N) bool."""
    starts = torch.arange(grid.time, device=frames.device) * size
    return (starts < frames[:, None]).repeat_interleave(grid.frequency, dim=1)


class PatchEmbedding(nn.Module):
    """Cuts a filterbank into square patches and projects each to the model width: a strided convolution."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        size = settings.patch_size
        self.projection = nn.Conv2d(1, settings.embed_dim, kernel_size=size, stride=size)
        nn.init.xavier_uniform_(self.projection.weight.view(settings.embed_dim, -1))

    def forward(self, filterbank: Tensor, visible: Tensor | None = None) -> Tensor:
        """(B, 1, frames, mel bins) to (B, N, D), time-major: the F frequency patches of the first time step first.

        With ``visible``, (B, M, K) indices of patches, only these are projected, a clone's after another's: (B, M * K,
        D). That is more work than to project each patch once, but little, and no gradients of clones are added up.
        """
        if visible is None:
            return self.projection(filterbank).flatten(2).transpose(1, 2)
        size = self.projection.kernel_size[0]
        cut = filterbank.unflatten(3, (-1, size)).unflatten(2, (-1, size))  # (B, 1, T, size, F, size)
        patches = cut.permute(0, 2, 4, 1, 3, 5).flatten(1, 2).flatten(2)  # (B, N, size * size)
        return F.linear(take_rows(patches, visible.flatten(1)), self.projection.weight.flatten(1), self.projection.bias)
