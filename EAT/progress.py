"""Progress bars on stderr that keep quiet where nobody watches."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, TypeVar

Item = TypeVar("Item")

BRIEF = "EAT_BRIEF_CONSOLE"
"""The environment variable that says 1 where a training run is to print little."""


class SilentBar:
    """Stands where a bar would: takes the same calls and shows nothing."""

    def update(self, count: float = 1) -> None:
        """Count ``count`` more units as done."""

    def close(self) -> None:
        """Finish."""


def progress_bar(total: float | None = None, description: str = "", unit: str = "clip") -> Any:
    """A bar to be moved by hand: ``update(count)`` as work is done, ``close()`` at the end.

    It shows a rate in ``unit`` per second. Where stderr is no terminal, or tqdm is not installed, nothing is shown.
    """
    if not sys.stderr.isatty():
        return SilentBar()
    try:
        from tqdm import tqdm
    except ImportError:
        return SilentBar()
    return tqdm(total=total, desc=description or None, unit=f" {unit}", file=sys.stderr, dynamic_ncols=True)


def progress(
    iterable: Iterable[Item], total: int | None = None, description: str = "", unit: str = "clip"
) -> Iterator[Item]:
    """Go through ``iterable`` with a bar on stderr that shows the rate.

    Args:
        iterable: what to go through.
        total: how many items there are; None asks ``len(iterable)`` where it has one.
        description: what is being done, in a word or two.
        unit: what an item is called.

    Yields:
        The items, unchanged.
    """
    if total is None:
        total = len(iterable) if isinstance(iterable, Sized) else None
    bar = progress_bar(total, description, unit)
    try:
        for item in iterable:
            yield item
            bar.update(1)
    finally:
        bar.close()


@contextlib.contextmanager
def waiting(description: str, interval: float = 1.0) -> Iterator[None]:
    """Show the seconds that something of unknown length takes, on a line that goes away; nothing but on a terminal.

    Args:
        description: what is being done, in a word or two.
        interval: seconds from one showing to the next.
    """
    if not sys.stderr.isatty():
        yield
        return
    over = threading.Event()
    start = time.monotonic()

    def show() -> None:
        while not over.wait(interval):
            print(f"\r{description}: {time.monotonic() - start:.0f} s", end="", file=sys.stderr, flush=True)

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        print(f"\r{' ' * (len(description) + 10)}\r", end="", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """A length of time in its fitting unit: ``40 s``, ``12 min``, ``3.4 hours``, ``5.2 days``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} hours" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


class Pace:
    """Says once, after the third update of a process, how long the rest of a run is going to take.

    The first update is left out: it waits for the first batch, and sets up what later ones find.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends: list[float] = []

    def after_update(self, done: int, total: int) -> str | None:
        """A sentence when it is time for it.

        Args:
            done: updates of the run, this one included.
            total: of the whole run; 0 where nobody knows.
        """
        if len(self._ends) == 3:
            return None
        self._ends.append(self._clock())
        if len(self._ends) < 3:
            return None
        seconds = (self._ends[2] - self._ends[0]) / 2
        rest = f"; the {total - done:,} that are left take about {duration(seconds * (total - done))}"
        return f"pace: {seconds:.3g} s an update{rest if total > done else ''}"
