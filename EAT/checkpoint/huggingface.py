"""Published Hugging Face checkpoints: a folder with ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..network.front_end import FrontEnd
from ..network.settings import ClassifierConfig
from .contents import AUDIOSET_MEAN, AUDIOSET_STD, DECODER, ENCODER, TEACHER, Contents
from .names import HEAD, HUGGINGFACE, HUGGINGFACE_ENCODER, from_published_encoder, with_prefix
from .notes import noted_front_end, notes_of
from .safe_files import CONFIG_NAME, MODEL_NAME, read_json, read_safetensors
from .shapes import check_encoder, check_head, infer_encoder_config

HUGGINGFACE_HEAD_EPS = 1e-5
"""Epsilon of ``fc_norm`` in the published Hugging Face code."""
PRETRAINING_NAME = "pretraining.safetensors"
"""A file of ours beside the published ones: decoder and teacher, for which that layout has no place."""


def read_huggingface(path: str) -> Contents:
    """Read a folder, or a safetensors file with its ``config.json`` beside it or in its header.

    Raises:
        CheckpointError: where a file is missing or damaged, or a tensor is missing or misshapen.
    """
    given = Path(path)
    file = given / MODEL_NAME if given.is_dir() else given
    if not file.is_file():
        raise CheckpointError(f"the folder {path} holds no {MODEL_NAME}; it is no Hugging Face checkpoint.")
    stored, metadata = read_safetensors(str(file))
    config = _config(file, metadata)
    notes = notes_of(config)
    tensors = with_prefix(ENCODER, from_published_encoder(stored, HUGGINGFACE_ENCODER, HUGGINGFACE + "blocks."))
    encoder = infer_encoder_config(path, tensors, config)
    classifier = activation = None
    if HUGGINGFACE + "head.weight" in stored and config.get("model_variant", "finetune") == "finetune":
        tensors |= {own: stored[HUGGINGFACE + name] for own, name in HEAD.items() if HUGGINGFACE + name in stored}
        classifier = ClassifierConfig(
            num_classes=tensors["head.weight"].shape[0],
            encoder=encoder,
            pooling=str(notes.get("pooling", "cls")),
            head_norm_eps=float(notes.get("head_norm_eps") or HUGGINGFACE_HEAD_EPS),
        )
        check_head(path, tensors, classifier)
        activation = notes.get("activation", "sigmoid")
    elif (beside := file.with_name(PRETRAINING_NAME)).is_file() and given.is_dir():
        extra, _ = read_safetensors(str(beside))
        tensors |= {name: value for name, value in extra.items() if name.startswith((DECODER, TEACHER))}
        check_encoder(path, tensors, encoder, TEACHER)
    size = config.get("img_size") or [1024]
    return Contents(
        layout="huggingface",
        kind="pretraining" if classifier is None else "classification",
        tensors=tensors,
        encoder_config=encoder,
        classifier_config=classifier,
        front_end=noted_front_end(notes, FrontEnd(int(size[0]), AUDIOSET_MEAN, AUDIOSET_STD)),
        activation=activation,
        initialised=tuple(notes.get("initialised", ())),
        raw={"config": config, "model": stored},
    )


def _config(file: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """``config.json`` beside the file, else the copy that we leave in its header, else nothing."""
    beside = file.with_name(CONFIG_NAME)
    if beside.is_file():
        return read_json(beside)
    try:
        config = json.loads(metadata.get("config", "{}"))
    except ValueError:
        config = {}
    return config if isinstance(config, dict) else {}
