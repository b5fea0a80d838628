"""``python -m EAT.probe``; see :mod:`EAT.commands.probe`."""

import sys

from .commands.probe import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(main())
