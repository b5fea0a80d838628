"""Which item each DataLoader worker is on, so that the death of one can be explained."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import time
from collections.abc import Callable, Iterator

import torch
from torch.utils.data import get_worker_info

from ..errors import DataError

MAX_WORKERS = 1024
"""Workers of one data set that are kept account of."""


class WorkerWatch:
    """Notes in shared memory what a DataLoader's workers are on; made before they start."""

    def __init__(self) -> None:
        # For each worker its process id and, from 1 on, the item it is on: what is known when it dies.
        self._reading = torch.zeros((MAX_WORKERS, 2), dtype=torch.int64).share_memory_()

    @contextlib.contextmanager
    def on(self, item: int) -> Iterator[None]:
        """Let others know that this worker is on ``item``; in the main process nothing is noted."""
        self._note(item + 1)
        yield
        self._note(0)

    def _note(self, item: int) -> None:
        worker = get_worker_info()
        if worker is None or worker.id >= MAX_WORKERS:
            return
        self._reading[worker.id, 0] = os.getpid()
        self._reading[worker.id, 1] = item

    def explain_crash(self, error: str, name: Callable[[int], str], advice: str) -> str:
        """What a worker was on when it died, in one sentence.

        Args:
            error: what PyTorch's DataLoader says about it, which names the process by its id.
            name: an item's name.
            advice: what to do if that item is at fault.
        """
        named = {int(number) for number in re.findall(r"pid\D*(\d+)", error)}
        noted = [(process, item - 1) for process, item in self._reading.tolist() if item > 0]
        for _ in range(50):  # a dying process lets go of its connections a moment before it is gone
            alive = {process.pid for process in multiprocessing.active_children()} - named
            on = [item for process, item in noted if process not in alive]
            if on or named:
                break
            time.sleep(0.1)
        doing = " and ".join(name(item) for item in on) or "no clip"
        how = re.search(r"killed by signal: [^.]*", error)
        return (
            f"a DataLoader worker ended unexpectedly ({how.group() if how else 'no signal is known'}) while it "
            f"was on {doing}; {advice}, and if memory ran out lower the number of workers "
            "(dataset.num_workers, or --num-workers)."
        )


@contextlib.contextmanager
def explained(explain_crash: Callable[[str], str]) -> Iterator[None]:
    """The death of a DataLoader worker becomes a DataError, in the words of ``explain_crash``."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(explain_crash(str(error))) from None
