"""Writing files so that nothing is ever half-written."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .errors import DataError

LONGEST_NAME = 200
"""Bytes of a name to which this package adds something; a file system takes 255."""


def hidden(target: Path, ending: str) -> Path:
    """The name ``.TARGET.ENDING`` beside ``target``, which is the same each time; a long name is shortened in it."""
    name = target.name
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f"{name[:32]}~{hashlib.blake2b(os.fsencode(name), digest_size=8).hexdigest()}"
    return target.with_name(f".{name}.{ending}")


@contextlib.contextmanager
def taking_place_of(target: Path) -> Iterator[Path]:
    """The name of a file to write beside ``target``, whose place it takes when the block ends well.

    It vanishes when the block does not end well.
    """
    # The process alone would not do: containers that share a folder number theirs alike.
    partial = hidden(target, f"{os.getpid()}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        os.replace(partial, target)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file that takes ``path``'s place when the block ends well, and vanishes when it does not.

    Args:
        path: the file to write; its folder is made where it is missing.
        mode: ``"w"`` for UTF-8 text whose line ends are kept as they are written, ``"wb"`` for bytes.

    Raises:
        DataError: where the folder or the file cannot be written.
    """
    target = Path(path)
    text: dict[str, str] = {} if "b" in mode else {"encoding": "utf-8", "newline": "", "errors": "surrogateescape"}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with taking_place_of(target) as partial, open(partial, mode, **text) as handle:  # type: ignore[call-overload]
            yield handle
    except OSError as error:
        raise DataError(f"{target} cannot be written ({error.strerror or error}).") from None


@contextlib.contextmanager
def exclusive(folder: Path, busy: str) -> Iterator[None]:
    """Keep other processes out of a folder until the block ends.

    The folder is made, and vanishes in the end if nothing is in it. File systems without locks keep nobody out.

    Args:
        folder: which.
        busy: the sentence for whoever comes second.

    Raises:
        DataError: with that sentence where another process has it, or where it cannot be written.
    """
    import fcntl

    path = folder / ".lock"
    handle = None
    while handle is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = open(path, "a")  # noqa: SIM115 - the lock lasts as long as the file is open
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:  # whoever had it removed the folder at this moment
            continue
        except BlockingIOError:
            if handle is not None:
                handle.close()
            raise DataError(busy) from None
        except OSError as error:
            if handle is None:
                raise DataError(f"{folder} cannot be written ({error.strerror or error}).") from None
        if not _is_still(path, handle):  # its holder has removed it since
            handle.close()
            handle = None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if _is_still(path, handle):
                path.unlink()
                folder.rmdir()
        handle.close()


def _is_still(path: Path, handle: IO[Any]) -> bool:
    """Whether the open file is the one that lies at ``path``."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle.fileno()))
    except OSError:
        return False
