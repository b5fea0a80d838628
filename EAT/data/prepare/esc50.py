"""ESC-50: its repository as it is downloaded, to five folds."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ...errors import DataError
from ..labels import Label, class_number, label_names
from .output import check_folder, listed_clips, measure, write_folds
from .tables import read_table

FOLDS = ("1", "2", "3", "4", "5")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``python -m EAT.prepare esc50``."""
    parser.add_argument("source", metavar="ESC50_FOLDER", help="ESC-50's repository, with meta/esc50.csv and audio/")
    parser.add_argument("data", metavar="DATA_FOLDER", help="where the folders fold1 ... fold5 go")


def run(args: argparse.Namespace) -> int:
    """Prepare five folds, each with the other four as its training split; 1 when some clips could not be read."""
    root = os.path.join(check_folder(args.source, "ESC-50's repository"), "audio")
    table = os.path.join(args.source, "meta", "esc50.csv")
    rows = read_table(table, ["filename", "fold", "target", "category"])
    labels = classes(rows, table)
    strange = next((row for row in rows if row["fold"] not in FOLDS), None)
    if strange is not None:
        raise DataError(f"{table} puts {strange['filename']} into fold {strange['fold']!r}; folds are 1 to 5.")
    names: list[tuple[str, ...]] = [(labels[class_number(row["target"])].name,) for row in rows]
    clips = listed_clips(root, [row["filename"] for row in rows], names, table)
    measure(clips, args.workers)
    numbered = [(index, row["fold"]) for index, row in enumerate(rows)]
    folds = [
        {
            "train": [index for index, fold in numbered if fold != held_out],
            "eval": [index for index, fold in numbered if fold == held_out],
        }
        for held_out in FOLDS
    ]
    write_folds(Path(args.data), clips, folds, labels, args)
    return 1 if clips.missing() or clips.unreadable() else 0


def classes(rows: list[dict[str, str]], table: str) -> list[Label]:
    """The classes by their number in the table. Raises DataError where numbers and names do not go together."""
    named: dict[int, str] = {}
    for row in rows:
        number = class_number(row["target"])
        if number < 0 or named.setdefault(number, row["category"]) != row["category"]:
            raise DataError(
                f"{table} gives {row['filename']} the class number {row['target']!r} and the name {row['category']!r}, "
                "which do not fit its other rows."
            )
    if sorted(named) != list(range(len(named))) or len(set(named.values())) != len(named):
        raise DataError(f"the class numbers in {table} do not run from 0 to {len(named) - 1}, one for each name.")
    return label_names(named[number] for number in range(len(named)))
