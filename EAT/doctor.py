"""``python -m EAT.doctor``; see :mod:`EAT.commands.doctor`."""

import sys

from .commands.doctor import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(main())
