"""Manifests: a root folder, then one clip a line.

``{split}.tsv``: the root folder on the first line, then ``relative/path<TAB>samples``. Two million lines stay a few
bytes each: the file's bytes are kept as they are with an index of line starts, which worker processes share.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..audio.recordings import file_of
from ..errors import DataError
from ..files import replacing


class Manifest:
    """The clips of one split, in the order of the file.

    Args:
        path: the ``.tsv`` file.
        allow_outside_root: whether clips may lie outside the root folder, by ``..``, an absolute path or a link. None
            asks the environment variable ``EAT_ALLOW_OUTSIDE_ROOT``, which is 1 where they may.

    Raises:
        DataError: for a file that is missing, empty, or not a manifest.
    """

    def __init__(self, path: str | os.PathLike[str], allow_outside_root: bool | None = None) -> None:
        self.path = str(path)
        if allow_outside_root is None:
            allow_outside_root = os.environ.get("EAT_ALLOW_OUTSIDE_ROOT") == "1"
        self.allow_outside_root = allow_outside_root
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise DataError(
                f"the manifest {path} cannot be read ({error.strerror}); "
                "write one with 'python -m EAT.prepare folder AUDIO_FOLDER DATA_FOLDER'."
            ) from None
        header, _, body = content.partition(b"\n")
        self.root = self._resolve_root(header)
        if body and not body.endswith(b"\n"):
            body += b"\n"
        self._bytes = np.frombuffer(body, dtype=np.uint8)
        ends = np.flatnonzero(self._bytes == ord("\n"))
        starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
        filled = ends > starts
        self._starts, self._ends = starts[filled], ends[filled]
        if not len(self):
            raise DataError(f"the manifest {path} lists no clips after its first line, the root folder.")
        tabs = np.concatenate([[0], np.cumsum(self._bytes == ord("\t"))])
        untabbed = np.flatnonzero(tabs[self._ends] == tabs[self._starts])
        if len(untabbed):
            line = self._line(int(untabbed[0]))
            raise DataError(
                f"the manifest {path} has a line without a tab, {line[:80]!r}; "
                "each must be relative/path<TAB>number of samples."
            )

    def _resolve_root(self, header: bytes) -> str:
        text = header.decode("utf-8", "replace").strip("\r")
        if not text or "\t" in text:
            raise DataError(f"the first line of the manifest {self.path} must be the clips' root folder.")
        root = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(self.path)), text))
        if not os.path.isdir(root):
            raise DataError(
                f"the root folder {text!r} in the first line of the manifest {self.path} does not exist; "
                "correct that line (a relative folder is looked for beside the manifest)."
            )
        return root

    def __len__(self) -> int:
        return len(self._starts)

    def _line(self, index: int) -> str:
        return self._bytes[self._starts[index] : self._ends[index]].tobytes().decode("utf-8", "replace").rstrip("\r")

    def name(self, index: int) -> str:
        """The clip's path as the manifest has it, relative to the root."""
        return self._line(index).rsplit("\t", 1)[0]

    def samples(self, index: int) -> int:
        """The clip's length as the manifest has it, in samples at the file's own rate.

        Raises:
            DataError: where that is not a number.
        """
        text = self._line(index).rsplit("\t", 1)[1].strip(" ")
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise DataError(
                f"the manifest {self.path} says {text[:80]!r} where {self.name(index)} has its length in samples."
            )
        return int(text)

    def source(self, index: int) -> str:
        """The address of the clip for :func:`EAT.audio.recordings.read_audio`.

        Raises:
            DataError: for a path that leaves the root folder.
        """
        name = self.name(index)
        if "\0" in name:
            raise DataError(f"the manifest {self.path} has a zero byte in the path {name[:80]!r}.")
        address = os.path.join(self.root, name)
        if not self.allow_outside_root:
            if os.path.isabs(name) or ".." in name.replace("\\", "/").split("/"):
                self._refuse(name, "leaves")
            file = file_of(address)
            if not _lies_in(os.path.dirname(file), self.root):
                self._refuse(name, "leaves, by a link,")
            if os.path.islink(file) and not _lies_in(os.path.realpath(file), self.root):
                self._refuse(name, "leaves, by a link,")
        return address

    def _refuse(self, name: str, how: str) -> None:
        raise DataError(
            f"{name} in the manifest {self.path} {how} the root folder {self.root}; if that is meant, set "
            "task.allow_outside_root=true for training, or the environment variable EAT_ALLOW_OUTSIDE_ROOT=1."
        )


@lru_cache(maxsize=4096)
def _lies_in(path: str, root: str) -> bool:
    """Whether a path leads into the root folder once links are followed. Asked for every clip's folder."""
    real, top = os.path.realpath(path), os.path.realpath(root)
    return real == top or real.startswith(top.rstrip(os.sep) + os.sep)


def holdable(name: str) -> bool:
    """Whether a manifest can hold this path: one line of text in UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return not any(mark in name for mark in "\n\r\0")


def write_manifest(path: str | os.PathLike[str], root: str, clips: Iterable[tuple[str, int]]) -> None:
    """Write a manifest from (path relative to ``root``, samples) pairs.

    Raises:
        DataError: for a root that the first line cannot hold, or where the file cannot be written.
    """
    if not holdable(root) or "\t" in root:
        raise DataError(f"the folder {root!r} has a tab, a line break or undecodable bytes in its name; rename it.")
    with replacing(path) as handle:
        handle.write(f"{root}\n")
        handle.writelines(f"{name}\t{samples}\n" for name, samples in clips)
