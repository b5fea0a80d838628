"""Fixed two-dimensional sine-cosine positions (method section 2.2)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from .settings import FREQUENCY_PATCHES, MAX_TIME_PATCHES


def sine_cosine_positions(
    embed_dim: int, time_patches: int = MAX_TIME_PATCHES, frequency_patches: int = FREQUENCY_PATCHES
) -> Tensor:
    """Position table of shape (1, time_patches * frequency_patches, embed_dim), time-major.

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
        np.arange(time_patches, dtype=np.float32), np.arange(frequency_patches, dtype=np.float32), indexing="ij"
    )
    return torch.from_numpy(np.concatenate([encode(frequency), encode(time)], axis=1)).unsqueeze(0)


class FixedPositions(nn.Module):
    """The table as a module: stored in checkpoints, never trained, and float32 whatever the model's precision."""

    table: Tensor

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.register_buffer("table", sine_cosine_positions(embed_dim))

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        exact = self.table
        super()._apply(fn, recurse)
        if self.table.dtype != exact.dtype:
            self.table = exact.to(self.table.device)
        return self

    def forward(self, patches: Tensor) -> Tensor:
        """Add positions: (B, N, D) to (B, N, D), in the patches' precision."""
        return patches + self.table[:, : patches.shape[1]].to(patches.dtype)
