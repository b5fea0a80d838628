"""Losses of the classifier (method section 7), as functions of logits and targets.

Each returns a sum and what it is divided by. Both are summed over devices and accumulated batches before the division,
so that training on several devices equals accumulation on one. Class weights multiply the terms of their classes in the
sum and leave the divisor as it is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor, float, Tensor | None], tuple[Tensor, Tensor | int]]


def balanced_weights(clips: Tensor) -> Tensor:
    """Class weights under which every class weighs as much as any other, however many clips it has.

    Args:
        clips: (C,) how many clips have each class's label.

    Returns:
        (C,) float32: labels / (classes that have clips * clips of the class), of one label a clip 1 on average over
        clips; 1 for a class without clips.
    """
    present = clips > 0
    weights = clips.sum() / (present.sum() * clips.clamp(min=1))
    return torch.where(present, weights, 1.0).float()


def smooth_labels(targets: Tensor, smoothing: float) -> Tensor:
    """(1 - s) y + s / C for targets (B, C), one-hot or mixed (arXiv 1512.00567)."""
    return targets if smoothing == 0.0 else targets * (1.0 - smoothing) + smoothing / targets.shape[1]


def bce_per_positive(
    logits: Tensor, targets: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy per positive label (AudioSet).

    Args:
        logits: (B, C), any float type; computed in float32.
        targets: (B, C) in [0, 1].
        smoothing: label smoothing.
        weights: (C,) float32 weights of the classes; None: all weigh 1.

    Returns:
        The sum over clips and classes, and the number of positive labels: targets above 0, counted before smoothing
        and after mixup, which gives a clip the labels of both that it is made of.
    """
    loss, _ = bce_sum(logits, targets, smoothing, weights)
    return loss, (targets > 0).sum()


def bce_sum(
    logits: Tensor, targets: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
) -> tuple[Tensor, int]:
    """Binary cross-entropy summed over classes (Speech Commands), and the number of clips.

    Arguments as for :func:`bce_per_positive`.
    """
    smooth = smooth_labels(targets, smoothing)
    return F.binary_cross_entropy_with_logits(logits.float(), smooth, weights, reduction="sum"), len(logits)


def bce_mean(
    logits: Tensor, targets: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
) -> tuple[Tensor, int]:
    """Binary cross-entropy, mean over clips and classes (BAT's). Arguments as for :func:`bce_per_positive`."""
    loss, _ = bce_sum(logits, targets, smoothing, weights)
    return loss, targets.numel()


def asymmetric(
    logits: Tensor, targets: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
) -> tuple[Tensor, int]:
    """Binary cross-entropy in which a negative weighs as much as it is believed, mean over clips and classes (BAT's).

    With p the sigmoid and y the target, both logarithms' arguments floored at 1e-8: -w (y log p + (1 - y) log(1 - p)),
    w = (1 - p y - (1 - p) (1 - y))^(1 - y), through which no gradient flows: 1 for positives, p for negatives.
    Arguments as for :func:`bce_per_positive`.
    """
    y, p = smooth_labels(targets, smoothing), logits.float().sigmoid()
    weight = (1.0 - p * y - (1.0 - p) * (1.0 - y)).detach() ** (1.0 - y)
    loss = weight * (y * p.clamp(min=1e-8).log() + (1.0 - y) * (1.0 - p).clamp(min=1e-8).log())
    return -(loss if weights is None else loss * weights).sum(), targets.numel()


def cross_entropy(
    logits: Tensor, targets: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
) -> tuple[Tensor, int]:
    """Cross-entropy against distributions over the classes (ESC-50), and the number of clips.

    Arguments as for :func:`bce_per_positive`; each row of ``targets`` sums to 1.
    """
    log_probabilities = torch.log_softmax(logits.float(), dim=1)
    loss = smooth_labels(targets, smoothing) * log_probabilities
    return -(loss if weights is None else loss * weights).sum(), len(logits)


LOSSES: dict[str, Loss] = {
    "bce_per_positive": bce_per_positive,
    "bce_sum": bce_sum,
    "bce_mean": bce_mean,
    "asymmetric": asymmetric,
    "cross_entropy": cross_entropy,
}
"""Losses by the name that recipes use."""
SINGLE_LABEL_LOSSES = ("cross_entropy",)
"""Losses under which exactly one class is right."""
