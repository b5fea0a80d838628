"""``python -m EAT.extract``; see :mod:`EAT.commands.extract`."""

import sys

from .commands.extract import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(main())
