"""A trained EAT as one object: features and class scores of waveforms at any rate, in batches, on any device."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, Literal, TypedDict, Unpack, cast, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ..audio.recordings import read_audio
from ..audio.resampling import SAMPLE_RATE
from ..checkpoint import Checkpoint, read_checkpoint
from ..checkpoint.classes import check_same, to_id2label
from ..data.labels import label_names, read_descriptors
from ..errors import CheckpointError, ConfigError, DataError
from ..network.acceleration import accelerate
from ..network.classifier import Classifier
from ..network.encoder import Encoder
from ..network.front_end import FrontEnd
from ..network.patches import real_patches
from ..network.settings import ClassifierSettings
from .batches import Batch, Bucketing
from .readouts import READOUTS, summarise
from .sounds import Frames, Path, Score, Sound, as_numpy, files_of, is_pair, is_path

GRANULARITIES = ("all", "frame", *READOUTS)
"""What is extracted: all tokens, the patches, or one vector for the clip."""
ACTIVATIONS = ("sigmoid", "softmax")
BATCH_SIZE = 32
"""Clips of 10 s that go through the network at once, unless another number is asked for."""

Layers = int | Sequence[int] | None
STEPS = ("mean", "rows")
"""What :meth:`EATModel.frames` makes of the frequency patches of a time step: their mean, or all side by side."""


class ExtractOptions(TypedDict, total=False):
    """Options of :meth:`EATModel.extract`, which explains them."""

    layer: Layers
    granularity: str
    lengths: Tensor | Sequence[int] | None
    target_length: int | None
    batch_size: int
    grad: bool


def load(
    path: str | os.PathLike[str],
    *,
    weights: str = "student",
    device: str | torch.device | None = None,
    norm_mean: float | None = None,
    norm_std: float | None = None,
    labels: Path | Sequence[str] | None = None,
) -> EATModel:
    """Load a trained model: a checkpoint of ours, a published fairseq one, or a Hugging Face folder or file.

    Content tells them apart; nothing in the file is executed.

    Args:
        path: the checkpoint, or a name that is fetched (:mod:`EAT.checkpoint.hub`).
        weights: of a pre-trained checkpoint, the ``student``'s encoder or the moving-average ``teacher``'s.
        device: where the model goes; None keeps it on the CPU.
        norm_mean: mean of the filterbank, where it should not be what the checkpoint says (AudioSet's where it says
            nothing).
        norm_std: its standard deviation.
        labels: names of the classes in order, or a file of label descriptors that has them; None takes what the
            checkpoint says, which may be nothing.

    Returns:
        The model in eval mode, in float32.

    Raises:
        CheckpointError: where the checkpoint cannot be read or fetched, holds no teacher that was asked for, or has
            other classes than the label descriptors.
        ConfigError: for normalisation that cannot work, or labels that are not as many as the classes.
        DataError: for label descriptors that cannot be read.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ConfigError(f"a checkpoint is given by its path, not as {_told(path)}.")
    model = EATModel(read_checkpoint(path, weights))
    if labels is not None:
        if isinstance(labels, (str, os.PathLike)):
            given = read_descriptors(labels)
            check_same(model.classes, given, model.num_classes or 0, os.fspath(path), os.fspath(labels))
            model.classes = tuple(given)
        else:
            model.labels = labels
    if norm_mean is not None or norm_std is not None:
        if "norm_mean" not in model.front_end.settings():
            raise ConfigError(
                f"the model's spectrogram={model.front_end.name} normalises each clip by itself; leave out mean and "
                "standard deviation."
            )
        mean = model.front_end.norm_mean if norm_mean is None else norm_mean
        std = model.front_end.norm_std if norm_std is None else norm_std
        model.front_end = replace(model.front_end, norm_mean=mean, norm_std=std)
    return model.eval() if device is None else model.eval().to(device)


def check_model(model: Any) -> None:
    """Raise ConfigError for what is no model, such as the path of one."""
    if not isinstance(model, EATModel):
        raise ConfigError(f"a model is expected, not {_told(model)}; EAT.load(path) opens one.")


def _told(value: Any) -> str:
    """A value that should be another, short enough for a sentence."""
    shown = isinstance(value, (str, bytes, int, float, os.PathLike)) or value is None
    return f"{str(value)[:80]!r}" if shown else f"a {type(value).__name__}"


def _no_samples(value: Any) -> DataError:
    return DataError(
        f"{_told(value)} holds no samples; give a waveform as numbers, as EAT.audio.recordings.read_audio(path) or "
        "soundfile reads it."
    )


def _samples(waveform: Any) -> Tensor:
    """As a tensor. Raises DataError for what holds no real numbers."""
    try:
        values = torch.as_tensor(waveform)
    except (TypeError, ValueError, RuntimeError):
        raise _no_samples(waveform) from None
    if values.is_complex() or values.dtype == torch.bool:
        raise _no_samples(waveform)
    return values


class EATModel(nn.Module):
    """An encoder with its front end and, where it was fine-tuned, its classification head.

    An ordinary module: ``.to(device)``, ``.half()``, ``.bfloat16()``, ``.compile()`` and training it further all work.
    The filterbank is always computed in float32.

    Args:
        checkpoint: what :func:`EAT.checkpoint.read_checkpoint` returns.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        if not isinstance(checkpoint, Checkpoint):
            raise ConfigError(f"EATModel is made from a checkpoint, not from {_told(checkpoint)}; use EAT.load(path).")
        self.front_end = checkpoint.front_end or FrontEnd(1024)
        self.activation = checkpoint.activation or "sigmoid"
        self.classes = checkpoint.classes
        """What a fine-tuned model's classes are called, where its checkpoint says so."""
        self.network: Encoder | Classifier
        with torch.device("meta"):  # no random numbers are drawn only to be overwritten
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

    @overload
    def extract(
        self,
        waveforms: Sound,
        sample_rate: int = SAMPLE_RATE,
        *,
        numpy: Literal[False] = False,
        **options: Unpack[ExtractOptions],
    ) -> Tensor: ...

    @overload
    def extract(
        self,
        waveforms: list[Any],
        sample_rate: int = SAMPLE_RATE,
        *,
        numpy: Literal[False] = False,
        **options: Unpack[ExtractOptions],
    ) -> list[Tensor]: ...

    @overload
    def extract(
        self,
        waveforms: Sound,
        sample_rate: int = SAMPLE_RATE,
        *,
        numpy: Literal[True],
        **options: Unpack[ExtractOptions],
    ) -> NDArray[np.float32]: ...

    @overload
    def extract(
        self,
        waveforms: list[Any],
        sample_rate: int = SAMPLE_RATE,
        *,
        numpy: Literal[True],
        **options: Unpack[ExtractOptions],
    ) -> list[NDArray[np.float32]]: ...

    def extract(
        self,
        waveforms: Sound | Sequence[Sound],
        sample_rate: int = SAMPLE_RATE,
        *,
        layer: Layers = None,
        granularity: str = "all",
        lengths: Tensor | Sequence[int] | None = None,
        target_length: int | None = None,
        batch_size: int = BATCH_SIZE,
        grad: bool = False,
        numpy: bool = False,
    ) -> Tensor | list[Tensor] | NDArray[np.float32] | list[NDArray[np.float32]]:
        """Features of sounds.

        A clip's features do not depend on what else is in the batch: each is padded to its own length rounded up to
        a multiple of 16 frames (or to ``target_length``), and only clips of equal padded length are computed
        together.

        Args:
            waveforms: one clip (samples,), a batch (B, samples) of mono clips, or (B, channels, samples); or a list of
                clips of any lengths, each (samples,) or (channels, samples). Tensors or arrays, float in [-1, 1] or
                integers at full scale, on any device. Channels are averaged. Or the path of a recording of any format
                and length, or ``(waveform, rate)`` of one clip; or a list of either.
            sample_rate: in Hz, of waveforms that come without; anything but the model's is resampled.
            layer: 0 for the input to the first block, 1 to depth for a block's output, negative from the end; several
                for a stack. None is the last block.
            granularity: ``all``: CLS, then the patches; ``frame``: the patches (time-major: 8 frequency patches every
                160 ms); or one vector for the clip, by a name of :data:`EAT.inference.readouts.READOUTS`:
                ``utterance``: CLS; ``mean``, ``rows``, ``rows_max``: of the patches that hold audio.
            lengths: (B,) samples of each clip of a padded batch, at ``sample_rate``; None means that all fill the row.
            target_length: frames of 10 ms that every clip is padded or cut to; None keeps each clip's own length.
            batch_size: clips of 10 s that are computed at once; of shorter ones more, of longer ones fewer.
            grad: whether gradients flow, to the weights and to the waveforms; what is kept for them takes memory.
            numpy: give float32 arrays instead of tensors.

        Returns:
            For one clip ``all`` (1 + N, D), ``frame`` (N, D), ``utterance`` and ``mean`` (D), ``rows`` (F D),
            ``rows_max`` (2 F D); for a batch the same with B in front, where clips that are shorter than the longest
            end in rows of zeros (:func:`patch_count` says how many are real); for a list a list. Several layers come
            as one more axis, L, before those. Of recordings on the CPU; those that are longer than two minutes go
            window by window, as :func:`EAT.inference.windows.write_recording` says.

        Raises:
            ConfigError: for a layer, granularity or length that does not exist, or gradients through recordings.
            DataError: for a clip that is empty, a waveform that is longer than two minutes, or a recording that cannot
                be read.
        """
        self.layer_numbers(layer)
        if granularity not in GRANULARITIES:
            raise ConfigError(f"granularity is {granularity!r}; it must be one of {', '.join(GRANULARITIES)}.")
        features: Tensor | list[Tensor]
        if (files := files_of(waveforms)) is not None:
            if grad or lengths is not None:
                raise ConfigError("gradients and lengths belong to waveforms; read the recordings first.")
            from .extraction import ExtractionOptions, extract_to_memory  # which opens models

            options = ExtractionOptions(layer, granularity, target_length, self.encoder.max_frames)
            found = extract_to_memory(self, files, replace(options, batch_size=batch_size))
            features = found[0] if is_path(waveforms) else found
        else:
            features = self._extract(
                waveforms, sample_rate, layer, granularity, lengths, target_length, batch_size, grad
            )
        if not numpy:
            return features
        return [as_numpy(clip) for clip in features] if isinstance(features, list) else as_numpy(features)

    def _extract(
        self,
        waveforms: Sound | Sequence[Sound],
        sample_rate: int,
        layer: Layers,
        granularity: str,
        lengths: Tensor | Sequence[int] | None,
        target_length: int | None,
        batch_size: int,
        grad: bool,
    ) -> Tensor | list[Tensor]:
        """:meth:`extract` of waveforms."""
        layers = self.layer_numbers(layer)
        clips, is_list, is_single = self._clips(waveforms, sample_rate, lengths)
        # The last block alone needs no stack.
        only_last = layers == (self.encoder.settings.depth,)
        squeeze = layer is None or isinstance(layer, int)

        def compute(filterbank: Tensor, frames: Tensor) -> Tensor:
            only_cls = granularity == "utterance"
            tokens = self(filterbank, None if only_last else layers, only_cls=only_cls)  # (B, L, 1 + N, D)
            tokens = tokens.unsqueeze(1) if only_last else tokens
            tokens = tokens.squeeze(1) if squeeze else tokens
            if granularity not in READOUTS or only_cls:
                return {"all": tokens, "frame": tokens[..., 1:, :], "utterance": tokens[..., 0, :]}[granularity]
            real = real_patches(frames, self.encoder.grid(filterbank.shape[2]), self.patch_size)
            return summarise(tokens, self.frequency_patches, real).read(granularity).to(tokens.dtype)

        features = self._by_length(clips, target_length, compute, batch_size, grad)
        if is_list:
            return features
        if is_single:
            return features[0]
        if len({len(clip) for clip in clips}) > 1 and granularity not in READOUTS:
            # (..., rows, D) padded along rows
            rows = pad_sequence([f.movedim(-2, 0) for f in features], batch_first=True)
            return rows.movedim(1, -2)
        return torch.stack(features)

    def frames(
        self,
        waveforms: Sound | Sequence[Sound],
        sample_rate: int = SAMPLE_RATE,
        *,
        layer: Layers = None,
        readout: str = "mean",
        batch_size: int = BATCH_SIZE,
        numpy: bool = False,
    ) -> Frames | list[Frames]:
        """Embeddings with their times: one for each time step of patches (160 ms), for what happens when.

        Args:
            waveforms: as in :meth:`extract`.
            sample_rate: as in :meth:`extract`.
            layer: as in :meth:`extract`.
            readout: ``mean`` of the step's F frequency patches, (T, D), or ``rows``: all of them side by side from low
                to high, (T, F D).
            batch_size: as in :meth:`extract`.
            numpy: give float32 arrays instead of tensors.

        Returns:
            For a clip (or a batch, with B in front of its embeddings) its frames, for a list a list.

        Raises:
            ConfigError: for a layer or readout that does not exist.
            DataError: as :meth:`extract`.
        """
        if readout not in STEPS:
            raise ConfigError(f"readout is {readout!r}; it must be one of {', '.join(STEPS)}.")
        options = ExtractOptions(layer=layer, granularity="frame", batch_size=batch_size)
        features: Tensor | list[Tensor] = self.extract(cast(Any, waveforms), sample_rate, **options)

        def timed(patches: Tensor) -> Frames:
            steps = patches.unflatten(-2, (-1, self.frequency_patches))  # (..., T, F, D)
            embeddings = steps.mean(dim=-2) if readout == "mean" else steps.flatten(-2)
            start = torch.arange(embeddings.shape[-2], dtype=torch.float64) * self.patch_seconds
            end = start + self.patch_seconds
            if numpy:
                return Frames(as_numpy(embeddings), as_numpy(start), as_numpy(end), self.patch_seconds)
            return Frames(embeddings, start.float(), end.float(), self.patch_seconds)

        return [timed(clip) for clip in features] if isinstance(features, list) else timed(features)

    def predict(
        self,
        waveforms: Sound | Sequence[Sound],
        sample_rate: int = SAMPLE_RATE,
        *,
        top_k: int | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> list[Score] | list[list[Score]]:
        """Classes by name, best first. Of a clip that is longer than the model hears at once, the mean over windows.

        Args:
            waveforms: as in :meth:`extract`.
            sample_rate: as in :meth:`extract`.
            top_k: how many classes; None gives all.
            batch_size: as in :meth:`extract`.

        Returns:
            For a clip its scores, ``(label, score)`` each; for a batch or a list a list of those. ``dict(...)`` of one
            maps labels to scores.

        Raises:
            CheckpointError: for a model that was not fine-tuned, or whose classes have no names.
            DataError: as :meth:`extract`.
        """
        from .prediction import best, score_files, score_waveforms  # which open models

        labels = self.labels
        if labels is None and self.num_classes is not None:
            raise CheckpointError(
                "this checkpoint does not say what its classes are called; give EAT.load(..., "
                "labels='label_descriptors.csv'), or set model.labels."
            )
        if (files := files_of(waveforms)) is not None:
            rows, is_single = score_files(self, files, batch_size), is_path(waveforms)
        else:
            clips, _, is_single = self._clips(waveforms, sample_rate, None)
            rows = score_waveforms(self, clips, batch_size)
        assert labels is not None, "a model without classes has no scores"
        count = len(labels) if top_k is None else top_k
        named = [[Score(labels[index], float(row[index])) for index in best(row, count)] for row in rows]
        return named[0] if is_single else named

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
            waveforms: as in :meth:`extract`.
            sample_rate: in Hz.
            lengths: as in :meth:`extract`.
            target_length: frames that clips are padded or cut to instead.
            batch_size: as in :meth:`extract`.
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
        logits = torch.stack(
            self._by_length(clips, length, lambda filterbank, _: network(filterbank), batch_size, grad)
        )
        return logits[0] if is_single else logits

    def scores(self, waveforms: Sound | Sequence[Sound], sample_rate: int = SAMPLE_RATE, **options: Any) -> Tensor:
        """:meth:`logits` as probabilities in float32: sigmoids, or a softmax for a model of exclusive classes."""
        logits = self.logits(waveforms, sample_rate, **{"grad": False, **options}).float()
        return logits.softmax(dim=-1) if self.activation == "softmax" else logits.sigmoid()

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
                raise _no_samples(waveforms)
            clips = [self._mono(clip, sample_rate) for clip in cast(Sequence[Sound], waveforms)]
            self._check_clips(clips)
            return clips, True, False
        batch = _samples(waveforms)
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
        if not isinstance(rate, Integral) or rate < 1:
            raise ConfigError(f"sample_rate is {rate!r}; it must be a whole number of Hz, 1 at least.")
        values = _samples(waveform).to(self.device)
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
