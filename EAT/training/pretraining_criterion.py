"""The criterion ``utterance_frame``: a weighted sum of the terms in :data:`EAT.network.objective.TERMS` (method 6)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics

from ..errors import TrainingError
from ..network.objective import TERMS, WATCHED
from ..network.settings import choose, setting
from .fairseq_support import reports_user_errors, unwrap

GUARDED_FROM = 5000
"""Updates before the collapse guards watch."""
GUARDS = {"target_std": ("targets", "min_target_var"), "prediction_std": ("predictions", "min_pred_var")}
"""Watched quantities that can end a run: what they are of, and the setting below which they must not fall."""


@dataclass
class UtteranceFrameConfig(FairseqDataclass):
    """Settings of the criterion ``utterance_frame``."""

    utterance_weight: float = setting(
        192.0,
        "weight on the mean utterance loss. The published objective sums it over a device's clones, so that its weight "
        "changes with the batch; 192 is what 12 clips of 16 clones amount to",
    )
    weights: dict[str, float] = field(
        default_factory=dict, metadata={"help": "weights of further terms by name, or of 'frame', which has 1"}
    )
    min_target_var: float = setting(0.0, "stop when the targets' standard deviation falls below this; 0 is off")
    min_pred_var: float = setting(0.0, "stop when the predictions' standard deviation falls below this; 0 is off")


@register_criterion("utterance_frame", dataclass=UtteranceFrameConfig)
class UtteranceFrameCriterion(FairseqCriterion):
    """loss = frame loss + utterance_weight * mean utterance loss + the further terms that have a weight."""

    @reports_user_errors
    def __init__(self, task: Any, cfg: UtteranceFrameConfig) -> None:
        super().__init__(task)
        self.cfg = cfg
        self.weights = {"frame": 1.0, "utterance": cfg.utterance_weight, **cfg.weights}
        for name in self.weights:
            choose(TERMS, name, "a term in criterion.weights")
        self.updates = 0

    def forward(
        self, model: torch.nn.Module, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[torch.Tensor, int, dict[str, Any]]:
        """The objective of a batch, times its number of clips, by which fairseq divides again.

        Clips thus weigh the same however they are spread over devices and accumulated batches.
        """
        core, clips = unwrap(model), len(sample["clips"])
        lengths = sample.get("lengths")
        frames = None if lengths is None else self.task.front_end.real_frames(lengths)
        batch = core.draw(sample["filterbank"], sample["clips"], frames, seed=sample["seed"], epoch=sample["epoch"])
        outcome = model(batch, tuple(self.weights))
        terms = torch.stack([weight * outcome.terms[name] for name, weight in self.weights.items()])
        loss = terms.sum()
        self.updates = core.num_updates
        masked, visible = batch.masks.masked.shape[-1], batch.masks.visible.shape[-1]
        logged = {
            "loss": loss.detach(),
            **{f"{name}_loss": value.detach() for name, value in outcome.terms.items()},
            "ema_decay": core.teacher.decay(core.num_updates + 1),
            "masked_fraction": masked / (masked + visible),
        }
        logging_output = {key: value * clips for key, value in logged.items()} | outcome.watched
        return loss * clips, clips, {**logging_output, "nsentences": clips, "sample_size": clips}

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], decimals: int | None = None) -> None:  # type: ignore[override]
        """Log what :meth:`forward` gave, over devices and accumulated batches; in full unless ``decimals``.

        Raises:
            TrainingError: where a watched quantity has fallen below its guard.
        """
        clips = sum(log.get("sample_size", 0) for log in logging_outputs)
        terms = (f"{name}_loss" for name in self.weights)
        for key in ("loss", *terms, "ema_decay", "masked_fraction"):
            total = sum(log.get(key, 0.0) for log in logging_outputs)
            metrics.log_scalar(key, total / max(clips, 1), clips, round=decimals)
        for name, watched in WATCHED.items():
            value = watched.value(sum(log[name] for log in logging_outputs if name in log))
            metrics.log_scalar(name, value, clips, round=decimals)
            if self.training and self.updates >= GUARDED_FROM and name in GUARDS:
                self.guard(*GUARDS[name], value)

    def guard(self, what: str, key: str, value: torch.Tensor) -> None:
        """Raise TrainingError where ``value`` is below the setting ``key``; 0 asks nothing of the device."""
        least = getattr(self.cfg, key)
        if least > 0 and float(value) < least:
            raise TrainingError(
                f"after {self.updates} updates the {what} have collapsed: their standard deviation {float(value):.4g} "
                f"is below criterion.{key}={least:g}; lower the learning rate or lengthen the warm-up."
            )

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Every entry is a sum over clips, or a vector of sums."""
        return True
