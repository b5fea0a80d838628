"""What a training run logged, read back from its log."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ..errors import DataError
from ..moved import RENAMED

Statistics = dict[str, list[float]]
"""Values by name, each beside ``num_updates``."""

_LINE = re.compile(r"\[(?P<tag>[^\]]+)\]\[INFO\] - (?P<statistics>.*)$")
_PAIR = re.compile(r"([A-Za-z_][\w.]*)=(\S+?)(?:,|$)")
_VALID = re.compile(r" \| valid on '[^']*' subset \| (?P<statistics>.*)$")
_COLUMN = re.compile(r"([A-Za-z_][\w.]*) (\S+)(?: \||$)")
TRAINING = "train_inner"
"""The tag of a training run's own lines; a validation's are tagged with the split's name."""


def statistics(tag: str, text: str) -> dict[str, float]:
    """One line's numbers: from JSON, from ``name=value`` pairs, or of a validation from ``name value`` columns."""
    validation = _VALID.search(text)
    if text.startswith("{"):
        try:
            pairs = [(name.removeprefix(f"{tag}_"), value) for name, value in json.loads(text).items()]
        except ValueError:
            return {}
    else:
        pairs = _COLUMN.findall(validation["statistics"]) if validation else _PAIR.findall(text)
    numbers: dict[str, float] = {}
    for name, value in pairs:
        try:
            numbers[RENAMED.get(name, name)] = float(value)
        except (TypeError, ValueError):
            continue
    return numbers


def read_log(folder: str | Path) -> dict[str, Statistics]:
    """The statistics of a run and of its validations.

    Args:
        folder: the run's ``checkpoint.save_dir``, whose log files (one for every start) are joined, or one log file.
            Where a later start repeats an update, the later one counts.

    Returns:
        By :data:`TRAINING` and by the name of each split that was validated on: values by name, each beside
        ``num_updates``.

    Raises:
        DataError: where there is no log, or none with statistics in it.
    """
    path = Path(folder)
    logs = [path] if path.is_file() else sorted(path.glob("hydra/*/*.log")) + sorted(path.glob("hydra/*/*/*.log"))
    if not logs:
        raise DataError(f"{folder} holds no log of a run; give the run's checkpoint.save_dir, or its log file.")
    found: dict[str, dict[float, dict[str, float]]] = {}
    for log in logs:
        for line in log.read_text(errors="replace").splitlines():
            match = _LINE.search(line)
            if match is None or match["tag"] == "train":  # an epoch's means over what its lines said
                continue
            numbers = statistics(match["tag"], match["statistics"])
            if "num_updates" in numbers:
                found.setdefault(match["tag"], {})[numbers["num_updates"]] = numbers
    if TRAINING not in found:
        raise DataError(f"the log {logs[0]} holds no statistics yet; they come every common.log_interval updates.")
    return {tag: _columns(updates) for tag, updates in found.items()}


def _columns(updates: dict[float, dict[str, float]]) -> Statistics:
    rows = [updates[update] for update in sorted(updates)]
    names = sorted(set().union(*rows))
    return {name: [row.get(name, float("nan")) for row in rows] for name in names}


def read_run(folder: str | Path) -> Statistics:
    """The statistics of a run's training alone; see :func:`read_log`."""
    return read_log(folder)[TRAINING]
