"""Long recordings in constant memory: overlapping windows, read block by block, on one timeline.

A window is computed exactly as if it were a clip of its own. Of its features only the middle is used, up to half-way
into the overlap with each neighbour, so that every place of the timeline is seen with audio on both sides.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from soundfile import LibsndfileError
from torch import Tensor

from .audio import MIN_SAMPLES, open_recording
from .config import FREQUENCY_PATCHES, PATCH_SIZE, check_target_length
from .errors import ConfigError, DataError
from .front_end import FRAME_SHIFT, SAMPLE_RATE, sample_count
from .model import EATModel, Layers, padded_frames
from .resampling import ROLLOFF, ZERO_CROSSINGS, resample

WINDOW, HOP = 1024, 512
"""Default window and the step from one to the next, in frames of 10 ms."""
BLOCK_SECONDS = 20.0


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


class AudioStream:
    """A recording as mono 16 kHz audio that is read forwards, block by block.

    Resampling by blocks gives what resampling the whole gives: each block brings along as much of its neighbours as
    the filter reaches.

    Args:
        source: path or container address, as for :func:`EAT.audio.read_audio`.
        block_seconds: how much is decoded at once.

    Raises:
        DataError: for a recording that cannot be opened or is shorter than 10 ms.
    """

    def __init__(self, source: str, block_seconds: float = BLOCK_SECONDS) -> None:
        self.source = source
        self._recording = open_recording(source)
        self.samples = -(-self._recording.frames * SAMPLE_RATE // self._recording.rate)
        """Length at 16 kHz, as the header has it."""
        if self.samples < MIN_SAMPLES:
            self.close()
            raise DataError(f"{source} holds {self.samples / 16:g} ms; a clip must last 10 ms at least.")
        self._blocks = self._resampled(max(1, int(block_seconds * self._recording.rate)))
        self._held, self._offset = torch.zeros(0), 0  # audio from sample ``offset`` on

    def close(self) -> None:
        """Close the file."""
        self._recording.close()

    def __enter__(self) -> AudioStream:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def read(self, start: int, count: int) -> Tensor:
        """Samples ``start`` to ``start + count``, fewer at the end: (samples,) float32.

        Args:
            start: not before the start of an earlier call; what lies before it is forgotten.
            count: how many.

        Raises:
            DataError: where the recording breaks off before the end that its header states, or holds NaN.
        """
        assert start >= self._offset, "a stream is read forwards"
        pieces, end = [self._held], self._offset + len(self._held)
        while end < min(start + count, self.samples):
            block = next(self._blocks)
            pieces.append(block)
            end += len(block)
        held = torch.cat(pieces) if len(pieces) > 1 else self._held
        self._held, self._offset = held[start - self._offset :].clone(), start
        return self._held[:count]

    def _decode(self, position: int, count: int) -> Tensor:
        """The next ``count`` samples at the file's own rate, mono."""
        try:
            samples = self._recording.read(position, count)
        except (LibsndfileError, RuntimeError, OSError) as error:
            raise DataError(f"{self.source} breaks off while being decoded ({error}).") from None
        if not len(samples):
            seconds, rate = self._recording.frames / self._recording.rate, self._recording.rate
            raise DataError(
                f"{self.source} breaks off after {position / rate:.1f} of the {seconds:.1f} s that its header states."
            )
        mono = torch.from_numpy(samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1))
        if not torch.isfinite(mono).all():
            raise DataError(f"{self.source} holds samples that are NaN or infinite.")
        return mono

    def _resampled(self, block: int) -> Iterator[Tensor]:
        rate, frames = self._recording.rate, self._recording.frames
        divisor = math.gcd(rate, SAMPLE_RATE)
        old, new = rate // divisor, SAMPLE_RATE // divisor
        reach = math.ceil(ZERO_CROSSINGS * old / (min(old, new) * ROLLOFF)) + old
        margin = -(-reach // old) * old if old != new else 0
        block = max(block, 2 * margin + old)
        held, base, position, done = torch.zeros(0), 0, 0, 0  # input from sample ``base``; ``done`` outputs are out
        while position < frames:
            samples = self._decode(position, min(block, frames - position))
            position += len(samples)
            held = torch.cat([held, samples])
            upto = self.samples if position == frames else max(0, position - margin) // old * new
            if upto > done:
                first = base // old * new
                yield resample(held, rate, SAMPLE_RATE)[done - first : upto - first]
                done = upto
                keep = max(base, done // new * old - margin)
                held, base = held[keep - base :].clone(), keep


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
        layer: as in :meth:`EAT.model.EATModel.extract`.
        granularity: ``frame``: the patches of the whole timeline; ``utterance``: the mean of the windows' CLS;
            ``all``: both, that mean first.
        window: frames of 10 ms that are computed at once.
        hop: frames from one window to the next.
        batch_size: windows computed at once.

    Returns:
        As :meth:`EAT.model.EATModel.extract` for one clip, on the CPU.

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
