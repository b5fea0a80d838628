"""``eat completion``: what makes a shell complete ``eat``'s commands and flags."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..recipes import RECIPE, recipe_names
from .command_line import described, exit_status

SHELLS = ("bash", "zsh", "tcsh")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = described(
        argparse.ArgumentParser(prog="eat completion"),
        "Print a script that makes a shell complete eat's commands, flags, files and recipes, for where it looks: "
        "~/.local/share/bash-completion/completions/eat for bash, a folder of $fpath, as _eat, for zsh.",
        "eat completion bash\neat completion zsh",
    )
    top.add_argument("shell", choices=SHELLS, help="which shell")
    return top


def script(shell: str, modules: Mapping[str, str]) -> str:
    """The script for a shell.

    Args:
        shell: one of :data:`SHELLS`.
        modules: the module of each command.

    Raises:
        ConfigError: where shtab is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise ConfigError("completion needs shtab: pip install shtab.") from None
    top = argparse.ArgumentParser(prog="eat")
    commands = top.add_subparsers()
    for name, module in modules.items():
        try:
            parent = importlib.import_module(module).parser()
        except ModuleNotFoundError as error:
            print(f"note: without {error.name}, flags of {name} are not completed", file=sys.stderr)
            parent = argparse.ArgumentParser(add_help=False)
        _complete_values(parent, shtab.FILE)
        commands.add_parser(name, parents=[parent], add_help=False, help=(parent.description or "").split(".")[0])
    return str(shtab.complete(top, shell))


def _complete_values(parser: argparse.ArgumentParser, files: Any) -> None:
    """Have values complete: recipes by their names, and files where a value is neither a number nor one of a few."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_values(command, files)
        elif action.metavar == RECIPE:
            action.choices = recipe_names()
        elif action.nargs != 0 and action.choices is None and action.type in (None, Path):
            action.complete = files  # type: ignore[attr-defined] # shtab looks for it


def main(arguments: Sequence[str] | None = None, modules: Mapping[str, str] | None = None) -> int:
    """Run the command for the modules of all commands, by their names; returns its exit status, 0 or 2."""
    options = parser().parse_args(arguments)

    def run() -> int:
        print(script(options.shell, modules or {}))
        return 0

    return exit_status(run)
