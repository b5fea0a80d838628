"""What comes along that is no code, in an installed package or in a checkout: recipes and a few clips."""

from __future__ import annotations

import shutil
from pathlib import Path

from .errors import ConfigError, DataError
from .files import replacing

PACKAGE = Path(__file__).resolve().parent
FOLDER = next(folder for folder in (PACKAGE / "config", PACKAGE.parent / "config") if folder.is_dir())
"""Where they lie: an installation has ``config/`` inside the package, a checkout beside it."""
CLIPS = next(folder for folder in (PACKAGE / "demo_clips", PACKAGE.parent / "data") if folder.is_dir())
"""The real clips that come along: ``clips/`` and the table ``clips.csv``."""


RECIPE = "RECIPE"
"""What commands call a recipe's name in their help, which is then completed."""


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
