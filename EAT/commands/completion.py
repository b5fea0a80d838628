"""``eat completion``: what makes a shell complete ``eat``'s commands and flags."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence

from ..errors import ConfigError
from .command_line import described, exit_status

SHELLS = ("bash", "zsh", "tcsh")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = described(
        argparse.ArgumentParser(prog="eat completion"),
        "Print a script that makes a shell complete eat's commands and flags, to be put where the shell looks for it: "
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
        commands.add_parser(name, parents=[parent], add_help=False, help=(parent.description or "").split(".")[0])
    return str(shtab.complete(top, shell))


def main(arguments: Sequence[str] | None = None, modules: Mapping[str, str] | None = None) -> int:
    """Run the command for the modules of all commands, by their names; returns its exit status, 0 or 2."""
    options = parser().parse_args(arguments)

    def run() -> int:
        print(script(options.shell, modules or {}))
        return 0

    return exit_status(run)
