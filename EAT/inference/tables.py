"""Tables on disk, told by their names' endings: CSV and JSON Lines as text, Parquet by pyarrow."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError

TABLES = {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}
"""Formats of tables by ending."""
ROW_GROUP = 1 << 16
"""Rows of predictions that Parquet keeps together."""
GROUP_VALUES = 1 << 24
"""Numbers of vectors that Parquet keeps together."""


def pyarrow() -> ModuleType:
    """Pyarrow with its Parquet part. Raises ConfigError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(
            "Parquet needs pyarrow: pip install 'eat-audio[table]', or choose a name that ends in .csv or .jsonl."
        ) from None
    return pyarrow


def plain(text: str) -> str:
    """Text in which letters that no encoding knows, as in some file names, are written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def write_parquet(handle: IO[bytes], columns: Mapping[str, type], batches: Iterable[Sequence[Sequence[Any]]]) -> None:
    """Write rows as Parquet, as they come.

    Args:
        handle: a file open for bytes.
        columns: names and types of the columns: ``str``, ``int`` or ``float``.
        batches: rows, each with a value a column.
    """
    pa = pyarrow()
    kinds = {str: pa.string(), int: pa.int32(), float: pa.float64()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])
    waiting: list[Sequence[Any]] = []
    with pa.parquet.ParquetWriter(handle, schema) as writer:

        def flush() -> None:
            values = zip(*waiting, strict=True)
            arrays = [
                pa.array([plain(value) for value in column] if kind is str else list(column), kinds[kind])
                for column, kind in zip(values, columns.values(), strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            waiting.clear()

        for rows in batches:
            waiting += rows
            if len(waiting) >= ROW_GROUP:
                flush()
        if waiting:
            flush()


def shortest(vector: NDArray[Any]) -> list[str]:
    """Numbers in the fewest digits that give the same number back, in the vector's own type."""
    return [str(text) for text in vector.astype(str)]


def write_vectors(handle: IO[Any], file_format: str, vectors: Mapping[str, NDArray[Any]]) -> None:
    """Write a row for each name: in CSV the name and a column for each number, else the name and a list of numbers.

    Args:
        handle: open for bytes where ``file_format`` is ``parquet``, else for text.
        file_format: of :data:`TABLES`.
        vectors: names to (width,) arrays of one width.
    """
    width = len(next(iter(vectors.values())))
    if file_format == "csv":
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["name", *(f"f{number}" for number in range(width))])
        writer.writerows([name, *shortest(vector)] for name, vector in vectors.items())
    elif file_format == "jsonl":
        for name, vector in vectors.items():
            handle.write(f"{json.dumps({'name': name}, ensure_ascii=False)[:-1]}, ")
            handle.write(f'"features": [{", ".join(shortest(vector))}]}}\n')
    else:
        _vectors_to_parquet(handle, vectors, width)


def _vectors_to_parquet(handle: IO[bytes], vectors: Mapping[str, NDArray[Any]], width: int) -> None:
    pa = pyarrow()
    kind = pa.from_numpy_dtype(next(iter(vectors.values())).dtype)
    schema = pa.schema([("name", pa.string()), ("features", pa.list_(kind, width))])
    names = list(vectors)
    rows = max(1, GROUP_VALUES // width)
    with pa.parquet.ParquetWriter(handle, schema) as writer:
        for first in range(0, len(names), rows):
            part = names[first : first + rows]
            numbers = pa.array(np.concatenate([vectors[name] for name in part]).astype(kind.to_pandas_dtype()))
            lists = pa.FixedSizeListArray.from_arrays(numbers, width)
            table = pa.Table.from_arrays([pa.array([plain(name) for name in part]), lists], schema=schema)
            writer.write_table(table)


@contextmanager
def reading_vectors(path: str, file_format: str) -> Iterator[dict[str, NDArray[Any]]]:
    """The vectors of a file of :func:`write_vectors`, by name, in float32 where the file does not say otherwise.

    Raises:
        ValueError, KeyError, TypeError, OSError: for a file of another kind.
    """
    if file_format == "parquet":
        table = pyarrow().parquet.read_table(path, columns=["name", "features"])
        lists = table["features"].combine_chunks()
        matrix = lists.flatten().to_numpy().reshape(len(table), -1)
        yield dict(zip(table["name"].to_pylist(), matrix, strict=True))
        return
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as handle:
        if file_format == "jsonl":
            records = [json.loads(line) for line in handle]
            yield {str(record["name"]): np.array(record["features"], np.float32) for record in records}
            return
        rows = csv.reader(handle)
        if next(rows, ["name"])[0] != "name":
            raise ValueError("its first column is not called name")
        yield {row[0]: np.array(row[1:], np.float32) for row in rows}
