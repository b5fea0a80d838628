"""The task ``eat_pretraining``: unlabelled clips of a manifest, and the teacher's update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from fairseq.tasks import register_task

from ..data.manifest import Manifest
from ..network.masking import Drawing
from .clip_task import ClipTask, ClipTaskConfig
from .fairseq_clips import FairseqClips
from .fairseq_support import unwrap
from .half_precision import FP16Optimizer


@dataclass
class EATPretrainingConfig(ClipTaskConfig):
    """Settings of the task ``eat_pretraining``."""


@register_task("eat_pretraining", dataclass=EATPretrainingConfig)
class EATPretrainingTask(ClipTask):
    """Self-supervised pre-training."""

    drawing: Drawing | None = None

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> torch.nn.Module:
        """Build the model, and learn from it how masks are drawn along with batches."""
        model = super().build_model(cfg, from_checkpoint)
        self.drawing = unwrap(model).drawing(self.cfg.target_length)
        return model

    def build_dataset(self, split: str, manifest: Manifest) -> FairseqClips:
        """The data set of one split, with the masks of its clips."""
        dataset = super().build_dataset(split, manifest)
        dataset.drawing = self.drawing
        return dataset

    def after_step(self, optimizer: Any, model: torch.nn.Module, update_num: int) -> None:
        """Update the teacher: once after each update of the student, never after a skipped one."""
        core = unwrap(model)
        masters = None
        if isinstance(optimizer, FP16Optimizer):
            # The student's float32 parameters live in the optimiser; the teacher averages those.
            names = {id(p): name for name, p in core.named_parameters()}
            masters = {
                names[id(half)]: master
                for half, master in zip(optimizer.fp16_params, optimizer.fp32_params, strict=True)
                if id(half) in names
            }
        core.update_teacher(update_num + 1, masters)
