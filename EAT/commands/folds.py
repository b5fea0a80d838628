"""A cross-validation: a run for each fold of a data folder, one after the other, and what their models score."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from ..data.prepare.output import fold_folders
from ..errors import DataError
from ..inference.evaluation import evaluate
from ..inference.evaluation_tables import Row, summary, write_rows
from ..inference.model import load
from ..training.recipe_run import hydra_value


def train_folds(cfg: DictConfig, command: Sequence[str]) -> int:
    """Train on each of ``task.data``'s folds and evaluate the models on what each of them held out.

    Evaluated is ``checkpoint_last.pt`` where ``eval`` is what the run validates on, since a best checkpoint would have
    been chosen by the clips it is then judged by; else ``checkpoint_best.pt``. A fold's run that is finished is not
    repeated, one that was stopped is resumed. The figures are printed and written to ``folds.csv`` in
    ``checkpoint.save_dir``.

    Args:
        cfg: the settings of the runs.
        command: what starts a run; a fold's folders are added to it.

    Returns:
        The status of a run that did not end well, else 0.

    Raises:
        DataError: where the folder has no folds.
    """
    data, save = Path(cfg.task.data), Path(cfg.checkpoint.save_dir)
    folds = fold_folders(data)
    if not folds:
        raise DataError(f"{data} has no folders fold1, fold2, ...; write them by eat prepare folder ... --folds K.")
    chosen = "last" if "eval" in cfg.dataset.valid_subset.split(",") else "best"
    rows: list[Row] = []
    for fold in folds:
        print(f"{fold.name}: training on {fold}", flush=True)
        own = save / fold.name
        places = {"task.data": fold, "checkpoint.save_dir": own}
        done = subprocess.run([*command, *(f"{key}={hydra_value(value)}" for key, value in places.items())])
        if done.returncode:
            print(f"{fold.name}: its run ended with status {done.returncode}", file=sys.stderr)
            return done.returncode if done.returncode > 0 else 1
        model = load(own / f"checkpoint_{chosen}.pt")
        evaluation = evaluate(model, fold, "eval", multi_label=cfg.task.labels == "multi")
        rows.append({"fold": fold.name, "clips": len(evaluation.clips), **summary(evaluation)})
        print(f"{fold.name}: {_figures({name: rows[-1][name] for name in summary(evaluation)})}", flush=True)
    names = [name for name in rows[0] if name not in ("fold", "clips")]
    columns = {name: [row[name] for row in rows] for name in names}
    deviations = {name: statistics.stdev(column) if len(rows) > 1 else 0.0 for name, column in columns.items()}
    spread = [f"{name} {statistics.fmean(column):.4f} ± {deviations[name]:.4f}" for name, column in columns.items()]
    print(f"{len(rows)} folds, checkpoint_{chosen}.pt of each, mean ± standard deviation: {', '.join(spread)}")
    write_rows(save / "folds.csv", rows)
    return 0


def _figures(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())
