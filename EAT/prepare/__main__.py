"""The command ``python -m EAT.prepare``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..errors import EATError
from . import audioset, esc50, folder, speech_commands
from .output import add_common_arguments, check_common_arguments

DATA_SETS = {
    "audioset": (audioset, "AudioSet: the official segment lists, and clips named by YouTube id or HDF5 packs"),
    "esc50": (esc50, "ESC-50: its repository, to five folds"),
    "speech_commands": (speech_commands, "Speech Commands v2: the unpacked archive with its official lists"),
    "folder": (folder, "any folder: a class a sub-folder, a table of labels, or no labels (for pre-training)"),
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m EAT.prepare",
        description="Write manifests, labels, sampling weights and normalisation constants for a data set.",
    )
    commands = top.add_subparsers(dest="data_set", required=True, metavar="DATA_SET")
    for name, (module, description) in DATA_SETS.items():
        command = commands.add_parser(name, help=description, description=f"{description}.")
        module.add_arguments(command)
        add_common_arguments(command)
        command.set_defaults(run=module.run)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare a data set.

    Returns:
        0, 1 when some clips could not be read, or 2 when the arguments cannot be used.
    """
    args = parser().parse_args(arguments)
    try:
        check_common_arguments(args)
        return args.run(args)
    except EATError as error:
        print(f"EAT.prepare: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
