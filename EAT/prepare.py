"""``python -m EAT.prepare``; see :mod:`EAT.commands.prepare`."""

import sys

from .commands.prepare import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(main())
