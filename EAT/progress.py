"""Progress bars on stderr that keep quiet where nobody watches."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

Item = TypeVar("Item")


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
