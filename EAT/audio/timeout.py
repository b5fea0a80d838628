"""Reads that may hang, as on a network mount that went away: given up after a time."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from ..errors import DataError

Result = TypeVar("Result")

READ_SECONDS = 60.0
"""A recording that is still being read after so long is given up as unreadable."""


class _Reader:
    """A thread that reads for others. One that hangs is left behind; it ends with its process."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.tasks: queue.SimpleQueue[tuple[Future, Callable[[], object]]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="reader", daemon=True).start()

    def _work(self) -> None:
        while True:
            answer, function = self.tasks.get()
            try:
                answer.set_result(function())
            except BaseException as error:  # whoever waits for the answer gets it
                answer.set_exception(error)
            del answer, function

    def start(self, function: Callable[[], Result]) -> Future[Result]:
        answer: Future[Result] = Future()
        self.tasks.put((answer, function))
        return answer


_readers: list[_Reader] = []


def within(seconds: float, source: str, function: Callable[[], Result]) -> Result:
    """The result of ``function``, which reads ``source``.

    Args:
        seconds: how long it may take; 0 for no limit.
        source: named in the error.
        function: called in a thread of its own, as a read that hangs cannot be interrupted.

    Raises:
        DataError: when it takes longer.
    """
    if seconds <= 0:
        return function()
    if not _readers or _readers[0].process != os.getpid():  # threads do not survive a fork
        _readers[:] = [_Reader()]
    try:
        return _readers[0].start(function).result(seconds)
    except TimeoutError:
        _readers.clear()
        raise DataError(f"{source} could not be read within {seconds:g} s; is its disk or network there?") from None
