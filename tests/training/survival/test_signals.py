"""Signals to a whole job: it ends as it should, whatever its DataLoader workers are doing."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from ...fairseq_runs import Run
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
    # Tests started in a shell's background ignore Ctrl-C, and so would what they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    stopped = signalled(signal.SIGINT, clip_manifest, tmp_path, "dataset.num_workers=2")
    assert stopped.status == 130 and "Traceback" not in stopped.output, stopped.output[-3000:]
    assert f"resumes from the last checkpoint in {tmp_path}" in stopped.output
