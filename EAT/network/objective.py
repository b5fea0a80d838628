"""Targets and the utterance-frame objective (method sections 5 and 6): plain functions of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def teacher_targets(ffn_outputs: Sequence[Tensor]) -> Tensor:
    """Average the blocks' feed-forward outputs into regression targets, in float32.

    Each output is instance-normalised over the patch axis per channel (eps 1e-5), the results are averaged over the
    blocks, and the average is layer-normalised over channels (eps 1e-5); neither norm has an affine part.

    Args:
        ffn_outputs: per block (B, 1 + N, D), CLS first.

    Returns:
        (B, N, D) float32.
    """
    total: Tensor | None = None
    for output in ffn_outputs:
        patches = output[:, 1:].float()
        # Two means, because torch.var_mean over an outer axis is five times as slow on a CPU.
        centred = patches - patches.mean(dim=1, keepdim=True)
        scale = torch.rsqrt(centred.square().mean(dim=1, keepdim=True) + 1e-5)  # (B, 1, D)
        total = centred.mul_(scale) if total is None else total.addcmul_(centred, scale)
    assert total is not None, "teacher_targets needs at least one block"
    return F.layer_norm(total / len(ffn_outputs), total.shape[-1:], eps=1e-5)


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """e(a, b) = sum over channels of (a - b)^2, divided by sqrt(D): (..., D) and (..., D) to (...), in float32."""
    return (a.float() - b.float()).square().sum(dim=-1) / a.shape[-1] ** 0.5


def frame_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean of e(prediction, target) over every masked patch of every clone: a scalar.

    Args:
        predictions: (..., D).
        targets: (..., D) float32, without a gradient.
    """
    # The mean of squared_distance in one pass forwards and one backwards.
    width = predictions.shape[-1]
    return F.mse_loss(predictions.float(), targets.float()) * width**0.5


def utterance_loss(cls_outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over clones of e(student's CLS output, mean over patches of the clip's targets): a scalar.

    Args:
        cls_outputs: (B * M, D), clones of a clip adjacent.
        targets: (B, N, D).
    """
    utterance = targets.mean(dim=1)  # (B, D)
    return squared_distance(
        cls_outputs.view(utterance.shape[0], -1, utterance.shape[-1]), utterance.unsqueeze(1)
    ).mean()


def deviations(*features: Tensor) -> tuple[Tensor, ...]:
    """Standard deviation of each (..., D) tensor's rows over all devices: mean over channels of sqrt(var + 1e-6).

    One collective for all of them. The deviation that collapse guards watch; unbiased variance.
    """
    moments = []
    for feature in features:
        rows = feature.detach().float().reshape(-1, feature.shape[-1])
        moments += [rows.new_tensor([float(rows.shape[0])]), rows.sum(dim=0), rows.square().sum(dim=0)]
    packed = torch.cat(moments).double()
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(packed)
    results = []
    for count, total, squares in zip(*[iter(packed.split([m.numel() for m in moments]))] * 3, strict=True):
        variance = (squares - total.square() / count) / (count - 1).clamp(min=1)
        results.append((variance.clamp(min=0) + 1e-6).sqrt().mean().float())
    return tuple(results)
