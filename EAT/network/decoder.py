"""The convolutional decoder (method section 4)."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import FREQUENCY_PATCHES, DecoderConfig
from .kernels import Linear, grouped_convolution


class DecoderBlock(nn.Module):
    """Grouped convolution, LayerNorm over channels without affine, GELU; a residual where widths agree.

    Maps are kept channels-last, (B, T, F, C) in memory: the fastest layout for the convolution, and the one in
    which the LayerNorm needs no transpose.
    """

    def __init__(self, width_in: int, width_out: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.residual = width_in == width_out
        self.conv = nn.Conv2d(width_in, width_out, kernel, padding=kernel // 2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, F, C_in) to (B, T, F, C_out)."""
        y = grouped_convolution(x.permute(0, 3, 1, 2), self.conv).permute(0, 2, 3, 1)
        y = F.gelu(F.layer_norm(y, y.shape[-1:], eps=1e-5))
        return x + y if self.residual else y


class ConvDecoder(nn.Module):
    """Predicts the teacher's targets at masked patches from the student's visible ones."""

    def __init__(self, embed_dim: int, config: DecoderConfig) -> None:
        super().__init__()
        widths = [embed_dim] + [config.width] * config.layers
        self.blocks = nn.ModuleList(
            DecoderBlock(before, after, config.kernel, config.groups) for before, after in itertools.pairwise(widths)
        )
        self.projection = Linear(config.width, embed_dim)

    def forward(self, tokens: Tensor, visible: Tensor, masked: Tensor, canvas: Tensor) -> Tensor:
        """Predict the masked patches of every clone.

        Args:
            tokens: (B * M, K, D) the student's output at visible patches, without CLS.
            visible: (B * M, K) their places.
            masked: (B * M, N - K) the other places.
            canvas: (B * M * N, D) what masked places start from; visible ones are written into it.

        Returns:
            (B * M, N - K, D), in the order of ``masked``. Only these rows go through the last projection.
        """
        sequences, kept, dim = tokens.shape
        patches = kept + masked.shape[1]
        offset = torch.arange(sequences, device=tokens.device).unsqueeze(1) * patches
        x = canvas.index_copy_(0, (visible + offset).flatten(), tokens.reshape(-1, dim))
        x = x.view(sequences, -1, FREQUENCY_PATCHES, dim)  # (B * M, T, F, D)
        for block in self.blocks:
            x = block(x)
        rows = x.reshape(-1, x.shape[-1]).index_select(0, (masked + offset).flatten())
        return self.projection(rows).view(sequences, masked.shape[1], -1)
