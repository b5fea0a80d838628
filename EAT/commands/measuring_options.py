"""The flags of every command that measures a model on the labelled clips of a manifest."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..inference.evaluation import TASKS
from ..network.settings import check_target_length
from .extract import PRECISIONS


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which clips, which model, and how it runs."""
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="FOLDER", help="holds {split}.tsv and {split}.lbl")
    add("--checkpoint", required=True, metavar="CKPT",
        help="one of ours, a published fairseq checkpoint, or a Hugging Face folder or file")  # fmt: skip
    add("--labels", type=Path, metavar="CSV", help="by default label_descriptors.csv in the data folder")
    add("--task", choices=("auto", *TASKS), default="auto",
        help="by default multi-label where any clip has several labels, else single-label")  # fmt: skip
    add("--target-length", type=int, metavar="FRAMES",
        help="frames of 10 ms that clips are padded or cut to; by default the checkpoint's")  # fmt: skip
    add("--norm-mean", type=float, metavar="M", help="mean of the filterbank; by default the checkpoint's")
    add("--norm-std", type=float, metavar="S", help="its standard deviation; by default the checkpoint's")
    add("--batch-size", type=int, metavar="B",
        help="clips at once (by default 16, on a GPU 64, or what half of the free memory holds)")  # fmt: skip
    add("--num-workers", type=int, metavar="W",
        help="processes that decode ahead; by default one a core, and none for a few files")  # fmt: skip
    add("--device", help="cpu or cuda; by default cuda where there is one")
    add("--precision", choices=PRECISIONS, default="float32", help="what the model computes in (default float32)")


def check_options(args: argparse.Namespace) -> None:
    """Raises ConfigError for a target length that no model can have."""
    if args.target_length is not None:
        check_target_length(args.target_length, "--target-length")
