"""Stopping when the machine is taken away: SIGTERM and SIGUSR1 save and end the run at the next update's end."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from types import FrameType

logger = logging.getLogger("EAT")

STOPPED = 75
"""Exit status of a run that saved and stopped because it was told to: EX_TEMPFAIL of sysexits.h, "try again later"."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Remembers that a signal asked this process to stop."""

    def __init__(self) -> None:
        self.owner = 0
        self.received: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.received is not None

    def install(self) -> None:
        """Answer the signals from now on. Nothing to do where this is not a process's main thread."""
        if self.owner == os.getpid() or threading.current_thread() is not threading.main_thread():
            return
        self.owner = os.getpid()
        for number in SIGNALS:
            signal.signal(number, self._handle)
        self._say_when_heard()
        os.register_at_fork(after_in_child=self._leave_to_parent)
        if multiprocessing.parent_process() is not None:
            # A process that another one started for its device: that one's death arrives as SIGINT.
            self._starter = os.getppid()
            signal.signal(signal.SIGINT, self._handle_interrupt)

    def _leave_to_parent(self) -> None:
        """Block the signals in a process forked to read data, before it has read anything: a job's signals reach all.

        Blocked rather than ignored, because the data loader puts handlers of its own in place afterwards.
        """
        if os.getppid() == self.owner:
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def _say_when_heard(self) -> None:
        """Have a thread log signals; handlers wait for the end of what runs in C++, which may take minutes."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

        def listen() -> None:
            while numbers := os.read(reading, 1):
                if numbers[0] in SIGNALS:
                    name = signal.Signals(numbers[0]).name
                    logger.warning(f"{name} was heard; the run saves and stops when this update is done")

        threading.Thread(target=listen, name="signals", daemon=True).start()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self.owner:
            self.received = signal.Signals(number)

    def _handle_interrupt(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self.owner and os.getppid() != self._starter:
            self.received = signal.Signals(number)
        else:
            signal.default_int_handler(number, frame)


stop = StopRequest()
"""The one of this process."""


def end_dataloader_workers() -> None:
    """End this process's DataLoader workers.

    The signals above do not reach them, so that a signal to the whole job does not end them before the run was saved;
    asked with SIGTERM at the interpreter's exit, one that hangs would keep this process from ending.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the data loader would take their end for an accident
    for process in multiprocessing.active_children():
        process.kill()
