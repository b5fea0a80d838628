"""Finding recordings in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from ..audio.recordings import AUDIO_SUFFIXES, HDF5_ERRORS, refuse_special
from ..errors import DataError

PACK_SUFFIXES = (".h5", ".hdf5")
"""File names that a search takes for packs of recordings."""


def find_files(root: str, suffixes: Sequence[str] = AUDIO_SUFFIXES) -> Iterator[str]:
    """Search a folder and its sub-folders, links to folders included.

    Names that begin with a dot are passed over: other systems' book-keeping often looks like a recording.

    Yields:
        Paths relative to ``root``, in no particular order.

    Raises:
        DataError: where ``root``, or a folder in it, cannot be listed.
    """
    suffixes = tuple(suffixes)
    seen = set()
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        path = os.path.join(root, folder) if folder else root
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                continue  # a link back to a folder that was searched already
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    name = f"{folder}/{entry.name}" if folder else entry.name
                    if _is_folder(entry):
                        waiting.append(name)
                    elif entry.name.lower().endswith(suffixes):
                        yield name
        except OSError as error:
            raise DataError(f"the folder {path} cannot be searched ({error.strerror}).") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads round in a circle
        return False


def read_pack_keys(path: str) -> list[str]:
    """The names of all data sets in an HDF5 file.

    Raises:
        DataError: where h5py is not installed or the file cannot be opened.
    """
    try:
        import h5py
    except ImportError:
        raise DataError(f"{path} is an HDF5 pack, which needs h5py: pip install 'eat-audio[hdf5]'.") from None
    refuse_special(path)
    try:
        with h5py.File(path, "r") as pack:
            return list(data_sets(pack))
    except HDF5_ERRORS as error:
        raise DataError(f"{path} cannot be opened as an HDF5 file ({' '.join(str(error).split())[:200]}).") from None


def data_sets(file: Any) -> Iterator[str]:
    """The names of all data sets of an open HDF5 file, each group's once, however often links lead to it."""
    from h5py import h5g

    seen = {_identity(h5g.get_objinfo(file.id))}
    waiting = [(file, "")]
    while waiting:
        group, prefix = waiting.pop()
        for name in group:
            # The kind of object alone: opening each would take minutes for a data set of two million clips.
            try:
                status = h5g.get_objinfo(group.id, name.encode("utf-8", "surrogateescape"))
            except (KeyError, RuntimeError):
                continue  # a link to nothing
            if status.type == h5g.DATASET:
                yield prefix + name
            elif status.type == h5g.GROUP and _identity(status) not in seen:
                seen.add(_identity(status))
                waiting.append((group[name], f"{prefix}{name}/"))


def _identity(status: Any) -> tuple[Any, Any]:
    return status.fileno, status.objno
