"""What a file may hold that nothing here must run."""

from __future__ import annotations

from pathlib import Path


class Opens:
    """Pickled, this makes the file ``marker`` when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return open, (str(self.marker), "w")
