"""Results of very many recordings as Parquet partitions in one place, written by many processes, begun again anywhere.

A partition holds one row a recording and appears as a whole, under a name that follows from the recordings it was meant
for: whoever makes it again, because a machine died, replaces it by itself. ``_unreadable`` beside them, a name that
readers of Parquet folders pass over, holds a table of the recordings that could not be used.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..data.shards import is_shard, read_shard
from ..errors import ConfigError, DataError
from .places import Place
from .provenance import FILE, Record, differences, parse_record
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


def write_part(folder: str | os.PathLike[str], sources: Sequence[Source], job: Job) -> Written:
    """Do one partition's recordings, those of shards among them, and write their rows.

    Args:
        folder: where to, on a disk or in a store.
        sources: recordings and shards.
        job: what makes the rows.

    Raises:
        DataError: where the partition cannot be written, or whoever began it before has died each time.
        ConfigError: for a store that cannot be used here.
    """
    place = Place(folder)
    recordings, problems = [], []
    for source in sources:
        if is_shard(source.address):
            found = read_shard(source.address)
            recordings += [Source(*member) for member in found.members]
            problems += [Problem(source.address, sentence) for sentence in found.damage]
        else:
            recordings.append(source)
    pa, name, done, values = pyarrow(), part_name(sources), 0, 0
    _note_begin(place, f"{BEGUN}/{name}", sources)
    with place.writing(name) as handle, pa.parquet.ParquetWriter(handle, job.schema) as writer:
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
        _write_problems(place, f"{UNREADABLE}/{name}", problems)
    place.remove([f"{BEGUN}/{name}"])
    return Written(done, problems)


def _note_begin(place: Place, name: str, sources: Sequence[Source]) -> None:
    """Add a byte to a file that counts how often a partition was begun."""
    tries = place.size(name) or 0
    if tries >= TRIES:
        raise DataError(
            f"whoever began the {len(sources):,} recordings from {sources[0].address} on has died {tries} times: a "
            "recording kills its reader, or memory ran out; a small --part-size tells which."
        )
    with place.writing(name) as handle:
        handle.write(bytes(tries + 1))


def _write_problems(place: Place, name: str, problems: Sequence[Problem]) -> None:
    if not problems:
        place.remove([name])
        return
    pa = pyarrow()
    columns = zip(*((plain(path), plain(error)) for path, error in problems), strict=True)
    with place.writing(name) as handle:
        pa.parquet.write_table(pa.table([pa.array(c, pa.string()) for c in columns], list(Problem._fields)), handle)


def _read(place: Place, name: str, columns: Sequence[str]) -> list[tuple[str, ...]]:
    pa = pyarrow()
    with place.reading(name) as handle:
        try:
            # as one file: what a reader makes of a folder's name ("a=1") is no column
            table = pa.parquet.ParquetFile(handle).read(list(columns))
            return list(zip(*(table[name].to_pylist() for name in columns), strict=True))
        except (pa.ArrowException, OSError, KeyError) as error:
            said = str(error).splitlines()[0]
            raise DataError(f"{place.address}/{name} is no partition of results ({said}); remove it.") from None


def _record(place: Place) -> Record | None:
    """What made the rows that are there; None where nothing says so."""
    if place.size(FILE) is None:
        return None
    with place.reading(FILE) as handle:
        return parse_record(handle.read())


class Remaining(NamedTuple):
    """What is left to be done in a folder."""

    todo: list[Source]
    done: int
    """Recordings that were asked for and are there, those of shards among them."""
    problems: list[Problem]
    """Of shards that were done before, which are not read again."""


def resume(
    folder: str | os.PathLike[str], sources: Sequence[Source], made: Record, overwrite: bool = False
) -> Remaining:
    """Find what of the recordings is not in a folder yet, and note there what makes it.

    Recordings that could not be read before are tried again; members of shards are not, as a shard is done as a whole.

    Args:
        folder: of the partitions, on a disk or in a store; made where it is missing.
        sources: recordings and shards.
        made: what makes the rows.
        overwrite: begin anew: what the folder holds is removed.

    Raises:
        ConfigError: where the folder holds rows that something else made, or for a store that cannot be used here.
        DataError: where it cannot be read or written.
    """
    place = Place(folder)
    parts, tables = place.names("part-*.parquet"), place.names("part-*.parquet", UNREADABLE)
    if overwrite:
        place.remove([*parts, *tables])
        parts, tables = [], []
    record = _record(place)
    if parts and (record is None or (differing := differences(record, made))):
        with_what = "something that is not known any more" if record is None else differing
        raise ConfigError(f"{folder} holds rows that were made with {with_what}; give another --output, or remove it.")
    with place.writing(FILE) as handle:
        handle.write((json.dumps(made, indent=1) + "\n").encode())
    place.remove([*place.names("*", BEGUN), *place.names(".part-*.partial")])  # of machines that died
    rows = {name: {path for (path,) in _read(place, name, ["path"])} for name in parts}
    there = set().union(*rows.values())
    shards = {source.address: part_name([source]) for source in sources if is_shard(source.address)}
    todo = [s for s in sources if shards.get(s.address) not in rows and plain(s.address) not in there]
    again, kept = {plain(source.address) for source in todo}, {}
    for table in tables:
        name = table.removeprefix(f"{UNREADABLE}/")
        problems = [Problem(*row) for row in _read(place, table, Problem._fields)]
        kept[name] = [problem for problem in problems if problem.path not in again and name in rows]
        if len(kept[name]) < len(problems):
            _write_problems(place, table, kept[name])
    before = [name for name in shards.values() if name in rows]
    done = sum(plain(s.address) in there for s in sources) + sum(len(rows[name]) for name in before)
    return Remaining(todo, done, [problem for name in before for problem in kept.get(name, [])])
