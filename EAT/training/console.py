"""What ``eat train`` prints: a line each logging interval with the time left, validations, and what EAT has to say.

Log files keep everything.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from ..pictures.run_logs import TRAINING, statistics
from ..progress import BRIEF, SilentBar, duration, progress_bar

SAID = ("done training",)
"""What fairseq says that is worth a line."""
HIDDEN = frozenset(
    {"epoch", "update", "num_updates", "bsz", "wall", "train_wall", "ups", "gb_free", "clip", "loss_scale", "nonfinite",
     "best_epoch", "gnorm", "lr", "clips_per_s", "loss"}
)  # fmt: skip
"""Figures that a validation's line leaves out, or names by itself."""


class Console(logging.StreamHandler):
    """Prints few records, each in a short line; on a terminal with a bar of the run's updates below them."""

    def __init__(self, stream: Any = None, total: int = 0) -> None:
        """``total``: updates of the whole run; 0 where nobody knows."""
        super().__init__(stream)
        self.total = total
        self._bar: Any = None
        self._last: tuple[int, float] | None = None
        """Updates that were made, and when, as the newest line said."""
        self._seconds: float | None = None
        """How long an update takes, the newer intervals more than the older."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record's line, if it has one."""
        try:
            line = self.line(record)
            if line is None:
                return
            if self._bar is None or isinstance(self._bar, SilentBar):
                print(line, file=self.stream, flush=True)
            else:
                self._bar.write(line, file=self.stream)
        except Exception:  # as handlers do: a run does not end because of its console
            self.handleError(record)

    def line(self, record: logging.LogRecord) -> str | None:
        """What is printed of a record, None for nothing."""
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            return f"{record.levelname.lower()}: {text}"
        if record.name == "EAT" or text.startswith(SAID):
            return text
        if record.name == TRAINING:
            return self.progress(statistics(record.name, text))
        if record.name != "train" and ("_num_updates" in text or " | valid on " in text):
            return validation(record.name, statistics(record.name, text))
        return None

    def progress(self, figures: dict[str, float]) -> str | None:
        """The line of an interval; on a terminal the bar shows it, and there is none."""
        done, now = int(figures.get("num_updates", 0)), time.monotonic()
        if self._last is not None and done > self._last[0]:
            seconds = (now - self._last[1]) / (done - self._last[0])
            self._seconds = seconds if self._seconds is None else 0.7 * self._seconds + 0.3 * seconds
        self._last = (done, now)
        shown = f"loss {figures.get('loss', float('nan')):.4g}, {figures.get('clips_per_s', 0.0):.3g} clips/s"
        if self._bar is None:
            self._bar = progress_bar(self.total or None, "training", "update")
            if not isinstance(self._bar, SilentBar):
                self._bar.initial = self._bar.n = done
        if not isinstance(self._bar, SilentBar):
            self._bar.set_postfix_str(shown, refresh=False)
            self._bar.update(done - self._bar.n)
            return None
        left = self.total - done
        known = left > 0 and self._seconds is not None
        rest = f", {duration(left * (self._seconds or 0.0))} left" if known else ""
        return f"update {done:,}{f' of {self.total:,}' if self.total else ''}: {shown}{rest}"


def validation(split: str, figures: dict[str, float]) -> str:
    """The line of a validation: its scores, and the best so far of the one that checkpoints are chosen by."""
    scores = {name: value for name, value in figures.items() if name not in HIDDEN}
    told = ", ".join(f"{name.removeprefix('best_')}{' at best' * name.startswith('best_')} {value:.4f}"
                     for name, value in {"loss": figures.get("loss", float("nan")), **scores}.items())  # fmt: skip
    return f"{split} after {int(figures.get('num_updates', 0)):,} updates: {told}"


def install(total: int) -> None:
    """Have the console take the place of what Hydra prints with, where the command said so.

    Args:
        total: updates of the whole run; 0 where nobody knows.
    """
    if os.environ.get(BRIEF) != "1":
        return
    root = logging.getLogger()
    for handler in list(root.handlers):
        if type(handler) is logging.StreamHandler:
            root.removeHandler(handler)
            root.addHandler(Console(handler.stream, total))
