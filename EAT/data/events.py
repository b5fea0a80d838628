"""Events: which class is heard from when to when in the clips of a manifest.

``{split}.events.tsv`` beside ``{split}.tsv``: a table with tabs and the columns of DCASE, ``filename``, ``onset``,
``offset`` (seconds from the clip's beginning) and ``event_label``, in any order, or those of AudioSet's strong labels.
A line an event; a clip without any has a line with nothing but its name, or none.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import DataError
from ..files import replacing
from .labels import DESCRIPTORS, Label, clip_ids
from .manifest import Manifest

COLUMNS = ("filename", "onset", "offset", "event_label")
AUDIOSET_COLUMNS = ("segment_id", "start_time_seconds", "end_time_seconds", "label")
"""What AudioSet's strong labels call the same."""


class Event(NamedTuple):
    """One event of a clip."""

    onset: float
    """Seconds from the clip's beginning."""
    offset: float
    label: int
    """The class."""


def events_file(data: Path, split: str) -> Path:
    """Where a split's events are. That there are some makes its labels frame-wise ones."""
    return data / f"{split}.events.tsv"


def read_event_table(path: str | os.PathLike[str]) -> list[tuple[int, str, float, float, str]]:
    """Read a table of events.

    Returns:
        For each line its number, the clip, onset and offset in seconds and the label; of a clip without events the
        label is empty.

    Raises:
        DataError: for a file that is missing or no such table, and for an event that does not last.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            rows = [(number, row) for number, row in enumerate(csv.reader(handle, delimiter="\t"), 1) if any(row)]
    except OSError as error:
        raise DataError(f"the events {path} cannot be read ({error.strerror}).") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the events {path} are not a table with tabs in UTF-8 ({error}).") from None
    header = rows[0][1] if rows else []
    names = next((names for names in (COLUMNS, AUDIOSET_COLUMNS) if set(names) <= set(header)), None)
    if names is None:
        raise DataError(
            f"the first line of the events {path} is {' '.join(header)[:80]!r}; it must name the columns "
            f"{', '.join(COLUMNS)}, with tabs between them."
        )
    places = [header.index(name) for name in names]
    return [(number, *_event(row, places, f"line {number} of the events {path}")) for number, row in rows[1:]]


def _event(row: Sequence[str], places: Sequence[int], where: str) -> tuple[str, float, float, str]:
    clip, onset, offset, label = (row[place].strip() if place < len(row) else "" for place in places)
    if clip and not (onset or offset or label):
        return clip, 0.0, 0.0, ""
    try:
        start, end = float(onset), float(offset)
    except ValueError:
        start = end = math.nan
    if not clip or not label or not 0.0 <= start < end < math.inf:
        raise DataError(
            f"{where} is {' '.join(row)[:80]!r}; it must give a clip, an onset of 0 s or more, a later offset "
            "and a label."
        )
    return clip, start, end, label


def events_by_clip(
    path: str | os.PathLike[str], names: Sequence[str], listing: str
) -> list[list[tuple[float, float, str, str]]]:
    """Read a table of events, clip by clip. A clip is named by its path or its file's name, with or without ending.

    Args:
        path: the table.
        names: the clips' paths.
        listing: what they are listed in.

    Returns:
        For each clip onset and offset in seconds, label, and where in the table that stands.

    Raises:
        DataError: as :func:`read_event_table`, and for a clip that is none of them or might be several.
    """
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        for form in set(clip_ids(name)):
            places[form] = -1 if form in places else place
    places |= {name: place for place, name in enumerate(names)}  # a whole path says which of several of one name
    clips: list[list[tuple[float, float, str, str]]] = [[] for _ in names]
    for number, clip, onset, offset, label in read_event_table(path):
        where = f"line {number} of the events {path}"
        found = places.get(clip)
        if found is None or found < 0:
            what = "is not in" if found is None else "is the name of several clips of"
            raise DataError(
                f"{where} is of the clip {clip[:80]!r}, which {what} {listing}; give its path as it stands there."
            )
        if label:
            clips[found].append((onset, offset, label, where))
    return clips


def read_events(path: str | os.PathLike[str], manifest: Manifest, labels: Sequence[Label]) -> list[list[Event]]:
    """Read the events of a manifest's clips.

    Args:
        path: the table, see :func:`events_by_clip`.
        manifest: the clips.
        labels: the classes.

    Returns:
        Each clip's events by onset. Events of a class that overlap or touch are one.

    Raises:
        DataError: as :func:`events_by_clip`, and for a label that is not among ``labels``.
    """
    classes = {label.name: label.index for label in labels}
    clips = []
    names = [manifest.name(place) for place in range(len(manifest))]
    for found in events_by_clip(path, names, f"the manifest {manifest.path}"):
        unknown = next(((label, where) for *_, label, where in found if label not in classes), None)
        if unknown is not None:
            raise DataError(
                f"{unknown[1]} has the label {unknown[0][:80]!r}, which is not in the label descriptors; add it to "
                f"{DESCRIPTORS} or correct the line."
            )
        clips.append(joined(Event(onset, offset, classes[label]) for onset, offset, label, _ in found))
    return clips


def joined(events: Iterable[Event]) -> list[Event]:
    """Events by onset, those of a class that overlap or touch as one."""
    found: list[Event] = []
    open_events: dict[int, int] = {}
    for event in sorted(events):
        last = open_events.get(event.label)
        if last is not None and event.onset <= found[last].offset:
            found[last] = found[last]._replace(offset=max(found[last].offset, event.offset))
        else:
            open_events[event.label] = len(found)
            found.append(event)
    return found


def write_events(path: str | os.PathLike[str], clips: Iterable[tuple[str, Sequence[tuple[float, float, str]]]]) -> None:
    """Write each clip's events, (onset, offset, label) with times in seconds, as a table of :data:`COLUMNS`.

    Raises:
        DataError: where that is not possible.
    """
    with replacing(path) as handle:
        handle.write("\t".join(COLUMNS) + "\n")
        for clip, events in clips:
            handle.writelines(f"{clip}\t{onset:g}\t{offset:g}\t{label}\n" for onset, offset, label in events)
            if not events:
                handle.write(f"{clip}\t\t\t\n")


def step_targets(events: Sequence[Event], classes: int, steps: int, seconds: float, start: float = 0.0) -> np.ndarray:
    """Which classes are heard at each time step (docs/bat.md, section 11).

    A class is heard at step t where one of its events has begun and not ended at ``t * seconds``, both included; an
    event that lies between two such moments counts at the step in which it begins, so that none is lost.

    Args:
        events: of a clip.
        classes: how many there are.
        steps: T.
        seconds: of a step.
        start: where in the clip the first step begins.

    Returns:
        (T, classes) uint8.
    """
    targets = np.zeros((steps, classes), dtype=np.uint8)
    for event in events:
        onset, offset = (round((time - start) / seconds, 6) for time in (event.onset, event.offset))
        first, last = math.ceil(onset), math.floor(offset)
        if last < first:
            first = last = math.floor(onset)
        targets[max(0, first) : max(0, last + 1), event.label] = 1
    return targets
