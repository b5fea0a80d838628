"""What a training run logged, read back from its log."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ..errors import DataError
from ..moved import RENAMED

_LINE = re.compile(r"\[(?P<tag>train_inner)\]\[INFO\] - (?P<statistics>.*)$")
_PAIR = re.compile(r"([A-Za-z_][\w.]*)=(\S+?)(?:,|$)")


def _statistics(text: str) -> dict[str, float]:
    """One line's numbers, from JSON or from ``name=value`` pairs."""
    if text.startswith("{"):
        try:
            pairs = json.loads(text).items()
        except ValueError:
            return {}
    else:
        pairs = _PAIR.findall(text)
    numbers: dict[str, float] = {}
    for name, value in pairs:
        try:
            numbers[RENAMED.get(name, name)] = float(value)
        except (TypeError, ValueError):
            continue
    return numbers


def read_run(folder: str | Path) -> dict[str, list[float]]:
    """The statistics of a run, by name, each beside ``num_updates``.

    Args:
        folder: the run's ``checkpoint.save_dir``, whose log files (one for every start) are joined, or one log file.
            Where a later start repeats an update, the later one counts.

    Raises:
        DataError: where there is no log, or none with statistics in it.
    """
    path = Path(folder)
    logs = [path] if path.is_file() else sorted(path.glob("hydra/*/*.log")) + sorted(path.glob("hydra/*/*/*.log"))
    if not logs:
        raise DataError(f"{folder} holds no log of a run; give the run's checkpoint.save_dir, or its log file.")
    updates: dict[float, dict[str, float]] = {}
    for log in logs:
        for line in log.read_text(errors="replace").splitlines():
            found = _LINE.search(line)
            numbers = _statistics(found["statistics"]) if found else {}
            if "num_updates" in numbers:
                updates[numbers["num_updates"]] = numbers
    if not updates:
        raise DataError(f"the log {logs[0]} holds no statistics yet; they come every common.log_interval updates.")
    rows = [updates[update] for update in sorted(updates)]
    names = sorted(set().union(*rows))
    return {name: [row.get(name, float("nan")) for row in rows] for name in names}
