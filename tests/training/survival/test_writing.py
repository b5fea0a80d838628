"""Checkpoints are written while training continues, once for all their names; by the clock as well as by updates."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fairseq.utils import move_to_cpu

from EAT.training.survival.checkpoints import corruption
from EAT.training.survival.writing import Writer, copied

from ...fairseq_runs import train
from .running import SMALLEST


def test_a_copied_state_is_as_fairseq_makes_it_and_stays_as_it_was() -> None:
    state = {
        "model": {"full": torch.randn(3, 2), "half": torch.randn(4).bfloat16(), "count": torch.tensor(3)},
        "history": [{"num_updates": 5, "names": ("a", "b")}],
    }
    expected, copy = move_to_cpu(state), copied(state)
    assert copy["history"] == expected["history"]
    for name, value in expected["model"].items():
        assert copy["model"][name].dtype == value.dtype and torch.equal(copy["model"][name], value)
    before = {name: value.clone() for name, value in copy["model"].items()}
    for value in state["model"].values():
        value.add_(1)
    assert all(torch.equal(copy["model"][name], value) for name, value in before.items())


def frozen(updates: int) -> SimpleNamespace:
    run = SimpleNamespace(named=threading.Event(), named_at=0.0, get_num_updates=lambda: updates)
    run.release = run.named.set
    return run


def test_training_goes_on_while_one_checkpoint_is_written_and_waits_before_the_next() -> None:
    writer, gate, order = Writer(), threading.Event(), []

    def slow(run: SimpleNamespace) -> str:
        run.release()
        assert gate.wait(10)
        order.append(f"written {run.get_num_updates()}")
        return "file"

    writer.begin(lambda: frozen(1), slow)
    order.append("trained")
    threading.Timer(0.1, gate.set).start()
    writer.begin(lambda: order.append("copied") or frozen(2), slow)
    writer.wait()
    assert order == ["trained", "written 1", "copied", "written 2"]


def test_what_fails_is_known_and_anything_else_is_raised() -> None:
    writer = Writer()

    def full(run: SimpleNamespace) -> str:
        raise OSError("No space left on device.")

    def broken(run: SimpleNamespace) -> str:
        raise KeyError("a mistake")

    writer.begin(lambda: frozen(1), full)
    writer.wait()
    assert writer.failed_at is not None
    writer.begin(lambda: frozen(2), lambda run: "file")
    writer.wait()
    assert writer.failed_at is None
    writer.begin(lambda: frozen(3), broken)
    with pytest.raises(KeyError):
        writer.wait()


def test_a_run_saves_by_the_clock_too_and_writes_once_for_all_names(clip_manifest: Path, tmp_path: Path) -> None:
    run = train(
        "pretraining_AS2M",
        *SMALLEST,
        f"task.data={clip_manifest}",
        f"checkpoint.save_dir={tmp_path}",
        "checkpoint.save_interval_updates=6",
        "task.save_minutes=0.00001",
        "optimization.max_update=12",
    )
    saved = re.findall(rf"saved {tmp_path}/(\S+) after (\d+) updates; training stood still for [\d.]+ s", run.output)
    by_clock = [int(updates) for name, updates in saved if name == "checkpoint_last.pt"]
    assert len(by_clock) >= 5 and not {6, 12} & set(by_clock)
    assert [(name, int(updates)) for name, updates in saved if name != "checkpoint_last.pt"] == [
        ("checkpoint_1_6.pt", 6),
        ("checkpoint_1_12.pt", 12),
    ]
    last, numbered = tmp_path / "checkpoint_last.pt", tmp_path / "checkpoint_1_12.pt"
    assert last.samefile(numbered) and corruption(last) is None
    assert torch.load(tmp_path / "checkpoint_previous.pt")["optimizer_history"][-1]["num_updates"] == 11
