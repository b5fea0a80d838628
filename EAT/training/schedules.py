"""The learning-rate schedule ``eat_cosine``; :data:`RATES` has the shapes that it can take."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fairseq.dataclass import FairseqDataclass
from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler
from omegaconf import II

from ..errors import ConfigError
from ..network.rates import floored_cosine
from ..network.settings import choose, setting
from .fairseq_support import reports_user_errors


@dataclass
class ScheduleConfig(FairseqDataclass):
    """Settings of the schedule ``eat_cosine``."""

    shape: str = setting("cosine", "how the learning rate moves over the run")
    warmup_updates: int = setting(0, "updates of the linear warm-up")
    warmup_init_lr: float = setting(0.0, "learning rate at its start")
    min_lr: float = setting(0.0, "learning rate at the end; of 'floored_cosine', the least one anywhere")
    lr_period_updates: float = setting(-1, "length of the descent; -1: from the end of the warm-up to max_update")
    lr: list[float] = II("optimization.lr")
    max_update: int = II("optimization.max_update")


def cosine(cfg: ScheduleConfig, updates: int) -> float:
    """Linear from ``warmup_init_lr`` to the peak, half a cosine down to ``min_lr``, then constant."""
    peak = cfg.lr[0]
    if updates < cfg.warmup_updates:
        return cfg.warmup_init_lr + updates * ((peak - cfg.warmup_init_lr) / cfg.warmup_updates)
    period = cfg.lr_period_updates if cfg.lr_period_updates > 0 else cfg.max_update - cfg.warmup_updates
    end, done = min(cfg.min_lr, peak), min(updates - cfg.warmup_updates, period)
    return end + 0.5 * (peak - end) * (1 + math.cos(math.pi * done / period))


def floored(cfg: ScheduleConfig, updates: int) -> float:
    """:func:`EAT.network.rates.floored_cosine`: a descent to 0 that ``min_lr`` cuts off."""
    period = cfg.lr_period_updates if cfg.lr_period_updates > 0 else cfg.max_update - cfg.warmup_updates
    return floored_cosine(updates, cfg.lr[0], cfg.min_lr, cfg.warmup_updates, int(period))


RATES: dict[str, Callable[[ScheduleConfig, int], float]] = {"cosine": cosine, "floored_cosine": floored}
"""The choices of ``lr_scheduler.shape``: learning rate of the update that follows so many."""


@register_lr_scheduler("eat_cosine", dataclass=ScheduleConfig)
class Schedule(FairseqLRScheduler):
    """Sets the learning rate before each update."""

    @reports_user_errors
    def __init__(self, cfg: ScheduleConfig, optimizer: Any) -> None:
        super().__init__(cfg, optimizer)
        if cfg.lr_period_updates <= 0 and cfg.warmup_updates >= cfg.max_update:
            raise ConfigError(
                f"lr_scheduler.warmup_updates is {cfg.warmup_updates} but the run has only optimization.max_update="
                f"{cfg.max_update} updates; the warm-up must be shorter."
            )
        if len(cfg.lr) > 1:
            raise ConfigError(f"optimization.lr is {list(cfg.lr)}; this schedule takes one learning rate.")
        self.rate = choose(RATES, cfg.shape, "lr_scheduler.shape")
        self.step_update(0)

    def step(self, epoch: int, val_loss: float | None = None) -> float:
        """An epoch changes nothing."""
        super().step(epoch, val_loss)
        return self.optimizer.get_lr()

    def step_update(self, num_updates: int) -> float:
        """Set the learning rate for the update after ``num_updates``."""
        self.optimizer.set_lr(self.rate(self.cfg, num_updates))
        return self.optimizer.get_lr()
