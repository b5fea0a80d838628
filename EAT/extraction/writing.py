"""Features on disk: an ``.npy`` file a recording, or all in one HDF5 or safetensors file; never half a file."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..files import replacing

FORMATS = ("npy", "hdf5", "safetensors")
SUFFIXES = {".h5": "hdf5", ".hdf5": "hdf5", ".safetensors": "safetensors"}
COPY_BYTES = 1 << 24


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
    target = Path(output)
    return target.with_name(f".{target.name}.parts")


def check_library(file_format: str) -> None:
    """Raise ConfigError where a format's library is not installed."""
    if file_format == "hdf5":
        _h5py()


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError:
        raise ConfigError("HDF5 output needs h5py: pip install 'eat-audio[hdf5]', or choose --format npy.") from None
    return h5py


def pack(file_format: str, parts: Path, names: list[str], output: str) -> None:
    """Put ``.npy`` files into one file under their names without that ending, and remove them.

    One array is in memory at a time, in pieces.

    Args:
        file_format: ``hdf5`` or ``safetensors``.
        parts: folder of the ``.npy`` files.
        names: which, below it.
        output: the file to write.

    Raises:
        DataError: where it cannot be written.
    """
    if file_format == "hdf5":
        _pack_hdf5(parts, names, Path(output))
    else:
        _pack_safetensors(parts, names, Path(output))
    shutil.rmtree(parts, ignore_errors=True)


def _pack_hdf5(parts: Path, names: list[str], output: Path) -> None:
    h5py = _h5py()
    with replacing(output, "wb") as handle, h5py.File(handle.name, "w") as file:
        for name in names:
            array = np.load(parts / name, mmap_mode="r", allow_pickle=False)
            data = file.create_dataset(name.removesuffix(".npy"), array.shape, array.dtype)
            rows = max(1, COPY_BYTES // max(1, array[:1].nbytes)) if array.ndim > 1 else max(1, len(array))
            for start in range(0, len(array), rows):
                data[start : start + rows] = array[start : start + rows]


def _pack_safetensors(parts: Path, names: list[str], output: Path) -> None:
    # The library only writes what is in memory as a whole. The format is a length, a JSON header, and the data.
    header: dict[str, object] = {"__metadata__": {"format": "np"}}
    offset = 0
    for name in names:
        array = np.load(parts / name, mmap_mode="r", allow_pickle=False)
        kind = {"float32": "F32", "float16": "F16"}[array.dtype.name]
        header[name.removesuffix(".npy")] = {
            "dtype": kind,
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with replacing(output, "wb") as handle:
        handle.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            array = np.load(parts / name, mmap_mode="r", allow_pickle=False).reshape(-1)
            for start in range(0, len(array), COPY_BYTES):
                handle.write(array[start : start + COPY_BYTES].tobytes())


def check_writable(folder: Path) -> None:
    """Make ``folder`` and raise DataError unless files can be written there."""
    with contextlib.ExitStack() as stack:
        probe = folder / f".probe.{os.getpid()}"
        stack.callback(lambda: probe.unlink(missing_ok=True) if folder.is_dir() else None)
        with replacing(probe, "wb") as handle:
            handle.write(b"\0")
