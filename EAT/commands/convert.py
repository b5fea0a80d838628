"""``python -m EAT.convert SRC DST``: a checkpoint from any format to any other that can hold it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from ..checkpoint.contents import Contents
from ..checkpoint.formats import FORMATS, WEIGHTS, keep_encoder, read_contents, write_checkpoint
from ..checkpoint.hub import locate
from ..errors import ConfigError, DataError
from .command_line import described, exit_status


def convert(source: str, destination: str, file_format: str | None = None, weights: str | None = None) -> Contents:
    """Convert a checkpoint. Every tensor that both formats know keeps its values and its type.

    Args:
        source: a checkpoint of any format.
        destination: the file or folder to write.
        file_format: ``eat``, ``published``, ``huggingface``, ``bat`` or ``bat_huggingface``. None follows from
            ``destination``: a folder or a name that ends in ``.safetensors`` is in the Hugging Face format of EAT or
            BAT; a ``.pt`` file is ``eat``, or ``published`` or ``bat`` if the source is ``eat``.
        weights: keep this encoder alone, the ``student``'s or the ``teacher``'s, without decoder and teacher. None
            keeps everything.

    Returns:
        What was written.

    Raises:
        CheckpointError: where the source cannot be read or the destination not written.
        ConfigError: for a format or weights that do not exist, or a destination that is the source.
    """
    source = locate(source)
    if os.path.exists(source) and os.path.exists(destination) and os.path.samefile(source, destination):
        raise ConfigError(f"{destination} is the source itself; give another destination.")
    contents = keep_encoder(source, read_contents(source), weights)
    return write_checkpoint(contents, destination, file_format or _guess_format(contents, destination))


def _guess_format(contents: Contents, destination: str) -> str:
    bat = contents.settings.positions == "bat"
    safetensors = destination.endswith((".safetensors", "/")) or os.path.isdir(destination)
    if safetensors or not os.path.splitext(destination)[1]:
        return "bat_huggingface" if bat else "huggingface"
    return "eat" if contents.format != "eat" else "bat" if bat else "published"


EXAMPLES = """
python -m EAT.convert EAT-base.pt EAT-base-hf --to huggingface
python -m EAT.convert EAT-base-hf EAT-base.pt --to published
python -m EAT.convert checkpoint_last.pt teacher.safetensors --weights teacher
python -m EAT.convert BAT-pretrained.pt BAT-hf --to bat_huggingface
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = described(
        argparse.ArgumentParser(prog="python -m EAT.convert"),
        "A checkpoint from any format (ours, EAT's published fairseq and Hugging Face ones, BAT's) to any other that "
        "can hold it.",
        EXAMPLES,
    )
    add = top.add_argument
    add("source", metavar="SRC", help="a checkpoint: one of ours, a published fairseq one, one of BAT's, or a "
        "Hugging Face folder or .safetensors file")  # fmt: skip
    add("destination", metavar="DST", help="file or folder to write")
    add("--to", choices=tuple(FORMATS), help="format to write; by default a folder or .safetensors is "
        "huggingface, and a .pt file is eat (published, if SRC is eat); of a BAT model bat_huggingface, and "
        "eat (bat, if SRC is eat)")  # fmt: skip
    add("--weights", choices=WEIGHTS, help="write this encoder alone, without decoder and teacher; by "
        "default everything is kept")  # fmt: skip
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, 0, 1 or 2."""
    options = parser().parse_args(arguments)
    return exit_status(lambda: run(options))


def run(options: argparse.Namespace) -> int:
    """Convert and say what was written; returns the exit status. Raises CheckpointError or ConfigError."""
    try:
        written = convert(options.source, options.destination, options.to, options.weights)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if "decoder" in written.initialised:
        print(
            "note: the source has no decoder; this format demands one, so a new, untrained one was put in.",
            file=sys.stderr,
        )
    if "teacher" in written.initialised:
        print(
            "note: the source has no teacher; this format demands one, so it is a copy of the student.", file=sys.stderr
        )
    print(f"{options.source} -> {options.destination}: {len(written.tensors)} tensors, {written.kind}")
    return 0
