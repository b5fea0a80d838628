"""Sizes and settings that make networks and runs tiny, once."""

from __future__ import annotations

from typing import Any

ENCODER: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 4}
NETWORK: dict[str, Any] = {**ENCODER, "clone_batch": 2, "decoder_width": 32, "decoder_layers": 2}
"""Fields of ``PretrainingSettings``, and keys of a recipe's section ``model``."""
ON_A_CPU = ("common.cpu=true", "common.bf16=false", "common.log_interval=1", "dataset.num_workers=0")


def model(sizes: dict[str, Any]) -> tuple[str, ...]:
    """As overrides of a recipe."""
    return tuple(f"model.{name}={value}" for name, value in sizes.items())
