"""Checkpoints by name: those of a table, and any repository of the Hugging Face Hub.

``huggingface_hub`` downloads, resumes, keeps the cache and knows about offline mode (``HF_HOME``, ``HF_ENDPOINT``,
``HF_HUB_OFFLINE``, ``HF_TOKEN``); every file is checked against its checksum each time before it is opened. Code that
lies in a repository is not fetched.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import CheckpointError, DataError
from ..files import replacing
from .huggingface import PRETRAINING_NAME
from .safe import CONFIG_NAME, MODEL_NAME

logger = logging.getLogger("EAT")

TABLE = Path(__file__).with_name("weights.json")
"""The published checkpoints. What nobody has stated stands empty there, and is known here after the first download."""
CARD_NAME = "README.md"
FILES = (CONFIG_NAME, MODEL_NAME, PRETRAINING_NAME, CARD_NAME)
TORCH_SUFFIXES = (".pt", ".pth", ".bin")
"""Of a repository without safetensors, the endings of a file that may be its checkpoint."""
_FILE = re.compile(r"\.(pt|pth|bin|ckpt|safetensors|onnx)$")
_REPOSITORY = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")
_NAME = re.compile(r"(?P<name>[\w.-]+)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class Named:
    """A checkpoint that a name stands for."""

    name: str
    repository: str
    """``owner/name`` on the Hub."""
    what: str = ""
    revision: str | None = None
    """Branch, tag or commit; None is the newest of ``main``."""
    size: int | None = None
    """Bytes of the weights; like the next two, None where nobody has stated it and it was never fetched."""
    licence: str | None = None
    sha256: str | None = None
    """Of the weights."""


@dataclass(frozen=True)
class Fetched:
    """A checkpoint in the cache, every file of it checked."""

    path: str
    """What to open: a folder, or a ``.pt`` file where the repository has no safetensors."""
    commit: str
    sha256: Mapping[str, str]
    """By file name."""


def _table() -> list[Named]:
    return [Named(**row) for row in json.loads(TABLE.read_text(encoding="utf-8"))]


def published() -> list[Named]:
    """The table, with what was learned by fetching filled in."""
    known = _read_record()
    entries = []
    for entry in _table():
        newest = max(known.get(entry.repository, {}).values(), key=lambda noted: noted["fetched"], default=None)
        if newest:
            weights = newest["files"][newest["weights"]]
            learned = {"size": weights["size"], "sha256": weights["sha256"], "licence": newest["licence"]}
            entry = replace(entry, **{key: value for key, value in learned.items() if getattr(entry, key) is None})
        entries.append(entry)
    return entries


def named(text: str) -> Named | None:
    """What ``text`` stands for: a name of the table, or ``owner/name``, each with an optional ``@revision``.

    None where it can only be a path: it exists, ends as files do, or begins with a folder that is here.
    """
    if os.path.exists(text) or _FILE.search(text):
        return None
    if match := _NAME.fullmatch(text):
        found = next((entry for entry in _table() if entry.name == match["name"]), None)
        if found is None or match["revision"] is None:
            return found
        return replace(found, name=text, revision=match["revision"], sha256=None)  # the table's is of another revision
    match = _REPOSITORY.fullmatch(text)
    if match is None or os.path.isdir(text.split("/")[0]):
        return None
    return Named(text, match["repository"], revision=match["revision"])


def locate(path: str | os.PathLike[str]) -> str:
    """Where a checkpoint lies on this machine; one that is meant by name is fetched where it is not in the cache.

    Raises:
        CheckpointError: as :func:`fetch`.
    """
    path = os.fspath(path)
    meant = named(path)
    return path if meant is None else fetch(meant).path


def fetch(meant: Named, local: bool = False) -> Fetched:
    """Bring a checkpoint into the cache, as far as it is not there, and check every file of it.

    A connection that breaks is taken up again where it broke, a few times. Without a network what is in the cache is
    used.

    Args:
        meant: which.
        local: look into the cache only.

    Raises:
        CheckpointError: where it does not exist, the network or a permission is missing, the repository holds no
            checkpoint, or a file has another checksum than its source, the table, or an earlier download of the same
            commit states.
    """
    hub = hub_library(meant.name)
    if not sys.stderr.isatty():
        hub.utils.disable_progress_bars()

    def snapshot(*files: str) -> Path:
        return Path(
            hub.snapshot_download(
                meant.repository, revision=meant.revision, allow_patterns=list(files), local_files_only=local
            )
        )

    try:
        folder = snapshot(*FILES)
        weights = MODEL_NAME if (folder / MODEL_NAME).exists() else _torch_file(hub, meant, folder, snapshot)
    except CheckpointError:
        raise
    except Exception as error:  # the library's and its HTTP library's errors, which have no base class in common
        raise CheckpointError(_explained(hub, meant, error)) from None
    files = [*FILES, weights] if weights != MODEL_NAME else FILES
    sums, damaged = {}, []
    for name in files:
        if (folder / name).exists():
            try:
                sums[name] = _check(meant, folder / name)
            except CheckpointError as error:  # the others are checked too, so that none stays
                damaged.append(error)
    if damaged:
        raise damaged[0]
    _compare(hub, meant, folder, weights, sums)
    return Fetched(str(folder if weights == MODEL_NAME else folder / weights), folder.name, sums)


def _torch_file(hub: ModuleType, meant: Named, folder: Path, snapshot: Callable[..., Path]) -> str:
    """The one file of ``torch.save`` in a repository without safetensors, fetched."""
    there = [file.name for file in folder.glob("*") if file.suffix in TORCH_SUFFIXES]
    if not there:
        listed = hub.HfApi().list_repo_files(meant.repository, revision=folder.name)
        there = [name for name in listed if name.endswith(TORCH_SUFFIXES) and "/" not in name]
    if len(there) != 1:
        found = f"several ({', '.join(sorted(there))}); download one and give its path" if there else "none"
        raise CheckpointError(
            f"{meant.repository} should hold {MODEL_NAME} or a single file that ends in "
            f"{' or '.join(TORCH_SUFFIXES)}, but holds {found}."
        )
    snapshot(*FILES, there[0])
    return there[0]


def _check(meant: Named, file: Path) -> str:
    """SHA-256 of a file in the cache; one that is not what its source states is removed. Raises CheckpointError.

    The cache names contents by what their source states: SHA-256 of large files, git's hash of small ones. Where the
    system has no links, nothing is stated.
    """
    stored = file.resolve()
    size, sha256 = stored.stat().st_size, hashlib.sha256()
    git = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with open(stored, "rb") as handle:
        while block := handle.read(1 << 20):
            sha256.update(block)
            if size < 1 << 26:
                git.update(block)
    stated = stored.name if file.is_symlink() else ""
    found = {40: git, 64: sha256}.get(len(stated))
    if found is not None and re.fullmatch("[0-9a-f]+", stated) and found.hexdigest() != stated:
        file.unlink()
        stored.unlink()
        raise CheckpointError(
            f"{file.name} of {meant.name} has the checksum {found.hexdigest()}, but its source states {stated}; the "
            "damaged file was removed from the cache, so try again, and if it stays so do not use this source."
        )
    return sha256.hexdigest()


def _compare(hub: ModuleType, meant: Named, folder: Path, weights: str, sums: Mapping[str, str]) -> None:
    """Raise CheckpointError where the table or an earlier download has another checksum; take note of a first one."""
    if meant.sha256 is not None and sums[weights] != meant.sha256:
        raise CheckpointError(
            f"{weights} of {meant.name} has the SHA-256 {sums[weights]}, but it was published with {meant.sha256}; "
            "do not use this source."
        )
    record = _read_record()
    commits = record.setdefault(meant.repository, {})
    earlier = commits.get(folder.name)
    if earlier is None:
        commits[folder.name] = {
            "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
            "weights": weights,
            "licence": _licence(hub, folder / CARD_NAME),
            "files": {name: {"size": (folder / name).stat().st_size, "sha256": value} for name, value in sums.items()},
        }
        try:
            with replacing(record_path()) as handle:
                json.dump(record, handle, indent=1)
        except DataError as error:
            logger.warning(f"the checksums of {meant.name} were not noted down: {error}")
        return
    for name, value in sums.items():
        before = earlier["files"].get(name, {}).get("sha256", value)
        if before != value:
            raise CheckpointError(
                f"{name} of {meant.name} has the SHA-256 {value}, but commit {folder.name[:12]} had {before} when it "
                f"was fetched first; if you trust the new one, remove that commit from {record_path()}."
            )


def record_path() -> Path:
    """Where it is noted what was fetched: a file of this package in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "eat" / "weights.json"


def _read_record() -> dict[str, Any]:
    """``{repository: {commit: {fetched, weights, licence, files: {name: {size, sha256}}}}}``."""
    try:
        return json.loads(record_path().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{record_path()} cannot be read ({error}); remove it to begin anew.") from None


def _licence(hub: ModuleType, card: Path) -> str | None:
    """The licence that a model card states."""
    try:
        stated = hub.ModelCard.load(card).data.license
    except Exception:  # no card, or one that is no YAML: then it states none
        return None
    return stated if isinstance(stated, str) else None


@functools.cache
def _import_library() -> ModuleType:
    import huggingface_hub
    import huggingface_hub.constants
    import huggingface_hub.errors
    import huggingface_hub.utils

    return huggingface_hub


def hub_library(name: str) -> ModuleType:
    """``huggingface_hub``. Raises CheckpointError, naming the extra, where it is not installed."""
    try:
        return _import_library()
    except ImportError:
        raise CheckpointError(
            f"{name} is no file here; to fetch it by name huggingface_hub is needed: pip install 'eat-audio[hub]'."
        ) from None


def _explained(hub: ModuleType, meant: Named, error: Exception) -> str:
    """Why a checkpoint could not be fetched, and the way out, in one sentence."""
    errors, endpoint = hub.errors, hub.constants.ENDPOINT
    where, reason = f"{endpoint}/{meant.repository}", (str(error).splitlines() or [""])[0].rstrip(".")
    if isinstance(error, errors.GatedRepoError):
        return f"{where} is open only to those who accept its terms: do so there, then run hf auth login."
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{meant.name} is neither a file or folder here nor a repository on {endpoint}; see python -m EAT.weights "
            "list for names, and run hf auth login for a private one."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{where} has no revision {meant.revision}; leave it out for the newest."
    if isinstance(error, errors.LocalEntryNotFoundError):
        offline = hub.constants.HF_HUB_OFFLINE
        state = "HF_HUB_OFFLINE is set" if offline else f"{endpoint} cannot be reached"
        cause = "" if offline or error.__cause__ is None else f" ({str(error.__cause__).splitlines()[0].rstrip('.')})"
        return (
            f"{meant.name} is not, or not wholly, in the cache {hub.constants.HF_HUB_CACHE}, and {state}{cause}; run "
            f"python -m EAT.weights fetch {meant.name} where there is a network and bring that folder here."
        )
    return (
        f"{meant.name} could not be fetched from {endpoint} ({type(error).__name__}: {reason}); try again: files that "
        "arrived whole are kept."
    )
