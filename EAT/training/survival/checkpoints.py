"""Training checkpoints that are whole or absent, checked before they count, and replaced by an older one if damaged."""

from __future__ import annotations

import logging
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ...checkpoint.safe import read_torch_file
from ...errors import CheckpointError
from ...files import taking_place_of

logger = logging.getLogger("EAT")

LAST, PREVIOUS = "checkpoint_last", "checkpoint_previous"
NEEDED = ("model", "optimizer_history", "extra_state")
"""What makes a file a checkpoint that training can resume from."""


def corruption(path: str | os.PathLike[str]) -> str | None:
    """What keeps training from resuming from this file, in words; None for a good checkpoint.

    Every byte is read and compared with the checksums that ``torch.save`` wrote; ``torch.load`` does not look at them.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                member = archive.testzip()
            if member is not None:
                return f"the checksum of {member} in it is wrong"
        content = read_torch_file(str(path))
    except CheckpointError as error:
        return str(error).rstrip(".")
    except (OSError, RuntimeError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        return f"it cannot be read ({error})"
    missing = [name for name in NEEDED if name not in content]
    return f"it holds no {missing[0]!r}, so it is no training checkpoint" if missing else None


def updates(path: str | os.PathLike[str]) -> int:
    """After how many updates a good checkpoint was written."""
    return int(read_torch_file(str(path))["optimizer_history"][-1]["num_updates"])


def newest_good(path: str) -> str:
    """The checkpoint to resume from: ``path``; where that is damaged, the good one beside it with the most updates.

    Only a run's own last checkpoint is replaced so; a file that the user named must be good.

    Raises:
        CheckpointError: where there is none.
    """
    problem = corruption(path)
    if problem is None:
        return path
    wanted = Path(path)
    if not wanted.name.startswith(LAST):
        raise CheckpointError(f"training cannot resume from {path}: {problem}.")
    others = [other for other in wanted.parent.glob("checkpoint*.pt") if other != wanted and corruption(other) is None]
    if not others:
        raise CheckpointError(
            f"training cannot resume from {path}: {problem}; there is no other good checkpoint beside it. "
            "Remove the file to start anew, or set checkpoint.restore_file to one that is kept elsewhere."
        )
    chosen = max(others, key=lambda other: (updates(other), other.stat().st_mtime))
    logger.error(f"{path} is damaged ({problem}); resuming from {chosen}, after {updates(chosen)} updates")
    return str(chosen)


def _sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: BaseException) -> str:
    # torch reports its own confusion after a failed write; what the system said comes before it.
    cause = error.__context__ if isinstance(error.__context__, OSError) else error
    return getattr(cause, "strerror", None) or str(cause).splitlines()[0]


def _keep_previous(target: Path) -> None:
    """Let what ``checkpoint_last.pt`` holds now live on as ``checkpoint_previous.pt``."""
    if not target.name.startswith(LAST) or not target.exists():
        return
    previous = target.with_name(target.name.replace(LAST, PREVIOUS, 1))
    with taking_place_of(previous) as partial:
        partial.unlink(missing_ok=True)
        try:
            os.link(target, partial)  # checkpoints are never written in place, so a second name is as good as a copy
        except OSError:  # a file system without links
            shutil.copyfile(target, partial)
            _sync(partial)


def put_in_place(path: str | os.PathLike[str], write: Callable[[Path], Any]) -> None:
    """Write a checkpoint so that, whenever the process or the machine dies, a good one is there under ``path``.

    It is written under a temporary name, brought to the disk, read back and checked; only then it takes the place of
    the one before, which is kept as ``checkpoint_previous.pt`` where ``path`` is ``checkpoint_last.pt``.

    Args:
        path: where to.
        write: writes the file that it is told.

    Raises:
        CheckpointError: where that is not possible; what was there before is unchanged.
    """
    target = Path(path).absolute()
    try:
        for left in target.parent.glob(f".{target.name}.*.partial"):  # by a process that was killed
            left.unlink(missing_ok=True)
        with taking_place_of(target) as partial:
            write(partial)
            _sync(partial)
            problem = corruption(partial)
            if problem is not None:
                raise CheckpointError(f"{target} cannot be written: read back, {problem}.")
            _keep_previous(target)
        _sync(target.parent)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{target} cannot be written ({_reason(error)}).") from None


def save(content: dict[str, Any], path: str) -> None:
    """Write ``content`` as a checkpoint; see :func:`put_in_place`."""

    def write(partial: Path) -> None:
        with open(partial, "wb") as handle:
            torch.save(content, handle)

    put_in_place(path, write)


def copy(source: str, path: str) -> None:
    """Copy a checkpoint; see :func:`put_in_place`."""
    put_in_place(path, lambda partial: shutil.copyfile(source, partial))
