"""``python -m EAT.bench``: recipes against each other."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..comparison.corpus import TABLES, prepare_corpus
from ..comparison.recipes import Bench, plans, read_bench
from ..comparison.runs import LOG_MEL, UNTRAINED, carry_out_all, read_results, resume, unjudged, with_controls
from ..comparison.table import Row, curves, figures_markdown, markdown, rows, summary_markdown
from ..errors import ConfigError, EATError
from ..inference.readouts import READOUTS
from ..pictures.compute import draw_compute
from ..pictures.style import check_kind, save
from ..progress import waiting
from ..recipes import FOLDER
from ..system import usable_cores
from .command_line import described, exit_status, hushed

RECIPES = Path(__file__).parents[2] / "benchmarks" / "science" / "recipes.yaml"
EXAMPLES = """
python -m EAT.bench --corpus corpus/ --work bench/ --results runs.jsonl
python -m EAT.bench --corpus corpus/ --work bench/ --results runs.jsonl --size standard --only eat,slow_teacher
python -m EAT.bench --data clips/ --task families=labelled/ --work bench/ --results runs.jsonl --recipes mine.yaml
python -m EAT.bench --results runs.jsonl --table --picture compute.png
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = described(
        argparse.ArgumentParser(prog="python -m EAT.bench"),
        "Compare recipes: pre-train each at equal work with several seeds, freeze, judge by ridge regression across "
        "groups of labelled clips, beside an untrained network and the log-mel spectrogram. What is done already is "
        "not done again.",
        EXAMPLES,
    )
    add = top.add_argument
    add("--results", type=Path, required=True, metavar="JSONL", help="a line a finished run; read first, then added to")
    add("--recipes", type=Path, default=RECIPES, metavar="YAML", help="what is compared (default: the project's own)")
    add("--size", default="screening", help="which of the recipes' sizes (default screening)")
    add("--division", choices=("all", "choice", "held_out"), default="all",
        help="the table's groups: each left out in turn; those that recipes are chosen on; the others")  # fmt: skip
    add("--only", metavar="NAMES", help="recipes to make, with commas between them (default: all)")
    add("--readouts", default="mean,rows,rows_max", help=f"columns of the table, of {', '.join(READOUTS)}")
    add("--corpus", type=Path, metavar="FOLDER", help="voices, ESC-10 and digits as zips with their tables")
    add("--data", type=Path, metavar="FOLDER", help="or: a prepared folder to pre-train on")
    add("--task", action="append", default=[], metavar="NAME=FOLDER",
        help="a folder of folds, or one with labels and groups.csv, to judge by (too); may be given again")  # fmt: skip
    add("--work", type=Path, metavar="FOLDER", help="where the corpus is unpacked, and runs are while they last")
    add("--jobs", type=int, default=usable_cores(), metavar="N", help="runs side by side, a core each (default: cores)")
    add("--keep", action="store_true", help="keep the runs' checkpoints and logs")
    only = top.add_mutually_exclusive_group()
    only.add_argument("--table", action="store_true", help="only show what the results hold")
    only.add_argument("--figures", action="store_true", help="or how the logged figures go along with the scores")
    only.add_argument("--summary", metavar="NAME", help="or a summary that the recipes name: differences at some sizes")
    add("--picture", type=Path, metavar="FILE", help="also draw scores against work")
    return top


def sources(args: argparse.Namespace) -> tuple[Path, dict[str, Path]]:
    """What is pre-trained on, and the tasks. Raises ConfigError."""
    if (args.corpus is None) == (args.data is None):
        raise ConfigError("give --corpus FOLDER, or --data FOLDER with --task NAME=FOLDER.")
    if args.work is None:
        raise ConfigError("give --work FOLDER, where runs are while they last.")
    named = [text.partition("=") for text in args.task]
    if any(not (name and folder) for name, _, folder in named) or not (named or args.corpus):
        raise ConfigError("--data needs a --task NAME=FOLDER at least.")
    tasks = {name: Path(folder) for name, _, folder in named}
    if args.corpus is None:
        return args.data, tasks
    prepare_corpus(args.corpus, args.work)
    own = {table.name: args.work / table.name for table in TABLES if table.label is not None}
    return next(args.work / table.name for table in TABLES if table.label is None), {**own, **tasks}


def shown(args: argparse.Namespace, bench: Bench, lines: Sequence[Mapping[str, Any]]) -> str:
    """The table that is asked for. Raises ConfigError."""

    def table(size: str) -> list[Row]:
        return rows(lines, size, bench.reference, args.division)

    if args.summary is None:
        if not (found := table(args.size)):
            raise ConfigError(f"{args.results} holds no run of the size {args.size!r}.")
        return (figures_markdown if args.figures else markdown)(found, args.readouts.split(","))
    if args.summary not in bench.summaries:
        there = ", ".join(bench.summaries) or "none"
        raise ConfigError(f"there is no summary {args.summary!r} in {args.recipes}; there are: {there}.")
    summary = bench.summaries[args.summary]
    return summary_markdown(summary, {size: table(size) for size in summary.sizes})


def note(text: str) -> None:
    """Say something beside the table."""
    print(text, file=sys.stderr, flush=True)


def make(args: argparse.Namespace, bench: Bench) -> int:
    """Make the runs that are missing; returns how many failed."""
    data, tasks = sources(args)
    only = args.only.split(",") if args.only else None
    with hushed(), waiting("counting each recipe's work"):
        planned = with_controls(bench, plans(bench, args.size, FOLDER, only))
    folders, work = {name: folder.resolve() for name, folder in tasks.items()}, args.work.resolve()
    wanted = resume(planned, folders, args.results)
    for name, runs in unjudged(planned, folders, args.results).items():
        note(
            f"{runs} runs of {args.results} were judged without {name}; another file of --results has them made again."
        )
    if wanted:
        note(f"{len(wanted)} runs to make, {args.jobs} side by side; what they log is in {work}/runs.")
    failed = 0
    for done in carry_out_all(wanted, FOLDER, data.resolve(), folders, work, args.results, args.jobs, args.keep):
        if isinstance(done, EATError):
            failed += 1
            note(f"error: {done}")
        else:
            note(f"{done['recipe']}, seed {done['seed']}: {done['updates']} updates in {done['train_seconds']} s")
    return failed


def run(args: argparse.Namespace) -> int:
    """Make what is missing, then show the table; 1 where a run failed."""
    if args.picture:
        check_kind(args.picture)
    bench = read_bench(args.recipes)
    only_show = args.table or args.figures or args.summary is not None
    if only_show and args.only:
        raise ConfigError(
            "--only says which recipes are made; a table has all that the results hold, as all share a noise."
        )
    failed = 0 if only_show else make(args, bench)
    lines = read_results(args.results)
    print(shown(args, bench, lines))
    if args.picture:
        panels = curves(lines, bench.reference, args.size, args.division)
        save(draw_compute(panels, bench.reference, (UNTRAINED, LOG_MEL)), args.picture)
        print(f"picture -> {args.picture}")
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare recipes.

    Returns:
        0, 1 when a run failed, or 2 when the arguments cannot be used.
    """
    args = parser().parse_args(arguments)
    return exit_status(lambda: run(args), stopped="stopped; the same command resumes from here.")
