"""Bytes that are no file of their own on this machine: members of archives, and what lies in remote stores.

``archive.zip:OFFSET:LENGTH`` and ``shard.tar:OFFSET:LENGTH:NAME`` say where an uncompressed member's bytes begin and
how many they are, so that reading it is a seek; the name at the end is for people. ``s3://bucket/clip.wav``, or any
other address that fsspec knows, is read through fsspec, and of an archive there only the member is fetched.
"""

from __future__ import annotations

import os
import re
from typing import Any, NamedTuple

from ..errors import ConfigError, DataError

MAX_MEMBER = 2**31
"""Bytes of a member of an archive, of a remote file, and of one chunk of an HDF5 data set."""

_STORED = re.compile(
    r"^(?P<archive>.*?\.(?:zip|tar)):(?P<offset>\d{1,18}):(?P<length>\d{1,18})(?::(?P<name>.*))?$",
    re.IGNORECASE | re.DOTALL | re.ASCII,
)
_REMOTE = re.compile(r"^[a-z][a-z0-9+.-]+(?:::[a-z][a-z0-9+.-]+)*://", re.IGNORECASE | re.ASCII)


class Stored(NamedTuple):
    """Where a member of an archive lies."""

    archive: str
    offset: int
    length: int
    """In bytes, as the offset."""
    name: str
    """Empty where the address has none."""


def member(source: str) -> Stored | None:
    """What the address of a member says; None for any other address."""
    found = _STORED.match(source)
    return Stored(found["archive"], int(found["offset"]), int(found["length"]), found["name"] or "") if found else None


def member_address(archive: str, offset: int, length: int, name: str) -> str:
    """The address of a member."""
    return f"{archive}:{offset}:{length}:{name}"


def is_remote(source: str) -> bool:
    """Whether an address is fsspec's, ``PROTOCOL://...``."""
    return _REMOTE.match(source) is not None


def file_system(address: str) -> tuple[Any, str]:
    """The file system, as fsspec has it, and the path in it of a remote address.

    Raises:
        ConfigError: for a protocol that nobody knows, or whose package is not installed.
        DataError: where its server cannot be reached.
    """
    import fsspec  # comes with torch

    try:
        return fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise ConfigError(f"{address} needs a package that is not installed ({str(error).rstrip('.')}).") from None
    except ValueError as error:
        raise ConfigError(f"{address} is no address that fsspec knows ({str(error).rstrip('.')}).") from None
    except Exception as error:  # some connect at once, and every store has errors of its own
        raise DataError(f"{address} cannot be reached ({reason(error)}).") from None


def reason(error: Exception) -> str:
    """What a remote store says is wrong, in a line."""
    return (" ".join(str(error).split())[:200] or type(error).__name__).rstrip(".")


def read_remote(address: str, start: int, end: int) -> bytes:
    """Bytes ``start`` to ``end`` of a remote file, fewer where it ends before.

    Raises:
        DataError: where it cannot be read.
        ConfigError: as :func:`file_system`.
    """
    system, path = file_system(address)
    try:
        return system.cat_file(path, start=start, end=end)
    except FileNotFoundError:
        raise DataError(f"{address} does not exist.") from None
    except Exception as error:  # every store has errors of its own
        raise DataError(f"{address} cannot be read ({reason(error)}).") from None


def read_whole(address: str) -> bytes:
    """A remote file. Raises DataError where it cannot be read, or is too large to be a recording."""
    content = read_remote(address, 0, MAX_MEMBER + 1)
    if len(content) > MAX_MEMBER:
        raise DataError(f"{address} has more than {MAX_MEMBER:,} bytes; no recording of that size is read at once.")
    return content


def read_member(stored: Stored) -> bytes:
    """A member's bytes. Raises DataError where the archive does not have so many there."""
    path, offset, length, name = stored
    try:
        if is_remote(path):
            content = read_remote(path, offset, offset + min(length, MAX_MEMBER))
            has = f"{len(content):,} bytes there"
        else:
            with open(path, "rb") as archive:
                size = os.fstat(archive.fileno()).st_size
                has = f"{size:,} bytes"
                content = b""
                if offset + length <= size and length <= MAX_MEMBER:
                    archive.seek(offset)
                    content = archive.read(length)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from None
    if len(content) != length:
        named = f" ({name})" if name else ""
        raise DataError(f"{path} has {has}; {length:,} from {offset:,} on cannot be a recording in it{named}.")
    return content
