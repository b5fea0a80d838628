"""Rows of batched sequences by index, as one flat gather or scatter: what masking does again and again."""

from __future__ import annotations

import torch
from torch import Tensor


def flat_rows(index: Tensor, length: int) -> Tensor:
    """Indices into sequences of ``length`` rows, (S, K), as indices into the rows of all of them in turn, (S * K,)."""
    start = torch.arange(index.shape[0], device=index.device) * length
    return (index + start[:, None]).flatten()


def take_rows(x: Tensor, index: Tensor) -> Tensor:
    """The rows at ``index`` of each sequence: (S, N, D) and (S, K) to (S, K, D)."""
    picked = x.reshape(-1, x.shape[-1]).index_select(0, flat_rows(index, x.shape[1]))
    return picked.view(*index.shape, x.shape[-1])


def put_rows(x: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """Write ``values`` (S, K, D) into the rows at ``index`` (S, K) of ``x`` (S, N, D), in place; returns ``x``."""
    flat = x.view(-1, x.shape[-1]).index_copy_(0, flat_rows(index, x.shape[1]), values.reshape(-1, x.shape[-1]))
    return flat.view(x.shape)
