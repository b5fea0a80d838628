"""Gradients of all parameters at once, without fairseq."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def clip_gradients(gradients: list[Tensor], max_norm: float, aggregate_norm_fn: Any = None) -> Tensor:
    """Scale gradients down, in place, to a total norm of ``max_norm``; returns the norm before, on the device.

    Args:
        gradients: all on one device.
        max_norm: the largest norm; 0 scales nothing.
        aggregate_norm_fn: makes the norm of all devices' gradients of this device's, where each holds a part.
    """
    norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
    if aggregate_norm_fn is not None:
        norm = aggregate_norm_fn(norm)
    # A GPU is never waited for, so it multiplies by 1; on a CPU, where looking costs nothing, that pass is saved.
    if max_norm > 0 and not (norm.device.type == "cpu" and norm <= max_norm):
        torch._foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def scale_gradients(gradients: list[Tensor], factor: float | Tensor) -> None:
    """Multiply gradients by a factor, in place."""
    if isinstance(factor, Tensor):
        factor = factor.to(device=gradients[0].device, dtype=gradients[0].dtype)  # of another type it would be a loop
    torch._foreach_mul_(gradients, factor)
