"""``python -m EAT.export``; see :mod:`EAT.commands.export`."""

import sys

from .commands.export import main, parser
from .interfaces.onnx_graph import export_onnx

__all__ = ["export_onnx", "main", "parser"]

if __name__ == "__main__":
    sys.exit(main())
