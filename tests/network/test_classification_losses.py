"""Losses against torch's and against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from EAT.network.classification_losses import (
    LOSSES,
    balanced_weights,
    bce_per_positive,
    bce_sum,
    cross_entropy,
    smooth_labels,
)


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def soft() -> torch.Tensor:
    return torch.rand(6, 5, generator=torch.Generator().manual_seed(1)).softmax(dim=1)


def test_bce_per_positive_by_hand() -> None:
    # -log sigmoid(0) = log 2 for each of the four; the positives are those above 0, mixed ones too.
    loss, positives = bce_per_positive(torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [0.3, 0.7]]))
    assert float(loss) == pytest.approx(4 * math.log(2)) and int(positives) == 3


def test_bce_per_positive_equals_torchs_sum_over_positives(logits: torch.Tensor) -> None:
    targets = (torch.arange(30).view(6, 5) % 4 == 0).float()
    loss, positives = bce_per_positive(logits, targets)
    expected = F.binary_cross_entropy(logits.sigmoid(), targets, reduction="sum") / targets.sum()
    assert torch.allclose(loss / positives, expected, rtol=1e-5)


def test_bce_sum_equals_torchs_with_smoothed_targets(logits: torch.Tensor, soft: torch.Tensor) -> None:
    loss, clips = bce_sum(logits, soft, 0.1)
    expected = F.binary_cross_entropy(logits.sigmoid(), soft * 0.9 + 0.1 / 5, reduction="none").sum(dim=1).mean()
    assert torch.allclose(loss / clips, expected, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_torchs(logits: torch.Tensor, soft: torch.Tensor, smoothing: float) -> None:
    for targets in (soft, F.one_hot(torch.arange(6) % 5, 5).float()):
        loss, clips = cross_entropy(logits, targets, smoothing)
        assert torch.allclose(loss / clips, F.cross_entropy(logits, targets, label_smoothing=smoothing))


def test_smoothing_by_hand() -> None:
    smoothed = smooth_labels(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), 0.2)
    assert torch.allclose(smoothed, torch.tensor([[0.85, 0.05, 0.05, 0.05]]))


@pytest.mark.parametrize("name", LOSSES)
def test_parts_of_a_batch_add_up(name: str, logits: torch.Tensor, soft: torch.Tensor) -> None:
    """Accumulated batches, or several devices, give the whole batch's loss."""
    targets = soft * (soft > 0.15)
    whole, size = LOSSES[name](logits, targets, 0.1)
    parts = [LOSSES[name](logits[rows], targets[rows], 0.1) for rows in (slice(0, 2), slice(2, 6))]
    assert torch.allclose(sum(part[0] for part in parts) / sum(part[1] for part in parts), whole / size)


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_logits_are_computed_in_float32(name: str, logits: torch.Tensor, soft: torch.Tensor) -> None:
    half = logits.bfloat16()
    assert LOSSES[name](half, soft, 0.0)[0].dtype == torch.float32
    assert torch.equal(LOSSES[name](half, soft, 0.0)[0], LOSSES[name](half.float(), soft, 0.0)[0])


WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.0, 3.0])


def test_class_weights_by_hand() -> None:
    assert balanced_weights(torch.tensor([6, 2, 0, 1])).tolist() == [0.5, 1.5, 1.0, 3.0]  # 9 labels, 3 classes
    # Two clips with even odds between two classes: log 2 each, 1/2 of it for the first and 3/2 for the second.
    weights = torch.tensor([0.5, 1.5])
    loss, clips = cross_entropy(torch.zeros(2, 2), torch.eye(2), 0.0, weights)
    assert float(loss) == pytest.approx(2 * math.log(2)) and clips == 2
    loss, positives = bce_per_positive(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), 0.0, weights)
    assert float(loss) == pytest.approx(2 * math.log(2)) and int(positives) == 1


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weighted_losses_equal_torchs(logits: torch.Tensor, soft: torch.Tensor, smoothing: float) -> None:
    loss, _ = cross_entropy(logits, soft, smoothing, WEIGHTS)
    expected = F.cross_entropy(logits, soft, WEIGHTS, label_smoothing=smoothing, reduction="sum")
    assert torch.allclose(loss, expected)
    smooth = smooth_labels(soft, smoothing)
    expected = F.binary_cross_entropy(logits.sigmoid(), smooth, WEIGHTS, reduction="sum")
    for name in ("bce_sum", "bce_mean", "bce_per_positive"):
        assert torch.allclose(LOSSES[name](logits, soft, smoothing, WEIGHTS)[0], expected, rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_class_weights_add_up_over_classes(name: str, logits: torch.Tensor, soft: torch.Tensor) -> None:
    whole, _ = LOSSES[name](logits, soft, 0.1, None)
    each = [LOSSES[name](logits, soft, 0.1, weights)[0] for weights in torch.eye(5)]
    assert torch.allclose(torch.stack(each).sum(), whole)
    assert torch.allclose(LOSSES[name](logits, soft, 0.1, WEIGHTS)[0], (torch.stack(each) * WEIGHTS).sum())
