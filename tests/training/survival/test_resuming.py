"""A run that is resumed in the middle of an epoch, with other workers, is the uninterrupted one, in any mode."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path

import pytest
import torch

from ...fairseq_runs import train
from ...labelled_clips import write_multi_label
from .running import PRECISIONS, SMALLEST, LiveRun

pytestmark = pytest.mark.faults

FINETUNING = (
    *(value for value in SMALLEST if not value.startswith(("model.clone", "model.decoder"))),
    "dataset.disable_validation=true",
    "task.crop=random",
    "model.drop_path=0.3",
    "task.mixup_alpha=10",
    "task.samples_per_epoch=20",
)


def logged(output: str) -> dict[int, dict[str, float]]:
    """What must not depend on a restart, after each update."""
    lines = [json.loads(line) for line in re.findall(r"\[train_inner\]\[INFO\] - (\{.*\})", output)]
    kept = ("loss", "gnorm", "lr", "nonfinite", "loss_scale")
    return {
        int(line["num_updates"]): {key: float(line[key] or math.nan) for key in kept if key in line} for line in lines
    }


def assert_exact(config: str, folder: Path, overrides: tuple[str, ...], updates: tuple[int, ...]) -> dict:
    """One run to the last of ``updates``; another that is resumed after each of them, by 0, 1 and 2 workers in turn."""
    whole = LiveRun(  # beside the other, on a second core
        *overrides, f"checkpoint.save_dir={folder}/whole", f"optimization.max_update={updates[-1]}", config=config
    )
    lived = {}
    for number, update in enumerate(updates):
        workers = f"dataset.num_workers={(1, 2, 0)[number % 3]}"
        part = train(
            config,
            *overrides,
            workers,
            f"checkpoint.save_dir={folder}/part",
            f"optimization.max_update={update}",
        )
        lived.update(logged(part.output))
    expected = logged(whole.finish().output)
    assert len(expected) == updates[-1]
    assert lived.keys() == expected.keys()
    for update, line in expected.items():
        assert lived[update] == pytest.approx(line, rel=1e-6, nan_ok=True), update
    one, other = (
        torch.load(folder / name / "checkpoint_last.pt", weights_only=True)["model"] for name in ("whole", "part")
    )
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-6, atol=1e-8)
    return expected


@pytest.mark.parametrize("precision", PRECISIONS)
def test_accumulated_gradients(clip_manifest: Path, tmp_path: Path, precision: str) -> None:
    given = (*SMALLEST, *PRECISIONS[precision])
    overrides = (*given, f"task.data={clip_manifest}", "task.crop=random", "optimization.update_freq=[3]")
    assert_exact("pretraining_AS2M", tmp_path, overrides, (5, 14))  # 31 batches are 11 updates, the last of one


def test_float16_with_a_loss_scale_that_moves(clip_manifest: Path, tmp_path: Path) -> None:
    overrides = (
        *SMALLEST,
        f"task.data={clip_manifest}",
        "common.bf16=false",
        "common.fp16=true",
        f"common.fp16_init_scale={2**16}",
        "+common.fp16_scale_window=3",
    )
    lines = assert_exact("pretraining_AS2M", tmp_path, overrides, (5, 16))
    scales = [lines[update]["loss_scale"] for update in sorted(lines)]
    assert any(b < a for a, b in itertools.pairwise(scales)), scales  # overflowed
    assert any(b > a for a, b in itertools.pairwise(scales[5:])), scales  # and rose after the restart


def test_weighted_sampling_with_augmentation(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_multi_label(data)
    clips = len((data / "train.tsv").read_text().splitlines()) - 1
    (data / "weights").write_text("".join(f"{1 + index}\n" for index in range(clips)))
    overrides = (*FINETUNING, f"task.data={data}", "task.weights=weights", "model.num_classes=12")
    assert_exact("finetuning_AS2M", tmp_path, overrides, (3, 12))  # epochs of five batches
