"""The published conformance checkpoint in this package's names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from EAT.network.pretraining import Pretraining
from EAT.network.settings import PretrainingSettings

PREFIX = "modality_encoders.IMAGE."
RENAMED = {
    f"{PREFIX}extra_tokens": "encoder.cls_token",
    f"{PREFIX}local_encoder.proj": "encoder.patches.projection",
    f"{PREFIX}fixed_positional_encoder.positions": "encoder.positions.table",
    f"{PREFIX}context_encoder.norm": "encoder.norm",
    f"{PREFIX}decoder.proj": "decoder.projection",
}
"""What formats.md calls a tensor, and what we call it: written down here apart from the package's own mapping."""

SIZES: dict[str, Any] = {"embed_dim": 64, "depth": 3, "num_heads": 4, "decoder_layers": 2, "decoder_width": 64}
"""Of the published-layout checkpoints among the conformance data."""
SETTINGS: dict[str, Any] = {
    **SIZES,
    "decoder_noise": 0.0,
    "ema_decay": 0.9,
    "ema_end_decay": 0.99,
    "ema_anneal_updates": 6,
    "clone_batch": 4,
}
"""Of ``official_pretrain.pt``, with the average of its trajectory."""


def our_name(published: str) -> str:
    """This package's name of a published tensor."""
    for old, new in RENAMED.items():
        if published.startswith(old):
            return published.replace(old, new)
    if published.startswith(f"{PREFIX}decoder.blocks."):
        index, _, kind = published.removeprefix(f"{PREFIX}decoder.blocks.").split(".")
        return f"decoder.blocks.{index}.conv.{kind}"
    return f"encoder.{published}"


BAT_RENAMED = {
    "encoder.patch_embed.proj": "encoder.patches.projection",
    "encoder.pos_embed": "encoder.positions.table",
    "encoder.pre_norm": "encoder.norm",
    "decoder.pos_embed": "decoder.positions",
    "decoder.out_proj": "decoder.projection",
    "decoder.in_proj": "decoder.input",
}
"""The same for BAT, whose other tensors have one name."""
BAT_SIZES = {
    "embed_dim": 64,
    "depth": 3,
    "num_heads": 4,
    "attention": "gated",
    "positions": "bat",
    "time_patches": 64,
    "initialisation": "bat",
    "decoder": "transformer",
    "decoder_layers": 2,
    "decoder_width": 64,
    "decoder_heads": 8,
    "targets": "block_outputs",
    "ema_schedule": "linear_from_first",
    "clone_batch": 4,
}
"""The model of ``bat_pretrain.pt``."""


def our_bat_name(published: str) -> str:
    """This package's name of a published BAT tensor, with ``encoder.`` or ``decoder.`` in front."""
    for old, new in BAT_RENAMED.items():
        if published.startswith(old):
            return published.replace(old, new)
    return published


def published_bat(folder: Path, **settings: float) -> Pretraining:
    """The model of ``bat_pretrain.pt``."""
    state = torch.load(folder / "bat_pretrain.pt")
    renamed = {
        our_bat_name(f"{part}.{name}"): value for part in ("encoder", "decoder") for name, value in state[part].items()
    }
    renamed |= {
        our_bat_name(f"encoder.{name}").replace("encoder.", "teacher.", 1): value
        for name, value in state["ema_encoder"].items()
        if name != "pos_embed"
    }
    model = Pretraining(PretrainingSettings(**{**BAT_SIZES, **settings}))
    model.load_state_dict(renamed)
    return model


def published_pretraining(folder: Path, kind: type[Pretraining] = Pretraining, **settings: Any) -> Pretraining:
    """The model of ``official_pretrain.pt``, with these settings in place of its own."""
    state = torch.load(folder / "official_pretrain.pt")["model"]
    teacher = state.pop("_ema")
    renamed = {our_name(name): value for name, value in state.items()}
    renamed |= {
        our_name(name).replace("encoder.", "teacher.", 1): value
        for name, value in teacher.items()
        if "positions" not in name
    }
    model = kind(PretrainingSettings(**{**SETTINGS, **settings}))
    model.load_state_dict(renamed)
    return model
