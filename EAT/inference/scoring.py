"""What a fine-tuned model makes of waveforms: logits and scores of a clip's classes, or of every time step's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..audio.resampling import SAMPLE_RATE
from ..errors import CheckpointError
from ..network.classifier import Classifier
from ..network.patches import real_patches
from ..network.settings import STEPS
from .loaded import LoadedModel
from .sounds import Frames, Sound

BATCH_SIZE = 32
"""Clips of 10 s that go through the network at once, unless another number is asked for."""


class ScoringModel(LoadedModel):
    """A loaded model with the scores of its classes."""

    def logits(
        self,
        waveforms: Sound | Sequence[Sound],
        sample_rate: int = SAMPLE_RATE,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        target_length: int | None = None,
        batch_size: int = BATCH_SIZE,
        grad: bool = True,
    ) -> Tensor:
        """Class logits of waveforms, each clip padded or cut to the length that the model was trained with.

        Gradients flow, so that the model can be trained further.

        Args:
            waveforms: as in :meth:`EAT.EATModel.extract`.
            sample_rate: in Hz.
            lengths: as in :meth:`EAT.EATModel.extract`.
            target_length: frames that clips are padded or cut to instead.
            batch_size: as in :meth:`EAT.EATModel.extract`.
            grad: whether gradients flow.

        Returns:
            (B, classes); for one clip (classes,).

        Raises:
            CheckpointError: for a model that was not fine-tuned.
            DataError: for an empty clip.
        """
        network = self.network
        if not isinstance(network, Classifier):
            raise CheckpointError(
                "this model was pre-trained, not fine-tuned, and knows no classes; load a classifier."
            )
        clips, _, is_single = self._clips(waveforms, sample_rate, lengths)
        length = target_length or self.front_end.target_length

        def compute(filterbank: Tensor, frames: Tensor) -> Tensor:
            if network.settings.pooling != STEPS:
                return network(filterbank)
            real = real_patches(frames, self.encoder.grid(filterbank.shape[2]), self.patch_size)
            return network.loudest(network.frames(filterbank), pad(real, (1, 0), value=True))

        logits = torch.stack(self._by_length(clips, length, compute, batch_size, grad))
        return logits[0] if is_single else logits

    def step_scores(
        self, waveforms: Sound | Sequence[Sound], sample_rate: int = SAMPLE_RATE, *, batch_size: int = BATCH_SIZE
    ) -> Frames | list[Frames]:
        """Scores of every time step, for what happens when: of a classifier of time steps (``model.pooling=steps``).

        Args:
            waveforms: as in :meth:`EAT.EATModel.extract`; each is as long as it is, up to what positions reach.
            sample_rate: as in :meth:`EAT.EATModel.extract`.
            batch_size: as in :meth:`EAT.EATModel.extract`.

        Returns:
            As :meth:`EAT.EATModel.frames`, with probabilities (T, classes) in place of embeddings; T are the steps that
            begin with audio. For a clip one, for a batch or a list a list.

        Raises:
            CheckpointError: for a model that is none of time steps.
            DataError: as :meth:`EAT.EATModel.extract`.
        """
        network = self.network
        if not isinstance(network, Classifier) or network.settings.pooling != STEPS:
            raise CheckpointError(
                "this model does not classify time steps; fine-tune one with task.labels=events model.pooling=steps."
            )
        clips, _, is_single = self._clips(waveforms, sample_rate, None)
        found = self._by_length(clips, None, lambda filterbank, _: network.frames(filterbank), batch_size, False)
        timed = []
        for clip, logits in zip(clips, found, strict=True):
            frames = int(self.front_end.real_frames(torch.tensor([len(clip)]), limit=self.padded_frames(len(clip)))[0])
            scores = logits[: -(-frames // self.patch_size)].float().sigmoid()
            start = torch.arange(len(scores), dtype=torch.float64) * self.patch_seconds
            timed.append(Frames(scores, start.float(), (start + self.patch_seconds).float(), self.patch_seconds))
        return timed[0] if is_single else timed

    def scores(self, waveforms: Sound | Sequence[Sound], sample_rate: int = SAMPLE_RATE, **options: Any) -> Tensor:
        """:meth:`logits` as probabilities in float32: sigmoids, or a softmax for a model of exclusive classes."""
        logits = self.logits(waveforms, sample_rate, **{"grad": False, **options}).float()
        return logits.softmax(dim=-1) if self.activation == "softmax" else logits.sigmoid()
