"""Half precision: gradients are added up and averaged in float32, in few operations."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from EAT.network.pretraining import Pretraining
from EAT.network.settings import PretrainingSettings
from EAT.training.adamw import EATAdamW, EATAdamWConfig
from EAT.training.half_precision import FP16Optimizer
from EAT.training.parameter_groups import mark_parameters

from ..tiny import NETWORK


def optimizer(model: nn.Module, float32_gradients: bool = True) -> FP16Optimizer:
    mark_parameters(model)
    settings = {"lr": [0.1], "float32_gradients": float32_gradients}
    adamw = OmegaConf.merge(OmegaConf.structured(EATAdamWConfig), settings)
    cfg = OmegaConf.create({"common": {"bf16": True, "fp16_scale_window": 1}, "optimizer": adamw})
    halves = list(model.parameters())
    fulls = FP16Optimizer.build_fp32_params(None, halves, flatten=False)
    return FP16Optimizer(cfg, halves, EATAdamW(adamw, fulls), fulls)


SMALL = 2.0**-9
"""Half of bfloat16's last place at 1: added to 1 in bfloat16, it is gone."""


@pytest.mark.parametrize(("float32_gradients", "expected"), [(True, 1.0 + 2 * SMALL), (False, 1.0)])
def test_gradients_are_added_up_in_float32(float32_gradients: bool, expected: float) -> None:
    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    made = optimizer(model, float32_gradients)
    for _ in range(2):  # the second update must not see the first one's
        made.zero_grad()
        for gradient in (1.0, SMALL, SMALL):
            made.backward(model(torch.tensor([[gradient]], dtype=torch.bfloat16)).sum())
        assert made.clip_grad_norm(0.0).item() == pytest.approx(expected, abs=1e-9)


def test_a_parameter_without_gradient_has_none_left_from_before() -> None:
    model = nn.ModuleList([nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)]).to(torch.bfloat16)
    made, x = optimizer(model), torch.ones(1, 1, dtype=torch.bfloat16)
    made.backward(model[1](x * float("nan")).sum())
    assert made.clip_grad_norm(0.0).isnan()
    made.zero_grad()
    made.backward(model[0](x).sum())
    assert made.clip_grad_norm(0.0).item() == 1.0


def _average(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    nn.init.ones_(model.weight)
    made, parallel = optimizer(model), nn.parallel.DistributedDataParallel(model)
    x = torch.tensor([[1.0 if rank == 0 else SMALL]], dtype=torch.bfloat16)
    with made.local_gradients(parallel):
        made.backward(parallel(x).sum())
    made.all_reduce_grads(parallel)
    assert made.clip_grad_norm(0.0).item() == pytest.approx((1 + SMALL) / 2, abs=1e-9)
    dist.destroy_process_group()


def test_gradients_are_averaged_over_devices_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 the other process's would be lost."""
    torch.multiprocessing.spawn(_average, (str(tmp_path),), nprocs=2)


class Calls(TorchDispatchMode):
    """Counts operations: on a GPU each is one launch, or a few for a multi-tensor operation."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        views = (
            "detach", "view", "alias", "slice", "split", "_unsafe_view", "unbind", "_local_scalar_dense", "lift_fresh",
            "_record_function_enter_new", "_record_function_exit",
        )  # fmt: skip
        name = function.__name__.split(".")[0]
        if name not in views:
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("on_a_gpu", [False, True])
def test_an_update_is_a_few_operations(on_a_gpu: bool) -> None:
    """Gradients to float32, norm, scale, AdamW, parameters to bfloat16, average, teacher to bfloat16, whatever the
    number of tensors; on a GPU gated by the norm, and with the scale in AdamW's kernel."""
    counts = []
    for depth in (1, 3):
        torch.manual_seed(0)
        model = Pretraining(PretrainingSettings(**{**NETWORK, "depth": depth})).to(torch.bfloat16)
        made = optimizer(model)
        made.fp32_optimizer.scales_in_step = on_a_gpu
        for step in range(2):
            made.zero_grad()
            batch = model.draw(torch.randn(2, 1, 64, 128), [0, 1], seed=1, epoch=1)
            made.backward(sum(model(batch).terms.values(), torch.zeros(())))
            with Calls() as calls:
                made.all_reduce_grads(model)
                made.multiply_grads(0.5)
                made.clip_grad_norm(4.0)
                bad = torch.zeros(()) if on_a_gpu else None
                if on_a_gpu:
                    made.optimizer.found_inf = bad
                made.step()
                names = [name for name, _ in model.named_parameters()]
                model.update_teacher(step + 1, dict(zip(names, made.fp32_params, strict=True)), bad)
        counts.append(calls.counts)
    assert counts[0] == counts[1]
    assert sum(counts[0].values()) < 20, counts[0]


@pytest.mark.parametrize("clip_norm", [0.0, 0.5, 1000.0])
def test_gradients_scaled_in_the_step_make_the_same_update(clip_norm: float) -> None:
    """As on a GPU: by sample size and clipping, for one update after the other, and one that must change nothing."""
    ends, counts = [], []
    for in_step in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).to(torch.bfloat16)
        made = optimizer(model)
        assert made.fp32_optimizer.scales_in_step is False  # on a CPU
        made.fp32_optimizer.scales_in_step = in_step
        for update in range(4):
            made.zero_grad()
            made.backward(model(torch.randn(4, 8, dtype=torch.bfloat16)).float().square().sum())
            made.multiply_grads(torch.tensor(1 / (3 + update)))
            made.clip_grad_norm(clip_norm)
            made.optimizer.found_inf = torch.tensor(float(update == 2))
            before = [master.clone() for master in made.fp32_params]
            with Calls() as calls:
                made.step()
            same = all(torch.equal(one, other) for one, other in zip(before, made.fp32_params, strict=True))
            assert same == (update == 2)
            assert made._multiply_factor == 1.0
        counts.append(calls.counts["_foreach_mul_"])
        ends.append(torch.cat([master.detach().flatten() for master in made.fp32_params]))
    assert counts == [1, 0]
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-6, atol=1e-7)
