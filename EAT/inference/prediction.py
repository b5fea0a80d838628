"""Class scores of many recordings: short ones in batches, long ones window by window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import DataError
from ..network.front_end import SAMPLE_RATE
from .decoding import Batch, by_length, decode_ahead
from .model import EATModel
from .sources import Source
from .windows import ScoredWindow, score_recording


@dataclass(frozen=True)
class Prediction:
    """Class scores of one recording."""

    source: str
    duration: float
    """Seconds."""
    scores: NDArray[np.float32]
    """(classes,): of the whole recording; of a long one, the mean over its windows."""
    timeline: tuple[ScoredWindow, ...]
    """The windows of a recording that is longer than one; empty for a short one."""

    def top(self, count: int) -> list[int]:
        """The best classes, best first; equals in their order."""
        return best(self.scores, count)


def best(scores: NDArray[np.float32], count: int) -> list[int]:
    """Indices of the ``count`` highest scores, highest first; equals in their order."""
    return [int(index) for index in np.argsort(-scores, kind="stable")[:count]]


@dataclass(frozen=True)
class Scoring:
    """How recordings are scored."""

    window: int
    """Frames of 10 ms that are heard at once; shorter clips are padded to it."""
    hop: int
    batch_size: int = 16
    workers: int = 0


def score_all(model: EATModel, sources: Sequence[Source], scoring: Scoring) -> Iterator[Prediction | DataError]:
    """Score recordings.

    Args:
        model: a fine-tuned model.
        sources: recordings.
        scoring: windows and batches.

    Yields:
        For each source, in order, its prediction, or why there is none.
    """
    ready: dict[int, Prediction | DataError] = {}
    following = 0
    decoded = decode_ahead(sources, scoring.window, False, scoring.workers)
    for item in by_length(decoded, scoring.batch_size, scoring.window):
        if isinstance(item, Batch):
            ready.update(_score_batch(model, sources, item))
        elif item.problem is not None:
            ready[item.index] = DataError(item.problem)
        else:
            ready[item.index] = _score_long(model, sources[item.index].address, scoring)
        while following in ready:
            yield ready.pop(following)
            following += 1


@torch.inference_mode()
def _score_batch(model: EATModel, sources: Sequence[Source], batch: Batch) -> dict[int, Prediction | DataError]:
    clips = [torch.from_numpy(waveform) for waveform in batch.waveforms]
    scores = model.scores(clips, target_length=batch.frames).cpu().numpy()
    return {
        index: Prediction(sources[index].address, len(clip) / SAMPLE_RATE, row, ())
        for index, clip, row in zip(batch.indices, clips, scores, strict=True)
    }


def _score_long(model: EATModel, address: str, scoring: Scoring) -> Prediction | DataError:
    try:
        timeline = tuple(score_recording(model, address, scoring.window, scoring.hop, scoring.batch_size))
    except DataError as error:
        return error
    mean = torch.stack([window.scores for window in timeline]).mean(dim=0).numpy()
    return Prediction(address, timeline[-1].end, mean, timeline)
