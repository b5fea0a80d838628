"""Checkpoint files: opened without running anything that is in them, and written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import CheckpointError, DataError
from ..files import replacing

PATHS: list[Any] = [
    (PurePosixPath, f"pathlib{module}.{system}Path") for module in ("", "._local") for system in ("Posix", "Windows")
]
"""Paths in a checkpoint's settings count as plain data: they are read as text with slashes would be."""
CONFIG_NAME = "config.json"
MODEL_NAME = "model.safetensors"


def safetensors_torch(path: str) -> ModuleType:
    """The module ``safetensors.torch``. Raises CheckpointError, naming the extra, where it is not installed."""
    try:
        import safetensors.torch
    except ImportError:
        raise CheckpointError(
            f"{path} is in the Hugging Face format, which needs safetensors: pip install 'eat-audio[huggingface]'."
        ) from None
    return safetensors.torch


def is_safetensors(path: str) -> bool:
    """Whether the file starts as safetensors does: eight bytes that hold a length, then JSON of that length."""
    try:
        with open(path, "rb") as handle:
            start = handle.read(9)
            size = os.fstat(handle.fileno()).st_size
    except OSError:
        return False
    return len(start) == 9 and start[8:] == b"{" and struct.unpack("<Q", start[:8])[0] <= size - 8


class Opened(NamedTuple):
    """A checkpoint that was opened and not looked into yet."""

    path: str
    state: dict[str, Any]
    """What ``torch.save`` wrote; empty for a safetensors file."""
    safetensors: bool
    """Whether it is a folder, or a safetensors file."""


def open_checkpoint(path: str) -> Opened:
    """Open a file or a folder. Raises CheckpointError where that is not possible."""
    if os.path.isdir(path) or is_safetensors(path):
        return Opened(path, {}, True)
    return Opened(path, read_torch_file(path), False)


def read_torch_file(path: str) -> dict[str, Any]:
    """Read a file of ``torch.save``, plain data and tensors only.

    Raises:
        CheckpointError: for a file that is missing, damaged, or holds anything that would run code.
    """
    try:
        with torch.serialization.safe_globals(PATHS):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError:
        raise CheckpointError(f"the checkpoint {path} does not exist.") from None
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower() and "Unsupported" in str(error):
            raise CheckpointError(
                f"{path} holds objects other than tensors and plain data; such a file could run code and is not "
                "opened. Where its authors have a Hugging Face release too, take that."
            ) from None
        raise CheckpointError(f"{path} is no checkpoint that can be read, or is damaged.") from None
    except OSError as error:
        raise CheckpointError(f"the checkpoint {path} cannot be read ({error.strerror or error}).") from None
    except Exception as error:  # what a damaged file makes of torch's reader has no limits
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")[:120]
        raise CheckpointError(f"{path} is no checkpoint that can be read, or is damaged ({reason}).") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a checkpoint.")
    return content


def read_safetensors(path: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. Raises CheckpointError where it cannot be read."""
    library = safetensors_torch(path)
    try:
        with library.safe_open(path, framework="pt", device="cpu") as handle:
            metadata = handle.metadata() or {}
            return {name: handle.get_tensor(name) for name in handle.keys()}, metadata  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"the checkpoint {path} does not exist.") from None
    except Exception as error:  # the library's own error has no stable base class
        raise CheckpointError(f"{path} is no safetensors file that can be read ({error}).") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}).") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} should hold a JSON object.")
    return content


@contextlib.contextmanager
def _writing(path: str) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise CheckpointError(str(error)) from None
    except RuntimeError as error:  # how torch reports a disk that is full
        raise CheckpointError(f"{path} cannot be written ({str(error).splitlines()[0]}).") from None


def write_torch_file(path: str, content: dict[str, Any]) -> None:
    """``torch.save`` under a temporary name, then put in place. Raises CheckpointError where that is not possible."""
    with _writing(path), replacing(path, "wb") as handle:
        torch.save(content, handle)


def write_safetensors(path: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file in one step. Raises CheckpointError where that is not possible."""
    library = safetensors_torch(path)
    content = library.save({name: value.contiguous() for name, value in tensors.items()}, metadata=dict(metadata))
    with _writing(path), replacing(path, "wb") as handle:
        handle.write(content)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object in one step. Raises CheckpointError where that is not possible."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text in one step. Raises CheckpointError where that is not possible."""
    with _writing(str(path)), replacing(path) as handle:
        handle.write(text)
