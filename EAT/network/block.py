"""The post-norm Transformer block (method section 2.5), whose choices are :data:`BLOCKS`.

A block is given its attention; :data:`ATTENTIONS` has the choices.

An attention is built from :class:`EncoderSettings` and called as ``(x, key_mask, rows) -> those rows``: (B, S, D) in,
the first ``rows`` tokens out, all of them where ``rows`` is None. Every token may be attended to where ``key_mask``,
(B, S), is None or True.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .settings import EncoderSettings, choose


class Attention(nn.Module):
    """Multi-head self-attention, softmax(Q K^T / sqrt(W)) V of every head of width W, and a projection of all heads."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        self.num_heads = settings.num_heads
        self.qkv = nn.Linear(settings.embed_dim, 3 * settings.embed_dim)
        self.proj = nn.Linear(settings.embed_dim, settings.embed_dim)

    def forward(self, x: Tensor, key_mask: Tensor | None = None, rows: int | None = None) -> Tensor:
        """(B, S, D) to (B, rows, D)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # (B, S, 3, heads, W)
        return self.proj(fused_attention(qkv, key_mask, rows))


class GatedAttention(Attention):
    """Attention whose joined heads H go through a gate of its input, channel by channel: W_o (sigmoid(W_g x + b_g) H).

    Of BAT. In EAT it costs 7 % more; with block outputs as targets it gained 0.4 mAP in the published probe.
    """

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__(settings)
        self.gate = nn.Linear(settings.embed_dim, settings.embed_dim)

    def forward(self, x: Tensor, key_mask: Tensor | None = None, rows: int | None = None) -> Tensor:
        """(B, S, D) to (B, rows, D)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        return self.proj(self.gate(x[:, :rows]).sigmoid() * fused_attention(qkv, key_mask, rows))


def fused_attention(qkv: Tensor, key_mask: Tensor | None = None, rows: int | None = None) -> Tensor:
    """What the heads gather, side by side: (B, S, 3, heads, W) queries, keys and values to (B, rows, heads * W)."""
    query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, S, W)
    return gather(query[:, :, :rows], key, value, key_mask)


def gather(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None) -> Tensor:
    """As :func:`fused_attention`, of queries (B, heads, rows, W), keys and values (B, heads, S, W)."""
    mask = None if key_mask is None else key_mask[:, None, None]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)


ATTENTIONS: dict[str, type[nn.Module]] = {"softmax": Attention, "gated": GatedAttention}
"""The choices of ``model.attention``."""


class FeedForward(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        return self.fc2(F.gelu(self.fc1(x)))


class DropPath(nn.Module):
    """Drops a residual branch for whole clips in training (stochastic depth, arXiv 1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    @property
    def is_active(self) -> bool:
        """Whether branches are dropped now."""
        return self.training and self.rate > 0.0

    def forward(self, branch: Tensor) -> Tensor:
        """(B, ...) to (B, ...): a clip's branch is kept with probability 1 - rate and scaled by its inverse."""
        if not self.is_active:
            return branch
        shape = (branch.shape[0],) + (1,) * (branch.ndim - 1)
        keep = torch.empty(shape, dtype=branch.dtype, device=branch.device).bernoulli_(1.0 - self.rate)
        return branch * keep.div_(1.0 - self.rate)


class Block(nn.Module):
    """Attention and feed-forward, each followed by its LayerNorm.

    r = LayerNorm1(x + DropPath(Attention(x))),  f = FeedForward(r),  y = LayerNorm2(r + DropPath(f)).
    """

    def __init__(self, settings: EncoderSettings, drop_path: float = 0.0) -> None:
        super().__init__()
        dim = settings.embed_dim
        self.attn = choose(ATTENTIONS, settings.attention, "model.attention")(settings)
        self.norm1 = nn.LayerNorm(dim, eps=settings.norm_eps)
        self.mlp = FeedForward(dim, int(dim * settings.mlp_ratio))
        self.norm2 = nn.LayerNorm(dim, eps=settings.norm_eps)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, key_mask: Tensor | None = None, rows: int | None = None) -> tuple[Tensor, Tensor]:
        """The block's output y and its feed-forward output f.

        Args:
            x: (B, S, D).
            key_mask: (B, S), True at tokens that may be attended to; None means all.
            rows: compute the first so many tokens alone, which attend to all; None computes every one.

        Returns:
            Both (B, rows, D).
        """
        r = self.norm1(x[:, :rows] + self.drop_path(self.attn(x, key_mask, rows)))
        f = self.mlp(r)
        return self.norm2(r + self.drop_path(f)), f


BLOCKS: dict[str, type[nn.Module]] = {"post_norm": Block}
"""The choices of ``model.block``, made and called as ``Block`` is."""
