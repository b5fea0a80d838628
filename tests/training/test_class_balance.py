"""Classes of unequal size: weights in the loss, and as many clips of each, in real runs on real clips."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from EAT.data.labels import read_class_weights, read_descriptors
from EAT.errors import DataError

from ..fairseq_runs import train, train_distributed
from ..labelled_clips import write_single_label
from .test_classification_task import TINY, load, scores_of, validations

STILL = ("optimization.lr=[0]", "lr_scheduler.min_lr=0", "optimization.max_update=1", "checkpoint.no_save=false")
PLAIN = ("model.drop_path=0", "task.mixup_alpha=0", "task.time_mask=0", "task.frequency_mask=0", "task.gain=0")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_single_label(tmp_path / "data", train=60)
    return tmp_path / "data"


def labels_of(data: Path, split: str) -> list[str]:
    return [line.split("\t")[1] for line in (data / f"{split}.lbl").read_text().splitlines()]


@pytest.mark.parametrize("source", ["balanced", "class_weights.csv"])
def test_a_run_s_loss_is_weighted_by_class(data: Path, tmp_path: Path, source: str) -> None:
    names = [label.name for label in read_descriptors(data / "label_descriptors.csv")]
    truth = labels_of(data, "train")
    assert set(truth) == set(names) and len(set(Counter(truth).values())) > 3
    if source == "balanced":
        weights = compute_class_weight("balanced", classes=np.array(names), y=truth)
    else:
        weights = np.arange(len(names)) / 4
        lines = [f"{name},{weight}\n" for name, weight in zip(names, weights, strict=True)]
        (data / source).write_text("".join(reversed(lines)))
    run = train(
        "finetuning_folder", *TINY, *STILL, f"task.data={data}", f"criterion.class_weights={source}",
        "criterion.label_smoothing=0.2", f"checkpoint.save_dir={tmp_path}/run",
    )  # fmt: skip
    logits, targets = scores_of(tmp_path / "run" / "checkpoint_last.pt", data, "eval")
    expected = F.cross_entropy(
        torch.from_numpy(logits),
        torch.from_numpy(targets).float(),
        torch.tensor(weights, dtype=torch.float32),
        label_smoothing=0.2,
    )
    assert validations(run)[-1]["eval_loss"] == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.slow
def test_equally_many_clips_of_each_class_resumed_and_in_several_processes(data: Path, tmp_path: Path) -> None:
    """Epochs of 50 clips, 5 of each of 10 classes: updates of 20 clips, so that the run stops within the second."""
    common = (*TINY, *PLAIN, f"task.data={data}", "task.weights=balanced", "task.samples_per_epoch=50")
    common = (*common, "dataset.batch_size=10", "dataset.disable_validation=true", "optimization.lr=[1e-3]")
    accumulated = (*common, "optimization.update_freq=[2]", "lr_scheduler.lr_period_updates=9")
    whole = train("finetuning_folder", *accumulated, "optimization.max_update=5", f"checkpoint.save_dir={tmp_path}/a")
    assert "each epoch draws 50 clips, equally many of each class" in whole.output
    save = f"checkpoint.save_dir={tmp_path}/b"
    train("finetuning_folder", *accumulated, "optimization.max_update=4", save)
    rest = train("finetuning_folder", *accumulated, "optimization.max_update=5", save)
    assert rest.values("loss") == whole.values("loss")[4:]
    ended = [load(tmp_path / name / "checkpoint_last.pt")["model"] for name in "ab"]
    assert all(torch.equal(value, ended[1][name]) for name, value in ended[0].items())
    two = train_distributed(
        "finetuning_folder", 2, *common, "lr_scheduler.lr_period_updates=9", "optimization.max_update=5",
        f"checkpoint.save_dir={tmp_path}/c",
    )[0]  # fmt: skip
    assert two.values("loss") == pytest.approx(whole.values("loss"), rel=1e-4)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (None, r"the class weights .* cannot be read \(No such file"),
        ("dog,1\n", "have none for 'cat'"),
        ("dog,1\ncat,x\n", "row 2 .* is 'cat,x'; each of its lines must be label,weight"),
        ("dog,1\ndog,1\ncat,1\n", "row 2 .* has the label 'dog', which is there already"),
        ("dog,1\ncow,1\ncat,1\n", "row 2 .* has the label 'cow', which is not in label_descriptors.csv"),
        ("dog,1\ncat,-1\n", "row 2 .* is -1; it must be finite and at least 0"),
        ("dog,nan\ncat,1\n", "row 1 .* is nan"),
    ],
)
def test_class_weights_that_cannot_be_used(tmp_path: Path, lines: str | None, sentence: str) -> None:
    (tmp_path / "d.csv").write_text("0,cat\n1,dog\n")
    if lines is not None:
        (tmp_path / "w").write_text(lines)
    with pytest.raises(DataError) as raised:
        read_class_weights(tmp_path / "w", read_descriptors(tmp_path / "d.csv"))
    assert re.search(sentence, str(raised.value)), json.dumps(str(raised.value))
