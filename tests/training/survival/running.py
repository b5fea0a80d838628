"""Training runs that tests watch while they go on, and disturb."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from ...fairseq_runs import TINY, Run, start

PRECISIONS = {"bf16": ("common.bf16=true",), "float32": ("common.bf16=false",)}
SMALLEST = (
    *TINY,
    *PRECISIONS["bf16"],
    "model.embed_dim=16",
    "model.num_heads=2",
    "model.clone_batch=1",
    "model.decoder_width=16",
    "model.decoder_layers=1",
    "task.target_length=64",
    "dataset.batch_size=4",
    "lr_scheduler.lr_period_updates=1000",
)
"""What makes an update as quick as it gets, in the recipes' precision."""


class LiveRun:
    """A run of fairseq-hydra-train in a process group of its own, whose lines can be waited for."""

    def __init__(self, *overrides: str, config: str = "pretraining_AS2M", preexec: Callable[[], Any] | None = None):
        self.process = start(config, *overrides, preexec=preexec)
        self.lines: list[str] = []
        self._arrived: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._arrived.put(line)
        self._arrived.put(None)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def wait_for(self, pattern: str, timeout: float = 120) -> str:
        """The next line that ``pattern`` is found in; fails when the run ends or the time is over before."""
        end = time.monotonic() + timeout
        while True:
            line = self._arrived.get(timeout=max(0.01, end - time.monotonic()))
            assert line is not None, f"ended before {pattern!r}: {self.output[-3000:]}"
            self.lines.append(line)
            if re.search(pattern, line):
                return line

    def wait_for_updates(self, count: int) -> None:
        for _ in range(count):
            self.wait_for(r"\[train_inner\]")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the run and all processes that it started."""
        os.killpg(self.process.pid, number)

    def finish(self, timeout: float = 120) -> Run:
        """Wait for the run's end."""
        end = time.monotonic() + timeout
        try:
            while (line := self._arrived.get(timeout=max(0.01, end - time.monotonic()))) is not None:
                self.lines.append(line)
            return Run(self.process.wait(timeout=max(0.01, end - time.monotonic())), self.output)
        finally:
            self.close()

    def close(self) -> None:
        """End the run if it is still there."""
        if self.process.poll() is None:
            self.kill()
            self.process.wait()


def losses(output: str) -> dict[int, float]:
    """The loss after each update that a log has whole; the last one, where a run was resumed and repeated some."""
    found = re.findall(r"\[train_inner\]\[INFO\] - (\{.*\})\n", output)
    lines = [json.loads(line) for line in found]
    return {int(line["num_updates"]): float("nan" if line["loss"] is None else line["loss"]) for line in lines}


def final(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoint_last.pt", weights_only=True)["model"]


def assert_same_end(folder: Path, reference: Path) -> None:
    one, other = final(folder), final(reference)
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-6, atol=1e-8)


def write_noise(folder: Path, count: int) -> list[str]:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        soundfile.write(folder / f"{index}.wav", rng.normal(size=8000) * 0.1, 16000)
    return [f"{index}.wav\t8000" for index in range(count)]
