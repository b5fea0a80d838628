"""The clip data set in the shape that fairseq's iterators want."""

from __future__ import annotations

from typing import Any

import numpy as np
from fairseq.data import FairseqDataset

from ..data.clips import ClipDataset


class FairseqClips(ClipDataset, FairseqDataset):
    """Every clip counts one token, so batches are ``dataset.batch_size`` clips."""

    split = ""
    """Which split these clips are, as batches say."""

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Fairseq's name for :meth:`ClipDataset.collate`, with what fairseq asks of a batch."""
        batch = self.collate(samples)
        clips = batch["clips"]
        return {**batch, "id": clips, "nsentences": len(clips), "seed": self.seed, "split": self.split}

    def ordered_indices(self) -> np.ndarray:
        """This epoch's order, from (seed, epoch) alone; fairseq shuffles the batches cut from it once more."""
        return np.random.default_rng((self.seed, self.epoch)).permutation(len(self))

    def num_tokens(self, index: int) -> int:
        """One: batches are made of a number of clips, all of one length."""
        return 1

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        """One for each clip."""
        return np.ones(len(indices), dtype=np.int64)

    def size(self, index: int) -> int:
        """One."""
        return 1

    @property
    def supports_fetch_outside_dataloader(self) -> bool:
        """Whether fairseq may read a first batch in the main process: no, workers do all the reading."""
        return False
