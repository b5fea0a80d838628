"""Class scores of many recordings: short ones in batches, long ones window by window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError
from .batches import Batch
from .decoding import Decoded, by_length, decode_ahead
from .model import EATModel
from .sources import Source
from .windows import ScoredWindow, cut_window, plan_windows, score_recording


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


def score_all(
    model: EATModel, sources: Sequence[Source], window: int, hop: int | None, batch_size: int, workers: int
) -> Iterator[Prediction | DataError]:
    """Score recordings.

    Args:
        model: a fine-tuned model.
        sources: recordings.
        window: frames that are heard at once; shorter clips are padded to it.
        hop: frames from one window to the next, in longer ones; None is half a window.
        batch_size: clips of 10 s at once.
        workers: DataLoader workers that decode.

    Yields:
        For each source, in order, its prediction, or why there is none.
    """
    ready: dict[int, Prediction | DataError] = {}
    following = 0
    for item in by_length(model, decode_ahead(model, sources, window, False, workers), batch_size, window):
        if isinstance(item, Batch):
            ready.update(_score_batch(model, sources, item, batch_size))
        elif item.problem is not None:
            ready[item.index] = DataError(item.problem)
        else:
            address = sources[item.index].address
            ready[item.index] = _score_long(model, address, window, hop, max(1, batch_size // 2))
        while following in ready:
            yield ready.pop(following)
            following += 1


def score_files(model: EATModel, sources: Sequence[Source], batch_size: int) -> list[NDArray[np.float32]]:
    """(classes,) of each recording. Raises DataError for the first that cannot be read."""
    found = []
    for result in score_all(model, sources, model.front_end.target_length, None, batch_size, 0):
        if isinstance(result, DataError):
            raise result
        found.append(result.scores)
    return found


@torch.inference_mode()
def score_waveforms(model: EATModel, clips: Sequence[Tensor], batch_size: int) -> list[NDArray[np.float32]]:
    """(classes,) of each mono clip at the model's rate, as :func:`score_all` scores recordings."""
    window, rate = model.front_end.target_length, model.front_end.sample_rate
    spans = [plan_windows(model, len(clip), window) if model.front_end.frames(len(clip)) > window else None
             for clip in clips]  # fmt: skip
    short = [clip for clip, plan in zip(clips, spans, strict=True) if plan is None]
    scores = iter(model.scores(short, rate, batch_size=batch_size).cpu() if short else ())
    found = []
    for clip, plan in zip(clips, spans, strict=True):
        if plan is None:
            found.append(next(scores).numpy())
            continue
        pieces = [cut_window(model, clip, place) for place in plan]
        found.append(model.scores(pieces, rate, batch_size=max(1, batch_size // 2)).mean(dim=0).cpu().numpy())
    return found


@torch.inference_mode()
def _score_batch(
    model: EATModel, sources: Sequence[Source], batch: Batch[Decoded], batch_size: int
) -> dict[int, Prediction | DataError]:
    clips, rate = [torch.from_numpy(clip.waveform) for clip in batch.items], model.front_end.sample_rate
    scores = model.scores(clips, rate, target_length=batch.frames, batch_size=batch_size).cpu().numpy()
    return {
        item.index: Prediction(sources[item.index].address, len(clip) / rate, row, ())
        for item, clip, row in zip(batch.items, clips, scores, strict=True)
    }


def _score_long(model: EATModel, address: str, window: int, hop: int | None, batch_size: int) -> Prediction | DataError:
    try:
        timeline = tuple(score_recording(model, address, window, hop, batch_size))
    except DataError as error:
        return error
    mean = torch.stack([window.scores for window in timeline]).mean(dim=0).numpy()
    return Prediction(address, timeline[-1].end, mean, timeline)
