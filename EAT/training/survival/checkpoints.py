"""Training checkpoints that are whole or absent, checked before they count, and replaced by an older one if damaged."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from ...checkpoint.safe import read_torch_file
from ...errors import CheckpointError
from ...files import taking_place_of

logger = logging.getLogger("EAT")

LAST, PREVIOUS = "checkpoint_last", "checkpoint_previous"
NEEDED: dict[str, Any] = {
    "model": dict,
    "optimizer_history": [{"num_updates": int, "criterion_name": str, "optimizer_name": str}],
    "extra_state": {"train_iterator": {"epoch": int, "iterations_in_epoch": int, "shuffle": bool}},
    "last_optimizer_state": {"state": dict, "param_groups": [dict]},
}
"""What makes a file a checkpoint that training can resume from; lists are not empty and numbers not negative."""
PLACE: dict[str, Any] = {"clips": int, "batch_size": int, "order": int}
"""Where a run is in an epoch; checkpoints of 1.0 do without."""
TASK_STATE: dict[str, Any] = {"nonfinite": {"total": int, "in_row": int}, "scaler": dict}


def _misfit(value: Any, wanted: Any, name: str) -> str | None:
    """What of ``value`` is not as wanted, in words; None where all of it is."""
    kind: Any = wanted if isinstance(wanted, type) else type(wanted)
    parts: dict[str, Any] = wanted if isinstance(wanted, dict) else {}
    # True is no number here, an OrderedDict is a dict.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        return f"its {name} is no {kind.__name__}"
    if kind is int and value < 0:
        return f"its {name} is {value}"
    if isinstance(wanted, list):
        return f"its {name} is empty" if not value else _misfit(value[-1], wanted[0], name)
    for key, part in parts.items():
        problem = _misfit(value[key], part, f"{name}.{key}") if key in value else f"it holds no {name}.{key}"
        if problem is not None:
            return problem
    return None


def _incomplete(content: dict[str, Any], with_optimizer: bool) -> str | None:
    """What a run would miss in a checkpoint's content, in words."""
    for name, wanted in NEEDED.items():
        if name == "last_optimizer_state" and not with_optimizer:
            continue
        problem = _misfit(content[name], wanted, name) if name in content else f"it holds no {name!r}"
        if problem is not None:
            return f"{problem}, so it is no training checkpoint"
    place = content["extra_state"]["train_iterator"]
    if "clips" in place and (problem := _misfit(place, PLACE, "extra_state.train_iterator")):
        return problem
    for name, value in content["model"].items():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not torch.isfinite(value).all():
            return f"its {name} holds NaN or infinity"
    for name, state in content["extra_state"].items():
        problem = _misfit(state, TASK_STATE, name) if name.startswith("EAT") else None
        if problem is not None:
            return problem
    return None


_locked: dict[str, IO[Any]] = {}


def lock(folder: str) -> None:
    """Keep other runs out of a folder of checkpoints while this process lives.

    Raises:
        CheckpointError: where another run has it.
    """
    path = Path(folder).absolute() / ".lock"
    if str(path) in _locked:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path, "a")  # noqa: SIM115 - the lock lasts as long as the file is open
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written ({error.strerror}); check checkpoint.save_dir.") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise CheckpointError(
            f"another run writes its checkpoints to {folder}; wait for its end, or set another checkpoint.save_dir."
        ) from None
    except OSError as error:  # a file system without locks
        logger.info(f"{folder} cannot be locked ({error.strerror}); see to it that no other run writes there")
    _locked[str(path)] = handle


def corruption(path: str | os.PathLike[str], with_optimizer: bool = True) -> str | None:
    """What keeps training from resuming from this file, in words; None for a good checkpoint.

    Every byte is read and compared with the checksums that ``torch.save`` wrote; ``torch.load`` does not look at them.

    Args:
        path: the file.
        with_optimizer: whether the optimiser's state is needed.
    """
    if not os.path.isfile(path):
        return "it is no file" if os.path.lexists(path) else "it is missing"
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
    return _incomplete(content, with_optimizer)


def updates(path: str | os.PathLike[str]) -> int:
    """After how many updates a good checkpoint was written."""
    return int(read_torch_file(str(path))["optimizer_history"][-1]["num_updates"])


def is_new_run(path: str | os.PathLike[str]) -> bool:
    """Whether nothing is there to resume from: ``path`` is a run's own last checkpoint, in a folder without any."""
    wanted = Path(path)
    others = any(wanted.parent.glob("checkpoint*.pt"))
    return wanted.name.startswith(LAST) and not others and not os.path.lexists(path)


def newest_good(path: str, with_optimizer: bool = True) -> str:
    """The checkpoint to resume from: ``path``; where that is no good one, the good one beside it with the most updates.

    Only a run's own last checkpoint is replaced so; a file that the user named must be good.

    Returns:
        The file; ``path`` itself, which is not there, in a folder without checkpoints, where a new run begins.

    Raises:
        CheckpointError: where there is none, although there are checkpoints.
    """
    problem, wanted = corruption(path, with_optimizer), Path(path)
    if wanted.is_dir():
        raise CheckpointError(f"{path} is a folder, where the run's last checkpoint belongs; move it away.")
    if problem is None or is_new_run(path):
        return path
    beside = [other for other in wanted.parent.glob("checkpoint*.pt") if other != wanted]
    if not wanted.name.startswith(LAST):
        raise CheckpointError(f"training cannot resume from {path}: {problem}.")
    others = [other for other in beside if corruption(other, with_optimizer) is None]
    if not others:
        raise CheckpointError(
            f"training cannot resume from {path}: {problem}; there is no other good checkpoint beside it. "
            f"Remove {'these checkpoints' if beside else 'the file'} to start anew, or set checkpoint.restore_file to "
            "one that is kept elsewhere."
        )
    chosen = max(others, key=lambda other: (updates(other), other.stat().st_mtime))
    logger.error(f"{path} cannot be used ({problem}); resuming from {chosen}, after {updates(chosen)} updates")
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
        _link(target, partial)


def _link(source: Path, partial: Path) -> None:
    """Give a file a second name, as good as a copy because checkpoints are never written in place."""
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:  # a file system without links
        shutil.copyfile(source, partial)
        _sync(partial)


def put_in_place(path: str | os.PathLike[str], write: Callable[[Path], Any]) -> None:
    """Write a checkpoint so that, whenever the process or the machine dies, a good one is there under ``path``.

    It is written under a temporary name, brought to the disk, read back and checked; only then it takes the place of
    the one before, which is kept as ``checkpoint_previous.pt`` where ``path`` is ``checkpoint_last.pt``.

    Args:
        path: where to.
        write: writes the file that it is told; where that is a second name of a file, it was checked as the first.

    Raises:
        CheckpointError: where that is not possible; what was there before is unchanged.
    """
    target = Path(path).absolute()
    try:
        for left in target.parent.glob(f".{target.name}.*.partial"):  # by a process that was killed
            left.unlink(missing_ok=True)
        with taking_place_of(target) as partial:
            write(partial)
            if partial.stat().st_nlink == 1:
                _sync(partial)
                problem = corruption(partial, with_optimizer=False)  # checkpoint.no_save_optimizer_state leaves it out
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
    """Put a checkpoint under a second name, without a second copy where the file system can; see put_in_place."""
    put_in_place(path, lambda partial: _link(Path(source).absolute(), partial))
