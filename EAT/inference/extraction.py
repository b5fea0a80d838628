"""Extraction itself: recordings in, arrays out, through any model and any writer."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from ..errors import DataError
from ..progress import progress_bar
from .batches import Batch
from .decoding import Decoded, by_length, decode_ahead
from .feature_files import growing_npy, write_npy
from .model import BATCH_SIZE, EATModel, Layers
from .sources import Source
from .windows import WINDOW, extract_recording, write_recording


@dataclass(frozen=True)
class ExtractionOptions:
    """What is to be computed."""

    layer: Layers = None
    granularity: str = "all"
    target_length: int | None = None
    """Frames that every clip is padded or cut to; None keeps its own length."""
    max_frames: int = 0
    """Longer recordings go window by window; without effect where ``target_length`` is set."""
    window: int = WINDOW
    hop: int | None = None
    batch_size: int = BATCH_SIZE
    workers: int = 0
    storage: str = "float32"


@dataclass
class Outcome:
    """What became of a run."""

    done: int = 0
    problems: list[str] = field(default_factory=list)

    def fail(self, problem: str) -> None:
        """Take note of a recording that could not be read or written, and say so on stderr."""
        self.problems.append(problem)
        print(f"error: {problem}", file=sys.stderr, flush=True)

    def attempt(self, step: Callable[[], None]) -> None:
        """Do a recording's work and count it, or take note of why it could not be done."""
        try:
            step()
            self.done += 1
        except DataError as error:
            self.fail(str(error))


def extract_all(
    model: EATModel, sources: Sequence[Source], targets: Sequence[Path], options: ExtractionOptions
) -> Outcome:
    """Extract every source into its target, an ``.npy`` file.

    A recording that cannot be read, or a file that cannot be written, is named on stderr; the others are done.

    Args:
        model: computes the features.
        sources: recordings.
        targets: where each one's features go.
        options: what to compute.
    """
    outcome = Outcome()
    bar = progress_bar(len(sources), "features")
    cut = options.target_length is not None
    decoded = decode_ahead(model, sources, options.target_length or options.max_frames, cut, options.workers)
    try:
        for item in by_length(model, decoded, options.batch_size, options.target_length):
            if isinstance(item, Batch):
                for clip, array in zip(item.items, _features(model, item, options), strict=True):
                    outcome.attempt(functools.partial(write_npy, targets[clip.index], array))
            elif item.problem is not None:
                outcome.fail(item.problem)
            else:
                address, target = sources[item.index].address, targets[item.index]
                outcome.attempt(functools.partial(_extract_long, model, address, target, options))
            bar.update(len(item.items) if isinstance(item, Batch) else 1)
    finally:
        bar.close()
    return outcome


def extract_each(
    model: EATModel, sources: Sequence[Source], options: ExtractionOptions
) -> Iterator[tuple[int, NDArray | DataError]]:
    """Extract every source into memory.

    Yields:
        As they come, each source's number with its features, or with why it has none.
    """
    cut = options.target_length is not None
    decoded = decode_ahead(model, sources, options.target_length or options.max_frames, cut, options.workers)
    for item in by_length(model, decoded, options.batch_size, options.target_length):
        if isinstance(item, Batch):
            yield from zip((clip.index for clip in item.items), _features(model, item, options), strict=True)
        elif item.problem is not None:
            yield item.index, DataError(item.problem)
        else:
            try:
                yield item.index, extract_recording(model, sources[item.index].address, **_windows(options)).numpy()
            except DataError as error:
                yield item.index, error


def extract_to_memory(model: EATModel, sources: Sequence[Source], options: ExtractionOptions) -> list[torch.Tensor]:
    """Extract every source, in order, in float32 on the CPU. Raises DataError for the first that cannot be read."""
    found: dict[int, torch.Tensor] = {}
    for index, result in extract_each(model, sources, options):
        if isinstance(result, DataError):
            raise result
        found[index] = torch.from_numpy(result)
    return [found[index] for index in range(len(sources))]


def _windows(options: ExtractionOptions) -> dict[str, Any]:
    """The options of :func:`.windows.write_recording`."""
    return {
        "layer": options.layer,
        "granularity": options.granularity,
        "window": options.window,
        "hop": options.hop,
        "batch_size": max(1, options.batch_size // 2),
        "dtype": options.storage,
    }


@torch.inference_mode()
def _features(model: EATModel, batch: Batch[Decoded], options: ExtractionOptions) -> list[NDArray]:
    features = model.extract(
        [torch.from_numpy(clip.waveform) for clip in batch.items],
        model.front_end.sample_rate,
        layer=options.layer,
        granularity=options.granularity,
        target_length=batch.frames,
        batch_size=options.batch_size,
    )
    # One copy from the device for the whole batch.
    return list(torch.stack(features).float().cpu().numpy().astype(options.storage))


def _extract_long(model: EATModel, address: str, target: Path, options: ExtractionOptions) -> None:
    """Extract a long recording window by window into ``target``, in constant memory. Raises DataError."""
    write_recording(model, address, functools.partial(growing_npy, target), **_windows(options))
