"""EAT's pre-training in one place, in the order of the paper: mask, encode, decode, compare with the teacher.

Blocks know nothing of training and losses nothing of blocks; this module knows both. The steps of
:meth:`Pretraining.forward` are methods of their own and take tensors only, so that a variant replaces one of them and
the whole can be compiled.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .acceleration import accelerate
from .compilation import Compiled
from .decoder import DECODERS
from .encoder import Encoder
from .masking import MASKINGS, Drawing, Masks, looks_at_signal
from .objective import TARGETS, TERMS, Comparison, Targets, watch
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
    """(B,) int64: how many of each clip's frames hold audio and are no padding; 0: a hole, which does not count."""
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
        self._compiled: Compiled | None = None
        accelerate(self)
        accelerate(self.teacher.encoder)

    def draw(
        self,
        filterbank: Tensor,
        clips: Sequence[int] | Tensor,
        frames: Tensor | None = None,
        *,
        seed: int,
        epoch: int,
        drawn: tuple[Tensor, Masks] | None = None,
    ) -> Batch:
        """Draw the masks of a batch.

        Args:
            filterbank: (B, 1, frames, mel bins) normalised, frames a multiple of the patch size; any float type.
            clips: B numbers that identify the clips; from them, ``seed`` and ``epoch`` all random numbers follow.
            frames: (B,) how many of each clip's frames hold audio, 0 for a hole that counts for nothing; None: all.
            seed: of the run.
            epoch: of the run.
            drawn: keys and masks that :meth:`drawing` gave already.

        Raises:
            ConfigError: for a length that the encoder cannot have, or masks that leave nothing visible or masked.
        """
        device, length = filterbank.device, filterbank.shape[2]
        if drawn is None:
            keys = clone_keys(seed, epoch, torch.as_tensor(clips, device=device), self.settings.clone_batch)
            drawn = keys, self.masking(self.settings, self.encoder.grid(length), keys, filterbank)
        keys, masks = drawn
        if frames is None:
            frames = torch.full((len(filterbank),), length, device=device)
        return Batch(filterbank.to(self.encoder.cls_token.dtype), frames, masks, keys)

    def drawing(self, frames: int) -> Drawing | None:
        """What draws the masks of clips of so many frames where batches are made; None where they need the signal."""
        return None if looks_at_signal(self.masking) else Drawing(self.settings, self.encoder.grid(frames))

    def forward(self, batch: Batch, terms: Sequence[str] = ("frame", "utterance")) -> Outcome:
        """Compute the terms of the objective that are asked for, and the watched quantities."""
        training = self.training and torch.is_grad_enabled()  # validation's batches are of many sizes
        return (self._compiled or self.compute if training else self.compute)(batch, tuple(terms))

    @property
    def fell_back(self) -> bool:
        """Whether :meth:`compile` was called and then could not compile."""
        return self._compiled is not None and self._compiled.fell_back

    def compute(self, batch: Batch, terms: Sequence[str]) -> Outcome:
        """:meth:`forward`, not compiled: operations on tensors alone."""
        targets = self.teach(batch, terms)
        student = self.study(batch)
        comparison = self.compare(batch, student, targets)
        return Outcome(
            {name: choose(TERMS, name, "the loss term")(comparison) for name in terms},
            watch(comparison),
        )

    @torch.no_grad()
    def teach(self, batch: Batch, terms: Sequence[str] = ()) -> Targets:
        """The teacher's targets for the unmasked clips, by name, in float32; ``terms`` are those that need them."""
        return self.targets(self.teacher.encoder, batch.filterbank)

    def study(self, batch: Batch) -> Student:
        """The student encodes the visible patches of every clone and predicts the masked ones."""
        tokens = self.encoder(batch.filterbank, batch.masks.visible).tokens  # (B * M, 1 + K, D)
        cls, patches = tokens.split([1, tokens.shape[1] - 1], dim=1)  # whose gradients are joined in one copy
        predictions = self.decoder(patches, batch.masks, batch.keys, self.encoder.grid(batch.filterbank.shape[2]))
        return Student(cls.reshape(*batch.keys.shape, -1), predictions)

    def compare(self, batch: Batch, student: Student, targets: Targets) -> Comparison:
        """Lay the student's predictions beside the targets of the patches that they predict."""
        masked = take_rows(targets["frame"], batch.masks.masked.flatten(1))  # (B, M * (N - K), D)
        real = real_patches(batch.frames, self.encoder.grid(batch.filterbank.shape[2]), self.settings.patch_size)
        return Comparison(
            student.predictions.flatten(0, 1), masked.flatten(0, 1), student.cls, targets, batch.masks, real,
            batch.frames > 0,
        )  # fmt: skip

    def update_teacher(self, update: int, masters: dict[str, Tensor] | None = None, bad: Tensor | None = None) -> float:
        """Move the teacher after optimiser update number ``update`` (from 1); returns the decay used.

        Args:
            update: number of the optimiser update just made.
            masters: float32 student parameters by name, where the optimiser keeps them apart from the model's own.
            bad: a number on the device; where it is 1 and not 0 the teacher stays as it is.
        """
        student = masters if masters is not None else dict(self.named_parameters())
        prefix = "encoder."
        return self.teacher.update(
            {name[len(prefix) :]: value for name, value in student.items() if name.startswith(prefix)}, update, bad
        )

    def compile(self, backend: str = "inductor", **options: Any) -> None:  # type: ignore[override]
        """Compile :meth:`compute`, student, teacher, decoder and losses, into one graph with ``torch.compile``.

        Shapes are static, which batches with holes allow. Training alone runs compiled.

        Args:
            backend: of ``torch.compile``.
            options: for ``torch.compile``, such as ``mode``.

        Raises:
            ConfigError: on a CPU where there is no C++ compiler.
        """
        if self.encoder.cls_token.device.type == "cpu" and not torch.cuda.is_available() and not _has_compiler():
            raise ConfigError(
                "model.compile needs a C++ compiler on a CPU, and none was found; install g++, name yours in the "
                "environment variable CXX, or set model.compile=false."
            )
        self._compiled = Compiled(self.compute, self.settings.compile_or_stop, backend=backend, **options)

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
