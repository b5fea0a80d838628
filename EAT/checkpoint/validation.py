"""What was read of a checkpoint, looked at before anything is built from it.

A file may state what it likes. From here on every tensor in it is a plain one that takes no more memory than the file
has bytes for, every name is a text, and what notes say is of its type.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError
from ..network.settings import check_type

LARGEST_PICKLE = 1 << 22
"""Bytes of what a file of ``torch.save`` holds beside its tensors: about ten times what training writes."""
LARGEST_JSON = 1 << 22
ALIASED = 4
"""How often a file's bytes may stand in its tensors: some are saved under two names."""
SLACK = 1 << 20


def check_tensors(path: str, content: Any, size: int) -> None:
    """Look at every tensor in nested dicts and sequences.

    Args:
        path: named in errors.
        content: what a file of ``size`` bytes held.
        size: bytes.

    Raises:
        CheckpointError: for a tensor that is not plain (sparse, quantised, without numbers, or one value standing for
            many), for tensors that claim more than the file holds, and for tensors with names that are no text.
    """
    claimed = 0
    waiting: list[tuple[str, Any]] = [("", content)]
    seen: set[int] = set()
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, Tensor):
            if place.startswith(_SETTINGS):
                raise CheckpointError(f"{path} holds a tensor as {place}, where settings belong.")
            claimed += _plain_bytes(path, place, value)
            if claimed > ALIASED * size + SLACK:
                raise CheckpointError(
                    f"{path} has {size:,} bytes, but its tensors claim over {ALIASED} times as many; it is damaged."
                )
        elif isinstance(value, dict | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, dict):
                _check_names(path, value)
                inner: Iterable[tuple[Any, Any]] = value.items()
            else:
                inner = enumerate(value)
            waiting += [(_joined(place, key), one) for key, one in inner if isinstance(one, _NESTED)]


_SETTINGS = ("cfg.", "extra_state.eat.")
"""Where no tensors belong."""
_NESTED = (Tensor, dict, list, tuple, set)


def _joined(place: str, key: Any) -> str:
    return f"{place}.{str(key)[:100] if isinstance(key, str | int) else '?'}".lstrip(".")[-200:]


def _check_names(path: str, holder: Mapping[Any, Any]) -> None:
    if any(isinstance(value, Tensor) for value in holder.values()):
        strange = next((key for key in holder if not isinstance(key, str)), None)
        if strange is not None:
            raise CheckpointError(f"{path} names a tensor {reprlib.repr(strange)}, which is no text.")


def _plain_bytes(path: str, place: str, value: Tensor) -> int:
    """Bytes of a plain tensor. Raises CheckpointError for any other."""
    plain = value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
    bytes_ = value.numel() * value.element_size() if plain else 0
    if not plain or bytes_ > value.untyped_storage().nbytes():
        raise CheckpointError(
            f"{path} holds {place} as a tensor that is sparse, quantised, without numbers, or repeats them; only plain "
            "ones are read."
        )
    return bytes_


def check_model(path: str, model: Any) -> None:
    """Raise CheckpointError unless ``model`` is a dict of tensors, or of such dicts, by name."""
    if not isinstance(model, dict):
        raise CheckpointError(f"{path} holds a model that is a {type(model).__name__}, no dict of tensors.")
    for name, value in model.items():
        if not isinstance(name, str):
            raise CheckpointError(f"{path} names a tensor {reprlib.repr(name)}, which is no text.")
        parts = value.values() if isinstance(value, dict) else [value]
        if not all(isinstance(part, Tensor) for part in parts) or (isinstance(value, dict) and not _texts(value)):
            raise CheckpointError(f"{path} holds {name[:200]}, which should be a tensor, as a {type(value).__name__}.")


def _texts(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def sized(path: str, tensors: Mapping[str, Any], name: str, dimensions: int) -> Tensor:
    """The tensor ``name``, from whose shape sizes are taken.

    Raises:
        CheckpointError: where it is missing, of another type or number of dimensions, or empty.
    """
    value = tensors.get(name)
    if value is None:
        raise CheckpointError(f"{path} lacks {name}; the file is incomplete.")
    fits = isinstance(value, Tensor) and value.is_floating_point() and value.ndim == dimensions and value.numel()
    if not fits:
        found = f"shape {tuple(value.shape)}, {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise CheckpointError(f"{path} holds {name} with {found}; it should be a float tensor of {dimensions} axes.")
    return value


NOTES: dict[str, type] = {"position_rows": int, "head_norm_eps": float, "pooling": str, "activation": str}
"""Notes of one value, and their types."""
ACTIVATIONS = ("sigmoid", "softmax")


def check_notes(notes: Mapping[Any, Any]) -> None:
    """Raise ConfigError for notes that this package does not leave."""
    for name, kind in NOTES.items():
        if notes.get(name) is not None:
            check_type(f"the note {name}", notes[name], kind)
    rows, activation = notes.get("position_rows"), notes.get("activation")
    if rows is not None and rows < 1:
        raise ConfigError(f"the note position_rows is {rows}; it must be at least 1.")
    if activation is not None and activation not in ACTIVATIONS:
        raise ConfigError(f"the note activation is {activation[:80]!r}; it must be one of {', '.join(ACTIVATIONS)}.")
    parts, constants = notes.get("initialised", ()), notes.get("front_end")
    if not isinstance(parts, list | tuple) or not _texts(parts):
        raise ConfigError(f"the note initialised is {reprlib.repr(parts)}; it must be a list of parts.")
    if constants:
        numbers = isinstance(constants, list | tuple) and all(isinstance(c, int | float) for c in constants)
        if not numbers or not all(math.isfinite(c) for c in constants if isinstance(c, float)):
            raise ConfigError(f"the note front_end is {reprlib.repr(constants)}; it must be a list of numbers.")
