"""What a checkpoint holds, whatever layout it was stored in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..network.front_end import FrontEnd
from ..network.settings import ClassifierConfig, EncoderConfig, PretrainingSettings

ENCODER, DECODER, TEACHER = "encoder.", "decoder.", "teacher."
POSITIONS = "positions.table"

AUDIOSET_MEAN, AUDIOSET_STD = -4.268, 4.569


@dataclass(frozen=True)
class Contents:
    """Every tensor under this package's names, exactly as stored, and what is known about the model.

    Conversions go through it; shapes and types of the tensors are never changed on the way.
    """

    layout: str
    """``eat``, ``published`` or ``huggingface``."""
    kind: str
    """``pretraining`` or ``classification``."""
    tensors: dict[str, Tensor]
    """``encoder.*``; for pre-training maybe ``decoder.*`` and ``teacher.*``; for classification ``norm.*, head.*``."""
    encoder_config: EncoderConfig
    classifier_config: ClassifierConfig | None = None
    settings: PretrainingSettings | None = None
    """How it was pre-trained, where the checkpoint says so."""
    front_end: FrontEnd | None = None
    activation: str | None = None
    """What turns logits into scores, ``sigmoid`` or ``softmax``, where the checkpoint says so."""
    initialised: tuple[str, ...] = ()
    """Parts (``decoder``, ``teacher``) that a conversion had to make up because its source had none."""
    raw: dict[str, Any] = field(default_factory=dict, repr=False)
    """The file as it was read."""

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Tensors below ``prefix``, under the names that follow it."""
        return {name[len(prefix) :]: value for name, value in self.tensors.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint ready for use: float32 weights under this package's names."""

    path: str
    layout: str
    """``eat``, ``published`` or ``huggingface``."""
    kind: str
    """``pretraining`` or ``classification``."""
    encoder_config: EncoderConfig
    encoder: dict[str, Tensor]
    """Fits ``Encoder.load_state_dict``; the position table always has its full 6144 rows."""
    classifier_config: ClassifierConfig | None
    """None for a pre-trained model."""
    head: dict[str, Tensor] | None
    """``norm.weight, norm.bias, head.weight, head.bias``; None for a pre-trained model."""
    front_end: FrontEnd | None
    """Length and normalisation it was trained with, where the checkpoint says so."""
    activation: str | None
    """What turns logits into scores, ``sigmoid`` or ``softmax``, where the checkpoint says so."""
    raw: dict[str, Any] = field(repr=False)
    """The file as it was read."""
