"""Memory and open files stay flat over thousands of updates with many checkpoints."""

from __future__ import annotations

import statistics
from pathlib import Path

import psutil
import pytest

from .conftest import FIGURES
from .running import SMALLEST, LiveRun

pytestmark = pytest.mark.faults

UPDATES, CHECKPOINTS_EVERY, FLAT_FROM = 2000, 50, 200


def measured(run: LiveRun) -> tuple[float, int]:
    """MB resident and files open, over the run and the processes that read for it."""
    run_itself = psutil.Process(run.process.pid)
    family = [run_itself, *run_itself.children(recursive=True)]
    # What a process shares with others is counted in each, which is the same at any time.
    return sum(p.memory_info().rss for p in family) / 1e6, sum(p.num_fds() for p in family)


def test_two_thousand_updates(clip_manifest: Path, tmp_path: Path) -> None:
    run = LiveRun(
        *SMALLEST,
        f"task.data={clip_manifest}",
        f"checkpoint.save_dir={tmp_path}",
        f"checkpoint.save_interval_updates={CHECKPOINTS_EVERY}",
        f"optimization.max_update={UPDATES}",
        f"common.log_interval={CHECKPOINTS_EVERY}",
        "dataset.num_workers=1",
        "dataset.batch_size=2",
    )
    samples: list[tuple[float, int]] = []
    try:
        for _ in range(UPDATES // CHECKPOINTS_EVERY - 1):  # the last line comes with the run's end
            run.wait_for_updates(1)
            samples.append(measured(run))
        done = run.finish()
    finally:
        run.close()
    assert done.status == 0, done.output[-2000:]
    flat = samples[FLAT_FROM // CHECKPOINTS_EVERY - 1 :]
    memory, files = [sample[0] for sample in flat], [sample[1] for sample in flat]
    first, last = memory[: len(memory) // 3], memory[-len(memory) // 3 :]
    growth = sum(last) / len(last) - sum(first) / len(first)
    FIGURES.append(
        f"soak: {UPDATES} updates, {UPDATES // CHECKPOINTS_EVERY} checkpoints; from update {FLAT_FROM} on memory "
        f"{min(memory):.0f} to {max(memory):.0f} MB, its mean {growth:+.1f} MB from the first third to the last; open "
        f"files {min(files)} to {max(files)}"
    )
    assert growth < 0.02 * memory[0]
    # Medians, since a save that is under way has files of its own: one file more every third checkpoint would be seen.
    assert statistics.median(files[len(files) // 2 :]) <= statistics.median(files[: len(files) // 2]) + 2
    assert len(list(tmp_path.glob("*.pt"))) == 4  # last, previous and the two of keep_interval_updates
