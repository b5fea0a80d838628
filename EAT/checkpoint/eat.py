"""This package's training checkpoints: fairseq's file, our names (``encoder.*``, ``decoder.*``, ``teacher.*``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError
from ..network.classification_losses import SINGLE_LABEL_LOSSES
from ..network.front_end import FrontEnd, front_end_of
from ..network.settings import ClassifierSettings, PretrainingSettings, check_type
from .classes import from_notes
from .completing import complete
from .contents import DECODER, ENCODER, POSITIONS, TEACHER, Contents
from .fairseq_file import fairseq_file, section
from .notes import notes_of
from .safe import Opened, write_torch_file
from .shapes import check_encoder, check_head, encoder_settings, extend_positions
from .validation import sized


def recognises(opened: Opened) -> bool:
    """Whether a file is one of ours: by the names of its tensors."""
    model = opened.state.get("model")
    return isinstance(model, dict) and ENCODER + "cls_token" in model


def read(opened: Opened) -> Contents:
    """Take one of our checkpoints apart. Raises CheckpointError where something is missing or misshapen."""
    path, state = opened.path, opened.state
    cfg, task, criterion = (section(path, state, name) for name in ("model", "task", "criterion"))
    notes = notes_of(state.get("extra_state"))
    tensors = with_masters(state)
    encoder = encoder_settings(path, tensors, cfg)
    rows = notes.get("position_rows")
    if rows is not None:
        tensors[ENCODER + POSITIONS] = tensors[ENCODER + POSITIONS][:, : int(rows)]
    settings: PretrainingSettings | ClassifierSettings
    activation, classes = None, None
    weight = next((name for name in ("head.weight", "head.fc.weight") if name in tensors), None)
    if weight is not None:
        count = {"num_classes": sized(path, tensors, weight, 2).shape[0]}
        noted = {name: notes[name] for name in ("head_norm_eps",) if notes.get(name)}
        settings = ClassifierSettings.take({**cfg, **vars(encoder), **count, **noted})
        check_head(path, tensors, settings)
        kept: tuple[str, ...] = (ENCODER, "norm.", "head.")
        loss = criterion.get("loss")
        if loss is not None:
            check_type("criterion.loss", loss, str)
        activation = None if loss is None else "softmax" if loss in SINGLE_LABEL_LOSSES else "sigmoid"
        activation = notes.get("activation", activation)
        classes = from_notes(path, notes, settings.num_classes or 0)
    else:
        settings = PretrainingSettings.take({**cfg, **vars(encoder)})
        kept = (ENCODER, DECODER, TEACHER)
        if any(name.startswith(TEACHER) for name in tensors):
            check_encoder(path, tensors, encoder, TEACHER)
    try:
        front_end = front_end_of(task)
    except (ConfigError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{path} holds a cfg.task that cannot be used: {error}") from None
    return Contents(
        format="eat",
        tensors={name: value for name, value in tensors.items() if name.startswith(kept)},
        settings=settings,
        front_end=front_end,
        activation=activation,
        classes=classes,
        initialised=tuple(notes.get("initialised", ())),
        raw=state,
    )


def with_masters(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The model's tensors, half-precision ones replaced by the optimiser's float32 originals where it kept them.

    The originals carry no names, only the order of the trained parameters. They are taken only if each has the shape
    of its parameter and, rounded, is that parameter bit for bit; fairseq saves half-precision parameters as float32.
    """
    tensors: dict[str, Tensor] = dict(state["model"])
    optimizer = state.get("last_optimizer_state")
    masters = optimizer.get("float32_parameters") if isinstance(optimizer, dict) else None
    if not masters or not isinstance(masters, list) or not all(isinstance(master, Tensor) for master in masters):
        return tensors
    trained = [name for name in tensors if not name.startswith(TEACHER) and not name.endswith(POSITIONS)]
    if len(trained) < len(masters):
        return tensors
    pairs = list(zip(trained[-len(masters) :], masters, strict=True))  # what is frozen comes first
    for half in (torch.bfloat16, torch.float16):
        if all(tensors[n].shape == m.shape and torch.equal(m.to(half).float(), tensors[n].float()) for n, m in pairs):
            return tensors | dict(pairs)
    return tensors


def write(contents: Contents, path: str) -> Contents:
    """Write one of our training checkpoints, at update 0. Returns what was written. Raises CheckpointError."""
    contents = complete(contents)
    tensors = dict(contents.tensors)
    tensors[ENCODER + POSITIONS] = extend_positions(tensors[ENCODER + POSITIONS], contents.settings)
    front_end = contents.front_end or FrontEnd(1024)
    if contents.kind == "pretraining":
        name, criterion = "eat_pretraining", {"_name": "utterance_frame"}
    else:
        loss = "cross_entropy" if contents.activation == "softmax" else "bce_per_positive"
        name, criterion = "eat_classification", {"_name": "classification", "loss": loss}
    cfg = {
        "task": {"_name": name, "data": "", "spectrogram": front_end.name, **front_end.constants()},
        "model": {"_name": name, **asdict(contents.settings)},
        "criterion": criterion,
    }
    write_torch_file(path, fairseq_file(contents, cfg, tensors))
    return contents
