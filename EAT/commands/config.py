"""``eat config``: the recipes that training goes by."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..recipes import FOLDER, RECIPE, copy_recipe, recipe_names
from .command_line import described, exit_status

EXAMPLES = {
    "list": "eat config list",
    "copy": "eat config copy finetuning_demo\neat config copy pretraining_AS2M mine/",
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = described(
        argparse.ArgumentParser(prog="eat config"),
        "The recipes that come with the package: what eat train takes as --config-name.",
        "\n".join(EXAMPLES.values()),
    )
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND", help="one of")
    described(
        subparsers.add_parser("list", help="their names, and where they lie"),
        "Print their names, and where they lie.",
        EXAMPLES["list"],
    )
    copy = described(
        subparsers.add_parser("copy", help="copy one to be edited"),
        "Copy a recipe, with the base that it refers to, into a folder: eat train --config-dir FOLDER trains by it.",
        EXAMPLES["copy"],
    )
    copy.add_argument("name", metavar=RECIPE, help="its name, one of eat config list")
    copy.add_argument("folder", nargs="?", type=Path, default=Path("config"), metavar="FOLDER",
        help="where it goes (default config)")  # fmt: skip
    return top


def run(options: argparse.Namespace) -> int:
    """Print or copy; returns 0. Raises ConfigError or DataError."""
    if options.command == "list":
        print("\n".join(recipe_names()))
        print(f"in {FOLDER}")
        return 0
    for path in copy_recipe(options.name, options.folder):
        print(path)
    print(f"edit, then: eat train --config-dir {options.folder} --config-name {options.name} task.data=DIR")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, 0 or 2."""
    options = parser().parse_args(arguments)
    return exit_status(lambda: run(options))
