"""The post-norm Transformer block (method section 2.5)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .acceleration import Linear, SpacedLinear, attention, cls_attention


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection to queries, keys and values."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = SpacedLinear(dim, 3 * dim)
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor, key_mask: Tensor | None = None, only_cls: bool = False) -> tuple[Tensor, Tensor]:
        """What the output projection takes, and x for the residual, each (B, S, D), or (B, 1, D) for CLS alone.

        ``key_mask`` (B, S) is True at tokens that may be attended to.
        """
        batch, tokens, dim = x.shape
        if not only_cls:
            qkv, x = self.qkv.fork(x)
            return attention(qkv.view(batch, tokens, 3, self.num_heads, dim // self.num_heads), key_mask), x
        query_weight, key_weight, value_weight = self.qkv.weight.chunk(3)
        query_bias, _, value_bias = self.qkv.bias.chunk(3)
        query = F.linear(x[:, 0], query_weight, query_bias).view(batch, self.num_heads, -1)
        return cls_attention(query, x, key_weight, value_weight, value_bias, key_mask), x[:, :1]


class FeedForward(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(..., D) to the same, and x for the residual."""
        hidden, x = self.fc1.gelu_fork(x)
        return self.fc2(hidden), x

    def plus(self, x: Tensor) -> Tensor:
        """The result of :meth:`forward`, added to x."""
        hidden, x = self.fc1.gelu_fork(x)
        return self.fc2.plus(hidden, x)


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

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, norm_eps: float, drop_path: float) -> None:
        super().__init__()
        self.attn = Attention(dim, num_heads)
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = FeedForward(dim, int(dim * mlp_ratio))
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.drop_path = DropPath(drop_path)

    def forward(
        self, x: Tensor, key_mask: Tensor | None = None, only_cls: bool = False, keep_ffn: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """The block's output y and its feed-forward output f.

        Args:
            x: (B, S, D).
            key_mask: (B, S), True at tokens that may be attended to; None means all.
            only_cls: compute the first token alone; the others are still attended to.
            keep_ffn: give f, without which its addition takes no pass of its own.

        Returns:
            Both (B, S, D), or (B, 1, D) with ``only_cls``; f is None without ``keep_ffn``.
        """
        mixed, residual = self.attn(x, key_mask, only_cls)
        if self.drop_path.is_active:
            r = self.norm1(residual + self.drop_path(self.attn.proj(mixed)))
        else:
            r = self.norm1(self.attn.proj.plus(mixed, residual))
        if not keep_ffn and not self.drop_path.is_active:
            return self.norm2(self.mlp.plus(r)), None
        f, r = self.mlp(r)
        return self.norm2(r + self.drop_path(f)), f
