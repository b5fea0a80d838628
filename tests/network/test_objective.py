"""Standard deviations from sums, over any division into batches and devices."""

from __future__ import annotations

import pytest
import torch

from EAT.network.objective import mean_distance, moments, standard_deviation

EVERY = torch.ones(1, dtype=torch.bool)
"""One clip, which counts."""


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-6), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_the_distance_and_its_gradient(dtype: torch.dtype, most: float) -> None:
    torch.manual_seed(0)
    a = torch.randn(1100, 12).to(dtype).requires_grad_()
    b = torch.randn(1100, 12, dtype=torch.promote_types(dtype, torch.float32))
    exact = ((a.double() - b.double()).square().sum(dim=1) / 12**0.5).mean()
    loss = mean_distance(a, b, EVERY)
    assert loss.item() == pytest.approx(exact.item(), rel=most)
    (ours,) = torch.autograd.grad(2.0**20 * loss, a)
    (wanted,) = torch.autograd.grad(2.0**20 * exact, a)
    assert ours.dtype == dtype and ((ours.double() - wanted.double()).norm() / wanted.double().norm()).item() < most


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_standard_deviations_are_those_of_all_rows_together(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = (torch.randn(1100, 12) * 3 + 1).to(dtype)
    wanted = (x.double().var(dim=0) + 1e-6).sqrt().mean().item()
    assert standard_deviation(moments(x, EVERY)).item() == pytest.approx(wanted, rel=1e-5)
    parts = sum(moments(part, EVERY) for part in x.split([300, 1, 799]))
    assert standard_deviation(parts).item() == pytest.approx(wanted, rel=1e-5)
    assert torch.isfinite(standard_deviation(moments(x[:0], EVERY)))
