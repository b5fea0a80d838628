"""Recordings decoded ahead by DataLoader workers, and put into batches of like length."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from ..audio.recordings import as_waveform, decode, open_recording
from ..audio.timeout import READ_SECONDS, within
from ..data.workers import WorkerWatch, explained
from ..errors import DataError
from ..network.front_end import FrontEnd
from .batches import Batch, Bucketing
from .model import EATModel
from .sources import Source

HELD_SECONDS = 1200.0
"""Decoded audio that may wait for others of its length: 77 MB."""


class Decoded(NamedTuple):
    """A recording that was decoded, is too long to be, or could not be."""

    index: int  # type: ignore[assignment]
    waveform: NDArray[np.float32] | None
    """(samples,) at the front end's rate; None for one that is long or could not be read."""
    problem: str | None
    """Why it could not be read."""


class _Decoder(Dataset):
    def __init__(self, sources: Sequence[Source], most: int | None, cut: bool, front_end: FrontEnd) -> None:
        self.sources, self.most, self.cut, self.reading = sources, most, cut, front_end.reading()
        self.watch = WorkerWatch()

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> Decoded:
        with self.watch.on(index):
            return self._decode(index)

    def explain_crash(self, error: str) -> str:
        """What a worker was on when it died, in one sentence; ``error`` is what the DataLoader says."""
        advice = "if that file is damaged leave it out of --source; what is done already will not be done again"
        return self.watch.explain_crash(error, lambda index: self.sources[index].address, advice)

    def _decode(self, index: int) -> Decoded:
        address = self.sources[index].address
        try:
            if not self.cut:
                recording = within(READ_SECONDS, address, lambda: open_recording(address))
                recording.close()
                if math.ceil(recording.frames * self.reading["rate"] / recording.rate) > (self.most or 0):
                    return Decoded(index, None, None)
            samples = self.most if self.cut else None
            excerpt = within(READ_SECONDS, address, lambda: decode(address, samples, **self.reading))
            return Decoded(index, as_waveform(excerpt).numpy(), None)
        except DataError as error:
            return Decoded(index, None, str(error))
        except MemoryError:
            return Decoded(index, None, f"{address} needs more memory to decode than there is.")


def _as_it_is(item: Any) -> Any:
    return item


def decode_ahead(
    model: EATModel, sources: Sequence[Source], max_frames: int, cut: bool, workers: int
) -> Iterator[Decoded]:
    """Decode recordings in order, ahead of whoever asks.

    Args:
        model: for whose front end.
        sources: which.
        max_frames: the longest that is decoded, in frames.
        cut: whether longer ones are cut, or only reported as long.
        workers: DataLoader workers that decode; 0 decodes in this process.

    Raises:
        DataError: where a worker died; it names the recording.
    """
    front_end = model.front_end
    most = replace(front_end, target_length=max_frames).samples if cut else front_end.samples_for(max_frames + 1) - 1
    decoder = _Decoder(sources, most, cut, front_end)
    with explained(decoder.explain_crash):
        # Arrays rather than tensors, and items rather than batches: a tensor sent between processes holds a file open.
        yield from DataLoader(
            decoder,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=workers,
            prefetch_factor=8 if workers else None,
        )


def by_length(
    model: EATModel, decoded: Iterator[Decoded], batch_size: int, frames: int | None
) -> Iterator[Batch[Decoded] | Decoded]:
    """Collect recordings into batches of equal padded length.

    A batch goes out when it is full, or when more than ``HELD_SECONDS`` of audio are waiting.

    Args:
        model: whose front end and patches decide on lengths.
        decoded: recordings.
        batch_size: clips of 10 s in a batch; of shorter ones more, of longer ones fewer.
        frames: pad all to this length; None pads each to its own, rounded up to whole patches.

    Yields:
        Batches; and, as they come, recordings that are long or could not be read.
    """
    bucketing: Bucketing[Decoded] = Bucketing(batch_size, HELD_SECONDS * model.front_end.sample_rate)
    for item in decoded:
        if item.waveform is None:
            yield item
        else:
            samples = len(item.waveform)
            yield from bucketing.add(item, frames or model.padded_frames(samples), samples)
    yield from bucketing.rest()
