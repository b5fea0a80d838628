"""The model ``eat_classification``: the classifier, registered with fairseq, and what it starts from."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fairseq.dataclass import FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model

from ..checkpoint import Checkpoint, read_checkpoint
from ..errors import CheckpointError
from ..network.classifier import Classifier
from ..network.settings import SIZES, EncoderSettings, FineTuningSettings
from .fairseq_support import record
from .parameter_groups import mark_parameters

logger = logging.getLogger("EAT")


@dataclass
class EATClassificationModelConfig(FineTuningSettings, FairseqDataclass):
    """Settings of the model ``eat_classification``."""


@register_model("eat_classification", dataclass=EATClassificationModelConfig)
class EATClassificationModel(Classifier, BaseFairseqModel):
    """:class:`EAT.network.classifier.Classifier` with fairseq's model interface."""

    evaluates = False
    """Whether the encoder evaluates, without DropPath, while the head trains."""

    @classmethod
    def build_model(cls, cfg: EATClassificationModelConfig, task: Any = None) -> EATClassificationModel:
        """Build from settings alone; :func:`start_from` gives it a checkpoint's encoder."""
        settings = FineTuningSettings.take(cfg)
        model = cls(settings.classifier())
        mark_parameters(model, layer_wise(model.settings.depth, settings.layer_decay, settings.layer_decay_input))
        if settings.freeze_encoder:
            model.evaluates = not settings.frozen_drop_path
            model.encoder.requires_grad_(False)
        return model

    def train(self, mode: bool = True) -> EATClassificationModel:
        """Switch to training or evaluation; a frozen encoder always evaluates, unless it is to drop paths."""
        super().train(mode)
        if self.evaluates:
            self.encoder.eval()
        return self


def layer_wise(depth: int, decay: float, on_input: bool = False) -> Callable[[str], float]:
    """Factors on the learning rate by parameter name: block i (0-based) learns at decay^(depth - i), all else at 1.

    With ``on_input``, patches and CLS learn at decay^(depth + 1); the LayerNorm before the blocks still at 1.
    """

    def scale(name: str) -> float:
        parts = name.split(".")
        if on_input and name.startswith(("encoder.patches.", "encoder.cls_token")):
            return decay ** (depth + 1)
        return decay ** (depth - int(parts[2])) if parts[:2] == ["encoder", "blocks"] else 1.0

    return scale


def read_initial(cfg: Any) -> Checkpoint | None:
    """Read the checkpoint that ``model.model_path`` names and take over its encoder's sizes.

    They, or EAT-base's where there is none, are written into the run's configuration, so that its checkpoints describe
    themselves.

    Args:
        cfg: the run's ``model`` section.

    Returns:
        The checkpoint, or None for a model trained from scratch.

    Raises:
        CheckpointError: where it cannot be read, or a size that is set explicitly is not the checkpoint's.
    """
    if cfg.model_path is None:
        record(cfg, "model", **{name: getattr(EncoderSettings, name) for name in SIZES if cfg[name] is None})
        return None
    checkpoint = read_checkpoint(cfg.model_path, cfg.weights)
    adopt_sizes(cfg, checkpoint)
    return checkpoint


def adopt_sizes(cfg: Any, checkpoint: Checkpoint) -> None:
    """Write the checkpoint's sizes into the run's configuration.

    Raises:
        CheckpointError: where one that is set explicitly is another.
    """
    for name in SIZES:
        given, stored = cfg[name], getattr(checkpoint.settings, name)
        same = math.isclose(given, stored) if isinstance(given, int | float) else given == stored
        if given is not None and not same:
            raise CheckpointError(
                f"model.{name} is {given}, but {checkpoint.path} has {stored}; leave model.{name} null to take "
                "the checkpoint's, or give another checkpoint."
            )
        record(cfg, "model", **{name: stored})


def start_from(model: Any, checkpoint: Checkpoint) -> None:
    """Give the model the checkpoint's encoder. Its decoder, teacher or head are not used."""
    model.encoder.load_state_dict(checkpoint.encoder)
    logger.info(
        f"encoder from the {checkpoint.format} {checkpoint.kind} checkpoint {checkpoint.path}; the head starts new"
    )
