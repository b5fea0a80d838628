"""``eat`` and ``python -m EAT``: all commands as one."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from . import __version__
from .commands.command_line import speak_as_eat

COMMANDS = {
    "EAT.doctor": "what this machine can do, and a ten-second check that EAT works on it",
    "EAT.prepare": "manifests, labels and normalisation constants for a data set or your own recordings",
    "EAT.train": "pre-training and fine-tuning by a recipe: fairseq-hydra-train with checks before it begins",
    "EAT.extract": "features of recordings",
    "EAT.evaluate": "how well a fine-tuned model does on labelled clips, with a report of pictures",
    "EAT.probe": "how good a model's frozen features are, layer by layer",
    "EAT.bench": "recipes against each other: pre-trained at equal work, frozen, judged, with intervals",
    "EAT.predict": "classes of recordings, with a timeline for long ones",
    "EAT.weights": "published checkpoints by name, and your own as a folder to publish",
    "EAT.convert": "a checkpoint from one format to another: ours, published fairseq, Hugging Face",
    "EAT.export": "a trained model as ONNX",
    "EAT.plot": "pictures of training runs, masks and features, and a map of sounds to be heard",
    "EAT.serve": "a page on which a model is asked about sounds that are dropped or recorded",
}
"""Modules to be run with ``python -m``, and what each is for."""

OWN = {
    "demo": ("EAT.commands.demo", "the whole of EAT on real clips that come along, in a few minutes on two CPU cores"),
    "config": ("EAT.commands.config", "the recipes that training goes by: list them, copy one to be edited"),
    "completion": ("EAT.commands.completion", "what makes a shell complete these commands"),
}
"""Commands that are no modules to be run, and what each is for."""

SUBCOMMANDS = {module.removeprefix("EAT."): module for module in COMMANDS} | {name: own[0] for name, own in OWN.items()}
"""The module behind each ``eat NAME``."""

EPILOG = "commands, each with its own --help; eat NAME and python -m EAT.NAME are the same:\n"
EPILOG += "".join(f"  eat {module.removeprefix('EAT.'):<12}{purpose}\n" for module, purpose in COMMANDS.items())
EPILOG += "".join(f"  eat {name:<12}{purpose}\n" for name, (_, purpose) in OWN.items())
EPILOG += """
examples:
  python -m EAT --version
  python -m EAT doctor
  eat train --config-name pretraining_demo task.data=DIR [key=value ...]
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="eat",
        description="EAT, the Efficient Audio Transformer: self-supervised pre-training on audio, features, labels.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"EAT {__version__}")
    top.add_argument("command", nargs="?", choices=SUBCOMMANDS, metavar="COMMAND", help="one of those below")
    top.add_argument("arguments", nargs=argparse.REMAINDER, help="the command's own")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what a command does, or print which there are; returns the exit status."""
    top = parser()
    options = top.parse_args(arguments)
    if options.command is None:
        top.print_help()
        return 0
    try:
        module = importlib.import_module(SUBCOMMANDS[options.command])
    except ModuleNotFoundError as error:
        print(f"error: {options.command} needs {error.name}; eat doctor says what brings it.", file=sys.stderr)
        return 2
    return int(module.main(options.arguments, *([SUBCOMMANDS] if options.command == "completion" else [])))


def eat() -> int:
    """The program ``eat``."""
    speak_as_eat()
    return main()


if __name__ == "__main__":
    sys.exit(main())
