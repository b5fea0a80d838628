"""HEAR's three functions, for ``hear-validator EAT.interfaces.hear --model CKPT`` and for heareval.

Both call :func:`load_model` with a path alone. For another readout or layer write a module of your own::

    import functools
    from EAT.interfaces.hear import *

    load_model = functools.partial(load_model, readout="rows_max", layer=-2)

Time steps last 160 ms, as patches do; HEAR advises 50 ms for tasks that time notes.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from .embedding import Embedding

__all__ = ["HearModel", "get_scene_embeddings", "get_timestamp_embeddings", "load_model"]


class HearModel(Embedding):
    """An embedding with the attributes that HEAR asks for; ``sample_rate`` is 16 000."""

    @property
    def scene_embedding_size(self) -> int:
        """Length of a clip's vector."""
        return self.width

    @property
    def timestamp_embedding_size(self) -> int:
        """Length of a time step's vector."""
        return self.step_width


def load_model(model_file_path: str | os.PathLike[str] = "", **options: Any) -> HearModel:
    """Open a checkpoint.

    Args:
        model_file_path: of any format that :func:`EAT.load` opens.
        options: of :class:`EAT.interfaces.embedding.Embedding`: ``readout``, ``layer``, ...

    Raises:
        ConfigError: without a checkpoint, of which this package brings none.
        CheckpointError: where it cannot be read.
    """
    if not model_file_path:
        raise ConfigError("EAT needs a checkpoint; name it as HEAR's --model.")
    return HearModel(model_file_path, **options)


def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """(sounds, samples) in [-1, 1] at 16 kHz to (sounds, scene_embedding_size). Raises DataError."""
    return model.clips(audio)


def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """(sounds, samples) to (sounds, steps, timestamp_embedding_size) and the steps' centres, (sounds, steps) in ms."""
    embeddings = model.steps(audio)
    centres = model.centres(embeddings.shape[1]).to(embeddings.device, torch.float32)
    return embeddings, centres.expand(len(embeddings), -1)
