"""What the classes of a fine-tuned model are called: kept in its checkpoint, compared with what is given beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..data.labels import Label
from ..errors import CheckpointError

KEY = "classes"
"""Where our notes have them, as ``[name, display name]`` in the order of the outputs."""


def to_notes(classes: Sequence[Label]) -> dict[str, Any]:
    """The classes as plain data under :data:`KEY`."""
    return {KEY: [[label.name, label.display] for label in classes]}


def from_notes(path: str, notes: Mapping[str, Any], count: int) -> tuple[Label, ...] | None:
    """The classes in our notes; None where there are none. Raises CheckpointError for what are not ``count`` names."""
    noted = notes.get(KEY)
    if noted is None:
        return None
    pairs = isinstance(noted, list) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(name, str) for name in pair)
        for pair in noted
    )
    if not pairs or len(noted) != count or len({name for name, _ in noted}) != count:
        raise CheckpointError(f"{path} has {count} classes, but its notes do not hold as many different names.")
    return tuple(Label(index, name, display) for index, (name, display) in enumerate(noted))


def to_id2label(classes: Sequence[Label]) -> dict[str, dict[str, Any]]:
    """``id2label`` and ``label2id`` of a Hugging Face ``config.json``: display names, or names where those repeat."""
    shown = [label.display for label in classes]
    if len(set(shown)) < len(shown):
        shown = [label.name for label in classes]
    return {
        "id2label": {str(index): name for index, name in enumerate(shown)},
        "label2id": {name: index for index, name in enumerate(shown)},
    }


def from_config(path: str, config: Mapping[str, Any], notes: Mapping[str, Any], count: int) -> tuple[Label, ...] | None:
    """The classes of a Hugging Face ``config.json``: names from our notes, and what people call them from ``id2label``.

    Names that its libraries make up, such as ``LABEL_0``, are none.

    Raises:
        CheckpointError: where ``id2label`` does not name each of ``count`` classes.
    """
    noted, given = from_notes(path, notes, count), config.get("id2label")
    if given is None:
        return noted
    named = {str(key): value for key, value in given.items()} if isinstance(given, dict) else {}
    shown = [name for index in range(count) if isinstance(name := named.get(str(index)), str) and name]
    if not len(named) == len(shown) == count:
        raise CheckpointError(
            f"{path} has {count} classes, but id2label in its config.json does not name them from 0 to {count - 1}; "
            "correct it or take it out."
        )
    if noted is not None:
        return tuple(label._replace(display=name) for label, name in zip(noted, shown, strict=True))
    if all(re.fullmatch(r"LABEL_\d+", name) for name in shown):
        return None
    return tuple(Label(index, name, name) for index, name in enumerate(shown))


def check_same(known: Sequence[Label] | None, given: Sequence[Label], count: int, where: str, source: str) -> None:
    """Raise CheckpointError unless labels that were given are a model's classes: as many, called so, in that order.

    What people call a class may differ, and where a checkpoint has that name alone it is found in either column.

    Args:
        known: the model's, where its checkpoint names them.
        given: from label descriptors.
        count: how many classes the model has.
        where: the checkpoint, in words.
        source: the descriptors' file.
    """
    if len(given) != count:
        raise CheckpointError(
            f"{where} has {count} classes, but {source} has {len(given)} classes; give the descriptors it was "
            "trained with, or another checkpoint."
        )
    for label, own in zip(given, known or (), strict=False):
        if own.name in (label.name, label.display):
            continue
        names = {name for other in given for name in (other.name, other.display)}
        reordered = all(other.name in names for other in known or ())
        raise CheckpointError(
            f"class {label.index} of {where} is {own.name[:80]!r}, but {label.name[:80]!r} in {source}"
            f"{', which has the same classes in another order' if reordered else ''}; "
            "give the descriptors it was trained with, or another checkpoint."
        )
