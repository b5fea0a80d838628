"""What every data set's preparation shares: measuring clips, writing splits, and saying what was found."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...audio.recordings import file_of
from ...errors import ConfigError, DataError
from ...files import replacing
from ...system import usable_cores
from ..labels import DESCRIPTORS, Label, write_descriptors, write_lbl
from ..manifest import holdable, write_manifest
from ..normalization import FILE
from .measure import clip_length, for_each
from .statistics import collect_statistics, normalization, write_normalization

WEIGHTS = "weights"
"""The name under which a data folder keeps the training clips' sampling weights."""

UNREADABLE, MISSING = 0, -1
"""What stands for the length of a clip that cannot be used."""


@dataclass
class Clips:
    """Clips that should be there, of one split or of several."""

    root: str
    paths: list[str]
    """Relative to the root; anything for a clip that is missing."""
    labels: list[tuple[str, ...]] | None
    """Label names of each clip; None where clips have none."""
    samples: np.ndarray
    """Each clip's length, or UNREADABLE or MISSING."""
    ids: list[str] | None = None
    """What the label file calls the clips; None takes the paths without their suffixes."""
    damaged_shards: int = 0
    """Tars that were read as far as they can be."""

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: Sequence[int] | np.ndarray) -> Clips:
        """The clips at these positions."""
        return Clips(
            self.root,
            [self.paths[index] for index in indices],
            None if self.labels is None else [self.labels[index] for index in indices],
            self.samples[np.asarray(indices, dtype=np.int64)],
            None if self.ids is None else [self.ids[index] for index in indices],
        )

    def usable(self) -> Clips:
        """Those that were found and can be read."""
        return self.take(np.flatnonzero(self.samples > 0))

    def sources(self) -> list[str]:
        """Addresses of the clips."""
        return [os.path.join(self.root, path) for path in self.paths]

    def unreadable(self) -> int:
        """How many were found but cannot be read."""
        return int((self.samples == UNREADABLE).sum())

    def missing(self) -> int:
        """How many were not found."""
        return int((self.samples == MISSING).sum())


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of every preparation."""
    parser.add_argument(
        "--normalization-clips",
        type=int,
        default=10_000,
        metavar="N",
        help="take the normalisation constants from N training clips drawn at random (default 10000; 0: none)",
    )
    parser.add_argument(
        "--normalization-seconds",
        type=float,
        default=10.0,
        metavar="S",
        help="of each of them, read the first S seconds (default 10)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of everything drawn at random (default 1)")
    parser.add_argument(
        "--num-workers",
        dest="workers",
        type=int,
        default=usable_cores(),
        metavar="W",
        help="processes that read clips; 0: none but this one (default: one a core)",
    )


def check_common_arguments(args: argparse.Namespace) -> None:
    """Raises ConfigError for values that make no sense."""
    if args.normalization_clips < 0 or args.workers < 0 or args.seed < 0:
        raise ConfigError("--normalization-clips, --seed and --num-workers must be at least 0.")
    if not 0.1 <= args.normalization_seconds <= 3600:
        raise ConfigError(f"--normalization-seconds is {args.normalization_seconds:g}; it must lie in [0.1, 3600].")


def check_folder(path: str, what: str) -> str:
    """The folder's absolute path. Raises ConfigError where there is none."""
    if not os.path.isdir(path):
        raise ConfigError(f"{path} is not a folder; give {what}.")
    return os.path.abspath(path)


def listed_clips(root: str, paths: list[str], labels: list[tuple[str, ...]], listing: str) -> Clips:
    """Clips that a table lists; those that are not there are named on stderr."""
    samples = np.zeros(len(paths), dtype=np.int64)
    for index, path in enumerate(paths):
        if not os.path.isfile(file_of(os.path.join(root, path))):
            samples[index] = MISSING
            print(f"{os.path.join(root, path)} is listed in {listing} but does not exist.", file=sys.stderr)
    return Clips(root, paths, labels, samples)


def measure(clips: Clips, workers: int, description: str = "lengths") -> None:
    """Open the header of every clip that is not missing, and name on stderr those that cannot be used."""
    usable = []
    for index in np.flatnonzero(clips.samples != MISSING).tolist():
        clips.samples[index] = UNREADABLE
        if holdable(clips.paths[index]):
            usable.append(index)
        else:
            print(f"{clips.paths[index]!r} has a name that a manifest cannot hold; rename it.", file=sys.stderr)
    usable.sort(key=clips.paths.__getitem__)  # neighbours on the disk, and in a pack, one after the other
    sources = [os.path.join(clips.root, clips.paths[index]) for index in usable]
    lengths = for_each(clip_length, sources, description, workers, chunk=64)
    for index, length in zip(usable, lengths, strict=True):
        if isinstance(length, str):
            print(length, file=sys.stderr)
        else:
            clips.samples[index] = length


def write_split(data: Path, split: str, clips: Clips) -> Clips:
    """Write a split's manifest and labels, in place of any earlier ones of that name, and say what was found.

    Returns:
        The clips that were written.

    Raises:
        DataError: where none can be used.
    """
    manifest = data / f"{split}.tsv"
    usable = clips.usable()
    if not len(usable):
        raise DataError(
            f"{split}: none of {len(clips):,} clips listed could be used ({clips.missing():,} missing, "
            f"{clips.unreadable():,} unreadable), so {manifest} is not written; check {clips.root}."
        )
    remove_split(data, split)
    write_manifest(manifest, usable.root, zip(usable.paths, usable.samples.tolist(), strict=True))
    if usable.labels is not None:
        ids = usable.ids or [os.path.splitext(path)[0] for path in usable.paths]
        write_lbl(data / f"{split}.lbl", zip(ids, usable.labels, strict=True))
    print(
        f"{split}: {len(clips):,} clips listed, {len(clips) - clips.missing():,} found, {clips.missing():,} missing, "
        f"{clips.unreadable():,} unreadable; {len(usable):,} -> {manifest}"
    )
    return usable


def write_folds(
    data: Path, clips: Clips, folds: Sequence[Mapping[str, Sequence[int]]], labels: Sequence[Label], args: Any
) -> None:
    """Write the folders ``fold1``, ``fold2``, ... of a cross-validation, in place of any that were there before.

    Args:
        data: the folder of those folders.
        clips: all that are listed.
        folds: for each of them, clips by split.
        labels: the classes; none where clips have no labels.
        args: the flags of every preparation.
    """
    usable = np.flatnonzero(clips.samples > 0)
    statistics = {}
    if args.normalization_clips:  # each clip's once, although several folds train on it
        drawn = collect_statistics(
            clips.take(usable).sources(),
            args.normalization_clips,
            args.normalization_seconds,
            args.seed,
            args.workers,
        )
        statistics = {int(usable[position]): values for position, values in drawn.items()}
    for number, splits in enumerate(folds, 1):
        folder = data / f"fold{number}"
        if labels:
            write_descriptors(folder / DESCRIPTORS, labels)
        remove_absent(folder, splits)
        for split, indices in splits.items():
            write_split(folder, split, clips.take(indices))
        if args.normalization_clips:
            report_normalization(folder, [statistics[index] for index in splits["train"] if index in statistics])
    for folder in fold_folders(data)[len(folds) :]:
        remove_absent(folder, {})


def fold_folders(data: Path) -> list[Path]:
    """The folders of a cross-validation, in their order: ``fold1``, ``fold2``, ... with a training split each."""
    found = {
        int(path.parent.name[4:]): path.parent
        for path in data.glob("fold*/train.tsv")
        if path.parent.name[4:].isdecimal()
    }
    return [found[number] for number in sorted(found)]


def remove_absent(data: Path, splits: Container[str]) -> None:
    """Remove what an earlier preparation wrote for other splits than these, and say so."""
    for split in ("train", "valid", "eval"):
        if split not in splits and remove_split(data, split):
            print(f"{split}: an earlier manifest was removed from {data}")


def remove_split(data: Path, split: str) -> bool:
    """Remove what an earlier preparation wrote for a split, so that nothing of it meets this one's files.

    Returns:
        Whether there was such a split.
    """
    existed = (data / f"{split}.tsv").exists()
    own = [f"{split}.tsv", f"{split}.lbl", f"{split}.events.tsv", f"{split}.missing"] + (
        [WEIGHTS, FILE] if split == "train" else []
    )
    for name in own:
        (data / name).unlink(missing_ok=True)
    return existed


def write_weights(data: Path, labels: Sequence[tuple[str, ...]]) -> None:
    """Write each clip's sampling weight: the sum over its labels of 1000 / (clips with that label + 0.01)."""
    counts = Counter(label for clip in labels for label in clip)
    weight = {label: 1000.0 / (count + 0.01) for label, count in counts.items()}
    with replacing(data / WEIGHTS) as handle:
        handle.writelines(f"{sum(map(weight.__getitem__, clip)):.10g}\n" for clip in labels)
    print(f"sampling weights of {len(labels):,} clips -> {data / WEIGHTS}")


def normalize(data: Path, train: Clips, args: argparse.Namespace) -> None:
    """Write the training split's normalisation constants, unless they are not wanted."""
    if args.normalization_clips:
        statistics = collect_statistics(
            train.sources(), args.normalization_clips, args.normalization_seconds, args.seed, args.workers
        )
        report_normalization(data, list(statistics.values()))


def report_normalization(data: Path, statistics: Sequence[np.ndarray]) -> None:
    """Join clips' statistics, write the constants and print them."""
    constants = normalization(statistics)
    write_normalization(data, constants)
    print(
        f"normalisation: mean {constants.mean:.3f}, standard deviation {constants.std:.3f} "
        f"over {constants.clips:,} clips -> {data / FILE}"
    )
