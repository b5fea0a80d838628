"""The optimiser: what it decays, and what a resumed run keeps decaying."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from EAT.training.adamw import EATAdamW, EATAdamWConfig
from EAT.training.parameter_groups import mark_parameters


def optimizer(model: nn.Module, **settings: object) -> EATAdamW:
    mark_parameters(model)
    config = OmegaConf.merge(OmegaConf.structured(EATAdamWConfig), {"lr": [0.1], "weight_decay": 0.5, **settings})
    return EATAdamW(config, model.parameters())


@pytest.mark.parametrize("decayed", ["all", "matrices"])
def test_a_step_by_hand(decayed: str) -> None:
    """Without gradients a decayed tensor shrinks by lr * decay = 5 %, another stays (Loshchilov and Hutter, 2019)."""
    model = nn.Linear(2, 2)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    adamw = optimizer(model, decayed=decayed)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    adamw.step()
    torch.testing.assert_close(model.weight.detach(), 0.95 * before["weight"])
    torch.testing.assert_close(model.bias.detach(), (0.95 if decayed == "all" else 1.0) * before["bias"])


@pytest.mark.parametrize("name", ["official_pretrain", "official_finetune"])
def test_published_runs_decay_every_tensor_and_so_do_we(conformance: Path, name: str) -> None:
    published = torch.load(conformance / f"{name}.pt")["last_optimizer_state"]
    groups = [group for part in published.values() for group in part["param_groups"]]
    assert len(groups) >= 2 and {group["weight_decay"] for group in groups} == {0.05}
    assert [group["weight_decay"] for group in optimizer(nn.Linear(2, 2)).param_groups] == [0.5]


def test_a_resumed_run_decays_what_it_decayed(caplog: pytest.LogCaptureFixture) -> None:
    model, again = nn.Linear(2, 2), nn.Linear(2, 2)
    first = optimizer(model, decayed="matrices")
    model(torch.ones(1, 2)).sum().backward()
    first.step()
    resumed = optimizer(again)
    with caplog.at_level(logging.WARNING, "EAT"):
        resumed.load_state_dict(first.state_dict())
    assert "optimizer.decayed=matrices, which stays, not all" in caplog.text
    assert [(g["weight_decay"], g["params"]) for g in resumed.param_groups] == [
        (0.5, [again.weight]),
        (0.0, [again.bias]),
    ]
    for own, other in zip(resumed.params, first.params, strict=True):
        assert torch.equal(resumed.optimizer.state[own]["exp_avg"], first.optimizer.state[other]["exp_avg"])
    caplog.clear()
    optimizer(nn.Linear(2, 2), decayed="matrices").load_state_dict(first.state_dict())
    assert not caplog.text
