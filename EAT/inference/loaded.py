"""A checkpoint's network with its front end: what it is, and how sounds of any kind and length go through it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ..audio.recordings import read_audio
from ..audio.resampling import check_rate
from ..checkpoint import Checkpoint
from ..checkpoint.classes import to_id2label
from ..data.labels import label_names
from ..errors import ConfigError, DataError
from ..network.acceleration import accelerate
from ..network.classifier import Classifier
from ..network.encoder import Encoder
from ..network.front_end import FrontEnd
from ..network.settings import ClassifierSettings
from ..network.unfilled import unfilled
from .batches import Batch, Bucketing
from .sounds import Sound, as_samples, is_pair, is_path, no_samples, told

Layers = int | Sequence[int] | None


class LoadedModel(nn.Module):
    """The network of a checkpoint with its front end, and how batches go through it.

    Args:
        checkpoint: what :func:`EAT.checkpoint.read_checkpoint` returns.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        if not isinstance(checkpoint, Checkpoint):
            raise ConfigError(f"EATModel is made from a checkpoint, not from {told(checkpoint)}; use EAT.load(path).")
        self.front_end = checkpoint.front_end or FrontEnd(1024)
        self.activation = checkpoint.activation or "sigmoid"
        self.classes = checkpoint.classes
        """What a fine-tuned model's classes are called, where its checkpoint says so."""
        self.network: Encoder | Classifier
        with unfilled():
            if isinstance(checkpoint.settings, ClassifierSettings):
                self.network = Classifier(checkpoint.settings)
            else:
                self.network = Encoder(checkpoint.settings)
                accelerate(self.network)
        state = checkpoint.encoder
        if checkpoint.head is not None:
            state = {**{f"encoder.{name}": value for name, value in state.items()}, **checkpoint.head}
        self.network.load_state_dict(state, assign=True)

    @property
    def encoder(self) -> Encoder:
        """The encoder."""
        return self.network.encoder if isinstance(self.network, Classifier) else self.network

    @property
    def num_classes(self) -> int | None:
        """Classes of a fine-tuned model; None for a pre-trained one."""
        return self.network.settings.num_classes if isinstance(self.network, Classifier) else None

    @property
    def labels(self) -> tuple[str, ...] | None:
        """What people call the classes, in the order of scores; None where the checkpoint does not say so.

        May be set. Raises ConfigError for names that are not as many as the classes.
        """
        return None if self.classes is None else tuple(to_id2label(self.classes)["id2label"].values())

    @labels.setter
    def labels(self, labels: Sequence[str]) -> None:
        if len(labels) != (self.num_classes or 0):
            raise ConfigError(f"{len(labels)} labels are given, but the model has {self.num_classes or 'no'} classes.")
        self.classes = tuple(label_names(labels))

    @property
    def sample_rate(self) -> int:
        """What the model hears, in Hz; other rates are resampled to it."""
        return self.front_end.sample_rate

    @property
    def embed_dim(self) -> int:
        """Width of an embedding (D)."""
        return self.encoder.settings.embed_dim

    @property
    def depth(self) -> int:
        """Blocks."""
        return self.encoder.settings.depth

    @property
    def layers(self) -> tuple[int, ...]:
        """What ``layer`` may be: 0, the input to the first block, to ``depth``, the last block's output."""
        return tuple(range(self.depth + 1))

    @property
    def patch_seconds(self) -> float:
        """Seconds from one time step of patches to the next."""
        return self.seconds(self.patch_size)

    @property
    def patch_size(self) -> int:
        """Side of a patch, in frames and mel bins."""
        return self.encoder.settings.patch_size

    @property
    def frequency_patches(self) -> int:
        """Patches of one time step."""
        return self.encoder.settings.mel_bins // self.patch_size

    def padded_frames(self, samples: int) -> int:
        """Frames of a clip of that many samples at the front end's rate, rounded up to whole patches."""
        return -(-self.front_end.frames(samples) // self.patch_size) * self.patch_size

    def patch_count(self, samples: int) -> int:
        """Patches (N) of a clip of that many samples at the front end's rate."""
        return self.padded_frames(samples) // self.patch_size * self.frequency_patches

    def seconds(self, frames: int) -> float:
        """How long so many frames last."""
        return frames * self.front_end.hop / self.front_end.sample_rate

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.encoder.cls_token.device

    def layer_numbers(self, layer: Layers) -> tuple[int, ...]:
        """Layers as numbers from 0 to depth. Raises ConfigError for one that does not exist.

        0 is the input to the first block (patches, positions and CLS after the first LayerNorm); 1 to depth are the
        blocks' outputs; negative numbers count from the end, -1 being the last block; None is the last block.
        """
        depth = self.encoder.settings.depth
        wanted = (depth,) if layer is None else (layer,) if isinstance(layer, int) else tuple(layer)
        if not wanted:
            raise ConfigError("no layer is asked for; give at least one.")
        for number in wanted:
            if not -depth - 1 <= number <= depth:
                raise ConfigError(
                    f"layer {number} does not exist; this model has 0 (the blocks' input) to {depth} (the last block), "
                    f"or -1 to {-depth - 1} from the end."
                )
        return tuple(number % (depth + 1) for number in wanted)

    def forward(
        self,
        filterbank: Tensor,
        layers: tuple[int, ...] | None = None,
        key_mask: Tensor | None = None,
        only_cls: bool = False,
    ) -> Tensor:
        """Encode normalised filterbanks; blocks after the last layer that is wanted do not run.

        Args:
            filterbank: (B, 1, frames, 128), frames a multiple of 16, from :class:`EAT.network.front_end.FrontEnd`.
            layers: layers from 0 to depth, stacked; None gives the last block's output alone.
            key_mask: (B, 1 + N), True at CLS and at patches that may be attended to; None means all.
            only_cls: give the CLS token alone, which spares most of the last block's work.

        Returns:
            (B, 1 + N, D), CLS first; with ``layers`` (B, L, 1 + N, D). In the model's precision. 1 + N is 1 with
            ``only_cls``.
        """
        filterbank = filterbank.to(self.encoder.cls_token.dtype)
        if layers is None:
            return self.encoder(filterbank, key_mask=key_mask, cls_only=only_cls).tokens
        outputs = self.encoder(filterbank, key_mask=key_mask, collect=True, depth=max(layers), cls_only=only_cls).blocks
        return torch.stack([outputs[number][:, :1] if only_cls else outputs[number] for number in layers], dim=1)

    def _clips(
        self, waveforms: Sound | Sequence[Sound], sample_rate: int, lengths: Tensor | Sequence[int] | None
    ) -> tuple[list[Tensor], bool, bool]:
        """Mono clips at the model's rate on its device; whether a list was given; whether a single clip."""
        if is_path(waveforms) or is_pair(waveforms):
            clips = [self._mono(cast(Sound, waveforms), sample_rate)]
            self._check_clips(clips)
            return clips, False, True
        if not isinstance(waveforms, (Tensor, np.ndarray)):
            if isinstance(waveforms, bytes) or not isinstance(waveforms, Iterable):
                raise no_samples(waveforms)
            clips = [self._mono(clip, sample_rate) for clip in cast(Sequence[Sound], waveforms)]
            self._check_clips(clips)
            return clips, True, False
        batch = as_samples(waveforms)
        if batch.ndim not in (1, 2, 3):
            raise DataError(
                f"waveforms have shape {tuple(batch.shape)}; give (samples,), (B, samples), (B, channels, samples) or "
                "a list of clips."
            )
        if batch.ndim == 2:
            if len(batch) > batch.shape[1]:
                raise DataError(
                    f"waveforms have shape {tuple(batch.shape)}, which as (clips, samples) are more clips than "
                    "samples; for the samples and channels of one clip give waveform.T[None], else a list of clips."
                )
            batch = batch.unsqueeze(1)
        if lengths is None or batch.ndim == 1:
            mono = self._mono(batch, sample_rate)  # (samples,) or (B, samples)
            clips = [mono] if batch.ndim == 1 else list(mono)
        else:
            clips = [self._mono(row[..., : int(n)], sample_rate) for row, n in zip(batch, lengths, strict=True)]
        self._check_clips(clips)
        return clips, False, batch.ndim == 1

    def _mono(self, sound: Sound, sample_rate: int) -> Tensor:
        """(..., channels, samples) or (samples,) to float32 (..., samples) at the front end's rate, on its device."""
        if isinstance(sound, (str, os.PathLike)):
            return read_audio(os.fspath(sound), **self.front_end.reading()).to(self.device)
        waveform, rate = sound if isinstance(sound, tuple) else (sound, sample_rate)
        check_rate(rate)
        values = as_samples(waveform).to(self.device)
        if not values.is_floating_point():
            values = values.float() / (torch.iinfo(values.dtype).max + 1)
        values = values.float()
        mono = values if values.ndim == 1 else values.mean(dim=-2)
        return self.front_end.resampler.resample(mono, int(rate), self.front_end.sample_rate)

    @staticmethod
    def _check_clips(clips: Sequence[Tensor]) -> None:
        if not clips:
            raise DataError("there is no clip to compute anything of.")
        for number, clip in enumerate(clips):
            if clip.ndim != 1 or not len(clip):
                raise DataError(f"clip {number} has shape {tuple(clip.shape)}; it must be mono and hold samples.")

    def _by_length(
        self,
        clips: Sequence[Tensor],
        target_length: int | None,
        compute: Callable[[Tensor, Tensor], Tensor],
        batch_size: int,
        grad: bool,
    ) -> list[Tensor]:
        """Apply ``compute`` to filterbanks of clips of equal padded length and to how many frames of each hold audio,
        in batches; results in the given order.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it must be at least 1.")
        bucketing: Bucketing[int] = Bucketing(batch_size)
        batches: list[Batch[int]] = []
        for index, clip in enumerate(clips):
            frames = self.padded_frames(len(clip)) if target_length is None else target_length
            if target_length is None and frames > self.encoder.max_frames:
                raise DataError(
                    f"clip {index} lasts {len(clip) / self.front_end.sample_rate:.0f} s, more than the "
                    f"{self.seconds(self.encoder.max_frames):.0f} s that positions reach; use "
                    "EAT.inference.windows.extract_recording, or set target_length."
                )
            batches += bucketing.add(index, frames)
        results: dict[int, Tensor] = {}
        for frames, members in [*batches, *bucketing.rest()]:
            self.encoder.grid(frames, "target_length")
            front_end = replace(self.front_end, target_length=frames)
            # Not in inference mode, whose tensors a probe on top could not be trained on.
            with contextlib.nullcontext() if grad else torch.no_grad():
                lengths = torch.tensor([len(clips[i]) for i in members], device=self.device)
                computed = compute(
                    self._filterbank([clips[i] for i in members], front_end), front_end.real_frames(lengths)
                )
            results.update(zip(members, computed, strict=True))
        return [results[index] for index in range(len(clips))]

    @staticmethod
    def _filterbank(clips: Sequence[Tensor], front_end: FrontEnd) -> Tensor:
        clips = [clip[: front_end.samples] for clip in clips]
        if len({len(clip) for clip in clips}) == 1:
            return front_end(torch.stack(list(clips)))
        lengths = torch.tensor([len(clip) for clip in clips], device=clips[0].device)
        return front_end(pad_sequence(list(clips), batch_first=True), lengths)
