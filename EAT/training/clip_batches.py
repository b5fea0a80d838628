"""Batches of an epoch, and the place in it where a run resumes, with any number of devices and clips a batch."""

from __future__ import annotations

import logging
import signal
import threading
import zlib
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

import numpy as np
from fairseq.data.data_utils import numpy_seed
from fairseq.data.iterators import CountingIterator, EpochBatchIterator, ShardedIterator
from torch.utils.data._utils.signal_handling import _error_if_any_worker_fails

from ..errors import ConfigError
from .fairseq_support import reports_user_errors
from .prefetching import Prefetched, Send

logger = logging.getLogger("EAT")


class ClipBatches(EpochBatchIterator):
    """Fairseq's iterator, with its place in an epoch as the clips that were heard, not as batches of a device.

    An epoch is cut into batches and these are shuffled when it begins. Batch ``i`` goes to device ``i mod devices``, so
    that as many clips an update are the same clips, however devices, batches and accumulation share them out. Where a
    batch has another size than when the epoch began, the epoch's rest is cut anew, in the same order.

    Args:
        plain: fairseq's iterator, which was not used yet.
        update_freq: batches of a device that make an update, by epoch; the last holds from there on.
        timeout: seconds that a batch of DataLoader workers is waited for before TimeoutError is raised; 0: for ever.
        send: sends batches ahead to the device; None leaves them where they are. A batch counts as heard once it is
            taken, not when it is sent.
    """

    def __init__(
        self, plain: EpochBatchIterator, update_freq: Sequence[int], timeout: float = 0.0, send: Send | None = None
    ) -> None:
        self.__dict__.update(plain.__dict__)
        self.update_freq = update_freq
        self.longest_wait = timeout if self.num_workers > 0 else 0.0
        self.send = send
        self.resumed: tuple[int, int, int] | None = None
        """Epoch, clips a batch when it began, and clips heard of it before this run."""
        self.start = 0
        """Batches of a device that this run counts from."""
        self.left: Sequence[Any] = ()
        """All devices' batches from there to the epoch's end."""

    def in_order(self, epoch: int, shuffle: bool, batch_size: int) -> list[Any]:
        """All devices' batches of an epoch that begins in batches of so many clips."""
        batches = list(self.frozen_batches)
        if batch_size != self.clips_a_batch:
            batches = _cut(np.concatenate(batches), batch_size)
        if shuffle:
            with numpy_seed(self.seed + epoch):
                np.random.shuffle(batches)
        return batches

    @property
    def clips_a_batch(self) -> int:
        """How many, on one device."""
        return len(self.frozen_batches[0])

    def ordered_batches(self, epoch: int, fix_batches_to_gpus: bool, shuffle: bool) -> list[Any]:
        """This device's batches of an epoch; of one that is resumed, empty ones stand for those before."""
        if self.resumed is None or self.resumed[0] != epoch:
            self.resumed, self.start = (epoch, self.clips_a_batch, 0), 0
            self.left = self.in_order(epoch, shuffle, self.clips_a_batch)
        mine = ShardedIterator(self.left, self.num_shards, self.shard_id, fill_value=[])
        return [[]] * self.start + list(mine)

    def state_dict(self) -> dict[str, Any]:
        """Fairseq's, and inside an epoch ``clips`` heard of it, ``batch_size`` when it began, and its ``order``."""
        state = super().state_dict()
        if not state["iterations_in_epoch"] or self.resumed is None:
            return state
        epoch, batch_size, before = self.resumed
        heard = self.left[: (self.n - self.start) * self.num_shards]
        order = _checksum(self.in_order(epoch, self.shuffle, batch_size))
        return {**state, "clips": before + sum(map(len, heard)), "batch_size": batch_size, "order": order}

    @reports_user_errors
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state. One of an earlier release has ``devices`` and ``batch_size`` of its run instead.

        Raises:
            ConfigError: where the epoch has other clips by now, or has them in another order.
        """
        taken = state_dict["iterations_in_epoch"]
        if not taken:
            super().load_state_dict(state_dict)
            return
        epoch, shuffle = state_dict["epoch"], state_dict["shuffle"]
        began_with = state_dict.get("batch_size") or self.clips_a_batch
        self.epoch = epoch
        batches = self.in_order(epoch, shuffle, began_with)
        ends = np.cumsum([len(batch) for batch in batches])
        devices = state_dict.get("devices") or self.num_shards
        heard = state_dict["clips"] if "clips" in state_dict else int(ends[min(taken * devices, len(ends)) - 1])
        if state_dict.get("order", _checksum(batches)) != _checksum(batches) or heard >= ends[-1]:
            raise ConfigError(
                f"the run stopped inside epoch {epoch}, after {heard:,} of its clips, and this epoch has other clips "
                "now, or has them in another order: the manifest, common.seed or the sampling weights were changed. "
                "Set them back, or set checkpoint.reset_dataloader=true to continue with a new first epoch."
            )
        if began_with == self.clips_a_batch and heard in ends:
            self.left = batches[int(np.searchsorted(ends, heard)) + 1 :]
        else:
            logger.info(
                f"epoch {epoch} began in batches of {began_with} clips a device and continues, after {heard:,} clips, "
                f"in batches of {self.clips_a_batch}"
            )
            self.left = _cut(np.concatenate(batches)[heard:], self.clips_a_batch)
        frequency = self.update_freq[min(epoch, len(self.update_freq)) - 1]
        clips_an_update = self.clips_a_batch * self.num_shards * frequency
        self.start = frequency * -(-heard // clips_an_update)  # whole updates, which fairseq counts in
        self.resumed = (epoch, began_with, heard)
        self._next_epoch_itr = self._get_iterator_for_epoch(epoch, shuffle, offset=self.start)

    def back_to_update(self) -> None:
        """Give back batches that were taken for an update that does not have all of its batches yet."""
        taken = self._cur_epoch_itr
        if taken is not None:
            taken.n -= taken.n % self.update_freq[min(self.epoch, len(self.update_freq)) - 1]

    def _get_iterator_for_epoch(self, *args: Any, **kwargs: Any) -> CountingIterator | None:
        counting = super()._get_iterator_for_epoch(*args, **kwargs)
        if counting is not None:
            counting._itr = AwaitedBatches(counting._itr, self.longest_wait)
            if self.send is not None:
                counting._itr = Prefetched(counting._itr, self.send)  # below what counts
        return counting


class AwaitedBatches:
    """A DataLoader's batches. The death of one of its workers is raised while a batch is waited for, and only then.

    PyTorch raises it from a signal, wherever the main thread is just then: between new parameters and their count, or
    in logging, which prints it and forgets it. Its own timeout does not hold once a worker has begun to hand over.

    Args:
        batches: the DataLoader's iterator.
        timeout: seconds that a batch is waited for before TimeoutError is raised; 0: for ever.
    """

    waiting = False
    """Of all of a process's."""

    def __init__(self, batches: Iterator[Any], timeout: float = 0.0) -> None:
        self.batches = batches
        self.timeout = timeout
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, self._child_ended)
            signal.signal(signal.SIGALRM, self._time_is_up)

    @staticmethod
    def _child_ended(number: int, frame: FrameType | None) -> None:
        if AwaitedBatches.waiting:
            _error_if_any_worker_fails()

    @staticmethod
    def _time_is_up(number: int, frame: FrameType | None) -> None:
        if AwaitedBatches.waiting:
            raise TimeoutError("no batch came from the DataLoader workers")

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        AwaitedBatches.waiting = True
        try:
            _error_if_any_worker_fails()  # before
            if self.timeout > 0:
                signal.setitimer(signal.ITIMER_REAL, self.timeout)
            return next(self.batches)
        finally:
            AwaitedBatches.waiting = False
            if self.timeout > 0:
                signal.setitimer(signal.ITIMER_REAL, 0)


def _cut(clips: np.ndarray, batch_size: int) -> list[np.ndarray]:
    return [clips[first : first + batch_size] for first in range(0, len(clips), batch_size)]


def _checksum(batches: Sequence[Any]) -> int:
    """What tells one epoch's order of clips from another's."""
    return zlib.crc32(np.concatenate(batches).astype(np.int64).tobytes())
