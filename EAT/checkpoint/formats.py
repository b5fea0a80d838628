"""Opening a checkpoint of any format, and writing one. :data:`FORMATS` has them.

A format is a module with ``recognises(opened)``, ``read(opened) -> Contents`` and ``write(contents, path)``; where it
has no place for some choices, ``HOLDS`` has those that it can hold.
"""

from __future__ import annotations

import os
from dataclasses import replace
from types import ModuleType

from torch import Tensor

from ..errors import CheckpointError, ConfigError
from ..network.settings import choose
from . import bat, bat_huggingface, eat, huggingface, published_eat
from .completing import without_initialised
from .contents import DECODER, ENCODER, POSITIONS, TEACHER, Checkpoint, Contents
from .hub import locate
from .names import with_prefix
from .safe import open_checkpoint
from .shapes import check_finite, extend_positions

FORMATS: dict[str, ModuleType] = {
    "eat": eat,
    "published": published_eat,
    "bat": bat,
    "bat_huggingface": bat_huggingface,
    "huggingface": huggingface,
}
"""In the order in which they are asked whether a file is theirs."""
WEIGHTS = ("student", "teacher")


def read_contents(path: str | os.PathLike[str]) -> Contents:
    """Read a checkpoint as it is stored, its format told by its content; ``path`` may be a name (:mod:`.hub`).

    Raises:
        CheckpointError: where it cannot be read or fetched, is of no known format, or something in it is missing.
    """
    opened = open_checkpoint(locate(path))
    for file_format in FORMATS.values():
        if file_format.recognises(opened):
            try:
                return file_format.read(opened)
            except ConfigError as error:
                raise CheckpointError(f"{path} cannot be used: {error}") from None
    raise CheckpointError(
        f"{path} is no checkpoint of an EAT model: neither one of this package, nor a published fairseq one, nor a "
        "Hugging Face one, nor one of BAT's."
    )


def write_checkpoint(contents: Contents, path: str, file_format: str) -> Contents:
    """Write a checkpoint; tensors keep their values and types.

    Args:
        contents: what to write.
        path: a file; for ``huggingface`` a folder, or a file that ends in ``.safetensors``.
        file_format: a name in :data:`FORMATS`.

    Returns:
        What was written: ``initialised`` lists the parts that had to be made up.

    Raises:
        CheckpointError: where it cannot be written.
        ConfigError: for another format.
    """
    writer = choose(FORMATS, file_format, "the format")
    _check_held(contents, file_format)
    return writer.write(without_initialised(contents), path)


def _check_held(contents: Contents, file_format: str) -> None:
    """Raise CheckpointError where a model has parts that the format has no place for."""
    end = contents.front_end
    chosen = {**vars(contents.settings), **({} if end is None else {**end.constants(), "spectrogram": end.name})}
    held: dict[str, tuple[object, ...]] = getattr(FORMATS[file_format], "HOLDS", {})
    other = [f"{name}={chosen[name]}" for name, values in held.items() if name in chosen and chosen[name] not in values]
    if other:
        raise CheckpointError(f"the format {file_format} cannot hold {', '.join(other)}; keep this model as 'eat'.")


def select_encoder(path: str, contents: Contents, weights: str) -> dict[str, Tensor]:
    """The student's or the teacher's encoder as stored, under our names without a prefix.

    Raises:
        ConfigError: for ``weights`` other than ``student`` and ``teacher``.
        CheckpointError: for a teacher where there is none.
    """
    choose(dict.fromkeys(WEIGHTS), weights, "weights")
    encoder = contents.part(ENCODER)
    if weights == "student":
        return encoder
    teacher = contents.part(TEACHER)
    if not teacher or "teacher" in contents.initialised:
        raise CheckpointError(f"{path} holds no teacher; use its weights as 'student'.")
    return {**teacher, POSITIONS: encoder[POSITIONS]}


def keep_encoder(path: str, contents: Contents, weights: str | None) -> Contents:
    """The contents with the student's or the teacher's encoder alone, without decoder and teacher; all of it for None.

    Raises:
        As :func:`select_encoder`.
    """
    if weights is None:
        return contents
    encoder = with_prefix(ENCODER, select_encoder(path, contents, weights))
    kept = {n: v for n, v in contents.tensors.items() if not n.startswith((ENCODER, DECODER, TEACHER))}
    return replace(contents, tensors={**encoder, **kept}, initialised=())


def read_checkpoint(path: str | os.PathLike[str], weights: str = "student") -> Checkpoint:
    """Open a checkpoint of ours, a published fairseq one or a Hugging Face one; content tells them apart.

    Nothing in the file is executed. Half-precision weights are widened to float32; where one of our checkpoints
    holds the optimiser's float32 originals, those are taken.

    Args:
        path: a file, a Hugging Face folder, or a name (:mod:`.hub`).
        weights: whose encoder, the ``student``'s or the moving-average ``teacher``'s.

    Raises:
        CheckpointError: where it cannot be read, is no EAT checkpoint, or holds no teacher.
        ConfigError: for other ``weights``.
    """
    path = os.fspath(path)
    contents = read_contents(path)
    encoder = {name: value.float().clone() for name, value in select_encoder(path, contents, weights).items()}
    check_finite(path, encoder)
    encoder[POSITIONS] = extend_positions(encoder[POSITIONS], contents.settings)
    head = None
    if contents.kind == "classification":
        head = {n: v.float().clone() for n, v in contents.tensors.items() if n.startswith(("norm.", "head."))}
        check_finite(path, head)
    return Checkpoint(
        path=path,
        format=contents.format,
        kind=contents.kind,
        settings=contents.settings,
        encoder=encoder,
        head=head,
        front_end=contents.front_end,
        activation=contents.activation,
        classes=contents.classes,
        raw=contents.raw,
    )
