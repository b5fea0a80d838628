"""A folder of recordings: labelled by its sub-folders or by a table, or without labels."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from ...audio.stored import member as member_of
from ...errors import ConfigError, DataError
from ..events import events_by_clip, events_file, write_events
from ..labels import DESCRIPTORS, label_names, write_descriptors
from ..search import find_files
from ..shards import Found, find_recordings, read_beside
from .division import cross_validation, divide, divide_groups, groups_of, rarest_labels
from .output import (
    Clips,
    check_folder,
    listed_clips,
    measure,
    normalize,
    remove_absent,
    write_folds,
    write_split,
)
from .tables import read_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``python -m EAT.prepare folder``."""
    parser.add_argument("source", metavar="AUDIO_FOLDER", help="the recordings; sub-folders are searched too")
    parser.add_argument("data", metavar="DATA_FOLDER", help="where manifests and labels go")
    labelling = parser.add_mutually_exclusive_group()
    labelling.add_argument(
        "--labels", metavar="CSV", help="a table of files and labels (default: a class a sub-folder)"
    )
    labelling.add_argument(
        "--events", metavar="TSV", help="a table of events with the columns filename, onset, offset, event_label"
    )
    labelling.add_argument(
        "--label-member",
        metavar="ENDING",
        help="label recordings in tars by the members beside them, as webdataset has them: cls, txt or json:FIELD",
    )
    labelling.add_argument("--unlabelled", action="store_true", help="recordings without labels, for pre-training")
    parser.add_argument("--file-column", default="file", help="the table's column of paths (default: file)")
    parser.add_argument("--label-column", default="label", help="its column of labels (default: label)")
    parser.add_argument("--label-separator", metavar="TEXT", help="what stands between a clip's labels, such as ','")
    grouping = parser.add_mutually_exclusive_group()
    grouping.add_argument(
        "--group", metavar="COLUMN", help="the table's column of groups, such as speaker; a group stays in one split"
    )
    grouping.add_argument(
        "--group-pattern",
        metavar="REGEX",
        help="the same from the paths: what the brackets hold, such as '^[^/]+/(\\w+?)_'",
    )
    parser.add_argument(
        "--valid",
        type=float,
        default=0.0,
        metavar="FRACTION",
        help="fraction for 'valid' (default 0); of each fold's training clips with --folds",
    )
    held_out = parser.add_mutually_exclusive_group()
    held_out.add_argument(
        "--eval", type=float, metavar="FRACTION", help="fraction for 'eval' (default 0.2 with labels, 0 without)"
    )
    held_out.add_argument(
        "--folds", type=int, metavar="K", help="write DATA_FOLDER/fold1 ... foldK, each fold's clips being its 'eval'"
    )


def run(args: argparse.Namespace) -> int:
    """Prepare a folder; 1 when some clips could not be read."""
    root = check_folder(args.source, "the folder of the recordings")
    events: dict[str, list[tuple[float, float, str]]] = {}
    clips, displays = find_events(args, root, events) if args.events else find_clips(args, root)
    measure(clips, args.workers)
    incomplete = clips.missing() or clips.unreadable() or clips.damaged_shards
    usable = clips.usable()
    if not len(usable):
        raise DataError(f"none of the {len(clips):,} recordings in {root} could be read.")
    if args.events and args.folds is not None:
        raise ConfigError("--folds needs labels of clips; of --events divide by --valid and --eval.")
    classes, groups = rarest_labels(usable), find_groups(args, clips)
    if args.events:  # clips themselves have no labels
        clips.labels = None
    lost = np.flatnonzero(clips.samples <= 0)
    # What cannot be used is counted where most clips are, so that the counts add up.
    kept = np.flatnonzero(clips.samples > 0)
    if groups is not None:
        groups = [groups[index] for index in kept]
    data = Path(args.data)
    if args.folds is not None:
        folds = cross_validation(classes, groups, args.folds, args.valid, args.seed)
        listed = [{split: kept[positions].tolist() for split, positions in splits.items()} for splits in folds]
        for splits in listed:
            splits["train"] += lost.tolist()
        write_folds(data, clips, listed, label_names(displays), args)
        return 1 if incomplete else 0
    fraction = args.eval if args.eval is not None else 0.0 if usable.labels is None else 0.2
    if groups is None:
        splits = divide(classes, fraction, args.valid, args.seed)
    else:
        splits = divide_groups(classes, groups, fraction, args.valid, args.seed)
    if usable.labels is not None:
        write_descriptors(data / DESCRIPTORS, label_names(displays))
        print(f"{len(displays):,} classes -> {data / DESCRIPTORS}")
    remove_absent(data, splits)
    for split, positions in splits.items():
        indices = kept[positions]
        written = write_split(data, split, clips.take(np.concatenate([indices, lost]) if split == "train" else indices))
        if args.events:
            write_events(events_file(data, split), ((path, events[path]) for path in written.paths))
        if split == "train":
            normalize(data, written, args)
    return 1 if incomplete else 0


def find_events(
    args: argparse.Namespace, root: str, events: dict[str, list[tuple[float, float, str]]]
) -> tuple[Clips, list[str]]:
    """The recordings, with the classes of their events as labels, and the classes' display names.

    ``events`` is given each recording's: onset and offset in seconds, and the name of the class.
    """
    paths = sorted(find_files(root))
    if not paths:
        raise DataError(f"{root} holds no recordings, nor do its sub-folders.")
    found = events_by_clip(args.events, paths, f"the folder {root}")
    displays = sorted({label for clip in found for *_, label, _ in clip})
    if not displays:
        raise DataError(f"the events {args.events} list none.")
    names = dict(zip(displays, (label.name for label in label_names(displays)), strict=True))
    for path, clip in zip(paths, found, strict=True):
        events[path] = [(onset, offset, names[label]) for onset, offset, label, _ in clip]
    labels = [tuple(dict.fromkeys(label for *_, label in events[path])) for path in paths]
    return Clips(root, paths, labels, np.zeros(len(paths), dtype=np.int64)), displays


def find_groups(args: argparse.Namespace, clips: Clips) -> list[str] | None:
    """Each clip's group, where ``clips`` are all that are listed; None where there are no groups.

    Raises:
        ConfigError: for a column without a table.
    """
    if args.group_pattern is not None:
        return groups_of(clips.paths, args.group_pattern)
    if args.group is None:
        return None
    if not args.labels:
        raise ConfigError("--group names a column of the table --labels; without one give --group-pattern.")
    return [row[args.group] for row in read_table(args.labels, [args.file_column, args.group])]


def find_clips(args: argparse.Namespace, root: str) -> tuple[Clips, list[str]]:
    """The recordings with their labels, and the classes' display names."""
    if args.labels:
        rows = read_table(args.labels, [args.file_column, args.label_column])
        given = [row[args.label_column] for row in rows]
        labels = [_labels(text, args.label_separator) for text in given]
        empty = next((row[args.file_column] for row, clip in zip(rows, labels, strict=True) if not clip), None)
        if empty is not None:
            raise DataError(f"{args.labels} gives {empty} no label.")
        paths = [row[args.file_column] for row in rows]
        outside = next((path for path in paths if path.startswith("/") or ".." in path.split("/")), None)
        if outside is not None:
            raise DataError(f"{args.labels} lists {outside}; paths must be relative to {root} and stay inside it.")
        repeated = next((path for path, count in Counter(paths).items() if count > 1), None)
        if repeated is not None:
            raise DataError(f"{args.labels} lists {repeated} more than once; give a clip's labels in one row.")
        damaged = 0
        if not os.path.exists(os.path.join(root, paths[0])):  # perhaps they are members of shards
            found = _found(root)
            inside = {name: _below(root, address) for address, name in found.members}
            paths, damaged = [inside.get(path, path) for path in paths], len(found.damage)
        named, displays = _named(labels)
        clips = listed_clips(root, paths, named, args.labels)
        clips.damaged_shards = damaged
        return clips, displays
    found = _found(root)
    paths = [name for _, name in found.members]
    if not paths:
        raise DataError(f"{root} holds no recordings, nor do its sub-folders, nor shards (.tar) of them.")
    unread = np.zeros(len(paths), dtype=np.int64)
    clips = Clips(root, [_below(root, address) for address, _ in found.members], None, unread)
    clips.damaged_shards = len(found.damage)
    loose = [path for path in paths if "/" not in path]
    if args.label_member:
        clips.labels, displays = _named(_labels_beside(found, args.label_member, args.label_separator))
        return clips, displays
    if args.unlabelled or len(loose) == len(paths):
        if not args.unlabelled:
            print(f"{root} has no sub-folders of recordings, so clips get no labels")
        return clips, []
    if loose:
        raise DataError(
            f"{loose[0]} and {len(loose) - 1} more recordings in {root} lie in no sub-folder, so their class is "
            "unknown; move them, or give --labels CSV or --unlabelled."
        )
    clips.labels, displays = _named([(path.split("/")[0],) for path in paths])
    return clips, displays


def _named(labels: list[tuple[str, ...]]) -> tuple[list[tuple[str, ...]], list[str]]:
    """Each clip's labels by the classes' names, and the display names of all classes."""
    displays = sorted({label for clip in labels for label in clip})
    names = dict(zip(displays, (label.name for label in label_names(displays)), strict=True))
    return [tuple(names[label] for label in clip) for clip in labels], displays


def _labels(text: str, separator: str | None) -> tuple[str, ...]:
    texts = text.split(separator) if separator else [text]
    return tuple(dict.fromkeys(label.strip() for label in texts if label.strip()))


def _labels_beside(found: Found, member: str, separator: str | None) -> list[tuple[str, ...]]:
    """Each recording's labels from the member beside it.

    Raises:
        ConfigError: for recordings that are no members of tars.
        DataError: for one without such a member, or a member without a label.
    """
    ending, _, key = member.partition(":")
    texts: dict[str, dict[str, str]] = {}
    made = []
    for address, name in found.members:
        stored, inside = member_of(address), os.path.splitext(name)[0]
        if stored is None:
            raise ConfigError(f"--label-member is for recordings in tars, and {address} is a file of its own.")
        shard = stored.archive
        if shard not in texts:
            texts[shard] = read_beside(shard, ending)
        if inside not in texts[shard]:
            raise DataError(f"{shard} has no {inside}.{ending} beside {name}.")
        labels = _labels_in(texts[shard][inside], key, separator)
        if not labels:
            raise DataError(f"{inside}.{ending} in {shard} gives {name} no label{f' under {key!r}' if key else ''}.")
        made.append(labels)
    return made


def _labels_in(text: str, key: str, separator: str | None) -> tuple[str, ...]:
    """The labels in a text, or in a field of it if it is JSON; none where there are none."""
    if not key:
        return _labels(text, separator)
    try:
        value = json.loads(text)[key]
    except (ValueError, LookupError, TypeError):
        return ()
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str | int) for one in values):
        return ()
    return tuple(dict.fromkeys(label for one in values for label in _labels(str(one), separator)))


def _found(root: str) -> Found:
    """A folder's recordings, or its shards'; damaged shards are named on stderr."""
    found = find_recordings(root)
    for sentence in found.damage:
        print(sentence, file=sys.stderr)
    return found


def _below(root: str, address: str) -> str:
    return address[len(os.path.join(root, "")) :]
