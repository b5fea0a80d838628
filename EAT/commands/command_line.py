"""What the command lines of this package have in common."""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import os
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from typing import IO

from ..errors import EATError

MODULES = "python -m EAT."
"""How commands call themselves and each other, unless :func:`speak_as_eat` says otherwise."""
_spoken = MODULES


def speak_as_eat() -> None:
    """From now on commands call themselves ``eat X``, as the user did."""
    global _spoken
    _spoken = "eat "


STATUS = "exit status: 0 all went well, 1 some inputs could not be read or written, 2 unusable arguments"


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""How a stream says that no more fits."""


def described(parser: argparse.ArgumentParser, description: str, examples: str) -> argparse.ArgumentParser:
    """Give a parser its description, examples of its use, and what its exit status means.

    Args:
        parser: a command's or a sub-command's.
        description: sentences, wrapped for the terminal.
        examples: whole command lines, one a line.

    Returns:
        ``parser``.
    """
    parser.prog = parser.prog.replace(MODULES, _spoken)
    parser.description = textwrap.fill(description.replace(MODULES, _spoken), 100)
    examples = textwrap.indent(textwrap.dedent(examples).strip(), "  ").replace(MODULES, _spoken)
    parser.epilog = f"examples:\n{examples}\n\n{STATUS}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def exit_status(run: Callable[[], int], stopped: str | None = None) -> int:
    """Do a command's work, and say in one line why it ended early if it did.

    Args:
        run: the work; returns the exit status.
        stopped: what to say to someone who pressed Ctrl-C.

    Returns:
        What ``run`` returned; 2 after an error that names what was unusable, or out of memory; 130 after Ctrl-C; 0
        where whoever read the output has enough, as ``head`` does; 1 where it cannot be written, as on a full disk.
    """
    try:
        status = run()
        sys.stdout.flush()
        return status
    except EATError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        _discard(sys.stdout)
        return 0
    except OSError as error:
        if error.filename is not None or error.errno not in FULL:
            raise
        _discard(sys.stdout)
        with contextlib.suppress(OSError):
            print(f"error: what this command says cannot be written ({error.strerror}).", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if stopped:
            print(stopped, file=sys.stderr)
        return 130
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which not every command can or need import
            raise
        print("error: the device ran out of memory; lower --batch-size, or --window for long files.", file=sys.stderr)
        return 2


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Keep from the console what fairseq and Hydra say of themselves, as they are imported and read recipes.

    One of fairseq's modules has everything logged to the console from then on; that is undone.
    """
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
        root.setLevel(level)
        root.handlers[:] = handlers


def _discard(stream: IO[str]) -> None:
    """Have what is left in a stream's buffer go nowhere: at its end a process would try once more to write it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
