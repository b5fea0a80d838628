"""``python -m EAT.evaluate``; see :mod:`EAT.commands.evaluate`."""

import sys

from .commands.evaluate import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(main())
