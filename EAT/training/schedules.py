"""The schedule ``eat_cosine``: fairseq's cosine with linear warm-up, checked before it divides by zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fairseq.optim.lr_scheduler import register_lr_scheduler
from fairseq.optim.lr_scheduler.cosine_lr_scheduler import CosineLRSchedule, CosineLRScheduleConfig

from ..errors import ConfigError
from .fairseq_support import reports_user_errors


@dataclass
class WarmupCosineConfig(CosineLRScheduleConfig):
    """Settings of the schedule ``eat_cosine``."""


@register_lr_scheduler("eat_cosine", dataclass=WarmupCosineConfig)
class WarmupCosine(CosineLRSchedule):
    """Linear from ``warmup_init_lr`` over ``warmup_updates``, half a cosine down to ``min_lr``, then constant."""

    @reports_user_errors
    def __init__(self, cfg: WarmupCosineConfig, optimizer: Any) -> None:
        if cfg.lr_period_updates <= 0 and cfg.warmup_updates >= cfg.max_update:
            raise ConfigError(
                f"lr_scheduler.warmup_updates is {cfg.warmup_updates} but the run has only optimization.max_update="
                f"{cfg.max_update} updates; the warm-up must be shorter."
            )
        super().__init__(cfg, optimizer)

    def step_update(self, num_updates: int) -> float:
        """Set the learning rate for the update after ``num_updates``; fairseq's own would begin a second cosine."""
        if num_updates >= self.warmup_updates + self.period:
            self.lr = self.cfg.min_lr
            self.optimizer.set_lr(self.lr)
            return self.lr
        return super().step_update(num_updates)
