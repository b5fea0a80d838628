"""What made the features in a place: kept beside them, and compared before more are added."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ..errors import ConfigError
from ..files import replacing
from .extraction import ExtractionOptions
from .model import EATModel

FILE = ".features.json"
"""Its name in a folder of features."""

Record = dict[str, Any]
"""What made features, as JSON has it."""


def fingerprint(network: nn.Module) -> str:
    """A checksum of weights, whatever the file they came from is called."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in network.state_dict().items():
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().flatten().cpu().view(torch.uint8).numpy())
    return digest.hexdigest()


def of_model(model: EATModel, checkpoint: str, network: nn.Module) -> Record:
    """What the numbers depend on of a model, of which ``network`` makes them."""
    return {
        "checkpoint": checkpoint,
        "weights": fingerprint(network),
        "precision": str(model.encoder.cls_token.dtype).removeprefix("torch."),
        "front end": {"name": model.front_end.name, **asdict(model.front_end)},
    }


def made_by(model: EATModel, checkpoint: str, options: ExtractionOptions) -> Record:
    """All that features depend on; of batches and workers they do not."""
    layers = list(model.layer_numbers(options.layer))
    return {
        **of_model(model, checkpoint, model.encoder),
        "layer": layers[0] if options.layer is None or isinstance(options.layer, int) else layers,
        "granularity": options.granularity,
        "target length": options.target_length,
        "window": options.window,
        "hop": options.hop,
        "longest": options.max_frames,
        "storage": options.storage,
    }


def read_record(path: Path) -> Record | None:
    """What a file that :func:`write_record` wrote says; None where there is none."""
    try:
        return parse_record(path.read_bytes())
    except OSError:
        return None


def parse_record(text: str | bytes | None) -> Record | None:
    """A record from its JSON; None for anything else."""
    try:
        record = json.loads(text or "null")
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def write_record(path: Path, record: Record) -> None:
    """Raises DataError where that is not possible."""
    with replacing(path) as handle:
        handle.write(json.dumps(record, indent=1) + "\n")


def differences(there: Record, wanted: Record) -> str:
    """What differs between two records, in words; empty where nothing does."""
    differing = [name for name in wanted if name != "checkpoint" and there.get(name) != wanted[name]]
    if "weights" in differing:
        differing.remove("weights")
        if "precision" not in differing:  # which changes every weight
            differing.insert(0, "checkpoint")
    words = [f"{name} {_word(there.get(name))} instead of {_word(wanted[name])}" for name in differing]
    if there.get("checkpoint") == wanted["checkpoint"]:
        words = ["other weights of the same checkpoint file" if w.startswith("checkpoint ") else w for w in words]
    return ", ".join(words)


def _word(value: Any) -> str:
    return "none" if value is None else " ".join(map(str, value.values())) if isinstance(value, dict) else str(value)


class Holding(NamedTuple):
    """Features in a place, and what made them."""

    record: Record | None
    """None where that is not known, or there are none."""
    meant: set[str]
    """Names of those that are asked for."""
    others: Callable[[], int]
    """How many there are beside those."""


def check(output: str, holding: Holding, wanted: Record, overwrite: bool) -> bool:
    """Keep features from coming to lie beside features that something else made.

    Args:
        output: where they go.
        holding: what is there.
        wanted: what makes the new ones.
        overwrite: whether those that are asked for are computed again.

    Returns:
        Whether all that will be there is known to be made by ``wanted``.

    Raises:
        ConfigError: where it would not be.
    """
    record, meant, others = holding
    if record is None:
        return not (meant and not overwrite) and not others()
    differing = differences(record, wanted)
    if not differing:
        return True
    rest = others()
    if (meant or rest) and not overwrite:
        raise ConfigError(
            f"{output} holds features that were made with {differing}; give another --output, or compute them again "
            "with --overwrite."
        )
    if rest:
        raise ConfigError(
            f"{output} holds features of {rest:,} other recordings that were made with {differing}; give another "
            "--output, or name all of its recordings."
        )
    return True


def others_in(folder: Path, names: Sequence[str]) -> int:
    """How many ``.npy`` files a folder holds that are not among ``names``, paths below it."""
    known = set(names)
    return sum(os.path.relpath(path, folder) not in known for path in folder.rglob("*.npy"))
