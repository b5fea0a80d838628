"""Speech Commands: the unpacked archive with its official lists, to train, valid and eval."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import soundfile

from ...errors import DataError
from ...files import replacing
from ..labels import DESCRIPTORS, label_names, write_descriptors
from ..search import find_files
from .output import check_folder, listed_clips, measure, normalize, write_split
from .tables import read_list

LISTS = {"valid": "validation_list.txt", "eval": "testing_list.txt"}
"""The official list of each split but ``train``, which is all the rest."""
WORDS = 35
"""Words in version 2."""
COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
"""The words of the task with 12 classes; all others are ``unknown``, and there is ``silence``."""
UNKNOWN, SILENCE = "unknown", "silence"
BACKGROUND = "_background_noise_"
"""The archive's folder of long recordings without words."""
FRACTIONS = {"train": (0.0, 0.8), "valid": (0.8, 0.9), "eval": (0.9, 1.0)}
"""The part of each background recording, by its whole seconds, that is a split's silence."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``python -m EAT.prepare speech_commands``."""
    parser.add_argument(
        "source", metavar="SPEECH_COMMANDS_FOLDER", help="the unpacked archive: a folder a word, and the official lists"
    )
    parser.add_argument("data", metavar="DATA_FOLDER", help="where manifests and labels go")
    parser.add_argument(
        "--classes",
        type=int,
        choices=(WORDS, 12),
        default=WORDS,
        help=f"a class for each of the {WORDS} words (default), or 12: ten of them, the others as one, and silence, "
        "cut from the background recordings",
    )


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
    few = args.classes != WORDS
    classes = {word: word if not few or word in COMMANDS else UNKNOWN for word in words}
    labels = label_names([*COMMANDS, UNKNOWN, SILENCE] if few else words)
    names: dict[str, tuple[str, ...]] = {word: (name,) for word, name in classes.items()}
    listed = {path for paths in lists.values() for path in paths}
    wrong = next((path for path in sorted(listed) if path.split("/")[0] not in names), None)
    if wrong is not None:
        raise DataError(f"the official lists name {wrong}, but {root} has no recordings in {wrong.split('/')[0]}.")
    paths = {"train": [path for path in found if path not in listed], **lists}
    data = Path(args.data)
    complete = True
    silence = write_silence(root, data) if few else {split: [] for split in paths}
    for split in paths:
        labelled = [names[path.split("/")[0]] for path in paths[split]] + [(SILENCE,)] * len(silence[split])
        folder, listed_paths = root, paths[split]
        if few:  # the archive's clips and our silence have a folder in common
            folder = os.path.commonpath([root, data.absolute()])
            absolute = [*(os.path.join(root, path) for path in paths[split]), *silence[split]]
            listed_paths = [os.path.relpath(path, folder).replace(os.sep, "/") for path in absolute]
        clips = listed_clips(folder, listed_paths, labelled, LISTS.get(split, "no list"))
        measure(clips, args.workers, f"{split}: lengths")
        write_descriptors(data / DESCRIPTORS, labels)
        usable = write_split(data, split, clips)
        if split == "train":
            normalize(data, usable, args)
        complete = complete and len(usable) == len(clips)
    return 0 if complete else 1


def write_silence(root: str, data: Path) -> dict[str, list[str]]:
    """Cut the background recordings into seconds, below ``data``; the paths of each split's.

    Raises:
        DataError: where there are none, or one cannot be read.
    """
    background = Path(root) / BACKGROUND
    found = sorted(background.glob("*.wav"))
    if not found:
        raise DataError(f"{background} holds no recordings, of which silence is cut; unpack the whole archive.")
    silence: dict[str, list[str]] = {split: [] for split in FRACTIONS}
    for path in found:
        try:
            samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise DataError(f"{path} cannot be read ({error}).") from None
        seconds = len(samples) // rate
        for split, edges in FRACTIONS.items():
            first, last = (round(edge * seconds) for edge in edges)
            for second in range(first, last):
                target = data.absolute() / SILENCE / split / f"{path.stem}_{second:03d}.wav"
                with replacing(target, "wb") as handle:
                    part: np.ndarray = samples[second * rate : (second + 1) * rate]
                    soundfile.write(handle, part, rate, format="WAV", subtype="PCM_16")
                silence[split].append(str(target))
    return silence
