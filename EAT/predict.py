"""``python -m EAT.predict``; see :mod:`EAT.commands.predict`."""

import sys

from .commands.predict import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(main())
