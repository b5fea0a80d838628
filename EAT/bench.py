"""``python -m EAT.bench``; see :mod:`EAT.commands.bench`."""

import sys

from .commands.bench import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(main())
