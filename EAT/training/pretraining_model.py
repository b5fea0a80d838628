"""The model ``eat_pretraining``: the pre-training network, registered with fairseq."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fairseq.dataclass import FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model

from ..network.pretraining import Pretraining
from ..network.settings import PretrainingSettings
from ..system import keep_freed_memory
from .fairseq_support import reports_user_errors
from .parameter_groups import mark_parameters


@dataclass
class EATPretrainingModelConfig(PretrainingSettings, FairseqDataclass):
    """Settings of the model ``eat_pretraining``."""


@register_model("eat_pretraining", dataclass=EATPretrainingModelConfig)
class EATPretrainingModel(Pretraining, BaseFairseqModel):
    """:class:`EAT.network.pretraining.Pretraining` with fairseq's model interface."""

    num_updates = 0

    @classmethod
    @reports_user_errors
    def build_model(cls, cfg: EATPretrainingModelConfig, task: Any = None) -> EATPretrainingModel:
        """Build from settings."""
        model = cls(PretrainingSettings.take(cfg))
        mark_parameters(model)
        keep_freed_memory()
        if model.settings.compile:
            model.compile()
        return model

    def set_num_updates(self, num_updates: int) -> None:
        """Take note of how many optimiser updates were made."""
        super().set_num_updates(num_updates)
        self.num_updates = num_updates
