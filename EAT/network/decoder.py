"""The convolutional decoder (method section 4)."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .acceleration import Linear, grouped_convolution
from .settings import FREQUENCY_PATCHES, DecoderConfig


class DecoderBlock(nn.Module):
    """Grouped convolution, LayerNorm over channels without affine, GELU; a residual where widths agree.

    Maps lie in memory as (B, F, T, C). With channels last the LayerNorm needs no transpose and the convolution is at
    its fastest; with the longer side before them its weight gradient takes half the time that it takes the other way
    round, where rows of 8 patches leave a CPU's matrix units half empty. The kernel is (time, frequency), as stored.
    """

    def __init__(self, width_in: int, width_out: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.residual = width_in == width_out
        self.conv = nn.Conv2d(width_in, width_out, kernel, padding=kernel // 2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, T, C_in) to (B, F, T, C_out)."""
        y, residual = grouped_convolution(x.permute(0, 3, 1, 2), self.conv)
        y = F.gelu(F.layer_norm(y.permute(0, 2, 3, 1), y.shape[1:2], eps=1e-5))
        return residual.permute(0, 2, 3, 1) + y if self.residual else y


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
            canvas: (B * M * N, D) what masked places start from, a sequence's places in the order of its map, which
                is frequency by frequency; visible patches are written into it.

        Returns:
            (B * M, N - K, D), in the order of ``masked``. Only these rows go through the last projection.
        """
        sequences, kept, dim = tokens.shape
        times = (kept + masked.shape[1]) // FREQUENCY_PATCHES
        start = torch.arange(sequences, device=tokens.device).unsqueeze(1) * times * FREQUENCY_PATCHES

        def rows(places: Tensor) -> Tensor:  # of the map; patches are numbered time by time
            return (start + places % FREQUENCY_PATCHES * times + places // FREQUENCY_PATCHES).flatten()

        x = canvas.index_copy_(0, rows(visible), tokens.reshape(-1, dim))
        x = x.view(sequences, FREQUENCY_PATCHES, times, dim)
        for block in self.blocks:
            x = block(x)
        wanted = x.reshape(-1, x.shape[-1]).index_select(0, rows(masked))
        return self.projection(wanted).view(sequences, masked.shape[1], -1)
