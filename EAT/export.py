"""``python -m EAT.export``; see :mod:`EAT.commands.export`."""

import sys

from .commands.export import export_onnx, main, parser

__all__ = ["export_onnx", "main", "parser"]

if __name__ == "__main__":
    sys.exit(main())
