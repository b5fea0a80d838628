"""The model ``eat_pretraining``: the pre-training network, registered with fairseq."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fairseq.dataclass import FairseqDataclass
from fairseq.models import BaseFairseqModel, register_model

from ..network.mixtures import MixturePretraining
from ..network.pretraining import Pretraining
from ..network.settings import PretrainingSettings, setting
from ..system import keep_freed_memory
from .fairseq_support import reports_user_errors
from .parameter_groups import mark_parameters


@dataclass
class EATPretrainingModelConfig(PretrainingSettings, FairseqDataclass):
    """Settings of the model ``eat_pretraining``, and what it starts from."""

    model_path: str | None = setting(
        "",
        "checkpoint to start from with a new optimiser and schedule: one of ours, a published fairseq one, or a "
        "published Hugging Face folder; null starts from scratch",
    )


@register_model("eat_pretraining", dataclass=EATPretrainingModelConfig)
class EATPretrainingModel(Pretraining, BaseFairseqModel):
    """:class:`EAT.network.pretraining.Pretraining` with fairseq's model interface."""

    num_updates = 0

    @classmethod
    @reports_user_errors
    def build_model(cls, cfg: EATPretrainingModelConfig, task: Any = None) -> EATPretrainingModel:
        """Build from settings."""
        settings = PretrainingSettings.take(cfg)
        model = (EATMixturePretrainingModel if settings.mixtures else cls)(settings)
        mark_parameters(model)
        keep_freed_memory()
        if model.settings.compile:
            model.compile()
        return model

    def set_num_updates(self, num_updates: int) -> None:
        """Take note of how many optimiser updates were made."""
        super().set_num_updates(num_updates)
        self.num_updates = num_updates


class EATMixturePretrainingModel(MixturePretraining, EATPretrainingModel):
    """The model ``eat_pretraining`` where ``model.mixtures`` is set."""
