"""The command ``python -m EAT.evaluate``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ..config import check_target_length
from ..errors import ConfigError, EATError
from ..model import load
from .report import write_report
from .scoring import TASKS, Evaluation, evaluate
from .tables import left_out, summary, write_tables


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m EAT.evaluate", description="Measure how well a fine-tuned model does on a manifest."
    )
    top.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="holds SPLIT.tsv and SPLIT.lbl")
    top.add_argument("--split", default="eval", help="which split (default: eval)")
    top.add_argument(
        "--checkpoint", required=True, metavar="PATH", help="ours, a published fairseq one, or a Hugging Face folder"
    )
    top.add_argument("--labels", type=Path, metavar="CSV", help="default: label_descriptors.csv in the data folder")
    top.add_argument("--report", type=Path, metavar="FOLDER", help="write report.html and tables there")
    top.add_argument(
        "--task",
        choices=("auto", *TASKS),
        default="auto",
        help="default: multi-label where any clip has several labels, else single-label",
    )
    top.add_argument("--target-length", type=int, metavar="FRAMES", help="default: what the model was trained with")
    top.add_argument("--norm-mean", type=float, metavar="M", help="default: what the model was trained with")
    top.add_argument("--norm-std", type=float, metavar="S", help="default: what the model was trained with")
    add_running_arguments(top)
    return top


def add_running_arguments(command: argparse.ArgumentParser) -> None:
    """The flags of every command that puts the clips of a manifest through a model."""
    command.add_argument("--batch-size", type=int, default=32, metavar="CLIPS", help="default: 32")
    command.add_argument("--num-workers", type=int, default=2, metavar="N", help="processes that read (default: 2)")
    command.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda where there is one, else cpu)")


def check_running_arguments(args: argparse.Namespace) -> torch.device:
    """The device. Raises ConfigError for values that make no sense."""
    if args.batch_size < 1 or args.num_workers < 0:
        raise ConfigError("--batch-size must be at least 1 and --num-workers at least 0.")
    if args.target_length is not None:
        check_target_length(args.target_length, "--target-length")
    try:
        device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise ConfigError(f"--device {args.device} cannot be used here; try --device cpu.") from None
    return device


def print_summary(evaluation: Evaluation, checkpoint: str) -> None:
    """Print what was measured."""
    print(
        f"{evaluation.split}: {len(evaluation.clips):,} of {len(evaluation.manifest):,} clips, "
        f"{len(evaluation.labels):,} classes, {evaluation.task}, by {checkpoint}"
    )
    for name, value in summary(evaluation).items():
        print(f"{name:<18}{value:.4f}")
    absent = left_out(evaluation)
    if absent:
        named = ", ".join(name if name.isprintable() else repr(name) for name in absent)
        print(f"left out of means, because no clip has them ({len(absent)}): {named}")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print and report; 1 when some clips could not be read."""
    device = check_running_arguments(args)
    model = load(args.checkpoint, device=device, norm_mean=args.norm_mean, norm_std=args.norm_std)
    evaluation = evaluate(
        model, args.data, args.split, args.labels, args.task, args.target_length, args.batch_size, args.num_workers
    )
    print_summary(evaluation, args.checkpoint)
    if evaluation.unreadable:
        print(f"{evaluation.unreadable:,} clips could not be read and are left out", file=sys.stderr)
    if args.report:
        write_tables(args.report, evaluation, args.checkpoint)
        print(f"report -> {write_report(args.report, evaluation, args.checkpoint)}")
    return 1 if evaluation.unreadable else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate a checkpoint.

    Returns:
        0, 1 when some clips could not be read, or 2 when the arguments cannot be used.
    """
    args = parser().parse_args(arguments)
    try:
        return run(args)
    except EATError as error:
        print(f"EAT.evaluate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
