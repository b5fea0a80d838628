"""Opening a checkpoint of any layout."""

from __future__ import annotations

import os

from torch import Tensor

from ..errors import CheckpointError, ConfigError
from .contents import ENCODER, POSITIONS, TEACHER, Checkpoint, Contents
from .eat import is_eat, read_eat
from .huggingface import read_huggingface
from .published_eat import is_published, read_published
from .safe_files import is_safetensors, read_torch_file
from .shapes import extend_positions

WEIGHTS = ("student", "teacher")


def read_contents(path: str | os.PathLike[str]) -> Contents:
    """Read a checkpoint as it is stored, its layout told by its content.

    Raises:
        CheckpointError: where it cannot be read, is none of the three layouts, or something in it is missing.
    """
    path = os.fspath(path)
    if os.path.isdir(path) or is_safetensors(path):
        return read_huggingface(path)
    state = read_torch_file(path)
    if is_eat(state):
        return read_eat(path, state)
    if is_published(state):
        return read_published(path, state)
    raise CheckpointError(
        f"{path} is no checkpoint of an EAT model: neither one of this package, nor a published fairseq one, nor a "
        "Hugging Face one."
    )


def select_encoder(path: str, contents: Contents, weights: str) -> dict[str, Tensor]:
    """The student's or the teacher's encoder as stored, under our names without a prefix.

    Raises:
        ConfigError: for ``weights`` other than ``student`` and ``teacher``.
        CheckpointError: for a teacher where there is none.
    """
    if weights not in WEIGHTS:
        raise ConfigError(f"weights is {weights!r}; it must be one of {', '.join(WEIGHTS)}.")
    encoder = contents.part(ENCODER)
    if weights == "student":
        return encoder
    teacher = contents.part(TEACHER)
    if not teacher or "teacher" in contents.initialised:
        raise CheckpointError(f"{path} holds no teacher; use its weights as 'student'.")
    return {**teacher, POSITIONS: encoder[POSITIONS]}


def read_checkpoint(path: str | os.PathLike[str], weights: str = "student") -> Checkpoint:
    """Open a checkpoint of ours, a published fairseq one or a Hugging Face one; content tells them apart.

    Nothing in the file is executed. Half-precision weights are widened to float32; where one of our checkpoints
    holds the optimiser's float32 originals, those are taken.

    Args:
        path: a file, or a Hugging Face folder.
        weights: whose encoder, the ``student``'s or the moving-average ``teacher``'s.

    Raises:
        CheckpointError: where it cannot be read, is no EAT checkpoint, or holds no teacher.
        ConfigError: for other ``weights``.
    """
    path = os.fspath(path)
    contents = read_contents(path)
    stored = select_encoder(path, contents, weights)
    encoder = {name: value.float().clone() for name, value in stored.items()}
    encoder[POSITIONS] = extend_positions(encoder[POSITIONS])
    head = None
    if contents.classifier_config is not None:
        head = {n: v.float().clone() for n, v in contents.tensors.items() if n.startswith(("norm.", "head."))}
    return Checkpoint(
        path=path,
        layout=contents.layout,
        kind=contents.kind,
        encoder_config=contents.encoder_config,
        encoder=encoder,
        classifier_config=contents.classifier_config,
        head=head,
        front_end=contents.front_end,
        activation=contents.activation,
        raw=contents.raw,
    )
