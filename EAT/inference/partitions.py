"""Results of very many recordings as Parquet partitions in one folder, written by many processes, begun again anywhere.

A partition holds one row a recording and appears as a whole, under a name that follows from the recordings it was meant
for: whoever makes it again, because a machine died, replaces it by itself. ``_unreadable`` beside them, a name that
readers of Parquet folders pass over, holds a table of the recordings that could not be used.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..data.shards import is_shard, read_shard
from ..errors import ConfigError, DataError
from ..files import replacing
from .provenance import FILE, Record, differences, read_record, write_record
from .sources import Source
from .tables import GROUP_VALUES, plain, pyarrow

UNREADABLE, BEGUN = "_unreadable", ".begun"
TRIES = 4
"""How often a partition is begun whose machine or process dies each time."""
PART_SIZE = 512
"""Recordings of a partition, unless another number is asked for."""

Row = dict[str, Any]


class Problem(NamedTuple):
    """A recording, or a shard, that could not be used."""

    path: str
    error: str


class Job(Protocol):
    """What is made of recordings."""

    made: Record
    """What the numbers depend on."""
    schema: Any
    """Of the rows, as pyarrow has it; ``path`` comes first."""

    def rows(self, sources: Sequence[Source]) -> Iterator[Row | Problem]:
        """A row for each recording, or why there is none, in any order."""


class Written(NamedTuple):
    """What became of one partition's recordings."""

    done: int
    problems: list[Problem]


def part_name(sources: Sequence[Source]) -> str:
    """The file name of a partition, with or without its recordings in it."""
    digest = hashlib.blake2b("\0".join(source.address for source in sources).encode("utf-8", "surrogateescape"))
    return f"part-{digest.hexdigest()[:24]}.parquet"


def divide(sources: Sequence[Source], size: int) -> list[list[Source]]:
    """Recordings in partitions of ``size``, in order; each shard is a partition of its own."""
    loose = [source for source in sources if not is_shard(source.address)]
    parts = [loose[first : first + size] for first in range(0, len(loose), size)]
    return parts + [[source] for source in sources if is_shard(source.address)]


def write_part(folder: Path, sources: Sequence[Source], job: Job) -> Written:
    """Do one partition's recordings, those of shards among them, and write their rows.

    Raises:
        DataError: where the partition cannot be written, or whoever began it before has died each time.
    """
    recordings, problems = [], []
    for source in sources:
        if is_shard(source.address):
            found = read_shard(source.address)
            recordings += [Source(*member) for member in found.members]
            problems += [Problem(source.address, sentence) for sentence in found.damage]
        else:
            recordings.append(source)
    pa, name, done, values = pyarrow(), part_name(sources), 0, 0
    _note_begin(folder / BEGUN / name, sources)
    with replacing(folder / name, "wb") as handle, pa.parquet.ParquetWriter(handle, job.schema) as writer:
        waiting: list[Row] = []
        for row in job.rows(recordings):
            if isinstance(row, Problem):
                problems.append(row)
                continue
            waiting.append({**row, "path": plain(row["path"])})
            done += 1
            values += sum(np.size(value) for value in row.values() if isinstance(value, np.ndarray))
            if values >= GROUP_VALUES:
                writer.write_table(pa.Table.from_pylist(waiting, job.schema))
                waiting, values = [], 0
        writer.write_table(pa.Table.from_pylist(waiting, job.schema))
        _write_problems(folder / UNREADABLE / name, problems)
    (folder / BEGUN / name).unlink(missing_ok=True)
    return Written(done, problems)


def _note_begin(path: Path, sources: Sequence[Source]) -> None:
    """Add a byte to a file that counts how often a partition was begun."""
    tries = path.stat().st_size if path.exists() else 0
    if tries >= TRIES:
        raise DataError(
            f"whoever began the {len(sources):,} recordings from {sources[0].address} on has died {tries} times: a "
            "recording kills its reader, or memory ran out; a small --part-size tells which."
        )
    with replacing(path, "wb") as handle:
        handle.write(bytes(tries + 1))


def _write_problems(path: Path, problems: Sequence[Problem]) -> None:
    if not problems:
        path.unlink(missing_ok=True)
        return
    pa = pyarrow()
    columns = zip(*((plain(path), plain(error)) for path, error in problems), strict=True)
    with replacing(path, "wb") as handle:
        pa.parquet.write_table(pa.table([pa.array(c, pa.string()) for c in columns], list(Problem._fields)), handle)


def _read(path: Path, columns: Sequence[str]) -> list[tuple[str, ...]]:
    pa = pyarrow()
    try:
        # as one file: what a reader makes of a folder's name ("a=1") is no column
        table = pa.parquet.ParquetFile(path).read(list(columns))
        return list(zip(*(table[name].to_pylist() for name in columns), strict=True))
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{path} is no partition of results ({str(error).splitlines()[0]}); remove it.") from None


class Remaining(NamedTuple):
    """What is left to be done in a folder."""

    todo: list[Source]
    done: int
    """Recordings that were asked for and are there, those of shards among them."""
    problems: list[Problem]
    """Of shards that were done before, which are not read again."""


def resume(folder: Path, sources: Sequence[Source], made: Record, overwrite: bool = False) -> Remaining:
    """Find what of the recordings is not in a folder yet, and note there what makes it.

    Recordings that could not be read before are tried again; members of shards are not, as a shard is done as a whole.

    Args:
        folder: of the partitions; made where it is missing.
        sources: recordings and shards.
        made: what makes the rows.
        overwrite: begin anew: what the folder holds is removed.

    Raises:
        ConfigError: where the folder holds rows that something else made.
        DataError: where it cannot be read or written.
    """
    places = folder, folder / UNREADABLE
    parts, tables = ({path.name: path for path in place.glob("part-*.parquet")} for place in places)
    if overwrite:
        for path in [*parts.values(), *tables.values()]:
            path.unlink(missing_ok=True)
        parts, tables = {}, {}
    record = read_record(folder / FILE)
    if parts and (record is None or (differing := differences(record, made))):
        with_what = "something that is not known any more" if record is None else differing
        raise ConfigError(f"{folder} holds rows that were made with {with_what}; give another --output, or remove it.")
    write_record(folder / FILE, made)
    shutil.rmtree(folder / BEGUN, ignore_errors=True)
    for partial in folder.glob(".part-*.partial"):  # of machines that died
        partial.unlink(missing_ok=True)
    rows = {name: {path for (path,) in _read(part, ["path"])} for name, part in parts.items()}
    there = set().union(*rows.values())
    shards = {source.address: part_name([source]) for source in sources if is_shard(source.address)}
    todo = [s for s in sources if shards.get(s.address) not in parts and plain(s.address) not in there]
    again, kept = {plain(source.address) for source in todo}, {}
    for name, table in tables.items():
        problems = [Problem(*row) for row in _read(table, Problem._fields)]
        kept[name] = [problem for problem in problems if problem.path not in again and name in parts]
        if len(kept[name]) < len(problems):
            _write_problems(table, kept[name])
    before = [name for name in shards.values() if name in parts]
    done = sum(plain(s.address) in there for s in sources) + sum(len(rows[name]) for name in before)
    return Remaining(todo, done, [problem for name in before for problem in kept.get(name, [])])
