"""A run by a recipe in a process of its own, started from Python: its figures while it goes, and a way to stop it."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError, TrainingError
from ..pictures.run_logs import read_run
from ..recipes import FOLDER, recipe_names

STOPPED = 75
"""The status of a run that was told to stop and has saved."""
_PLAIN = re.compile(r"[\w./+-][\w./:+-]*")


def hydra_value(value: Any) -> str:
    """A setting's value as Hydra reads it: ``null``, ``true``, numbers, lists; text in quotes where it needs them."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(hydra_value, value))}]"
    text = str(value)
    if isinstance(value, (int, float)) or _PLAIN.fullmatch(text):
        return text
    # Backslashes stand for themselves but before a quote.
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text) + "'"


class RecipeRun:
    """A run that was started by :func:`run_recipe`. As a context manager it is stopped when the block ends.

    Attributes:
        command: what was started.
        log: the file that its output goes to.
    """

    def __init__(self, command: list[str], log: Path) -> None:
        self.command, self.log = command, log
        with open(log, "ab") as output:
            # A session of its own, so that Ctrl-C in a notebook or terminal stops what waits, not the run.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    @property
    def status(self) -> int | None:
        """None while it goes; then 0, 75 where it was told to stop and has saved, or another where it failed."""
        return self._process.poll()

    @property
    def metrics(self) -> dict[str, list[float]]:
        """What it has logged so far, by name, each as long as ``num_updates``; empty before the first figures.

        ``pandas.DataFrame(run.metrics)`` is a table of them.
        """
        try:
            return read_run(self.log)
        except DataError:
            return {}

    def tail(self, lines: int = 20) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; returns the status, 0 or 75.

        Args:
            timeout: seconds after which not to wait any longer.

        Raises:
            TrainingError: where it failed, with the last line of its log, or has not ended in time.
        """
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TrainingError(f"the run has not ended within {timeout:g} s; its log is {self.log}.") from None
        if status not in (0, STOPPED):
            raise TrainingError(f"the run ended with status {status}: {self.tail(1)} (its log is {self.log})")
        return status

    def stop(self, timeout: float | None = None) -> int:
        """Have it save and end after its update, as SIGTERM does; the same call of :func:`run_recipe` resumes it.

        Args:
            timeout: as in :meth:`wait`.

        Returns:
            75; 0 where it had ended by itself; -15 where it had not begun to train.

        Raises:
            TrainingError: as :meth:`wait`.
        """
        if self.status is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                if self._process.wait(timeout) == -signal.SIGTERM:
                    return -signal.SIGTERM
        return self.wait(0)

    def __enter__(self) -> RecipeRun:
        return self

    def __exit__(self, *reason: object) -> None:
        if self.status is None:
            self.stop()

    def __repr__(self) -> str:
        updates = self.metrics.get("num_updates", [0.0])[-1]
        state = "goes" if self.status is None else f"ended with status {self.status}"
        return f"<run that {state} after {updates:g} updates; log {self.log}>"


def run_recipe(
    name: str,
    settings: Mapping[str, Any] | None = None,
    *,
    config_dir: str | Path | None = None,
    log: str | Path | None = None,
) -> RecipeRun:
    """Train by a recipe in a process of its own, as ``eat train`` does, and return immediately.

    It continues when this process ends; :meth:`RecipeRun.stop`, or a ``with`` block's end, stops it.

    Args:
        name: the recipe, such as ``finetuning_demo``.
        settings: what is to be other than in the recipe: ``{"task.data": "prepared", "optimization.max_update": 100}``.
        config_dir: a folder of recipes of one's own.
        log: the file that its output is appended to; None makes one in the system's temporary folder.

    Raises:
        ConfigError: for a recipe that does not exist.
    """
    if config_dir is None and name not in recipe_names():
        raise ConfigError(f"there is no recipe {name!r} in {FOLDER}; it must be one of {', '.join(recipe_names())}.")
    command = [sys.executable, "-m", "EAT.train", "-v", "--config-name", name]
    command += [] if config_dir is None else ["--config-dir", str(config_dir)]
    command += [
        f"{key}={hydra_value(value)}" for key, value in {"common.log_format": "json", **(settings or {})}.items()
    ]
    path = Path(log) if log is not None else Path(tempfile.mkdtemp(prefix=f"eat_{name}_")) / "log.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    return RecipeRun(command, path)
