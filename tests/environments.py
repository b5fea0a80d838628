"""Python environments that hold some of this one's packages and nothing else."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable
from pathlib import Path


def link_packages(folder: Path, names: Iterable[str], absent: Iterable[str] = ()) -> None:
    """Link distributions of this environment, and what they require but for ``absent``, into ``folder``."""
    waiting, seen = list(names), set(absent)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # wanted on other systems only
        for file in distribution.files or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__", "bin") and not (folder / top).exists():
                (folder / top).symlink_to(distribution.locate_file(top))
        needs = [need for need in distribution.requires or [] if "extra ==" not in need]
        waiting += [re.match(r"[\w.-]+", need)[0].lower() for need in needs]
