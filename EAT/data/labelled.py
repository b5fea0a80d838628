"""Clips with labels: of the whole clip, or of every time step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..errors import DataError
from .clips import ClipDataset
from .events import Event, step_targets


class LabelledClips(ClipDataset):
    """Adds targets to batches.

    Args:
        labels: class indices of each clip of the manifest.
        classes: how many classes there are.
        multi_label: whether a clip may have several.
        kwargs: as :class:`ClipDataset` takes them.

    Raises:
        DataError: where a clip has several and may not.
    """

    def __init__(
        self,
        *args: Any,
        labels: Sequence[Sequence[int]],
        classes: int,
        multi_label: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.classes = classes
        # Two flat arrays, which worker processes share, instead of millions of lists, which they would copy.
        counts = np.fromiter((len(clip) for clip in labels), dtype=np.int64, count=len(labels))
        if not multi_label and (counts > 1).any():
            first = int(np.argmax(counts > 1))
            raise DataError(
                f"{self.manifest.name(first)} in {self.manifest.path} has {counts[first]} labels; one label a clip is "
                "what task.labels=single asks for: correct the label file or set task.labels=multi."
            )
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self._labels = np.fromiter((label for clip in labels for label in clip), np.int32, int(self._starts[-1]))

    def targets(self, clips: Sequence[int]) -> np.ndarray:
        """(clips, classes) uint8, 1 at each clip's labels."""
        targets = np.zeros((len(clips), self.classes), dtype=np.uint8)
        for row, clip in zip(targets, clips, strict=True):
            row[self._labels[self._starts[clip] : self._starts[clip + 1]]] = 1
        return targets

    def clips_of_classes(self) -> list[np.ndarray]:
        """For each class the indices of its clips, ascending."""
        clips = np.repeat(np.arange(len(self.manifest)), np.diff(self._starts))
        order = np.argsort(self._labels, kind="stable")
        ends = np.cumsum(np.bincount(self._labels, minlength=self.classes))
        return np.split(clips[order], ends[:-1])

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """As :meth:`ClipDataset.collate`, with ``targets`` (B, classes) uint8."""
        batch = super().collate(items)
        rows = batch["numbers"].tolist() if "numbers" in batch else batch["clips"]
        return {**batch, "targets": torch.from_numpy(self.targets(rows))}


class ClipsWithEvents(ClipDataset):
    """Adds targets of every time step to batches.

    Args:
        events: of each clip of the manifest.
        classes: how many there are.
        patch_size: frames of a time step.
        kwargs: as :class:`ClipDataset` takes them.
    """

    def __init__(
        self, *args: Any, events: Sequence[Sequence[Event]], classes: int, patch_size: int, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.events, self.classes = events, classes
        self.steps = self.front_end.target_length // patch_size
        self.step_seconds = patch_size * self.front_end.hop / self.front_end.sample_rate

    def targets(self, clips: Sequence[int], starts: Sequence[float] | None = None) -> np.ndarray:
        """(clips, T, classes) uint8, 1 where a class is heard; a clip's first step begins at its start, or at 0 s."""
        begins = [0.0] * len(clips) if starts is None else starts
        steps = [
            step_targets(self.events[clip], self.classes, self.steps, self.step_seconds, start)
            for clip, start in zip(clips, begins, strict=True)
        ]
        return np.stack(steps) if steps else np.zeros((0, self.steps, self.classes), dtype=np.uint8)

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """As :meth:`ClipDataset.collate`, with ``targets`` (B, T, classes) uint8."""
        batch = super().collate(items)
        rows = batch["numbers"].tolist() if "numbers" in batch else batch["clips"]
        starts = {item["index"]: item["start"] for item in items if "error" not in item}
        return {**batch, "targets": torch.from_numpy(self.targets(rows, [starts.get(row, 0.0) for row in rows]))}
