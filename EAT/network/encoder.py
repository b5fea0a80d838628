"""The encoder that student, teacher and classifier share (method section 2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .block import Block
from .patches import PatchEmbedding
from .positions import FixedPositions
from .settings import EncoderConfig


class EncoderOutput(NamedTuple):
    """What the encoder computed. ``blocks`` and ``ffn`` are empty unless they were asked for."""

    tokens: Tensor
    """(B', 1 + patches, D): the last block's output, CLS first. B' is B, or B * M where patches were masked."""
    blocks: list[Tensor]
    """Each block's output, as ``tokens``."""
    ffn: list[Tensor]
    """Each block's feed-forward output before residual and norm, as ``tokens``."""


class Encoder(nn.Module):
    """Patches, positions, CLS, one LayerNorm, then ``depth`` post-norm Transformer blocks."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.embed_dim
        self.patches = PatchEmbedding(dim)
        self.positions = FixedPositions(dim)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim).normal_())
        self.norm = nn.LayerNorm(dim, eps=config.norm_eps)
        rates = torch.linspace(0, config.drop_path, config.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            Block(dim, config.num_heads, config.mlp_ratio, config.norm_eps, rate) for rate in rates
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def embed(self, filterbank: Tensor) -> Tensor:
        """(B, 1, frames, 128) to patches with their positions, (B, N, D)."""
        return self.positions(self.patches(filterbank))

    def forward(
        self,
        filterbank: Tensor,
        visible: Tensor | None = None,
        key_mask: Tensor | None = None,
        collect_blocks: bool = False,
        collect_ffn: bool = False,
        only_cls: bool = False,
    ) -> EncoderOutput:
        """Encode a batch of normalised filterbanks.

        Args:
            filterbank: (B, 1, frames, 128), frames a multiple of 16.
            visible: (B, M, K) indices of the patches that stay visible in each of a clip's M clones; None keeps all.
            key_mask: (B, 1 + N), True at CLS and at patches that hold audio; None attends everywhere.
            collect_blocks: keep every block's output.
            collect_ffn: keep every block's feed-forward output.
            only_cls: compute nothing of the last block but its CLS token, which spares most of that block's work.

        Returns:
            EncoderOutput with B * M sequences of 1 + K tokens (clones of a clip adjacent), or B of 1 + N; with
            ``only_cls`` the last block's have one token.
        """
        patches = self.embed(filterbank)
        if visible is not None:
            patches = select_visible(patches, visible)
        cls = self.cls_token.expand(patches.shape[0], -1, -1)
        x = self.norm(torch.cat([cls, patches], dim=1))
        output = EncoderOutput(x, [], [])
        for block in self.blocks:
            settings = (key_mask, only_cls and block is self.blocks[-1], collect_ffn)
            if self.config.activation_checkpointing and self.training:
                x, f = checkpoint(block, x, *settings, use_reentrant=False)
            else:
                x, f = block(x, *settings)
            if collect_blocks:
                output.blocks.append(x)
            if collect_ffn:
                output.ffn.append(f)
        return output._replace(tokens=x)


def select_visible(patches: Tensor, visible: Tensor) -> Tensor:
    """Pick each clone's visible patches: (B, N, D) and (B, M, K) indices to (B * M, K, D)."""
    batch, clones, kept = visible.shape
    rows = visible + torch.arange(batch, device=visible.device).view(-1, 1, 1) * patches.shape[1]
    picked = patches.reshape(-1, patches.shape[-1]).index_select(0, rows.flatten())
    return picked.view(batch * clones, kept, -1)
