"""Long recordings in constant memory: overlapping windows, read block by block, on one timeline.

A window is computed exactly as if it were a clip of its own. Of its features only the middle is used, up to half-way
into the overlap with each neighbour, so that every place of the timeline is seen with audio on both sides.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..audio.stream import AudioStream
from ..errors import ConfigError
from ..network.front_end import FRAME_SHIFT, SAMPLE_RATE, sample_count
from ..network.settings import FREQUENCY_PATCHES, PATCH_SIZE, check_target_length
from .model import EATModel, Layers, padded_frames

WINDOW, HOP = 1024, 512
"""Default window and the step from one to the next, in frames of 10 ms."""


class Window(NamedTuple):
    """One window of the timeline, in frames of 10 ms from the recording's start; all multiples of 16."""

    start: int
    end: int
    keep_from: int
    """The part of the timeline that this window's features fill."""
    keep_to: int


def check_windows(window: int, hop: int) -> None:
    """Raise ConfigError unless windows of these lengths can be laid side by side."""
    check_target_length(window, "window")
    if hop < PATCH_SIZE or hop % PATCH_SIZE or hop > window:
        raise ConfigError(f"hop is {hop} frames; it must be a multiple of 16, at most the window's {window}.")


def plan_windows(samples: int, window: int = WINDOW, hop: int = HOP) -> list[Window]:
    """Lay windows over a recording.

    Windows start every ``hop`` frames; the last is moved back so that it ends where the recording ends. Neighbours
    share their overlap half and half, to a whole patch.

    Args:
        samples: the recording's length at 16 kHz.
        window: frames of a window; a recording that is no longer is one window of its own length.
        hop: frames from one window's start to the next.

    Raises:
        ConfigError: for lengths that do not fit together.
    """
    check_windows(window, hop)
    end = padded_frames(samples)
    if end <= window:
        return [Window(0, end, 0, end)]
    starts = [*range(0, end - window, hop), end - window]
    seams = [(second + first + window) // 2 // PATCH_SIZE * PATCH_SIZE for first, second in itertools.pairwise(starts)]
    edges = zip(starts, [0, *seams], [*seams, end], strict=True)
    return [Window(start, start + window, keep_from, keep_to) for start, keep_from, keep_to in edges]


def read_windows(
    stream: AudioStream, plan: list[Window], batch_size: int
) -> Iterator[tuple[list[Window], list[Tensor]]]:
    """Batches of windows with their audio, in order. The last window's may be short of its frames by less than 16."""
    for first in range(0, len(plan), batch_size):
        batch = plan[first : first + batch_size]
        yield (
            batch,
            [stream.read(w.start * FRAME_SHIFT, sample_count(w.end - w.start)).clone() for w in batch],
        )


class Piece(NamedTuple):
    """Features of one window."""

    window: Window
    cls: Tensor
    """(L, D)"""
    patches: Tensor
    """(L, rows, D), for the part of the timeline that the window fills."""


def recording_pieces(
    model: EATModel, stream: AudioStream, plan: list[Window], layers: tuple[int, ...], batch_size: int = 8
) -> Iterator[Piece]:
    """Features of a long recording, window by window.

    Args:
        model: computes them.
        stream: the recording.
        plan: its windows.
        layers: from 0 to depth.
        batch_size: windows computed at once.
    """
    for windows, clips in read_windows(stream, plan, batch_size):
        with torch.inference_mode():
            length = windows[0].end - windows[0].start
            features = model.extract(clips, layer=layers, target_length=length)
        for window, tokens in zip(windows, features, strict=True):
            first = 1 + (window.keep_from - window.start) // PATCH_SIZE * FREQUENCY_PATCHES
            last = 1 + (window.keep_to - window.start) // PATCH_SIZE * FREQUENCY_PATCHES
            yield Piece(window, tokens[:, 0], tokens[:, first:last])


def extract_recording(
    model: EATModel,
    source: str,
    *,
    layer: Layers = None,
    granularity: str = "all",
    window: int = WINDOW,
    hop: int = HOP,
    batch_size: int = 8,
) -> Tensor:
    """Features of a recording of any length on one timeline; only the result grows with its length.

    Args:
        model: a loaded model.
        source: path or container address.
        layer: as in :meth:`EAT.inference.model.EATModel.extract`.
        granularity: ``frame``: the patches of the whole timeline; ``utterance``: the mean of the windows' CLS;
            ``all``: both, that mean first.
        window: frames of 10 ms that are computed at once.
        hop: frames from one window to the next.
        batch_size: windows computed at once.

    Returns:
        As :meth:`EAT.inference.model.EATModel.extract` for one clip, on the CPU.

    Raises:
        DataError: for a recording that cannot be read.
        ConfigError: for a layer, granularity, window or hop that cannot be.
    """
    layers = model.layer_numbers(layer)
    total, patches, count = torch.zeros(()), [], 0
    with AudioStream(source) as stream:
        for piece in recording_pieces(model, stream, plan_windows(stream.samples, window, hop), layers, batch_size):
            total, count = total + piece.cls.float().cpu(), count + 1
            if granularity != "utterance":
                patches.append(piece.patches.cpu())
    cls = (total / count).unsqueeze(1)
    features = {
        "utterance": lambda: cls[:, 0],
        "frame": lambda: torch.cat(patches, dim=1),
        "all": lambda: torch.cat([cls.to(patches[0].dtype), *patches], dim=1),
    }
    if granularity not in features:
        raise ConfigError(f"granularity is {granularity!r}; it must be one of {', '.join(features)}.")
    result = features[granularity]()
    return result[0] if layer is None or isinstance(layer, int) else result


class ScoredWindow(NamedTuple):
    """Class scores of one window."""

    start: float
    """Seconds from the recording's start."""
    end: float
    slot: tuple[float, float]
    """The part of the timeline that this window stands for: slots neither overlap nor leave gaps."""
    scores: Tensor
    """(classes,) float32 on the CPU."""


def score_recording(
    model: EATModel, source: str, window: int | None = None, hop: int | None = None, batch_size: int = 8
) -> Iterator[ScoredWindow]:
    """Class scores of a recording of any length, window by window, in constant memory.

    Args:
        model: a fine-tuned model.
        source: path or container address.
        window: frames of a window; None is the length that the model was trained with.
        hop: frames from one window to the next; None is half a window, to a whole patch.
        batch_size: windows computed at once.

    Raises:
        DataError: for a recording that cannot be read.
        ConfigError: for windows that do not fit together.
        CheckpointError: for a model that was not fine-tuned.
    """
    window = window or model.front_end.target_length
    hop = hop or max(PATCH_SIZE, window // 2 // PATCH_SIZE * PATCH_SIZE)
    with AudioStream(source) as stream:
        duration = stream.samples / SAMPLE_RATE
        for windows, clips in read_windows(stream, plan_windows(stream.samples, window, hop), batch_size):
            with torch.inference_mode():
                scores = model.scores(clips, target_length=window).cpu()
            for place, row in zip(windows, scores, strict=True):
                start, end, *slot = (min(frame / 100, duration) for frame in place)
                yield ScoredWindow(start, end, (slot[0], slot[1]), row)
