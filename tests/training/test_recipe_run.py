"""Runs that are started from Python, watched, stopped and resumed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser

import EAT
from EAT.errors import ConfigError, TrainingError
from EAT.training.recipe_run import STOPPED, hydra_value

from ..tiny import NETWORK


def settings(data: Path, save: Path, **more: Any) -> dict[str, Any]:
    return {
        "common.cpu": True, "common.bf16": False, "common.log_interval": 1, "dataset.num_workers": 0,
        "dataset.batch_size": 8, "dataset.disable_validation": True,
        "distributed_training.distributed_world_size": 1, "lr_scheduler.warmup_updates": 2, "task.data": data,
        "task.norm_mean": -4.0, "task.norm_std": 4, "checkpoint.save_dir": save, "task.target_length": 64,
        **{f"model.{name}": value for name, value in NETWORK.items()}, **more,
    }  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")


VALUES = [None, True, False, 3, 0.5, 1e-5, -4.0, "name", "/a/b.c", "/a b/c,d", "it's", "a=b", "", "C:\\x", "e\\", "\\'"]


@pytest.mark.parametrize("value", [*VALUES, [1, 2], ["a b", None]])
def test_hydra_reads_values_as_they_were_meant(value: Any) -> None:
    assert OverridesParser.create().parse_override(f"key={hydra_value(value)}").value() == value


@pytest.mark.slow
def test_a_run_is_watched_stopped_and_resumed(clip_manifest: Path, tmp_path: Path) -> None:
    save = tmp_path / "a run, saved"
    wanted = settings(clip_manifest, save, **{"optimization.max_update": 1000})
    with EAT.run_recipe("pretraining_demo", wanted, log=tmp_path / "log.txt") as run:
        limit = time.monotonic() + 200
        while len(run.metrics.get("num_updates", [])) < 3:
            assert run.status is None and time.monotonic() < limit, run.tail()
            time.sleep(0.2)
        assert "goes after" in repr(run)
        assert run.stop(timeout=100) == STOPPED
    assert run.status == STOPPED and "ended with status 75" in repr(run)
    losses = run.metrics
    assert losses["num_updates"][:3] == [1, 2, 3] and len(losses["frame_loss"]) == len(losses["num_updates"])
    done = int(losses["num_updates"][-1])
    wanted["optimization.max_update"] = done + 2
    again = EAT.run_recipe("pretraining_demo", wanted)
    assert again.wait(timeout=200) == 0, again.tail()
    assert again.metrics["num_updates"][-1] == done + 2 and again.metrics["num_updates"][0] > done - 1
    assert torch.load(save / "checkpoint_last.pt")["optimizer_history"][-1]["num_updates"] == done + 2


def test_runs_that_cannot_be_say_so(clip_manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no recipe 'pretraining_dem' in .*pretraining_demo"):
        EAT.run_recipe("pretraining_dem")
    run = EAT.run_recipe("pretraining_demo", settings(tmp_path, tmp_path / "run"), log=tmp_path / "log.txt")
    assert run.metrics == {}
    with pytest.raises(TrainingError, match=r"the run ended with status \d+: .*train\.tsv"):
        run.wait(timeout=200)
    assert os.path.exists(run.log)
