"""Long recordings in constant memory: overlapping windows, read block by block, on one timeline.

A window is computed exactly as if it were a clip of its own. Of its features only the middle is used, up to half-way
into the overlap with each neighbour, so that every place of the timeline is seen with audio on both sides.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..audio.stream import AudioStream
from ..errors import ConfigError
from ..network.settings import choose
from .model import GRANULARITIES, EATModel, Layers, check_model
from .readouts import READOUTS, Summary, summarise, width

WINDOW = 1024
"""Default window, in frames of 10 ms."""
BATCH_SIZE = 8
"""Windows that are computed at once, unless another number is asked for."""


class Window(NamedTuple):
    """One window of the timeline, in frames from the recording's start; all whole patches."""

    start: int
    end: int
    keep_from: int
    """The part of the timeline that this window's features fill."""
    keep_to: int


def half_window(window: int, patch_size: int) -> int:
    """The default step from one window to the next: half a window, in whole patches."""
    return max(patch_size, window // 2 // patch_size * patch_size)


def check_windows(model: EATModel, window: int, hop: int) -> None:
    """Raise ConfigError unless windows of these lengths can be laid side by side."""
    model.encoder.grid(window, "window")
    if hop < model.patch_size or hop % model.patch_size or hop > window:
        raise ConfigError(
            f"hop is {hop} frames; it must be a multiple of {model.patch_size}, at most the window's {window}."
        )


def plan_windows(model: EATModel, samples: int, window: int = WINDOW, hop: int | None = None) -> list[Window]:
    """Lay windows over a recording.

    Windows start every ``hop`` frames; the last is moved back so that it ends where the recording ends. Neighbours
    share their overlap half and half, to a whole patch.

    Args:
        model: whose frames and patches they are.
        samples: the recording's length at the front end's rate.
        window: frames of a window; a recording that is no longer is one window of its own length.
        hop: frames from one window's start to the next; None is half a window.

    Raises:
        ConfigError: for lengths that do not fit together.
    """
    size = model.patch_size
    hop = half_window(window, size) if hop is None else hop
    check_windows(model, window, hop)
    end = model.padded_frames(samples)
    if end <= window:
        return [Window(0, end, 0, end)]
    starts = [*range(0, end - window, hop), end - window]
    seams = [(second + first + window) // 2 // size * size for first, second in itertools.pairwise(starts)]
    edges = zip(starts, [0, *seams], [*seams, end], strict=True)
    return [Window(start, start + window, keep_from, keep_to) for start, keep_from, keep_to in edges]


def read_windows(
    model: EATModel, stream: AudioStream | _Waveform, plan: list[Window], batch_size: int
) -> Iterator[tuple[list[Window], list[Tensor]]]:
    """Batches of windows with their audio, in order. The last window's may lack less than a patch of its frames."""
    for first in range(0, len(plan), batch_size):
        batch = plan[first : first + batch_size]
        yield batch, [stream.read(*_span(model, place)).clone() for place in batch]


def _span(model: EATModel, window: Window) -> tuple[int, int]:
    """First sample of a window, and how many there are."""
    front_end = model.front_end
    return window.start * front_end.hop, front_end.samples_for(window.end - window.start)


def cut_window(model: EATModel, clip: Tensor, window: Window) -> Tensor:
    """A window's samples of a mono clip at the model's rate."""
    start, count = _span(model, window)
    return clip[start : start + count]


class _Waveform:
    """A waveform in memory, read as a recording is."""

    def __init__(self, waveform: Tensor) -> None:
        self._waveform, self.samples = waveform, len(waveform)

    def read(self, start: int, count: int) -> Tensor:
        """Samples ``start`` to ``start + count``, fewer at the end."""
        return self._waveform[start : start + count]


def _opened(model: EATModel, source: str | Tensor) -> AbstractContextManager[AudioStream | _Waveform]:
    if isinstance(source, str):
        return AudioStream(source, **model.front_end.reading())
    return nullcontext(_Waveform(source))


class Sink(Protocol):
    """Takes an array piece by piece."""

    def write(self, place: Sequence[int], values: NDArray[Any]) -> None:
        """Take a contiguous run of values that starts at the index ``place``."""


class _Memory:
    """A sink in memory."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.array = np.empty(shape, dtype)

    def write(self, place: Sequence[int], values: NDArray[Any]) -> None:
        target = self.array[tuple(place[:-1])]
        target[place[-1] : place[-1] + len(values)] = values


def write_recording(
    model: EATModel,
    source: str | Tensor,
    open_sink: Callable[[tuple[int, ...], np.dtype], AbstractContextManager[Sink]],
    *,
    layer: Layers = None,
    granularity: str = "all",
    window: int = WINDOW,
    hop: int | None = None,
    batch_size: int = BATCH_SIZE,
    dtype: str = "float32",
) -> None:
    """Features of a recording of any length on one timeline, window by window into a sink of their shape and type.

    Args:
        model: a loaded model.
        source: path or container address; or a mono waveform (samples,) at the front end's rate.
        open_sink: told shape and type, gives what the pieces go to.
        layer: as in :meth:`EAT.inference.model.EATModel.extract`.
        granularity: ``frame``: the patches of the whole timeline; ``utterance``: the mean of the windows' CLS;
            ``all``: both, that mean first; another readout (:data:`EAT.inference.readouts.READOUTS`): of the patches
            of the whole timeline.
        window: frames that are computed at once.
        hop: frames from one window to the next; None is half a window.
        batch_size: windows computed at once.
        dtype: of the numbers.

    Raises:
        DataError: for a recording that cannot be read.
        ConfigError: for a layer, granularity, window or hop that cannot be.
    """
    check_model(model)
    choose(dict.fromkeys(GRANULARITIES), granularity, "granularity")
    layers, single = model.layer_numbers(layer), layer is None or isinstance(layer, int)
    size, rows_a_step = model.patch_size, model.frequency_patches
    dim, kind = model.encoder.settings.embed_dim, np.dtype(dtype)
    with _opened(model, source) as stream:
        plan = plan_windows(model, stream.samples, window, hop)
        lead = int(granularity == "all")  # a row for CLS
        rows = lead + plan[-1].keep_to // size * rows_a_step
        a_vector = granularity in READOUTS
        shape = (width(granularity, dim, rows_a_step),) if a_vector else (rows, dim)
        with open_sink(shape if single else (len(layers), *shape), kind) as sink:
            summary: Summary | None = None
            for windows, clips in read_windows(model, stream, plan, batch_size):
                with torch.inference_mode():
                    length = windows[0].end - windows[0].start
                    features = model.extract(clips, model.front_end.sample_rate, layer=layers, target_length=length,
                                             batch_size=batch_size)  # fmt: skip
                for place, tokens in zip(windows, features, strict=True):
                    tokens = tokens.float().cpu()  # (L, 1 + N, D)
                    kept = ((frame - place.start) // size * rows_a_step for frame in (place.keep_from, place.keep_to))
                    first, last = (1 + row for row in kept)
                    if granularity != "frame":
                        used = torch.cat([tokens[:, :1], tokens[:, first:last]], dim=1) if a_vector else tokens
                        own = summarise(used.double(), rows_a_step)
                        summary = own if summary is None else summary + own
                    row = lead + place.keep_from // size * rows_a_step
                    for number, patches in enumerate(tokens[:, first:last].numpy()) if not a_vector else ():
                        sink.write((row,) if single else (number, row), patches)
            if summary is not None:
                vectors = summary.read(granularity if a_vector else "utterance").numpy()
                for number, vector in enumerate(vectors):
                    sink.write((0,) if single else (number, 0), vector if a_vector else vector[None])


def extract_recording(model: EATModel, source: str | Tensor, **options: Any) -> Tensor:
    """:func:`write_recording` into memory, with the same options; only the result grows with the recording's length.

    Returns:
        As :meth:`EAT.inference.model.EATModel.extract` for one clip, in float32 on the CPU.
    """
    made: list[_Memory] = []

    def open_memory(shape: tuple[int, ...], dtype: np.dtype) -> AbstractContextManager[Sink]:
        made.append(_Memory(shape, dtype))
        return nullcontext(made[0])

    write_recording(model, source, open_memory, **options)
    return torch.from_numpy(made[0].array)


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
    model: EATModel, source: str, window: int | None = None, hop: int | None = None, batch_size: int = BATCH_SIZE
) -> Iterator[ScoredWindow]:
    """Class scores of a recording of any length, window by window, in constant memory.

    Args:
        model: a fine-tuned model.
        source: path or container address.
        window: frames of a window; None is the length that the model was trained with.
        hop: frames from one window to the next; None is half a window.
        batch_size: windows computed at once.

    Raises:
        DataError: for a recording that cannot be read.
        ConfigError: for windows that do not fit together.
        CheckpointError: for a model that was not fine-tuned.
    """
    check_model(model)
    window, rate = window or model.front_end.target_length, model.front_end.sample_rate
    with AudioStream(source, **model.front_end.reading()) as stream:
        duration = stream.samples / rate
        plan = plan_windows(model, stream.samples, window, hop)
        for windows, clips in read_windows(model, stream, plan, batch_size):
            with torch.inference_mode():
                scores = model.scores(clips, rate, target_length=window, batch_size=batch_size).cpu()
            for place, row in zip(windows, scores, strict=True):
                start, end, *slot = (min(model.seconds(frame), duration) for frame in place)
                yield ScoredWindow(start, end, (slot[0], slot[1]), row)
