"""``python -m EAT.train``; see :mod:`EAT.commands.train`."""

import sys

from .commands.train import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(main())
