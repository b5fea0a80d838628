"""Going through the clips of a manifest in order, in batches of filterbanks on a device."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..network.front_end import FrontEnd
from ..progress import progress_bar
from ..system import default_workers
from .clips import ClipDataset, batch_filterbank
from .manifest import Manifest
from .workers import explained


class FilterbankBatch(NamedTuple):
    """Some clips of a manifest."""

    clips: list[int]
    """Their numbers."""
    filterbank: Tensor
    """(B, 1, target_length, 128), normalised, on the device."""
    lengths: Tensor
    """(B,) 16 kHz samples of each clip, cut to the target length, on the CPU."""


def filterbank_batches(
    manifest: Manifest,
    front_end: FrontEnd,
    batch_size: int,
    workers: int | None,
    device: torch.device,
    description: str,
) -> Iterator[FilterbankBatch]:
    """Read a manifest's clips in order, with a progress bar; those that cannot be read are named on stderr.

    Args:
        manifest: which clips.
        front_end: length and normalisation.
        batch_size: clips a batch.
        workers: processes that read; 0 reads in this one, None chooses.
        device: where filterbanks are computed.
        description: for the progress bar.

    Yields:
        Batches, without the clips that could not be read.
    """
    clips = ClipDataset(manifest, front_end)
    workers = default_workers(len(manifest)) if workers is None else workers
    loader = DataLoader(clips, batch_size, num_workers=workers, collate_fn=clips.collate)  # type: ignore[arg-type]
    bar = progress_bar(len(manifest), description)
    try:
        with explained(clips.explain_crash):
            for batch in loader:
                for _, reason in batch["skipped"]:
                    print(reason, file=sys.stderr)
                if batch["clips"]:
                    lengths = batch["lengths"]
                    moved = {**batch, "waveforms": batch["waveforms"].to(device), "lengths": lengths.to(device)}
                    yield FilterbankBatch(batch["clips"], batch_filterbank(moved, front_end), lengths)
                bar.update(len(batch["clips"]) + len(batch["skipped"]))
    finally:
        bar.close()
