"""The criterion ``utterance_frame``: a weighted sum of the terms in :data:`EAT.network.objective.TERMS` (method 6)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics

from ..errors import TrainingError
from ..network.masking import Masks
from ..network.objective import TERMS, WATCHED
from ..network.settings import choose, setting
from .fairseq_support import reports_user_errors, unwrap


class Guard(NamedTuple):
    """What ends a run."""

    key: str
    """The setting that bounds a watched quantity, from above where it begins with ``max_``; 0 is off."""
    meaning: str
    """What it means that ``{value}`` passed the bound."""
    help: str
    """What usually helps."""
    horizon: int = 0
    """Updates over which the quantity is averaged."""


COLLAPSED = Guard("", "the {} have collapsed: their standard deviation is {{value:.4g}}",
                  "lower the learning rate or lengthen the warm-up")  # fmt: skip
GUARDS = {
    "target_std": COLLAPSED._replace(key="min_target_var", meaning=COLLAPSED.meaning.format("targets")),
    "prediction_std": COLLAPSED._replace(key="min_pred_var", meaning=COLLAPSED.meaning.format("predictions")),
    "frame_position_fraction": Guard(
        "max_position_fraction",
        "{value:.0%} of the targets' variance is a function of the position alone, so that a table of positions is "
        "learnt rather than sounds",
        "a slower teacher (a higher model.ema_decay), a larger network or more clips an update usually help",
        horizon=100,
    ),
    "frame_skill": Guard(
        "min_skill",
        "predictions explain {value:.1%} of what the position leaves of the targets",
        "a larger network, more clips an update, more updates or a lower learning rate usually help",
        horizon=100,
    ),
}
"""Watched quantities that can end a run."""


@dataclass
class UtteranceFrameConfig(FairseqDataclass):
    """Settings of the criterion ``utterance_frame``."""

    utterance_weight: float = setting(
        192.0,
        "weight on the mean utterance loss. The published objective sums it over a device's clones, so that its weight "
        "changes with the batch; 192 is what 12 clips of 16 clones amount to",
    )
    weights: dict[str, float] = field(
        default_factory=dict,
        metadata={"help": "weights of further terms by name (0: off), or of 'frame', which has 1"},
    )
    min_target_var: float = setting(0.0, "stop when the targets' standard deviation falls below this; 0 is off")
    min_pred_var: float = setting(0.0, "stop when the predictions' standard deviation falls below this; 0 is off")
    max_position_fraction: float = setting(
        0.0, "stop when more than this fraction of the targets' variance is a function of the position alone; 0 is off"
    )
    min_skill: float = setting(
        0.0,
        "stop when predictions explain less than this fraction of what the position leaves of the targets; 0 is off",
    )
    guarded_from: int = setting(5000, "updates before the guards above watch")


@register_criterion("utterance_frame", dataclass=UtteranceFrameConfig)
class UtteranceFrameCriterion(FairseqCriterion):
    """loss = frame loss + utterance_weight * mean utterance loss + the further terms that have a weight."""

    @reports_user_errors
    def __init__(self, task: Any, cfg: UtteranceFrameConfig) -> None:
        super().__init__(task)
        self.cfg = cfg
        for name in cfg.weights:
            choose(TERMS, name, "a term in criterion.weights")
        always = {"frame": 1.0, "utterance": cfg.utterance_weight}
        self.weights = always | {name: weight for name, weight in cfg.weights.items() if weight or name in always}
        self.updates = 0
        self.averages: dict[str, float] = {}

    def forward(
        self, model: torch.nn.Module, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[torch.Tensor, int, dict[str, Any]]:
        """The objective of a batch, times its number of clips, by which fairseq divides again.

        Clips thus weigh the same however they are spread over devices and accumulated batches.
        """
        core, clips = unwrap(model), len(sample["clips"])
        drawn = (sample["keys"], Masks(sample["visible"], sample["masked"])) if "visible" in sample else None
        batch = core.draw(
            sample["filterbank"], sample["numbers"], sample["frames"],
            seed=sample["seed"], epoch=sample["epoch"], drawn=drawn,
        )  # fmt: skip
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
        for kind, watched in WATCHED.items():
            sums = [log[kind] for log in logging_outputs if kind in log]
            for name, value in (watched.values(sum(sums)) if sums else {}).items():
                metrics.log_scalar(name, value, clips, round=decimals)
                if self.training and name in GUARDS and getattr(self.cfg, GUARDS[name].key):
                    self.guard(name, float(value), float(sum(log.get("updates", 0) for log in logging_outputs) or 1))

    def guard(self, name: str, value: float, updates: float = 1) -> None:
        """Raise TrainingError where a watched quantity, or its running average, has passed its bound.

        ``value`` is that of so many ``updates``.
        """
        guard = GUARDS[name]
        memory = min(self.updates, guard.horizon)
        average = (memory * self.averages.get(name, value) + updates * value) / (memory + updates)
        self.averages[name] = average
        bound = getattr(self.cfg, guard.key)
        passed = average > bound if guard.key.startswith("max_") else average < bound
        if passed and self.updates >= self.cfg.guarded_from:
            meaning = guard.meaning.format(value=average)
            raise TrainingError(
                f"after {self.updates} updates {meaning} (criterion.{guard.key}={bound:g}); {guard.help}."
            )

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Every entry is a sum over clips, or a vector of sums."""
        return True
