"""Clips of a manifest as a data set of batches: read, cropped, and turned into filterbanks."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from ..audio import as_waveform, decode
from ..errors import ConfigError, DataError
from ..front_end import FrontEnd
from ..reading import within
from .manifest import Manifest

CROPS = ("start", "random")
FRONT_ENDS = ("device", "workers")
MAX_WORKERS = 1024
"""Reading processes of one data set that are kept account of."""


class ClipDataset(Dataset):
    """Reads clips; a clip that cannot be read becomes an entry in its batch's ``skipped``, never an exception.

    Args:
        manifest: which clips.
        front_end: length and normalisation.
        crop: what to keep of a clip longer than that: its ``start``, or a ``random`` part that follows from
            (seed, epoch, clip).
        where: where filterbanks are computed: by the ``workers``, or by whoever trains, batched on the ``device``,
            which leaves decoding and resampling alone to the workers.
        seed: of the run.
        read_timeout: seconds after which a clip that is still being read is given up as unreadable; 0: never.
    """

    def __init__(
        self,
        manifest: Manifest,
        front_end: FrontEnd,
        crop: str = "start",
        where: str = "device",
        seed: int = 1,
        read_timeout: float = 60.0,
    ) -> None:
        if crop not in CROPS:
            raise ConfigError(f"task.crop is {crop!r}; it must be one of {', '.join(CROPS)}.")
        if where not in FRONT_ENDS:
            raise ConfigError(f"task.front_end is {where!r}; it must be one of {', '.join(FRONT_ENDS)}.")
        self.manifest = manifest
        self.front_end = front_end
        self.crop = crop
        self.where = where
        self.seed = seed
        # In shared memory, so that worker processes that live from epoch to epoch see it change.
        self._epoch = torch.ones((), dtype=torch.int64).share_memory_()
        # For each reading process its id and, from 1 on, the clip it is on: what is known when it dies.
        self._reading = torch.zeros((MAX_WORKERS, 2), dtype=torch.int64).share_memory_()
        if read_timeout < 0:
            raise ConfigError(f"task.read_timeout is {read_timeout}; it is a number of seconds, 0 for no limit.")
        self.read_timeout = read_timeout

    @property
    def epoch(self) -> int:
        """The epoch whose random choices are made now."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Make the random choices of ``epoch`` from now on, in worker processes too."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.manifest)

    def rng(self, index: int, stream: int) -> np.random.Generator:
        """Random numbers that follow from (seed, epoch, clip, stream) alone."""
        return np.random.default_rng((self.seed, self.epoch, index, stream))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``{index, waveform (samples,)}`` of one clip, or ``{index, error}``."""
        index = int(index)
        self._note(index + 1)
        item = self._read(index)
        self._note(0)
        return item

    def _read(self, index: int) -> dict[str, Any]:
        position = self.rng(index, stream=0).random() if self.crop == "random" else 0.0
        try:
            # Finding the file may hang as well as reading it.
            excerpt = within(
                self.read_timeout,
                self.manifest.name(index),
                lambda: decode(self.manifest.source(index), self.front_end.samples, position),
            )
            waveform = as_waveform(excerpt)
        except DataError as error:
            return {"index": index, "error": str(error)}
        except MemoryError:
            return {"index": index, "error": f"{self.manifest.name(index)} needs more memory to decode than there is."}
        return {"index": index, "waveform": waveform}

    def _note(self, clip: int) -> None:
        """Let others know which clip this reading process is on, from 1 on; 0 for none."""
        worker = get_worker_info()
        if worker is None or worker.id >= MAX_WORKERS:
            return
        if int(self._reading[worker.id, 0]) != os.getpid():
            self._reading[worker.id, 0] = os.getpid()
            _leave_signals_to_parent()
        self._reading[worker.id, 1] = clip

    def blame(self, error: str) -> str:
        """What a reading process was on when it died, in one sentence.

        Args:
            error: what PyTorch's data loader says about it, which names the process by its id.
        """
        named = {int(number) for number in re.findall(r"pid\D*(\d+)", error)}
        noted = [(process, clip - 1) for process, clip in self._reading.tolist() if clip > 0]
        for _ in range(50):  # a dying process lets go of its connections a moment before it is gone
            alive = {process.pid for process in multiprocessing.active_children()} - named
            on = [clip for process, clip in noted if process not in alive]
            if on or named:
                break
            time.sleep(0.1)
        doing = " and ".join(self.manifest.source(clip) for clip in on) or "no clip"
        how = re.search(r"killed by signal: [^.]*", error)
        return (
            f"a process that reads clips ended unexpectedly ({how.group() if how else 'no signal is known'}) while it "
            f"was on {doing}; if that file is damaged remove it from {self.manifest.path}, and if memory ran out lower "
            "the number of such processes (dataset.num_workers, or --num-workers)."
        )

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Join clips into a batch.

        Returns:
            ``clips``: their numbers; ``epoch``; ``skipped``: a (number, reason) for each clip that could not be read;
            and, unless all were skipped, either ``filterbank`` (B, 1, target_length, 128), or ``waveforms``
            (B, samples) and ``lengths`` (B,) for :func:`batch_filterbank`.
        """
        skipped = [(item["index"], item["error"]) for item in items if "error" in item]
        items = [item for item in items if "error" not in item]
        batch: dict[str, Any] = {
            "clips": [item["index"] for item in items],
            "epoch": self.epoch,
            "skipped": skipped,
        }
        if items:
            lengths = torch.tensor([len(item["waveform"]) for item in items])
            waveforms = torch.zeros(len(items), int(lengths.max()))
            for row, item in zip(waveforms, items, strict=True):
                row[: len(item["waveform"])] = item["waveform"]
            if self.where == "workers":
                batch["filterbank"] = self.front_end(waveforms, lengths)
            else:
                # As integers, because trainers convert every float tensor of a batch to half precision on its way to
                # the device, and a waveform must not be.
                batch["waveforms"], batch["lengths"] = waveforms.view(torch.int32), lengths
        return batch


def _leave_signals_to_parent() -> None:
    """Ignore in a reading process the signals that its parent answers; a job's signals reach all of its processes.

    The data loader gave the process handlers of its own that are not Python's.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1):
        if callable(signal.getsignal(number)) and signal.getsignal(number) is not signal.default_int_handler:
            signal.signal(number, signal.SIG_IGN)


def batch_filterbank(batch: dict[str, Any], front_end: FrontEnd) -> Tensor:
    """The filterbank of a batch from :meth:`ClipDataset.collate`, on its device: (B, 1, target_length, 128)."""
    if "filterbank" in batch:
        return batch["filterbank"]
    with torch.no_grad():
        return front_end(batch["waveforms"].view(torch.float32), batch["lengths"])
