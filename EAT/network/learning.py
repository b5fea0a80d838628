"""Whether a pre-training learns: what of the targets can be known without listening, what of the rest is predicted.

A target that is the same for every clip at a position, or for every clip, can be learnt by heart. Here the variance of
the targets is divided into what *position* explains, what *clip* explains (the variance of clips' means) and the rest,
and the *skill* of predictions is

    1 - mean squared error / mean squared error of the best function of position alone,

for CLS, of the best constant. All of it follows from sums of squares and of products between patches of different
clips or positions, whose expectations hold no noise: with t = m + a_position + c_clip + e, the mean of <t, t'> over

    pairs of one position and different clips is |m|^2 + |a|^2,
    pairs of one clip and different positions |m|^2 + |c|^2,
    pairs of different clips and positions |m|^2,
    a patch and itself |m|^2 + |a|^2 + |c|^2 + |e|^2.

So nothing is remembered from batch to batch, sums add up over batches and devices, and a batch of one clip adds nothing
that could mislead. Patches of padding do not count.
"""

from __future__ import annotations

import torch
from torch import Tensor


def totals(rows: Tensor, real: Tensor) -> list[Tensor]:
    """Sums that add up over batches of different clips, from which :func:`pairs` follows.

    Args:
        rows: (B, N, D) float32, a vector for each position of each clip.
        real: (B, N) which of them count.

    Returns:
        Sum of squares (), patches (), by clip (): squares of the clips' sums, and of their patches; by position: sums
        (N, D), clips (N,).
    """
    weight = real.to(rows.dtype)
    rows = rows * weight.unsqueeze(-1)
    by_clip = rows.sum(dim=1).square().sum(), weight.sum(dim=1).square().sum()
    return [rows.square().sum(), weight.sum(), *by_clip, rows.sum(dim=0), weight.sum(dim=0)]


def pairs(totals: list[Tensor]) -> Tensor:
    """Sums over pairs of patches, from :func:`totals`.

    Returns:
        (8,): sum of products and number of pairs; of a patch with itself, of one position and different clips, of one
        clip and different positions, of different clips and positions.
    """
    itself, count, same_clip, clip_pairs, by_position, clips = totals
    same_position, position_pairs = by_position.square().sum(), clips.square().sum()
    everything = by_position.sum(dim=0).square().sum()
    return torch.stack(
        [
            itself, count,
            same_position - itself, position_pairs - count,
            same_clip - itself, clip_pairs - count,
            everything - same_position - same_clip + itself, count.square() - position_pairs - clip_pairs + count,
        ]
    )  # fmt: skip


def products(rows: Tensor, real: Tensor) -> Tensor:
    """:func:`pairs` of a single batch: what adds up over devices in a few numbers, with pairs within each alone."""
    return pairs(totals(rows, real))


def errors(predictions: Tensor, targets: Tensor, real: Tensor) -> Tensor:
    """Sum of squared errors and number of rows that count: (R, D) twice and (R,) to (2,)."""
    weight = real.to(targets.dtype)
    return torch.stack([((predictions.to(targets.dtype) - targets).square().sum(dim=-1) * weight).sum(), weight.sum()])


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """A ratio; 0 where there is nothing to divide by."""
    return torch.where(below.abs() > 0, above / torch.where(below.abs() > 0, below, torch.ones_like(below)), 0.0)


def frame_figures(sums: Tensor) -> dict[str, Tensor]:
    """Figures of the frame targets, from :func:`products` of them and :func:`errors` of their predictions, (10,).

    ``frame_position_fraction`` and ``frame_clip_fraction`` of the targets' variance, and ``frame_skill``; all 0 where
    no batch had two clips.
    """
    itself, position, clip, different = (_ratio(*pair) for pair in sums[:8].double().view(4, 2))
    error, several = _ratio(*sums[8:].double()), sums[3] > 0
    variance = itself - different
    figures = {
        "frame_position_fraction": _ratio(position - different, variance),
        "frame_clip_fraction": _ratio(clip - different, variance),
        "frame_skill": 1.0 - _ratio(error, itself - position),
    }
    return {name: torch.where(several, value, 0.0).float() for name, value in figures.items()}


def utterance_figures(sums: Tensor) -> dict[str, Tensor]:
    """The same of the utterance targets, (B, 1, D): how much of their energy differs from clip to clip, and how much of
    that CLS predicts. A CLS that learnt a constant has skill 0 or less.
    """
    itself, constant = (_ratio(*pair) for pair in sums[:4].double().view(2, 2))
    error, several = _ratio(*sums[8:].double()), sums[3] > 0
    figures = {
        "utterance_clip_fraction": _ratio(itself - constant, itself),
        "utterance_skill": 1.0 - _ratio(error, itself - constant),
    }
    return {name: torch.where(several, value, 0.0).float() for name, value in figures.items()}


def spreads(vectors: Tensor, real: Tensor) -> Tensor:
    """Sums over differences d between vectors of two clips, from which :func:`feature_figures` follow.

    Differences have no mean, so that none has to be subtracted, and batches and devices add up.

    Args:
        vectors: (B, D) float32, one a clip; clips 1 and 2 make a difference, 3 and 4 the next.
        real: (B,) which of them count.

    Returns:
        (4,): sum of |d|^2 and their number; sum of (<d, d'>)^2 over pairs of two and their number.
    """
    pairs = len(vectors) // 2 * 2
    both = real[:pairs].view(-1, 2).all(dim=1).to(vectors.dtype)
    first, second = vectors[:pairs].view(-1, 2, vectors.shape[-1]).unbind(dim=1)
    differences = (first - second) * both[:, None]
    products = differences @ differences.T
    squares, count = products.diagonal(), both.sum()
    between = products.square().sum() - squares.square().sum()
    return torch.stack([squares.sum(), count, between, count.square() - count])


def feature_figures(sums: Tensor) -> dict[str, Tensor]:
    """``feature_rank``: in how many directions clips' features differ, tr(C)^2 / tr(C^2) of their covariance C.

    With d of covariance 2 C, the mean of |d|^2 is 2 tr(C) and that of <d, d'>^2 is 4 tr(C^2). 0 without four clips.
    """
    length, product = (_ratio(*pair) for pair in sums.double().view(2, 2))
    return {"feature_rank": _ratio(length.square(), product).float()}


def effective_rank(vectors: Tensor) -> float:
    """RankMe (arXiv 2210.02885): exp of the entropy of the normalised singular values of centred (clips, D) vectors."""
    values = torch.linalg.svdvals(vectors.double() - vectors.double().mean(dim=0))
    fractions = values / values.sum().clamp(min=1e-12)
    return float(torch.exp(-(fractions * (fractions + 1e-12).log()).sum()))
