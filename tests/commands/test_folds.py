"""``python -m EAT.train --folds``: a cross-validation by one command, and what is printed of a run."""

from __future__ import annotations

import csv
import logging
import os
import pty
import re
import statistics
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from EAT.commands import prepare
from EAT.commands.train import main
from EAT.training.console import Console

from ..conftest import CLIPS, ROOT
from ..fairseq_runs import environment
from ..tiny import ENCODER, ON_A_CPU, model


def start(data: Path, save: Path, *more: str, **streams: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "EAT.train", "--config-name", "finetuning_folder", *ON_A_CPU, *model(ENCODER)]
    command += [f"task.data={data}", f"checkpoint.save_dir={save}", "task.target_length=64", *more]
    command += ["lr_scheduler.warmup_updates=1", "common.log_interval=2", "dataset.validate_interval=1"]
    return subprocess.run(command, cwd=ROOT, env=environment(), text=True, timeout=240, **(streams or PIPES))


PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


@pytest.mark.slow
def test_folds_are_trained_on_judged_and_summed_up(tmp_path: Path) -> None:
    data, save = tmp_path / "data", tmp_path / "run"
    table = ROOT / "data" / "clips.csv"
    command = ["folder", str(CLIPS), str(data), "--labels", str(table), "--label-column", "family", "--folds", "2"]
    assert prepare.main([*command, "--normalization-clips", "5", "--num-workers", "0"]) == 0
    done = start(data, save, "--folds", "optimization.max_update=6")
    assert done.returncode == 0, done.stderr[-3000:]
    with open(save / "folds.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["fold"] for row in rows] == ["fold1", "fold2"] and sum(int(row["clips"]) for row in rows) == 124
    accuracies = [float(row["accuracy"]) for row in rows]
    mean, deviation = statistics.fmean(accuracies), statistics.stdev(accuracies)
    assert f"2 folds, checkpoint_last.pt of each, mean ± standard deviation: accuracy {mean:.4f}" in done.stdout
    assert f" ± {deviation:.4f}, balanced accuracy " in done.stdout
    # The last validation of a run and the evaluation of its last checkpoint agree.
    validated = re.findall(r"^eval after 6 updates: loss [\d.]+, accuracy ([\d.]+), ", done.stdout, re.MULTILINE)
    assert [float(value) for value in validated] == pytest.approx(accuracies, abs=1e-4)
    # Short lines, nothing of fairseq's; the log file has it all.
    assert re.search(r"^update 4 of 6: loss [\d.]+, [\d.e+]+ clips/s, \d+ s left$", done.stdout, re.MULTILINE)
    said = done.stdout + done.stderr
    assert not re.search(r"\[INFO\]|train_inner|Warning|hydra\.|DEBUG|INFO:", said), said
    (log,) = save.glob("fold1/hydra/*/*.log")
    assert "[train_inner][INFO]" in log.read_text() and "begin validation" in log.read_text()

    screen, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 120))
    verbose = start(data / "fold1", save / "fold1", "-v", "optimization.max_update=6")  # finished, so it ends at once
    assert "[EAT][INFO] - the run in" in verbose.stdout and "is finished, with 6 updates" in verbose.stdout
    more = start(data / "fold1", save / "fold1", "optimization.max_update=8", stdout=subprocess.PIPE, stderr=terminal)
    shown = os.read(screen, 1 << 16).decode()
    os.close(terminal)
    assert more.returncode == 0 and re.search(r"training: 100%.* 8/8 \[.*update.*loss ", shown), shown
    assert "update 8" not in more.stdout and "eval after 8 updates: " in more.stdout


def test_folds_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--folds", f"task.data={tmp_path}"]
    assert main(["--config-name", "finetuning_folder", *arguments]) == 2
    assert "has no folders fold1, fold2" in capsys.readouterr().err
    assert main(["--config-name", "pretraining_demo", *arguments]) == 2
    assert "--folds needs a recipe that fine-tunes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "level", "text", "line"),
    [
        ("train_inner", logging.INFO, "epoch 001:      2 / 5 loss=0.5, clips_per_s=12.5, num_updates=20",
         "update 20 of 1,000: loss 0.5, 12.5 clips/s"),
        ("train_inner", logging.INFO, '{"epoch": 1, "loss": 0.25, "clips_per_s": "3", "num_updates": "30"}',
         "update 30 of 1,000: loss 0.25, 3 clips/s"),
        ("eval", logging.INFO, "epoch 001 | valid on 'eval' subset | loss 2 | mAP 0.4 | AUC 0.9 | clips_per_s 9 | "
         "bsz 8 | num_updates 30 | best_mAP 0.5",
         "eval after 30 updates: loss 2.0000, mAP 0.4000, AUC 0.9000, mAP at best 0.5000"),
        ("train", logging.INFO, "epoch 001 | loss 2 | num_updates 30", None),
        ("fairseq.trainer", logging.INFO, "begin training epoch 1", None),
        ("fairseq.trainer", logging.WARNING, "OOM: ran out", "warning: OOM: ran out"),
        ("EAT", logging.INFO, "clip skipped", "clip skipped"),
        ("EAT", logging.ERROR, "no room", "error: no room"),
    ],
)  # fmt: skip
def test_a_record_s_line(name: str, level: int, text: str, line: str | None) -> None:
    record = logging.LogRecord(name, level, "file", 1, text, None, None)
    assert Console(total=1000).line(record) == line
