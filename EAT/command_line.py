"""What the command lines of this package have in common."""

from __future__ import annotations

import argparse
import textwrap

STATUS = "exit status: 0 all went well, 1 some inputs could not be read or written, 2 unusable arguments"


def described(parser: argparse.ArgumentParser, description: str, examples: str) -> argparse.ArgumentParser:
    """Give a parser its description, examples of its use, and what its exit status means.

    Args:
        parser: a command's or a sub-command's.
        description: sentences, wrapped for the terminal.
        examples: whole command lines, one a line.

    Returns:
        ``parser``.
    """
    parser.description = textwrap.fill(description, 100)
    parser.epilog = f"examples:\n{textwrap.indent(textwrap.dedent(examples).strip(), '  ')}\n\n{STATUS}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser
