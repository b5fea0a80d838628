"""Speech Commands: the unpacked archive with its official lists, to train, valid and eval."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ...errors import DataError
from ..labels import DESCRIPTORS, label_names, write_descriptors
from ..search import find_files
from .output import check_folder, listed_clips, measure, normalize, write_split
from .tables import read_list

LISTS = {"valid": "validation_list.txt", "eval": "testing_list.txt"}
"""The official list of each split but ``train``, which is all the rest."""
WORDS = 35
"""Words in version 2."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``python -m EAT.prepare speech_commands``."""
    parser.add_argument(
        "source", metavar="SPEECH_COMMANDS_FOLDER", help="the unpacked archive: a folder a word, and the official lists"
    )
    parser.add_argument("data", metavar="DATA_FOLDER", help="where manifests and labels go")


def run(args: argparse.Namespace) -> int:
    """Prepare Speech Commands; 1 when some clips could not be read."""
    root = check_folder(args.source, "the unpacked archive of Speech Commands")
    lists = {split: read_list(os.path.join(root, name)) for split, name in LISTS.items()}
    # Folders such as _background_noise_ hold no words.
    found = sorted(path for path in find_files(root) if "/" in path and not path.startswith("_"))
    words = sorted({path.split("/")[0] for path in found})
    if not words:
        raise DataError(f"{root} has no folders of recordings; give the folder that holds a folder for each word.")
    if len(words) != WORDS:
        print(f"{root} has {len(words)} words; version 2 has {WORDS}")
    labels = label_names(words)
    names: dict[str, tuple[str, ...]] = {word: (label.name,) for word, label in zip(words, labels, strict=True)}
    listed = {path for paths in lists.values() for path in paths}
    wrong = next((path for path in sorted(listed) if path.split("/")[0] not in names), None)
    if wrong is not None:
        raise DataError(f"the official lists name {wrong}, but {root} has no recordings in {wrong.split('/')[0]}.")
    paths = {"train": [path for path in found if path not in listed], **lists}
    data = Path(args.data)
    complete = True
    for split in paths:
        labelled = [names[path.split("/")[0]] for path in paths[split]]
        clips = listed_clips(root, paths[split], labelled, LISTS.get(split, "no list"))
        measure(clips, args.workers, f"{split}: lengths")
        write_descriptors(data / DESCRIPTORS, labels)
        usable = write_split(data, split, clips)
        if split == "train":
            normalize(data, usable, args)
        complete = complete and len(usable) == len(clips)
    return 0 if complete else 1
