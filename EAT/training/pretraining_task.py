"""The task ``eat_pretraining``: unlabelled clips of a manifest, and the teacher's update."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import torch
from fairseq.tasks import register_task

from ..data.manifest import Manifest
from ..errors import ConfigError
from ..network.masking import Drawing
from ..network.patches import Grid
from ..network.settings import PretrainingSettings
from .clip_task import ClipTask, ClipTaskConfig
from .fairseq_clips import FairseqClips
from .fairseq_support import reports_user_errors, restored_path, unwrap
from .half_precision import FP16Optimizer
from .pretraining_start import start_from
from .survival.checkpoints import is_new_run

logger = logging.getLogger("EAT")


@dataclass
class EATPretrainingConfig(ClipTaskConfig):
    """Settings of the task ``eat_pretraining``."""


@register_task("eat_pretraining", dataclass=EATPretrainingConfig)
class EATPretrainingTask(ClipTask):
    """Self-supervised pre-training, from scratch or from a checkpoint."""

    start: dict[str, torch.Tensor] = {}  # noqa: RUF012 - replaced, never changed
    """The student's parameters as a checkpoint had them, until the first update."""

    drawing: Drawing | None = None
    """How masks are drawn along with batches."""

    @reports_user_errors
    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> torch.nn.Module:
        """Build the network, from ``model.model_path`` where a run begins with one.

        That file is not opened where the run is resumed. Raises ConfigError where mixtures are to begin with nothing
        learnt and nobody asked for that.
        """
        model: Any = super().build_model(cfg, from_checkpoint)
        self.drawing = unwrap(model).drawing(self.cfg.target_length)
        no_blocks = without_blocks(unwrap(model).settings, self.cfg.target_length)
        if no_blocks:
            logger.warning(no_blocks)
        restored = restored_path(cfg)
        if from_checkpoint or (restored is not None and not is_new_run(restored)):
            return model
        if cfg.model_path:
            self.name_differences(cfg.model_path, start_from(model, cfg.model_path))
            self.start = {name: p.detach().clone() for name, p in model.named_parameters()}
        elif cfg.model_path is not None and cfg.mixtures:
            raise ConfigError(
                "model.model_path is not set; mixtures start from a finished EAT, model.model_path=CHECKPOINT, or from "
                "scratch with model.model_path=null."
            )
        return model

    def train_step(
        self,
        sample: dict[str, Any],
        model: Any,
        criterion: Any,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool = False,
    ) -> tuple[torch.Tensor, Any, dict[str, Any]]:
        """As :meth:`ClipTask.train_step`.

        Fairseq makes the optimiser's float32 parameters from the half-precision ones; where the run starts from a
        checkpoint, they get back what rounding took from them.
        """
        if self.start and update_num == 0 and isinstance(optimizer, FP16Optimizer):
            for name, master in float32_masters(optimizer, unwrap(model)).items():
                master.data.copy_(self.start[name])
        self.start = {}
        return super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad)

    def build_dataset(self, split: str, manifest: Manifest) -> FairseqClips:
        """The data set of one split, with the masks of its clips."""
        dataset = super().build_dataset(split, manifest)
        dataset.drawing = self.drawing
        return dataset

    def after_step(self, optimizer: Any, model: torch.nn.Module, update_num: int) -> None:
        """Update the teacher: once after each update of the student, never after a skipped one."""
        core = unwrap(model)
        # In half precision the student's float32 parameters live in the optimiser; the teacher averages those.
        masters = float32_masters(optimizer, core) if isinstance(optimizer, FP16Optimizer) else None
        core.update_teacher(update_num + 1, masters, self.bad)


def without_blocks(settings: PretrainingSettings, frames: int) -> str:
    """What to say where inverse block masking keeps no block of clips of so many frames; nothing where it does."""
    grid = Grid(frames // settings.patch_size, settings.mel_bins // settings.patch_size)
    if settings.masking != "inverse_block" or settings.blocks(grid.patches):
        return ""
    shorter = range(settings.mask_length - 2, 1, -2)
    fits = next((n for n in shorter if replace(settings, mask_length=n).blocks(grid.patches)), None)
    help = "a longer task.target_length does" if fits is None else f"model.mask_length={fits} does"
    return (
        f"masks keep no blocks: one of model.mask_length={settings.mask_length} is larger than what stays visible of "
        f"{grid.time} x {grid.frequency} patches, so that patches are kept one by one, as with model.masking=random; "
        f"{help} keep blocks"
    )


def float32_masters(optimizer: FP16Optimizer, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The optimiser's float32 copies of the model's parameters, by their names."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    pairs = zip(optimizer.fp16_params, optimizer.fp32_params, strict=True)
    return {names[id(half)]: master for half, master in pairs if id(half) in names}
