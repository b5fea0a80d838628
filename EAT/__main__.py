"""``python -m EAT``: which commands there are."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import __version__

COMMANDS = {
    "EAT.doctor": "what this machine can do, and a ten-second check that EAT works on it",
    "EAT.prepare": "manifests, labels and normalisation constants for a data set or your own recordings",
    "EAT.train": "pre-training and fine-tuning by a recipe: fairseq-hydra-train with checks before it begins",
    "EAT.evaluate": "how well a fine-tuned model does on labelled clips, with a report of pictures",
    "EAT.probe": "how good a model's frozen features are, layer by layer",
    "EAT.bench": "recipes against each other: pre-trained at equal work, frozen, judged, with intervals",
    "EAT.predict": "classes of recordings, with a timeline for long ones",
    "EAT.weights": "published checkpoints by name, and your own as a folder to publish",
    "EAT.convert": "a checkpoint from one format to another: ours, published fairseq, Hugging Face",
    "EAT.export": "a trained model as ONNX",
    "EAT.plot": "pictures of training runs, masks and features",
}
"""Modules to be run with ``python -m``, and what each is for."""

EPILOG = "commands, each with its own --help:\n" + "".join(
    f"  python -m {module:<14}{purpose}\n" for module, purpose in COMMANDS.items()
)
EPILOG += """
features of recordings:
  python feature_extract/feature_extract.py --source recordings/ --output features/ --checkpoint CKPT
training, on one device or many:
  python -m EAT.train --config-name NAME task.data=DIR [key=value ...]

examples:
  python -m EAT --version
  python -m EAT.doctor
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m EAT",
        description="EAT, the Efficient Audio Transformer: self-supervised pre-training on audio, features, labels.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"EAT {__version__}")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Print which commands there are; returns 0."""
    top = parser()
    top.parse_args(arguments)
    top.print_help()
    return 0


if __name__ == "__main__":
    sys.exit(main())
