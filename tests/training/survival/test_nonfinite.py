"""One update whose gradients are not finite is missing from a run, and nothing else is, in every precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ...conftest import ROOT
from ...fairseq_runs import train, train_distributed
from .running import SMALLEST

MODULE = """
import os, EAT.models, EAT.tasks
from EAT.training.clip_task import ClipTask
BAD = {1: float("nan"), 3: float("inf")}  # by number of updates before
train_step, optimizer_step = ClipTask.train_step, ClipTask.optimizer_step

def injecting(self, sample, model, criterion, optimizer, update_num, *args, **kwargs):
    result = train_step(self, sample, model, criterion, optimizer, update_num, *args, **kwargs)
    if update_num in BAD:
        parameter = next(p for p in model.parameters() if p.grad is not None)
        parameter.grad.view(-1)[0] = BAD[update_num]
    return result

def leaving_out(self, optimizer, model, update_num):
    if update_num not in BAD:
        optimizer_step(self, optimizer, model, update_num)
    elif hasattr(optimizer, "_multiply_factor"):
        optimizer._multiply_factor = 1.0  # what these gradients were to be multiplied by
        if optimizer.scaler is not None:
            optimizer.scaler.loss_scale /= 2  # as an overflow does

if os.environ["INJECT"] == "1":
    ClipTask.train_step = injecting
else:
    ClipTask.optimizer_step = leaving_out
"""


def run(folder: Path, clips: Path, processes: int, *overrides: str) -> tuple[str, dict[str, Any]]:
    """The log and the last checkpoint of six updates, of which the second and the fourth are bad, or left out."""
    (folder / "mine").mkdir(parents=True)
    (folder / "mine" / "__init__.py").write_text(MODULE)
    given = (
        *SMALLEST,
        f"common.user_dir={folder}/mine",
        f"task.data={clips}",
        f"checkpoint.save_dir={folder}",
        "dataset.batch_size=2",
        "optimization.max_update=6",
        "lr_scheduler.warmup_updates=0",
        *overrides,
    )
    config = "pretraining_AS2M"
    done = train(config, *given) if processes == 1 else train_distributed(config, processes, *given)[0]
    return done.output, torch.load(folder / "checkpoint_last.pt")


@pytest.mark.parametrize(
    ("precision", "accumulated", "processes"),
    [("float32", 2, 1), ("bf16", 1, 1), ("bf16", 2, 1), ("fp16", 2, 1), ("bf16", 1, 2)],
)
def test_exactly_the_bad_updates_are_missing(
    clip_manifest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    accumulated: int,
    processes: int,
) -> None:
    overrides = [f"common.{name}={str(name == precision).lower()}" for name in ("bf16", "fp16")]
    overrides += [
        f"optimization.update_freq=[{accumulated}]",
        "common.fp16_init_scale=256",
        "criterion.utterance_weight=1",
    ]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("INJECT", "1")
    log, bad = run(tmp_path / "bad", clip_manifest, processes, *overrides)
    assert log.count("is skipped: ") == 2
    monkeypatch.setenv("INJECT", "0")
    log, wanted = run(tmp_path / "wanted", clip_manifest, processes, *overrides)
    assert "is skipped: " not in log
    for name, value in wanted["model"].items():
        assert torch.equal(bad["model"][name], value), name
    moments, expected = (state["last_optimizer_state"]["state"] for state in (bad, wanted))
    assert len(moments) == len(expected) > 0
    for index, values in expected.items():
        assert values["step"] == moments[index]["step"] == 4
        assert torch.equal(moments[index]["exp_avg"], values["exp_avg"])
        assert values["exp_avg"].abs().sum() > 0
