"""The recipes of ``config/``, in an installed package or in a checkout, and the command that trains by one."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import ConfigError, DataError
from .files import replacing

PACKAGE = Path(__file__).resolve().parent
FOLDER = next(folder for folder in (PACKAGE / "config", PACKAGE.parent / "config") if folder.is_dir())
"""Where they lie: an installation has ``config/`` inside the package, a checkout beside it."""


def recipe_names() -> list[str]:
    """What ``--config-name`` may be."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def copy_recipe(name: str, folder: Path) -> list[Path]:
    """Copy a recipe and what it takes its technical keys from, to be edited: ``--config-dir`` takes the folder.

    Returns:
        The files that were written.

    Raises:
        ConfigError: for a recipe that does not exist.
        DataError: for a file that is there already or cannot be written.
    """
    if name not in recipe_names():
        raise ConfigError(f"there is no recipe {name!r}; it must be one of {', '.join(recipe_names())}.")
    written = []
    for source in (FOLDER / f"{name}.yaml", *sorted((FOLDER / "base").glob("*.yaml"))):
        target = folder / source.relative_to(FOLDER)
        if target.exists() and target.parent == folder:
            raise DataError(f"{target} is there already; remove it, or give another folder.")
        if not target.exists():
            with replacing(target, "wb") as handle, open(source, "rb") as content:
                shutil.copyfileobj(content, handle)
            written.append(target)
    return written


def training_command(arguments: Sequence[str]) -> list[str]:
    """The command line that trains: ``fairseq-hydra-train``'s arguments, with our recipes and our tasks to be found.

    Args:
        arguments: ``--config-name NAME``, ``key=value`` and whatever else Hydra takes. With a ``--config-dir`` of
            one's own, what its recipes refer to is looked for there first, then here.

    Raises:
        ConfigError: where fairseq is not installed.
    """
    if importlib.util.find_spec("fairseq") is None:
        only = "" if sys.version_info < (3, 13) else ", on Python 3.11 or 3.12"
        raise ConfigError(f"training needs fairseq: pip install 'eat-audio[train]'{only}.")
    own = [] if "--config-dir" in arguments or "-cd" in arguments else ["--config-dir", str(FOLDER)]
    found = list(arguments)
    if not own:
        found.append(f"hydra.searchpath=[file://{FOLDER}]")
    if not any(argument.startswith("common.user_dir=") for argument in arguments):
        found.append(f"common.user_dir={PACKAGE}")
    return [sys.executable, "-m", "fairseq_cli.hydra_train", *own, *found]
