"""Notes that this package leaves in files it writes, so that converting back restores what a format cannot say."""

from __future__ import annotations

from typing import Any

from ..network.front_end import FrontEnd
from ..network.settings import ClassifierSettings
from .classes import to_notes
from .contents import ENCODER, POSITIONS, Contents
from .shapes import full_rows

KEY = "eat"
"""Where the notes stand: in ``extra_state`` of a fairseq checkpoint, or in a Hugging Face ``config.json``."""


def notes_of(holder: Any) -> dict[str, Any]:
    """The notes in ``holder``; empty where there are none."""
    notes = holder.get(KEY) if isinstance(holder, dict) else None
    return notes if isinstance(notes, dict) else {}


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
    return FrontEnd(int(noted[0]), float(noted[1]), float(noted[2])) if noted else otherwise
