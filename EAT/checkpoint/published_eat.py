"""Published fairseq checkpoints: ``data2vec_multi`` (pre-trained) and ``mae_image_classification`` (fine-tuned)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..network.front_end import AUDIOSET_MEAN, AUDIOSET_STD, FrontEnd
from ..network.settings import SIZES, ClassifierSettings, EncoderSettings, PretrainingSettings, check_type
from .classes import from_notes
from .completing import complete
from .contents import DECODER, ENCODER, POSITIONS, TEACHER, Contents
from .fairseq_file import fairseq_file, section
from .names import (
    BLOCKS,
    HEAD,
    HOLDS,
    PUBLISHED_CLASSIFIER,
    PUBLISHED_DECODER,
    PUBLISHED_ENCODER,
    from_published_encoder,
    own_decoder_name,
    published_decoder_name,
    to_published_encoder,
    with_prefix,
)  # fmt: skip
from .notes import noted_front_end, notes_of
from .safe import Opened, write_torch_file
from .shapes import check_encoder, check_head, encoder_settings
from .validation import sized

OURS = ("patch_size", "mel_bins", *(name for name in SIZES if name in HOLDS))
"""Sizes that the published model's configuration has elsewhere, or not at all."""
CLS_NAME = PUBLISHED_ENCODER["cls_token"]
RECIPES = {"esc50_eval": (-6.627, 5.359, "softmax"), "spcv2_eval": (-6.846, 5.565, "sigmoid")}
"""Mean, standard deviation and activation that the published code's flags stand for; without a flag, AudioSet's."""
POOLINGS = {"CLS_TOKEN": "cls", "MEAN_POOLING": "mean", "LIN_SOFTMAX": "linear_softmax"}
"""Our names of the published code's prediction modes."""


def recognises(opened: Opened) -> bool:
    """Whether a loaded file is a published fairseq checkpoint: by the names of its tensors."""
    model = opened.state.get("model")
    return isinstance(model, dict) and (CLS_NAME in model or PUBLISHED_CLASSIFIER + CLS_NAME in model)


def read(opened: Opened) -> Contents:
    """Take a published checkpoint apart. Raises CheckpointError where something is missing or misshapen."""
    if CLS_NAME in opened.state["model"]:
        return _read_pretraining(opened.path, opened.state)
    return _read_classification(opened.path, opened.state)


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
    return FrontEnd(length, mean, std)


def _read_pretraining(path: str, state: dict[str, Any]) -> Contents:
    model, cfg, task = state["model"], section(path, state, "model"), section(path, state, "task")
    notes = notes_of(state.get("extra_state"))
    tensors = with_prefix(ENCODER, from_published_encoder(model, PUBLISHED_ENCODER, BLOCKS))
    encoder = encoder_settings(path, tensors, _given(cfg, "num_heads", "norm_eps"))
    for name, value in model.items():
        if name.startswith(PUBLISHED_DECODER):
            tensors[DECODER + own_decoder_name(name[len(PUBLISHED_DECODER) :])] = value
    teacher = model.get("_ema")
    if isinstance(teacher, dict) and teacher:
        tensors |= _teacher(path, teacher, tensors[ENCODER + POSITIONS])
        check_encoder(path, tensors, encoder, TEACHER)
    return Contents(
        format="published",
        tensors=tensors,
        settings=_settings(path, encoder, cfg, tensors),
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


def _settings(
    path: str, encoder: EncoderSettings, cfg: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> PretrainingSettings:
    """How it was pre-trained, under our names; the decoder's sizes are those of its tensors."""
    image = _image(cfg)
    decoder = image.get("decoder")
    decoder = decoder if isinstance(decoder, dict) else {}
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
    if DECODER + "blocks.0.conv.weight" in tensors:
        first = sized(path, tensors, DECODER + "blocks.0.conv.weight", 4)
        found["decoder_width"], found["decoder_kernel"] = first.shape[0], first.shape[-1]
        found["decoder_groups"] = encoder.embed_dim // first.shape[1]
        found["decoder_layers"] = sum(
            1 for name in tensors if name.startswith(DECODER) and name.endswith("conv.weight")
        )
    return PretrainingSettings.take({**vars(encoder), **found})


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
    heads = ({**pretrained, **cfg}, "num_heads", "norm_eps")
    encoder = encoder_settings(path, tensors, _given(*heads))
    if "fc_norm.weight" not in model or "head.weight" not in model:
        raise CheckpointError(f"{path} lacks fc_norm or head; a fine-tuned checkpoint has both.")
    tensors |= {own: model[theirs] for own, theirs in HEAD.items() if theirs in model}
    mode = cfg.get("prediction_mode") or "CLS_TOKEN"
    check_type("cfg.model.prediction_mode", mode, str)
    mode = mode.rsplit(".", 1)[-1]
    if mode not in POOLINGS:
        raise CheckpointError(f"{path} predicts by {mode}; known are {', '.join(POOLINGS)}.")
    settings = ClassifierSettings.take(
        {
            **vars(encoder),
            "num_classes": sized(path, tensors, "head.weight", 2).shape[0],
            "pooling": POOLINGS[mode],
            "head_norm_eps": notes.get("head_norm_eps"),
        }
    )
    check_head(path, tensors, settings)
    flagged = [activation for flag, (_, _, activation) in RECIPES.items() if cfg.get(flag) or task.get(flag)]
    return Contents(
        format="published",
        tensors=tensors,
        settings=settings,
        front_end=noted_front_end(notes, _front_end(task, cfg, pretrained)),
        activation=notes.get("activation", flagged[0] if flagged else "sigmoid"),
        classes=from_notes(path, notes, settings.num_classes or 0),
        raw=state,
    )


def _given(cfg: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: cfg[name] for name in names if cfg.get(name) is not None}


def write(contents: Contents, path: str) -> Contents:
    """Write a file in the published code's format. Returns what was written. Raises CheckpointError."""
    contents = complete(contents)
    write_torch_file(path, _state(contents))
    return contents


def _state(contents: Contents) -> dict[str, Any]:
    encoder = to_published_encoder(contents.part(ENCODER), PUBLISHED_ENCODER, BLOCKS)
    if isinstance(contents.settings, ClassifierSettings):
        model: dict[str, Any] = with_prefix(PUBLISHED_CLASSIFIER, encoder)
        model |= {theirs: contents.tensors[own] for own, theirs in HEAD.items()}
        return fairseq_file(contents, _classification_cfg(contents), model)
    model = dict(encoder)
    for name, value in contents.part(DECODER).items():
        model[PUBLISHED_DECODER + published_decoder_name(name)] = value
    teacher = {**contents.part(TEACHER), POSITIONS: contents.tensors[ENCODER + POSITIONS].float()}
    model["_ema"] = to_published_encoder(teacher, PUBLISHED_ENCODER, BLOCKS)
    return fairseq_file(contents, _pretraining_cfg(contents), model)


def _pretraining_cfg(contents: Contents) -> dict[str, Any]:
    """The part of the published configuration that says how the model is built; the rest has the code's defaults."""
    settings = PretrainingSettings.take(vars(contents.settings))
    model = {
        "_name": "data2vec_multi",
        "supported_modality": "IMAGE",
        **{name: getattr(settings, name) for name in SIZES if name not in OURS},
        "norm_affine": True,
        "layer_norm_first": False,
        "average_top_k_layers": settings.depth,
        "instance_norm_target_layer": True,
        "layer_norm_targets": True,
        "clone_batch": settings.clone_batch,
        "ema_decay": settings.ema_decay,
        "ema_end_decay": settings.ema_end_decay,
        "ema_anneal_end_step": settings.ema_anneal_updates,
        "ema_encoder_only": False,
        "skip_ema": False,
        "cls_loss": 1.0,
        "d2v_loss": 1.0,
        "recon_loss": 0.0,
        "shared_decoder": None,
        "max_update": 0,
        "seed": 1,
        "modalities": {"_name": None, "image": _modality(contents, settings)},
    }
    task = _task("mae_image_pretraining", contents)
    return {"task": task, "model": model, "criterion": {"_name": "model"}}


def _modality(contents: Contents, settings: PretrainingSettings) -> dict[str, Any]:
    """Patches, masks and decoder, which the published configuration keeps with the modality."""
    return {
        "type": "IMAGE",
        "input_size": 224,
        "in_chans": 1,
        "patch_size": settings.patch_size,
        "embed_dim": settings.embed_dim,
        "num_extra_tokens": 1,
        "fixed_positions": True,
        "max_length": contents.tensors[ENCODER + POSITIONS].shape[1] // (settings.mel_bins // settings.patch_size),
        "target_length": (contents.front_end or FrontEnd(1024)).target_length,
        "model_depth": settings.depth,
        "num_alibi_heads": settings.num_heads,
        "use_alibi_encoder": False,
        "prenet_depth": 0,
        "ema_local_encoder": True,
        "encoder_zero_mask": True,
        "inverse_mask": True,
        "mask_prob": settings.mask_prob,
        "mask_prob_adjust": settings.mask_prob_adjust,
        "mask_length": settings.mask_length,
        "mask_noise_std": settings.decoder_noise,
        "mask_dropout": 0.0,
        "transformer_decoder": False,
        "decoder": {
            "decoder_dim": settings.decoder_width,
            "decoder_groups": settings.decoder_groups,
            "decoder_kernel": settings.decoder_kernel,
            "decoder_layers": settings.decoder_layers,
            "decoder_residual": True,
            "projection_layers": 1,
            "projection_ratio": 2.0,
            "input_dropout": 0.0,
            "add_positions_all": False,
            "add_positions_masked": False,
        },
    }


def _task(name: str, contents: Contents) -> dict[str, Any]:
    front_end = contents.front_end or FrontEnd(1024)
    flags = {
        flag: (front_end.norm_mean, front_end.norm_std, contents.activation or activation) == (mean, std, activation)
        for flag, (mean, std, activation) in RECIPES.items()
    }
    length = {"target_length": front_end.target_length, "input_size": 224, "audio_mae": True, "downsr_16hz": True}
    return {"_name": name, "data": "", "h5_format": False, "key": "source", "seed": 1, **length, **flags}


def _classification_cfg(contents: Contents) -> dict[str, Any]:
    classifier = contents.settings
    assert isinstance(classifier, ClassifierSettings)
    task = _task("mae_image_classification", contents)
    model = {
        "_name": "mae_image_classification",
        "model_path": "",
        "pretrained_model_args": _pretraining_cfg(contents),
        "num_classes": classifier.num_classes,
        "prediction_mode": next(mode for mode, pooling in POOLINGS.items() if pooling == classifier.pooling),
        "use_fc_norm": True,
        "linear_classifier": False,
        "audio_mae": True,
        "target_length": (contents.front_end or FrontEnd(1024)).target_length,
        **{flag: task[flag] for flag in RECIPES},
    }
    return {"task": task, "model": model, "criterion": {"_name": "model"}}
