"""AudioSet: the official segment lists and a folder of clips named by YouTube id, or of HDF5 packs."""

from __future__ import annotations

import argparse
import csv
import os
import re
import sys
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ...audio.recordings import AUDIO_SUFFIXES
from ...errors import ConfigError, DataError
from ...files import replacing
from ...progress import progress
from ..labels import DESCRIPTORS, Label, read_descriptors, write_descriptors
from ..manifest import holdable
from ..search import PACK_SUFFIXES, find_files, read_pack_keys
from .measure import for_each
from .output import MISSING, UNREADABLE, Clips, check_folder, measure, normalize, write_split, write_weights

CLASS_LIST = "class_labels_indices.csv"

_CLIP_NAME = re.compile(r"Y?([A-Za-z0-9_-]{11})(?:_(\d+(?:\.\d+)?)(?:_\d+(?:\.\d+)?)?)?")


class Segments:
    """The rows of segment lists: id, start, labels. Two million of them take a few hundred megabytes.

    Args:
        paths: the lists; a clip that stands in several rows counts once.
        labels: the classes.

    Raises:
        DataError: for a list that cannot be read, a row that is none, or a label that is not among ``labels``.
    """

    def __init__(self, paths: Sequence[str], labels: Sequence[Label]) -> None:
        self.row: dict[str, int] = {}
        """The number of each id's row, in order."""
        self.starts = array("d")
        self.labels: list[tuple[str, ...]] = []
        self.repeated = 0
        self._combinations: dict[str, tuple[str, ...]] = {}
        self._names = {label.name for label in labels}
        for path in paths:
            self._read(path)
        if not self.row:
            raise DataError(f"{', '.join(paths)} list no clips.")

    def __len__(self) -> int:
        return len(self.labels)

    def _read(self, path: str) -> None:
        try:
            with open(path, encoding="utf-8-sig", newline="") as handle:
                rows = csv.reader(handle, skipinitialspace=True)
                for fields in progress(rows, description=os.path.basename(path), unit="row"):
                    if not fields or fields[0].startswith("#"):
                        continue
                    try:
                        start = float(fields[1])
                        text = fields[3] if len(fields) == 4 else ",".join(fields[3:])
                        labels = self._combinations.get(text) or self._combination(text)
                    except (IndexError, ValueError):
                        if not len(self):  # a header without the comment mark
                            continue
                        raise DataError(
                            f"line {rows.line_num} of {path} is {','.join(fields)[:80]!r}; "
                            'it must be YTID, start, end, "label,label".'
                        ) from None
                    except KeyError as error:
                        raise DataError(
                            f"line {rows.line_num} of {path} has the label {error.args[0]!r}, which is not in the "
                            "class list; give the list that belongs to it with --labels."
                        ) from None
                    if self.row.setdefault(fields[0], len(self)) == len(self):
                        self.starts.append(start)
                        self.labels.append(labels)
                    else:
                        self.repeated += 1
        except OSError as error:
            raise DataError(f"the segment list {path} cannot be read ({error.strerror}).") from None
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"the segment list {path} is not a CSV table in UTF-8 ({error}).") from None

    def _combination(self, text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
        if not names:
            raise ValueError("no label")
        for name in names:
            if name not in self._names:
                raise KeyError(name)
        self._combinations[text] = names
        return names

    def match(self, clip: str, start: str | None) -> int | None:
        """The row of a clip's id, if the start in its file name is that row's in seconds or in milliseconds."""
        row = self.row.get(clip)
        if row is None or start is None:
            return row
        listed, named = self.starts[row], float(start)
        return row if abs(named - listed) < 1.0 or abs(named - 1000.0 * listed) < 1000.0 else None


def parse_clip_name(path: str) -> tuple[str, str | None] | None:
    """YouTube id and start from a path such as ``a/Y<id>.wav`` or ``<id>_<start>_<end>.flac``; None for others."""
    name = path.rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    if dot and f".{suffix.lower()}" in AUDIO_SUFFIXES:
        name = stem
    found = _CLIP_NAME.fullmatch(name)
    return (found[1], found[2]) if found else None


def pack_clips(path: str) -> list[str] | str:
    """The addresses of an HDF5 pack's data sets, or why it cannot be opened."""
    try:
        return [f"{path}/{key}" for key in read_pack_keys(path)]
    except DataError as error:
        return str(error)


def list_clips(root: str, workers: int, problems: list[str]) -> Iterator[str]:
    """Every recording in a folder, also those inside HDF5 packs, as paths relative to it.

    Packs that cannot be opened are named on stderr and in ``problems``.
    """
    packs = []
    for path in find_files(root, AUDIO_SUFFIXES + PACK_SUFFIXES):
        if path.lower().endswith(PACK_SUFFIXES):
            packs.append(os.path.join(root, path))
        else:
            yield path
    for clips in for_each(pack_clips, packs, "packs", workers, chunk=1):
        if isinstance(clips, str):
            print(clips, file=sys.stderr)
            problems.append(clips)
        else:
            yield from (path.removeprefix(root).lstrip("/") for path in clips)


def find_clips(root: str, lists: Sequence[Segments], workers: int, problems: list[str]) -> list[list[str]]:
    """Look for the listed clips in one folder; ``problems`` receives what could not be searched.

    Returns:
        For each list the path of each row's clip, empty where there is none. Of several the first by name is taken.
    """
    found = [[""] * len(segments) for segments in lists]
    for path in progress(list_clips(root, workers, problems), description="searching", unit="file"):
        parsed = parse_clip_name(path)
        if parsed is None or not holdable(path):
            continue
        for segments, paths in zip(lists, found, strict=True):
            row = segments.match(*parsed)
            if row is not None and (not paths[row] or path < paths[row]):
                paths[row] = path
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``python -m EAT.prepare audioset``."""
    parser.add_argument("audio", metavar="AUDIO_FOLDER", help="the clips, or HDF5 packs of them; sub-folders included")
    parser.add_argument("data", metavar="DATA_FOLDER", help="where manifests and labels go")
    parser.add_argument(
        "--train-segments",
        nargs="+",
        default=[],
        metavar="CSV",
        help="balanced_train_segments.csv (AS-20K), or that and unbalanced_train_segments.csv (AS-2M)",
    )
    parser.add_argument("--eval-segments", nargs="+", default=[], metavar="CSV", help="eval_segments.csv")
    parser.add_argument("--eval-audio", metavar="FOLDER", help="the evaluation clips, if they are elsewhere")
    parser.add_argument("--labels", metavar="CSV", help=f"the class list (default: {CLASS_LIST} beside a segment list)")
    parser.add_argument(
        "--assume-samples",
        type=int,
        metavar="N",
        help="write this as every clip's length instead of opening two million files; training skips unreadable ones",
    )


def class_list(args: argparse.Namespace) -> str:
    """The class list's path: what was given, or what lies beside a segment list. Raises ConfigError for neither."""
    if args.labels:
        return args.labels
    folders = [os.path.dirname(path) for path in [*args.train_segments, *args.eval_segments]]
    for folder in [*folders, args.audio]:
        if os.path.exists(os.path.join(folder, CLASS_LIST)):
            return os.path.join(folder, CLASS_LIST)
    raise ConfigError(f"there is no {CLASS_LIST} beside the segment lists; give the class list with --labels.")


def run(args: argparse.Namespace) -> int:
    """Prepare AudioSet; 1 when some clips could not be read."""
    if not args.train_segments and not args.eval_segments:
        raise ConfigError("there is nothing to prepare; give --train-segments, --eval-segments or both.")
    if args.assume_samples is not None and args.assume_samples < 1:
        raise ConfigError(f"--assume-samples is {args.assume_samples}; it must be at least 1.")
    audio = check_folder(args.audio, "the folder of AudioSet's clips")
    eval_audio = check_folder(args.eval_audio, "the folder of the evaluation clips") if args.eval_audio else audio
    labels = read_descriptors(class_list(args))
    wanted = [("train", audio, args.train_segments), ("eval", eval_audio, args.eval_segments)]
    lists = {name: (root, Segments(paths, labels)) for name, root, paths in wanted if paths}
    found: dict[str, Clips] = {}
    problems: list[str] = []
    for root in dict.fromkeys(root for root, _ in lists.values()):
        here = {name: segments for name, (folder, segments) in lists.items() if folder == root}
        places = find_clips(root, list(here.values()), args.workers, problems)
        for (name, segments), paths in zip(here.items(), places, strict=True):
            samples = np.array([args.assume_samples or UNREADABLE if path else MISSING for path in paths])
            found[name] = Clips(root, paths, segments.labels, samples, list(segments.row))
            if args.assume_samples is None:
                measure(found[name], args.workers, f"{name}: lengths")
    data = Path(args.data)
    write_descriptors(data / DESCRIPTORS, labels)
    for name, clips in found.items():
        usable = write_split(data, name, clips)
        report_losses(data, name, clips, lists[name][1].repeated)
        if name == "train":
            write_weights(data, usable.labels or [])
            normalize(data, usable, args)
    return 1 if problems or any(clips.unreadable() for clips in found.values()) else 0


def report_losses(data: Path, name: str, clips: Clips, repeated: int) -> None:
    """Say which rows have no clip of their own."""
    if repeated:
        print(f"{name}: {repeated:,} rows repeat a clip of an earlier row and were passed over")
    if clips.missing():
        missing = data / f"{name}.missing"
        with replacing(missing) as handle:
            rows = zip(clips.ids or [], clips.samples.tolist(), strict=True)
            handle.writelines(f"{clip}\n" for clip, samples in rows if samples == MISSING)
        print(f"{name}: ids of the missing clips -> {missing}")
