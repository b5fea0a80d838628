"""EAT's pre-training in one place, in the order of the paper: mask, encode, decode, compare with the teacher.

Blocks know nothing of training and losses nothing of blocks; this module knows both.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from . import objective
from .decoder import ConvDecoder
from .encoder import Encoder
from .masking import Masks, inverse_block_masks
from .noise import clip_noise
from .settings import PretrainingConfig, check_target_length
from .teacher import Teacher

TEACHER_PREFIX = "teacher."


class PretrainingOutput(NamedTuple):
    """The two terms of the objective, unweighted, and what one watches beside them; all scalars on the device."""

    frame_loss: Tensor
    """Mean of e(prediction, target) over masked patches."""
    utterance_loss: Tensor
    """Mean of e(CLS, utterance target) over clones."""
    prediction_deviation: Tensor
    target_deviation: Tensor
    masked_share: float
    """Masked patches as a share of all."""


class Pretraining(nn.Module):
    """Student encoder, decoder and moving-average teacher.

    In ``state_dict`` the teacher appears as ``teacher.*``, always float32; it is neither a parameter nor a submodule.
    """

    def __init__(self, config: PretrainingConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder)
        self.decoder = ConvDecoder(config.encoder.embed_dim, config.decoder)
        self.teacher = Teacher(self.encoder, config.teacher)

    def forward(
        self, filterbank: Tensor, clips: Sequence[int], *, seed: int, epoch: int, masks: Masks | None = None
    ) -> PretrainingOutput:
        """Compute the objective's terms for a batch.

        Args:
            filterbank: (B, 1, frames, 128) normalised, frames a multiple of 16; any float type.
            clips: B numbers that identify the clips (on the host); from them, ``seed`` and ``epoch`` the masks and
                the decoder's noise follow.
            seed: of the run.
            epoch: of the run.
            masks: use these instead of drawing them.
        """
        time_patches = check_target_length(filterbank.shape[2], "the filterbank's length")
        device = filterbank.device
        filterbank = filterbank.to(self.encoder.cls_token.dtype)
        if masks is None:
            masks = inverse_block_masks(
                self.config.mask,
                time_patches,
                torch.tensor(clips, device=device),
                self.config.clones,
                seed=seed,
                epoch=epoch,
            )
        targets = self.teacher.targets(filterbank)  # (B, N, D)
        tokens = self.encoder(filterbank, visible=masks.visible).tokens  # (B * M, 1 + K, D)
        masked = masks.masked.flatten(0, 1)  # (B * M, N - K)
        clones, (patches, dim) = masks.masked.shape[1], targets.shape[1:]
        canvas = clip_noise(
            clips, clones * patches, dim, self.config.decoder.noise_std, tokens.dtype, device, seed=seed, epoch=epoch
        )
        predictions = self.decoder(tokens[:, 1:], masks.visible.flatten(0, 1), masked, canvas)  # (B * M, N - K, D)
        rows = masked + torch.arange(len(targets), device=masked.device).repeat_interleave(clones)[:, None] * patches
        compared = (predictions.flatten(0, 1), targets.flatten(0, 1), rows.flatten())
        prediction_deviation, target_deviation = objective.deviations(*compared)
        return PretrainingOutput(
            frame_loss=objective.frame_loss(*compared),
            utterance_loss=objective.utterance_loss(tokens[:, 0], targets),
            prediction_deviation=prediction_deviation,
            target_deviation=target_deviation,
            masked_share=masked.shape[1] / patches,
        )

    def update_teacher(self, update: int, masters: dict[str, Tensor] | None = None) -> float:
        """Move the teacher after optimiser update number ``update`` (from 1); returns the decay used.

        Args:
            update: number of the optimiser update just made.
            masters: float32 student parameters by name, where the optimiser keeps them apart from the model's own.
        """
        student = masters if masters is not None else dict(self.named_parameters())
        prefix = "encoder."
        return self.teacher.update(
            {name[len(prefix) :]: value for name, value in student.items() if name.startswith(prefix)}, update
        )

    def compile_blocks(self) -> None:
        """Compile the Transformer blocks of student and teacher and the decoder's with ``torch.compile``, in place.

        Blocks rather than the whole, because all blocks of a kind then share one compilation. Names in
        ``state_dict`` stay. Shapes are static: every batch is of one size, but perhaps an epoch's last.

        Raises:
            ConfigError: on a CPU where there is no C++ compiler.
        """
        if self.encoder.cls_token.device.type == "cpu" and not torch.cuda.is_available() and not _has_compiler():
            raise ConfigError(
                "model.compile needs a C++ compiler on a CPU, and none was found; install g++, name yours in the "
                "environment variable CXX, or set model.compile=false."
            )
        for module in (*self.encoder.blocks, *self.teacher.encoder.blocks, *self.decoder.blocks):
            module.compile(dynamic=False)

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)
        self.teacher.follow(self.encoder)
        return self

    def _save_to_state_dict(self, destination, prefix, keep_vars):  # type: ignore[no-untyped-def]
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, value in self.teacher.state_dict().items():
            destination[prefix + TEACHER_PREFIX + name] = value

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors):  # type: ignore[no-untyped-def]
        own = self.teacher.state_dict()
        start = prefix + TEACHER_PREFIX
        given = {key[len(start) :]: state_dict.pop(key) for key in list(state_dict) if key.startswith(start)}
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)
        missing += [start + name for name in own if name not in given]
        unexpected += [start + name for name in given if name not in own]
        wrong = [name for name, value in given.items() if name in own and value.shape != own[name].shape]
        errors += [f"size mismatch for {start}{name}" for name in wrong]
        if set(given) == set(own) and not wrong:
            self.teacher.load_state_dict(given)


def _has_compiler() -> bool:
    names = (os.environ.get("CXX"), "g++", "clang++")
    return any(shutil.which(name) for name in names if name)
