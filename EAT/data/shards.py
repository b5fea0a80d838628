"""Recordings in tars: what is in a shard, and which shards a folder or a pattern names.

Nothing is unpacked: a member is addressed by where its bytes lie (:mod:`EAT.audio.stored`). A folder's shards count
where it holds no recordings of their own, so that an archive beside what was unpacked from it doubles nothing.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import tarfile
from typing import IO, NamedTuple

from ..audio.recordings import AUDIO_SUFFIXES, refuse_special
from ..audio.stored import file_system, is_remote, member_address, reason
from ..errors import DataError, EATError
from .search import find_files

SHARD_SUFFIX = ".tar"
LONGEST_TEXT = 1 << 16
"""Bytes of what may lie beside a recording."""
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}", re.ASCII)
_LARGEST_RANGE = 1_000_000


class Member(NamedTuple):
    """A recording, in a shard or in a file of its own."""

    address: str
    name: str
    """Its path in the shard, or below the folder that was searched."""


class Found(NamedTuple):
    """What was found in shards or in a folder."""

    members: list[Member]
    damage: list[str]
    """A sentence for each shard that is not whole. What lies before the damage is among the members."""


def is_shard(path: str) -> bool:
    """Whether a path is a tar's by its name."""
    return path.lower().endswith(SHARD_SUFFIX)


def read_shard(path: str) -> Found:
    """List the recordings of an uncompressed tar, local or remote, by its headers alone.

    Raises:
        DataError: for a pipe or a device.
        ConfigError: for a remote address that cannot be used here.
    """
    members: list[Member] = []
    try:
        with _opened(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for entry in tar:
                name = entry.name.removeprefix("./")
                hidden = os.path.basename(name).startswith(".")
                if entry.isreg() and not entry.issparse() and name.lower().endswith(AUDIO_SUFFIXES) and not hidden:
                    members.append(Member(member_address(path, entry.offset_data, entry.size, name), name))
            file.seek(tar.offset)  # tarfile takes a broken header for the end, which is a block of zeros
            whole = file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
            damage = "" if whole else f"breaks off, or is damaged, at byte {tar.offset:,}"
    except EATError:
        raise
    except Exception as error:  # every store has errors of its own
        damage = f"cannot be read to its end as an uncompressed tar ({reason(error)})"
    return Found(members, [f"{path} {damage}; the {len(members):,} recordings before that are used."] if damage else [])


def read_beside(path: str, ending: str) -> dict[str, str]:
    """The texts that lie beside a local shard's recordings, as webdataset lays them out: ``1.flac`` and ``1.cls``.

    Args:
        path: of the tar. What lies behind damage is left out; :func:`read_shard` tells of it.
        ending: of the members' names, without the first dot.

    Returns:
        Texts by the members' names without ending.

    Raises:
        DataError: for a member that is no text, or longer than any label.
    """
    found = {}
    with contextlib.suppress(tarfile.TarError), _opened(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for entry in tar:
            name = entry.name.removeprefix("./")
            if not (entry.isreg() and name.endswith(f".{ending}")):
                continue
            content = tar.extractfile(entry) if entry.size <= LONGEST_TEXT else None
            if content is None:
                raise DataError(f"{name} in {path} has {entry.size:,} bytes and is no label.")
            try:
                found[name[: -len(ending) - 1]] = content.read().decode("utf-8")
            except UnicodeDecodeError:
                raise DataError(f"{name} in {path} is no text in UTF-8.") from None
    return found


def _opened(path: str) -> IO[bytes]:
    if is_remote(path):
        system, place = file_system(path)
        return system.open(place, "rb", block_size=1 << 16)  # fetched ahead of a header
    refuse_special(path)
    return open(path, "rb")


def find_recordings(root: str, open_shards: bool = True) -> Found:
    """A folder's recordings, sub-folders searched, sorted by name; where there are none, those of its shards in turn.

    Args:
        root: the folder.
        open_shards: whether members are listed; else each tar stands for all that is in it.

    Raises:
        DataError: where a folder cannot be listed.
    """
    names = sorted(find_files(root))
    shards = [] if names else sorted(find_files(root, (SHARD_SUFFIX,)))
    if names or not open_shards:
        return Found([Member(os.path.join(root, name), name) for name in names or shards], [])
    found = Found([], [])
    for name in shards:
        members, damage = read_shard(os.path.join(root, name))
        found.members.extend(members)
        found.damage.extend(damage)
    return found


def expand(path: str) -> list[str]:
    """The paths that a pattern names.

    ``{000..123}`` is a range of numbers of that many digits, ``*`` and ``?`` stand for what is there. A remote folder,
    which ends in ``/``, stands for the recordings below it or, without any, for its shards.

    Raises:
        DataError: for a pattern that names nothing, or a store that cannot be listed.
        ConfigError: for a remote address that cannot be used here.
    """
    if os.path.exists(path):
        return [path]
    numbered = _RANGE.search(path)
    if numbered:
        first, last = int(numbered[1]), int(numbered[2])
        if not 0 <= last - first < _LARGEST_RANGE:
            raise DataError(f"{path} names no numbers from {first} to {last}.")
        before, after, digits = path[: numbered.start()], path[numbered.end() :], len(numbered[1])
        return [part for number in range(first, last + 1) for part in expand(f"{before}{number:0{digits}}{after}")]
    if is_remote(path):
        return _remote(path)
    if glob.has_magic(path):
        found = sorted(glob.glob(path, recursive=True))
        if not found:
            raise DataError(f"{path} names nothing that is there.")
        return found
    return [path]


def _remote(address: str) -> list[str]:
    """What a remote address stands for."""
    system, path = file_system(address)
    if not (glob.has_magic(path) or address.endswith("/")):
        return [address]
    try:
        found = sorted(system.glob(path) if glob.has_magic(path) else system.find(path))
    except Exception as error:  # every store has errors of its own
        raise DataError(f"{address} cannot be listed ({reason(error)}).") from None
    shown = [name for name in found if not os.path.basename(name).startswith(".")]
    recordings = [name for name in shown if name.lower().endswith(AUDIO_SUFFIXES)]
    names = recordings or [name for name in shown if is_shard(name)]
    if not names:
        raise DataError(f"{address} holds no recordings ({', '.join(AUDIO_SUFFIXES)}) and no shards ({SHARD_SUFFIX}).")
    return [system.unstrip_protocol(name) for name in names]
