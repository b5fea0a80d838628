"""Writing checkpoints while training continues: what is to be written is copied, and a thread does the rest."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.utils import apply_to_sample

from ...errors import CheckpointError

logger = logging.getLogger("EAT")

RETRY_SECONDS = 60.0
"""After a checkpoint could not be written, training continues for so long before the next attempt."""


def copied(state: Any) -> Any:
    """``state`` with every tensor copied into memory of its own on the CPU, half precision widened to float32."""

    def copy(tensor: torch.Tensor) -> torch.Tensor:
        half = tensor.dtype in (torch.bfloat16, torch.float16)
        return tensor.detach().to("cpu", torch.float32 if half else tensor.dtype, copy=True)

    return apply_to_sample(copy, state)


class FrozenRun:
    """A run's trainer and place in the epoch at one moment, as far as fairseq's ``save_checkpoint`` asks for them.

    Args:
        trainer: fairseq's.
        epoch_itr: fairseq's iterator over epochs.
    """

    should_save_checkpoint_on_current_rank = True

    def __init__(self, trainer: Any, epoch_itr: Any) -> None:
        self.task = self
        self.data_parallel_rank = trainer.data_parallel_rank
        self.checkpoint_suffix = trainer.checkpoint_suffix
        self.epoch = epoch_itr.epoch
        self.named = threading.Event()
        """Set when fairseq has worked out under which names the checkpoint goes."""
        self.named_at = 0.0
        self._updates = trainer.get_num_updates()
        self._at_end = epoch_itr.end_of_epoch()
        self._place = epoch_itr.state_dict()
        self._kept_by_task = trainer.task.get_checkpoint_dict()
        self._state = copied(trainer.state_dict())

    def consolidate_optimizer(self) -> None:
        """The trainer did, before its state was copied."""

    def get_num_updates(self) -> int:
        """Updates that were made."""
        return self._updates

    def end_of_epoch(self) -> bool:
        """Whether no batch was left."""
        return self._at_end

    def state_dict(self) -> dict[str, Any]:
        """The place in the epoch."""
        return self._place

    def get_checkpoint_dict(self) -> dict[str, Any]:
        """What the task keeps."""
        return self._kept_by_task

    def release(self) -> None:
        """Let training continue."""
        self.named_at = self.named_at or time.monotonic()
        self.named.set()

    def save_checkpoint(self, filename: str, extra_state: dict[str, Any]) -> str:
        """Write the trainer's state."""
        self.release()
        self._state["extra_state"].update(extra_state)
        checkpoint_utils.torch_persistent_save(self._state, filename)
        return filename


class Writer:
    """Writes one checkpoint at a time in a thread. The process does not end before it is whole, unless it is killed."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self.failed_at: float | None = None
        """When the newest checkpoint could not be written; None where it could."""

    def begin(self, freeze: Callable[[], FrozenRun], save: Callable[[FrozenRun], str | None]) -> None:
        """Freeze a run and have it written; first wait until the checkpoint before is.

        Args:
            freeze: copies the run's state.
            save: writes it; returns the file, None where there was nothing to write.
        """
        begun = time.monotonic()
        self.wait()
        frozen = freeze()
        self._writing = self._pool.submit(self._write, frozen, save, begun)
        frozen.named.wait()  # what fairseq does before, such as with NumPy's random numbers, training does as well

    def _write(self, frozen: FrozenRun, save: Callable[[FrozenRun], str | None], begun: float) -> None:
        updates = frozen.get_num_updates()
        try:
            path = save(frozen)
        except (CheckpointError, OSError) as error:
            self.failed_at = time.monotonic()
            logger.error(
                f"no checkpoint after {updates} updates: {error} The run continues, and tries again in "
                f"{RETRY_SECONDS:g} s or when the next one is due."
            )
        else:
            if path is not None:
                self.failed_at = None
                logger.info(
                    f"saved {path} after {updates} updates; training stood still for {frozen.named_at - begun:.2f} s, "
                    f"all of it took {time.monotonic() - begun:.2f} s"
                )
        finally:
            frozen.release()

    def wait(self) -> None:
        """Wait until what was begun is written or has failed. Raises what else came up on the way."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()
