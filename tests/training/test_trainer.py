"""Updates that do not wait for the device: what they read late, agree on and log is what others read at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from ..conftest import ROOT
from ..fairseq_runs import Run, train, train_distributed
from ..labelled_clips import write_multi_label
from ..tiny import ENCODER, ON_A_CPU, model
from .survival.running import SMALLEST

MODULE = """
import os, EAT.models, EAT.tasks, torch
from torch.utils._python_dispatch import TorchDispatchMode
from EAT.training.clip_task import ClipTask
from EAT.training.trainer import EATTrainer
EATTrainer.late = os.environ["LATE"] == "1"
task_step, step, all_reduce = ClipTask.train_step, EATTrainer.train_step, torch.distributed.all_reduce
calls = 0

def injecting(self, sample, model, criterion, optimizer, update_num, *args, **kwargs):
    result = task_step(self, sample, model, criterion, optimizer, update_num, *args, **kwargs)
    if update_num == int(os.environ["BAD"]):
        next(p for p in model.parameters() if p.grad is not None).grad.view(-1)[0] = float("nan")
    return result

class Waits(TorchDispatchMode):
    count = 0
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.__name__ == "_local_scalar_dense.default"
        return function(*args, **(kwargs or {}))

def counting(*args, **kwargs):
    global calls
    calls += 1
    return all_reduce(*args, **kwargs)

def counted(self, samples, raise_oom=False):
    before = calls
    with Waits() as waits:
        result = step(self, samples, raise_oom)
    print(f"WAITS {self.get_num_updates()} {waits.count} {calls - before}", flush=True)
    return result

ClipTask.train_step, EATTrainer.train_step, torch.distributed.all_reduce = injecting, counted, counting
"""


def run(
    folder: Path,
    clips: Path,
    monkeypatch: pytest.MonkeyPatch,
    late: bool,
    *overrides: str,
    processes: int = 1,
    config: str = "pretraining_AS2M",
) -> tuple[Run, dict[str, Any]]:
    (folder / "mine").mkdir(parents=True)
    (folder / "mine" / "__init__.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("LATE", str(int(late)))
    given = (f"common.user_dir={folder}/mine", f"task.data={clips}", f"checkpoint.save_dir={folder}", *overrides)
    if config == "pretraining_AS2M":
        given = (
            *SMALLEST, "dataset.batch_size=2", "optimization.max_update=10", "lr_scheduler.warmup_updates=0",
            "criterion.utterance_weight=1", "common.bf16=true", *given,
        )  # fmt: skip
    done = train(config, *given) if processes == 1 else train_distributed(config, processes, *given)[0]
    return done, torch.load(folder / "checkpoint_last.pt")


def waits(done: Run) -> dict[int, tuple[int, int]]:
    """Numbers read from the device, and collectives, by update."""
    found = re.findall(r"WAITS (\d+) (\d+) (\d+)", done.output)
    return {int(update): (int(reads), int(calls)) for update, reads, calls in found}


@pytest.mark.parametrize("processes", [1, 2])
def test_reading_late_changes_nothing_but_the_waiting(
    clip_manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    """With one update whose gradients are not finite; a line of the log for each four updates."""
    monkeypatch.setenv("BAD", "5")
    logged = "common.log_interval=4"
    runs = [
        run(tmp_path / str(late), clip_manifest, monkeypatch, late, logged, processes=processes)
        for late in (False, True)
    ]
    (at_once, wanted), (late, found) = runs
    for name, value in wanted["model"].items():
        assert torch.equal(found["model"][name], value), name
    (key,) = [name for name in wanted["extra_state"] if name.startswith("EAT")]
    assert found["extra_state"][key]["nonfinite"] == wanted["extra_state"][key]["nonfinite"]
    assert wanted["extra_state"][key]["nonfinite"]["total"] == 1
    assert at_once.output.count("update 6 is skipped: ") == late.output.count("update 6 is skipped: ") == 1
    assert [line["num_updates"] for line in late.lines] == [4, 8]
    for one, other in zip(at_once.lines, late.lines, strict=True):
        for name in ("loss", "frame_loss", "target_std", "frame_skill", "gnorm", "clip", "bsz", "nonfinite"):
            assert other[name] == pytest.approx(one[name], rel=1e-5), name
        assert other["bsz"] == 2 * processes
    assert set(waits(late)) == set(range(1, 11))
    for update, (reads, collectives) in waits(late).items():
        if update > 1 and update % 4:
            assert reads == 1  # of the norm that the host knows already
            assert collectives == (0 if processes == 1 else 2)  # what the update depends on, and the gradients
    assert all(reads > 1 for reads, _ in waits(at_once).values())


@pytest.mark.parametrize("updates_an_epoch", [3, 60])
def test_a_line_has_the_mean_of_its_updates(
    clip_manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, updates_an_epoch: int
) -> None:
    """Of several epochs' too: what was logged at an epoch's end is part of the line in which it ended."""
    monkeypatch.setenv("BAD", "-1")
    lines = (clip_manifest / "train.tsv").read_text().splitlines()[: 1 + 2 * updates_an_epoch]
    (tmp_path / "train.tsv").write_text("\n".join(lines) + "\n")
    each, _ = run(tmp_path / "each", tmp_path, monkeypatch, True)
    fifth, _ = run(tmp_path / "fifth", tmp_path, monkeypatch, True, "common.log_interval=5")
    assert len(each.lines) == 10 and len(fifth.lines) == 2
    for name in ("loss", "gnorm", "bsz", "ema_decay"):
        for line, part in zip(fifth.lines, (each.values(name)[:5], each.values(name)[5:]), strict=True):
            assert line[name] == pytest.approx(sum(part) / 5, rel=2e-3)


def test_fine_tuning_does_not_wait_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sample size, the number of positive labels, is a number on the device; validation is as ever."""
    write_multi_label(tmp_path / "data", train=8, evaluation=6)
    monkeypatch.setenv("BAD", "-1")
    results = []
    for late in (False, True):
        folder = tmp_path / str(late)
        given = (
            *ON_A_CPU, *model(ENCODER), "common.log_format=json", "common.bf16=true", "common.log_interval=3",
            "task.target_length=64", "task.norm_mean=null", "task.norm_std=null", "lr_scheduler.warmup_updates=0",
            "dataset.batch_size=2", "optimization.max_update=4", "task.weights=null", "model.num_classes=null",
        )  # fmt: skip
        results.append(run(folder, tmp_path / "data", monkeypatch, late, *given, config="finetuning_AS20K"))
    (at_once, wanted), (late_run, found) = results
    for name, value in wanted["model"].items():
        torch.testing.assert_close(found["model"][name], value, rtol=0.01, atol=1e-4)
    assert late_run.values("loss") == pytest.approx(at_once.values("loss"), rel=1e-3)
    assert {update: reads for update, (reads, _) in waits(late_run).items() if update in (2, 4)} == {2: 1, 4: 1}
    assert re.search(r"\[eval\]\[INFO\] - .*mAP", late_run.output)
