"""Writing files so that nothing is ever half-written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .errors import DataError


@contextlib.contextmanager
def taking_place_of(target: Path) -> Iterator[Path]:
    """The name of a file to write beside ``target``, whose place it takes when the block ends well.

    It vanishes when the block does not end well.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
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
