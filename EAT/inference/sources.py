"""Which recordings are meant, and what their results are called."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from ..audio.recordings import AUDIO_SUFFIXES
from ..data.manifest import Manifest
from ..data.shards import Found, Member, expand, find_recordings, is_shard, read_shard
from ..errors import ConfigError, DataError


class Source(NamedTuple):
    """A recording."""

    address: str
    """For :func:`EAT.audio.recordings.read_audio`."""
    name: str
    """Its name below the output folder, with its own ending."""


def find_sources(paths: Sequence[str], open_shards: bool = True) -> tuple[list[Source], list[str]]:
    """Turn what a user names into recordings.

    Args:
        paths: files, container addresses, folders that are searched, manifests (``.tsv``), shards (``.tar``), patterns
            (:func:`EAT.data.shards.expand`), remote addresses.
        open_shards: whether the members of shards are listed; else each shard stands for all that is in it.

    Returns:
        The recordings in a fixed order, none twice; and a sentence for each path that yields none, and for each damaged
        shard.

    Raises:
        ConfigError: for a remote address that cannot be used here.
    """
    found: dict[str, Source] = {}
    problems = []
    for pattern in paths:
        try:
            for path in expand(pattern):
                members, damage = _listed(path, open_shards)
                problems += damage
                for address, name in members:
                    found.setdefault(os.path.abspath(address), Source(address, name))
        except DataError as error:
            problems.append(str(error))
    return list(found.values()), problems


def _listed(path: str, open_shards: bool) -> Found:
    if os.path.isdir(path):
        found = find_recordings(path, open_shards)
        if not found.members and not found.damage:
            raise DataError(f"the folder {path} holds no recordings ({', '.join(AUDIO_SUFFIXES)}).")
        return found
    if path.lower().endswith(".tsv"):
        manifest = Manifest(path)
        return Found([Member(manifest.source(index), manifest.name(index)) for index in range(len(manifest))], [])
    if open_shards and is_shard(path):
        return read_shard(path)
    return Found([Member(path, os.path.basename(path))], [])


def output_names(sources: Sequence[Source], suffix: str = ".npy", nested: bool = True) -> list[str]:
    """Name of each recording's result below the output folder: its own name with another ending.

    Where that makes two alike (``a.wav`` and ``a.flac``), those keep their own ending in front of the new one.

    Args:
        sources: the recordings.
        suffix: the new ending.
        nested: whether one name may be that of another's folder (``a.wav`` and ``a/b.wav``); where not, that one keeps
            its own ending too.

    Raises:
        ConfigError: where two recordings still have one name.
    """
    plain = [_without_suffix(source.name) for source in sources]
    # Compared as a file system would that does not tell upper case from lower.
    counts = Counter(name.lower() for name in plain)
    folders = set() if nested else {str(folder) for name in plain for folder in PurePosixPath(name).parents}
    names = [
        (source.name if counts[name.lower()] > 1 or name in folders else name) + suffix
        for source, name in zip(sources, plain, strict=True)
    ]
    seen: dict[str, Source] = {}
    for name, source in zip(names, sources, strict=True):
        if name in seen:
            raise ConfigError(
                f"{seen[name].address} and {source.address} would both be written to {name}; give the folder above "
                "them as the source, or extract them into different folders."
            )
        seen[name] = source
    return names


def _without_suffix(name: str) -> str:
    path = PurePosixPath(name.replace(os.sep, "/"))
    return str(path.with_suffix("")) if path.suffix.lower() in AUDIO_SUFFIXES else str(path)
