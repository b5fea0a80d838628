"""Extraction itself: recordings in, arrays out, through any model and any writer."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import DataError
from ..network.settings import FREQUENCY_PATCHES, PATCH_SIZE
from ..progress import progress_bar
from .decoding import Batch, by_length, decode_ahead
from .feature_files import growing_npy, write_npy
from .model import EATModel, Layers
from .sources import Source
from .windows import AudioStream, plan_windows, recording_pieces


@dataclass(frozen=True)
class Wanted:
    """What is to be computed."""

    layer: Layers = None
    granularity: str = "all"
    target_length: int | None = None
    """Frames that every clip is padded or cut to; None keeps its own length."""
    max_frames: int = 0
    """Longer recordings go window by window; without effect where ``target_length`` is set."""
    window: int = 1024
    hop: int = 512
    batch_size: int = 16
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


def extract_all(model: EATModel, sources: Sequence[Source], targets: Sequence[Path], wanted: Wanted) -> Outcome:
    """Extract every source into its target, an ``.npy`` file.

    A recording that cannot be read, or a file that cannot be written, is named on stderr; the others are done.

    Args:
        model: computes the features.
        sources: recordings.
        targets: where each one's features go.
        wanted: what to compute.
    """
    outcome = Outcome()
    bar = progress_bar(len(sources), "features")
    decoded = decode_ahead(
        sources, wanted.target_length or wanted.max_frames, wanted.target_length is not None, wanted.workers
    )
    try:
        for item in by_length(decoded, wanted.batch_size, wanted.target_length):
            if isinstance(item, Batch):
                arrays = _features(model, item, wanted)
                for index, array in zip(item.indices, arrays, strict=True):
                    _attempt(outcome, functools.partial(write_npy, targets[index], array))
                bar.update(len(item.indices))
                continue
            if item.problem is not None:
                outcome.fail(item.problem)
            else:
                step = functools.partial(extract_long, model, sources[item.index].address, targets[item.index], wanted)
                _attempt(outcome, step)
            bar.update(1)
    finally:
        bar.close()
    return outcome


def _attempt(outcome: Outcome, step: Callable[[], None]) -> None:
    try:
        step()
        outcome.done += 1
    except DataError as error:
        outcome.fail(str(error))


@torch.inference_mode()
def _features(model: EATModel, batch: Batch, wanted: Wanted) -> list[NDArray]:
    clips = [torch.from_numpy(waveform) for waveform in batch.waveforms]
    features = model.extract(clips, layer=wanted.layer, granularity=wanted.granularity, target_length=batch.frames)
    # One copy from the device for the whole batch.
    return list(torch.stack(features).float().cpu().numpy().astype(wanted.storage))


def extract_long(model: EATModel, address: str, target: Path, wanted: Wanted) -> None:
    """Extract a long recording window by window into ``target``, in constant memory.

    The utterance vector (row 0 of ``all``) is the mean of the windows' CLS.

    Raises:
        DataError: where it cannot be read or written.
    """
    layers = model.layer_numbers(wanted.layer)
    single = wanted.layer is None or isinstance(wanted.layer, int)
    dim, dtype = model.encoder.settings.embed_dim, np.dtype(wanted.storage)
    lead = {"all": 1, "frame": 0}.get(wanted.granularity)
    with AudioStream(address) as stream:
        plan = plan_windows(stream.samples, wanted.window, wanted.hop)
        pieces = recording_pieces(model, stream, plan, layers, max(1, wanted.batch_size // 2))
        total = np.zeros((len(layers), dim))
        if lead is None:
            for piece in pieces:
                total += piece.cls.float().cpu().numpy()
            mean = (total / len(plan)).astype(dtype)
            write_npy(target, mean[0] if single else mean)
            return
        rows = lead + plan[-1].keep_to // PATCH_SIZE * FREQUENCY_PATCHES
        shape = (rows, dim) if single else (len(layers), rows, dim)
        with growing_npy(target, shape, dtype) as array:
            for piece in pieces:
                total += piece.cls.float().cpu().numpy()
                row = lead + piece.window.keep_from // PATCH_SIZE * FREQUENCY_PATCHES
                for number, values in enumerate(piece.patches.float().cpu().numpy()):
                    array.write((row,) if single else (number, row), values)
            if lead:
                for number, values in enumerate(total / len(plan)):
                    array.write((0,) if single else (number, 0), values)
