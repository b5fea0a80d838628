"""The clips of a collection that are nearest to a sound, by the mean of their patches' features."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import DataError
from ..progress import progress_bar
from .batches import Batch
from .decoding import by_length, decode_ahead
from .model import EATModel
from .sources import Source
from .windows import WINDOW, extract_recording

READOUT = "mean"
BLOCK = 256
"""Sounds that are compared with the collection at once."""


class Near(NamedTuple):
    """A clip of the collection beside a sound."""

    number: int
    """Its place in :attr:`Collection.sources`."""
    similarity: float
    """Cosine, from -1 to 1."""


class Collection:
    """Clips, and where their features point from the collection's mean.

    What all clips have in common says nothing about which are alike, so the mean over the collection is taken off
    before directions are compared.

    Args:
        sources: the clips.
        vectors: (clips, D).

    Raises:
        DataError: for fewer than two clips.
    """

    def __init__(self, sources: Sequence[Source], vectors: NDArray[np.float32]) -> None:
        if len(sources) < 2:
            raise DataError(f"a collection needs two recordings at least that can be read; there are {len(sources)}.")
        self.sources = list(sources)
        self._mean = vectors.mean(axis=0, dtype=np.float64)
        self._directions = _unit(vectors - self._mean)

    def nearest(self, vectors: NDArray[np.float32], count: int) -> list[list[Near]]:
        """The clips most like each of some sounds, by their features (B, D): nearest first, equals in their order."""
        found = []
        for first in range(0, len(vectors), BLOCK):
            cosines = _unit(vectors[first : first + BLOCK] - self._mean) @ self._directions.T
            order = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
            for row, numbers in zip(cosines, order, strict=True):
                found.append([Near(int(number), float(row[number])) for number in numbers])
        return found


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def collect(model: EATModel, sources: Sequence[Source], batch_size: int, workers: int) -> tuple[Collection, list[str]]:
    """Hear every recording once.

    Args:
        model: computes the features.
        sources: recordings, of any length.
        batch_size: clips of 10 s at once.
        workers: DataLoader workers that decode.

    Returns:
        The collection of those that could be read, and a sentence for each that could not.

    Raises:
        DataError: where fewer than two could be read.
    """
    vectors: dict[int, NDArray[np.float32]] = {}
    problems: dict[int, str] = {}
    bar = progress_bar(len(sources), "collection")
    long = functools.partial(extract_recording, model, granularity=READOUT, batch_size=max(1, batch_size // 2))
    try:
        for item in by_length(model, decode_ahead(model, sources, WINDOW, False, workers), batch_size, None):
            if isinstance(item, Batch):
                clips = [torch.from_numpy(clip.waveform) for clip in item.items]
                with torch.inference_mode():
                    found = model.extract(clips, model.front_end.sample_rate, granularity=READOUT,
                                          batch_size=batch_size)  # fmt: skip
                for clip, vector in zip(item.items, found, strict=True):
                    vectors[clip.index] = vector.float().cpu().numpy()
            elif item.problem is not None:
                problems[item.index] = item.problem
            else:
                try:
                    vectors[item.index] = long(sources[item.index].address).numpy()
                except DataError as error:
                    problems[item.index] = str(error)
            bar.update(len(item.items) if isinstance(item, Batch) else 1)
    finally:
        bar.close()
    chosen = sorted(vectors)
    rows = np.stack([vectors[number] for number in chosen]) if chosen else np.zeros((0, 1), np.float32)
    return Collection([sources[number] for number in chosen], rows), [problems[number] for number in sorted(problems)]
