"""Where partitions of results lie: in a folder, or in a store that fsspec knows, such as S3."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import IO

from ..audio.stored import file_system, is_remote, reason
from ..errors import DataError
from ..files import replacing


class Place:
    """Files by their names below an address, a folder's or a store's.

    Each method raises DataError where the disk, the network or a server does not do as it is told.

    Raises:
        ConfigError: for a protocol that nobody knows, or whose package is not installed.
    """

    def __init__(self, address: str | os.PathLike[str]) -> None:
        self.address = str(address).rstrip("/") or "/"
        self._remote = is_remote(self.address)
        if self._remote:
            self._system, path = file_system(self.address)
        else:
            from fsspec.implementations.local import LocalFileSystem  # fsspec comes with torch

            self._system, path = LocalFileSystem(), os.path.abspath(self.address)
        self._path = path.rstrip("/")

    @contextlib.contextmanager
    def _named(self, name: str, what: str) -> Iterator[None]:
        try:
            yield
        except DataError:
            raise
        except Exception as error:  # every store has errors of its own
            raise DataError(f"{self.address}/{name} cannot be {what} ({reason(error)}).") from None

    def names(self, pattern: str, below: str = "") -> list[str]:
        """Those in a folder of the place that a pattern of a shell fits, sorted; none where there is no such folder."""
        with self._named(below, "listed"):
            self._system.invalidate_cache()
            try:
                found = self._system.ls(f"{self._path}/{below}".rstrip("/"), detail=False)
            except FileNotFoundError:
                return []
        names = (os.path.basename(str(path)) for path in found)
        return sorted(os.path.join(below, name) for name in names if fnmatchcase(name, pattern))

    def size(self, name: str) -> int | None:
        """In bytes; None where there is no such file."""
        with self._named(name, "read"):
            self._system.invalidate_cache()
            try:
                return int(self._system.size(f"{self._path}/{name}"))
            except FileNotFoundError:
                return None

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[IO[bytes]]:
        """A file to read."""
        with self._named(name, "read"), self._system.open(f"{self._path}/{name}", "rb") as handle:
            yield handle

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A file to write, which appears as a whole when the block ends well, or not at all."""
        path = f"{self._path}/{name}"
        if not self._remote:
            with replacing(path, "wb") as handle:
                yield handle
            return
        with tempfile.TemporaryDirectory() as folder:
            local = os.path.join(folder, "file")
            with open(local, "wb") as handle:
                yield handle
            with self._named(name, "written"):
                self._system.makedirs(os.path.dirname(path), exist_ok=True)
                self._system.put_file(local, path)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, some of which may be gone already."""
        for name in names:
            with self._named(name, "removed"), contextlib.suppress(FileNotFoundError):
                self._system.rm_file(f"{self._path}/{name}")
