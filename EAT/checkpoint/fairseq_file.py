"""The file that fairseq saves, around a configuration and a model's tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError
from .contents import Contents
from .notes import KEY, make_notes


def section(path: str, state: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """``cfg.{name}`` of a fairseq checkpoint as a dict, empty where the file has none."""
    cfg = state.get("cfg")
    part = cfg.get(name) if isinstance(cfg, dict) else None
    if part is not None and not isinstance(part, dict):
        raise CheckpointError(f"{path} holds a cfg.{name} that is no mapping.")
    return part or {}


def fairseq_file(contents: Contents, cfg: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    """A file as fairseq saves it, at update 0 and without optimiser, with our notes."""
    # What tasks and models refer to; fairseq fills in the rest with its defaults.
    common = {"_name": None, "seed": 1, "cpu": False, "fp16": False, "bf16": False, "user_dir": None}
    optimization = {"_name": None, "max_update": 0, "lr": [0.0], "update_freq": [1]}
    history = {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}
    return {
        "args": None,
        "cfg": {"_name": None, **cfg, "common": common, "optimization": optimization},
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
