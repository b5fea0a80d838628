"""Recordings decoded ahead by worker processes, and put into batches of like length."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from ..audio.recordings import as_waveform, decode, open_recording
from ..audio.timeout import within
from ..data.workers import ReadingWatch
from ..errors import DataError
from ..network.front_end import SAMPLE_RATE, sample_count
from ..network.settings import PATCH_SIZE
from .model import padded_frames
from .sources import Source

HELD_SECONDS = 1200.0
"""Decoded audio that may wait for others of its length: 77 MB."""


READ_SECONDS = 60.0
"""A recording that is still being read after so long is given up as unreadable."""


class Decoded(NamedTuple):
    """A recording that was decoded, is too long to be, or could not be."""

    index: int  # type: ignore[assignment]
    waveform: NDArray[np.float32] | None
    """(samples,) at 16 kHz; None for one that is long or could not be read."""
    problem: str | None
    """Why it could not be read."""


class _Decoder(Dataset):
    def __init__(self, sources: Sequence[Source], max_frames: int, cut: bool) -> None:
        self.sources, self.max_frames, self.cut = sources, max_frames, cut
        self.watch = ReadingWatch()

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> Decoded:
        with self.watch.on(index):
            return self._decode(index)

    def blame(self, error: str) -> str:
        """What a decoding process was on when it died, in one sentence; ``error`` is what the data loader says."""
        advice = "if that file is damaged leave it out of --source; what is done already will not be done again"
        return self.watch.blame(error, lambda index: self.sources[index].address, advice)

    def _decode(self, index: int) -> Decoded:
        address = self.sources[index].address
        try:
            if self.cut:
                return Decoded(index, self._read(address, sample_count(self.max_frames)), None)
            recording = within(READ_SECONDS, address, lambda: open_recording(address))
            recording.close()
            if padded_frames(math.ceil(recording.frames * SAMPLE_RATE / recording.rate)) > self.max_frames:
                return Decoded(index, None, None)
            return Decoded(index, self._read(address, None), None)
        except DataError as error:
            return Decoded(index, None, str(error))
        except MemoryError:
            return Decoded(index, None, f"{address} needs more memory to decode than there is.")

    @staticmethod
    def _read(address: str, samples: int | None) -> NDArray[np.float32]:
        return as_waveform(within(READ_SECONDS, address, lambda: decode(address, samples))).numpy()


def _as_it_is(item: Any) -> Any:
    return item


def decode_ahead(sources: Sequence[Source], max_frames: int, cut: bool, workers: int) -> Iterator[Decoded]:
    """Decode recordings in order, ahead of whoever asks.

    Args:
        sources: which.
        max_frames: the longest that is decoded, in frames of 10 ms.
        cut: whether longer ones are cut, or only reported as long.
        workers: processes that decode; 0 decodes in this one.

    Raises:
        DataError: where a decoding process died; it names the recording.
    """
    decoder = _Decoder(sources, max_frames, cut)
    try:
        # Arrays rather than tensors, and items rather than batches: a tensor sent between processes holds a file open.
        yield from DataLoader(
            decoder,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=workers,
            prefetch_factor=8 if workers else None,
        )
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(decoder.blame(str(error))) from None


class Batch(NamedTuple):
    """Recordings of one padded length."""

    frames: int
    """That length, in frames of 10 ms; a multiple of 16."""
    indices: list[int]
    waveforms: list[NDArray[np.float32]]


def by_length(decoded: Iterator[Decoded], batch_size: int, frames: int | None) -> Iterator[Batch | Decoded]:
    """Collect recordings into batches of equal padded length, so that no clip is computed with others' padding.

    A batch goes out when it is full, or when more than ``HELD_SECONDS`` of audio are waiting.

    Args:
        decoded: recordings.
        batch_size: clips of 10 s in a batch; of shorter ones more, of longer ones fewer.
        frames: pad all to this length; None pads each to its own, rounded up to a multiple of 16.

    Yields:
        Batches; and, as they come, recordings that are long or could not be read.
    """
    waiting: dict[int, Batch] = {}
    held = 0
    for item in decoded:
        if item.waveform is None:
            yield item
            continue
        length = frames or padded_frames(len(item.waveform))
        batch = waiting.setdefault(length, Batch(length, [], []))
        batch.indices.append(item.index)
        batch.waveforms.append(item.waveform)
        held += len(item.waveform)
        full = len(batch.indices) >= clips_per_batch(length, batch_size)
        if full or held > HELD_SECONDS * SAMPLE_RATE:
            batch = batch if full else max(waiting.values(), key=lambda b: b.frames * len(b.indices))
            held -= sum(len(waveform) for waveform in batch.waveforms)
            yield waiting.pop(batch.frames)
    yield from waiting.values()


def clips_per_batch(frames: int, batch_size: int) -> int:
    """As many clips of ``frames`` as ``batch_size`` clips of 10 s have frames, but at least one."""
    return max(1, batch_size * 1024 // max(frames, PATCH_SIZE * 4))
