"""Notes that this package leaves in files it writes, so that converting back restores what a format cannot say."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError
from ..network.front_end import FrontEnd
from ..network.settings import ClassifierSettings
from .classes import to_notes
from .contents import ENCODER, POSITIONS, Contents
from .shapes import full_rows
from .validation import check_notes

KEY = "eat"
"""Where the notes stand: in ``extra_state`` of a fairseq checkpoint, or in a Hugging Face ``config.json``."""


def notes_of(holder: Any) -> dict[str, Any]:
    """The notes in ``holder``; empty where there are none. Raises ConfigError for notes of other kinds."""
    notes = holder.get(KEY) if isinstance(holder, dict) else None
    if not isinstance(notes, dict):
        return {}
    check_notes(notes)
    return notes


def make_notes(contents: Contents) -> dict[str, Any]:
    """What a reader of the converted file should know and its format has no place for."""
    notes: dict[str, Any] = {"initialised": list(contents.initialised)}
    rows = contents.tensors[ENCODER + POSITIONS].shape[1]
    if rows != full_rows(contents.settings):
        notes["position_rows"] = rows
    if isinstance(contents.settings, ClassifierSettings):
        notes["head_norm_eps"] = contents.settings.head_norm_eps
        notes["pooling"] = contents.settings.pooling
    if contents.activation is not None:
        notes["activation"] = contents.activation
    if contents.classes is not None:
        notes |= to_notes(contents.classes)
    if contents.front_end is not None:
        notes["front_end"] = list(contents.front_end.constants().values())
    return notes


def noted_front_end(notes: dict[str, Any], otherwise: FrontEnd | None) -> FrontEnd | None:
    """The front end in the notes, or ``otherwise``."""
    noted = notes.get("front_end")
    if not noted:
        return otherwise
    if len(noted) != 3:
        raise ConfigError(f"the note front_end holds {len(noted)} numbers; a length, a mean and a deviation are meant.")
    return FrontEnd(*noted)
