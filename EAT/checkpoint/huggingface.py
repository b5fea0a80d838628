"""Published Hugging Face checkpoints: a folder with ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import json
import os
import reprlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from ..network.front_end import FrontEnd
from ..network.settings import SIZES, ClassifierSettings, PretrainingSettings
from .classes import from_config, to_id2label
from .contents import DECODER, ENCODER, POSITIONS, TEACHER, Contents
from .names import (
    BLOCKS,
    HEAD,
    HOLDS,
    HUGGINGFACE,
    HUGGINGFACE_ENCODER,
    from_published_encoder,
    to_published_encoder,
    with_prefix,
)  # fmt: skip
from .notes import KEY, make_notes, noted_front_end, notes_of
from .safe import (
    CONFIG_NAME,
    MODEL_NAME,
    Opened,
    read_json,
    read_safetensors,
    write_json,
    write_safetensors,
    write_text,
)
from .shapes import check_encoder, check_head, encoder_settings
from .validation import check_tensors, sized

HUGGINGFACE_HEAD_EPS = 1e-5
"""Epsilon of ``fc_norm`` in the published Hugging Face code."""
CODE_NAME = "modeling_eat.py"
"""A file of ours beside the weights, which transformers runs; nothing here does."""
AUTO_MAP = {
    "AutoConfig": "modeling_eat.EATConfig",
    "AutoModel": "modeling_eat.EATModel",
    "AutoModelForAudioClassification": "modeling_eat.EATForAudioClassification",
}
PREPROCESSOR_NAME = "preprocessor_config.json"
PROBLEMS = {"sigmoid": "multi_label_classification", "softmax": "single_label_classification"}
PRETRAINING_NAME = "pretraining.safetensors"
"""A file of ours beside the published ones: decoder and teacher, for which that format has no place."""


def recognises(opened: Opened) -> bool:
    """Whether this is a folder, or a safetensors file."""
    return opened.safetensors


def read(opened: Opened) -> Contents:
    """Read a folder, or a safetensors file with its ``config.json`` beside it or in its header.

    Raises:
        CheckpointError: where a file is missing or damaged, or a tensor is missing or misshapen.
    """
    path = opened.path
    file = model_file(path)
    if not file.is_file():
        raise CheckpointError(f"the folder {path} holds no {MODEL_NAME}; it is no Hugging Face checkpoint.")
    stored, metadata = read_safetensors(str(file))
    check_tensors(path, stored, file.stat().st_size)
    config = config_of(file, metadata)
    notes = notes_of(config)
    tensors = with_prefix(ENCODER, from_published_encoder(stored, HUGGINGFACE_ENCODER, HUGGINGFACE + "blocks."))
    encoder = encoder_settings(path, tensors, {name: config.get(name) for name in ("num_heads", "norm_eps")})
    settings: PretrainingSettings | ClassifierSettings = PretrainingSettings.take(vars(encoder))
    activation, classes = None, None
    if HUGGINGFACE + "head.weight" in stored and config.get("model_variant", "finetune") == "finetune":
        tensors |= {own: stored[HUGGINGFACE + name] for own, name in HEAD.items() if HUGGINGFACE + name in stored}
        settings = ClassifierSettings.take(
            {
                **vars(encoder),
                "num_classes": sized(path, tensors, "head.weight", 2).shape[0],
                "pooling": notes.get("pooling"),
                "head_norm_eps": notes.get("head_norm_eps") or HUGGINGFACE_HEAD_EPS,
            }
        )
        check_head(path, tensors, settings)
        activation = notes.get("activation", "sigmoid")
        classes = from_config(path, config, notes, settings.num_classes or 0)
    elif extra := read_beside(path):
        tensors |= extra
        check_encoder(path, tensors, encoder, TEACHER)
    size = config.get("img_size") or [1024]
    if not isinstance(size, list):
        raise CheckpointError(f"{path} states img_size {reprlib.repr(size)}; it must be a list of frames and mel bins.")
    return Contents(
        format="huggingface",
        tensors=tensors,
        settings=settings,
        front_end=noted_front_end(notes, FrontEnd(size[0])),
        activation=activation,
        classes=classes,
        initialised=tuple(notes.get("initialised", ())),
        raw={"config": config, "model": stored},
    )


def model_file(path: str) -> Path:
    """The safetensors file of a folder, or the file itself."""
    given = Path(path)
    return given / MODEL_NAME if given.is_dir() else given


def read_beside(path: str) -> dict[str, Tensor]:
    """Decoder and teacher from a file of ours in the folder; empty where there is none."""
    beside = Path(path) / PRETRAINING_NAME
    if not beside.is_file():
        return {}
    extra, _ = read_safetensors(str(beside))
    return {name: value for name, value in extra.items() if name.startswith((DECODER, TEACHER))}


def config_of(file: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """``config.json`` beside the file, else the copy that we leave in its header, else nothing."""
    beside = file.with_name(CONFIG_NAME)
    if beside.is_file():
        return read_json(beside)
    try:
        config = json.loads(metadata.get("config", "{}"))
    except (ValueError, RecursionError):
        config = {}
    return config if isinstance(config, dict) else {}


def write(contents: Contents, path: str) -> Contents:
    """Write a folder, or a single ``.safetensors`` file. Returns what was written. Raises CheckpointError."""
    model = to_published_encoder(contents.part(ENCODER), HUGGINGFACE_ENCODER, HUGGINGFACE + BLOCKS)
    if contents.kind == "classification":
        model |= {HUGGINGFACE + theirs: contents.tensors[own] for own, theirs in HEAD.items()}
    config = _config_to_write(contents)
    metadata = {"format": "pt", "config": json.dumps(config)}
    if path.endswith(".safetensors"):
        write_safetensors(path, model, metadata)
        return contents
    write_folder(contents, path, model, metadata, config)
    return contents


def write_folder(
    contents: Contents, path: str, model: dict[str, Tensor], metadata: dict[str, str], config: dict[str, Any]
) -> None:
    """Write a folder, with decoder and teacher in a file of ours. Raises CheckpointError where that is not possible."""
    if os.path.lexists(path) and not os.path.isdir(path):
        raise CheckpointError(
            f"{path} is a file, but a Hugging Face checkpoint is a folder, or a file whose name ends in .safetensors; "
            "give another destination."
        )
    extra = {name: value for name, value in contents.tensors.items() if name.startswith((DECODER, TEACHER))}
    beside = Path(path) / PRETRAINING_NAME
    if extra:
        write_safetensors(str(beside), extra, {"format": "pt"})
    elif beside.is_file():
        beside.unlink()
    write_safetensors(str(Path(path) / MODEL_NAME), model, metadata)
    write_json(Path(path) / CONFIG_NAME, {**config, "auto_map": AUTO_MAP})
    write_json(Path(path) / PREPROCESSOR_NAME, _preprocessor(contents.front_end or FrontEnd(1024)))
    write_text(Path(path) / CODE_NAME, Path(__file__).with_name(CODE_NAME).read_text())


def _preprocessor(front_end: FrontEnd) -> dict[str, Any]:
    """What makes transformers' extractor for the Audio Spectrogram Transformer compute our filterbank."""
    return {
        "feature_extractor_type": "ASTFeatureExtractor",
        "sampling_rate": front_end.sample_rate,
        "num_mel_bins": front_end.bins,
        "max_length": front_end.target_length,
        "mean": front_end.norm_mean,
        "std": front_end.norm_std,
        "do_normalize": True,
        "padding_value": 0.0,
        "feature_size": 1,
        "return_attention_mask": False,
    }


def _config_to_write(contents: Contents) -> dict[str, Any]:
    settings, front_end = contents.settings, contents.front_end or FrontEnd(1024)
    classes = settings.num_classes if isinstance(settings, ClassifierSettings) else None
    sizes = {name: getattr(settings, name) for name in SIZES if name not in HOLDS}
    return {
        "model_type": "eat",
        "architectures": ["EATModel"],
        **sizes,
        "stride": settings.patch_size,
        "in_chans": 1,
        "max_length": contents.tensors[ENCODER + POSITIONS].shape[1] // (settings.mel_bins // settings.patch_size),
        "num_classes": classes or 527,
        **(to_id2label(contents.classes) if contents.classes else {}),
        "qkv_bias": True,
        "drop_rate": 0.0,
        "attn_drop_rate": 0.0,
        "activation_dropout": 0.0,
        "post_mlp_drop": 0.0,
        "start_drop_path_rate": 0.0,
        "end_drop_path_rate": 0.0,
        "layer_norm_first": False,
        "norm_affine": True,
        "fixed_positions": True,
        "img_size": [front_end.target_length, settings.mel_bins],
        "model_variant": "pretrain" if classes is None else "finetune",
        **({} if classes is None else {"problem_type": PROBLEMS[contents.activation or "sigmoid"]}),
        KEY: make_notes(replace(contents, initialised=())),
    }
