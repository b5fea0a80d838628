"""The command ``python -m EAT.prepare``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..data.prepare import audioset, esc50, folder, speech_commands
from ..data.prepare.output import add_common_arguments, check_common_arguments
from .command_line import described, exit_status

DATA_SETS = {
    "audioset": (audioset, "AudioSet: the official segment lists, and clips named by YouTube id or HDF5 packs"),
    "esc50": (esc50, "ESC-50: its repository, to five folds"),
    "speech_commands": (speech_commands, "Speech Commands v2: the unpacked archive with its official lists"),
    "folder": (
        folder,
        "any folder: a class a sub-folder, a table of labels or of events, or no labels (for pre-training)",
    ),
}

EXAMPLES = {
    "audioset": "python -m EAT.prepare audioset clips/ prepared/ --train-segments balanced_train_segments.csv "
    "--eval-segments eval_segments.csv",
    "esc50": "python -m EAT.prepare esc50 ESC-50-master/ prepared/",
    "speech_commands": "python -m EAT.prepare speech_commands speech_commands_v0.02/ prepared/\n"
    "python -m EAT.prepare speech_commands speech_commands_v0.02/ prepared12/ --classes 12",
    "folder": "python -m EAT.prepare folder recordings/ prepared/ --eval 0.2\n"
    "python -m EAT.prepare folder recordings/ prepared/ --labels table.csv\n"
    "python -m EAT.prepare folder recordings/ prepared/ --events events.tsv\n"
    "python -m EAT.prepare folder recordings/ prepared/ --unlabelled",
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = described(
        argparse.ArgumentParser(prog="python -m EAT.prepare"),
        "Write manifests, labels, sampling weights and normalisation constants for a data set.",
        "\n".join(EXAMPLES.values()),
    )
    commands = top.add_subparsers(dest="data_set", required=True, metavar="DATA_SET", help="one of")
    for name, (module, description) in DATA_SETS.items():
        command = described(commands.add_parser(name, help=description), f"{description}.", EXAMPLES[name])
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

    def run() -> int:
        check_common_arguments(args)
        return args.run(args)

    return exit_status(run)
