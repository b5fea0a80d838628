"""Writing a checkpoint in any of the three layouts."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import ConfigError
from ..network.front_end import FrontEnd
from ..network.settings import FREQUENCY_PATCHES, MEL_BINS, PATCH_SIZE, ClassificationSettings, PretrainingSettings
from . import names
from .completing import complete, without_initialised
from .contents import DECODER, ENCODER, POSITIONS, TEACHER, Contents
from .huggingface import PRETRAINING_NAME
from .notes import KEY, make_notes
from .published_eat import POOLINGS, RECIPES
from .safe_files import CONFIG_NAME, MODEL_NAME, write_json, write_safetensors, write_torch_file
from .shapes import extend_positions

LAYOUTS = ("eat", "published", "huggingface")


def write_checkpoint(contents: Contents, path: str, layout: str) -> Contents:
    """Write a checkpoint; tensors keep their values and types.

    Args:
        contents: what to write.
        path: a file; for ``huggingface`` a folder, or a file that ends in ``.safetensors``.
        layout: ``eat``, ``published`` or ``huggingface``.

    Returns:
        What was written: ``initialised`` lists the parts that had to be made up.

    Raises:
        CheckpointError: where it cannot be written.
        ConfigError: for another layout.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"the layout is {layout!r}; it must be one of {', '.join(LAYOUTS)}.")
    contents = without_initialised(contents)
    if layout == "huggingface":
        _write_huggingface(contents, path)
        return contents
    contents = complete(contents)
    state = _eat_state(contents) if layout == "eat" else _published_state(contents)
    write_torch_file(path, state)
    return contents


def _front_end(contents: Contents) -> FrontEnd:
    return contents.front_end or FrontEnd(1024)


def _fairseq_file(contents: Contents, cfg: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    """A file as fairseq saves it, at update 0 and without optimiser."""
    # What tasks and models refer to; fairseq fills in the rest with its defaults.
    common = {"_name": None, "seed": 1, "cpu": False, "fp16": False, "bf16": False, "user_dir": None}
    optimization = {"_name": None, "max_update": 0, "lr": [0.0], "update_freq": [1]}
    cfg = {**cfg, "common": common, "optimization": optimization}
    history = {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}
    return {
        "args": None,
        "cfg": cfg,
        "model": model,
        "criterion": {},
        "optimizer_history": [history],
        "task_state": {},
        "extra_state": {
            "train_iterator": {"epoch": 1, "iterations_in_epoch": 0, "shuffle": True},
            "val_loss": None,
            KEY: make_notes(contents),
        },
        "last_optimizer_state": {},
    }


def _eat_state(contents: Contents) -> dict[str, Any]:
    tensors = dict(contents.tensors)
    tensors[ENCODER + POSITIONS] = extend_positions(tensors[ENCODER + POSITIONS])
    front_end = _front_end(contents)
    task: dict[str, Any] = {"data": "", **asdict(front_end)}
    criterion: dict[str, Any]
    if contents.classifier_config is None:
        assert contents.settings is not None
        name, settings = "eat_pretraining", asdict(contents.settings)
        criterion = {"_name": "utterance_frame"}
    else:
        classifier = contents.classifier_config
        name = "eat_classification"
        settings = asdict(
            ClassificationSettings(
                num_classes=classifier.num_classes,
                pooling=classifier.pooling,
                head_norm_eps=classifier.head_norm_eps,
                embed_dim=classifier.encoder.embed_dim,
                depth=classifier.encoder.depth,
                num_heads=classifier.encoder.num_heads,
                mlp_ratio=classifier.encoder.mlp_ratio,
                norm_eps=classifier.encoder.norm_eps,
            )
        )
        loss = "cross_entropy" if contents.activation == "softmax" else "bce_per_positive"
        criterion = {"_name": "classification", "loss": loss}
    cfg = {"_name": None, "task": {"_name": name, **task}, "model": {"_name": name, **settings}, "criterion": criterion}
    return _fairseq_file(contents, cfg, tensors)


def _published_state(contents: Contents) -> dict[str, Any]:
    encoder = names.to_published_encoder(contents.part(ENCODER), names.PUBLISHED_ENCODER, names.BLOCKS)
    if contents.classifier_config is not None:
        model: dict[str, Any] = names.with_prefix(names.PUBLISHED_CLASSIFIER, encoder)
        model |= {theirs: contents.tensors[own] for own, theirs in names.HEAD.items()}
        return _fairseq_file(contents, _published_classification_cfg(contents), model)
    model = dict(encoder)
    for name, value in contents.part(DECODER).items():
        model[names.PUBLISHED_DECODER + names.published_decoder_name(name)] = value
    teacher = {**contents.part(TEACHER), POSITIONS: contents.tensors[ENCODER + POSITIONS].float()}
    model["_ema"] = names.to_published_encoder(teacher, names.PUBLISHED_ENCODER, names.BLOCKS)
    return _fairseq_file(contents, _published_pretraining_cfg(contents), model)


def _published_pretraining_cfg(contents: Contents) -> dict[str, Any]:
    """The part of the published configuration that says how the model is built; the rest has the code's defaults."""
    config = contents.encoder_config
    settings = contents.settings or PretrainingSettings()
    model = {
        "_name": "data2vec_multi",
        "supported_modality": "IMAGE",
        "embed_dim": config.embed_dim,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "mlp_ratio": config.mlp_ratio,
        "norm_eps": config.norm_eps,
        "norm_affine": True,
        "layer_norm_first": False,
        "average_top_k_layers": config.depth,
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
        "modalities": {"_name": None, "image": _published_modality(contents, settings)},
    }
    task = _published_task("mae_image_pretraining", contents)
    return {"_name": None, "task": task, "model": model, "criterion": {"_name": "model"}}


def _published_modality(contents: Contents, settings: PretrainingSettings) -> dict[str, Any]:
    """Patches, masks and decoder, which the published configuration keeps with the modality."""
    config = contents.encoder_config
    return {
        "type": "IMAGE",
        "input_size": 224,
        "in_chans": 1,
        "patch_size": PATCH_SIZE,
        "embed_dim": config.embed_dim,
        "num_extra_tokens": 1,
        "fixed_positions": True,
        "max_length": contents.tensors[ENCODER + POSITIONS].shape[1] // FREQUENCY_PATCHES,
        "target_length": _front_end(contents).target_length,
        "model_depth": config.depth,
        "num_alibi_heads": config.num_heads,
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


def _published_task(name: str, contents: Contents) -> dict[str, Any]:
    front_end = _front_end(contents)
    flags = {
        flag: (front_end.norm_mean, front_end.norm_std, contents.activation or activation) == (mean, std, activation)
        for flag, (mean, std, activation) in RECIPES.items()
    }
    length = {"target_length": front_end.target_length, "input_size": 224, "audio_mae": True, "downsr_16hz": True}
    return {"_name": name, "data": "", "h5_format": False, "key": "source", "seed": 1, **length, **flags}


def _published_classification_cfg(contents: Contents) -> dict[str, Any]:
    classifier = contents.classifier_config
    assert classifier is not None
    task = _published_task("mae_image_classification", contents)
    model = {
        "_name": "mae_image_classification",
        "model_path": "",
        "pretrained_model_args": _published_pretraining_cfg(contents),
        "num_classes": classifier.num_classes,
        "prediction_mode": next(mode for mode, pooling in POOLINGS.items() if pooling == classifier.pooling),
        "use_fc_norm": True,
        "linear_classifier": False,
        "audio_mae": True,
        "target_length": _front_end(contents).target_length,
        **{flag: task[flag] for flag in RECIPES},
    }
    return {"_name": None, "task": task, "model": model, "criterion": {"_name": "model"}}


def _write_huggingface(contents: Contents, path: str) -> None:
    stem = names.HUGGINGFACE
    model: dict[str, Tensor] = names.to_published_encoder(
        contents.part(ENCODER), names.HUGGINGFACE_ENCODER, stem + names.BLOCKS
    )
    if contents.classifier_config is not None:
        model |= {stem + theirs: contents.tensors[own] for own, theirs in names.HEAD.items()}
    config = _huggingface_config(contents)
    metadata = {"format": "pt", "config": json.dumps(config)}
    if path.endswith(".safetensors"):
        write_safetensors(path, model, metadata)
        return
    extra = {name: value for name, value in contents.tensors.items() if name.startswith((DECODER, TEACHER))}
    beside = Path(path) / PRETRAINING_NAME
    if extra:
        write_safetensors(str(beside), extra, {"format": "pt"})
    else:
        beside.unlink(missing_ok=True)
    write_safetensors(str(Path(path) / MODEL_NAME), model, metadata)
    write_json(Path(path) / CONFIG_NAME, config)


def _huggingface_config(contents: Contents) -> dict[str, Any]:
    config, classifier = contents.encoder_config, contents.classifier_config
    front_end = _front_end(contents)
    return {
        "model_type": "eat",
        "architectures": ["EATModel"],
        "embed_dim": config.embed_dim,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "patch_size": PATCH_SIZE,
        "stride": PATCH_SIZE,
        "in_chans": 1,
        "mel_bins": MEL_BINS,
        "max_length": contents.tensors[ENCODER + POSITIONS].shape[1] // FREQUENCY_PATCHES,
        "num_classes": 527 if classifier is None else classifier.num_classes,
        "mlp_ratio": config.mlp_ratio,
        "qkv_bias": True,
        "drop_rate": 0.0,
        "attn_drop_rate": 0.0,
        "activation_dropout": 0.0,
        "post_mlp_drop": 0.0,
        "start_drop_path_rate": 0.0,
        "end_drop_path_rate": 0.0,
        "layer_norm_first": False,
        "norm_eps": config.norm_eps,
        "norm_affine": True,
        "fixed_positions": True,
        "img_size": [front_end.target_length, MEL_BINS],
        "model_variant": "pretrain" if classifier is None else "finetune",
        KEY: make_notes(replace(contents, initialised=())),
    }
