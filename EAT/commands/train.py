"""``python -m EAT.train --config-name NAME``: fairseq-hydra-train, with checks before it begins."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ..errors import ConfigError
from ..recipes import FOLDER, PACKAGE, RECIPE
from .command_line import described, exit_status

EXAMPLES = """
python -m EAT.train --config-name finetuning_folder task.data=prepared model.model_path=EAT-base.pt
python -m EAT.train --config-name pretraining_demo task.data=prepared optimization.max_update=100
python -m EAT.train --config-dir mine --config-name my_recipe task.data=prepared
"""
FAIRSEQ = "import sys; from fairseq_cli.hydra_train import cli_main; sys.exit(cli_main())"
"""What the command fairseq-hydra-train does."""


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
    add("--cfg", choices=("job", "hydra", "all"), help="print the settings and do nothing")
    add("settings", nargs="*", metavar="key=value", help="settings in place of the recipe's")
    return top


def _checked(options: argparse.Namespace) -> tuple[Path, list[str]]:
    """The folder of recipes and the settings for fairseq, once no mistake was found; says what a CPU would take.

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
    if user_dir == "EAT":  # a relative path, which leads nowhere from elsewhere
        package = str(PACKAGE).replace("\\", "\\\\").replace("'", "\\'")
        settings = [setting for setting in settings if setting != "common.user_dir=EAT"]
        settings.append(f"common.user_dir='{package}'")
    return folder, settings


def run(options: argparse.Namespace) -> NoReturn:
    """Check, and become fairseq-hydra-train. Raises ConfigError, DataError or CheckpointError."""
    logging.disable(logging.INFO)  # what fairseq and Hydra say of themselves, as they are imported
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folder, settings = _checked(options)
    finally:
        logging.disable(logging.NOTSET)
    arguments = ["--config-dir", str(folder.absolute()), "--config-name", options.config_name]
    arguments += ["--multirun"] * options.multirun + (["--cfg", options.cfg] if options.cfg else [])
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-c", FAIRSEQ, *arguments, *settings])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 2 for what cannot be trained, and else becomes the training."""
    options = parser().parse_intermixed_args(arguments)
    return exit_status(lambda: run(options))
