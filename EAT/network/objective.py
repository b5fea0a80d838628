"""Targets and the utterance-frame objective (method sections 5 and 6): plain functions of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

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


def frame_loss(predictions: Tensor, targets: Tensor, places: Tensor) -> Tensor:
    """Mean of e(prediction, target) over every masked patch of every clone: a scalar in float32.

    Args:
        predictions: (P, D).
        targets: (B * N, D) of all patches of all clips, without a gradient.
        places: (P,) the row of ``targets`` that each prediction is compared with.
    """
    return _FrameLoss.apply(predictions, targets, places)


class _FrameLoss(torch.autograd.Function):
    """The loss and its gradient by blocks of rows that fit in a CPU's cache.

    Neither float32 predictions nor a gathered copy of the targets, each larger than the decoder's output, is ever
    written to memory. The gradient is worked out in the backward pass, where half precision's loss scale is known.
    """

    @staticmethod
    def forward(ctx: Any, predictions: Tensor, targets: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(predictions, targets, places)
        total = targets.new_zeros((), dtype=torch.float32 if predictions.dtype != torch.float64 else torch.float64)
        for _, difference in _differences(predictions, targets, places):
            total += difference.square_().sum()
        return total / (len(predictions) * predictions.shape[1] ** 0.5)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        predictions, targets, places = ctx.saved_tensors
        gradient = torch.empty_like(predictions)
        scale = gradients[0] * (2.0 / (len(predictions) * predictions.shape[1] ** 0.5))
        for rows, difference in _differences(predictions, targets, places):
            gradient[rows] = difference.mul_(scale)
        return gradient, None, None


def _differences(predictions: Tensor, targets: Tensor, places: Tensor) -> Iterator[tuple[slice, Tensor]]:
    for rows in _row_blocks(predictions):
        wanted = targets.index_select(0, places[rows])
        yield rows, predictions[rows].to(wanted.dtype) - wanted


def _row_blocks(x: Tensor, block: int = 512) -> list[slice]:
    """Row ranges to go through one by one on a CPU; everything at once elsewhere."""
    size = block if x.device.type == "cpu" else max(1, len(x))
    return [slice(start, start + size) for start in range(0, len(x), size)]


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


def deviations(predictions: Tensor, targets: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviations of predictions and of their targets over all devices: what collapse guards watch.

    Each is the mean over channels of sqrt(var + 1e-6), var unbiased, over the P rows that :func:`frame_loss` compares.
    One collective for both.

    Args:
        predictions: (P, D).
        targets: (B * N, D).
        places: (P,) rows of ``targets``.
    """
    predictions, targets = predictions.detach(), targets.detach().float()
    sums, squares = targets.new_zeros(2, predictions.shape[1])
    for rows in _row_blocks(predictions):
        block = predictions[rows].float()
        sums += block.sum(dim=0)
        squares += block.square().sum(dim=0)
    times = torch.zeros_like(targets[:, 0]).index_add_(0, places, torch.ones_like(places, dtype=targets.dtype))
    count = times.sum().unsqueeze(0)
    packed = torch.cat([count, sums, squares, times @ targets, times @ targets.square()]).double()
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(packed)
    count, moments = packed[0], packed[1:].view(2, 2, -1)
    variances = (moments[:, 1] - moments[:, 0].square() / count) / (count - 1).clamp(min=1)
    prediction_deviation, target_deviation = (variances.clamp(min=0) + 1e-6).sqrt().mean(dim=1).float()
    return prediction_deviation, target_deviation
