"""What a checkpoint holds, whatever format it was stored in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..data.labels import Label
from ..network.front_end import FrontEnd
from ..network.settings import ClassifierSettings, PretrainingSettings

ENCODER, DECODER, TEACHER = "encoder.", "decoder.", "teacher."
POSITIONS = "positions.table"


@dataclass(frozen=True)
class Contents:
    """Every tensor under this package's names, exactly as stored, and what is known about the model.

    Conversions go through it; shapes and types of the tensors are never changed on the way.
    """

    format: str
    """``eat``, ``published`` or ``huggingface``."""
    tensors: dict[str, Tensor]
    """``encoder.*``; for pre-training maybe ``decoder.*`` and ``teacher.*``; for classification ``norm.*, head.*``."""
    settings: PretrainingSettings | ClassifierSettings
    """The model's; of a pre-trained one, defaults where the checkpoint does not say how it was trained."""
    front_end: FrontEnd | None = None
    activation: str | None = None
    """What turns logits into scores, ``sigmoid`` or ``softmax``, where the checkpoint says so."""
    classes: tuple[Label, ...] | None = None
    """What the classes of a fine-tuned model are called, where the checkpoint says so."""
    initialised: tuple[str, ...] = ()
    """Parts (``decoder``, ``teacher``) that a conversion had to make up because its source had none."""
    raw: dict[str, Any] = field(default_factory=dict, repr=False)
    """The file as it was read."""

    @property
    def kind(self) -> str:
        """``pretraining`` or ``classification``."""
        return "classification" if isinstance(self.settings, ClassifierSettings) else "pretraining"

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Tensors below ``prefix``, under the names that follow it."""
        return {name[len(prefix) :]: value for name, value in self.tensors.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint ready for use: float32 weights under this package's names."""

    path: str
    format: str
    """``eat``, ``published`` or ``huggingface``."""
    kind: str
    """``pretraining`` or ``classification``."""
    settings: PretrainingSettings | ClassifierSettings
    encoder: dict[str, Tensor]
    """Fits ``Encoder.load_state_dict``; the position table always has its full 6144 rows."""
    head: dict[str, Tensor] | None
    """``norm.weight, norm.bias, head.weight, head.bias``; None for a pre-trained model."""
    front_end: FrontEnd | None
    """Length and normalisation it was trained with, where the checkpoint says so."""
    activation: str | None
    """What turns logits into scores, ``sigmoid`` or ``softmax``, where the checkpoint says so."""
    classes: tuple[Label, ...] | None
    """What the classes are called, where the checkpoint says so."""
    raw: dict[str, Any] = field(repr=False)
    """The file as it was read."""
