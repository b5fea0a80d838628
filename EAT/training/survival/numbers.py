"""Updates whose gradients are not finite: skipped, counted, and a reason to stop when they do not end."""

from __future__ import annotations

import logging
from typing import Any

from ...errors import ConfigError, TrainingError

logger = logging.getLogger("EAT")


class NonfiniteUpdates:
    """Keeps account of skipped updates. Every process sees the same reduced gradients, so all of them agree.

    Args:
        max_in_row: stop when so many updates in a row were skipped.
    """

    def __init__(self, max_in_row: int) -> None:
        if max_in_row < 1:
            raise ConfigError(f"task.max_nonfinite is {max_in_row}; it must be at least 1.")
        self.max_in_row = max_in_row
        self.total = 0
        self.in_row = 0
        self.skip = False
        """Whether the update that is being made must leave student and teacher as they are."""

    def passed(self) -> None:
        """The gradients of this update are finite."""
        self.skip, self.in_row = False, 0

    def failed(self, update: int, loss_scale: float | None) -> None:
        """The gradients of this update are not finite.

        Args:
            update: its number.
            loss_scale: what losses are scaled by in float16, already lowered; None without scaling.

        Raises:
            TrainingError: when too many updates in a row were skipped.
        """
        self.skip = True
        self.total += 1
        if loss_scale is not None and loss_scale >= 1:
            logger.info(f"update {update} is skipped: float16 overflowed; the loss scale is now {loss_scale:g}")
            return
        self.in_row += 1
        logger.warning(f"update {update} is skipped: its gradients are not finite ({self.total} so far)")
        if self.in_row >= self.max_in_row:
            raise TrainingError(
                f"the gradients of {self.in_row} updates in a row, up to update {update}, were not finite, as many as "
                "task.max_nonfinite allows; lower optimization.lr or optimization.clip_norm, lengthen "
                "lr_scheduler.warmup_updates, or train with common.bf16=true or in float32 instead of common.fp16."
            )

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"total": self.total, "in_row": self.in_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.total, self.in_row = int(state["total"]), int(state["in_row"])
