"""Recordings in batches of equal padded length, so that no clip is computed with others' padding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")

UNIT = 1024
"""Frames of the clips, 10 s long, that a batch size counts."""


def clips_per_batch(frames: int, batch_size: int) -> int:
    """As many clips of ``frames`` as ``batch_size`` clips of 10 s have frames, but at least one."""
    return max(1, batch_size * UNIT // max(frames, UNIT // 16))


class Batch(NamedTuple, Generic[Item]):
    """Items of one padded length."""

    frames: int
    items: list[Item]


class Bucketing(Generic[Item]):
    """Collects items by padded length and gives batches out when they are full.

    Args:
        batch_size: clips of 10 s in a batch; of shorter ones more, of longer ones fewer.
        held: samples that may wait for others of their length; above it the largest batch goes out as it is.
    """

    def __init__(self, batch_size: int, held: float = float("inf")) -> None:
        self.batch_size, self.held = batch_size, held
        self._waiting: dict[int, Batch[Item]] = {}
        self._samples: dict[int, int] = {}

    def add(self, item: Item, frames: int, samples: int = 0) -> Iterator[Batch[Item]]:
        """Take an item of so many padded frames and samples; yields a batch where one is ready."""
        batch = self._waiting.setdefault(frames, Batch(frames, []))
        batch.items.append(item)
        self._samples[frames] = self._samples.get(frames, 0) + samples
        full = len(batch.items) >= clips_per_batch(frames, self.batch_size)
        if full or sum(self._samples.values()) > self.held:
            ready = frames if full else max(self._waiting, key=lambda f: f * len(self._waiting[f].items))
            self._samples.pop(ready)
            yield self._waiting.pop(ready)

    def rest(self) -> Iterator[Batch[Item]]:
        """What is left, in the order of arrival."""
        yield from self._waiting.values()
