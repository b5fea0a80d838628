"""Recordings in memory, such as uploads that no disk should see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Held(str):
    """A recording in memory, that can stand wherever a path does: its name, which errors say, and its file's bytes.

    Args:
        name: what errors call it; nothing is opened by that name.
        content: a file in any format that is read.
        check: called before every part that is read; what it raises ends the reading.
    """

    content: bytes
    check: Callable[[], None]

    def __new__(cls, name: str, content: bytes, check: Callable[[], None] = lambda: None) -> Held:
        """A string that holds more."""
        held = super().__new__(cls, name)
        held.content, held.check = content, check
        return held

    def opened(self, open_file: Callable[[str, bytes], Any]) -> Any:
        """The recording that ``open_file`` makes of name and content, with the check before every read."""
        recording = open_file(self, self.content)

        def read(start: int, count: int) -> Any:
            self.check()
            return recording.read(start, count)

        return recording._replace(read=read)
