"""The command ``python -m EAT.weights``."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..checkpoint.classes import check_same
from ..checkpoint.formats import WEIGHTS, keep_encoder, read_contents
from ..checkpoint.hub import Named, fetch, named, published
from ..checkpoint.publishing import push, write_folder
from ..data.labels import read_descriptors
from ..errors import CheckpointError, ConfigError
from .command_line import described, exit_status

EXAMPLES = {
    "list": "python -m EAT.weights list",
    "fetch": "python -m EAT.weights fetch EAT-base_epoch30_pretrain\n"
    "python -m EAT.weights fetch someone/their-eat@main",
    "verify": "python -m EAT.weights verify\npython -m EAT.weights verify EAT-base_epoch30_pretrain",
    "push": "python -m EAT.weights push checkpoint_best.pt me/barking-dogs --labels prepared/label_descriptors.csv "
    "--licence mit\npython -m EAT.weights push checkpoint_best.pt me/barking-dogs --folder barking-dogs --no-upload",
}
COMMANDS = {
    "list": "the published checkpoints that have a name here, and what is known of them",
    "fetch": "bring checkpoints into the cache, check them, and print where they lie",
    "verify": "check what is in the cache again, without a network",
    "push": "write a checkpoint as a folder with configuration and model card, and upload it",
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = described(
        argparse.ArgumentParser(prog="python -m EAT.weights"),
        "Checkpoints by name: a name that is listed, or owner/name of any repository of the Hugging Face Hub, with "
        "@revision behind it where it should not be the newest. Wherever a command takes a checkpoint it takes such a "
        "name. HF_HOME says where the cache is, HF_ENDPOINT which Hub, HF_HUB_OFFLINE=1 forbids the network.",
        "\n".join(EXAMPLES.values()),
    )
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND", help="one of")
    commands = {
        name: described(subparsers.add_parser(name, help=text), f"{text[0].upper()}{text[1:]}.", EXAMPLES[name])
        for name, text in COMMANDS.items()
    }
    commands["fetch"].add_argument("names", nargs="+", metavar="NAME", help="a listed name, or owner/name")
    commands["verify"].add_argument("names", nargs="*", metavar="NAME", help="by default all that are listed")
    add = commands["push"].add_argument
    add("checkpoint", metavar="CKPT", help="a checkpoint of any format")
    add("name", metavar="OWNER/NAME", help="the repository to upload to; it is made where it does not exist")
    add("--labels", type=Path, metavar="CSV", help="label descriptors of a fine-tuned model: the names of its classes")
    add("--licence", metavar="ID", help="the licence of the weights, such as mit or cc-by-4.0, for the model card")
    add("--private", action="store_true", help="make the repository private, where it is made")
    add("--weights", choices=WEIGHTS, help="publish this encoder alone, without decoder and teacher; by default "
        "everything is kept")  # fmt: skip
    add("--folder", type=Path, metavar="DIR", help="write the folder there and leave it; a README.md in it is kept as "
        "the model card")  # fmt: skip
    add("--no-upload", action="store_true", help="only write the folder")
    return top


def meant(text: str) -> Named:
    """What a name stands for. Raises ConfigError for what is no name."""
    found = named(text)
    if found is None:
        raise ConfigError(f"{text} is no name of a checkpoint; give one of python -m EAT.weights list, or owner/name.")
    return found


def print_list() -> int:
    """Print the table; returns 0."""
    entries = published()
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        size = f"{entry.size / 1e6:,.0f} MB" if entry.size else "size not known"
        print(f"{entry.name:<{width}}  {entry.what}")
        print(f"{'':<{width}}  {entry.repository}, {size}, licence {entry.licence or 'not known'}")
        print(f"{'':<{width}}  SHA-256 {entry.sha256 or 'not known before the first download'}")
    return 0


def verify(names: Sequence[str]) -> int:
    """Check what is in the cache; returns 1 where something is damaged or, though asked for by name, not there."""
    failed = 0
    for entry in [meant(name) for name in names] or published():
        try:
            found = fetch(entry, local=True)
            print(f"{entry.name}: {len(found.sha256)} files as they should be, commit {found.commit[:12]}")
        except CheckpointError as error:
            if not names and "in the cache" in str(error):
                print(f"{entry.name}: not fetched yet")
            else:
                failed += 1
                print(f"error: {error}", file=sys.stderr)
    return 1 if failed else 0


def publish(options: argparse.Namespace) -> int:
    """Write the folder and upload it; returns 0."""
    if options.no_upload and options.folder is None:
        raise ConfigError("--no-upload leaves nothing behind without --folder; say where the folder goes.")
    contents = keep_encoder(options.checkpoint, read_contents(options.checkpoint), options.weights)
    if options.labels is not None:
        labels, count = read_descriptors(options.labels), getattr(contents.settings, "num_classes", None)
        check_same(contents.classes, labels, count or 0, options.checkpoint, str(options.labels))
        contents = replace(contents, classes=tuple(labels))
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_folder(contents, folder, options.name, options.licence)
        if options.folder is not None:
            print(f"folder -> {folder}")
        if options.licence is None:
            print("note: the model card states no licence; --licence ID states one.", file=sys.stderr)
        if not options.no_upload:
            print(f"{options.name} -> {push(folder, options.name, options.private)}")
    return 0


def run(options: argparse.Namespace) -> int:
    """Do what the options say; returns the exit status, 0 or 1. Raises EATError."""
    if options.command == "list":
        return print_list()
    if options.command == "verify":
        return verify(options.names)
    if options.command == "push":
        return publish(options)
    failed = 0
    for entry in [meant(name) for name in options.names]:
        try:
            print(f"{entry.name} -> {fetch(entry).path}")
        except CheckpointError as error:
            failed += 1
            print(f"error: {error}", file=sys.stderr)
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, 1 where some could not be fetched or are damaged, 2 unusable."""
    options = parser().parse_args(arguments)
    return exit_status(lambda: run(options))
