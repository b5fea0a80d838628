"""BAT's Hugging Face files, an encoder alone: a folder with ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import json
import reprlib
from typing import Any

from ..errors import CheckpointError
from ..network.front_end import FRONT_ENDS
from ..network.settings import SIZES, PretrainingSettings
from . import bat, huggingface
from .contents import ENCODER, TEACHER, Contents
from .names import BAT_ENCODER, BLOCKS, to_published_encoder
from .notes import KEY, make_notes, notes_of
from .safe import Opened, read_safetensors, write_safetensors
from .shapes import check_encoder

HOLDS = {**bat.HOLDS, "attention": ("gated", "softmax")}
"""What a model must be made of to be written in this format, which has a word for gates."""
MODEL_TYPE = "bat"
STATED = {
    "dim": "hidden_size",
    "depth": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "mlp_ratio": "mlp_ratio",
    "n_mels": "n_mels",
    "sr": "sample_rate",
    "n_fft": "n_fft",
    "hop_length": "hop_length",
}
"""The names of BAT's configuration, and what the same is called here."""
FIXED: dict[str, Any] = {
    "patch_size": [16, 16],
    "layer_norm_eps": 1e-6,
    "pre_norm": True,
    "layer_norm_first": False,
    "init_scale_values": None,
    "pos_trainable": False,
    "f_min": 0,
    "top_db": 80,
    "feature_normalization": "per_sample_minmax_after_db",
}
"""What is so in every BAT. A file that states another value holds a model that this package does not have."""


def recognises(opened: Opened) -> bool:
    """Whether this is a safetensors file with BAT's names, or a folder with one."""
    if not opened.safetensors or not huggingface.model_file(opened.path).is_file():
        return False
    try:
        stored, _ = read_safetensors(str(huggingface.model_file(opened.path)))
    except CheckpointError:  # said again by the format that takes any folder
        return False
    return bat.PATCHES in stored


def read(opened: Opened) -> Contents:
    """Read a folder, or a safetensors file with its ``config.json`` beside it or in its header.

    Raises:
        CheckpointError: where a file is damaged, a tensor is missing or misshapen, gates are not as stated, or the
            configuration states what no BAT of this package has.
    """
    path, file = opened.path, huggingface.model_file(opened.path)
    stored, metadata = read_safetensors(str(file))
    config = huggingface.config_of(file, metadata)
    for name, value in FIXED.items():
        if name in config and config[name] != value:
            raise CheckpointError(f"{path} states {name} {reprlib.repr(config[name])}; only {value!r} can be computed.")
    known = {own: config.get(theirs) for own, theirs in STATED.items()}
    tensors, encoder = bat.read_encoder(path, stored, known, gated=config.get("use_gate", True))
    if config.get("chunk_time_patches", encoder.time_patches) != encoder.time_patches:
        raise CheckpointError(
            f"{path} states chunks of {reprlib.repr(config['chunk_time_patches'])} time patches, but its positions "
            f"reach {encoder.time_patches}."
        )
    notes = notes_of(config)
    settings = bat.pretraining(encoder, {}, **notes.get("pretraining", {}))
    if extra := huggingface.read_beside(path):
        tensors |= extra
        check_encoder(path, tensors, encoder, TEACHER)
    shape = config.get("input_shape") or [None]
    if not isinstance(shape, list):
        raise CheckpointError(f"{path} states input_shape {reprlib.repr(shape)}; it must be a list of frames and bins.")
    known["time_frame_size"] = shape[0]
    return Contents(
        format="bat_huggingface",
        tensors=tensors,
        settings=settings,
        front_end=bat.front_end(path, known, encoder),
        initialised=tuple(notes.get("initialised", ())),
        raw={"config": config, "model": stored},
    )


def write(contents: Contents, path: str) -> Contents:
    """Write a folder, or a single ``.safetensors`` file. Returns what was written. Raises CheckpointError."""
    if not isinstance(contents.settings, PretrainingSettings):
        raise CheckpointError("the format bat_huggingface holds encoders alone; keep this classifier as 'eat'.")
    model = to_published_encoder(contents.part(ENCODER), BAT_ENCODER, BLOCKS)
    config = _config(contents, contents.settings)
    metadata = {"format": "pt", "config": json.dumps(config)}
    if path.endswith(".safetensors"):
        write_safetensors(path, model, metadata)
    else:
        huggingface.write_folder(contents, path, model, metadata, config)
    return contents


def _config(contents: Contents, settings: PretrainingSettings) -> dict[str, Any]:
    end = contents.front_end or FRONT_ENDS["decibels"](settings.time_patches * settings.patch_size)
    pretraining = {name: value for name, value in vars(settings).items() if name not in SIZES}
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["BATModel"],
        "input_shape": [end.target_length, settings.mel_bins],
        "hidden_size": settings.embed_dim,
        "num_hidden_layers": settings.depth,
        "num_attention_heads": settings.num_heads,
        "mlp_ratio": settings.mlp_ratio,
        "use_gate": settings.attention == "gated",
        "chunk_time_patches": settings.time_patches,
        "sample_rate": end.sample_rate,
        "n_fft": end.window,
        "hop_length": end.hop,
        "n_mels": settings.mel_bins,
        **FIXED,
        KEY: {**make_notes(contents), "pretraining": pretraining},
    }
