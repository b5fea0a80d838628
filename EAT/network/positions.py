"""Position tables (method section 2.2). A choice of :data:`POSITIONS` is a function ``(width, grid) -> table``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from .patches import Grid
from .settings import TIME_PATCHES

__all__ = ["POSITIONS", "TIME_PATCHES", "Positions", "bat", "sine_cosine"]


def sine_cosine(embed_dim: int, grid: Grid) -> Tensor:
    """Fixed two-dimensional sine-cosine positions, (1, N, embed_dim), time-major.

    The first half of the width encodes the frequency index, the second half the time index; each half is
    [sin, cos] of position * 10000^(-k / (embed_dim / 4)) for k = 0 ... embed_dim / 4 - 1. A row depends on its
    own indices alone, so the first N rows serve a clip of N patches whatever the table's length.
    """
    time, frequency = np.meshgrid(np.arange(grid.time), np.arange(grid.frequency), indexing="ij")
    return _table(frequency, time, embed_dim)


def bat(embed_dim: int, grid: Grid) -> Tensor:
    """The table that BAT's weights were trained with, (1, N, embed_dim): row i encodes i mod T, then i // T.

    Patches are time-major and this table frequency-major, an accident of the published code: each patch still has a
    code of its own, but it is not that of its frequency and time. It depends on the table's own length, T time patches.
    """
    row = np.arange(grid.patches)
    return _table(row % grid.time, row // grid.time, embed_dim)


def _table(first: np.ndarray, second: np.ndarray, embed_dim: int) -> Tensor:
    """One half of the width for each of two indices of every row, (1, N, embed_dim)."""
    # NumPy's float32, step by step as the published tables were made, so that ours is theirs bit for bit.
    quarter = embed_dim // 4
    rates = (1.0 / 10000 ** (np.arange(quarter, dtype=np.float32) / np.float32(quarter))).astype(np.float32)

    def encode(index: np.ndarray) -> np.ndarray:
        angles = index.astype(np.float32).reshape(-1, 1) * rates  # (N, D/4)
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)  # (N, D/2)

    return torch.from_numpy(np.concatenate([encode(first), encode(second)], axis=1)).unsqueeze(0)


POSITIONS: dict[str, Callable[[int, Grid], Tensor]] = {"sine_cosine": sine_cosine, "bat": bat}
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
