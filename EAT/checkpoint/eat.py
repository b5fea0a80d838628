"""This package's training checkpoints: fairseq's file, our names (``encoder.*``, ``decoder.*``, ``teacher.*``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError
from ..network.front_end import FrontEnd
from ..network.settings import ClassifierConfig, EncoderConfig, PretrainingSettings
from .contents import DECODER, ENCODER, POSITIONS, TEACHER, Contents
from .notes import notes_of
from .shapes import check_encoder, check_head, infer_encoder_config

SINGLE_LABEL_LOSSES = ("cross_entropy",)
"""Losses of the criterion ``classification`` under which exactly one class is right."""


def is_eat(state: Mapping[str, Any]) -> bool:
    """Whether a loaded file is one of ours: by the names of its tensors."""
    model = state.get("model")
    return isinstance(model, dict) and ENCODER + "cls_token" in model


def read_eat(path: str, state: dict[str, Any]) -> Contents:
    """Take one of our checkpoints apart. Raises CheckpointError where something is missing or misshapen."""
    cfg, task, criterion = (section(path, state, name) for name in ("model", "task", "criterion"))
    notes = notes_of(state.get("extra_state"))
    tensors = with_masters(state)
    encoder = infer_encoder_config(path, tensors, cfg)
    rows = notes.get("position_rows")
    if rows is not None:
        tensors[ENCODER + POSITIONS] = tensors[ENCODER + POSITIONS][:, : int(rows)]
    kept: tuple[str, ...] = (ENCODER,)
    classifier = settings = activation = None
    if "head.weight" in tensors:
        classifier = ClassifierConfig(
            num_classes=tensors["head.weight"].shape[0],
            encoder=encoder,
            pooling=str(cfg.get("pooling") or "cls"),
            head_norm_eps=float(notes.get("head_norm_eps") or cfg.get("head_norm_eps") or 1e-6),
        )
        check_head(path, tensors, classifier)
        kept += ("norm.", "head.")
        loss = criterion.get("loss")
        activation = None if loss is None else "softmax" if loss in SINGLE_LABEL_LOSSES else "sigmoid"
        activation = notes.get("activation", activation)
    else:
        known = {name: cfg[name] for name in PretrainingSettings.__dataclass_fields__ if cfg.get(name) is not None}
        settings = with_encoder(PretrainingSettings(**known), encoder)
        kept += (DECODER, TEACHER)
        if any(name.startswith(TEACHER) for name in tensors):
            check_encoder(path, tensors, encoder, TEACHER)
    return Contents(
        layout="eat",
        kind="pretraining" if classifier is None else "classification",
        tensors={name: value for name, value in tensors.items() if name.startswith(kept)},
        encoder_config=encoder,
        classifier_config=classifier,
        settings=settings,
        front_end=front_end_of(path, task),
        activation=activation,
        initialised=tuple(notes.get("initialised", ())),
        raw=state,
    )


def with_encoder(settings: PretrainingSettings, encoder: EncoderConfig) -> PretrainingSettings:
    """The settings with an encoder's sizes."""
    return replace(
        settings,
        embed_dim=encoder.embed_dim,
        depth=encoder.depth,
        num_heads=encoder.num_heads,
        mlp_ratio=encoder.mlp_ratio,
        norm_eps=encoder.norm_eps,
    )


def section(path: str, state: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """``cfg.{name}`` of a fairseq checkpoint as a dict, empty where the file has none."""
    cfg = state.get("cfg")
    part = cfg.get(name) if isinstance(cfg, dict) else None
    if part is not None and not isinstance(part, dict):
        raise CheckpointError(f"{path} holds a cfg.{name} that is no mapping.")
    return part or {}


def front_end_of(path: str, task: Mapping[str, Any]) -> FrontEnd | None:
    """Length and normalisation from a task's configuration; None where they do not stand there."""
    names = ("target_length", "norm_mean", "norm_std")
    if any(task.get(name) is None for name in names):
        return None
    try:
        return FrontEnd(int(task["target_length"]), float(task["norm_mean"]), float(task["norm_std"]))
    except (ConfigError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} holds a cfg.task that cannot be used: {error}") from None


def with_masters(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The model's tensors, half-precision ones replaced by the optimiser's float32 originals where it kept them.

    The originals carry no names, only the order of the trained parameters. They are taken only if each has the shape
    of its parameter and, rounded, is that parameter bit for bit.
    """
    tensors: dict[str, Tensor] = dict(state["model"])
    optimizer = state.get("last_optimizer_state")
    masters = optimizer.get("float32_parameters") if isinstance(optimizer, dict) else None
    if not masters:
        return tensors
    trained = [name for name in tensors if not name.startswith(TEACHER) and not name.endswith(POSITIONS)]
    if len(trained) < len(masters):
        return tensors
    pairs = list(zip(trained[-len(masters) :], masters, strict=True))  # what is frozen comes first
    if all(tensors[n].shape == m.shape and torch.equal(m.to(tensors[n].dtype), tensors[n]) for n, m in pairs):
        tensors.update(pairs)
    return tensors
