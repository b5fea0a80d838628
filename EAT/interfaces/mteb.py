"""mteb's audio encoder: ``mteb.evaluate(EATEncoder("EAT-base_epoch30_pt.pt"), tasks)``.

mteb's tasks over sounds ask for one vector a clip. Clips are heard at their own length and rate.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError, DataError
from ..inference.sounds import as_numpy
from .embedding import Embedding, of_any_length

Array = NDArray[Any] | Tensor
OTHERS = {"text", "image", "video"}
"""What mteb's tasks may give beside sounds."""


class EATEncoder(Embedding):
    """Clips to vectors, as mteb asks for them, compared by their cosine.

    Args:
        checkpoint: of any format that :func:`EAT.load` opens.
        options: of :class:`EAT.interfaces.embedding.Embedding`: ``readout``, ``layer``, ...
    """

    def __init__(self, checkpoint: str | os.PathLike[str], **options: Any) -> None:
        super().__init__(checkpoint, **options)
        self.name = Path(checkpoint).stem

    @torch.no_grad()
    def encode(self, inputs: Iterable[Mapping[str, Any]], **about: Any) -> NDArray[np.float32]:
        """Vectors of clips.

        Args:
            inputs: batches of mteb's loader, whose ``audio`` is a list of ``array`` with ``sampling_rate``.
            about: what mteb says of task and split, which changes nothing.

        Returns:
            (clips, width).

        Raises:
            DataError: for a task that gives something else than sounds, or an empty one.
        """
        vectors: list[Tensor] = []
        options = {"layer": self.layer, "granularity": self.readout, "batch_size": self.batch_size}
        for batch in inputs:
            if "audio" not in batch or OTHERS & batch.keys():
                raise DataError(f"EAT hears sounds alone, and this task gives {', '.join(batch)}; take one of audio.")
            clips: list[Any] = [(np.asarray(c["array"], np.float32), int(c["sampling_rate"])) for c in batch["audio"]]
            vectors += of_any_length(self.model, clips, self.sample_rate, **options)
        return as_numpy(torch.stack(vectors))

    def similarity(self, embeddings1: Array, embeddings2: Array) -> Tensor:
        """Cosines of all pairs: (A, width) and (B, width), or (width,), to (A, B)."""
        first, second = (F.normalize(torch.atleast_2d(torch.as_tensor(e))) for e in (embeddings1, embeddings2))
        return first @ second.T

    def similarity_pairwise(self, embeddings1: Array, embeddings2: Array) -> Tensor:
        """Cosines of rows: (A, width) twice to (A,)."""
        return F.cosine_similarity(torch.as_tensor(embeddings1), torch.as_tensor(embeddings2), dim=-1)

    @property
    def mteb_model_meta(self) -> Any:
        """What mteb notes of the model beside its scores; they are kept by name, weights, readout and layer.

        Raises:
            ConfigError: where mteb is not installed.
        """
        try:
            from mteb.models import ModelMeta
        except ImportError:
            raise ConfigError("this interface needs mteb: pip install mteb.") from None
        weights = hashlib.sha256()
        for tensor in self.model.encoder.state_dict().values():
            weights.update(as_numpy(tensor).tobytes())
        known = {
            "name": f"EAT/{self.name}",
            "revision": weights.hexdigest()[:16],
            "n_parameters": sum(parameter.numel() for parameter in self.model.encoder.parameters()),
            "embed_dim": self.width,
            "framework": ["PyTorch"],
            "similarity_fn_name": "cosine",
            "modalities": ["audio"],
            "experiment_kwargs": {"readout": self.readout, "layer": self.layer},
        }
        return ModelMeta.model_validate(ModelMeta.create_empty().model_dump() | known)
