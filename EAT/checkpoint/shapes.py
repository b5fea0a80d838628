"""The model's sizes, read off its tensors, and a check that none is missing or misshapen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..network.positions import sine_cosine_positions
from ..network.settings import FREQUENCY_PATCHES, MEL_BINS, PATCH_SIZE, ClassifierConfig, EncoderConfig
from .contents import ENCODER, POSITIONS

PUBLISHED_HEADS = {768: 12, 1024: 16}
"""Attention heads of the published base and large models, by width."""


def encoder_shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of an encoder but its position table."""
    dim, hidden = config.embed_dim, int(config.embed_dim * config.mlp_ratio)
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, dim),
        "patches.projection.weight": (dim, 1, PATCH_SIZE, PATCH_SIZE),
        "patches.projection.bias": (dim,),
        "norm.weight": (dim,),
        "norm.bias": (dim,),
    }
    linears = {"attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim), "mlp.fc1": (hidden, dim), "mlp.fc2": (dim, hidden)}
    for block in range(config.depth):
        for name, shape in linears.items():
            shapes[f"blocks.{block}.{name}.weight"] = shape
            shapes[f"blocks.{block}.{name}.bias"] = shape[:1]
        for norm in ("norm1", "norm2"):
            shapes[f"blocks.{block}.{norm}.weight"] = shapes[f"blocks.{block}.{norm}.bias"] = (dim,)
    return shapes


def infer_encoder_config(path: str, tensors: Mapping[str, Tensor], known: Mapping[str, Any]) -> EncoderConfig:
    """The encoder's configuration: sizes from its tensors, the rest from what the checkpoint says.

    Args:
        path: named in errors.
        tensors: ``encoder.*`` under this package's names.
        known: ``num_heads`` and ``norm_eps`` where the checkpoint has them.

    Raises:
        CheckpointError: for a tensor that is missing or misshapen, or heads that cannot be known.
    """
    missing = [name for name in ("cls_token", "blocks.0.mlp.fc1.weight") if ENCODER + name not in tensors]
    if missing:
        raise CheckpointError(f"{path} lacks the encoder's {missing[0]}; it is no checkpoint of an EAT model.")
    dim = tensors[ENCODER + "cls_token"].shape[-1]
    numbers = {name.split(".")[2] for name in tensors if name.startswith(ENCODER + "blocks.")}
    depth = 1 + max(int(number) for number in numbers if number.isdigit())
    heads = known.get("num_heads") or PUBLISHED_HEADS.get(dim)
    if heads is None:
        raise CheckpointError(
            f"{path} does not say how many attention heads its model of width {dim} has; "
            "put its config.json, with num_heads, beside it."
        )
    config = EncoderConfig(
        embed_dim=dim,
        depth=depth,
        num_heads=int(heads),
        mlp_ratio=tensors[ENCODER + "blocks.0.mlp.fc1.weight"].shape[0] / dim,
        norm_eps=float(known.get("norm_eps") or 1e-6),
    )
    check_encoder(path, tensors, config)
    return config


def check_encoder(path: str, tensors: Mapping[str, Tensor], config: EncoderConfig, prefix: str = ENCODER) -> None:
    """Raise CheckpointError unless the tensors below ``prefix`` are an encoder's, all of them, in shape."""
    for name, shape in encoder_shapes(config).items():
        check_tensor(path, tensors, prefix + name, shape)
    table = tensors.get(prefix + POSITIONS)
    fits = table is not None and table.ndim == 3 and table.shape[0] == 1 and table.shape[2] == config.embed_dim
    if prefix == ENCODER and not (fits and table is not None and table.shape[1] % FREQUENCY_PATCHES == 0):
        found = "none" if table is None else f"one of shape {tuple(table.shape)}"
        raise CheckpointError(
            f"{path} should hold a position table of shape (1, rows, {config.embed_dim}) with {MEL_BINS // PATCH_SIZE} "
            f"rows a time step, but holds {found}."
        )


def check_head(path: str, tensors: Mapping[str, Tensor], config: ClassifierConfig) -> None:
    """Raise CheckpointError unless a classification head is there, in shape."""
    dim = config.encoder.embed_dim
    shapes: dict[str, tuple[int, ...]] = {"norm.weight": (dim,), "norm.bias": (dim,)}
    shapes |= {"head.weight": (config.num_classes, dim), "head.bias": (config.num_classes,)}
    for name, shape in shapes.items():
        check_tensor(path, tensors, name, shape)


def check_tensor(path: str, tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> None:
    """Raise CheckpointError unless ``name`` is a floating-point tensor of ``shape``."""
    value = tensors.get(name)
    if value is None:
        raise CheckpointError(f"{path} lacks {name}; the file is incomplete.")
    if not isinstance(value, Tensor) or not value.is_floating_point() or tuple(value.shape) != shape:
        found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"type {type(value).__name__}"
        raise CheckpointError(f"{path} holds {name} with {found}; it should be a float tensor of shape {shape}.")


def extend_positions(table: Tensor) -> Tensor:
    """A stored position table with as many rows as ours: (1, rows, D) to (1, 6144, D), in its own type.

    Stored rows are kept as they are. A row follows from its place alone, so those that older files lack are computed.
    """
    exact = sine_cosine_positions(table.shape[2])
    rows = min(table.shape[1], exact.shape[1])
    return torch.cat([table[:, :rows], exact[:, rows:].to(table)], dim=1)
