"""What a comparison is run on: a folder to pre-train on, and tasks to judge by, clips in groups.

A task is a folder of folds, as ``eat prepare folder --folds`` writes it, each fold a group; or a data folder
(``train.tsv``, ``train.lbl``, ``label_descriptors.csv``) with ``groups.csv`` beside them, which has a line
``clip,group`` for each line of the manifest: official folds, or speakers. Clips of a group are never on both sides.
"""

from __future__ import annotations

import argparse
import csv
import io
import shutil
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from ..data.labels import DESCRIPTORS, read_descriptors, read_lbl
from ..data.manifest import Manifest
from ..data.prepare import folder as folders
from ..data.prepare.output import add_common_arguments, fold_folders
from ..data.prepare.tables import read_table
from ..errors import DataError
from ..files import replacing

GROUPS = "groups.csv"


class Table(NamedTuple):
    """A zip of the corpus with its table."""

    name: str
    label: str | None
    """The column of labels; None: to pre-train on."""
    group: str | None
    every: int = 1
    """Of the table's lines, every so many lines."""


TABLES = (Table("voices", None, None), Table("esc10", "class", "fold"), Table("fsdd", "digit", "speaker", every=3))
"""The corpus of ``docs/science.md``."""


class Task(NamedTuple):
    """Labelled clips in groups."""

    name: str
    sources: list[str]
    """The clips, for :func:`EAT.audio.recordings.read_audio`."""
    labels: np.ndarray
    """(clips,) class numbers."""
    groups: np.ndarray
    """(clips,) group numbers, in the order of the groups' names."""
    names: list[str]
    """The groups'."""


def read_task(name: str, folder: Path) -> Task:
    """A task from its folder.

    Raises:
        DataError: where a file is missing, a clip has several labels, or groups are too few to choose on and judge by.
    """
    task = read_folds(name, folder) if fold_folders(folder) else read_groups(name, folder)
    if len(task.names) < 5:
        raise DataError(f"{folder} has {len(task.names)} groups; five are needed to choose on three and judge by two.")
    return task


def read_folds(name: str, folder: Path) -> Task:
    """The clips that the folds of a cross-validation hold out, each fold a group.

    Raises:
        DataError: where there are fewer than three folds, a file is missing, or a clip has several labels.
    """
    folds = fold_folders(folder)
    if len(folds) < 3:
        raise DataError(
            f"{folder} has {len(folds)} folds; three are needed, by eat prepare folder ... --folds 3 or more."
        )
    parts = [labelled(fold, "eval") for fold in folds]
    return Task(
        name,
        [source for manifest, _ in parts for source in sources(manifest)],
        np.concatenate([labels for _, labels in parts]),
        np.repeat(np.arange(len(folds)), [len(labels) for _, labels in parts]),
        [fold.name for fold in folds],
    )


def read_groups(name: str, folder: Path) -> Task:
    """The clips of a data folder, in the groups of its ``groups.csv``. Raises DataError as :func:`read_task` does."""
    manifest, labels = labelled(folder, "train")
    rows = read_table(folder / GROUPS, ["clip", "group"])
    groups = [row["group"] for row in rows]
    if [row["clip"] for row in rows] != [manifest.name(index) for index in range(len(manifest))]:
        raise DataError(f"{folder / GROUPS} does not list the clips of {manifest.path}, line by line.")
    names = sorted(set(groups))
    return Task(name, sources(manifest), labels, np.array([names.index(group) for group in groups]), names)


def labelled(folder: Path, split: str) -> tuple[Manifest, np.ndarray]:
    """A split's clips, and the class number of each. Raises DataError where a clip has no label or several."""
    manifest = Manifest(folder / f"{split}.tsv")
    truth = read_lbl(folder / f"{split}.lbl", manifest, read_descriptors(folder / DESCRIPTORS))
    if any(len(labels) != 1 for labels in truth):
        raise DataError(f"{folder} has clips without a label or with several; a comparison needs one a clip.")
    return manifest, np.array([labels[0] for labels in truth])


def sources(manifest: Manifest) -> list[str]:
    """Where each clip of a manifest is read from."""
    return [manifest.source(index) for index in range(len(manifest))]


def write_groups(folder: Path, group_of: dict[str, str]) -> None:
    """Write ``groups.csv`` for a prepared folder, from the group of each clip's path."""
    manifest = Manifest(folder / "train.tsv")
    with replacing(folder / GROUPS) as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["clip", "group"])
        for index in range(len(manifest)):
            writer.writerow([manifest.name(index), group_of[manifest.name(index)]])


def prepare_corpus(corpus: Path, folder: Path) -> None:
    """Unpack the corpus as 16-bit wav files and prepare its folders, unless that was done before.

    Args:
        corpus: where ``voices.zip``, ``esc10.zip``, ``fsdd.zip`` and their tables are.
        folder: where ``voices/``, ``esc10/`` and ``fsdd/`` go, with the recordings in ``audio/``.

    Raises:
        DataError: for a zip or a table that cannot be read.
    """
    for table in TABLES:
        data = folder / table.name
        if (data / "done").exists():
            continue
        shutil.rmtree(data, ignore_errors=True)
        columns = ["member", *(column for column in (table.label, table.group) if column is not None)]
        rows = read_table(corpus / f"{table.name}.csv", columns)[:: table.every]
        audio = folder / "audio" / table.name
        paths = {row["member"]: str(Path(row["member"]).with_suffix(".wav")) for row in rows}
        unpack(corpus / f"{table.name}.zip", audio, paths)
        arguments = [str(audio), str(data), "--eval", "0"]
        if table.label is None:
            arguments.append("--unlabelled")
        else:
            labels = data / "labels.csv"
            labels.parent.mkdir(parents=True)
            with open(labels, "w", newline="", encoding="utf-8") as handle:
                writer = csv.writer(handle, lineterminator="\n")
                writer.writerow(["file", "label"])
                writer.writerows([paths[row["member"]], row[table.label]] for row in rows)
            arguments += ["--labels", str(labels), "--normalization-clips", "0"]
        parser = argparse.ArgumentParser()
        folders.add_arguments(parser)
        add_common_arguments(parser)
        folders.run(parser.parse_args(arguments))
        if table.group is not None:
            write_groups(data, {paths[row["member"]]: row[table.group] for row in rows})
        (data / "done").touch()


def unpack(archive: Path, folder: Path, paths: dict[str, str]) -> None:
    """Decode members of a zip into 16-bit wav files under other names. Raises DataError."""
    try:
        with zipfile.ZipFile(archive) as opened:
            for member, path in paths.items():
                samples, rate = soundfile.read(io.BytesIO(opened.read(member)), dtype="int16")
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(target, samples, rate, subtype="PCM_16")
    except (OSError, KeyError, zipfile.BadZipFile, soundfile.LibsndfileError) as error:
        raise DataError(f"{archive} cannot be unpacked ({error}); fetch it again.") from None
