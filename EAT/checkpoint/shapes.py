"""The model's sizes, from its settings and its tensors, and a check that none is missing or misshapen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..network.classifier import Classifier
from ..network.encoder import Encoder
from ..network.patches import Grid
from ..network.positions import POSITIONS as RULES
from ..network.settings import SIZES, ClassifierSettings, EncoderSettings
from ..network.unfilled import unfilled
from .contents import ENCODER, POSITIONS
from .validation import sized

PUBLISHED_HEADS = {768: 12, 1024: 16}
"""Attention heads of the published base and large models, by width."""


def encoder_settings(path: str, tensors: Mapping[str, Tensor], known: Mapping[str, Any]) -> EncoderSettings:
    """An encoder's settings: those that the checkpoint states, the others from the shapes of its tensors.

    Args:
        path: named in errors.
        tensors: ``encoder.*`` under this package's names.
        known: what the checkpoint states; of it only sizes are taken.

    Raises:
        CheckpointError: for a tensor that is missing or misshapen, heads that cannot be known, or settings that the
            tensors contradict.
        ConfigError: for settings that no encoder can have.
    """
    needed = {"cls_token": 3, "patches.projection.weight": 4, "blocks.0.mlp.fc1.weight": 2}
    missing = [name for name in needed if ENCODER + name not in tensors]
    if missing:
        raise CheckpointError(f"{path} lacks the encoder's {missing[0]}; it is no checkpoint of an EAT model.")
    cls, projection, hidden = (sized(path, tensors, ENCODER + name, axes) for name, axes in needed.items())
    numbers = {name.split(".")[2] for name in tensors if name.startswith(ENCODER + "blocks.")}
    dim = cls.shape[-1]
    shaped = {
        "embed_dim": dim,
        "depth": 1 + max(int(number[:18]) for number in numbers if number.isascii() and number.isdigit()),
        "num_heads": PUBLISHED_HEADS.get(dim),
        "mlp_ratio": hidden.shape[0] / dim,
        "patch_size": projection.shape[-1],
    }
    stated = {name: known[name] for name in SIZES if known.get(name) is not None}
    found = {**shaped, **stated}
    if found["num_heads"] is None:
        raise CheckpointError(
            f"{path} does not say how many attention heads its model of width {dim} has; "
            "put its config.json, with num_heads, beside it."
        )
    settings = EncoderSettings.take(found)
    for name in ("embed_dim", "depth", "patch_size"):  # before a model of that size is built
        if found[name] != shaped[name]:
            raise CheckpointError(f"{path} states {name} {found[name]}, but its tensors have {shaped[name]}.")
    check_encoder(path, tensors, settings)
    return settings


def check_encoder(path: str, tensors: Mapping[str, Tensor], settings: EncoderSettings, prefix: str = ENCODER) -> None:
    """Raise CheckpointError unless the tensors below ``prefix`` are an encoder's: all, in shape, no more."""
    with unfilled():
        expected = Encoder(settings).state_dict()
    expected.pop(POSITIONS)
    for name, value in expected.items():
        check_tensor(path, tensors, prefix + name, tuple(value.shape))
    known = {prefix + name for name in (*expected, POSITIONS)}
    foreign = next((name for name in tensors if name.startswith(prefix) and name not in known), None)
    if foreign is not None:
        raise CheckpointError(
            f"{path} holds {foreign[:200]}, which a model with attention={settings.attention} has no place for; "
            "without it features would be wrong."
        )
    if prefix != ENCODER:
        return
    table, steps = tensors.get(prefix + POSITIONS), settings.mel_bins // settings.patch_size
    fits = table is not None and table.is_floating_point() and table.ndim == 3 and table.shape[0] == 1
    fits = fits and table is not None and table.shape[2] == settings.embed_dim
    if table is None or not fits or table.shape[1] % steps:
        found = "none" if table is None else f"one of shape {tuple(table.shape)}"
        raise CheckpointError(
            f"{path} should hold a position table of shape (1, rows, {settings.embed_dim}) with {steps} rows a time "
            f"step, but holds {found}."
        )


def check_head(path: str, tensors: Mapping[str, Tensor], settings: ClassifierSettings) -> None:
    """Raise CheckpointError unless a classification head is there, in shape."""
    with unfilled():
        expected = Classifier(settings).state_dict()
    for name, value in expected.items():
        if not name.startswith(ENCODER):
            check_tensor(path, tensors, name, tuple(value.shape))


def check_tensor(path: str, tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> None:
    """Raise CheckpointError unless ``name`` is a floating-point tensor of ``shape``."""
    value = tensors.get(name)
    if value is None:
        raise CheckpointError(f"{path} lacks {name}; the file is incomplete.")
    if not isinstance(value, Tensor) or not value.is_floating_point() or tuple(value.shape) != shape:
        found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"type {type(value).__name__}"
        raise CheckpointError(f"{path} holds {name} with {found}; it should be a float tensor of shape {shape}.")


def full_rows(settings: EncoderSettings) -> int:
    """Rows of a position table as this package makes it."""
    return settings.time_patches * (settings.mel_bins // settings.patch_size)


def extend_positions(table: Tensor, settings: EncoderSettings) -> Tensor:
    """A stored position table with as many rows as its model's: (1, rows, D), EAT's to (1, 6144, D), in its own type.

    Stored rows are kept as they are. Those that older files lack are computed by the rule that made the table.
    """
    grid = Grid(settings.time_patches, settings.mel_bins // settings.patch_size)
    exact = RULES[settings.positions](table.shape[2], grid)
    rows = min(table.shape[1], exact.shape[1])
    return torch.cat([table[:, :rows], exact[:, rows:].to(table)], dim=1)


def check_finite(path: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError where weights are NaN or infinite, as a run leaves them that diverged."""
    name = next((name for name, value in tensors.items() if not torch.isfinite(value).all()), None)
    if name is not None:
        raise CheckpointError(
            f"{path} holds NaN or infinity in {name}; take a checkpoint from before the run diverged."
        )
