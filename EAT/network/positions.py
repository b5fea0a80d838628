"""Position tables (method section 2.2). A choice of :data:`POSITIONS` is a function ``(width, grid) -> table``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from .patches import Grid

TIME_PATCHES = 768
"""Length of a table along time: 768 patches of 16 frames are about two minutes."""


def sine_cosine(embed_dim: int, grid: Grid) -> Tensor:
    """Fixed two-dimensional sine-cosine positions, (1, N, embed_dim), time-major.

    The first half of the width encodes the frequency index, the second half the time index; each half is
    [sin, cos] of position * 10000^(-k / (embed_dim / 4)) for k = 0 ... embed_dim / 4 - 1. A row depends on its
    own indices alone, so the first N rows serve a clip of N patches whatever the table's length.
    """
    # NumPy's float32, step by step as the published tables were made, so that ours is theirs bit for bit.
    quarter = embed_dim // 4
    rates = (1.0 / 10000 ** (np.arange(quarter, dtype=np.float32) / np.float32(quarter))).astype(np.float32)

    def encode(index: np.ndarray) -> np.ndarray:
        angles = index.reshape(-1, 1) * rates  # (N, D/4)
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)  # (N, D/2)

    time, frequency = np.meshgrid(
        np.arange(grid.time, dtype=np.float32), np.arange(grid.frequency, dtype=np.float32), indexing="ij"
    )
    return torch.from_numpy(np.concatenate([encode(frequency), encode(time)], axis=1)).unsqueeze(0)


POSITIONS: dict[str, Callable[[int, Grid], Tensor]] = {"sine_cosine": sine_cosine}
"""The choices of ``model.positions``."""


class Positions(nn.Module):
    """The table as a module: stored in checkpoints, never trained, and float32 whatever the model's precision."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table)

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        exact = self.table
        super()._apply(fn, recurse)
        if self.table.dtype != exact.dtype:
            self.table = exact.to(self.table.device)
        return self

    def forward(self, patches: Tensor, visible: Tensor | None = None) -> Tensor:
        """Add positions: (B, N, D) to (B, N, D), in the patches' precision.

        With ``visible``, (B, M, K) indices, the patches (B, M * K, D) are those alone.
        """
        if visible is None:
            return patches + self.table[:, : patches.shape[1]].to(patches.dtype)
        return patches + self.table[0][visible.flatten(1)].to(patches.dtype)
