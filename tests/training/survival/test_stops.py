"""A run that is stopped again and again, in every way, on one process and on two, ends as if nothing had happened.

``bash scripts/long_checks.sh`` stops it thirty times.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from pathlib import Path

import psutil
import pytest
import torch

from .conftest import FIGURES
from .running import SMALLEST, LiveRun, final
from .test_processes import ranks

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif("EAT_STOPS" not in os.environ, reason="takes long; scripts/long_checks.sh runs it"),
]

STOPS = int(os.environ.get("EAT_STOPS", "4"))
UPDATES_A_STOP = 50
"""Of a twentieth of a second each: more than pass between two stops."""
ALIKE = ("common.bf16=true", "task.crop=random", "dataset.num_workers=2", "checkpoint.save_interval_updates=4")
"""Of all runs; with :func:`start` so are the clips of an update, 2 processes of 2 or one of 2 twice."""


def start(folder: Path, data: Path, updates: int, processes: int, room: int | None = None) -> list[LiveRun]:
    """Start a run on one process or two; with ``room``, no file may grow beyond so many bytes."""
    given = (*ALIKE, f"optimization.max_update={updates}")
    if processes == 2:
        return ranks(folder, data, *given)
    limit = None if room is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    alone = ("dataset.batch_size=2", "optimization.update_freq=[2]")
    where = (f"task.data={data}", f"checkpoint.save_dir={folder}")
    return [LiveRun(*SMALLEST, *where, *alone, *given, preexec=limit)]


def disturb(runs: list[LiveRun], how: str) -> None:
    """Stop a run."""
    if how == "kill":
        for run in runs:
            run.kill()
    elif how == "term":
        for run in runs:
            os.kill(run.process.pid, signal.SIGTERM)
    elif how == "worker":
        children = psutil.Process(runs[-1].process.pid).children(recursive=True)
        for child in children[:1]:
            child.kill()


def test_stops_at_random_moments_change_nothing(clip_manifest: Path, tmp_path: Path) -> None:
    updates = STOPS * UPDATES_A_STOP
    whole = start(tmp_path / "whole", clip_manifest, updates, 2)
    expected = [run.finish(timeout=60 + 2 * updates) for run in whole]
    assert [run.status for run in expected] == [0, 0], expected[0].output[-3000:]

    rng, seen = random.Random(STOPS), []
    ways = ["kill", "term", "worker", "full disk"] * -(-STOPS // 4)
    rng.shuffle(ways)
    for _number, how in enumerate(ways[:STOPS]):
        processes = 1 if how == "full disk" else rng.choice([1, 2])
        room = 200_000 if how == "full disk" else None
        runs = start(tmp_path / "run", clip_manifest, updates, processes, room)
        try:
            runs[0].wait_for_updates(rng.randint(1, 13))
            time.sleep(rng.random())
            disturb(runs, how)
            if how == "full disk":  # it goes on without checkpoints, until it is killed
                disturb(runs, "kill")
            ended = [run.finish(timeout=120) for run in runs]
        finally:
            for run in runs:
                run.close()
        seen.append(f"{how} on {processes}")
        if how == "term":
            assert {run.status for run in ended} <= {0, 75}, ended[0].output[-3000:]
        for run in ended:
            assert "Traceback" not in run.output, run.output[-3000:]
    last = [run.finish(timeout=60 + 2 * updates) for run in start(tmp_path / "run", clip_manifest, updates, 1)]
    assert last[0].status == 0, last[0].output[-3000:]
    one, other = final(tmp_path / "run"), final(tmp_path / "whole")
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), f"{name} differs after {', '.join(seen)}"
    FIGURES.append(f"stops: {STOPS} in {updates} updates ({', '.join(seen)}), bit-equal to the uninterrupted run")
