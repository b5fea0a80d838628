"""Published fairseq checkpoints: ``data2vec_multi`` (pre-trained) and ``mae_image_classification`` (fine-tuned)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..network.front_end import FrontEnd
from ..network.settings import ClassifierConfig, EncoderConfig, PretrainingSettings
from .contents import AUDIOSET_MEAN, AUDIOSET_STD, DECODER, ENCODER, POSITIONS, TEACHER, Contents
from .eat import section, with_encoder
from .names import (
    BLOCKS,
    HEAD,
    PUBLISHED_CLASSIFIER,
    PUBLISHED_DECODER,
    PUBLISHED_ENCODER,
    from_published_encoder,
    own_decoder_name,
    with_prefix,
)
from .notes import noted_front_end, notes_of
from .shapes import check_encoder, check_head, infer_encoder_config

CLS_NAME = PUBLISHED_ENCODER["cls_token"]
RECIPES = {"esc50_eval": (-6.627, 5.359, "softmax"), "spcv2_eval": (-6.846, 5.565, "sigmoid")}
"""Mean, standard deviation and activation that the published code's flags stand for; without a flag, AudioSet's."""
POOLINGS = {"CLS_TOKEN": "cls", "MEAN_POOLING": "mean", "LIN_SOFTMAX": "linear_softmax"}
"""Our names of the published code's prediction modes."""


def is_published(state: Mapping[str, Any]) -> bool:
    """Whether a loaded file is a published fairseq checkpoint: by the names of its tensors."""
    model = state.get("model")
    return isinstance(model, dict) and (CLS_NAME in model or PUBLISHED_CLASSIFIER + CLS_NAME in model)


def read_published(path: str, state: dict[str, Any]) -> Contents:
    """Take a published checkpoint apart. Raises CheckpointError where something is missing or misshapen."""
    if CLS_NAME in state["model"]:
        return _read_pretraining(path, state)
    return _read_classification(path, state)


def _image(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    modalities = settings.get("modalities")
    image = modalities.get("image") if isinstance(modalities, dict) else None
    return image if isinstance(image, dict) else {}


def _front_end(task: Mapping[str, Any], model: Mapping[str, Any], pretrained: Mapping[str, Any]) -> FrontEnd:
    length = model.get("target_length") or task.get("target_length") or _image(pretrained).get("target_length") or 1024
    mean, std = AUDIOSET_MEAN, AUDIOSET_STD
    for flag, (flag_mean, flag_std, _) in RECIPES.items():
        if task.get(flag) or model.get(flag):
            mean, std = flag_mean, flag_std
    return FrontEnd(int(length), mean, std)


def _read_pretraining(path: str, state: dict[str, Any]) -> Contents:
    model, cfg, task = state["model"], section(path, state, "model"), section(path, state, "task")
    notes = notes_of(state.get("extra_state"))
    tensors = with_prefix(ENCODER, from_published_encoder(model, PUBLISHED_ENCODER, BLOCKS))
    encoder = infer_encoder_config(path, tensors, cfg)
    for name, value in model.items():
        if name.startswith(PUBLISHED_DECODER):
            tensors[DECODER + own_decoder_name(name[len(PUBLISHED_DECODER) :])] = value
    teacher = model.get("_ema")
    if isinstance(teacher, dict) and teacher:
        tensors |= _teacher(path, teacher, tensors[ENCODER + POSITIONS])
        check_encoder(path, tensors, encoder, TEACHER)
    return Contents(
        layout="published",
        kind="pretraining",
        tensors=tensors,
        encoder_config=encoder,
        settings=_settings(encoder, cfg, tensors),
        front_end=noted_front_end(notes, _front_end(task, {}, cfg)),
        initialised=tuple(notes.get("initialised", ())),
        raw=state,
    )


def _teacher(path: str, ema: Mapping[str, Tensor], positions: Tensor) -> dict[str, Tensor]:
    """``_ema`` under our names. Its position table is the student's, which nothing trains, and is not kept twice."""
    teacher = from_published_encoder(ema, PUBLISHED_ENCODER, BLOCKS)
    table = teacher.pop(POSITIONS, None)
    if table is not None and not torch.equal(table.to(positions.dtype), positions):
        raise CheckpointError(f"{path} holds a teacher whose position table is not the student's.")
    return with_prefix(TEACHER, teacher)


def _settings(encoder: EncoderConfig, cfg: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> PretrainingSettings:
    """How it was pre-trained, under our names; the decoder's sizes are those of its tensors."""
    image = _image(cfg)
    decoder = image.get("decoder") or {}
    found = {
        "clone_batch": cfg.get("clone_batch"),
        "mask_prob": image.get("mask_prob"),
        "mask_prob_adjust": image.get("mask_prob_adjust"),
        "mask_length": image.get("mask_length"),
        "decoder_noise": image.get("mask_noise_std"),
        "ema_decay": cfg.get("ema_decay"),
        "ema_end_decay": cfg.get("ema_end_decay"),
        "ema_anneal_updates": cfg.get("ema_anneal_end_step"),
        "decoder_groups": decoder.get("decoder_groups"),
    }
    first = tensors.get(DECODER + "blocks.0.conv.weight")
    if first is not None:
        found["decoder_width"], found["decoder_kernel"] = first.shape[0], first.shape[-1]
        found["decoder_groups"] = encoder.embed_dim // first.shape[1]
        found["decoder_layers"] = sum(
            1 for name in tensors if name.startswith(DECODER) and name.endswith("conv.weight")
        )
    settings = PretrainingSettings(**{name: value for name, value in found.items() if value is not None})
    return with_encoder(settings, encoder)


def _read_classification(path: str, state: dict[str, Any]) -> Contents:
    model, cfg, task = state["model"], section(path, state, "model"), section(path, state, "task")
    notes = notes_of(state.get("extra_state"))
    pretrained = cfg.get("pretrained_model_args")
    pretrained = section(path, {"cfg": pretrained}, "model") if isinstance(pretrained, dict) else {}
    inner = {
        name[len(PUBLISHED_CLASSIFIER) :]: value
        for name, value in model.items()
        if name.startswith(PUBLISHED_CLASSIFIER)
    }
    tensors = with_prefix(ENCODER, from_published_encoder(inner, PUBLISHED_ENCODER, BLOCKS))
    encoder = infer_encoder_config(path, tensors, {**pretrained, **_given(cfg, "num_heads", "norm_eps")})
    if "fc_norm.weight" not in model or "head.weight" not in model:
        raise CheckpointError(f"{path} lacks fc_norm or head; a fine-tuned checkpoint has both.")
    tensors |= {own: model[theirs] for own, theirs in HEAD.items() if theirs in model}
    mode = str(cfg.get("prediction_mode") or "CLS_TOKEN").rsplit(".", 1)[-1]
    if mode not in POOLINGS:
        raise CheckpointError(f"{path} predicts by {mode}; known are {', '.join(POOLINGS)}.")
    classifier = ClassifierConfig(
        num_classes=tensors["head.weight"].shape[0],
        encoder=encoder,
        pooling=POOLINGS[mode],
        head_norm_eps=float(notes.get("head_norm_eps") or 1e-6),
    )
    check_head(path, tensors, classifier)
    flagged = [activation for flag, (_, _, activation) in RECIPES.items() if cfg.get(flag) or task.get(flag)]
    return Contents(
        layout="published",
        kind="classification",
        tensors=tensors,
        encoder_config=encoder,
        classifier_config=classifier,
        front_end=noted_front_end(notes, _front_end(task, cfg, pretrained)),
        activation=notes.get("activation", flagged[0] if flagged else "sigmoid"),
        raw=state,
    )


def _given(cfg: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: cfg[name] for name in names if cfg.get(name) is not None}
