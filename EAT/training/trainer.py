"""fairseq's trainer, whose updates then neither wait for a GPU nor talk to other devices more than once.

What an update depends on stays with it: the sample size, which holes change, and whether gradients are finite, numbers
on the device that optimiser and teacher go by. What the host must know, whether to stop, to save, to give up, it reads
when the next update has been started. What is only logged is added up on the device, and reduced over devices once for
each line of the log.

On a CPU, where nothing is waited for, the host reads immediately.
"""

from __future__ import annotations

import functools
import math
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from fairseq.logging import metrics
from fairseq.logging.progress_bar import WandBProgressBarWrapper
from fairseq.trainer import Trainer
from torch import Tensor

from .clip_task import ClipTask
from .fairseq_support import reports_user_errors

SIGNALS = ("told_to_stop", "save_due")
"""What one process says for all of them."""


class SampleSize:
    """What gradients are divided by, on the device; where it is 0 they are 0 too, and divided by 1."""

    def __init__(self, size: Tensor) -> None:
        self.size = torch.where(size == 0, torch.ones_like(size), size)

    def __bool__(self) -> bool:
        return True  # nobody waits for it

    def __rtruediv__(self, above: float) -> Tensor:
        return above / self.size


class News(NamedTuple):
    """Of one update, for the host."""

    update: int
    sent: float
    """When, on the clock that ``saved_at`` of the task is on."""
    numbers: Tensor
    """Signals, the processes' training time in seconds, the gradients' norm; on the way to the host."""
    arrived: Any
    """The event after which they are there; None where they are."""
    counts: dict[str, float]
    """What is logged of this update and known to the host already."""

    def read(self) -> list[float]:
        """The numbers, once they have arrived."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.numbers.tolist()


class EATTrainer(Trainer):
    """:class:`fairseq.trainer.Trainer`, which differs for the tasks of this package alone."""

    late: bool | None = None
    """Whether the host reads an update late; None: on a GPU."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ours = isinstance(self.task, ClipTask)
        if self.late is None or not self._ours:
            self.late = self._ours and self.device.type == "cuda"
        self._agreed: Tensor | None = None
        self._norm: Tensor | None = None
        self._known_norm = torch.zeros(())
        self._news: News | None = None
        self._names: list[tuple[str, torch.Size]] = []
        self._sums: Tensor | None = None
        self._counts: dict[str, float] = {}

    @property
    def _several(self) -> bool:
        return self.data_parallel_world_size > 1

    def _number(self, value: Any) -> Tensor:
        """A number on the device, without a copy that is waited for."""
        if isinstance(value, Tensor):
            return value.detach().to(self.device, torch.float64).reshape(())
        return torch.full((), float(value), dtype=torch.float64, device=self.device)

    def train_step(self, samples: Any, raise_oom: bool = False) -> Any:
        """Forward, backward and update."""
        metrics.log_speed("clips_per_s", 0.0, priority=90, round=2)  # starts its clock
        return super().train_step(samples, raise_oom)

    def valid_step(self, sample: Any, raise_oom: bool = False) -> Any:
        """Forward and what is logged of it."""
        metrics.log_speed("clips_per_s", 0.0, priority=90, round=2)
        return super().valid_step(sample, raise_oom)

    def _sync_stats(self) -> bool:
        return super()._sync_stats() or (bool(self.late) and not self.cfg.optimization.use_bmuf)

    def _aggregate_logging_outputs(self, logging_outputs: Any, *sums: Any, ignore: bool = False) -> Any:
        """Agree on an update's sample size and signals, in one collective; what is logged stays here."""
        if len(sums) != 3 or not self._ours:  # validation
            return super()._aggregate_logging_outputs(logging_outputs, *sums, ignore=ignore)
        size, out_of_memory, seconds = sums
        if ignore:
            logging_outputs = [{key: value * 0 for key, value in log.items()} for log in logging_outputs]
        signals = [sum(log.get(name, 0.0) for log in logging_outputs) for name in SIGNALS]
        self._agreed = torch.stack([self._number(value) for value in (size, *signals, seconds)])
        if self._several:
            dist.all_reduce(self._agreed, group=self.data_parallel_process_group)
        known = (self._cumulative_training_time or 0.0) * self.data_parallel_world_size
        return logging_outputs, (SampleSize(self._agreed[0].float()), out_of_memory, known)

    def clip_grad_norm(self, clip_norm: float) -> Any:
        """Clip gradients to a norm; the host gets to know the norm before it, one update late."""
        if not self.late or getattr(self.optimizer, "scaler", None) is not None:
            self._norm = None
            return super().clip_grad_norm(clip_norm)
        self._norm = self.optimizer.clip_grad_norm(clip_norm).float()
        self.task.skip_where((~torch.isfinite(self._norm)).float(), self.optimizer)
        return self._known_norm

    def _check_grad_norms(self, grad_norm: Any) -> None:
        if self._norm is None:
            super()._check_grad_norms(grad_norm)

    @reports_user_errors
    def _reduce_and_log_stats(self, logging_outputs: Any, sample_size: Any, grad_norm: Any = None) -> Any:
        """Keep what is to be logged of an update, and log at the interval's end."""
        if grad_norm is None or self.cfg.common.amp or not self._ours:
            return super()._reduce_and_log_stats(logging_outputs, sample_size, grad_norm)
        metrics.log_speed("ups", 1.0, priority=100, round=2)
        if self.task.nonfinite.skip:  # known already
            self.task.nonfinite.skip = False
            self._tell(0.0, logging_outputs, {})
        else:
            norm = grad_norm if self._norm is None else self._norm
            self._keep(norm, logging_outputs)
        if self.get_num_updates() % self.cfg.common.log_interval == 0:
            self.flush()
        return {}

    def _keep(self, norm: Any, logging_outputs: list[dict[str, Any]]) -> None:
        """Add an update's logs to those before it, unless its gradients are not finite."""
        counts: dict[str, float] = {"updates": 1.0 / self.data_parallel_world_size}
        values: dict[str, Tensor] = {"gnorm": self._number(norm)}
        values["clip"] = 100.0 * (values["gnorm"] > self.cfg.optimization.clip_norm)
        for name in logging_outputs[0]:
            value = sum(log[name] for log in logging_outputs if name in log)
            if isinstance(value, Tensor):
                values[name] = value.detach()
            elif name not in SIGNALS:
                counts[name] = value
        self._names = [(name, value.shape) for name, value in values.items()]
        vector = torch.cat([value.reshape(-1).double() for value in values.values()])
        if self._norm is not None:
            vector = torch.where(torch.isfinite(self._norm), vector, 0.0)
        self._sums = vector if self._sums is None else self._sums.add_(vector)
        self._tell(norm, logging_outputs, counts)

    def _tell(self, norm: Any, logging_outputs: list[dict[str, Any]], counts: dict[str, float]) -> None:
        """Send an update's news to the host, which reads those of the one before; or this one's, where none is late."""
        if self._agreed is None:
            signals = [sum(log.get(name, 0.0) for log in logging_outputs) for name in SIGNALS]
            agreed = torch.stack([self._number(value) for value in (*signals, 0.0)])
        else:
            agreed = self._agreed[1:]
        sent = torch.cat([agreed, self._number(norm)[None]])
        arrived = None
        if sent.device.type == "cuda":
            sent = torch.empty(sent.shape, dtype=sent.dtype, pin_memory=True).copy_(sent, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        before, self._news = self._news, News(self.get_num_updates(), time.monotonic(), sent, arrived, counts)
        if before is not None:
            self._hear(before)
        if not self.late:
            self.hear()

    def hear(self) -> None:
        """Read what is still on its way."""
        if self._news is not None:
            news, self._news = self._news, None
            self._hear(news)

    def _hear(self, news: News) -> None:
        *signals, seconds, norm = news.read()
        told_to_stop, save_due = (asked > 0 for asked in signals)
        self.task.told_to_stop |= told_to_stop
        self.task.save_due |= save_due and news.sent > self.task.saved_at  # or it was asked for before it was done
        if self._several:
            self._cumulative_training_time = seconds / self.data_parallel_world_size
        watch = self.task.nonfinite
        if math.isfinite(norm):
            self._known_norm = torch.tensor(norm)
            for name, value in news.counts.items():
                self._counts[name] = self._counts.get(name, 0.0) + value
            if self._norm is not None:
                watch.passed()
        else:
            watch.failed(news.update, None)
            watch.skip = False  # the device has skipped it

    def flush(self) -> None:
        """Log what was kept, of all devices in one collective."""
        if not self._ours:
            return
        self.hear()
        if self._sums is None or not self._counts:
            metrics.log_scalar("nonfinite", self.task.nonfinite.total, weight=0, priority=800)
            metrics.log_scalar("loss", float("nan"), weight=0)  # shown only where nothing else was logged
            return
        counts = torch.tensor(list(self._counts.values()), dtype=torch.float64)
        sums = torch.cat([self._sums, counts.to(self.device)])
        if self._several:
            dist.all_reduce(sums, group=self.data_parallel_process_group)
        parts = sums.cpu().split([shape.numel() for _, shape in self._names] + [1] * len(counts))
        shapes = [*self._names, *((name, torch.Size()) for name in self._counts)]
        log: dict[str, Any] = {name: part.view(shape) for (name, shape), part in zip(shapes, parts, strict=True)}
        self._sums, self._counts = None, {}
        updates = log["updates"].item()
        several = updates * self.data_parallel_world_size
        metrics.log_scalar("gnorm", log.pop("gnorm") / several, updates, priority=400, round=3)
        clipped = log.pop("clip") / several
        if self.cfg.optimization.clip_norm > 0:
            metrics.log_scalar("clip", clipped, updates, priority=500, round=1)
        super()._reduce_and_log_stats([log], log.get("sample_size"))

    def consolidate_optimizer(self) -> None:
        """Be ready for a checkpoint, which holds all that has happened."""
        self.hear()
        super().consolidate_optimizer()


def _logs_all(original: Callable[..., Any]) -> Callable[..., Any]:
    """Without it, what follows the last line of an epoch's log would be missing from the epoch's own line.

    It is part of the next line too, which is of as many updates as any other.
    """

    @functools.wraps(original)
    def validate_and_save(
        cfg: Any, trainer: EATTrainer, task: Any, epoch_itr: Any, valid_subsets: Any, end_of_epoch: bool
    ) -> Any:
        if end_of_epoch or trainer.get_num_updates() >= (cfg.optimization.max_update or float("inf")):
            with metrics.aggregate("train_inner"):
                trainer.flush()
        return original(cfg, trainer, task, epoch_itr, valid_subsets, end_of_epoch)

    return validate_and_save


def _as_numbers(original: Callable[..., Any]) -> Callable[..., Any]:
    """Without it, W&B would get no loss where figures are logged in full (``common.log_format=json``): as tensors."""

    @functools.wraps(original)
    def log_to_wandb(self: Any, stats: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        numbers = {key: value.item() if isinstance(value, Tensor) else value for key, value in stats.items()}
        original(self, numbers, *args, **kwargs)

    return log_to_wandb


def install() -> None:
    """Have the command line train with it, once."""
    entry: Any = sys.modules.get("fairseq_cli.train")
    if entry is not None and entry.Trainer is not EATTrainer:
        entry.Trainer = EATTrainer
        entry.validate_and_save = _logs_all(entry.validate_and_save)
        tracker: Any = WandBProgressBarWrapper
        tracker._log_to_wandb = _as_numbers(tracker._log_to_wandb)
