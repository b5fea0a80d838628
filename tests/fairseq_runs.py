"""Runs of the real fairseq-hydra-train, as a user starts them, and what their logs say."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .conftest import ROOT
from .tiny import NETWORK, ON_A_CPU, model
from .warm_starts import WarmRun, can_start

COMMAND = Path(sys.executable).with_name("fairseq-hydra-train")
TINY = (
    *ON_A_CPU,
    "common.log_format=json",
    "distributed_training.distributed_world_size=1",
    *model(NETWORK),
    "task.target_length=128",
    "lr_scheduler.warmup_updates=2",
)
"""Size overrides that make any pre-training recipe run in seconds."""


@dataclass
class Run:
    """A finished run."""

    status: int
    output: str

    @property
    def lines(self) -> list[dict[str, float]]:
        """The logged statistics, one dictionary for each logging interval."""
        found = re.findall(r"\[train_inner\]\[INFO\] - (\{.*\})", self.output)
        return [{k: float(v) for k, v in json.loads(line).items() if v is not None} for line in found]

    def values(self, key: str) -> list[float]:
        return [line[key] for line in self.lines]


def arguments(config: str, *overrides: str) -> list[str]:
    return [str(COMMAND), "--config-dir", "config", "--config-name", config, "common.user_dir=EAT", *overrides]


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1", **extra}


def start(config: str, *overrides: str, preexec: Callable[[], Any] | None = None) -> subprocess.Popen[str] | WarmRun:
    """Begin a run from the repository's root, in a session of its own."""
    command, variables = arguments(config, *overrides), environment()
    if preexec is None and can_start(variables):
        return WarmRun(command, str(ROOT), variables)
    return subprocess.Popen(
        command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, preexec_fn=preexec,
    )  # fmt: skip


def train(config: str, *overrides: str, expect: int | None = 0, timeout: float = 240) -> Run:
    """Run a training command from the repository's root; fails unless it ends with status ``expect``."""
    process = start(config, *overrides)
    output, _ = process.communicate(timeout=timeout)
    status = process.wait()
    assert expect is None or status == expect, output[-4000:]
    return Run(status, output)


def train_distributed(
    config: str, world_size: int, *overrides: str, expect: int = 0, timeout: float = 240
) -> list[Run]:
    """Run one process for each rank over gloo; fails unless each ends with status ``expect``, returns their runs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [
        start(
            config,
            *overrides,
            f"distributed_training.distributed_world_size={world_size}",
            f"distributed_training.distributed_rank={rank}",
            f"distributed_training.distributed_init_method=tcp://127.0.0.1:{port}",
            "distributed_training.distributed_no_spawn=true",
            "distributed_training.distributed_backend=gloo",
            "distributed_training.ddp_backend=legacy_ddp",
        )
        for rank in range(world_size)
    ]
    runs = []
    try:
        for process in ranks:
            output, _ = process.communicate(timeout=timeout)
            runs.append(Run(process.wait(), output))
    finally:
        for process in ranks:
            process.kill()
    assert all(run.status == expect for run in runs), runs[0].output[-3000:] + runs[-1].output[-3000:]
    return runs
