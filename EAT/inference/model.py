"""A trained EAT as one object: features and class scores of waveforms at any rate, in batches, on any device."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypedDict, Unpack, cast, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..audio.resampling import SAMPLE_RATE
from ..checkpoint import read_checkpoint
from ..checkpoint.classes import check_same
from ..data.labels import read_descriptors
from ..errors import CheckpointError, ConfigError
from ..network.patches import real_patches
from .devices import usable_device
from .loaded import Layers
from .readouts import READOUTS, summarise
from .scoring import BATCH_SIZE, ScoringModel
from .sounds import Frames, Path, Score, Sound, as_numpy, files_of, is_path, told

GRANULARITIES = ("all", "frame", *READOUTS)
"""All that ``granularity`` may be, as :meth:`EAT.EATModel.extract` says."""
ACTIVATIONS = ("sigmoid", "softmax")
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
        ConfigError: for normalisation that cannot work, labels that are not as many as the classes, or a device that
            cannot be used or was never tried.
        DataError: for label descriptors that cannot be read.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ConfigError(f"a checkpoint is given by its path, not as {told(path)}.")
    where = None if device is None else usable_device(device)
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
    return model.eval() if where is None else model.eval().to(where)


def check_model(model: Any) -> None:
    """Raise ConfigError for what is no model, such as the path of one."""
    if not isinstance(model, EATModel):
        raise ConfigError(f"a model is expected, not {told(model)}; EAT.load(path) opens one.")


class EATModel(ScoringModel):
    """An encoder with its front end and, where it was fine-tuned, its classification head.

    An ordinary module: ``.to(device)``, ``.half()``, ``.bfloat16()``, ``.compile()`` and training it further all work.
    The filterbank is always computed in float32.

    Args:
        checkpoint: what :func:`EAT.checkpoint.read_checkpoint` returns.
    """

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
