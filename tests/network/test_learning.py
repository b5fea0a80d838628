"""The watch against targets whose parts are known, and against sums over pairs written out."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from EAT.network.learning import (
    effective_rank,
    errors,
    feature_figures,
    frame_figures,
    products,
    spreads,
    utterance_figures,
)
from EAT.network.objective import TARGETS, WATCHED, AveragedFeedForward, Targets
from EAT.network.pretraining import Pretraining
from EAT.network.settings import PretrainingSettings

from ..tiny import NETWORK


def made(position: float, clip: float, rest: float, clips: int = 40, patches: int = 64, dim: int = 32) -> Tensor:
    """Targets with these variances, and a mean far from 0: (B, N, D)."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    parts = (position * dim) ** 0.5, (clip * dim) ** 0.5, (rest * dim) ** 0.5
    a, c = normal(1, patches, dim), normal(clips, 1, dim)
    a, c = a - a.mean(dim=1, keepdim=True), c - c.mean(dim=0, keepdim=True)
    a, c = (x / x.square().sum(dim=-1).mean().sqrt() if x.abs().sum() else x for x in (a, c))
    e = normal(clips, patches, dim) / dim**0.5
    return 3.0 + parts[0] * a + parts[1] * c + parts[2] * e


def everywhere(targets: Tensor) -> Tensor:
    return torch.ones(targets.shape[:2], dtype=torch.bool)


def figures(targets: Tensor, predictions: Tensor | None = None, real: Tensor | None = None) -> dict[str, float]:
    real = everywhere(targets) if real is None else real
    predictions = torch.zeros_like(targets) if predictions is None else predictions
    error = errors(predictions.flatten(0, 1), targets.flatten(0, 1), real.flatten())
    return {name: value.item() for name, value in frame_figures(torch.cat([products(targets, real), error])).items()}


@pytest.mark.parametrize(
    ("position", "clip", "rest"),
    [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.5, 0.2, 0.3), (0.65, 0.01, 0.34)],
)
def test_parts_of_the_variance_are_found(position: float, clip: float, rest: float) -> None:
    found = figures(made(position, clip, rest))
    assert found["frame_position_fraction"] == pytest.approx(position, abs=0.03)
    assert found["frame_clip_fraction"] == pytest.approx(clip, abs=0.03)


def test_skill_is_what_is_predicted_of_what_position_leaves() -> None:
    targets = made(0.6, 0.1, 0.3)
    by_position = targets.mean(dim=0, keepdim=True).expand_as(targets)
    assert figures(targets, targets)["frame_skill"] == pytest.approx(1.0, abs=1e-4)
    assert figures(targets, by_position)["frame_skill"] == pytest.approx(0.0, abs=0.03)
    halfway = by_position + (targets - by_position) * (1 - math.sqrt(0.5))
    assert figures(targets, halfway)["frame_skill"] == pytest.approx(0.5, abs=0.03)
    constant = targets.mean(dim=(0, 1), keepdim=True).expand_as(targets)
    assert figures(targets, constant)["frame_skill"] == pytest.approx(1 - 1.0 / 0.4, abs=0.1)


def test_products_are_sums_over_pairs() -> None:
    rows = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    real = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0]]).bool()
    wanted = torch.zeros(4, 2)
    places = [(b, n) for b in range(3) for n in range(4) if real[b, n]]
    for (b, n), (c, m) in itertools.product(places, repeat=2):
        kind = 0 if (b, n) == (c, m) else 1 if n == m else 2 if b == c else 3
        wanted[kind] += torch.tensor([float(rows[b, n] @ rows[c, m]), 1.0])
    torch.testing.assert_close(products(rows, real).view(4, 2), wanted, rtol=1e-5, atol=1e-5)


def test_padding_does_not_count() -> None:
    targets = made(0.3, 0.2, 0.5)
    real = everywhere(targets)
    real[::2, 40:] = False
    loud = torch.where(real.unsqueeze(-1), targets, torch.tensor(100.0))
    quiet = torch.where(real.unsqueeze(-1), targets, torch.tensor(0.0))
    assert figures(loud, quiet, real) == figures(quiet, quiet, real)
    assert figures(loud, quiet, real)["frame_position_fraction"] == pytest.approx(0.3, abs=0.05)


def test_small_batches_add_up_to_the_truth() -> None:
    """The mean over many batches of two clips is not biased by their size, as variances of means would be."""
    targets = made(0.5, 0.1, 0.4, clips=400, patches=16)
    real = everywhere(targets)
    sums = [torch.cat([products(t, r), torch.ones(2)]) for t, r in zip(targets.split(2), real.split(2), strict=True)]
    found = frame_figures(torch.stack(sums).double().sum(dim=0))
    assert found["frame_position_fraction"].item() == pytest.approx(0.5, abs=0.03)


def test_a_constant_learnt_by_heart_is_no_skill() -> None:
    generator = torch.Generator().manual_seed(2)
    target = 5.0 + 0.1 * torch.randn(50, 1, 16, generator=generator)
    constant = torch.full((50, 16), 5.0)
    real = torch.ones(50, 1, dtype=torch.bool)

    def found(cls: Tensor) -> dict[str, float]:
        sums = torch.cat([products(target, real), errors(cls, target.flatten(0, 1), real.flatten())])
        return {name: value.item() for name, value in utterance_figures(sums).items()}

    assert found(constant)["utterance_skill"] == pytest.approx(0.0, abs=0.05)
    assert found(constant)["utterance_clip_fraction"] == pytest.approx(0.01 / 25.01, rel=0.1)
    assert found(target.flatten(0, 1))["utterance_skill"] == pytest.approx(1.0, abs=1e-6)


def test_a_single_clip_says_nothing() -> None:
    assert set(figures(made(0.5, 0.2, 0.3, clips=1)).values()) == {0.0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_forward_watches_its_own_targets_and_predictions(dtype: torch.dtype) -> None:
    """Against the figures of what the model's steps give one by one, for all clones; pads do not count."""
    torch.manual_seed(0)
    model = Pretraining(PretrainingSettings(**{**NETWORK, "clone_batch": 1})).to(dtype)
    frames = torch.tensor([128, 100, 64, 128, 17, 1])
    batch = model.draw(torch.randn(6, 1, 128, 128), list(range(6)), frames, seed=1, epoch=1)
    watched = model(batch).watched
    found = {name: v.item() for kind, sums in watched.items() for name, v in WATCHED[kind].values(sums).items()}
    assert watched["frame"][1].item() == 8 * (8 + 7 + 4 + 8 + 2 + 1)  # patches that begin with audio

    targets, student = model.teach(batch)["frame"], model.study(batch)
    real = torch.arange(8)[None].repeat_interleave(8, dim=1) * 16 < frames[:, None]
    masked = batch.masks.masked[:, 0]
    squares = (student.predictions.detach().float() - targets.gather(1, masked[..., None].expand(-1, -1, 32))).square()
    counted = real.gather(1, masked)
    error = torch.stack([squares.sum(dim=-1)[counted].sum(), counted.sum()])
    wanted = frame_figures(torch.cat([products(targets, real), error]))
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value.item(), rel=1e-3, abs=1e-4), name
    mean = targets.mean(dim=1)
    variance = (mean - mean.mean(dim=0)).square().sum(dim=-1).sum() / 5  # unbiased
    assert found["utterance_clip_fraction"] == pytest.approx((variance / mean.square().sum(-1).mean()).item(), rel=1e-2)


def test_what_targets_lack_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain reconstruction has no teacher's features, of which a rank of 0 would be told."""

    class Plain(AveragedFeedForward):
        def forward(self, *given: Any) -> Targets:
            return {name: value for name, value in super().forward(*given).items() if name != "features"}

    monkeypatch.setitem(TARGETS, "plain", Plain)
    batch = None
    for targets, kinds in (("averaged_feed_forward", set(WATCHED)), ("plain", set(WATCHED) - {"features"})):
        torch.manual_seed(0)
        model = Pretraining(PretrainingSettings(**{**NETWORK, "targets": targets}))
        batch = batch or model.draw(torch.randn(4, 1, 128, 128), list(range(4)), seed=1, epoch=1)
        assert set(model(batch).watched) == kinds


def test_the_rank_of_features_by_hand() -> None:
    """Four clips make two differences: (2, 0) and (1, 1), whose product is 2, their squares 4 and 2."""
    sums = spreads(torch.tensor([[2.0, 0.0], [0.0, 0.0], [5.0, 6.0], [4.0, 5.0], [9.0, 9.0]]), torch.ones(5).bool())
    assert sums.tolist() == [6.0, 2.0, 8.0, 2.0]
    assert feature_figures(sums)["feature_rank"].item() == pytest.approx(3.0**2 / 4.0)
    assert spreads(torch.rand(4, 2), torch.tensor([True, True, True, False]))[1].item() == 1  # the other has a hole
    assert feature_figures(torch.zeros(4))["feature_rank"].item() == 0.0


@pytest.mark.parametrize("batch", [4, 12, 100])
def test_the_rank_of_features_is_that_of_their_covariance_for_any_batch(batch: int) -> None:
    """Directions of variance 4, 1, 1 and 0 have (4 + 1 + 1)^2 / (16 + 1 + 1) = 2, whatever their mean."""
    generator = torch.Generator().manual_seed(batch)
    vectors = torch.randn(12_000, 4, generator=generator) * torch.tensor([2.0, 1.0, 1.0, 0.0]) + 7.0
    real = torch.ones(batch, dtype=torch.bool)
    sums = torch.stack([spreads(part, real) for part in vectors.split(batch)]).sum(dim=0)
    assert feature_figures(sums)["feature_rank"].item() == pytest.approx(2.0, rel=0.05)


def test_effective_rank_by_hand() -> None:
    assert effective_rank(torch.cat([torch.eye(4), -torch.eye(4)])) == pytest.approx(4.0, rel=1e-6)
    line = torch.arange(6.0)[:, None] * torch.tensor([[1.0, 2.0, 3.0]])
    assert effective_rank(line) == pytest.approx(1.0, abs=1e-3)
