"""Pre-training through the real command, on the real clips."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from EAT.network.settings import PretrainingSettings
from EAT.system import slow_on_cpu
from EAT.training.pretraining_task import without_blocks

from ..conftest import ROOT
from ..fairseq_runs import COMMAND, TINY, environment, train, train_distributed
from ..recordings import write_mixed_manifest

FIGURES = (
    "frame_position_fraction",
    "frame_clip_fraction",
    "frame_skill",
    "utterance_clip_fraction",
    "utterance_skill",
    "feature_rank",
)
"""What a log says of whether the run learns."""

EVERY_LINE = (
    *FIGURES,
    "loss",
    "frame_loss",
    "utterance_loss",
    "prediction_std",
    "target_std",
    "ema_decay",
    "masked_fraction",
    "lr",
    "gnorm",
    "clips_per_s",
)


def saved(folder: Path) -> dict:
    return torch.load(folder / "checkpoint_last.pt")  # weights_only stays at torch's default, True


def assert_half_precision_student(checkpoint: dict, precision: torch.dtype) -> None:
    """The student was trained in ``precision``; the teacher holds values that it could not hold."""
    model = checkpoint["model"]
    for name in ("cls_token", "blocks.0.attn.qkv.weight"):
        student, teacher = model[f"encoder.{name}"].float(), model[f"teacher.{name}"]
        assert torch.equal(student, student.to(precision).float())
        assert teacher.dtype == torch.float32 and not torch.equal(teacher, teacher.to(precision).float())


def test_the_published_recipe_runs_with_only_its_size_overridden(clip_manifest: Path, tmp_path: Path) -> None:
    run = train(
        "pretraining_AS2M",
        *TINY,
        f"task.data={clip_manifest}",
        f"checkpoint.save_dir={tmp_path}",
        "optimization.max_update=3",
        "dataset.batch_size=4",
        f"common.tensorboard_logdir={tmp_path}/tensorboard",
    )
    assert len(run.lines) == 3
    for line in run.lines:
        assert set(EVERY_LINE) <= set(line)
        assert math.isclose(line["loss"], line["frame_loss"] + 192 * line["utterance_loss"], rel_tol=1e-5)
        assert line["masked_fraction"] == pytest.approx(52 / 64, abs=1e-6)  # 64 patches, floor(64 * 0.2) = 12 visible
    assert [line["ema_decay"] for line in run.lines] == pytest.approx([0.9998] * 3, abs=1e-6)
    assert list((tmp_path / "tensorboard" / "train_inner").iterdir())

    checkpoint = saved(tmp_path)
    assert checkpoint["cfg"]["model"]["_name"] == "eat_pretraining"
    assert not [key for key in checkpoint["model"] if not key.startswith(("encoder.", "decoder.", "teacher."))]
    script = (
        "import sys, argparse, torch\n"
        "from fairseq import checkpoint_utils, utils\n"
        "utils.import_user_module(argparse.Namespace(user_dir='EAT'))\n"
        "(model,), _, _ = checkpoint_utils.load_model_ensemble_and_task(sys.argv[1:])\n"
        "state, saved = model.state_dict(), torch.load(sys.argv[1])['model']\n"
        "assert state.keys() == saved.keys() and all(torch.equal(state[name], saved[name]) for name in saved)\n"
        "print(type(model).__name__)\n"
    )
    opened = subprocess.run(  # as fairseq's own tools open it
        [sys.executable, "-c", script, str(tmp_path / "checkpoint_last.pt")],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert opened.returncode == 0 and opened.stdout.endswith("EATPretrainingModel\n"), opened.stderr[-3000:]


def test_start_up_says_what_matters_in_a_few_lines(clip_manifest: Path, tmp_path: Path) -> None:
    run = train(
        "pretraining_AS2M",
        *TINY,
        f"task.data={clip_manifest}",
        f"checkpoint.save_dir={tmp_path}",
        "optimization.max_update=3",
        "dataset.batch_size=4",
    )
    before = run.output.split("[train_inner]")[0].splitlines()
    assert len(before) <= 9, before
    assert re.search(r"pace: [\d.e-]+ s an update\n", run.output)  # after the third, which is the last
    text = "\n".join(before)
    assert "model.mask_length=5 is larger than what stays visible of 8 x 8 patches" in text  # of 1.28 s
    assert "124 clips listed in" in text and "M trained parameters" in text and "float32" in text and "CPU" in text
    assert "Deprecat" not in run.output and "FutureWarning" not in run.output


def test_masks_without_blocks_are_named_where_they_are_and_nowhere_else() -> None:
    """0.27 of 64 patches are 17, fewer than a block of 25 and more than one of 9; of 16 they are 4."""
    settings = PretrainingSettings()
    assert settings.blocks(512) == 5 and settings.blocks(64) == 0 and without_blocks(settings, 1024) == ""
    assert without_blocks(settings, 128).endswith("model.mask_length=3 does keep blocks")
    assert without_blocks(settings, 32).endswith("a longer task.target_length does keep blocks")
    assert without_blocks(replace(settings, mask_length=3), 128) == ""
    assert without_blocks(replace(settings, masking="random"), 128) == ""


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_repeats_the_uninterrupted_one(clip_manifest: Path, tmp_path: Path, workers: int) -> None:
    common = (
        *TINY,
        f"task.data={clip_manifest}",
        "task.crop=random",
        f"dataset.num_workers={workers}",
        "dataset.batch_size=32",  # four batches an epoch, so that updates 7 to 12 cross two epochs
        "lr_scheduler.lr_period_updates=10",
    )
    whole = train("pretraining_AS2M", *common, f"checkpoint.save_dir={tmp_path}/whole", "optimization.max_update=12")
    part = (*common, f"checkpoint.save_dir={tmp_path}/part")
    train("pretraining_AS2M", *part, "optimization.max_update=6")
    resumed = train("pretraining_AS2M", *part, "optimization.max_update=12")
    assert whole.values("num_updates")[6:] == resumed.values("num_updates") == [7, 8, 9, 10, 11, 12]
    for key in ("loss", "frame_loss", "utterance_loss", *FIGURES):
        assert resumed.values(key) == pytest.approx(whole.values(key)[6:], rel=1e-6)
    one, other = saved(tmp_path / "whole")["model"], saved(tmp_path / "part")["model"]
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-6, atol=1e-7)


def test_a_resumed_bfloat16_run_keeps_its_float32_parameters(clip_manifest: Path, tmp_path: Path) -> None:
    common = (
        *TINY,
        "common.bf16=true",
        f"task.data={clip_manifest}",
        "dataset.batch_size=16",
        "lr_scheduler.lr_period_updates=10",
    )
    whole = train("pretraining_AS2M", *common, f"checkpoint.save_dir={tmp_path}/whole", "optimization.max_update=8")
    part = (*common, f"checkpoint.save_dir={tmp_path}/part")
    train("pretraining_AS2M", *part, "optimization.max_update=4")
    resumed = train("pretraining_AS2M", *part, "optimization.max_update=8")
    assert resumed.values("loss") == pytest.approx(whole.values("loss")[4:], rel=1e-6)
    checkpoint = saved(tmp_path / "part")
    assert_half_precision_student(checkpoint, torch.bfloat16)
    masters = checkpoint["last_optimizer_state"]["float32_parameters"]
    assert sum(bool((m != m.bfloat16().float()).any()) for m in masters) > len(masters) / 2


def test_two_processes_equal_one_that_accumulates(clip_manifest: Path, tmp_path: Path) -> None:
    common = (*TINY, f"task.data={clip_manifest}", "dataset.batch_size=2", "optimization.max_update=5")
    one = train("pretraining_AS2M", *common, f"checkpoint.save_dir={tmp_path}/one", "optimization.update_freq=[2]")
    two = train_distributed("pretraining_AS2M", 2, *common, f"checkpoint.save_dir={tmp_path}/two")
    for key in ("loss", "frame_loss", "utterance_loss", "gnorm"):
        assert two[0].values(key) == pytest.approx(one.values(key), rel=1e-5)
    for key in FIGURES:
        assert two[0].values(key) == pytest.approx(one.values(key), rel=1e-3, abs=1e-4)
    assert len(one.lines) == 5
    for name, value in saved(tmp_path / "one")["model"].items():
        torch.testing.assert_close(saved(tmp_path / "two")["model"][name], value, rtol=1e-4, atol=1e-6)


def test_bfloat16_follows_the_float32_loss_curve(clip_manifest: Path, tmp_path: Path) -> None:
    common = (
        *TINY,
        "model.embed_dim=64",
        "model.decoder_width=64",
        f"task.data={clip_manifest}",
        "dataset.batch_size=16",
        "optimization.max_update=30",
        "optimization.lr=[1e-3]",
    )
    exact = train("pretraining_AS2M", *common, f"checkpoint.save_dir={tmp_path}/float32")
    mixed = train("pretraining_AS2M", *common, f"checkpoint.save_dir={tmp_path}/bf16", "common.bf16=true")
    assert len(exact.lines) == 30
    assert exact.values("loss")[-1] < 0.9 * exact.values("loss")[0]
    assert mixed.values("loss") == pytest.approx(exact.values("loss"), rel=0.02)
    assert mixed.values("frame_loss") == pytest.approx(exact.values("frame_loss"), rel=0.02)


def test_float16_trains_with_loss_scaling(clip_manifest: Path, tmp_path: Path) -> None:
    run = train(
        "pretraining_AS2M",
        *TINY,
        "common.fp16=true",
        "common.fp16_init_scale=1",
        f"task.data={clip_manifest}",
        f"checkpoint.save_dir={tmp_path}",
        "dataset.batch_size=8",
        "optimization.max_update=4",
    )
    assert all(math.isfinite(loss) for loss in run.values("loss")) and run.lines[-1]["loss_scale"] > 0
    assert_half_precision_student(saved(tmp_path), torch.float16)
    slow = slow_on_cpu("float16")
    assert slow is None or f"{slow}: common.bf16=false common.fp16=false" in run.output


def test_every_format_rate_and_container_in_one_run(clips: list[Path], tmp_path: Path) -> None:
    count = write_mixed_manifest(tmp_path, clips[:24])
    run = train(
        "pretraining_AS2M",
        *TINY,
        f"task.data={tmp_path}",
        "dataset.num_workers=2",
        f"dataset.batch_size={count}",
        f"checkpoint.save_dir={tmp_path}/run",
        "optimization.max_update=3",
    )
    assert f"{count} clips listed" in run.output and count == 33
    assert run.values("bsz") == [count] * 3  # not one clip skipped
    assert "skipped" not in run.output


def test_the_large_recipe_trains_at_its_own_width(clip_manifest: Path, tmp_path: Path) -> None:
    kept = [key for key in TINY if not key.startswith("model.") and "bf16" not in key]
    run = train(
        "pretraining_AS2M_large",
        *kept,
        "model.depth=1",
        "model.clone_batch=2",
        f"task.data={clip_manifest}",
        "dataset.batch_size=1",
        f"checkpoint.save_dir={tmp_path}",
        "checkpoint.no_save=true",
        "optimization.max_update=3",
    )
    assert len(run.lines) == 3 and "18.8 M trained parameters" in run.output and "bfloat16" in run.output
    assert run.lines[0]["masked_fraction"] == pytest.approx(48 / 64)


def test_the_script_runs_the_recipe_from_where_the_user_stands(clip_manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to(clip_manifest)
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "pretraining_AS2M.sh"), *TINY, "optimization.max_update=3"],
        cwd=tmp_path,
        env=environment(
            PATH=f"{COMMAND.parent}:{os.environ['PATH']}", DATA="mine", SAVE="made here", DEVICES="1", BATCH="4"
        ),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert saved(tmp_path / "made here")["cfg"]["dataset"]["batch_size"] == 4


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize(
    ("guard", "sentence"),
    [
        ("max_position_fraction=0.001", "of the targets' variance is a function of the position alone"),
        ("min_skill=0.9", "of what the position leaves of the targets (criterion.min_skill=0.9)"),
    ],
)
def test_a_run_that_learns_nothing_is_stopped(
    clip_manifest: Path, tmp_path: Path, precision: str, guard: str, sentence: str
) -> None:
    run = train(
        "pretraining_AS2M",
        *TINY,
        f"common.bf16={str(precision == 'bf16').lower()}",
        f"task.data={clip_manifest}",
        f"checkpoint.save_dir={tmp_path}",
        "dataset.batch_size=8",
        "optimization.max_update=9",
        "criterion.guarded_from=4",
        f"criterion.{guard}",
        expect=1,
    )
    assert sentence in run.output and "after 4 updates" in run.output and "usually help" in run.output
    assert "Traceback" not in run.output
