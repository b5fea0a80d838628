"""``python -m EAT.weights``; see :mod:`EAT.commands.weights`."""

import sys

from .commands.weights import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(main())
