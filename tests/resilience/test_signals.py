"""Signals to a whole job: it ends as it should, whatever its reading processes are doing."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from .running import SMALLEST, LiveRun

pytestmark = pytest.mark.faults

UPDATES = 1000
"""More than any of these runs gets to."""


def test_a_signal_reaches_reading_processes_that_have_nothing_to_read(clip_manifest: Path, tmp_path: Path) -> None:
    run = LiveRun(
        *SMALLEST,
        f"task.data={clip_manifest}",
        f"checkpoint.save_dir={tmp_path}",
        "dataset.num_workers=4",
        "dataset.batch_size=62",  # two batches an epoch
        f"optimization.max_update={UPDATES}",
    )
    try:
        run.wait_for_updates(3)
        run.kill(signal.SIGTERM)
        stopped = run.finish()
    finally:
        run.close()
    assert stopped.status == 75 and "unexpectedly" not in stopped.output, stopped.output[-2000:]


def test_ctrl_c_ends_in_a_sentence(clip_manifest: Path, tmp_path: Path) -> None:
    run = LiveRun(
        *SMALLEST,
        f"task.data={clip_manifest}",
        f"checkpoint.save_dir={tmp_path}",
        "dataset.num_workers=2",
        f"optimization.max_update={UPDATES}",
    )
    try:
        run.wait_for_updates(3)
        run.kill(signal.SIGINT)
        stopped = run.finish()
    finally:
        run.close()
    assert stopped.status == 130 and "Traceback" not in stopped.output, stopped.output[-3000:]
    assert f"goes on from the last checkpoint in {tmp_path}" in stopped.output
