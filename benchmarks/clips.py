"""Recordings for the benchmarks, and the loader of training over them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch.utils.data import DataLoader

from EAT.data.clips import ClipDataset, batch_filterbank
from EAT.data.manifest import Manifest
from EAT.network.front_end import FrontEnd
from EAT.training.prefetching import Prefetched, sender


def make_clips(folder: Path, count: int, seconds: float = 10.0, rate: int = 32_000, mixed: bool = False) -> Manifest:
    """Write wav files of 16-bit noise and tones, and their manifest ``train.tsv``.

    Args:
        folder: to write to.
        count: files.
        seconds: their length; with ``mixed`` the longest, the shortest being a twentieth of it.
        rate: in Hz.
        mixed: whether lengths differ.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    lines = [str(folder)]
    for number in range(count):
        length = int(rate * seconds * (rng.uniform(0.05, 1.0) if mixed else 1.0))
        tone = np.sin(np.arange(length) * rng.uniform(0.01, 1.0))
        wave = 0.2 * tone + 0.1 * rng.standard_normal(length)
        name = f"{number:05d}.wav"
        soundfile.write(folder / name, wave.astype(np.float32), rate, subtype="PCM_16")
        lines.append(f"{name}\t{length}")
    (folder / "train.tsv").write_text("\n".join(lines) + "\n")
    return Manifest(str(folder / "train.tsv"))


def batches(
    manifest: Manifest, batch_size: int, workers: int, where: str, device: torch.device, frames: int = 1024
) -> Iterator[tuple[torch.Tensor, list[int]]]:
    """Filterbanks on the device and the clips' numbers, endlessly, through the data set and loader of training."""
    clips = ClipDataset(manifest, FrontEnd(frames), where=where)
    options: dict[str, Any] = {"prefetch_factor": 4, "persistent_workers": True} if workers else {}
    loader = DataLoader(
        clips, batch_size, num_workers=workers, collate_fn=clips.collate, pin_memory=device.type == "cuda",
        shuffle=True, drop_last=True, **options,
    )  # fmt: skip
    send = sender(device.type == "cpu")
    while True:
        for batch in loader if send is None else Prefetched(iter(loader), send):
            yield batch_filterbank(batch, clips.front_end), batch["clips"]
