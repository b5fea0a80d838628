"""Clips with labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..errors import DataError
from .clips import ClipDataset


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

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """As :meth:`ClipDataset.collate`, with ``targets`` (B, classes) uint8."""
        batch = super().collate(items)
        rows = batch["numbers"].tolist() if "numbers" in batch else batch["clips"]
        return {**batch, "targets": torch.from_numpy(self.targets(rows))}
