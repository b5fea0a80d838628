"""The command ``python -m EAT.evaluate``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError
from ..inference.evaluation import Evaluation, EventEvaluation, evaluate, evaluate_events
from ..inference.evaluation_tables import (
    left_out,
    summary,
    table_format,
    write_event_tables,
    write_scores,
    write_tables,
)
from ..inference.event_metrics import Finding
from ..network.classifier import Classifier
from ..network.settings import STEPS
from ..pictures.report import write_report
from .command_line import described, exit_status
from .options import EVENTS, FINDING, LABELLED, add_flags, multi_label, open_model, status

EXAMPLES = """
python -m EAT.evaluate --data prepared --checkpoint checkpoints/finetuning_demo/checkpoint_best.pt
python -m EAT.evaluate --data prepared --split eval --checkpoint finetuned.pt --report report
python -m EAT.evaluate --data street --checkpoint events.pt --threshold 0.3 --report found
python -m EAT.evaluate --data prepared --checkpoint finetuned.pt --table predictions.csv
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = described(
        argparse.ArgumentParser(prog="python -m EAT.evaluate"),
        "Measure how well a fine-tuned model does on a manifest.",
        EXAMPLES,
    )
    add_flags(top, *LABELLED)
    top.add_argument("--split", default="eval", help="which split (default eval)")
    top.add_argument("--report", type=Path, metavar="FOLDER",
        help="write report.html and tables there; of events, tables and the events found")  # fmt: skip
    add_flags(top, *FINDING)
    top.add_argument(
        "--table",
        type=Path,
        metavar="FILE",
        help="write a row a clip there: path, truth, prediction, every class's score; .csv, .jsonl or .parquet",
    )
    add_flags(top, "--sounds")
    return top


def print_summary(evaluation: Evaluation | EventEvaluation, checkpoint: str) -> None:
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
    if args.table:
        table_format(args.table)
    model = open_model(args)
    several, length = multi_label(args.task), args.target_length
    evaluation: Evaluation | EventEvaluation
    steps = isinstance(model.network, Classifier) and model.network.settings.pooling == STEPS
    if args.task == EVENTS or (args.task == "auto" and steps):
        if args.table:
            raise ConfigError("--table has a row a clip; events are written by --report FOLDER.")
        finding = Finding(args.threshold, args.median)
        evaluation = evaluate_events(
            model, args.data, args.split, args.labels, length, args.batch_size, args.num_workers, finding
        )
    else:
        evaluation = evaluate(
            model, args.data, args.split, args.labels, several, length, args.batch_size, args.num_workers
        )
    print_summary(evaluation, args.checkpoint)
    if evaluation.unreadable:
        print(f"{evaluation.unreadable:,} clips could not be read and are left out", file=sys.stderr)
    if args.table and isinstance(evaluation, Evaluation):
        write_scores(args.table, evaluation)
        print(f"table -> {args.table}")
    if args.report and isinstance(evaluation, EventEvaluation):
        write_event_tables(args.report, evaluation, args.checkpoint)
        print(f"tables -> {args.report}")
    elif args.report and isinstance(evaluation, Evaluation):
        write_tables(args.report, evaluation, args.checkpoint)
        print(f"report -> {write_report(args.report, evaluation, args.checkpoint, args.sounds)}")
    return status(args, evaluation.unreadable, len(evaluation.manifest))


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate a checkpoint.

    Returns:
        0, 1 when some clips could not be read, or 2 when the arguments cannot be used.
    """
    args = parser().parse_args(arguments)
    return exit_status(lambda: run(args))
