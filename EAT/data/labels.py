"""Labels: what the classes are called, and which of them each clip of a manifest has.

``label_descriptors.csv``: ``index,label[,display name]``, with or without a header; AudioSet's own
``class_labels_indices.csv`` is one. ``{split}.lbl``: ``clip_id<TAB>label[,label...]``, a line a clip in the order of
``{split}.tsv``.
"""

from __future__ import annotations

import csv
import logging
import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError
from ..files import replacing
from .manifest import Manifest

logger = logging.getLogger("EAT")

DESCRIPTORS = "label_descriptors.csv"
"""The name under which a data folder keeps its label descriptors."""

_UNWRITABLE = re.compile(r"[,\t\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+")


class Label(NamedTuple):
    """One class."""

    index: int  # type: ignore[assignment]
    """Its place among the classifier's outputs."""
    name: str
    """What label files call it, such as ``/m/09x0r``."""
    display: str
    """What people call it, such as ``Speech``."""


def label_names(displays: Iterable[str]) -> list[Label]:
    """Number classes in the order given, under names that a label file can hold.

    Commas, tabs and line breaks separate labels and clips there, so a name has ``_`` in their place; the display name
    keeps them. Names that become equal that way are told apart by a number.
    """
    labels: list[Label] = []
    taken: set[str] = set()
    for index, display in enumerate(displays):
        stem = _UNWRITABLE.sub("_", display.strip()) or "_"
        name, number = stem, 1
        while name in taken:
            number += 1
            name = f"{stem}_{number}"
        taken.add(name)
        labels.append(Label(index, name, display))
    return labels


def read_descriptors(path: str | os.PathLike[str]) -> list[Label]:
    """Read label descriptors, with or without a header line.

    Returns:
        The labels ordered by index, which runs from 0 to n - 1.

    Raises:
        DataError: for a file that is missing or no such table, an index or a label that stands twice, or a gap.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            rows = [(line, row) for line, row in enumerate(csv.reader(handle, skipinitialspace=True), 1) if row]
    except OSError as error:
        raise DataError(
            f"the label descriptors {path} cannot be read ({error.strerror}); "
            "each of its lines must be index,label[,display name]."
        ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the label descriptors {path} are not a CSV table in UTF-8 ({error}).") from None
    if rows and class_number(rows[0][1][0]) < 0:
        rows = rows[1:]
    labels: dict[int, Label] = {}
    names: set[str] = set()
    for line, row in rows:
        index, name = class_number(row[0]), row[1].strip() if len(row) > 1 else ""
        if index < 0 or not name:
            raise DataError(
                f"row {line} of the label descriptors {path} is {','.join(row)[:80]!r}; "
                "it must be index,label[,display name]."
            )
        if index in labels or name in names:
            what = f"index {index}" if index in labels else f"label {name!r}"
            raise DataError(f"row {line} of the label descriptors {path} has the {what} of an earlier row.")
        names.add(name)
        labels[index] = Label(index, name, row[2].strip() if len(row) > 2 and row[2].strip() else name)
    if not labels:
        raise DataError(f"the label descriptors {path} hold no labels; each line must be index,label[,display name].")
    missing = next((index for index in range(len(labels)) if index not in labels), None)
    if missing is not None:
        raise DataError(
            f"the label descriptors {path} have {len(labels)} labels but none with index {missing}; "
            f"indices must run from 0 to {len(labels) - 1}."
        )
    return [labels[index] for index in range(len(labels))]


def class_number(text: str) -> int:
    """The class number a table states in at most nine plain digits, -1 for anything else.

    ``int`` takes other alphabets' digits too, and stumbles over white space that ``str.strip`` removes.
    """
    digits = text.strip()
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else -1


def write_descriptors(path: str | os.PathLike[str], labels: Sequence[Label]) -> None:
    """Write label descriptors. Raises DataError where that is not possible."""
    with replacing(path) as handle:
        csv.writer(handle, lineterminator="\n").writerows(labels)


def read_class_weights(path: str | os.PathLike[str], labels: Sequence[Label]) -> list[float]:
    """Read ``label,weight`` lines, one for each class, in any order.

    Returns:
        The weights in the order of ``labels``.

    Raises:
        DataError: for a file that is missing or no such table, a class that is missing, unknown or there twice, or a
            weight that is negative or not finite.
    """
    form = "each of its lines must be label,weight, one for each class"
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            rows = [(line, row) for line, row in enumerate(csv.reader(handle, skipinitialspace=True), 1) if row]
    except OSError as error:
        raise DataError(f"the class weights {path} cannot be read ({error.strerror}); {form}.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the class weights {path} are not a CSV table in UTF-8 ({error}).") from None
    names, weights = {label.name for label in labels}, dict[str, float]()
    for line, row in rows:
        try:
            name, weight = row[0].strip(), float(row[1])
        except (IndexError, ValueError):
            raise DataError(f"row {line} of the class weights {path} is {','.join(row)[:80]!r}; {form}.") from None
        if name not in names or name in weights:
            which = "is there already" if name in weights else f"is not in {DESCRIPTORS}"
            raise DataError(f"row {line} of the class weights {path} has the label {name[:80]!r}, which {which}.")
        if not (math.isfinite(weight) and weight >= 0):
            raise DataError(f"row {line} of the class weights {path} is {weight:g}; it must be finite and at least 0.")
        weights[name] = weight
    missing = next((label.name for label in labels if label.name not in weights), None)
    if missing is not None:
        raise DataError(f"the class weights {path} have none for {missing!r}; {form}.")
    return [weights[label.name] for label in labels]


def read_lbl(path: str | os.PathLike[str], manifest: Manifest, labels: Sequence[Label]) -> list[list[int]]:
    """Read the labels of a manifest's clips.

    Args:
        path: the ``.lbl`` file.
        manifest: the clips it belongs to, in the same order.
        labels: the classes.

    Returns:
        The class indices of each clip, none of them twice.

    Raises:
        DataError: for a file that is missing or has another number of clips than the manifest or the clips in another
            order, a clip without a label, or a label that is not among ``labels``.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(
            f"the label file {path} cannot be read ({error.strerror}); it must hold a line "
            f"clip_id<TAB>label[,label...] for each clip of {manifest.path}."
        ) from None
    index = {label.name.encode(): label.index for label in labels}
    # Most clips share few combinations of labels; each is looked up once.
    known: dict[bytes, list[int]] = {}
    clips: list[list[int]] = []
    ids: list[tuple[int, str]] = []
    for number, line in enumerate(lines, 1):
        line = line.rstrip(b"\r")
        if not line:
            continue
        clip, _, text = line.rpartition(b"\t")
        if text not in known or not clip:
            known[text] = _indices(clip, text, index, f"line {number} of the label file {path}")
        clips.append(known[text])
        ids.append((number, clip.decode("utf-8", "replace")))
    if len(clips) != len(manifest):
        raise DataError(
            f"the label file {path} has {len(clips)} clips, but the manifest {manifest.path} has {len(manifest)}; "
            "they must list the same clips in the same order."
        )
    _check_ids(path, ids, manifest)
    return [list(clip) for clip in clips]


def _check_ids(path: str | os.PathLike[str], ids: Sequence[tuple[int, str]], manifest: Manifest) -> None:
    """Raise DataError where a line's clip id is that of another line's clip; ids that are no clip's are not compared.

    An id is a clip's where it is its path or its file's name, with or without the ending.
    """
    others: set[int] = set()  # hashes, because of millions of names
    unknown = 0
    for place, (number, clip) in enumerate(ids):
        stem = os.path.splitext(clip)[0]
        if not {clip, stem}.isdisjoint(clip_ids(manifest.name(place))):
            continue
        others = others or {hash(form) for index in range(len(manifest)) for form in clip_ids(manifest.name(index))}
        if hash(clip) in others or hash(stem) in others:
            raise DataError(
                f"line {number} of the label file {path} is of the clip {clip[:80]!r}, where the manifest "
                f"{manifest.path} has {manifest.name(place)[:80]!r}; both must list the same clips in the same order."
            )
        unknown += 1
    if unknown:
        logger.info(f"{unknown:,} of {len(ids):,} clip ids in {path} are the names of no clip, and were not compared")


def clip_ids(name: str) -> tuple[str, ...]:
    """What a clip may be called: its path and its file's name, with and without the ending."""
    base = os.path.basename(name)
    return name, os.path.splitext(name)[0], base, os.path.splitext(base)[0]


def _indices(clip: bytes, text: bytes, index: dict[bytes, int], where: str) -> list[int]:
    names = [name.strip() for name in text.split(b",") if name.strip()]
    if not clip or not names:
        named = (clip or text).decode("utf-8", "replace")[:80]
        raise DataError(f"{where} gives {named!r} no label; each must be clip_id<TAB>label[,label...].")
    unknown = next((name for name in names if name not in index), None)
    if unknown is not None:
        raise DataError(
            f"{where} has the label {unknown.decode('utf-8', 'replace')[:80]!r}, which is not in the label "
            f"descriptors; add it to {DESCRIPTORS} or correct the line."
        )
    return list(dict.fromkeys(index[name] for name in names))


def write_lbl(path: str | os.PathLike[str], clips: Iterable[tuple[str, Sequence[str]]]) -> None:
    """Write a label file from (clip id, label names) pairs. Raises DataError where that is not possible."""
    with replacing(path) as handle:
        handle.writelines(f"{clip}\t{','.join(names)}\n" for clip, names in clips)
