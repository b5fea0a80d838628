"""EAT's pre-training in one place, in the order of the paper: mask, encode, decode, compare with the teacher.

Blocks know nothing of training and losses nothing of blocks; this module knows both. The steps of
:meth:`Pretraining.forward` are methods of their own and take tensors only, so that a variant replaces one of them and
the whole can be compiled.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .acceleration import accelerate
from .decoder import DECODERS
from .encoder import Encoder
from .masking import MASKINGS, Masks
from .objective import TARGETS, TERMS, WATCHED, Comparison, Targets
from .patches import real_patches
from .random import clone_keys
from .rows import take_rows
from .settings import PretrainingSettings, choose
from .teacher import Teacher

TEACHER_PREFIX = "teacher."


class Batch(NamedTuple):
    """What a step of pre-training sees: tensors on one device."""

    filterbank: Tensor
    """(B, 1, frames, mel bins) normalised, in the student's precision."""
    frames: Tensor
    """(B,) int64: how many of each clip's frames hold audio; the others are padding."""
    masks: Masks
    """Visible and masked patches of each clip's M clones."""
    keys: Tensor
    """(B, M) int32: what random numbers of a clone follow from."""
    mixed: Tensor | None = None
    """(C,) int64: the columns in which the batch's second half are mixtures; None where it has no mixtures."""


class Student(NamedTuple):
    """What the student made of a batch."""

    cls: Tensor
    """(B, M, D)"""
    predictions: Tensor
    """(B * M, N - K, D), at the masked patches."""


class Outcome(NamedTuple):
    """The objective's terms, unweighted, and what one watches beside them; all on the device."""

    terms: dict[str, Tensor]
    """Scalars, by the names of :data:`EAT.network.objective.TERMS`."""
    watched: dict[str, Tensor]
    """Sums, by the names of :data:`EAT.network.objective.WATCHED`."""


class Pretraining(nn.Module):
    """Student encoder, decoder and moving-average teacher.

    In ``state_dict`` the teacher appears as ``teacher.*``, always float32; it is neither a parameter nor a submodule.
    """

    def __init__(self, settings: PretrainingSettings) -> None:
        super().__init__()
        self.settings = settings
        self.masking = choose(MASKINGS, settings.masking, "model.masking")
        self.encoder = Encoder(settings)
        self.decoder = choose(DECODERS, settings.decoder, "model.decoder")(settings)
        self.targets = choose(TARGETS, settings.targets, "model.targets")(settings)
        self.teacher = Teacher(self.encoder, settings)
        accelerate(self)
        accelerate(self.teacher.encoder)

    def draw(
        self, filterbank: Tensor, clips: Sequence[int], frames: Tensor | None = None, *, seed: int, epoch: int
    ) -> Batch:
        """Draw the masks of a batch.

        Args:
            filterbank: (B, 1, frames, mel bins) normalised, frames a multiple of the patch size; any float type.
            clips: B numbers that identify the clips; from them, ``seed`` and ``epoch`` all random numbers follow.
            frames: (B,) how many of each clip's frames hold audio; None: all.
            seed: of the run.
            epoch: of the run.

        Raises:
            ConfigError: for a length that the encoder cannot have, or masks that leave nothing visible or masked.
        """
        device, length = filterbank.device, filterbank.shape[2]
        keys = clone_keys(seed, epoch, torch.tensor(clips, device=device), self.settings.clone_batch)
        masks = self.masking(self.settings, self.encoder.grid(length), keys, filterbank)
        if frames is None:
            frames = torch.full((len(filterbank),), length, device=device)
        return Batch(filterbank.to(self.encoder.cls_token.dtype), frames, masks, keys)

    def forward(self, batch: Batch, terms: Sequence[str] = ("frame", "utterance")) -> Outcome:
        """Compute the terms of the objective that are asked for, and the watched quantities."""
        targets = self.teach(batch, terms)
        student = self.study(batch)
        comparison = self.compare(batch, student, targets)
        return Outcome(
            {name: choose(TERMS, name, "the loss term")(comparison) for name in terms},
            {name: watched.sums(comparison) for name, watched in WATCHED.items()},
        )

    @torch.no_grad()
    def teach(self, batch: Batch, terms: Sequence[str] = ()) -> Targets:
        """The teacher's targets for the unmasked clips, by name, in float32; ``terms`` are those that need them."""
        return self.targets(self.teacher.encoder, batch.filterbank)

    def study(self, batch: Batch) -> Student:
        """The student encodes the visible patches of every clone and predicts the masked ones."""
        tokens = self.encoder(batch.filterbank, batch.masks.visible).tokens  # (B * M, 1 + K, D)
        grid = self.encoder.grid(batch.filterbank.shape[2])
        predictions = self.decoder(tokens[:, 1:], batch.masks, batch.keys, grid)
        return Student(tokens[:, 0].view(*batch.keys.shape, -1), predictions)

    def compare(self, batch: Batch, student: Student, targets: Targets) -> Comparison:
        """Lay the student's predictions beside the targets of the patches that they predict."""
        masked = take_rows(targets["frame"], batch.masks.masked.flatten(1))  # (B, M * (N - K), D)
        real = real_patches(batch.frames, self.encoder.grid(batch.filterbank.shape[2]), self.settings.patch_size)
        return Comparison(
            student.predictions.flatten(0, 1), masked.flatten(0, 1), student.cls, targets, batch.masks, real
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
        for module in (*self.encoder.blocks, *self.teacher.encoder.blocks, *getattr(self.decoder, "blocks", ())):
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
