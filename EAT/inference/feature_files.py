"""Features on disk: an ``.npy`` file a recording, or all in one HDF5, safetensors or table file; never half a file."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..data.search import data_sets
from ..errors import ConfigError, DataError
from ..files import hidden, replacing
from .tables import TABLES, pyarrow, reading_vectors, write_vectors

SUFFIXES = {".h5": "hdf5", ".hdf5": "hdf5", ".safetensors": "safetensors", **TABLES}
FILE_FORMATS = ("npy", "hdf5", "safetensors", *TABLES.values())
COPY_BYTES = 1 << 24
NOTE, NOTE_BESIDE = "made_by", "features.json"
"""What the one file's attribute, or entry of its metadata, is called that says what made the features."""


def write_npy(path: Path, features: NDArray) -> None:
    """Write one array. Raises DataError where that is not possible; ``path`` then is what it was before."""
    with replacing(path, "wb") as handle:
        np.lib.format.write_array(handle, np.ascontiguousarray(features), allow_pickle=False)


class GrowingArray:
    """An array in a file that is filled piece by piece, without ever being in memory."""

    def __init__(self, handle: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._handle, self._dtype = handle, dtype
        header = {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(dtype)}
        np.lib.format.write_array_header_1_0(handle, header)
        self._strides = [int(np.prod(shape[axis + 1 :])) * dtype.itemsize for axis in range(len(shape))]
        self._start = handle.tell()
        handle.truncate(self._start + int(np.prod(shape)) * dtype.itemsize)

    def write(self, place: Sequence[int], values: NDArray) -> None:
        """Write a contiguous run of values that starts at the index ``place``."""
        offset = sum(index * stride for index, stride in zip(place, self._strides, strict=False))
        self._handle.seek(self._start + offset)
        self._handle.write(np.ascontiguousarray(values, dtype=self._dtype).tobytes())


@contextlib.contextmanager
def growing_npy(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> Iterator[GrowingArray]:
    """A file to be filled piece by piece, which takes ``path``'s place when the block ends well.

    Raises:
        DataError: where it cannot be written; ``path`` then is what it was before.
    """
    with replacing(path, "wb") as handle:
        yield GrowingArray(handle, shape, dtype)


def parts_folder(output: str) -> Path:
    """Where recordings' arrays wait for the one file ``output`` that will hold them all."""
    return hidden(Path(output), "parts")


def check_library(file_format: str) -> None:
    """Raise ConfigError where a format's library is not installed."""
    if file_format == "hdf5":
        _h5py()
    elif file_format == "parquet":
        pyarrow()


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError:
        raise ConfigError("HDF5 output needs h5py: pip install 'eat-audio[hdf5]', or choose --format npy.") from None
    return h5py


class Packed(NamedTuple):
    """What a file that :func:`pack` wrote holds."""

    arrays: dict[str, Any]
    """By name, read as they are sliced."""
    note: str | None
    """What made them."""


@contextlib.contextmanager
def packed(file_format: str, path: str | os.PathLike[str]) -> Iterator[Packed]:
    """Open a file that :func:`pack` wrote; it is empty where there is none.

    Raises:
        DataError: for a file of another kind.
    """
    if not os.path.exists(path):
        yield Packed({}, None)
        return
    with contextlib.ExitStack() as stack:
        try:
            if file_format in TABLES.values():
                vectors = stack.enter_context(reading_vectors(os.fspath(path), file_format))
                content = Packed(vectors, _note_beside(Path(path)))
            else:
                content = _open_hdf5(stack, path) if file_format == "hdf5" else _open_safetensors(path)
        except (
            OSError,
            ValueError,
            OverflowError,
            KeyError,
            TypeError,
            AttributeError,
            RuntimeError,
            struct.error,
        ) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(
                f"{path} is there, but no {file_format} file of features ({reason}); give another --output."
            ) from None
        yield content


def _open_hdf5(stack: contextlib.ExitStack, path: str | os.PathLike[str]) -> Packed:
    file = stack.enter_context(_h5py().File(path, "r"))
    arrays = {name: file[name] for name in data_sets(file)}
    note = file.attrs.get(NOTE)
    return Packed(arrays, note if isinstance(note, str) else None)


def _open_safetensors(path: str | os.PathLike[str]) -> Packed:
    with open(path, "rb") as handle:
        length = struct.unpack("<Q", handle.read(8))[0]
        header = json.loads(handle.read(min(length, os.path.getsize(path))))
    kinds = {"F32": np.float32, "F16": np.float16}
    arrays: dict[str, Any] = {
        name: np.memmap(path, kinds[entry["dtype"]], "r", 8 + length + entry["data_offsets"][0], (*entry["shape"],))
        for name, entry in header.items()
        if name != "__metadata__"
    }
    return Packed(arrays, header.get("__metadata__", {}).get(NOTE))


def check_names(output: str, names: Iterable[str]) -> None:
    """Raise ConfigError where an HDF5 file would need one name for an array and for a group of others."""
    known = set(names)
    for name in known:
        above = next((str(folder) for folder in PurePosixPath(name).parents if str(folder) in known), None)
        if above is not None:
            raise ConfigError(f"{output} cannot hold both {above} and {name}; give another --output for one of them.")


def pack(
    file_format: str, parts: Path, names: list[str], output: str, note: str | None, overwrite: bool = False
) -> None:
    """Add ``.npy`` files to one file under their names without that ending, and remove them.

    One array is in memory at a time, in pieces. What the file holds under other names stays; it is replaced as a whole,
    when it is complete.

    Args:
        file_format: any of :data:`FILE_FORMATS` but ``npy``; tables hold vectors alone.
        parts: folder of the ``.npy`` files.
        names: which, below it; those that are not there are left out.
        output: the file to write.
        note: what made all that is in it then.
        overwrite: replace an ``output`` that is no such file.

    Raises:
        DataError: where it cannot be written, or is no such file.
    """
    with contextlib.ExitStack() as stack:
        try:
            old, made = stack.enter_context(packed(file_format, output))
        except DataError:
            if not overwrite:
                raise
            old, made = {}, None
        if overwrite and made != note:  # what could not be computed again is not left beside what was
            old = {name: array for name, array in old.items() if f"{name}.npy" not in names}
        there = [name for name in names if (parts / name).exists()]
        new = {n.removesuffix(".npy"): np.load(parts / n, mmap_mode="r", allow_pickle=False) for n in there}
        if new:
            _write_one(file_format, {**old, **new}, note, Path(output))
    shutil.rmtree(parts, ignore_errors=True)


def _write_one(file_format: str, arrays: dict[str, Any], note: str | None, output: Path) -> None:
    if file_format not in TABLES.values():
        (_pack_hdf5 if file_format == "hdf5" else _pack_safetensors)(arrays, note, output)
        return
    widths = {name: len(array) for name, array in arrays.items()}
    if len(set(widths.values())) > 1:
        few, many = (choose(widths, key=lambda name: widths[name]) for choose in (min, max))
        raise DataError(
            f"{output} would hold vectors of {widths[few]} numbers ({few}) and of {widths[many]} ({many}); give "
            "another --output, or --overwrite with all sources."
        )
    with replacing(output, "wb" if file_format == "parquet" else "w") as handle:
        write_vectors(handle, file_format, arrays)
    with replacing(hidden(output, NOTE_BESIDE)) as handle:
        handle.write(note or "null")


def _note_beside(path: Path) -> str | None:
    """What made a table's vectors, as a hidden file beside it says, as tables have no place for it."""
    try:
        return hidden(path, NOTE_BESIDE).read_text()
    except (OSError, UnicodeDecodeError):
        return None


def _pack_hdf5(arrays: dict[str, Any], note: str | None, output: Path) -> None:
    h5py = _h5py()
    with replacing(output, "wb") as handle, h5py.File(handle.name, "w") as file:
        if note is not None:
            file.attrs[NOTE] = note
        for key, array in arrays.items():
            data = file.create_dataset(key, array.shape, array.dtype)
            rows = max(1, COPY_BYTES // max(1, array[:1].nbytes)) if array.ndim > 1 else max(1, len(array))
            for start in range(0, len(array), rows):
                data[start : start + rows] = array[start : start + rows]


def _pack_safetensors(arrays: dict[str, Any], note: str | None, output: Path) -> None:
    # The library only writes what is in memory as a whole. The format is a length, a JSON header, and the data.
    header: dict[str, object] = {"__metadata__": {"format": "np", **({} if note is None else {NOTE: note})}}
    offset = 0
    for key, array in arrays.items():
        kind = {"float32": "F32", "float16": "F16"}[array.dtype.name]
        header[key] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with replacing(output, "wb") as handle:
        handle.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            flat = array.reshape(-1)
            for start in range(0, len(flat), COPY_BYTES):
                handle.write(flat[start : start + COPY_BYTES].tobytes())


def check_writable(folder: Path) -> None:
    """Make ``folder`` and raise DataError unless files can be written there."""
    with contextlib.ExitStack() as stack:
        probe = folder / f".probe.{os.getpid()}"
        stack.callback(lambda: probe.unlink(missing_ok=True) if folder.is_dir() else None)
        with replacing(probe, "wb") as handle:
            handle.write(b"\0")
