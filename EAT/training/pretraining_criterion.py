"""The criterion ``utterance_frame``: EAT's objective (method section 6)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics

from ..errors import TrainingError
from .fairseq_support import unwrap

GUARDED_FROM = 5000
"""Updates before the collapse guards watch."""


@dataclass
class UtteranceFrameConfig(FairseqDataclass):
    """Settings of the criterion ``utterance_frame``."""

    utterance_weight: float = field(
        default=192.0,
        metadata={
            "help": "weight on the mean utterance loss. The published objective sums it over a device's clones, so "
            "that its weight changes with the batch; 192 is what 12 clips of 16 clones amount to"
        },
    )
    min_target_var: float = field(
        default=0.0, metadata={"help": "stop when the targets' standard deviation falls below this; 0 is off"}
    )
    min_pred_var: float = field(
        default=0.0, metadata={"help": "stop when the predictions' standard deviation falls below this; 0 is off"}
    )


@register_criterion("utterance_frame", dataclass=UtteranceFrameConfig)
class UtteranceFrameCriterion(FairseqCriterion):
    """loss = frame loss + utterance_weight * mean utterance loss."""

    LOGGED = (
        "loss",
        "frame_loss",
        "utterance_loss",
        "prediction_deviation",
        "target_deviation",
        "ema_decay",
        "masked_share",
    )

    def __init__(self, task: Any, cfg: UtteranceFrameConfig) -> None:
        super().__init__(task)
        self.cfg = cfg

    def forward(
        self, model: torch.nn.Module, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[torch.Tensor, int, dict[str, Any]]:
        """The objective of a batch, times its number of clips, by which fairseq divides again.

        Clips thus weigh the same however they are spread over devices and accumulated batches.
        """
        output = model(sample["filterbank"], sample["clips"], seed=sample["seed"], epoch=sample["epoch"])
        clips = len(sample["clips"])
        loss = output.frame_loss + self.cfg.utterance_weight * output.utterance_loss
        updates = unwrap(model).num_updates
        if self.training and updates >= GUARDED_FROM:
            self.guard("targets", output.target_deviation, self.cfg.min_target_var, "min_target_var", updates)
            self.guard("predictions", output.prediction_deviation, self.cfg.min_pred_var, "min_pred_var", updates)
        logged = {
            "loss": loss.detach(),
            "frame_loss": output.frame_loss.detach(),
            "utterance_loss": output.utterance_loss.detach(),
            "prediction_deviation": output.prediction_deviation,
            "target_deviation": output.target_deviation,
            "ema_decay": unwrap(model).config.teacher.decay(updates + 1),
            "masked_share": output.masked_share,
        }
        logging_output = {key: value * clips for key, value in logged.items()}
        return loss * clips, clips, {**logging_output, "nsentences": clips, "sample_size": clips}

    @staticmethod
    def guard(what: str, deviation: torch.Tensor, least: float, key: str, updates: int) -> None:
        """Raise TrainingError where ``deviation`` is below ``least``; 0 asks nothing of the device."""
        if least > 0 and float(deviation) < least:
            raise TrainingError(
                f"after {updates} updates the {what} have collapsed: their standard deviation {float(deviation):.4g} "
                f"is below criterion.{key}={least:g}; lower the learning rate or lengthen the warm-up."
            )

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]], decimals: int | None = None) -> None:
        """Average over devices and accumulated batches, each clip weighing the same; in full unless ``decimals``."""
        clips = sum(log.get("sample_size", 0) for log in logging_outputs)
        for key in cls.LOGGED:
            total = sum(log.get(key, 0.0) for log in logging_outputs)
            metrics.log_scalar(key, total / max(clips, 1), clips, round=decimals)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Every entry is a sum over clips."""
        return True
