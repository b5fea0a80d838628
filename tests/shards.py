"""Tars of recordings, as data sets are stored for training."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path


def write_shards(folder: Path, clips: Sequence[Path], each: int) -> list[Path]:
    """Tars ``0.tar``, ``1.tar``, ... of so many clips each, in their order, each beside a text of its name."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for number, first in enumerate(range(0, len(clips), each)):
        shards.append(folder / f"{number}.tar")
        with tarfile.open(shards[-1], "w") as tar:
            for clip in clips[first : first + each]:
                tar.add(clip, clip.name)
                note = tarfile.TarInfo(f"{clip.stem}.txt")
                tar.addfile(note)
    return shards
