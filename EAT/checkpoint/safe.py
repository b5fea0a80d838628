"""Checkpoint files: opened without running anything that is in them, and written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import mmap
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

from ..audio.recordings import refuse_special
from ..errors import CheckpointError, DataError
from ..files import replacing
from .validation import LARGEST_JSON, LARGEST_PICKLE, check_model, check_tensors

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
    """Open a file or a folder. Raises CheckpointError where that is not possible, or for tensors that are not plain."""
    _refuse_special(path)
    if os.path.isdir(path) or is_safetensors(path):
        return Opened(path, {}, True)
    state = read_torch_file(path)
    if "model" in state:
        check_model(path, state["model"])
    check_tensors(path, state, os.path.getsize(path))
    return Opened(path, state, False)


def _refuse_special(path: str | Path) -> None:
    try:
        refuse_special(str(path))
    except DataError as error:
        raise CheckpointError(str(error)) from None


def read_torch_file(path: str) -> dict[str, Any]:
    """Read a file of ``torch.save``, plain data and tensors only.

    Raises:
        CheckpointError: for a file that is missing, damaged, or holds anything that would run code.
    """
    _refuse_special(path)
    try:
        _check_pickle(path)
        with torch.serialization.safe_globals(PATHS):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except CheckpointError:
        raise
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


def _check_pickle(path: str) -> None:
    """Raise CheckpointError for what would take memory or time while it is unpickled, before it is."""
    with open(path, "rb") as handle:
        if zipfile.is_zipfile(handle):
            makes_memory = _BYTEARRAY in _pickles(path, zipfile.ZipFile(handle))
        elif size := os.fstat(handle.fileno()).st_size:
            with mmap.mmap(handle.fileno(), size, access=mmap.ACCESS_READ) as content:
                makes_memory = content.find(_BYTEARRAY) >= 0
        else:
            makes_memory = False
    if makes_memory:
        raise CheckpointError(f"{path} holds objects other than tensors and plain data; it is not opened.")


def _pickles(path: str, archive: zipfile.ZipFile) -> bytes:
    """What a file of ``torch.save`` holds beside its tensors. Raises CheckpointError where that cannot be all."""
    members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise CheckpointError(f"{path} has compressed members, as torch.save writes none; save it again.")
    pickles = [member for member in members if member.filename.endswith("data.pkl")]
    if sum(member.file_size for member in pickles) > LARGEST_PICKLE:
        raise CheckpointError(f"{path} holds over {LARGEST_PICKLE:,} bytes beside its tensors; it is no checkpoint.")
    return b"".join(map(archive.read, pickles))


_BYTEARRAY = b"bytearray\n"
"""In a pickle, the name of what makes any amount of memory from a number."""


def read_safetensors(path: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. Raises CheckpointError where it cannot be read."""
    library = safetensors_torch(path)
    _refuse_special(path)
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
    _refuse_special(path)
    try:
        with open(path, encoding="utf-8") as handle:
            text = handle.read(LARGEST_JSON + 1)
        if len(text) > LARGEST_JSON:
            raise CheckpointError(f"{path} has more than {LARGEST_JSON:,} characters; it is no configuration.")
        content = json.loads(text)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
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
