"""Clips with labels, and what augmentation draws for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..errors import DataError
from .augmentation import DRAWN, Augmentation, batch_rng
from .clips import ClipDataset

WAVEFORM_STREAM, FILTERBANK_STREAM = 1, 2
"""Streams of a clip's random numbers; 0 is its crop's."""


class LabelledClips(ClipDataset):
    """Adds targets to batches and, in training, rolls and scales waveforms and draws what augments filterbanks.

    Args:
        labels: class indices of each clip of the manifest.
        classes: how many classes there are.
        single_label: whether every clip must have exactly one.
        augmentation: None leaves clips as they are.
        kwargs: as :class:`ClipDataset` takes them.

    Raises:
        DataError: where ``single_label`` and a clip has several.
    """

    def __init__(
        self,
        *args: Any,
        labels: Sequence[Sequence[int]],
        classes: int,
        single_label: bool,
        augmentation: Augmentation | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.classes = classes
        self.augmentation = augmentation
        # Two flat arrays, which worker processes share, instead of millions of lists, which they would copy.
        counts = np.fromiter((len(clip) for clip in labels), dtype=np.int64, count=len(labels))
        if single_label and (counts > 1).any():
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

    def __getitem__(self, index: int) -> dict[str, Any]:
        """As :meth:`ClipDataset.__getitem__`; where clips are augmented, ``drawn`` holds their random numbers."""
        item = super().__getitem__(index)
        if self.augmentation is None or "error" in item:
            return item
        index, shape = item["index"], (self.front_end.target_length, self.front_end.bins)
        item["waveform"] = self.augmentation.waveform(item["waveform"], self.rng(index, WAVEFORM_STREAM))
        item["drawn"] = self.augmentation.draw(self.rng(index, FILTERBANK_STREAM), *shape)
        return item

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """As :meth:`ClipDataset.collate`.

        With ``targets`` (B, classes) uint8 and, where clips are augmented, ``drawn`` (B, 7) float64 and the weight
        ``mixing`` for :func:`augmented`.
        """
        batch = super().collate(items)
        batch["targets"] = torch.from_numpy(self.targets(batch["clips"]))
        if self.augmentation is not None:
            drawn = [item["drawn"] for item in items if "drawn" in item]
            batch["drawn"] = torch.tensor(drawn, dtype=torch.float64).view(-1, len(DRAWN))
            batch["mixing"] = self.augmentation.draw_mixing(batch_rng(self.seed, self.epoch, batch["clips"]))
        return batch
