"""Rows of batched sequences by index: what masking does again and again.

A sequence's indices differ from each other and increase, so taking and putting are each other's inverse. Gradients are
gathered through the inverse permutation rather than scattered and added up, whose order, and so whose last bits, would
be up to chance on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def flat_rows(index: Tensor, length: int) -> Tensor:
    """Indices into sequences of ``length`` rows, (S, K), as indices into the rows of all of them in turn, (S * K,)."""
    start = torch.arange(index.shape[0], device=index.device) * length
    return (index + start[:, None]).flatten()


def places(index: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The inverse of an index: where in it each of ``length`` rows stands.

    Args:
        index: (S, K) increasing along each sequence.
        length: N.

    Returns:
        (S, N) places, and (S, N) whether the row is there at all; the place of one that is not means nothing.
    """
    rows = torch.arange(length, device=index.device).expand(len(index), length).contiguous()
    place = torch.searchsorted(index.contiguous(), rows).clamp_(max=index.shape[1] - 1)
    return place, index.gather(1, place) == rows


def pick(x: Tensor, index: Tensor) -> Tensor:
    """The rows at ``index`` of each sequence, without gradients of their own: (S, N, D), (S, K) to (S, K, D)."""
    picked = x.reshape(-1, x.shape[-1]).index_select(0, flat_rows(index, x.shape[1]))
    return picked.view(*index.shape, x.shape[-1])


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.length = x.shape[1]
        return pick(x, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        place, there = places(ctx.saved_tensors[0], ctx.length)
        return pick(gradients[0], place).masked_fill_(~there.unsqueeze(-1), 0.0), None


def take_rows(x: Tensor, index: Tensor) -> Tensor:
    """The rows at ``index`` of each sequence: (S, N, D) and (S, K), increasing along K, to (S, K, D).

    Without gradients the indices need neither differ nor increase.
    """
    return _Take.apply(x, index) if x.requires_grad else pick(x, index)


def put_rows(x: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """Write ``values`` (S, K, D) into the rows at ``index`` (S, K) of ``x`` (S, N, D), in place; returns ``x``.

    The indices of a sequence differ, so that no row is written twice.
    """
    flat = x.view(-1, x.shape[-1]).index_copy_(0, flat_rows(index, x.shape[1]), values.reshape(-1, x.shape[-1]))
    return flat.view(x.shape)
