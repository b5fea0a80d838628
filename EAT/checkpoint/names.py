"""Names of the same tensors in the published formats and in this package."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

PUBLISHED_ENCODER = {
    "cls_token": "modality_encoders.IMAGE.extra_tokens",
    "patches.projection.weight": "modality_encoders.IMAGE.local_encoder.proj.weight",
    "patches.projection.bias": "modality_encoders.IMAGE.local_encoder.proj.bias",
    "positions.table": "modality_encoders.IMAGE.fixed_positional_encoder.positions",
    "norm.weight": "modality_encoders.IMAGE.context_encoder.norm.weight",
    "norm.bias": "modality_encoders.IMAGE.context_encoder.norm.bias",
}
HUGGINGFACE_ENCODER = {
    "cls_token": "model.extra_tokens",
    "patches.projection.weight": "model.local_encoder.proj.weight",
    "patches.projection.bias": "model.local_encoder.proj.bias",
    "positions.table": "model.fixed_positional_encoder.positions",
    "norm.weight": "model.pre_norm.weight",
    "norm.bias": "model.pre_norm.bias",
}
BAT_ENCODER = {
    "cls_token": "cls_token",
    "patches.projection.weight": "patch_embed.proj.weight",
    "patches.projection.bias": "patch_embed.proj.bias",
    "positions.table": "pos_embed",
    "norm.weight": "pre_norm.weight",
    "norm.bias": "pre_norm.bias",
}
BAT_DECODER = {
    "mask_token": "mask_token",
    "positions": "pos_embed",
    "input.weight": "in_proj.weight",
    "projection.weight": "out_proj.weight",
}
_NORM = {"norm.weight": "ln.weight", "norm.bias": "ln.bias"}
_MIX = {"head.layers": "block_attention", "head.fc.weight": "fc.weight", "head.fc.bias": "fc.bias"}
BAT_HEADS = {
    "linear": {**_NORM, "head.weight": "fc.weight", "head.bias": "fc.bias"},
    "lcgp": {**{f"head.{own}": theirs for own, theirs in _NORM.items()}, **_MIX},
    "cgp": {"head.prototypes": "prototype_vectors", **_MIX},
}
"""Tensors of heads by kind, below ``head.``."""
BLOCKS = "blocks."
"""Tensors of the blocks are called alike everywhere."""
HOLDS = {
    "pooling": ("cls", "mean", "linear_softmax"),
    "attention": ("softmax",),
    "block": ("post_norm",),
    "positions": ("sine_cosine",),
    "time_patches": (768,),
    "decoder": ("convolution",),
    "head": ("linear",),
    "spectrogram": ("log_mel",),
}
"""What a model must be made of to be written in EAT's published formats."""
HEAD = {
    "norm.weight": "fc_norm.weight",
    "norm.bias": "fc_norm.bias",
    "head.weight": "head.weight",
    "head.bias": "head.bias",
}
PUBLISHED_DECODER = "modality_encoders.IMAGE.decoder."
PUBLISHED_CLASSIFIER = "model."
"""Prefix of the encoder in a published fine-tuned checkpoint."""
HUGGINGFACE = "model."


def published_decoder_name(name: str) -> str:
    """``blocks.0.conv.weight`` to ``blocks.0.0.weight``, ``projection.bias`` to ``proj.bias``."""
    return re.sub(r"^(blocks\.\d+)\.conv\.", r"\1.0.", name).replace("projection.", "proj.")


def own_decoder_name(name: str) -> str:
    """The inverse of :func:`published_decoder_name`."""
    return re.sub(r"^(blocks\.\d+)\.0\.", r"\1.conv.", name).replace("proj.", "projection.")


def from_published_encoder(tensors: Mapping[str, Tensor], names: Mapping[str, str], blocks: str) -> dict[str, Tensor]:
    """The encoder's tensors under our names, without a prefix; those that are not there are left out."""
    found = {own: tensors[theirs] for own, theirs in names.items() if theirs in tensors}
    found |= {BLOCKS + key[len(blocks) :]: value for key, value in tensors.items() if key.startswith(blocks)}
    return found


def to_published_encoder(tensors: Mapping[str, Tensor], names: Mapping[str, str], blocks: str) -> dict[str, Tensor]:
    """The inverse of :func:`from_published_encoder`."""
    return {
        blocks + name[len(BLOCKS) :] if name.startswith(BLOCKS) else names[name]: value
        for name, value in tensors.items()
    }


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with ``prefix`` before every name."""
    return {prefix + name: value for name, value in tensors.items()}
