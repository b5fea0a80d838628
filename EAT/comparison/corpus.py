"""What a comparison is run on: a folder to pre-train on, and tasks to judge by, clips in groups.

A task is a data folder (``train.tsv``, ``train.lbl``, ``label_descriptors.csv``) with ``groups.csv`` beside them, which
has a line ``clip,group`` for each line of the manifest: official folds, or speakers. Clips of a group are never on both
sides.
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
from ..data.prepare.output import add_common_arguments
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
    manifest: Manifest
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
    manifest = Manifest(folder / "train.tsv")
    truth = read_lbl(folder / "train.lbl", manifest, read_descriptors(folder / DESCRIPTORS))
    if any(len(labels) != 1 for labels in truth):
        raise DataError(f"{folder} has clips without a label or with several; a comparison needs one a clip.")
    try:
        with open(folder / GROUPS, newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
        groups = [row["group"] for row in rows]
        clips = [row["clip"] for row in rows]
    except (OSError, KeyError, csv.Error) as error:
        raise DataError(
            f"{folder / GROUPS} cannot be read ({error}); it must have the columns clip and group, a line a clip."
        ) from None
    if clips != [manifest.name(index) for index in range(len(manifest))]:
        raise DataError(f"{folder / GROUPS} does not list the clips of {manifest.path}, line by line.")
    names = sorted(set(groups))
    if len(names) < 5:
        raise DataError(
            f"{folder / GROUPS} has {len(names)} groups; five are needed to choose on three and judge by two."
        )
    numbers = np.array([names.index(group) for group in groups])
    return Task(name, manifest, np.array([labels[0] for labels in truth]), numbers, names)


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
        with open(corpus / f"{table.name}.csv", newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))[:: table.every]
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
