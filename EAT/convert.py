"""``python -m EAT.convert``; see :mod:`EAT.commands.convert`."""

import sys

from .commands.convert import convert, main, parser

__all__ = ["convert", "main", "parser"]

if __name__ == "__main__":
    sys.exit(main())
