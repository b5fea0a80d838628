"""The demo, as a newcomer runs it."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import EAT
from EAT.commands import prepare
from EAT.commands.demo import GUARDS, MADE
from EAT.pictures.run_logs import read_log, read_run

from .conftest import CLIPS, ROOT
from .fairseq_runs import train


@pytest.mark.slow
def test_the_demo_does_what_it_says(tmp_path: Path) -> None:
    demo = tmp_path / "demo"
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "demo.sh")],
        env={**os.environ, "DEMO": str(demo), "EAT_VENV": sys.prefix},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "Traceback" not in done.stdout and "warning: " not in done.stdout
    for made in MADE:
        assert (demo / made).exists(), made

    pretraining = read_run(demo / "pretraining")
    assert pretraining["frame_loss"][-1] < 0.8 * pretraining["frame_loss"][0]
    assert pretraining["utterance_loss"][-1] < pretraining["utterance_loss"][0]
    assert re.search(r"Predictions explain [2-9]\d% of what the position leaves", done.stdout)  # says the watch

    compared = (demo / "comparison.txt").read_text()
    assert compared in done.stdout
    found = {name: [int(value) for value in re.findall(r"(\d+) \[", row)] for name, row in
             re.findall(r"^([a-z][\w\-,' ]+?)  +(\d.*)$", compared, re.MULTILINE)}  # fmt: skip
    assert list(found) == ["spectrogram's statistics", "network, untrained", "network, pre-trained",
                           "fine-tuned from scratch", "fine-tuned from pre-training"]  # fmt: skip
    assert found["network, pre-trained"][0] >= found["network, untrained"][0] + 5  # fifteen, seen
    assert found["network, pre-trained"][0] > found["spectrogram's statistics"][0]
    assert found["fine-tuned from pre-training"][0] > 1.5 * 100 / 6
    accuracies = [float(value) for value in re.findall(r"^fold\d: accuracy ([\d.]+)", done.stdout, re.MULTILINE)]
    logged = [read_log(demo / "finetuning" / f"fold{fold}")["eval"]["accuracy"][-1] for fold in (1, 2, 3)]
    assert accuracies == pytest.approx(logged, abs=1e-4)
    assert found["fine-tuned from pre-training"] == [round(100 * np.mean(accuracies))]  # folds of equal size

    sizes = [
        (model.embed_dim, model.depth, model.encoder.settings.num_heads, model.encoder.settings.patch_size)
        for model in (
            EAT.load(demo / name / "checkpoint_last.pt")
            for name in ("pretraining", "finetuning/fold1", "from_scratch/fold1")
        )
    ]
    assert sizes[0] == sizes[1] == sizes[2]
    features = list((demo / "features").rglob("*.npy"))
    assert len(features) == 36 and all(np.load(feature).shape == (128,) for feature in features)


@pytest.mark.slow
def test_a_teacher_that_moves_too_fast_is_stopped_by_its_guards(tmp_path: Path) -> None:
    """The demo's recipe as it was: its targets turned into a table of positions while the losses fell."""
    assert prepare.main(["folder", str(CLIPS), str(tmp_path), "--unlabelled", "--eval", "0", "--num-workers", "0"]) == 0
    run = train(
        "pretraining_demo", "common.log_format=json", f"task.data={tmp_path}", f"checkpoint.save_dir={tmp_path}/run",
        "model.ema_decay=0.95", "model.ema_end_decay=0.995", "optimization.lr=[6e-4]", *GUARDS, expect=1,
    )  # fmt: skip
    assert "of the targets' variance is a function of the position alone" in run.output
    (updates,) = map(int, re.findall(r"after (\d+) updates", run.output.splitlines()[-1]))
    assert 200 <= updates < 400


def test_its_families_are_equally_many_clips_that_are_there() -> None:
    with (
        open(ROOT / "data" / "families.csv", newline="") as table,
        open(ROOT / "data" / "clips.csv", newline="") as all,
    ):
        chosen = {row["file"]: row["family"] for row in csv.DictReader(table)}
        families = {row["file"]: row["family"] for row in csv.DictReader(all)}
    assert set(Counter(chosen.values()).values()) == {9} and len(set(chosen.values())) == 6
    assert chosen.items() <= families.items()
