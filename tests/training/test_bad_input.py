"""What a user gets wrong ends in one sentence that names it, and exit status 1; never in a traceback."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ..fairseq_runs import TINY, Run, train


def refused(tmp_path: Path, *overrides: str) -> Run:
    run = train("pretraining_AS2M", *TINY, f"checkpoint.save_dir={tmp_path}/run", *overrides, expect=1)
    assert "Traceback" not in run.output, run.output[-2000:]
    return run


def write_clips(folder: Path, count: int = 8) -> list[str]:
    """``count`` half-second clips of noise in ``folder``; returns the manifest's lines for them."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    lines = []
    for index in range(count):
        soundfile.write(folder / f"{index}.wav", rng.normal(size=8000) * 0.1, 16000)
        lines.append(f"{index}.wav\t8000")
    return lines


def write_manifest(data: Path, root: Path, lines: list[str]) -> None:
    data.mkdir(exist_ok=True)
    (data / "train.tsv").write_text("\n".join([str(root), *lines]) + "\n")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["task.data=/nowhere"], "the manifest /nowhere/train.tsv cannot be read (No such file or directory)"),
        (["task.target_length=100"], "target_length is 100; it must be a multiple of 16 frames, such as 96 or 112"),
        (["lr_scheduler.warmup_updates=9", "optimization.max_update=9"], "warmup_updates is 9 but the run has only"),
        (["model.mask_prob=0.999"], "keeps 0 of 64 patches"),
        (["model.num_heads=5"], "embed_dim 32 is not divisible by num_heads 5"),
        (["task.crop=middle"], "task.crop is 'middle'; it must be one of start, random"),
        (["task.norm_std=0"], "norm_std 0.0 cannot normalise"),
    ],
)
def test_settings_that_cannot_work(clip_manifest: Path, tmp_path: Path, overrides: list[str], sentence: str) -> None:
    run = refused(tmp_path, f"task.data={clip_manifest}", "dataset.batch_size=4", *overrides)
    assert sentence in run.output, run.output[-1500:]


def test_an_unknown_key_is_named(clip_manifest: Path, tmp_path: Path) -> None:
    run = refused(tmp_path, f"task.data={clip_manifest}", "model.dept=3")
    assert "Could not override 'model.dept'" in run.output
    run = refused(tmp_path, f"task.data={clip_manifest}", "+model.dept=3")
    assert "there is no such setting: Key 'dept' not in 'EATPretrainingModelConfig'" in run.output


def test_an_empty_split(tmp_path: Path) -> None:
    write_manifest(tmp_path, tmp_path, [])
    assert "lists no clips" in refused(tmp_path, f"task.data={tmp_path}").output


def test_bad_clips_are_skipped_and_named_until_there_are_too_many(tmp_path: Path) -> None:
    audio = tmp_path / "audio"
    lines = write_clips(audio, 16)
    (audio / "text.wav").write_text("no audio at all")
    soundfile.write(audio / "empty.wav", np.zeros(0), 16000)
    soundfile.write(audio / "three.wav", np.zeros(3), 16000)
    soundfile.write(audio / "nan.wav", np.full(8000, np.nan), 16000, subtype="FLOAT")
    bad = {
        "gone.wav": "does not exist",
        "text.wav": "is not audio",
        "empty.wav": "holds 0 samples",
        "three.wav": "holds 3 samples",
        "nan.wav": "NaN or infinite",
        "../outside.wav": "leaves the root folder",
    }
    write_manifest(tmp_path, audio, lines + [f"{name}\t8000" for name in bad])
    common = [
        f"task.data={tmp_path}",
        "dataset.batch_size=3",
        "dataset.num_workers=2",
        "optimization.max_update=16",
    ]
    run = train("pretraining_AS2M", *TINY, f"checkpoint.save_dir={tmp_path}/run", *common, "task.max_skipped=0.3")
    for name, reason in bad.items():
        named = [line for line in run.output.splitlines() if f"{name} " in line and reason in line]
        assert len(named) == 1, (name, named)  # once, although two epochs met it
    assert all(np.isfinite(run.values("loss")))

    stopped = refused(tmp_path / "strict", *common, "task.max_skipped=0.1")
    assert "of 22 clips could not be read, more than task.max_skipped=0.1 allows" in stopped.output


def test_a_batch_of_bad_clips_alone_changes_no_loss(tmp_path: Path) -> None:
    audio = tmp_path / "audio"
    write_manifest(tmp_path, audio, [*write_clips(audio, 3), "gone.wav\t1"])
    run = train(
        "pretraining_AS2M",
        *TINY,
        f"task.data={tmp_path}",
        f"checkpoint.save_dir={tmp_path}/run",
        "dataset.batch_size=1",
        "optimization.max_update=4",
        "optimization.update_freq=[2]",
        "task.max_skipped=1",
    )
    assert sorted(run.values("bsz")) == [1, 1, 2, 2]
    assert all(np.isfinite(run.values("loss")))


def test_collapse_guards_stop_the_run(clip_manifest: Path, tmp_path: Path) -> None:
    common = (f"task.data={clip_manifest}", "dataset.batch_size=4")
    first = train("pretraining_AS2M", *TINY, *common, f"checkpoint.save_dir={tmp_path}", "optimization.max_update=3")
    assert len(first.lines) == 3
    # Continue as if 5 000 updates had been made: the counter is what the guards wait for.
    path = tmp_path / "checkpoint_last.pt"
    state = torch.load(path)
    state["optimizer_history"][-1]["num_updates"] = 5000
    torch.save(state, path)
    for key, what in (("min_target_var", "targets"), ("min_pred_var", "predictions")):
        run = train(
            "pretraining_AS2M",
            *TINY,
            *common,
            f"checkpoint.save_dir={tmp_path}",
            "optimization.max_update=5003",
            f"criterion.{key}=10",
            expect=1,
        )
        assert f"the {what} have collapsed" in run.output and f"criterion.{key}=10" in run.output
        assert "Traceback" not in run.output


def test_validation_of_pretraining_survives_a_batch_without_a_readable_clip(tmp_path: Path) -> None:
    audio = tmp_path / "audio"
    lines = write_clips(audio, 6)
    write_manifest(tmp_path, audio, lines)
    for index in range(3):
        (audio / f"bad{index}.wav").write_text("no audio at all")
    for name, sound in (("valid", 6), ("none", 0)):
        listed = [*lines[:sound], *(f"bad{index}.wav\t8000" for index in range(3))]
        (tmp_path / f"{name}.tsv").write_text("\n".join([str(audio), *listed]) + "\n")
    given = (
        f"task.data={tmp_path}",
        "dataset.disable_validation=false",
        "dataset.batch_size=1",
        "optimization.max_update=6",
    )
    run = train("pretraining_AS2M", *TINY, *given, f"checkpoint.save_dir={tmp_path}/run", "task.max_skipped=0.5")
    assert run.output.count("clip skipped") == 3 and "Traceback" not in run.output
    found = re.search(r"\[valid\]\[INFO\] - (\{.*\})", run.output)
    assert found is not None and 0 < float(json.loads(found[1])["valid_loss"]) < 1e4
    run = refused(tmp_path / "strict", *given, "task.max_skipped=0.3")
    assert "3 of 9 clips could not be read, more than task.max_skipped=0.3 allows" in run.output
    run = refused(tmp_path / "all", *given, "dataset.valid_subset=none", "task.max_skipped=0.9")
    assert "3 of 3 clips could not be read, more than task.max_skipped=0.9 allows" in run.output
