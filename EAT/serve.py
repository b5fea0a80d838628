"""``python -m EAT.serve``; see :mod:`EAT.commands.serve`."""

import sys

from .commands.serve import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(main())
