"""Signals to a whole job: it ends as it should, whatever its DataLoader workers are doing."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ...conftest import ROOT
from ...fairseq_runs import Run, environment
from .running import SMALLEST, LiveRun

pytestmark = pytest.mark.faults

UPDATES = 1000
"""More than any of these runs gets to."""


def signalled(number: int, manifest: Path, folder: Path, *overrides: str) -> Run:
    """A run whose every process gets a signal after three updates."""
    run = LiveRun(
        *SMALLEST,
        f"task.data={manifest}",
        f"checkpoint.save_dir={folder}",
        f"optimization.max_update={UPDATES}",
        *overrides,
    )
    try:
        run.wait_for_updates(3)
        run.kill(number)
        return run.finish()
    finally:
        run.close()


def test_a_signal_reaches_reading_processes_that_have_nothing_to_read(clip_manifest: Path, tmp_path: Path) -> None:
    two_batches_an_epoch = ("dataset.num_workers=4", "dataset.batch_size=62")
    stopped = signalled(signal.SIGTERM, clip_manifest, tmp_path, *two_batches_an_epoch)
    assert stopped.status == 75 and "unexpectedly" not in stopped.output, stopped.output[-2000:]


def test_ctrl_c_ends_in_a_sentence(clip_manifest: Path, tmp_path: Path) -> None:
    stopped = signalled(signal.SIGINT, clip_manifest, tmp_path, "dataset.num_workers=2")
    assert stopped.status == 130 and "Traceback" not in stopped.output, stopped.output[-3000:]
    assert f"Nothing was saved in {tmp_path} yet, so the same command starts anew." in stopped.output
    saving = signalled(signal.SIGINT, clip_manifest, tmp_path, "checkpoint.save_interval_updates=1")
    assert f"The same command resumes from the last checkpoint in {tmp_path}." in saving.output


def test_sigterm_is_answered_at_once_in_the_midst_of_a_long_operation() -> None:
    """Handlers in Python wait for the end of an operation in C++, here one of some seconds; the sentence does not."""
    script = (
        "import logging, sys, torch\n"
        "from EAT.training.survival.stopping import stop\n"
        "logging.basicConfig(format='%(message)s', stream=sys.stdout)\n"
        "stop.install()\n"
        "x = torch.ones(4000, 4000)\n"
        "print('ready', flush=True)\n"
        "x @ x @ x @ x\n"
        "torch.linalg.svdvals(x[:2000, :2000] + torch.eye(2000))\n"
        "print('over', bool(stop), flush=True)\n"
    )
    variables = {**environment(), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=variables, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    lines = process.communicate(timeout=120)[0].splitlines()
    assert lines == ["SIGTERM was heard; the run saves and stops when this update is done", "over True"]
