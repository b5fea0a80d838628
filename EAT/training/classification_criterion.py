"""The criterion ``classification``: a loss of :mod:`EAT.network.classification_losses`, by name (method section 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics

from ..errors import ConfigError
from ..network.classification_losses import LOSSES, SINGLE_LABEL_LOSSES
from ..network.settings import setting
from .fairseq_support import reports_user_errors


@dataclass
class ClassificationCriterionConfig(FairseqDataclass):
    """Settings of the criterion ``classification``."""

    loss: str = setting("bce_per_positive", f"one of {', '.join(LOSSES)}")
    label_smoothing: float = setting(0.0, "fraction of each target that is spread over all classes")
    class_weights: str | None = setting(
        None, "what each class's terms of the loss are multiplied by: 'balanced', or a file in the data folder"
    )


@register_criterion("classification", dataclass=ClassificationCriterionConfig)
class ClassificationCriterion(FairseqCriterion):
    """Loss of a batch, as a sum and the number that fairseq divides the sum over all devices and batches by."""

    logits: torch.Tensor
    """(B, classes) of the newest batch, or (B, T, classes)."""
    heard: torch.Tensor
    """(B, T), which of the newest batch's time steps begin with audio, where they have labels of their own."""

    @reports_user_errors
    def __init__(self, task: Any, cfg: ClassificationCriterionConfig) -> None:
        super().__init__(task)
        if cfg.loss not in LOSSES:
            raise ConfigError(f"criterion.loss is {cfg.loss!r}; it must be one of {', '.join(LOSSES)}.")
        if not 0.0 <= cfg.label_smoothing < 1.0:
            raise ConfigError(f"criterion.label_smoothing is {cfg.label_smoothing}; it must lie in [0, 1).")
        if cfg.loss in SINGLE_LABEL_LOSSES and task.multi_label:
            raise ConfigError(
                f"criterion.loss={cfg.loss} needs clips with one label each; set task.labels=single, or another loss."
            )
        self.loss = LOSSES[cfg.loss]
        self.label_smoothing = cfg.label_smoothing
        # No buffer, which training in half precision would round.
        self.class_weights: torch.Tensor | None = task.class_weights(cfg.class_weights)

    def forward(
        self, model: torch.nn.Module, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor | int, dict[str, Any]]:
        """The loss of a batch that holds ``filterbank`` (B, 1, frames, mel bins) and ``targets`` (B, classes).

        Of targets (B, T, classes) time steps that begin with audio count, each as a clip does.
        """
        clips = len(sample["clips"])  # the rows behind them fill holes
        targets = sample["targets"][:clips].float()
        if targets.ndim == 3:
            logits = model(sample["filterbank"], steps=True)[:clips]
            begins = torch.arange(logits.shape[1], device=logits.device) * (
                sample["filterbank"].shape[2] // logits.shape[1]
            )
            self.heard = begins < sample["frames"][:clips, None].to(logits.device)
            judged = logits[self.heard], targets[self.heard]
        else:
            logits = model(sample["filterbank"])[:clips]
            judged = logits, targets
        self.logits = logits.detach()
        if self.class_weights is not None:
            self.class_weights = self.class_weights.to(logits.device)
        loss, sample_size = self.loss(*judged, self.label_smoothing, self.class_weights)
        logging_output = {
            "loss": loss.detach(),
            "sample_size": sample_size,
            "nsentences": clips,
        }
        return loss, sample_size, logging_output

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]], decimals: int | None = None) -> None:
        """The loss over devices and accumulated batches, sum by sum; logged to ``decimals``, or in full."""
        loss, sample_size = (sum(log[key] for log in logging_outputs) for key in ("loss", "sample_size"))
        # A number or a tensor on the device, which a comparison with 0 in an "if" would wait for.
        metrics.log_scalar("loss", loss / (sample_size + (sample_size == 0)), sample_size, round=decimals)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Every entry is a sum."""
        return True
