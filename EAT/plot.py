"""``python -m EAT.plot``; see :mod:`EAT.commands.plot`."""

import sys

from .commands.plot import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(main())
