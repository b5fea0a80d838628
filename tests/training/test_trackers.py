"""fairseq's switches for trackers of experiments, with the figures of this package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ..fairseq_runs import Run, train
from ..labelled_clips import write_single_label
from .test_classification_task import TINY, validations


def tracked(tmp_path: Path, *overrides: str) -> Run:
    write_single_label(tmp_path / "data")
    return train(
        "finetuning_folder", *TINY, f"task.data={tmp_path}/data", f"checkpoint.save_dir={tmp_path}/run",
        "optimization.max_update=3", *overrides,
    )  # fmt: skip


def test_tensorboard_has_the_figures_of_training_and_validation(tmp_path: Path) -> None:
    run = tracked(tmp_path, f"common.tensorboard_logdir={tmp_path}/tb")
    curves = {}
    for tag in ("train_inner", "eval"):
        events = EventAccumulator(str(tmp_path / "tb" / tag))
        events.Reload()
        curves[tag] = {name: events.Scalars(name) for name in events.Tags()["scalars"]}
    assert [event.step for event in curves["train_inner"]["loss"]] == [1, 2, 3]
    assert [event.value for event in curves["train_inner"]["loss"]] == pytest.approx(run.values("loss"), rel=1e-5)
    assert {"lr", "gnorm", "clips_per_s"} <= curves["train_inner"].keys()
    logged = [line["eval_accuracy"] for line in validations(run)]
    assert [event.value for event in curves["eval"]["accuracy"]] == pytest.approx(logged, abs=1e-5)
    assert {"loss", "balanced_accuracy"} <= curves["eval"].keys()


def test_weights_and_biases_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    run = tracked(tmp_path, "common.wandb_project=eat")
    (file,) = tmp_path.glob("wandb/*/*.wandb")
    store, curves = DataStore(), dict[str, list[float]]()
    store.open_for_scan(str(file))
    while (data := store.scan_data()) is not None:
        record = Record()
        record.ParseFromString(data)
        for item in record.history.item:
            curves.setdefault(item.key or "/".join(item.nested_key), []).append(json.loads(item.value_json))
    assert curves["train_inner/loss"] == pytest.approx(run.values("loss"), rel=1e-5)
    logged = [line["eval_accuracy"] for line in validations(run)]
    assert curves["eval/accuracy"] == pytest.approx(logged, abs=1e-5)
    assert curves["_step"] == [1, 2, 3]
