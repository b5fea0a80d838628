"""A scikit-learn transformer: recordings in, vectors out, for pipelines and searches over readouts and layers."""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..audio.resampling import SAMPLE_RATE
from ..errors import ConfigError, DataError
from ..inference.batches import Batch
from ..inference.decoding import by_length, decode_ahead
from ..inference.model import BATCH_SIZE, EATModel, load
from ..inference.readouts import READOUTS, width
from ..inference.sources import Source
from ..inference.windows import extract_recording
from ..network.settings import choose

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.utils.validation import check_array, check_is_fitted
except ImportError:
    raise ConfigError("this interface needs scikit-learn: pip install 'eat-audio[evaluate]'.") from None


class EATFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """One vector a recording, of paths or of waveforms; nothing is learned.

    An object holds its settings alone and pickles without weights: the checkpoint is opened where it is used, once a
    process.

    Args:
        checkpoint: of any format that :func:`EAT.load` opens.
        readout: what a recording's vector is, of :data:`EAT.inference.readouts.READOUTS`.
        layer: 0 for the input to the first block, 1 to depth for a block's output, negative from the end; None is the
            last.
        sample_rate: of waveforms, in Hz; files say their own.
        weights: of a pre-trained checkpoint, the ``student``'s encoder or the ``teacher``'s.
        device: where the model goes; None is the CPU.
        batch_size: clips of 10 s that are computed at once.
        num_workers: processes that decode files.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str] | None = None,
        readout: str = "mean",
        layer: int | None = None,
        sample_rate: int = SAMPLE_RATE,
        weights: str = "student",
        device: str | None = None,
        batch_size: int = BATCH_SIZE,
        num_workers: int = 0,
    ) -> None:
        self.checkpoint, self.readout, self.layer, self.sample_rate = checkpoint, readout, layer, sample_rate
        self.weights, self.device, self.batch_size, self.num_workers = weights, device, batch_size, num_workers

    def fit(self, X: Any, y: Any = None) -> EATFeatures:
        """Check settings and recordings, and open the checkpoint. ``y`` is not looked at.

        Raises:
            ConfigError, CheckpointError: for settings or a checkpoint that cannot be used.
            ValueError: for numbers that are no waveforms.
        """
        choose(dict.fromkeys(READOUTS), self.readout, "readout")
        recordings(X)
        model = self._model()
        model.layer_numbers(self.layer)
        self._n_features_out = width(self.readout, model.encoder.settings.embed_dim, model.frequency_patches)
        return self

    @torch.no_grad()
    def transform(self, X: Any) -> NDArray[np.float32]:
        """Vectors of recordings.

        Args:
            X: paths or container addresses, in a list, an array or one column of a table; or waveforms, a list of
                (samples,) or (channels, samples) arrays of any lengths or a (clips, samples) array.

        Returns:
            (recordings, width).

        Raises:
            DataError: for a recording that cannot be read.
            ValueError: for numbers that are no waveforms.
        """
        check_is_fitted(self)
        items, model = recordings(X), self._model()
        vectors = self._of_files(model, items) if isinstance(items[0], str) else self._of_waveforms(model, items)
        return np.stack([vectors[index] for index in range(len(items))])

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_n_features_out")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _model(self) -> EATModel:
        if self.checkpoint is None:
            raise ConfigError("EATFeatures has no checkpoint; give its path.")
        path = os.fspath(self.checkpoint)
        changed = os.stat(path).st_mtime_ns if os.path.exists(path) else 0
        return _opened(path, changed, self.weights, self.device)

    @property
    def _options(self) -> dict[str, Any]:
        return {"layer": self.layer, "granularity": self.readout, "batch_size": self.batch_size}

    def _of_waveforms(self, model: EATModel, waveforms: list[Any]) -> dict[int, NDArray[np.float32]]:
        rate = model.front_end.sample_rate
        clips = [model._mono(torch.tensor(waveform), self.sample_rate) for waveform in waveforms]
        long = [n for n, clip in enumerate(clips) if model.padded_frames(len(clip)) > model.encoder.max_frames]
        short = sorted(set(range(len(clips))) - set(long))
        found = {n: extract_recording(model, clips[n], **self._options).numpy() for n in long}
        vectors = model.extract([clips[n] for n in short], rate, **self._options) if short else []
        return found | {n: vector.float().cpu().numpy() for n, vector in zip(short, vectors, strict=True)}

    def _of_files(self, model: EATModel, paths: list[str]) -> dict[int, NDArray[np.float32]]:
        sources = [Source(path, path) for path in paths]
        decoded = decode_ahead(model, sources, model.encoder.max_frames, False, self.num_workers)
        found: dict[int, NDArray[np.float32]] = {}
        for item in by_length(model, decoded, self.batch_size, None):
            if isinstance(item, Batch):
                clips = [torch.from_numpy(clip.waveform) for clip in item.items]
                vectors = model.extract(clips, model.front_end.sample_rate, **self._options)
                found |= {c.index: v.float().cpu().numpy() for c, v in zip(item.items, vectors, strict=True)}
            elif item.problem is not None:
                raise DataError(item.problem)
            else:
                found[item.index] = extract_recording(model, paths[item.index], **self._options).numpy()
        return found


@functools.lru_cache(maxsize=2)
def _opened(path: str, changed: int, weights: str, device: str | None) -> EATModel:
    """A model that all estimators of a process share; ``changed`` is when its file was written."""
    return load(path, weights=weights, device=device)


def recordings(X: Any) -> list[Any]:
    """What a user calls X as a list, of paths or of waveforms. Raises ValueError or TypeError, as scikit-learn does."""
    if isinstance(X, list | tuple) and any(isinstance(item, np.ndarray | torch.Tensor) for item in X):
        return [check_array(item, ensure_2d=False, ensure_min_samples=0) for item in X]
    values = np.asarray(X) if not hasattr(X, "toarray") else X
    if values.dtype.kind in "UO" and values.size:
        column = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
        if column.ndim == 1 and all(isinstance(item, str | os.PathLike) for item in column):
            return [os.fspath(item) for item in column]
        if column.ndim == 1 and all(isinstance(item, np.ndarray) for item in column):
            return recordings(list(column))
    return list(check_array(X))
