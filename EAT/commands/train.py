"""``python -m EAT.train --config-name NAME``: fairseq-hydra-train, with checks before it begins."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError
from ..progress import BRIEF
from ..recipes import FOLDER, PACKAGE, RECIPE
from .command_line import described, exit_status, hushed

EXAMPLES = """
python -m EAT.train --config-name finetuning_folder task.data=prepared model.model_path=EAT-base.pt
python -m EAT.train --config-name pretraining_demo task.data=prepared optimization.max_update=100
python -m EAT.train --config-name finetuning_folder --folds task.data=prepared model.model_path=EAT-base.pt
python -m EAT.train --config-dir mine --config-name my_recipe task.data=prepared
"""
FAIRSEQ = "import sys; from fairseq_cli.hydra_train import cli_main; sys.exit(cli_main())"
"""What the command fairseq-hydra-train does."""
HUSH = (
    "import logging; logging.disable(logging.INFO); import fairseq_cli.hydra_train; logging.disable(logging.NOTSET); "
    "logging.getLogger('hydra').setLevel(logging.INFO); "
)
"""The same in the process that trains."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = described(
        argparse.ArgumentParser(prog="python -m EAT.train"),
        "Train by a recipe: fairseq-hydra-train with the same settings and statuses, which finds the recipes from "
        "anywhere, looks for mistakes before it begins, and says what a run without a GPU would take. A run that was "
        "told to stop and has saved ends with 75, after Ctrl-C with 130.",
        EXAMPLES,
    )
    add = top.add_argument
    add("--config-name", required=True, metavar=RECIPE, help="a file of the folder without its ending")
    add("--config-dir", type=Path, metavar="FOLDER", help="folder of recipes (default EAT's own)")
    add("--multirun", "-m", action="store_true", help="a run for each combination of values that commas separate, by "
        "Hydra's launcher; not checked before")  # fmt: skip
    add("--verbose", "-v", action="store_true", help="print all that the log file has, not only short lines")
    add("--folds", action="store_true", help="train on each of task.data's fold1, fold2, ..., evaluate each model on "
        "what its fold held out, and print mean and standard deviation")  # fmt: skip
    add("--cfg", choices=("job", "hydra", "all"), help="print the settings and do nothing")
    add("settings", nargs="*", metavar="key=value", help="settings in place of the recipe's")
    return top


def _checked(options: argparse.Namespace) -> tuple[Path, list[str], bool]:
    """The folder of recipes and the settings for fairseq, once no mistake was found; says what a CPU would take.

    Returns:
        And whether this process may go on to train: neither must fairseq start others, nor a folder of one's own have
        imported from EAT what wraps fairseq's command line before that was there.

    Raises:
        ConfigError, DataError or CheckpointError: for what would end the run before its first update.
    """
    try:
        from ..training import before
    except ImportError as error:
        only = "" if sys.version_info < (3, 13) else ", on Python 3.11 or 3.12"
        raise ConfigError(f"training needs {error.name}: pip install 'eat-audio[train]'{only}.") from None
    folder, settings = options.config_dir or FOLDER, list(options.settings)
    user_dir = next((setting.split("=", 1)[1] for setting in settings if setting.startswith("common.user_dir=")), "EAT")
    if not options.multirun:
        cfg = before.compose(folder, options.config_name, settings)
        user_dir = cfg.common.user_dir or "EAT"
        if user_dir == "EAT":
            cfg.common.user_dir = str(PACKAGE)
        if not options.cfg:
            clips = before.check(cfg)
            takes = before.forecast(cfg, len(clips)) if os.environ.get("RANK", "0") == "0" else None
            if takes is not None:
                print(takes, file=sys.stderr)
    here = user_dir == "EAT" and not (options.multirun or options.cfg) and before.trains_alone()
    if user_dir == "EAT":  # a relative path, which leads nowhere from elsewhere
        package = str(PACKAGE).replace("\\", "\\\\").replace("'", "\\'")
        settings = [setting for setting in settings if setting != "common.user_dir=EAT"]
        settings.append(f"common.user_dir='{package}'")
    return folder, settings, here


def _train_here(arguments: Sequence[str], verbose: bool) -> None:
    """What fairseq-hydra-train does, in this process, which has imported most of it."""
    with hushed():
        command = importlib.import_module("fairseq_cli.hydra_train")
        for module in ("EAT.tasks", "EAT.models"):  # fairseq does not look into a package that is imported already
            importlib.import_module(module)
    importlib.import_module("fairseq.utils").import_user_module.memo = {str(PACKAGE)}  # and would say so
    if not verbose:
        logging.getLogger("hydra").setLevel(logging.INFO)
        warnings.simplefilter("ignore")
    sys.argv = ["fairseq-hydra-train", *arguments]
    command.cli_main()


def _folds(options: argparse.Namespace) -> int:
    """Train on the folds. Raises ConfigError or DataError."""
    with hushed():
        from ..training import before
        from .folds import train_folds

        cfg = before.compose(options.config_dir or FOLDER, options.config_name, options.settings)
    from omegaconf import OmegaConf

    if OmegaConf.is_missing(cfg.task, "data") or cfg.task._name != "eat_classification" or options.multirun:
        raise ConfigError(
            "--folds needs a recipe that fine-tunes, task.data=FOLDER with fold1, fold2, ... in it, and no --multirun."
        )
    command = [sys.executable, "-m", "EAT.train", "--config-name", options.config_name]
    command += ["-v"] * options.verbose + (["--config-dir", str(options.config_dir)] if options.config_dir else [])
    return train_folds(cfg, [*command, *options.settings])


def run(options: argparse.Namespace) -> int:
    """Check, and do what fairseq-hydra-train does, or become it. Raises ConfigError, DataError or CheckpointError."""
    if options.folds:
        return _folds(options)
    with hushed():
        folder, settings, here = _checked(options)
    arguments = ["--config-dir", str(folder.absolute()), "--config-name", options.config_name]
    arguments += ["--multirun"] * options.multirun + (["--cfg", options.cfg] if options.cfg else [])
    os.environ[BRIEF] = str(int(not options.verbose))
    if not options.verbose:
        os.environ.setdefault("PYTHONWARNINGS", "ignore")
    arguments += settings
    if here:
        _train_here(arguments, options.verbose)
        return 0
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-c", ("" if options.verbose else HUSH) + FAIRSEQ, *arguments])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 2 for what cannot be trained."""
    options = parser().parse_intermixed_args(arguments)
    return exit_status(lambda: run(options))
